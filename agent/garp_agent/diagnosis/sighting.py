"""Reads one frame: which announcement it is, and what is irregular about it.

Announcements are gratuitous ARP, ARP probes, RARP and unsolicited neighbour advertisements.  Shares
no code with ``guest.core.frames``, because it checks that module's frames; tests check it with
scapy.

RFC 826, RFC 5227 sections 1.1 and 3, RFC 903, RFC 4861 sections 4.4, 7.1.2 and 7.2.6; RFC 2460
section 8.1 (checksum).
"""

from __future__ import annotations

import socket
from struct import Struct, error
from typing import NamedTuple

ETHERTYPE_ARP = 0x0806
ETHERTYPE_RARP = 0x8035
ETHERTYPE_IPV6 = 0x86DD
VLAN_TAGS = (0x8100, 0x88A8)
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "ff02::1"
ICMPV6 = 58
_TAGS_MOST = 4


class Sighting(NamedTuple):
    """One announcement on the wire."""

    kind: str  # as in guest.core.model.Kind; "arp-opcode-N" for other opcodes
    source: str  # the Ethernet source
    destination: str  # the Ethernet destination
    hardware_address: str  # the one that the announcement gives for the address
    address: str  # "" for RARP
    vlan: str = ""  # "100", "100.200" where stacked
    target_hardware_address: str = ""  # ARP and RARP
    router: bool = False  # NA: the R flag
    override: bool = False  # NA: the O flag
    length: int = 0  # bytes of the frame
    faults: tuple[str, ...] = ()  # what is irregular


class ArpPacket(NamedTuple):
    """The fields of an ARP or RARP packet for Ethernet and IPv4."""

    opcode: int
    sender: str  # hardware address
    sender_address: str
    target: str  # hardware address
    target_address: str


class Advertisement(NamedTuple):
    """The fields of a neighbour advertisement."""

    destination: bytes  # of the IPv6 header
    hop_limit: int
    code: int
    flags: int
    target: bytes
    option: str  # the target link-layer address; "" without one
    checksum_is_right: bool


class EthernetFrame(NamedTuple):
    """A frame without its VLAN tags."""

    destination: str
    source: str
    vlan: str
    ethertype: int
    body: bytes


def dissect(frame: bytes) -> Sighting | None:
    """Return what an Ethernet frame announces, or None for any other frame."""
    whole = ethernet(frame)
    seen: Sighting | None = None
    if whole is not None and whole.ethertype in (ETHERTYPE_ARP, ETHERTYPE_RARP):
        arp = arp_packet(whole)
        seen = _arp(whole, arp) if arp else None
    elif whole is not None:
        message = advertisement(whole)
        seen = _advertisement(whole, message) if message else None
    return seen._replace(vlan=whole.vlan, length=len(frame)) if seen and whole else None


# -- the fields of frames -----------------------------------------------------------------

_ETHERNET = Struct("!6s6sH")
_TAG = Struct("!HH")  # the tag's control information, and the next EtherType
_ARP = Struct("!HHBBH6s4s6s4s")
_IPV6 = Struct("!IHBB16s16s")
_MESSAGE = Struct("!BBHB3x16s")  # type, code, checksum, flags, target
_ADVERTISEMENT = 136
_OPTION_TARGET = 2
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20


def ethernet(frame: bytes) -> EthernetFrame | None:
    """Return a frame without its tags; None if it is cut short."""
    tags: list[str] = []
    try:
        destination, source, ethertype = _ETHERNET.unpack_from(frame)
        at = _ETHERNET.size
        while ethertype in VLAN_TAGS and len(tags) < _TAGS_MOST:
            control, ethertype = _TAG.unpack_from(frame, at)
            at += _TAG.size
            tags.append(str(control & 0xFFF))
    except error:
        return None
    vlan = ".".join(tag for tag in tags if tag != "0")  # VLAN 0 carries a priority only
    return EthernetFrame(mac_text(destination), mac_text(source), vlan, ethertype, frame[at:])


def arp_packet(frame: EthernetFrame) -> ArpPacket | None:
    """Return the ARP or RARP packet in a frame; None for another network or a cut packet."""
    if frame.ethertype not in (ETHERTYPE_ARP, ETHERTYPE_RARP) or len(frame.body) < _ARP.size:
        return None
    *kind, opcode, sender, address, target, wanted = _ARP.unpack_from(frame.body)
    if kind != [1, 0x0800, 6, 4]:
        return None
    first, second = map(socket.inet_ntoa, (address, wanted))
    return ArpPacket(opcode, mac_text(sender), first, mac_text(target), second)


def advertisement(frame: EthernetFrame) -> Advertisement | None:
    """Return the neighbour advertisement in a frame; None if there is none."""
    if frame.ethertype != ETHERTYPE_IPV6 or len(frame.body) < _IPV6.size:
        return None
    word, length, following, hop_limit, source, destination = _IPV6.unpack_from(frame.body)
    message = frame.body[_IPV6.size : _IPV6.size + length]
    if word >> 28 != 6 or following != ICMPV6 or len(message) < _MESSAGE.size:
        return None
    kind, code, _checksum, flags, target = _MESSAGE.unpack_from(message)
    if kind != _ADVERTISEMENT:
        return None
    pseudo = source + destination + len(message).to_bytes(4, "big") + bytes((0, 0, 0, ICMPV6))
    is_right = _sums_to_ones(pseudo + message)
    return Advertisement(
        destination, hop_limit, code, flags, target, _target_option(message), is_right
    )


def _target_option(message: bytes) -> str:
    at = _MESSAGE.size
    while at + 8 <= len(message) and message[at + 1]:
        if message[at] == _OPTION_TARGET:
            return mac_text(message[at + 2 : at + 8])
        at += 8 * message[at + 1]
    return ""


def _sums_to_ones(data: bytes) -> bool:
    """Return whether the one's complement sum of all 16-bit words is the one of a good checksum."""
    even = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(even[at : at + 2], "big") for at in range(0, len(even), 2))
    return total % 0xFFFF == 0


def mac_text(octets: bytes) -> str:
    """Return a hardware address as text."""
    return ":".join(f"{octet:02x}" for octet in octets)


# -- ARP and RARP -------------------------------------------------------------------------


def _arp(frame: EthernetFrame, arp: ArpPacket) -> Sighting | None:
    reverse = frame.ethertype == ETHERTYPE_RARP
    kind, faults = _reverse_kind(frame, arp) if reverse else _arp_kind(frame, arp)
    if not kind:
        return None
    if arp.sender != frame.source:
        faults = (*faults, f"sent by {frame.source}, announces {arp.sender}")
    address = arp.target_address if kind == "arp-probe" else arp.sender_address
    return Sighting(
        kind,
        frame.source,
        frame.destination,
        arp.sender,
        "" if kind == "rarp" else address,
        target_hardware_address=arp.target,
        faults=faults + _of_sender(arp.sender),
    )


def _arp_kind(frame: EthernetFrame, arp: ArpPacket) -> tuple[str, tuple[str, ...]]:
    own = arp.sender_address == arp.target_address
    if arp.opcode == 1:
        if arp.sender_address == "0.0.0.0":
            return ("arp-request", ("announces 0.0.0.0",)) if own else ("arp-probe", ())
        return ("arp-request", ()) if own else ("", ())
    if arp.opcode == 2:
        if own:
            nothing = arp.sender_address == "0.0.0.0"
            return "arp-reply", ("announces 0.0.0.0",) if nothing else ()
        unasked = frame.destination == BROADCAST
        text = f"broadcast reply to {arp.target_address}"
        return ("arp-reply", (text,)) if unasked else ("", ())
    if arp.opcode in (3, 4):
        return "rarp", (f"RARP opcode {arp.opcode} in an ARP frame: peers ignore it",)
    if own or frame.destination == BROADCAST:
        return f"arp-opcode-{arp.opcode}", (f"opcode {arp.opcode}: peers ignore it",)
    return "", ()


def _reverse_kind(frame: EthernetFrame, rarp: ArpPacket) -> tuple[str, tuple[str, ...]]:
    if rarp.opcode == 3:
        return "rarp", ()
    if rarp.opcode == 4 and frame.destination != BROADCAST:
        return "", ()  # a RARP server's answer
    return "rarp", (f"opcode {rarp.opcode} in a RARP frame, 3 is expected",)


def _of_sender(hardware_address: str) -> tuple[str, ...]:
    if hardware_address == "00:00:00:00:00:00":
        return ("announces no hardware address",)
    if int(hardware_address[:2], 16) & 1:
        return ("announces a group's hardware address",)
    return ()


# -- neighbour advertisements -------------------------------------------------------------


def _advertisement(frame: EthernetFrame, message: Advertisement) -> Sighting | None:
    to_many = message.destination[0] == 0xFF
    if message.flags & _SOLICITED and not to_many:
        return None  # the answer to a solicitation
    return Sighting(
        "unsolicited-na",
        frame.source,
        frame.destination,
        message.option or frame.source,
        socket.inet_ntop(socket.AF_INET6, message.target),
        router=bool(message.flags & _ROUTER),
        override=bool(message.flags & _OVERRIDE),
        faults=tuple(_faults_of_advertisement(frame, message)),
    )


def _faults_of_advertisement(frame: EthernetFrame, message: Advertisement) -> list[str]:
    faults = []
    if message.hop_limit != 255:
        faults.append(f"hop limit {message.hop_limit}, must be 255")
    if message.flags & _SOLICITED:
        faults.append("solicited flag in an advertisement to all")
    if message.code:
        faults.append(f"ICMPv6 code {message.code}, must be 0")
    if message.target[0] == 0xFF:
        faults.append("target is a multicast address")
    if not message.checksum_is_right:
        faults.append("wrong checksum")
    if not message.option:
        faults.append("no target link-layer address: peers ignore it")
    elif message.option != frame.source:
        faults.append(f"sent by {frame.source}, announces {message.option}")
    return faults + list(_of_sender(message.option or frame.source))
