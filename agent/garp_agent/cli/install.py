"""Puts the units, the udev rule, the group and an example configuration into a tree.

Decides which files a system needs to run the agent under systemd, what is said of each,
and which of them an uninstall may take away.  Never touches the running system: no daemon
is reloaded and no unit started, so that a tree may be an image that is being made.

Both ways are idempotent.  A configuration that somebody edited is neither overwritten
nor removed.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

GROUP = "garp"
PROGRAM = "/usr/sbin/garp-agent"  # as the shipped units have it
OWN_PLACE = "/usr/local/sbin/garp-agent"  # where a single-file program puts itself
UNITS = "etc/systemd/system"
ENABLED = f"{UNITS}/multi-user.target.wants/garp-agent.service"
CONFIG = "etc/garp-agent/config.yaml"
FILES = {
    f"{UNITS}/garp-agent.service": "systemd/garp-agent.service",
    f"{UNITS}/garp-agent-port.service": "systemd/garp-agent-port.service",
    "etc/udev/rules.d/80-garp-agent.rules": "udev/80-garp-agent.rules",
    "etc/sysusers.d/garp-agent.conf": "systemd/garp-agent.sysusers",
    CONFIG: "garp-agent.yaml",
}
UNREADABLE = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # to the service
_LOADER: Any = globals()["__loader__"]  # reads what lies beside this file, in an archive too
FREE_IDS = range(999, 99, -1)  # where systemd and Debian look for a system group's


class InstallError(Exception):
    """It was not done, and why; the tree is as it was where this is raised at the start."""


class Tree(NamedTuple):
    """A system's files, below ``root``."""

    root: str

    def path(self, inside: str) -> str:
        """Where a file of the tree is, on this machine; never outside the tree."""
        outside = os.path.join(self.root, inside.lstrip("/"))
        top = os.path.realpath(self.root)
        folder = os.path.realpath(os.path.dirname(outside))
        if os.path.commonpath([top, folder]) != top:
            raise InstallError(
                f"{outside}: leads out of the tree, to {folder}; allowed what is below {top}"
            )
        return outside


def install(root: str = "/", program: str | None = None) -> list[str]:
    """Put everything into the tree; a line for each thing: what was done with it."""
    tree = _tree(root)
    archive = _own_archive()
    copies_itself = program is None and archive != ""
    chosen = program or (OWN_PLACE if copies_itself else os.path.abspath(sys.argv[0]))
    contents = {inside: _content(inside, chosen) for inside in FILES}
    _require_usable(tree, chosen, will_be_there=copies_itself)
    done = []
    if copies_itself:
        with open(archive, "rb") as file:
            done.append(_write(tree, OWN_PLACE, file.read(), 0o755))
    for inside, content in contents.items():
        kept = inside == CONFIG and os.path.exists(tree.path(inside))
        done.append(_said("kept", tree, inside) if kept else _write(tree, inside, content, 0o644))
    done.append(_link(tree, ENABLED, "/" + next(iter(FILES))))
    done.append(_add_group(tree))
    return done


def uninstall(root: str = "/") -> list[str]:
    """Take everything out of the tree again; a line for each thing."""
    tree = _tree(root)
    done = [_remove(tree, ENABLED)]
    for inside in FILES:
        path = tree.path(inside)
        edited = (
            inside == CONFIG and os.path.exists(path) and _read(path) != _shipped(FILES[inside])
        )
        done.append(
            _said("kept, as it was edited,", tree, inside) if edited else _remove(tree, inside)
        )
    if _is_own_copy(tree.path(OWN_PLACE)):
        done.append(_remove(tree, OWN_PLACE))
    done.append(_remove_group(tree))
    for inside in (f"{UNITS}/multi-user.target.wants", "etc/garp-agent"):
        try:
            os.rmdir(tree.path(inside))
        except OSError:
            pass  # something else is in it, or it never was there
    return done


def next_steps(root: str) -> str:
    """What is left to do on a running system; nothing in an image."""
    if os.path.realpath(root) != "/":
        return ""
    return (
        "now: systemctl daemon-reload && udevadm control --reload && "
        "udevadm trigger --subsystem-match=virtio-ports && systemctl restart garp-agent"
    )


# -- what is shipped -----------------------------------------------------------------------


def _content(inside: str, program: str) -> bytes:
    shipped = _shipped(FILES[inside])
    if inside == f"{UNITS}/garp-agent.service":
        return shipped.replace(PROGRAM.encode(), program.encode())
    return shipped


def _shipped(name: str) -> bytes:
    """A file that came with this package: in it, or beside it in a source tree."""
    package = os.path.dirname(os.path.dirname(__file__))
    for place in (package, os.path.dirname(os.path.dirname(package))):
        try:
            data: bytes = _LOADER.get_data(f"{place}/contrib/{name}")
        except OSError:
            continue
        return data
    raise InstallError(
        f"{name}: not shipped with this garp-agent; a distribution's package has put the units "
        "where they belong when it was installed"
    )


def _own_archive() -> str:
    """The single file that we run from; "" if we do not."""
    return str(getattr(_LOADER, "archive", ""))


def _is_own_copy(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).startswith(b"#!/bin/sh\n# garp-agent ")
    except OSError:
        return False


# -- what is there -------------------------------------------------------------------------


def _tree(root: str) -> Tree:
    if not os.path.isdir(os.path.join(root, "etc")):
        raise InstallError(
            f"{root}: given as --root, and not a system's tree: there is no etc in it"
        )
    return Tree(root)


def _require_usable(tree: Tree, program: str, *, will_be_there: bool) -> None:
    if not program.startswith("/") or set(program) & set(" \t\"'\\%$;"):
        raise InstallError(
            f"{program}: given as --program; allowed an absolute path without spaces, quotes, "
            "backslashes, semicolons, dollar or percent signs"
        )
    if program.startswith(UNREADABLE):
        raise InstallError(
            f"{program}: the service could not read it (ProtectHome=, PrivateTmp=); put the "
            "program elsewhere and name it with --program"
        )
    if not will_be_there and not os.path.exists(tree.path(program)):
        raise InstallError(
            f"{tree.path(program)}: there is no such program in the tree; install it there, or "
            "name it as it is called inside with --program"
        )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# -- doing ---------------------------------------------------------------------------------


def _said(what: str, tree: Tree, inside: str) -> str:
    return f"{what} {tree.path(inside)}"


def _write(tree: Tree, inside: str, content: bytes, mode: int) -> str:
    path = tree.path(inside)
    existed = os.path.exists(path)
    if existed and not os.path.islink(path) and _read(path) == content:
        os.chmod(path, mode)
        return _said("unchanged", tree, inside)
    _replace(path, content, mode)
    return _said("replaced" if existed else "wrote", tree, inside)


def _replace(path: str, content: bytes, mode: int) -> None:
    """The whole file or nothing, whatever happens meanwhile."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    unfinished = f"{path}.garp-agent-{os.getpid()}"
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
        os.chmod(unfinished, mode)
        os.replace(unfinished, path)
    except OSError:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
        raise


def _link(tree: Tree, inside: str, target: str) -> str:
    path = tree.path(inside)
    if os.path.lexists(path):
        return _said("unchanged", tree, inside)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.symlink(target, path)
    return _said("enabled", tree, inside)


def _remove(tree: Tree, inside: str) -> str:
    path = tree.path(inside)
    if not os.path.lexists(path):
        return _said("absent", tree, inside)
    os.unlink(path)
    return _said("removed", tree, inside)


# -- the group (group(5), gshadow(5)) ------------------------------------------------------


def _groups(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _write_groups(path: str, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    mode = os.stat(path).st_mode & 0o777
    owner = os.stat(path)
    _replace(path, text.encode("utf-8", "surrogateescape"), mode)
    os.chown(path, owner.st_uid, owner.st_gid)


def _add_group(tree: Tree) -> str:
    path = tree.path("etc/group")
    lines = _groups(path)
    if any(line.startswith(f"{GROUP}:") for line in lines):
        return f"unchanged group {GROUP} in {path}"
    if not lines:
        return f"left group {GROUP} to systemd-sysusers: there is no {path}"
    taken = {line.split(":")[2] for line in lines if line.count(":") >= 2}
    free = next(each for each in FREE_IDS if str(each) not in taken)
    _write_groups(path, [*lines, f"{GROUP}:x:{free}:"])
    shadow = tree.path("etc/gshadow")
    if os.path.exists(shadow):
        _write_groups(shadow, [*_groups(shadow), f"{GROUP}:!*::"])
    return f"added group {GROUP}, number {free}, to {path}"


def _remove_group(tree: Tree) -> str:
    path = tree.path("etc/group")
    lines = _groups(path)
    ours = [line for line in lines if line.startswith(f"{GROUP}:")]
    if not ours:
        return f"absent group {GROUP} in {path}"
    if not ours[0].endswith(":"):
        return f"kept group {GROUP} in {path}: it has members"
    for name in ("etc/group", "etc/gshadow"):
        each = tree.path(name)
        kept = [line for line in _groups(each) if not line.startswith(f"{GROUP}:")]
        if os.path.exists(each):
            _write_groups(each, kept)
    return f"removed group {GROUP} from {path}"
