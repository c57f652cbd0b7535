"""Finds the running guests' channels: who listens on which Unix socket, and for which guest.

Decides which sockets are channels and what a guest is called.  Never connects.
The kernel's list (/proc/net/unix) is the same for every version of libvirt and needs no
privilege; sockets that it does not call by the port's name are found by patterns.

libvirt's paths, with the name cut after 20 characters:
  newer   /run/libvirt/qemu/channel/ID-NAME/PORT
  older   /var/lib/libvirt/qemu/channel/target/domain-ID-NAME/PORT
  oldest  /var/lib/libvirt/qemu/channel/target/domain-NAME/PORT, .../target/NAME.PORT
"""

from __future__ import annotations

import os
import stat

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORT_NAME = "org.garp_agent.0"
SOCKETS = "/proc/net/unix"
STATUS_DIRECTORY = "/run/libvirt/qemu"
CUT_AT = 20  # characters to which libvirt cuts a guest's name in a path
STATUS_LIMIT = 1 << 20  # bytes read of one status file

_ACCEPTING = 0x10000  # __SO_ACCEPTCON
_STREAM = 1
_QUEUED = 2  # SS_CONNECTING: connected, not yet accepted


class Channel(NamedTuple):
    """A guest's channel."""

    guest: str
    path: str


class _Socket(NamedTuple):
    path: str
    listening: bool
    queued: bool


class Finder:
    """Finds channels again and again, and remembers what cost something to find out."""

    def __init__(
        self,
        port_name: str = PORT_NAME,
        patterns: Iterable[str] = (),
        status_directory: str = STATUS_DIRECTORY,
    ) -> None:
        """``patterns``: globs of more sockets; what the first ``*`` stands for is the guest."""
        self.port_name = port_name
        self.patterns = tuple(patterns)
        self.status_directory = status_directory
        self._guests: dict[str, str] = {}

    def find(self) -> list[Channel]:
        """The channels there are now, by guest and path."""
        paths = {
            entry.path
            for entry in _sockets(_read(SOCKETS))
            if entry.listening and self._is_channel(os.path.basename(entry.path))
        }
        self._guests = {path: self._guests.get(path) or self._guest(path) for path in paths}
        channels = [Channel(guest, path) for path, guest in self._guests.items()]
        known = {os.path.realpath(path) for path in paths} if self.patterns else set()
        for channel in matching(self.patterns):
            real = os.path.realpath(channel.path)
            if real not in known:
                known.add(real)
                channels.append(channel)
        return sorted(channels)

    def _is_channel(self, name: str) -> bool:
        return name == self.port_name or name.endswith("." + self.port_name)

    def _guest(self, path: str) -> str:
        name = guest_of(path, self.port_name)
        if len(name) < CUT_AT or not self.status_directory:
            return name
        return _name_in_status(self.status_directory, path) or name


def guest_of(path: str, port_name: str = PORT_NAME) -> str:
    """The guest that a path of libvirt's (or one laid out like that) belongs to."""
    folder, base = os.path.split(path)
    if base.endswith("." + port_name):
        return base[: -len(port_name) - 1]
    directory = os.path.basename(folder)
    rest = directory[7:] if directory.startswith("domain-") else directory
    number, dash, name = rest.partition("-")
    return name if dash and name and number.isdecimal() else rest or path


def matching(patterns: Iterable[str]) -> Iterator[Channel]:
    """The sockets that patterns match, each with what the first ``*`` stands for."""
    import glob

    for pattern in patterns:
        for path in glob.iglob(pattern):
            try:
                is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
            except OSError:
                continue
            if is_socket:
                yield Channel(_starred(pattern, path), path)


def queued_paths() -> set[str]:
    """The sockets where somebody has connected and was not accepted yet."""
    return {entry.path for entry in _sockets(_read(SOCKETS)) if entry.queued}


def _starred(pattern: str, path: str) -> str:
    import re

    found = re.fullmatch("([^/]*)".join(map(re.escape, pattern.split("*"))), path)
    return found.group(1) if found and found.re.groups else path


def _sockets(listing: bytes) -> Iterator[_Socket]:
    """The stream sockets with a path, from the text of /proc/net/unix."""
    for line in listing.splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) < 8 or not fields[7].startswith(b"/"):
            continue
        flags, kind, state = (int(field, 16) for field in fields[3:6])
        if kind == _STREAM:
            path = os.fsdecode(fields[7])
            yield _Socket(path, bool(flags & _ACCEPTING), state == _QUEUED)


def _name_in_status(directory: str, path: str) -> str:
    """The guest whose status file names the path.  libvirt calls the file by the guest."""
    escaped = path
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;")):
        escaped = escaped.replace(character, entity)
    wanted = os.fsencode(f"'{escaped}'")
    try:
        names = os.listdir(directory)
    except OSError:
        return ""
    for name in names:
        if name.endswith(".xml") and wanted in _read(f"{directory}/{name}"):
            return name[: -len(".xml")]
    return ""


def _read(path: str) -> bytes:
    """A file's beginning; nothing if it can't be read: it is a source among others."""
    try:
        with open(path, "rb") as file:
            return file.read() if path == SOCKETS else file.read(STATUS_LIMIT)
    except OSError:
        return b""
