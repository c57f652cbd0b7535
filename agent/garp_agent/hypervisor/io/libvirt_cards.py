"""The cards of libvirt's guests: which MAC libvirt gave to which port, and to which guest.

Reads the status files of running guests.  They are not parsed as XML: the modules for that cost
the watcher 2 MB.  libvirt writes them itself, so the few marks that are looked for are always in
this form.  A file that is unchanged is not read again.

Sources: libvirt, src/conf/domain_conf.c, virDomainNetDefFormat() and virDomainObjFormat().
"""

from __future__ import annotations

import os
from contextlib import suppress

from garp_agent.hypervisor.io.channels import beginning
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class LibvirtCard(NamedTuple):
    """One card of a running guest of libvirt."""

    guest: str
    port: str  # the name of its tun device or macvtap on this host
    hardware_address: bytes


class LibvirtCards:
    """The cards of all running guests, from the files of one directory."""

    def __init__(self, directory: str) -> None:
        """``directory``: where libvirt keeps the status files of its guests; "" for none."""
        self._directory = directory
        self._known: dict[str, tuple[tuple[int, int], list[LibvirtCard]]] = {}

    def read(self) -> list[LibvirtCard]:
        """Return the cards, as the files say now; none if the directory cannot be read."""
        known = {}
        for name, version in self._files():
            before = self._known.get(name)
            if before is not None and before[0] == version:
                known[name] = before
                continue
            text = beginning(f"{self._directory}/{name}")
            if text:
                known[name] = (version, list(cards_in(name[: -len(".xml")], text)))
            elif before is not None:  # it cannot be read now, and is tried again
                known[name] = before
        self._known = known
        return [card for _version, cards in known.values() for card in cards]

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        try:
            with os.scandir(self._directory or os.devnull) as entries:
                for entry in entries:
                    if not entry.name.endswith(".xml"):
                        continue
                    with suppress(FileNotFoundError):  # the guest has just ended
                        found = entry.stat()
                        yield entry.name, (found.st_mtime_ns, found.st_ino)
        except OSError:
            return


def cards_in(guest: str, text: bytes) -> Iterator[LibvirtCard]:
    """Return the cards in the status file of a guest."""
    for part in text.split(b"<interface type=")[1:]:
        card = part.partition(b"</interface>")[0]
        address = _attribute(card, b"<mac address='")
        port = _attribute(card, b"<target dev='")
        octets = address.split(b":")
        if port and len(octets) == 6 and all(len(o) == 2 and _is_hex(o) for o in octets):
            yield LibvirtCard(guest, os.fsdecode(port), bytes(int(o, 16) for o in octets))


def _attribute(text: bytes, mark: bytes) -> bytes:
    """Return what stands between a mark and the next quote; b"" if the mark is not there."""
    return text.partition(mark)[2].partition(b"'")[0]


def _is_hex(text: bytes) -> bool:
    return not text.strip(b"0123456789abcdefABCDEF")
