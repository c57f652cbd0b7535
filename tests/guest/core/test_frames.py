"""Frames: golden bytes in both directions, scapy as the oracle, any bytes, and the filter."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress
from socket import AF_INET6, inet_ntop

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from garp_agent.guest.core.frames import Claim, FrameError, decode, encode
from garp_agent.guest.core.model import Announcement, Cause, Kind
from tests import golden

OURS = bytes.fromhex("02000000000a")
THEIRS = bytes.fromhex("02000000000c")
V4 = bytes([192, 0, 2, 1])
V6 = ipaddress.ip_address("2001:db8::1").packed
V6_OF_ROUTER = ipaddress.ip_address("2001:db8::2").packed
ALL_NODES = ipaddress.ip_address("ff02::1").packed
SOLICITED_NODE = ipaddress.ip_address("ff02::1:ff00:1").packed

no_deadline = settings(deadline=None)  # a busy machine is no failure
hardware_addresses = st.binary(min_size=6, max_size=6)
v4_addresses = st.binary(min_size=4, max_size=4)
v6_addresses = st.binary(min_size=16, max_size=16)
arp_kinds = st.sampled_from([Kind.ARP_REQUEST, Kind.ARP_REPLY, Kind.ARP_PROBE])


def announcement(
    kind: Kind,
    hardware_address: bytes,
    address: bytes,
    router: bool = False,
    override: bool = True,
) -> Announcement:
    return Announcement(7, kind, hardware_address, address, Cause.REFRESH, router, override)


def mac(value: bytes) -> str:
    return value.hex(":")


def ip(value: bytes) -> str:
    return str(ipaddress.ip_address(value))


# -- golden frames ----------------------------------------------------------------------

GOLDEN = {
    "arp-announcement": (
        announcement(Kind.ARP_REQUEST, OURS, V4),
        Claim(OURS, V4, probe=False, override=True),
    ),
    "arp-reply": (announcement(Kind.ARP_REPLY, OURS, V4), Claim(OURS, V4)),
    "arp-probe": (
        announcement(Kind.ARP_PROBE, OURS, bytes([192, 0, 2, 77])),
        Claim(OURS, bytes([192, 0, 2, 77]), probe=True),
    ),
    "unsolicited-na": (announcement(Kind.UNSOLICITED_NA, OURS, V6), Claim(OURS, V6)),
    "unsolicited-na-router": (
        announcement(Kind.UNSOLICITED_NA, OURS, V6_OF_ROUTER, router=True),
        Claim(OURS, V6_OF_ROUTER),
    ),
    "unsolicited-na-optimistic": (
        announcement(Kind.UNSOLICITED_NA, OURS, V6, override=False),
        Claim(OURS, V6, override=False),
    ),
    "rarp": (announcement(Kind.RARP, OURS, b""), None),
    "dad-probe": (announcement(Kind.DAD_PROBE, OURS, V6), Claim(OURS, V6, probe=True)),
    "dad-solicitation": (None, Claim(OURS, V6, probe=True)),
    "arp-unpadded-iputils": (None, Claim(OURS, V4)),
    "arp-reply-tagged": (None, Claim(THEIRS, V4)),
}


def test_every_golden_frame_is_used() -> None:
    assert sorted(f"frames/{name}" for name in GOLDEN) == golden.names("frames")


@pytest.mark.parametrize("name", [name for name, (ours, _) in GOLDEN.items() if ours])
def test_an_announcement_encodes_to_the_golden_frame(name: str) -> None:
    ours, _claim = GOLDEN[name]
    assert ours is not None
    assert encode(ours).hex(" ") == golden.read(f"frames/{name}").hex(" ")


@pytest.mark.parametrize("name", [name for name, (_, claim) in GOLDEN.items() if claim])
def test_the_golden_frame_decodes_to_its_claim(name: str) -> None:
    assert decode(golden.read(f"frames/{name}")) == GOLDEN[name][1]


def test_a_reverse_arp_frame_claims_nothing() -> None:
    with pytest.raises(FrameError, match="ethertype is 0x8035; only ARP and IPv6 make claims"):
        decode(golden.read("frames/rarp"))


# -- encoding: what no frame can carry --------------------------------------------------


def test_rarp_names_no_address_whatever_it_stands_for() -> None:
    assert encode(announcement(Kind.RARP, OURS, V6)) == golden.read("frames/rarp")


@pytest.mark.parametrize(
    ("kind", "hardware_address", "address", "text"),
    [
        (Kind.ARP_REQUEST, OURS[:5], V4, "hardware address has 5 bytes; must have 6"),
        (Kind.UNSOLICITED_NA, bytes(20), V6, "hardware address has 20 bytes; must have 6"),
        (Kind.ARP_REQUEST, OURS, V6, "arp-request: address has 16 bytes; must have 4"),
        (Kind.ARP_REPLY, OURS, b"", "arp-reply: address has 0 bytes; must have 4"),
        (Kind.ARP_PROBE, OURS, V4[:3], "arp-probe: address has 3 bytes; must have 4"),
        (Kind.UNSOLICITED_NA, OURS, V4, "unsolicited-na: address has 4 bytes; must have 16"),
    ],
)
def test_wrong_lengths_are_refused(
    kind: Kind, hardware_address: bytes, address: bytes, text: str
) -> None:
    with pytest.raises(FrameError) as caught:
        encode(announcement(kind, hardware_address, address))
    assert str(caught.value) == text


# -- encoding: scapy reads what we wrote ------------------------------------------------


@no_deadline
@given(arp_kinds, hardware_addresses, v4_addresses)
def test_arp_goes_to_everybody_from_the_announced_station(
    kind: Kind, hardware_address: bytes, address: bytes
) -> None:
    frame = Ether(encode(announcement(kind, hardware_address, address)))
    assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", mac(hardware_address), 0x806)


@no_deadline
@given(arp_kinds, hardware_addresses, v4_addresses)
def test_arp_is_for_ethernet_and_ipv4(kind: Kind, hardware_address: bytes, address: bytes) -> None:
    arp = Ether(encode(announcement(kind, hardware_address, address)))[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) == (1, 0x800, 6, 4)


@no_deadline
@given(arp_kinds, hardware_addresses, v4_addresses)
def test_arp_opcode(kind: Kind, hardware_address: bytes, address: bytes) -> None:
    arp = Ether(encode(announcement(kind, hardware_address, address)))[ARP]
    assert arp.op == (2 if kind is Kind.ARP_REPLY else 1)


@no_deadline
@given(arp_kinds, hardware_addresses, v4_addresses)
def test_arp_sender(kind: Kind, hardware_address: bytes, address: bytes) -> None:
    arp = Ether(encode(announcement(kind, hardware_address, address)))[ARP]
    sender = "0.0.0.0" if kind is Kind.ARP_PROBE else ip(address)
    assert (arp.hwsrc, arp.psrc) == (mac(hardware_address), sender)


@no_deadline
@given(arp_kinds, hardware_addresses, v4_addresses)
def test_arp_target(kind: Kind, hardware_address: bytes, address: bytes) -> None:
    arp = Ether(encode(announcement(kind, hardware_address, address)))[ARP]
    target = mac(hardware_address) if kind is Kind.ARP_REPLY else "00:00:00:00:00:00"
    assert (arp.hwdst, arp.pdst) == (target, ip(address))


@no_deadline
@given(st.sampled_from(Kind), hardware_addresses, v4_addresses, v6_addresses)
def test_no_frame_is_shorter_than_ethernet_allows_and_the_rest_is_zero(
    kind: Kind, hardware_address: bytes, v4: bytes, v6: bytes
) -> None:
    address = {Kind.UNSOLICITED_NA: v6, Kind.DAD_PROBE: v6, Kind.RARP: b""}.get(kind, v4)
    frame = encode(announcement(kind, hardware_address, address))
    length = {Kind.UNSOLICITED_NA: 86, Kind.DAD_PROBE: 78}.get(kind, 60)
    assert len(frame) == length
    if length == 60:
        assert frame[42:] == bytes(18)


@no_deadline
@given(hardware_addresses, v6_addresses)
def test_a_dad_probe_is_what_scapy_makes_of_it(hardware_address: bytes, address: bytes) -> None:
    group = inet_ntop(AF_INET6, in6_getnsma(address))
    made = (
        Ether(src=mac(hardware_address), dst=in6_getnsmac(in6_getnsma(address)))
        / IPv6(src="::", dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=ip(address))
    )
    assert encode(announcement(Kind.DAD_PROBE, hardware_address, address)) == bytes(made)


@no_deadline
@given(hardware_addresses)
def test_reverse_arp_is_reverse_arp(hardware_address: bytes) -> None:
    frame = Ether(encode(announcement(Kind.RARP, hardware_address, b"")))
    assert (frame.dst, frame.src, frame.type) == (
        "ff:ff:ff:ff:ff:ff",
        mac(hardware_address),
        0x8035,
    )
    arp = ARP(bytes(frame.payload))  # scapy has no layer of its own for RARP
    assert (arp.op, arp.hwsrc, arp.hwdst) == (3, mac(hardware_address), mac(hardware_address))
    assert (arp.psrc, arp.pdst) == ("0.0.0.0", "0.0.0.0")


@no_deadline
@given(hardware_addresses, v6_addresses)
def test_an_advertisement_goes_to_all_nodes_from_the_address_itself(
    hardware_address: bytes, address: bytes
) -> None:
    frame = Ether(encode(announcement(Kind.UNSOLICITED_NA, hardware_address, address)))
    assert (frame.dst, frame.src) == ("33:33:00:00:00:01", mac(hardware_address))
    assert (frame[IPv6].dst, frame[IPv6].src) == ("ff02::1", ip(address))
    assert (frame[IPv6].hlim, frame[IPv6].nh, frame[IPv6].plen) == (255, 58, 32)


@no_deadline
@given(hardware_addresses, v6_addresses, st.booleans(), st.booleans())
def test_the_flags_of_an_advertisement(
    hardware_address: bytes, address: bytes, router: bool, override: bool
) -> None:
    frame = encode(announcement(Kind.UNSOLICITED_NA, hardware_address, address, router, override))
    advertisement = Ether(frame)[ICMPv6ND_NA]
    flags = (advertisement.R, advertisement.S, advertisement.O)
    assert flags == (router, False, override)
    assert advertisement.res == 0


@no_deadline
@given(hardware_addresses, v6_addresses)
def test_an_advertisement_names_its_target_and_where_it_is(
    hardware_address: bytes, address: bytes
) -> None:
    frame = Ether(encode(announcement(Kind.UNSOLICITED_NA, hardware_address, address)))
    assert frame[ICMPv6ND_NA].tgt == ip(address)
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == mac(hardware_address)
    assert frame[ICMPv6NDOptDstLLAddr].len == 1


@no_deadline
@given(hardware_addresses, v6_addresses, st.booleans(), st.booleans())
@example(bytes(6), bytes(16), False, False)
@example(b"\xff" * 6, b"\xff" * 16, True, True)
def test_the_checksum_of_an_advertisement(
    hardware_address: bytes, address: bytes, router: bool, override: bool
) -> None:
    frame = Ether(
        encode(announcement(Kind.UNSOLICITED_NA, hardware_address, address, router, override))
    )
    ours = frame[ICMPv6ND_NA].cksum
    del frame[ICMPv6ND_NA].cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == ours


# -- decoding: what scapy wrote ---------------------------------------------------------


@no_deadline
@given(
    hardware_addresses,
    hardware_addresses,
    v4_addresses.filter(any),
    hardware_addresses,
    v4_addresses,
    st.sampled_from([1, 2]),
    st.binary(max_size=40),
)
def test_arp_of_anybody(
    source: bytes,
    sender: bytes,
    address: bytes,
    target: bytes,
    target_address: bytes,
    opcode: int,
    trailer: bytes,
) -> None:
    arp = ARP(op=opcode, hwsrc=mac(sender), psrc=ip(address))
    arp.hwdst, arp.pdst = mac(target), ip(target_address)
    frame = Ether(src=mac(source), dst="ff:ff:ff:ff:ff:ff") / arp / trailer
    assert decode(bytes(frame)) == Claim(sender, address)


@no_deadline
@given(hardware_addresses, v4_addresses.filter(any), hardware_addresses)
def test_arp_probe_of_anybody(sender: bytes, address: bytes, target: bytes) -> None:
    arp = ARP(op=1, hwsrc=mac(sender), psrc="0.0.0.0", hwdst=mac(target), pdst=ip(address))
    frame = Ether(src=mac(sender), dst="ff:ff:ff:ff:ff:ff") / arp
    assert decode(bytes(frame)) == Claim(sender, address, probe=True)


@no_deadline
@given(
    hardware_addresses,
    v6_addresses.filter(lambda address: address[0] != 0xFF),
    hardware_addresses,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_advertisement_of_anybody(
    source: bytes, target: bytes, station: bytes, router: bool, override: bool, with_option: bool
) -> None:
    message = ICMPv6ND_NA(R=router, S=0, O=override, tgt=ip(target))
    if with_option:
        message = message / ICMPv6NDOptDstLLAddr(lladdr=mac(station))
    frame = Ether(src=mac(source), dst="33:33:00:00:00:01")
    frame = frame / IPv6(src=ip(target), dst="ff02::1", hlim=255) / message
    expected = station if with_option else source
    assert decode(bytes(frame)) == Claim(expected, target, override=override)


@no_deadline
@given(hardware_addresses, v4_addresses.filter(any), st.integers(0, 0xFFFF))
def test_one_tag_is_looked_through(sender: bytes, address: bytes, tag: int) -> None:
    arp = ARP(op=1, hwsrc=mac(sender), psrc=ip(address), pdst=ip(address))
    dot1q = Dot1Q(struct.pack("!HH", tag, 0x0806))
    frame = Ether(src=mac(sender), dst="ff:ff:ff:ff:ff:ff") / dot1q / arp
    assert decode(bytes(frame)) == Claim(sender, address)


# -- decoding: what claims nothing ------------------------------------------------------


def icmpv6(
    message: bytes,
    *,
    source: bytes = V6,
    destination: bytes = ALL_NODES,
    hop_limit: int = 255,
    flip: int = 0,
) -> bytes:
    """A frame around an ICMPv6 message, with scapy's checksum; ``flip`` spoils it."""
    header = IPv6(src=ip(source), dst=ip(destination), hlim=hop_limit, nh=58, plen=len(message))
    checksum = in6_chksum(58, header, message) ^ flip
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return bytes(Ether(src=mac(THEIRS), dst="33:33:00:00:00:01") / header / message)


def advertisement(
    options: bytes = b"", *, code: int = 0, flags: int = 0x20, target: bytes = V6
) -> bytes:
    return struct.pack("!BBHI16s", 136, code, 0, flags << 24, target) + options


def solicitation(options: bytes = b"", *, code: int = 0, target: bytes = V6) -> bytes:
    return struct.pack("!BBHI16s", 135, code, 0, 0, target) + options


def probe(message: bytes, destination: bytes = SOLICITED_NODE) -> bytes:
    return icmpv6(message, source=bytes(16), destination=destination)


def arp(
    hardware: int = 1,
    protocol: int = 0x0800,
    lengths: tuple[int, int] = (6, 4),
    opcode: int = 1,
    sender: bytes = V4,
    target: bytes = V4,
) -> bytes:
    header = b"\xff" * 6 + THEIRS + struct.pack("!H", 0x0806)
    fixed = struct.pack("!HHBBH", hardware, protocol, *lengths, opcode)
    return header + fixed + THEIRS + sender + bytes(6) + target


TLLA = b"\x02\x01" + THEIRS
SLLA = b"\x01\x01" + THEIRS

REFUSED = {
    "empty": (b"", "Ethernet header is cut short at byte 0"),
    "tag cut short": (arp()[:12] + b"\x81\x00\x00\x05", "Ethernet header is cut short at byte 16"),
    "IPv4": (arp()[:12] + b"\x08\x00" + bytes(46), "ethertype is 0x0800; only ARP and IPv6"),
    "another ethertype": (
        icmpv6(advertisement())[:12] + b"\x88\xb5" + icmpv6(advertisement())[14:],
        "ethertype is 0x88b5; only ARP and IPv6",
    ),
    "two tags": (
        arp()[:12] + bytes.fromhex("81000006 81000005") + arp()[12:],
        "ethertype is 0x8100; only ARP and IPv6",
    ),
    "ARP of nothing": (arp()[:14], "ARP packet has 0 bytes; must have 28"),
    "ARP cut short": (arp()[:41], "ARP packet has 27 bytes; must have 28"),
    "ARP over InfiniBand": (
        arp(hardware=32, lengths=(20, 4)),
        "ARP is for hardware type 32 (20 bytes) and protocol 0x0800 (4 bytes); "
        "must be Ethernet (6) and IPv4 (4)",
    ),
    "ARP for another protocol": (arp(protocol=0x86DD), "protocol 0x86dd (4 bytes)"),
    "ARP with a wrong length": (arp(lengths=(6, 16)), "protocol 0x0800 (16 bytes)"),
    "ARP with another wrong length": (arp(lengths=(8, 4)), "hardware type 1 (8 bytes)"),
    "reverse ARP under ARP": (
        arp(opcode=3),
        "ARP opcode is 3; only request (1) and reply (2) make claims",
    ),
    "ARP for nobody": (
        arp(sender=bytes(4), target=bytes(4)),
        "ARP opcode 1 from 0.0.0.0 names no address to claim",
    ),
    "ARP reply from nobody": (
        arp(opcode=2, sender=bytes(4)),
        "ARP opcode 2 from 0.0.0.0 names no address to claim",
    ),
    "IPv6 cut short": (icmpv6(advertisement())[:53], "IPv6 header is cut short at byte 53"),
    "IPv6 of nothing": (icmpv6(b"")[:54], "ICMPv6 message has 0 bytes; must have at least 24"),
    "not version 6": (
        icmpv6(advertisement())[:14] + b"\x40" + icmpv6(advertisement())[15:],
        "IP version is 4; must be 6",
    ),
    "a hop-by-hop header": (
        icmpv6(advertisement())[:20] + b"\x00" + icmpv6(advertisement())[21:],
        "IPv6 next header is 0; only ICMPv6 (58) makes claims",
    ),
    "payload cut short": (icmpv6(advertisement(TLLA))[:-1], "IPv6 payload has 31 of 32 bytes"),
    "from beyond a router": (
        icmpv6(advertisement(), hop_limit=254),
        "hop limit is 254; must be 255",
    ),
    "too short a message": (
        icmpv6(advertisement()[:23]),
        "ICMPv6 message has 23 bytes; must have at least 24",
    ),
    "wrong checksum": (icmpv6(advertisement(), flip=0x0100), "ICMPv6 checksum is wrong"),
    "echo request": (icmpv6(struct.pack("!BBHI16s", 128, 0, 0, 0, V6)), "ICMPv6 type is 128; only"),
    "router solicitation from nobody": (
        icmpv6(struct.pack("!BBHI16s", 133, 0, 0, 0, V6), source=bytes(16)),
        "ICMPv6 type is 133; only",
    ),
    "advertisement with a code": (icmpv6(advertisement(code=1)), "ICMPv6 code is 1; must be 0"),
    "solicitation with a code": (probe(solicitation(code=1)), "ICMPv6 code is 1; must be 0"),
    "multicast target": (
        icmpv6(advertisement(target=ALL_NODES)),
        "target is a multicast address",
    ),
    "multicast target of a probe": (
        probe(solicitation(target=ALL_NODES)),
        "target is a multicast address",
    ),
    "answer to everybody": (
        icmpv6(advertisement(flags=0x60)),
        "advertisement to a multicast address has the Solicited flag",
    ),
    "empty option": (
        icmpv6(advertisement(b"\x0e\x00" + bytes(6))),
        "option with 0 bytes where the message has 8 left",
    ),
    "option too long": (
        icmpv6(advertisement(TLLA + b"\x0e\x02" + bytes(6))),
        "option with 16 bytes where the message has 8 left",
    ),
    "half an option": (
        icmpv6(advertisement(TLLA + b"\x0e")),
        "option with 0 bytes where the message has 1 left",
    ),
    "long link-layer address": (
        icmpv6(advertisement(b"\x02\x02" + bytes(14))),
        "target link-layer address has 14 bytes; must be 6",
    ),
    "ordinary solicitation": (
        icmpv6(solicitation(SLLA), destination=SOLICITED_NODE),
        "solicitation comes from an address, so it is no probe",
    ),
    "probe to all nodes": (
        probe(solicitation(), destination=ALL_NODES),
        "solicitation from :: is not to a solicited-node multicast address",
    ),
    "probe with a link-layer address": (
        probe(solicitation(SLLA)),
        "solicitation from :: has a source link-layer address",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_claims_nothing_is_refused_with_its_reason(name: str) -> None:
    frame, text = REFUSED[name]
    with pytest.raises(FrameError) as caught:
        decode(frame)
    assert text in str(caught.value)


ACCEPTED = {
    "no option": (icmpv6(advertisement()), Claim(THEIRS, V6)),
    "solicited answer to us": (
        icmpv6(advertisement(TLLA, flags=0x60), destination=V6_OF_ROUTER),
        Claim(THEIRS, V6),
    ),
    "option unknown to us": (
        icmpv6(advertisement(b"\x0e\x02" + bytes(14) + b"\x02\x01" + OURS)),
        Claim(OURS, V6),
    ),
    "reserved flags": (icmpv6(advertisement(flags=0x3F)), Claim(THEIRS, V6)),
    "bytes after the packet": (icmpv6(advertisement(TLLA)) + b"\xff" * 3, Claim(THEIRS, V6)),
    "probe without a nonce": (probe(solicitation()), Claim(THEIRS, V6, probe=True)),
    "traffic class and flow label": (
        icmpv6(advertisement())[:14] + bytes.fromhex("6e012345") + icmpv6(advertisement())[18:],
        Claim(THEIRS, V6),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_claims_something_although_it_looks_odd(name: str) -> None:
    frame, claim = ACCEPTED[name]
    assert decode(frame) == claim


# -- decoding: any bytes ----------------------------------------------------------------

CORPUS = [
    *(golden.read(name) for name in golden.names("frames")),
    *(frame for frame, _text in REFUSED.values()),
    *(frame for frame, _claim in ACCEPTED.values()),
]


@st.composite
def spoiled_frames(draw: st.DrawFn) -> bytes:
    """A frame of the corpus with some bytes replaced, cut off or added."""
    frame = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(0, 4))):
        if frame:
            frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(frame)))
    return bytes(frame[: cut or None]) + draw(st.binary(max_size=20))


def claim_or_none(frame: bytes) -> Claim | None:
    with suppress(FrameError):
        return decode(frame)
    return None


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=120), spoiled_frames()))
def test_any_bytes_are_a_claim_or_a_frame_error(frame: bytes) -> None:
    claim = claim_or_none(frame)
    if claim is not None:
        assert len(claim.hardware_address) == 6
        assert len(claim.address) in (4, 16)
        assert any(claim.address) or not claim.probe


@pytest.mark.parametrize("name", [name for name, (_, claim) in GOLDEN.items() if claim])
def test_a_frame_cut_short_claims_nothing_else(name: str) -> None:
    frame = golden.read(f"frames/{name}")
    needed = {"arp-reply-tagged": 46, "dad-probe": 78}.get(name, 42 if "arp" in name else 86)
    for length in range(len(frame) + 1):
        expected = GOLDEN[name][1] if length >= needed else None
        assert claim_or_none(frame[:length]) == expected, f"cut to {length} bytes"
