"""Ethernet frames on a machine's cable, and what they announce.

Reads the bytes independently of the agent's codec, so that the two can contradict each
other. RFC 826 and RFC 5227 (ARP), RFC 903 (RARP), RFC 4861 section 4.4 (neighbour
advertisement), IEEE 802.1Q (tags), RFC 1071 (checksum).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from tests.vm import receiver
from tests.vm.receiver import HANG_TIMEOUT, HangError, wait_for

ARP, RARP, IPV6, TAG_TYPES = 0x0806, 0x8035, 0x86DD, (0x8100, 0x88A8)
PADDED_LENGTH = 60  # bytes: Ethernet's minimum
ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")


class Announcement(NamedTuple):
    """What an ARP, RARP or neighbour advertisement frame announces."""

    kind: str  # "arp-request", "arp-reply", "arp-probe", "unsolicited-na" or "rarp"
    mac: str
    address: str = ""  # empty for RARP
    vlans: tuple[int, ...] = ()  # VLAN identifiers, the outermost first


def announcement(frame: bytes) -> Announcement | None:
    """Return what a frame announces, if it announces anything."""
    vlans: tuple[int, ...] = ()
    at = 12
    while (ethertype := _number(frame[at : at + 2])) in TAG_TYPES:
        vlans += (_number(frame[at + 2 : at + 4]) & 0xFFF,)
        at += 4
    if ethertype in (ARP, RARP):
        return _read_arp(ethertype, frame[at + 2 :], vlans)
    return _read_advertisement(frame, frame[at + 2 :], vlans) if ethertype == IPV6 else None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _read_arp(ethertype: int, payload: bytes, vlans: tuple[int, ...]) -> Announcement | None:
    if len(payload) < 28 or payload[:6] != bytes.fromhex("000108000604"):
        return None
    opcode = _number(payload[6:8])
    sender, address, target = payload[8:14].hex(":"), payload[14:18], payload[24:28]
    if ethertype == RARP:
        return Announcement("rarp", sender, "", vlans) if opcode == 3 else None
    if opcode == 1 and address == bytes(4):
        return Announcement("arp-probe", sender, str(ip_address(target)), vlans)
    if address != target or opcode not in (1, 2):
        return None
    kind = "arp-request" if opcode == 1 else "arp-reply"
    return Announcement(kind, sender, str(ip_address(address)), vlans)


def _read_advertisement(
    frame: bytes, payload: bytes, vlans: tuple[int, ...]
) -> Announcement | None:
    """Read an unsolicited NA; fail on one that receivers would ignore (RFC 4861, 7.1.2)."""
    length, next_header, hop_limit = struct.unpack_from("!HBB", payload, 4)
    addresses, message = payload[8:40], payload[40 : 40 + length]
    if next_header != 58 or len(message) < 32 or message[0] != 136 or addresses[16:] != ALL_NODES:
        return None
    assert hop_limit == 255, "hop limit is not 255"
    assert frame[:6] == bytes.fromhex("333300000001"), "not to the all-nodes MAC"
    pseudo_header = addresses + struct.pack("!II", length, 58)
    assert _checksum(pseudo_header + message) == 0, "wrong ICMPv6 checksum"
    assert not message[4] & 0x40, "solicited, although sent to all nodes"
    assert message[24:26] == b"\x02\x01", "no target link-layer address"
    target = str(ip_address(message[8:24]))
    return Announcement("unsolicited-na", message[26:32].hex(":"), target, vlans)


class Cable:
    """The far end of one network card: keeps the frames that the machine sends."""

    def __init__(self, folder: Path, name: str) -> None:
        self.machine_end = folder / f"{name}.near"
        self.far_end = folder / f"{name}.far"
        self.frames: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(str(self.far_end))
        receiver.add(self._socket.fileno(), self._read)

    def clear(self) -> None:
        """Forget the frames so far."""
        self._read()
        self.frames.clear()

    def announcements(self, *, padded: bool | None = None) -> list[Announcement]:
        """Return what was announced since ``clear``: by all frames, or by padded ones or not.

        The agent pads its ARP, the kernel does not. Neighbour advertisements are longer anyway.
        """
        return [
            found
            for frame in self.frames
            if padded in (None, len(frame) >= PADDED_LENGTH) and (found := announcement(frame))
        ]

    def wait_for_agent(self, *wanted: Announcement, timeout: float = HANG_TIMEOUT) -> None:
        """Wait until the agent has sent each of these announcements since ``clear``."""
        try:
            wait_for(lambda: set(wanted) <= set(self.announcements(padded=True)), "frames", timeout)
        except HangError as error:
            sent = self.announcements(padded=True)
            raise HangError(f"{error}; wanted {wanted}, sent {sent}") from None

    def send(self, frame: bytes) -> None:
        """Send a frame to the machine."""
        self._socket.sendto(frame, str(self.machine_end))

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Take no frame from the machine; what the machine has sent by then is kept."""
        receiver.remove(self._socket.fileno())
        self._fill()
        try:
            yield
        finally:
            receiver.add(self._socket.fileno(), self._read)

    def _fill(self) -> None:
        """Fill this end's queue, so that QEMU can send nothing: net.unix.max_dgram_qlen."""
        room = True
        while room:  # one sender's buffer can have less room than the queue
            room = False
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            with socket.socket(socket.AF_UNIX, kind) as filler, suppress(BlockingIOError):
                while filler.sendto(bytes(PADDED_LENGTH), str(self.far_end)):
                    room = True

    def close(self) -> None:
        """Close the socket and remove both names, so that the card can be plugged in again."""
        receiver.remove(self._socket.fileno())
        self._socket.close()
        for path in (self.far_end, self.machine_end):
            path.unlink(missing_ok=True)

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            self.frames.append(data)
