"""A guest's network card as its cable sees it: Ethernet frames, and what they announce.

Reads the bytes on its own account, from the RFCs and not through the agent's codec, so
that the two can contradict each other.  RFC 826 and 5227 (ARP), 903 (RARP), 4861
section 4.4 (neighbour advertisement), IEEE 802.1Q (tags).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from tests.vm.pump import PATIENCE, PUMP

TAGS = (0x8100, 0x88A8)
LEAST_LENGTH = 60  # what some drivers insist on; the kernel's own announcements are shorter


class Told(NamedTuple):
    """What an announcement says, in words."""

    kind: str  # "arp-request", "arp-reply", "arp-probe", "unsolicited-na" or "rarp"
    mac: str
    address: str  # "" for RARP
    vlans: tuple[int, ...] = ()  # outermost first


class Frame(NamedTuple):
    """One Ethernet frame, and when it was read."""

    at: float
    data: bytes

    @property
    def header(self) -> tuple[tuple[int, ...], int, bytes]:
        """The VLAN identifiers, the type, and what follows."""
        vlans: list[int] = []
        at = 12
        while (kind := _number(self.data[at : at + 2])) in TAGS:
            vlans.append(_number(self.data[at + 2 : at + 4]) & 0xFFF)
            at += 4
        return tuple(vlans), kind, self.data[at + 2 :]

    @property
    def told(self) -> Told | None:
        """What it announces, if anything."""
        vlans, kind, payload = self.header
        if kind in (0x0806, 0x8035):
            return _told_by_arp(kind, payload, vlans)
        if kind == 0x86DD:
            return _told_by_ipv6(self.data, payload, vlans)
        return None

    @property
    def padded(self) -> bool:
        """Whether it was filled up to the least length before its tags were added."""
        return len(self.data) >= LEAST_LENGTH


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def mac_text(mac: bytes) -> str:
    """``52:54:00:00:00:01``."""
    return mac.hex(":")


def _told_by_arp(kind: int, payload: bytes, vlans: tuple[int, ...]) -> Told | None:
    if len(payload) < 28 or payload[:6] != bytes.fromhex("000108000604"):
        return None
    opcode = _number(payload[6:8])
    sender, address, target_address = payload[8:14], payload[14:18], payload[24:28]
    if kind == 0x8035:
        return Told("rarp", mac_text(sender), "", vlans) if opcode == 3 else None
    if opcode == 1 and address == bytes(4):
        return Told("arp-probe", mac_text(sender), str(ip_address(target_address)), vlans)
    if address != target_address or opcode not in (1, 2):
        return None
    name = "arp-request" if opcode == 1 else "arp-reply"
    return Told(name, mac_text(sender), str(ip_address(address)), vlans)


def _told_by_ipv6(frame: bytes, payload: bytes, vlans: tuple[int, ...]) -> Told | None:
    """An unsolicited NA in every detail that a receiver checks; anything else is none."""
    length, next_header, hop_limit = struct.unpack_from("!HBB", payload, 4)
    source, destination, message = payload[8:24], payload[24:40], payload[40 : 40 + length]
    if next_header != 58 or len(message) < 32 or message[0] != 136:
        return None
    if destination != bytes.fromhex("ff02" + "00" * 13 + "01"):
        return None
    assert hop_limit == 255, "an NA with another hop limit is ignored"
    assert frame[:6] == bytes.fromhex("333300000001")
    pseudo_header = source + destination + struct.pack("!IHBB", length, 0, 0, 58)
    assert _checksum(pseudo_header + message) == 0, "wrong ICMPv6 checksum"
    assert not message[4] & 0x40, "solicited, though to all nodes"
    assert message[24:26] == b"\x02\x01", "no target link-layer address"
    target, mac = message[8:24], message[26:32]
    return Told("unsolicited-na", mac_text(mac), str(ip_address(target)), vlans)


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wire:
    """The far end of one card: keeps every frame that the guest sends."""

    def __init__(self, folder: Path, name: str) -> None:
        self.guest_end = folder / f"{name}.guest"
        self.far_end = folder / f"{name}.far"
        self.frames: list[Frame] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(str(self.far_end))
        PUMP.add(self._socket.fileno(), self._arrived)

    def send(self, frame: bytes) -> None:
        """A frame to the guest."""
        self._socket.sendto(frame, str(self.guest_end))

    def told(self, since: int = 0) -> list[Told]:
        """All announcements from the frame of that number on."""
        return [told for frame in self.frames[since:] if (told := frame.told)]

    @property
    def mark(self) -> int:
        """How many frames there have been: for ``since``."""
        return len(self.frames)

    def wait_for(
        self,
        condition: Callable[[list[Told]], bool],
        what: str,
        since: int = 0,
        patience: float = PATIENCE,
    ) -> list[Told]:
        """The announcements once they satisfy a condition."""

        def satisfied() -> list[Told]:
            told = self.told(since)
            return told if condition(told) else []

        try:
            return PUMP.wait_for(satisfied, what, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; there were {self.told(since)}") from None

    def close(self) -> None:
        """No more frames."""
        PUMP.remove(self._socket.fileno())
        self._socket.close()
        for path in (self.far_end, self.guest_end):
            path.unlink(missing_ok=True)  # the name may be plugged in again

    def _arrived(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            self.frames.append(Frame(time.monotonic(), data))
