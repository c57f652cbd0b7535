"""Finds the channels of running guests: listening Unix sockets, and the names of their guests.

Decides which sockets are channels and to which guest each belongs; never connects.  The kernel's
list does not depend on the version of libvirt and needs no privilege.  Sockets whose names do not
contain the name of the port, and those of other namespaces, are found by patterns.

On Xen, xenstore has the paths of channels and the names of their guests, whatever the paths are.

Any local user can bind a socket to any name.  So a socket is a channel only if its path leads to
it, by device and inode.  The folders on the path must be closed to writers other than root and this
user.

A guest is gone only when its socket is: when its path leads elsewhere, or when the kernel says
that this socket does not listen any more.  A search that failed removes no guest.
"""

from __future__ import annotations

import glob
import os
import re
import stat

from garp_agent.hypervisor.core.channel_names import CUT_AT, guest_of, is_channel
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.io.kernel_sockets import UNAVAILABLE, KernelSockets
from garp_agent.hypervisor.io.trusted_folders import (
    ABSENT,
    Places,
    UntrustedError,
    is_still,
    superblock_device,
)
from garp_agent.hypervisor.io.xenstore import xen_channels
from garp_agent.wire.record import NamedTuple
from garp_agent.wire.sock_diag import STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from garp_agent.hypervisor.io.trusted_folders import File, Place
    from garp_agent.wire.sock_diag import UnixSocket

PORT_NAME = "org.garp_agent.0"
STATUS_DIRECTORY = "/run/libvirt/qemu"
STATUS_LIMIT = 1 << 20  # bytes read of one status file
REFUSED_MOST = 64  # sockets that are kept with the reason why they are no channels
# Where sockets with the name of the port, PORT, are looked for if the kernel does not list them.
KNOWN_FOLDERS = (
    "/run/libvirt/qemu/channel/*/PORT",
    "/var/lib/libvirt/qemu/channel/target/*/PORT",
    "/var/lib/libvirt/qemu/channel/target/*.PORT",
    "/var/lib/libvirt/qemu/PORT.*.sock",
    "/var/lib/libvirt/libxl/channel/target/*-PORT",
)

_ELSEWHERE = "it was made in another mount namespace, or its file was removed"


class _Known(NamedTuple):
    """A channel that was found, and how to confirm that it is still there."""

    channel: Channel
    base: str  # the root of its mount namespace, /proc/PID/root; "" for ours
    listener: UnixSocket | None  # None: found by a pattern


class _Search(NamedTuple):
    """One search: where paths lead now, and what was found."""

    places: Places
    found: dict[File, _Known]


class Finder:
    """Finds channels, and remembers them.  Owns a netlink socket."""

    def __init__(
        self,
        port_name: str = PORT_NAME,
        patterns: Iterable[str] = (),
        status_directory: str = STATUS_DIRECTORY,
    ) -> None:
        """``patterns``: globs of more sockets; the first ``*`` matches the guest's name.

        ``port_name``: "" to find by patterns only.
        ``status_directory``: where libvirt keeps the status files of its guests; "" for none.
        """
        self.port_name = port_name
        self.patterns = tuple(patterns)
        self.status_directory = status_directory
        self.trouble = ""  # why the last search may have missed guests
        self.refused: dict[str, str] = {}  # sockets that are no channels, and the reasons
        self._sockets = KernelSockets()
        self._known: dict[File, _Known] = {}

    def find(self) -> list[Channel]:
        """Return the channels that exist now, by guest and path."""
        search = _Search(Places(), {})
        self.trouble = ""
        self.refused = {}
        if self.port_name:
            self._find_listening(search)
            self._name_xen_guests(search)
        self._match(self.patterns, search, vouched=True)
        for file, known in self._known.items():
            now = search.found.get(file)
            # A namespace has many processes: the path through the same one is kept.
            if (now is None or now.base) and self._is_there(known):
                search.found[file] = known
        self._known = search.found
        return sorted(known.channel for known in search.found.values())

    def close(self) -> None:
        """Close the netlink socket."""
        self._sockets.close()

    # -- by name ------------------------------------------------------------------------

    def _find_listening(self, search: _Search) -> None:
        try:
            # A later search finds what one has missed, but `list` and `send` make only one.
            listening = self._sockets.listening(twice=not self._known)
        except OSError as error:
            self.trouble = f"the kernel does not list its sockets: {error.strerror}"
            if error.errno in UNAVAILABLE:
                self.trouble += " (sock_diag); searched only the folders of libvirt"
                port = glob.escape(self.port_name)
                patterns = [each.replace("PORT", port) for each in KNOWN_FOLDERS]
                self._match(patterns, search, vouched=False)
            return
        by_cookie = {each.listener.cookie: each for each in self._known.values() if each.listener}
        for each in listening:
            known = by_cookie.get(each.cookie)
            if known is not None and is_still(*known.channel[1:]):
                search.found[known.channel.file] = known
                continue
            path = os.fsdecode(each.name.partition(b"\0")[0])  # "" if the name is abstract
            if each.kind == STREAM and path[:1] == "/" and is_channel(path, self.port_name):
                self._take(each, path, search)

    def _take(self, listener: UnixSocket, path: str, search: _Search) -> None:
        try:
            place = search.places.locate(path)
            if not _is_bound_to(listener, place):
                self._refuse(path, _ELSEWHERE)
                return
        except FileNotFoundError:
            self._refuse(path, _ELSEWHERE)
        except OSError as error:
            self._refuse(path, str(error.strerror))
        except UntrustedError as error:
            self._refuse(path, str(error))
        else:
            channel = Channel(self._guest("", path), place.path, place.file)
            # Without what the channel says already, to save memory.
            listener = listener._replace(name=b"", file=None)
            search.found[place.file] = _Known(channel, "", listener)

    def _guest(self, base: str, path: str) -> str:
        """Return the guest of a socket that was bound to ``path`` in its mount namespace."""
        name = guest_of(path, self.port_name)
        if len(name) < CUT_AT or not self.status_directory:
            return name
        return _name_in_status(base + self.status_directory, path) or name

    def _name_xen_guests(self, search: _Search) -> None:
        """Take the channels that xenstore names, with the names of their guests."""
        for guest, path in xen_channels(self.port_name) or ():
            if path:
                self._take_match("", path, guest, search, vouched=False)

    # -- by patterns --------------------------------------------------------------------

    def _match(self, patterns: Iterable[str], search: _Search, vouched: bool) -> None:
        for pattern in patterns:
            for base, rest in _roots(pattern):
                for path in _matching(base, rest, search.places):
                    by_name = self.port_name and is_channel(path, self.port_name)
                    name = "" if by_name else _starred(rest, path)
                    self._take_match(base, path, name, search, vouched)

    def _take_match(self, base: str, path: str, name: str, search: _Search, vouched: bool) -> None:
        """Take a path that matches; ``name``: of the guest, "" if the path has a known form.

        A name that the operator does not vouch for comes from xenstore, and is the guest's own.
        """
        try:
            place = search.places.locate(path, base, vouched)
        except OSError as error:
            if error.errno not in ABSENT:
                self._refuse(base + path, str(error.strerror))
            return
        except UntrustedError as error:
            self._refuse(base + path, str(error))
            return
        known = search.found.get(place.file)
        if known is None:
            channel = Channel(name or self._guest(base, path), place.path, place.file)
            search.found[place.file] = _Known(channel, base, None)
        elif name and not vouched:
            channel = known.channel._replace(guest=name)
            search.found[place.file] = known._replace(channel=channel)

    # -- what was known -----------------------------------------------------------------

    def _is_there(self, known: _Known) -> bool:
        if not is_still(*known.channel[1:]):
            return False
        try:
            return known.listener is None or self._sockets.is_listening(known.listener)
        except OSError:
            return True

    def _refuse(self, path: str, reason: str) -> None:
        if len(self.refused) < REFUSED_MOST:
            self.refused[path] = reason


def _is_bound_to(listener: UnixSocket, place: Place) -> bool:
    """Return whether the socket was bound to the file at that place."""
    if listener.file is None:
        return False
    device, inode = place.file
    if inode & 0xFFFFFFFF != listener.file.inode:
        return False
    wanted = listener.file[:2]
    return (os.major(device), os.minor(device)) == wanted or superblock_device(place.path) == wanted


def _roots(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the mount namespaces that a pattern names, and the rest of the pattern.

    Many processes share a namespace: the first of them stands for all.
    """
    found = re.match("/proc/([^/]+)/root(?=/)", pattern)
    if found is None:
        yield "", pattern
        return
    rest = pattern[found.end() :]
    if not glob.has_magic(found.group(1)):
        yield found.group(), rest
        return
    try:
        processes = sorted(filter(str.isdecimal, os.listdir("/proc")), key=int)
    except OSError:  # no descriptor is left
        return
    seen: set[tuple[int, ...]] = set()
    for process in ("self", *processes):
        base = f"/proc/{process}/root"
        try:
            root = os.stat(base)
            key = (os.stat(f"/proc/{process}/ns/mnt").st_ino, root.st_dev, root.st_ino)
        except OSError:
            continue  # it has ended, or it is not ours to look at
        if key not in seen:
            seen.add(key)
            yield "" if process == "self" else base, rest


def _matching(base: str, pattern: str, places: Places) -> Iterator[str]:
    """Yield the paths that match inside the mount namespace at ``base``."""
    if not base:
        yield from glob.iglob(pattern)
        return
    parts = pattern.split("/")
    plain = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    try:
        folder = places.folder("/".join(parts[:plain]), base)
    except OSError:
        return
    inside = "/".join((glob.escape(base + folder.rstrip("/")), *parts[plain:]))
    for path in glob.iglob(inside):
        yield path[len(base) :]


def _starred(pattern: str, path: str) -> str:
    found = re.fullmatch("([^/]*)".join(map(re.escape, pattern.split("*"))), path)
    return found.group(1) if found and found.re.groups else path


def _name_in_status(directory: str, path: str) -> str:
    """Return the guest whose status file contains ``path``; libvirt names the file after it."""
    escaped = path
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;")):
        escaped = escaped.replace(character, entity)
    wanted = os.fsencode(f"'{escaped}'")
    try:
        names = os.listdir(directory)
    except OSError:
        return ""
    for name in names:
        if name.endswith(".xml") and wanted in beginning(f"{directory}/{name}"):
            return name[: -len(".xml")]
    return ""


def beginning(path: str) -> bytes:
    """Return a file's first bytes; b"" if it cannot be read, or is no file but a pipe."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return file.read(STATUS_LIMIT) if is_file else b""
    except OSError:
        return b""


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
