"""frames: golden bytes in both directions, scapy as the oracle, and random bytes."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress
from socket import AF_INET6, inet_ntop

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from garp_agent.guest.core.frames import Claim, FrameError, decode, encode
from garp_agent.guest.core.model import ALL_NODES_ETHERNET, Announcement, Cause, Kind
from tests import golden
from tests.world import ip, property_settings

OURS, THEIRS = b"\2\0\0\0\0\x0a", b"\2\0\0\0\0\x0c"
V4, V4_PROBED = ip("192.0.2.1"), ip("192.0.2.77")
V6, V6_ROUTER = ip("2001:db8::1"), ip("2001:db8::2")
ALL_NODES, SOLICITED_NODE = ip("ff02::1"), ip("ff02::1:ff00:1")
EVERYBODY = "ff:ff:ff:ff:ff:ff"

macs = st.binary(min_size=6, max_size=6)
v4s = st.binary(min_size=4, max_size=4)
v6s = st.binary(min_size=16, max_size=16)
arp_kinds = st.sampled_from([Kind.ARP_REQUEST, Kind.ARP_REPLY, Kind.ARP_PROBE])


def announcement(
    kind: Kind, hardware_address: bytes, address: bytes, router: bool = False, override: bool = True
) -> Announcement:
    return Announcement(7, kind, hardware_address, address, Cause.REFRESH, router, override)


def answer(hardware_address: bytes, address: bytes, override: bool = True) -> Claim:
    """A claim in the form in which a station answers a probe."""
    return Claim(hardware_address, address, override=override, answers=ALL_NODES_ETHERNET)


def text(address: bytes) -> str:
    return address.hex(":") if len(address) == 6 else str(ipaddress.ip_address(address))


# -- golden frames ----------------------------------------------------------------------

NA = Kind.UNSOLICITED_NA
# What we encode to the frame, and what we decode it to.
GOLDEN: dict[str, tuple[Announcement | None, Claim | None]] = {
    "arp-announcement": (announcement(Kind.ARP_REQUEST, OURS, V4), Claim(OURS, V4, False, True)),
    "arp-reply": (announcement(Kind.ARP_REPLY, OURS, V4), Claim(OURS, V4)),
    "arp-probe": (announcement(Kind.ARP_PROBE, OURS, V4_PROBED), Claim(OURS, V4_PROBED, True)),
    "unsolicited-na": (announcement(NA, OURS, V6), answer(OURS, V6)),
    "unsolicited-na-router": (
        announcement(NA, OURS, V6_ROUTER, router=True),
        answer(OURS, V6_ROUTER),
    ),
    "unsolicited-na-optimistic": (
        announcement(NA, OURS, V6, override=False),
        answer(OURS, V6, override=False),
    ),
    "rarp": (announcement(Kind.RARP, OURS, b""), None),
    "dad-probe": (announcement(Kind.DAD_PROBE, OURS, V6), Claim(OURS, V6, probe=True)),
    "dad-solicitation": (None, Claim(OURS, V6, probe=True)),
    "arp-unpadded-iputils": (None, Claim(OURS, V4)),
    "arp-reply-tagged": (None, Claim(THEIRS, V4, answers=OURS)),
}
CLAIMS = {name: claim for name, (_, claim) in GOLDEN.items() if claim}


def test_golden_frames_are_all_used() -> None:
    assert sorted(f"frames/{name}" for name in GOLDEN) == golden.names("frames")


@pytest.mark.parametrize("name", GOLDEN)
def test_encode_announcement_gives_golden_frame(name: str) -> None:
    ours = GOLDEN[name][0]
    if ours is not None:
        assert encode(ours).hex(" ") == golden.read(f"frames/{name}").hex(" ")


@pytest.mark.parametrize("name", CLAIMS)
def test_decode_golden_frame_gives_its_claim(name: str) -> None:
    assert decode(golden.read(f"frames/{name}")) == CLAIMS[name]


# -- encoding ---------------------------------------------------------------------------


def test_encode_rarp_for_an_address_does_not_contain_it() -> None:
    assert encode(announcement(Kind.RARP, OURS, V6)) == golden.read("frames/rarp")


@pytest.mark.parametrize(
    ("kind", "hardware_address", "address", "message"),
    [
        (Kind.ARP_REQUEST, OURS[:5], V4, "hardware address has 5 bytes; must have 6"),
        (NA, bytes(20), V6, "hardware address has 20 bytes; must have 6"),
        (Kind.ARP_REQUEST, OURS, V6, "arp-request: address has 16 bytes; must have 4"),
        (Kind.ARP_REPLY, OURS, b"", "arp-reply: address has 0 bytes; must have 4"),
        (Kind.ARP_PROBE, OURS, V4[:3], "arp-probe: address has 3 bytes; must have 4"),
        (NA, OURS, V4, "unsolicited-na: address has 4 bytes; must have 16"),
        (Kind.DAD_PROBE, OURS, V4, "dad-probe: address has 4 bytes; must have 16"),
        (Kind.SOLICITATION, OURS, V6, "solicitation: address has 0 bytes; must have 16"),
    ],
)
def test_encode_address_of_wrong_length_raises(
    kind: Kind, hardware_address: bytes, address: bytes, message: str
) -> None:
    with pytest.raises(FrameError) as caught:
        encode(announcement(kind, hardware_address, address))
    assert str(caught.value) == message


@property_settings(100)
@given(arp_kinds, macs, v4s)
def test_encode_arp_reads_in_scapy_as_announced(kind: Kind, source: bytes, address: bytes) -> None:
    frame = encode(announcement(kind, source, address))
    assert (len(frame), frame[42:]) == (60, bytes(18))  # padded with zeros
    ether, reply = Ether(frame), kind is Kind.ARP_REPLY
    assert (ether.dst, ether.src, ether.type) == (EVERYBODY, text(source), 0x806)
    arp = ether[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) == (1, 0x800, 6, 4)
    assert arp.op == (2 if reply else 1)
    sender = "0.0.0.0" if kind is Kind.ARP_PROBE else text(address)
    assert (arp.hwsrc, arp.psrc) == (text(source), sender)
    assert (arp.hwdst, arp.pdst) == (text(source if reply else bytes(6)), text(address))


@property_settings(100)
@given(macs)
def test_encode_rarp_reads_in_scapy_as_announced(source: bytes) -> None:
    frame = encode(announcement(Kind.RARP, source, b""))
    assert (len(frame), frame[42:]) == (60, bytes(18))
    ether = Ether(frame)
    assert (ether.dst, ether.src, ether.type) == (EVERYBODY, text(source), 0x8035)
    arp = ARP(bytes(ether.payload))  # scapy has no layer of its own for RARP
    assert (arp.op, arp.hwsrc, arp.hwdst) == (3, text(source), text(source))
    assert (arp.psrc, arp.pdst) == ("0.0.0.0", "0.0.0.0")


@property_settings(100)
@given(macs, v6s)
def test_encode_dad_probe_equals_that_of_scapy(source: bytes, address: bytes) -> None:
    group = inet_ntop(AF_INET6, in6_getnsma(address))
    made = (
        Ether(src=text(source), dst=in6_getnsmac(in6_getnsma(address)))
        / IPv6(src="::", dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=text(address))
    )
    plain = announcement(Kind.DAD_PROBE, source, address)
    assert encode(plain) == bytes(made)
    made.dst = text(THEIRS)
    assert encode(plain._replace(asked=THEIRS)) == bytes(made)


@property_settings(100)
@given(macs, v6s, v6s, st.none() | macs)
def test_encode_solicitation_equals_that_of_scapy(
    source: bytes, address: bytes, asker: bytes, asked: bytes | None
) -> None:
    group = inet_ntop(AF_INET6, in6_getnsma(address))
    made = (
        Ether(src=text(source), dst=text(asked) if asked else in6_getnsmac(in6_getnsma(address)))
        / IPv6(src=text(asker), dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=text(address))
        / ICMPv6NDOptSrcLLAddr(lladdr=text(source))
    )
    plain = announcement(Kind.SOLICITATION, source, address)
    assert encode(plain._replace(asked=asked or b"", source=asker)) == bytes(made)


@property_settings(100)
@given(macs, v6s, st.booleans(), st.booleans())
@example(bytes(6), bytes(16), False, False)
@example(b"\xff" * 6, b"\xff" * 16, True, True)
def test_encode_advertisement_reads_in_scapy_as_announced(
    source: bytes, address: bytes, router: bool, override: bool
) -> None:
    frame = Ether(encode(announcement(NA, source, address, router, override)))
    assert len(frame) == 86
    assert (frame.dst, frame.src) == ("33:33:00:00:00:01", text(source))
    ipv6, message, option = frame[IPv6], frame[ICMPv6ND_NA], frame[ICMPv6NDOptDstLLAddr]
    assert (ipv6.dst, ipv6.src) == ("ff02::1", text(address))
    assert (ipv6.hlim, ipv6.nh, ipv6.plen) == (255, 58, 32)
    assert (message.R, message.S, message.O, message.res) == (router, False, override, 0)
    assert (message.tgt, option.lladdr, option.len) == (text(address), text(source), 1)
    ours = message.cksum
    del message.cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == ours


# -- decoding: frames made by scapy ------------------------------------------------------


@property_settings(100)
@given(
    *(macs, macs, v4s.filter(any), macs, v4s | st.none(), st.sampled_from([1, 2])),
    st.binary(max_size=40),
)
def test_decode_arp_of_scapy_gives_claim_of_its_sender(
    source: bytes,
    sender: bytes,
    address: bytes,
    target: bytes,
    other: bytes | None,
    op: int,
    rest: bytes,
) -> None:
    asked = address if other is None else other  # the same: a gratuitous frame
    arp = ARP(op=op, hwsrc=text(sender), psrc=text(address), hwdst=text(target), pdst=text(asked))
    frame = Ether(src=text(source), dst=EVERYBODY) / arp / rest
    asker = target if op == 2 and asked != address else b""
    assert decode(bytes(frame)) == Claim(sender, address, answers=asker)


@pytest.mark.parametrize("target", [THEIRS, bytes(6), b"\xff" * 6])
def test_decode_arp_reply_that_is_sent_to_one_station_answers_that_station(target: bytes) -> None:
    """A MAC NAT can leave another target hardware address in the reply."""
    arp = ARP(op=2, hwsrc=text(THEIRS), psrc=text(V4), hwdst=text(target), pdst="0.0.0.0")
    frame = Ether(src=text(THEIRS), dst=text(OURS)) / arp
    assert decode(bytes(frame)) == Claim(THEIRS, V4, answers=OURS)


@property_settings(100)
@given(macs, v4s.filter(any), macs, st.integers(0, 0xFFFF))
def test_decode_arp_probe_of_scapy_gives_probe_also_behind_a_tag(
    sender: bytes, address: bytes, target: bytes, tag: int
) -> None:
    arp = ARP(op=1, hwsrc=text(sender), psrc="0.0.0.0", hwdst=text(target), pdst=text(address))
    ether = Ether(src=text(sender), dst=EVERYBODY)
    for frame in (ether / arp, ether / Dot1Q(struct.pack("!HH", tag, 0x0806)) / arp):
        assert decode(bytes(frame)) == Claim(sender, address, probe=True)


@property_settings(100)
@given(
    macs,
    v6s.filter(lambda address: address[0] != 0xFF),
    macs,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_decode_advertisement_of_scapy_gives_claim(
    source: bytes, target: bytes, station: bytes, router: bool, override: bool, with_option: bool
) -> None:
    message = ICMPv6ND_NA(R=router, S=0, O=override, tgt=text(target))
    if with_option:
        message = message / ICMPv6NDOptDstLLAddr(lladdr=text(station))
    ether = Ether(src=text(source), dst="33:33:00:00:00:01")
    frame = ether / IPv6(src=text(target), dst="ff02::1", hlim=255) / message
    expected = station if with_option else source
    assert decode(bytes(frame)) == answer(expected, target, override=override)
    del message.cksum
    message.S = True
    solicited = Ether(src=text(source), dst=text(OURS)) / IPv6(dst=text(V6), hlim=255) / message
    to_us = Claim(expected, target, override=override, answers=OURS)
    assert decode(bytes(solicited)) == to_us


# -- decoding: hand-made frames ----------------------------------------------------------


def icmpv6(
    message: bytes,
    *,
    source: bytes = V6,
    destination: bytes = ALL_NODES,
    hop_limit: int = 255,
    flip: int = 0,
) -> bytes:
    """A frame around an ICMPv6 message, with scapy's checksum; ``flip`` spoils it."""
    header = IPv6(src=text(source), dst=text(destination), hlim=hop_limit, nh=58, plen=len(message))
    checksum = in6_chksum(58, header, message) ^ flip
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    return bytes(Ether(src=text(THEIRS), dst="33:33:00:00:00:01") / header / message)


def neighbour(
    kind: int, options: bytes = b"", code: int = 0, flags: int = 0, target: bytes = V6
) -> bytes:
    return struct.pack("!BBHI16s", kind, code, 0, flags << 24, target) + options


def advertisement(options: bytes = b"", code: int = 0, flags: int = 0x20, to: bytes = V6) -> bytes:
    return neighbour(136, options, code, flags, to)


def probe(
    options: bytes = b"", code: int = 0, target: bytes = V6, destination: bytes = SOLICITED_NODE
) -> bytes:
    message = neighbour(135, options, code, 0, target)
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


def with_byte(frame: bytes, offset: int, value: int) -> bytes:
    return frame[:offset] + bytes([value]) + frame[offset + 1 :]


ARP_FRAME, NA_FRAME = arp(), icmpv6(advertisement())
TLLA, SLLA = b"\x02\x01" + THEIRS, b"\x01\x01" + THEIRS
HAS_LEFT = "option with {} bytes where the message has {} left"

REFUSED = [
    (b"", "Ethernet header is cut short at byte 0"),
    (ARP_FRAME[:12] + b"\x81\x00\x00\x05", "Ethernet header is cut short at byte 16"),
    (ARP_FRAME[:12] + b"\x08\x00" + bytes(46), "ethertype is 0x0800; only ARP and IPv6"),
    (NA_FRAME[:12] + b"\x88\xb5" + NA_FRAME[14:], "ethertype is 0x88b5; only ARP and IPv6"),
    (
        ARP_FRAME[:12] + bytes.fromhex("81000006 81000005") + ARP_FRAME[12:],
        "ethertype is 0x8100; only ARP and IPv6",
    ),
    (golden.read("frames/rarp"), "ethertype is 0x8035; only ARP and IPv6 make claims"),
    (ARP_FRAME[:14], "ARP packet has 0 bytes; must have 28"),
    (ARP_FRAME[:41], "ARP packet has 27 bytes; must have 28"),
    (
        arp(hardware=32, lengths=(20, 4)),
        "ARP is for hardware type 32 (20 bytes) and protocol 0x0800 (4 bytes); "
        "must be Ethernet (6) and IPv4 (4)",
    ),
    (arp(protocol=0x86DD), "protocol 0x86dd (4 bytes)"),
    (arp(lengths=(6, 16)), "protocol 0x0800 (16 bytes)"),
    (arp(lengths=(8, 4)), "hardware type 1 (8 bytes)"),
    (arp(opcode=3), "ARP opcode is 3; only request (1) and reply (2) make claims"),
    (arp(sender=bytes(4), target=bytes(4)), "ARP opcode 1 from 0.0.0.0 names no address to claim"),
    (arp(opcode=2, sender=bytes(4)), "ARP opcode 2 from 0.0.0.0 names no address to claim"),
    (NA_FRAME[:53], "IPv6 header is cut short at byte 53"),
    (icmpv6(b"")[:54], "ICMPv6 message has 0 bytes; must have at least 24"),
    (with_byte(NA_FRAME, 14, 0x40), "IP version is 4; must be 6"),
    (with_byte(NA_FRAME, 20, 0), "IPv6 next header is 0; only ICMPv6 (58) makes claims"),
    (icmpv6(advertisement(TLLA))[:-1], "IPv6 payload has 31 of 32 bytes"),
    (icmpv6(advertisement(), hop_limit=254), "hop limit is 254; must be 255"),
    (icmpv6(advertisement()[:23]), "ICMPv6 message has 23 bytes; must have at least 24"),
    (icmpv6(advertisement(), flip=0x0100), "ICMPv6 checksum is wrong"),
    (icmpv6(neighbour(128)), "ICMPv6 type is 128; only"),
    (icmpv6(neighbour(133), source=bytes(16)), "ICMPv6 type is 133; only"),
    (icmpv6(advertisement(code=1)), "ICMPv6 code is 1; must be 0"),
    (probe(code=1), "ICMPv6 code is 1; must be 0"),
    (icmpv6(advertisement(to=ALL_NODES)), "target is a multicast address"),
    (probe(target=ALL_NODES), "target is a multicast address"),
    (
        icmpv6(advertisement(flags=0x60)),
        "advertisement to a multicast address has the Solicited flag",
    ),
    (icmpv6(advertisement(b"\x0e\x00" + bytes(6))), HAS_LEFT.format(0, 8)),
    (icmpv6(advertisement(TLLA + b"\x0e\x02" + bytes(6))), HAS_LEFT.format(16, 8)),
    (icmpv6(advertisement(TLLA + b"\x0e")), HAS_LEFT.format(0, 1)),
    (
        icmpv6(advertisement(b"\x02\x02" + bytes(14))),
        "target link-layer address has 14 bytes; must be 6",
    ),
    (
        icmpv6(neighbour(135, SLLA), destination=SOLICITED_NODE),
        "solicitation comes from an address, so it is no probe",
    ),
    (
        probe(destination=ALL_NODES),
        "solicitation from :: is not to a solicited-node multicast address",
    ),
    (probe(SLLA), "solicitation from :: has a source link-layer address"),
]


@pytest.mark.parametrize(("frame", "message"), REFUSED)
def test_decode_frame_without_claim_raises_with_reason(frame: bytes, message: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode(frame)
    assert message in str(caught.value)


ACCEPTED = [
    (NA_FRAME, answer(THEIRS, V6)),
    (icmpv6(advertisement(TLLA, flags=0x60), destination=V6_ROUTER), answer(THEIRS, V6)),
    (icmpv6(advertisement(b"\x0e\x02" + bytes(14) + b"\x02\x01" + OURS)), answer(OURS, V6)),
    (icmpv6(advertisement(flags=0x3F)), answer(THEIRS, V6)),  # reserved flags
    (icmpv6(advertisement(TLLA)) + b"\xff" * 3, answer(THEIRS, V6)),  # bytes after the packet
    (probe(), Claim(THEIRS, V6, probe=True)),  # without a nonce
    # Traffic class and flow label.
    (NA_FRAME[:14] + bytes.fromhex("6e012345") + NA_FRAME[18:], answer(THEIRS, V6)),
]


@pytest.mark.parametrize(("frame", "claim"), ACCEPTED)
def test_decode_unusual_frame_gives_claim(frame: bytes, claim: Claim) -> None:
    assert decode(frame) == claim


# -- decoding: random bytes ---------------------------------------------------------------

CORPUS = [
    *(golden.read(name) for name in golden.names("frames")),
    *(frame for frame, _message in REFUSED),
    *(frame for frame, _claim in ACCEPTED),
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


@property_settings(500)
@given(st.one_of(st.binary(max_size=120), spoiled_frames()))
def test_decode_any_bytes_gives_claim_or_raises_frame_error(frame: bytes) -> None:
    claim = claim_or_none(frame)
    if claim is not None:
        assert len(claim.hardware_address) == 6
        assert len(claim.address) in (4, 16)
        assert any(claim.address) or not claim.probe


@pytest.mark.parametrize("name", CLAIMS)
def test_decode_truncated_frame_gives_same_claim_or_none(name: str) -> None:
    frame = golden.read(f"frames/{name}")
    needed = {"arp-reply-tagged": 46, "dad-probe": 78}.get(name, 42 if "arp" in name else 86)
    for length in range(len(frame) + 1):
        expected = CLAIMS[name] if length >= needed else None
        assert claim_or_none(frame[:length]) == expected, f"cut to {length} bytes"
