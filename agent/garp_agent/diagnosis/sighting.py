"""Reads one frame with scapy: which announcement it is, and what is irregular about it.

Announcements are gratuitous ARP, ARP probes, RARP and unsolicited neighbour advertisements.  Shares
no code with ``guest.core.frames``, because it checks that module's frames.

RFC 5227 sections 1.1 and 3, RFC 903, RFC 4861 sections 4.4, 7.1.2 and 7.2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from scapy.packet import Packet

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


def silence() -> None:
    """Stop scapy from logging warnings about interfaces and routes."""
    import logging

    logging.getLogger("scapy").setLevel(logging.ERROR)


def dissect(frame: bytes) -> Sighting | None:
    """Return what an Ethernet frame announces, or None for any other frame."""
    silence()
    import scapy.layers.inet6  # noqa: F401  # registers IPv6 with Ether
    from scapy.layers.l2 import Ether

    try:
        packet = Ether(frame)
        vlan, ethertype, body = _untagged(packet)
        if ethertype in (ETHERTYPE_ARP, ETHERTYPE_RARP):
            seen = _arp(packet, body, ethertype)
        else:
            seen = _advertisement(packet, body) if ethertype == ETHERTYPE_IPV6 else None
    except Exception:  # scapy raises whatever its fields raise; no frame may end the watch
        return None
    return seen._replace(vlan=vlan, length=len(frame)) if seen else None


def _untagged(packet: Packet) -> tuple[str, int, Packet]:
    tags = []
    ethertype, body = packet.type, packet.payload
    for _ in range(_TAGS_MOST):
        if ethertype not in VLAN_TAGS:
            break
        if body.vlan:  # VLAN 0 carries a priority only
            tags.append(str(body.vlan))
        ethertype, body = body.type, body.payload
    return ".".join(tags), ethertype, body


# -- ARP and RARP -------------------------------------------------------------------------


def _arp(packet: Packet, body: Packet, ethertype: int) -> Sighting | None:
    from scapy.layers.l2 import ARP

    if ethertype == ETHERTYPE_RARP:  # scapy does not decode RARP, which has the layout of ARP
        body = ARP(bytes(body))
    if ARP not in body or (body.hwtype, body.ptype, body.hwlen, body.plen) != (1, 0x0800, 6, 4):
        return None
    reverse = ethertype == ETHERTYPE_RARP
    kind, faults = _reverse_kind(packet, body) if reverse else _arp_kind(packet, body)
    if not kind:
        return None
    if body.hwsrc != packet.src:
        faults = (*faults, f"sent by {packet.src}, announces {body.hwsrc}")
    return Sighting(
        kind,
        packet.src,
        packet.dst,
        body.hwsrc,
        "" if kind == "rarp" else body.pdst if kind == "arp-probe" else body.psrc,
        target_hardware_address=body.hwdst,
        faults=faults + _of_sender(body.hwsrc),
    )


def _arp_kind(packet: Packet, arp: Packet) -> tuple[str, tuple[str, ...]]:
    own = arp.psrc == arp.pdst
    if arp.op == 1:
        if arp.psrc == "0.0.0.0":
            return ("arp-request", ("announces 0.0.0.0",)) if own else ("arp-probe", ())
        return ("arp-request", ()) if own else ("", ())
    if arp.op == 2:
        if own:
            return "arp-reply", ("announces 0.0.0.0",) if arp.psrc == "0.0.0.0" else ()
        unasked = packet.dst == BROADCAST
        return ("arp-reply", (f"broadcast reply to {arp.pdst}",)) if unasked else ("", ())
    if arp.op in (3, 4):
        return "rarp", (f"RARP opcode {arp.op} in an ARP frame: peers ignore it",)
    if own or packet.dst == BROADCAST:
        return f"arp-opcode-{arp.op}", (f"opcode {arp.op}: peers ignore it",)
    return "", ()


def _reverse_kind(packet: Packet, rarp: Packet) -> tuple[str, tuple[str, ...]]:
    if rarp.op == 3:
        return "rarp", ()
    if rarp.op == 4 and packet.dst != BROADCAST:
        return "", ()  # a RARP server's answer
    return "rarp", (f"opcode {rarp.op} in a RARP frame, 3 is expected",)


def _of_sender(hardware_address: str) -> tuple[str, ...]:
    if hardware_address == "00:00:00:00:00:00":
        return ("announces no hardware address",)
    if int(hardware_address[:2], 16) & 1:
        return ("announces a group's hardware address",)
    return ()


# -- neighbour advertisements -------------------------------------------------------------


def _advertisement(packet: Packet, body: Packet) -> Sighting | None:
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6

    if IPv6 not in body or ICMPv6ND_NA not in body:
        return None
    message = body[ICMPv6ND_NA]
    to_many = body.dst.lower().startswith("ff")
    if message.S and not to_many:
        return None  # the answer to a solicitation
    option = message[ICMPv6NDOptDstLLAddr].lladdr if ICMPv6NDOptDstLLAddr in message else ""
    return Sighting(
        "unsolicited-na",
        packet.src,
        packet.dst,
        option or packet.src,
        message.tgt,
        router=bool(message.R),
        override=bool(message.O),
        faults=tuple(_faults_of_advertisement(packet, body, message, option)),
    )


def _faults_of_advertisement(packet: Packet, ip: Packet, message: Packet, option: str) -> list[str]:
    import scapy.layers.inet6

    checksum: Any = scapy.layers.inet6.in6_chksum
    faults = []
    if ip.hlim != 255:
        faults.append(f"hop limit {ip.hlim}, must be 255")
    if message.S:
        faults.append("solicited flag in an advertisement to all")
    if message.code:
        faults.append(f"ICMPv6 code {message.code}, must be 0")
    if message.tgt.lower().startswith("ff"):
        faults.append("target is a multicast address")
    if checksum(ICMPV6, ip, bytes(message)[: ip.plen]) not in (0, 0xFFFF):
        faults.append("wrong checksum")
    if not option:
        faults.append("no target link-layer address: peers ignore it")
    elif option != packet.src:
        faults.append(f"sent by {packet.src}, announces {option}")
    return faults + list(_of_sender(option or packet.src))
