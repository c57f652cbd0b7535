"""Installs a program's unit, and what else it needs, into a directory tree.

Responsible for the files that a system needs to run the agent or the watcher under systemd, and
for removing them again.  Does not touch the running system: it reloads no daemon and starts no
unit, so that the tree may be an image that is being built.

Both directions may be repeated.  A configuration that was edited is neither overwritten nor
removed.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from garp_agent.cli import old_systemd

GROUP = "garp"
UNITS = "etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
CONFIG = "etc/garp-agent/config.yaml"
# The unit hides these from the service (ProtectHome=, PrivateTmp=, systemd.exec(5)).
UNREADABLE = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
# Each is there while a program that uses the group is installed, by a package or by `install`.
SYSUSERS = [
    f"{folder}/sysusers.d/{name}.conf"
    for folder in ("etc", "usr/lib")
    for name in ("garp-agent", "garp-hint")
]
SYSTEM_GROUPS = range(999, 99, -1)  # in the order in which Debian's adduser and systemd search
_LOADER: Any = globals()["__loader__"]  # reads files of this package, from an archive too


class InstallError(Exception):
    """The tree or the program cannot be used.  The text says why; nothing was changed."""


class Kit(NamedTuple):
    """What one program needs in a tree."""

    name: str  # of the program and of its unit
    files: dict[str, str]  # where each goes in the tree, and its path below contrib/
    next_step: str  # the command behind `systemctl daemon-reload`
    drop_ins: dict[str, str]  # as ``files``; only what the operator chooses is installed

    @property
    def unit(self) -> str:
        """Return where its unit goes."""
        return f"{UNITS}/{self.name}.service"

    @property
    def old_systemd(self) -> list[str]:
        """Return where the drop-ins for an old systemd go."""
        units = [each for each in self.files if each.endswith(".service")]
        return [f"{each}.d/{old_systemd.NAME}" for each in units]

    @property
    def own_copy(self) -> str:
        """Return where a single-file program copies itself to."""
        return f"/usr/local/sbin/{self.name}"


AGENT = Kit(
    "garp-agent",
    {
        f"{UNITS}/garp-agent.service": "systemd/garp-agent.service",
        f"{UNITS}/garp-agent-port.service": "systemd/garp-agent-port.service",
        "etc/udev/rules.d/80-garp-agent.rules": "udev/80-garp-agent.rules",
        "etc/sysusers.d/garp-agent.conf": "systemd/garp-agent.sysusers",
        CONFIG: "garp-agent.yaml",
    },
    "udevadm control --reload && udevadm trigger --subsystem-match=virtio-ports && "
    "systemctl restart garp-agent",
    {},
)
LEARN = f"{UNITS}/garp-hint.service.d/learn.conf"
WATCHER = Kit(
    "garp-hint",
    {
        f"{UNITS}/garp-hint.service": "systemd/garp-hint.service",
        "etc/sysusers.d/garp-hint.conf": "systemd/garp-hint.sysusers",
    },
    "systemctl restart garp-hint",
    {LEARN: "systemd/garp-hint-learn.conf"},
)


class Tree(NamedTuple):
    """The files of a system, below ``root``."""

    root: str

    def path(self, inside: str) -> str:
        """Return where a file of the tree is on this machine.

        Raises InstallError if a symbolic link leads out of the tree.
        """
        outside = os.path.join(self.root, inside.lstrip("/"))
        top = os.path.realpath(self.root)
        folder = os.path.realpath(os.path.dirname(outside))
        if os.path.commonpath([top, folder]) != top:
            raise InstallError(
                f"{outside}: leads out of the tree, to {folder}; allowed: paths below {top}"
            )
        return outside


def install(
    root: str = "/",
    program: str | None = None,
    kit: Kit = AGENT,
    drop_ins: tuple[str, ...] = (),
) -> list[str]:
    """Install everything; return a line for each file that says what was done.

    ``program``: the path that the unit starts; None for this program.  ``drop_ins``: those of the
    kit to install; where a package has installed the program, nothing else is.

    Raises InstallError, or OSError if a file cannot be written.
    """
    tree = _tree(root)
    if drop_ins and _package(tree, kit):
        unit_program = f"/usr/sbin/{kit.name}"
        return [_write(tree, each, _content(kit, each, unit_program), 0o644) for each in drop_ins]
    _require_no_package(tree, kit)
    archive = _own_archive()
    copies_itself = program is None and archive != ""
    chosen = program or (kit.own_copy if copies_itself else os.path.abspath(sys.argv[0]))
    contents = {inside: _content(kit, inside, chosen) for inside in (*kit.files, *drop_ins)}
    _require_usable(tree, chosen, is_installed_now=copies_itself)
    done = []
    if copies_itself:
        with open(archive, "rb") as file:
            done.append(_write(tree, kit.own_copy, file.read(), 0o755))
    for inside, content in contents.items():
        kept = inside == CONFIG and os.path.exists(tree.path(inside))
        done.append(_done("kept", tree, inside) if kept else _write(tree, inside, content, 0o644))
    done += _adapt(tree, kit)
    done.append(_link(tree, f"{WANTS}/{kit.name}.service", f"/{kit.unit}"))
    done.append(_add_group(tree))
    return done


def uninstall(root: str = "/", kit: Kit = AGENT) -> list[str]:
    """Remove everything again; return a line for each file.  Raises as :func:`install` does."""
    tree = _tree(root)
    added = [each for each in (*kit.drop_ins, *kit.old_systemd) if os.path.lexists(tree.path(each))]
    done = [_remove(tree, each) for each in added]
    if added and _package(tree, kit):
        return done
    _require_no_package(tree, kit)
    shipped = {inside: _shipped(name) for inside, name in kit.files.items()}
    done.append(_remove(tree, f"{WANTS}/{kit.name}.service"))
    for inside, content in shipped.items():
        path = tree.path(inside)
        edited = inside == CONFIG and os.path.exists(path) and _read(path) != content
        done.append(
            _done("kept, because it was edited,", tree, inside) if edited else _remove(tree, inside)
        )
    if _is_own_copy(tree.path(kit.own_copy)):
        done.append(_remove(tree, kit.own_copy))
    done.append(_remove_group(tree))
    folders = {os.path.dirname(each) for each in (*kit.drop_ins, *kit.old_systemd)}
    for inside in (WANTS, os.path.dirname(CONFIG), *folders):
        try:
            os.rmdir(tree.path(inside))
        except OSError:
            pass  # it holds something else, or does not exist
    return done


def next_steps(root: str, kit: Kit = AGENT, selinux: str = "/sys/fs/selinux/enforce") -> str:
    """Return the commands to run next on a running system; "" for an image.

    ``selinux``: a file that exists where SELinux is on; there the files need their labels.
    """
    if os.path.realpath(root) != "/":
        return ""
    label = ""
    if os.path.exists(selinux):
        paths = [*kit.files, kit.own_copy]
        label = f"restorecon -RF {' '.join('/' + each.lstrip('/') for each in paths)}; "
    return f"now: {label}systemctl daemon-reload && {kit.next_step}"


def _adapt(tree: Tree, kit: Kit) -> list[str]:
    """Write the drop-ins that the systemd of the tree needs, or remove them."""
    version = old_systemd.version_in(tree.root)
    text = "" if version is None else old_systemd.drop_in(version)
    if text:
        return [_write(tree, each, text.encode(), 0o644) for each in kit.old_systemd]
    return [_remove(tree, each) for each in kit.old_systemd if os.path.lexists(tree.path(each))]


# -- what is shipped -----------------------------------------------------------------------


def _content(kit: Kit, inside: str, program: str) -> bytes:
    shipped = _shipped({**kit.files, **kit.drop_ins}[inside])
    if inside == kit.unit or inside in kit.drop_ins:
        return shipped.replace(f"/usr/sbin/{kit.name}".encode(), program.encode())
    return shipped


def _shipped(name: str) -> bytes:
    """Return a file that came with this package: inside it, or beside it in a source tree."""
    package = os.path.dirname(os.path.dirname(__file__))
    for place in (package, os.path.dirname(os.path.dirname(package))):
        try:
            data: bytes = _LOADER.get_data(f"{place}/contrib/{name}")
        except OSError:
            continue
        return data
    raise InstallError(
        f"{name}: not part of this garp-agent; the package of a distribution installs the units "
        "itself"
    )


def _own_archive() -> str:
    """Return the path of the single file that this program runs from; "" if there is none."""
    return str(getattr(_LOADER, "archive", ""))


def _is_own_copy(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).startswith(b"#!/bin/sh\n# garp-agent ")
    except OSError:
        return False


# -- checks --------------------------------------------------------------------------------


def _tree(root: str) -> Tree:
    if not os.path.isdir(os.path.join(root, "etc")):
        raise InstallError(
            f"{root}: given as --root, but not the root of a system: there is no etc in it"
        )
    return Tree(root)


def _package(tree: Tree, kit: Kit) -> str:
    """Return the unit that a package of the distribution has installed; "" if there is none."""
    for folder in ("usr/lib/systemd/system", "lib/systemd/system"):
        path = tree.path(f"{folder}/{kit.name}.service")
        if os.path.exists(path):
            return path
    return ""


def _require_no_package(tree: Tree, kit: Kit) -> None:
    unit = _package(tree, kit)
    if unit:
        raise InstallError(
            f"{unit}: a package of the distribution installed {kit.name} here; nothing was "
            f"changed. Remove the package first, for example with: apt-get purge {kit.name}"
        )


def _require_usable(tree: Tree, program: str, *, is_installed_now: bool) -> None:
    if not program.startswith("/") or set(program) & set(" \t\"'\\%$;"):
        raise InstallError(
            f"{program}: given as --program; allowed an absolute path without spaces, quotes, "
            "backslashes, semicolons, dollar signs and percent signs"
        )
    if program.startswith(UNREADABLE):
        raise InstallError(
            f"{program}: the service cannot read it (ProtectHome=, PrivateTmp=); put the "
            "program elsewhere and give its path with --program"
        )
    if not is_installed_now and not os.path.exists(tree.path(program)):
        raise InstallError(
            f"{tree.path(program)}: there is no such program in the tree; install it there, or "
            "give its path inside the tree with --program"
        )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# -- files ---------------------------------------------------------------------------------


def _done(what: str, tree: Tree, inside: str) -> str:
    return f"{what} {tree.path(inside)}"


def _write(tree: Tree, inside: str, content: bytes, mode: int) -> str:
    path = tree.path(inside)
    existed = os.path.exists(path)
    if existed and not os.path.islink(path) and _read(path) == content:
        os.chmod(path, mode)
        return _done("unchanged", tree, inside)
    _replace(path, content, mode)
    return _done("replaced" if existed else "wrote", tree, inside)


def _replace(path: str, content: bytes, mode: int) -> None:
    """Write a file so that a reader, or a crash, never meets half of it (rename(2))."""
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
        return _done("unchanged", tree, inside)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.symlink(target, path)
    return _done("enabled", tree, inside)


def _remove(tree: Tree, inside: str) -> str:
    path = tree.path(inside)
    if not os.path.lexists(path):
        return _done("absent", tree, inside)
    os.unlink(path)
    return _done("removed", tree, inside)


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
        return f"left group {GROUP} to systemd-sysusers, because there is no {path}"
    taken = {line.split(":")[2] for line in lines if line.count(":") >= 2}
    free = next(each for each in SYSTEM_GROUPS if str(each) not in taken)
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
        return f"kept group {GROUP} in {path}, because it has members"
    others = [unit for unit in SYSUSERS if os.path.exists(tree.path(unit))]
    if others:
        return f"kept group {GROUP} in {path}, because of {tree.path(others[0])}"
    for name in ("etc/group", "etc/gshadow"):
        each = tree.path(name)
        kept = [line for line in _groups(each) if not line.startswith(f"{GROUP}:")]
        if os.path.exists(each):
            _write_groups(each, kept)
    return f"removed group {GROUP} from {path}"
