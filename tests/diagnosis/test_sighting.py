"""Which frames are announcements, and which faults they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from garp_agent.diagnosis.sighting import BROADCAST, Sighting, dissect
from tests import golden

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ADDRESS, OTHER, NONE = "192.0.2.1", "192.0.2.2", "0.0.0.0"
ZERO_MAC = "00:00:00:00:00:00"
NA = "unsolicited-na"


def arp(
    opcode: int = 1,
    sender: str = ADDRESS,
    target: str = ADDRESS,
    *,
    ethertype: int = 0x0806,
    destination: str = BROADCAST,
    source: str = A,
    mac: str = A,
) -> bytes:
    body = ARP(op=opcode, hwsrc=mac, psrc=sender, hwdst=ZERO_MAC, pdst=target)
    return bytes(Ether(type=ethertype, dst=destination, src=source) / body)


def seen(frame: bytes) -> Sighting:
    sighting = dissect(frame)
    assert sighting is not None
    return sighting


@pytest.mark.parametrize(
    ("name", "kind", "address", "router", "override"),
    [
        ("arp-announcement", "arp-request", "192.0.2.1", False, False),
        ("arp-probe", "arp-probe", "192.0.2.77", False, False),
        ("arp-reply", "arp-reply", "192.0.2.1", False, False),
        ("arp-unpadded-iputils", "arp-request", "192.0.2.1", False, False),
        ("rarp", "rarp", "", False, False),
        ("unsolicited-na", "unsolicited-na", "2001:db8::1", False, True),
        ("unsolicited-na-optimistic", "unsolicited-na", "2001:db8::1", False, False),
        ("unsolicited-na-router", "unsolicited-na", "2001:db8::2", True, True),
    ],
)
def test_announcement_of_each_kind_is_read(
    name: str, kind: str, address: str, router: bool, override: bool
) -> None:
    sighting = seen(golden.read(f"frames/{name}"))
    assert (sighting.kind, sighting.address, sighting.hardware_address) == (kind, address, A)
    assert (sighting.router, sighting.override) == (router, override)
    assert (sighting.vlan, sighting.faults) == ("", ())


@pytest.mark.parametrize(
    ("tags", "vlan"),
    [
        ("8100 0064", "100"),
        ("8100 e064", "100"),
        ("88a8 00c8 8100 0064", "200.100"),
        ("8100 2000", ""),
    ],
)
def test_tags_give_the_vlan(tags: str, vlan: str) -> None:
    frame = arp()
    sighting = seen(frame[:12] + bytes.fromhex(tags) + frame[12:])
    assert (sighting.kind, sighting.vlan) == ("arp-request", vlan)


GOOD_NA = golden.read("frames/unsolicited-na")


def spoilt(offset: int, *values: int) -> bytes:
    frame = bytearray(GOOD_NA)
    frame[offset : offset + len(values)] = values
    return bytes(frame)


ANSWER = spoilt(38, *bytes.fromhex("fe80" + 13 * "00" + "01" + "8800f921" + "60"))


@pytest.mark.parametrize(
    "frame",
    [
        golden.read("frames/arp-reply-tagged"),
        golden.read("frames/dad-solicitation"),
        arp(1, ADDRESS, OTHER),  # a question
        arp(2, ADDRESS, OTHER, destination=A),  # its answer
        ANSWER,
    ],
)
def test_other_neighbour_traffic_is_none(frame: bytes) -> None:
    assert dissect(frame) is None


@pytest.mark.parametrize(
    ("frame", "kind", "fault"),
    [
        (arp(2, ADDRESS, OTHER), "arp-reply", "broadcast reply to 192.0.2.2"),
        (arp(1, NONE, NONE), "arp-request", "announces 0.0.0.0"),
        (arp(3), "rarp", "RARP opcode 3 in an ARP frame: peers ignore it"),
        (arp(9), "arp-opcode-9", "opcode 9: peers ignore it"),
        (arp(1, ethertype=0x8035), "rarp", "opcode 1 in a RARP frame, 3 is expected"),
        (arp(source=B), "arp-request", f"sent by {B}, announces {A}"),
        (
            arp(source=BROADCAST, mac=BROADCAST),
            "arp-request",
            "announces a group's hardware address",
        ),
        (arp(source=ZERO_MAC, mac=ZERO_MAC), "arp-request", "announces no hardware address"),
        # Offsets are those of the annotated golden frame.
        (spoilt(21, 64), NA, "hop limit 64, must be 255"),
        (spoilt(56, 0xF9, 0x22), NA, "wrong checksum"),
        # The flag is part of the sum.
        (spoilt(56, 0xB9, 0x21, 0x60), NA, "solicited flag in an advertisement to all"),
        (spoilt(55, 1, 0xF9, 0x20), NA, "ICMPv6 code 1, must be 0"),
        (spoilt(11, 0x0B), NA, f"sent by {B}, announces {A}"),
    ],
)
def test_irregular_frame_has_its_fault(frame: bytes, kind: str, fault: str) -> None:
    sighting = seen(frame)
    assert (sighting.kind, sighting.faults) == (kind, (fault,))


def test_arp_destination_target_and_length_are_read() -> None:
    sighting = seen(arp())
    assert sighting.destination == BROADCAST
    assert (sighting.target_hardware_address, sighting.length) == (ZERO_MAC, 42)


def test_advertisement_without_hardware_address_is_a_fault() -> None:
    short = GOOD_NA[:18] + b"\0\x18" + GOOD_NA[20:78]
    assert "no target link-layer address: peers ignore it" in seen(short).faults


def test_advertisement_checksum_ignores_padding() -> None:
    assert seen(GOOD_NA + b"\x17" * 5).faults == ()


@given(st.binary(max_size=120))
def test_noise_never_raises(frame: bytes) -> None:
    dissect(frame)


@given(
    st.sampled_from(golden.names("frames")),
    *(st.integers(0, 90), st.binary(max_size=6), st.sampled_from([0, 90]) | st.integers(0, 90)),
)
def test_announcement_with_noise_or_cut_short_never_raises(
    name: str, offset: int, noise: bytes, lost: int
) -> None:
    frame = golden.read(name)
    sighting = dissect(frame[:offset] + noise + frame[offset + lost :])
    assert sighting is None or sighting.kind
