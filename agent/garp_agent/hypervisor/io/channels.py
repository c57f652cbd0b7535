"""Finds the channels of running guests: listening Unix sockets, and the names of their guests.

Decides which sockets are channels and to which guest each belongs; never connects.  The kernel's
list, /proc/net/unix, does not depend on the version of libvirt and needs no privilege.  Sockets
whose names do not contain the name of the port are found by patterns.

Paths of libvirt, in which the guest's name is cut after 20 characters:
  newer   /run/libvirt/qemu/channel/ID-NAME/PORT
  older   /var/lib/libvirt/qemu/channel/target/domain-ID-NAME/PORT
  oldest  /var/lib/libvirt/qemu/channel/target/domain-NAME/PORT, .../target/NAME.PORT

Sources: unix(7); net/unix/af_unix.c, unix_seq_show(); libvirt's src/qemu/qemu_domain.c.
"""

from __future__ import annotations

import glob
import os
import re
import stat

from garp_agent.hypervisor.core.guests import Channel
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PORT_NAME = "org.garp_agent.0"
SOCKETS = "/proc/net/unix"
STATUS_DIRECTORY = "/run/libvirt/qemu"
CUT_AT = 20  # characters of a guest's name that libvirt keeps in a path
STATUS_LIMIT = 1 << 20  # bytes read of one status file

_ACCEPTING = 0x10000  # __SO_ACCEPTCON: the socket listens
_STREAM = 1  # SOCK_STREAM
_CONNECTING = 2  # SS_CONNECTING: connected, and not accepted yet


class _UnixSocket(NamedTuple):
    """One line of /proc/net/unix."""

    path: str
    listening: bool
    queued: bool  # a client has connected and was not accepted yet


class Finder:
    """Finds channels, and remembers names that were looked up in status files."""

    def __init__(
        self,
        port_name: str = PORT_NAME,
        patterns: Iterable[str] = (),
        status_directory: str = STATUS_DIRECTORY,
    ) -> None:
        """``patterns``: globs of more sockets; the first ``*`` matches the guest's name.

        ``status_directory``: where libvirt keeps the status files of its guests; "" for none.
        """
        self.port_name = port_name
        self.patterns = tuple(patterns)
        self.status_directory = status_directory
        self._names: dict[str, str] = {}  # guests by path

    def find(self) -> list[Channel]:
        """Return the channels that exist now, by guest and path."""
        paths = {
            entry.path
            for entry in _unix_sockets(_beginning(SOCKETS))
            if entry.listening and self._is_channel(os.path.basename(entry.path))
        }
        self._names = {path: self._names.get(path) or self._guest(path) for path in paths}
        channels = [Channel(guest, path) for path, guest in self._names.items()]
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
    """Return the guest to which a path of libvirt belongs, or a path with the same layout."""
    folder, base = os.path.split(path)
    if base.endswith("." + port_name):
        return base[: -len(port_name) - 1]
    directory = os.path.basename(folder)
    rest = directory.removeprefix("domain-")
    number, dash, name = rest.partition("-")
    return name if dash and name and number.isdecimal() else rest or path


def matching(patterns: Iterable[str]) -> Iterator[Channel]:
    """Yield the sockets that match; a guest's name is what the first ``*`` matches."""
    for pattern in patterns:
        for path in glob.iglob(pattern):
            try:
                is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
            except OSError:
                continue
            if is_socket:
                yield Channel(_starred(pattern, path), path)


def queued_paths() -> set[str]:
    """Return the sockets to which a client has connected that was not accepted yet."""
    return {entry.path for entry in _unix_sockets(_beginning(SOCKETS)) if entry.queued}


def _starred(pattern: str, path: str) -> str:
    found = re.fullmatch("([^/]*)".join(map(re.escape, pattern.split("*"))), path)
    return found.group(1) if found and found.re.groups else path


def _unix_sockets(listing: bytes) -> Iterator[_UnixSocket]:
    """Yield the stream sockets with a path in the text of /proc/net/unix."""
    for line in listing.splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) < 8 or not fields[7].startswith(b"/"):
            continue
        flags, kind, state = (int(field, 16) for field in fields[3:6])
        if kind == _STREAM:
            path = os.fsdecode(fields[7])
            yield _UnixSocket(path, bool(flags & _ACCEPTING), state == _CONNECTING)


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
        if name.endswith(".xml") and wanted in _beginning(f"{directory}/{name}"):
            return name[: -len(".xml")]
    return ""


def _beginning(path: str) -> bytes:
    """Return a file's first bytes; b"" if it cannot be read, because other sources remain."""
    try:
        with open(path, "rb") as file:
            return file.read() if path == SOCKETS else file.read(STATUS_LIMIT)
    except OSError:
        return b""
