"""Which frames are announcements, and which faults they have."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.diagnosis.sighting import BROADCAST, Sighting, dissect
from tests import golden

A = "02:00:00:00:00:0a"
MAC = bytes.fromhex("02000000000a")
ADDRESS = bytes([192, 0, 2, 1])
OTHER = bytes([192, 0, 2, 2])
OTHER_MAC = bytes.fromhex("02000000000b")
NA = "unsolicited-na"
ALL = b"\xff" * 6


def arp(
    opcode: int = 1,
    sender: bytes = ADDRESS,
    target: bytes = ADDRESS,
    *,
    ethertype: bytes = b"\x08\x06",
    destination: bytes = ALL,
    source: bytes = MAC,
    hardware_address: bytes = MAC,
) -> bytes:
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, opcode)
    return destination + source + ethertype + header + hardware_address + sender + bytes(6) + target


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
        arp(2, ADDRESS, OTHER, destination=b"\x02" + bytes(5)),  # its answer
        ANSWER,
    ],
)
def test_other_neighbour_traffic_is_none(frame: bytes) -> None:
    assert dissect(frame) is None


@pytest.mark.parametrize(
    ("frame", "kind", "fault"),
    [
        (arp(2, ADDRESS, OTHER), "arp-reply", "broadcast reply to 192.0.2.2"),
        (arp(1, bytes(4), bytes(4)), "arp-request", "announces 0.0.0.0"),
        (arp(3), "rarp", "RARP opcode 3 in an ARP frame: peers ignore it"),
        (arp(9), "arp-opcode-9", "opcode 9: peers ignore it"),
        (arp(1, ethertype=b"\x80\x35"), "rarp", "opcode 1 in a RARP frame, 3 is expected"),
        (arp(source=OTHER_MAC), "arp-request", f"sent by 02:00:00:00:00:0b, announces {A}"),
        (
            arp(source=ALL, hardware_address=ALL),
            *("arp-request", "announces a group's hardware address"),
        ),
        (
            arp(source=bytes(6), hardware_address=bytes(6)),
            *("arp-request", "announces no hardware address"),
        ),
        # Offsets are those of the annotated golden frame.
        (spoilt(21, 64), NA, "hop limit 64, must be 255"),
        (spoilt(56, 0xF9, 0x22), NA, "wrong checksum"),
        # The flag is part of the sum.
        (spoilt(56, 0xB9, 0x21, 0x60), NA, "solicited flag in an advertisement to all"),
        (spoilt(55, 1, 0xF9, 0x20), NA, "ICMPv6 code 1, must be 0"),
        (spoilt(6, *OTHER_MAC), NA, f"sent by 02:00:00:00:00:0b, announces {A}"),
    ],
)
def test_irregular_frame_has_its_fault(frame: bytes, kind: str, fault: str) -> None:
    sighting = seen(frame)
    assert (sighting.kind, sighting.faults) == (kind, (fault,))


def test_arp_destination_target_and_length_are_read() -> None:
    sighting = seen(arp())
    assert sighting.destination == BROADCAST
    assert (sighting.target_hardware_address, sighting.length) == ("00:00:00:00:00:00", 42)


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
