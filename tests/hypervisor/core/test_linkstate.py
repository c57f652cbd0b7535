"""Link snapshots: what a real bond sent during a failover, and what else might come."""

from __future__ import annotations

import re
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.linkstate import Bond, BondPort, LinkSnapshot
from garp_agent.wire.model import LinkGone
from garp_agent.wire.rtnetlink import DecodeError, DumpDone, DumpInterrupted
from tests import golden

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)

HEADERS = Path("/usr/include/linux")

BOND0 = LinkSnapshot(
    ifindex=6,
    name="bond0",
    flags=0x11443,
    master_ifindex=7,
    kind="bond",
    port_kind="bridge",
    event=linkstate.EVENT_BONDING_FAILOVER,
    bond=Bond(linkstate.MODE_ACTIVE_BACKUP, active_ifindex=5),
)

GOLDEN = {
    "link-bond-failover": [BOND0],
    "link-bond-notify-peers": [BOND0._replace(event=linkstate.EVENT_NOTIFY_PEERS)],
    "link-bond-port": [
        LinkSnapshot(
            ifindex=5,
            name="up1",
            flags=0x11843,
            master_ifindex=6,
            kind="veth",
            port_kind="bond",
            bond_port=BondPort(active=True, link=linkstate.LINK_UP),
        )
    ],
    "link-bond-port-lost": [
        LinkSnapshot(
            ifindex=3,
            name="up0",
            flags=0x1803,
            master_ifindex=6,
            kind="veth",
            port_kind="bond",
            bond_port=BondPort(active=True, link=linkstate.LINK_DOWN),
        )
    ],
    "link-vlan": [LinkSnapshot(8, "bond0.5", 0x1002, kind="vlan")],
    "link-vrf-port": [LinkSnapshot(11, "dum0", 0x82, 10, "dummy", "vrf")],
    "link-odd-name": [LinkSnapshot(19, "w\udcffx", 0x82, kind="dummy")],
    "link-bridge-port": [],
    "link-bridge-port-left": [],
    "link-gone": [LinkGone(13)],
    "address-ipv4": [],
    "forwarding": [],
    "dump-done": [DumpDone(7)],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_datagram_says_what_was_done(name: str) -> None:
    assert linkstate.decode(golden.read(f"rtnetlink/{name}")) == GOLDEN[name]


def test_an_interrupted_dump_is_told() -> None:
    told = linkstate.decode(golden.read("rtnetlink/dump-interrupted"))
    assert told[0] == DumpInterrupted(13)


# -- numbers ----------------------------------------------------------------------------


def plain(names: dict[str, int], prefix: str) -> dict[str, int]:
    """The constants with this prefix, their names without it and without underscores."""
    return {
        name[len(prefix) :].replace("_", ""): value
        for name, value in names.items()
        if name.startswith(prefix)
    }


@pytest.mark.skipif(not HEADERS.exists(), reason=f"{HEADERS} is not installed")
@pytest.mark.parametrize(("ours", "theirs"), [("MODE_", "BOND_MODE_"), ("LINK_", "BOND_LINK_")])
def test_modes_and_states_are_those_of_the_kernel(ours: str, theirs: str) -> None:
    defines = re.findall(r"#define\s+(\w+)\s+(\d+)\b", (HEADERS / "if_bonding.h").read_text())
    kernel = {name: int(value) for name, value in defines}
    assert plain(vars(linkstate), ours) == plain(kernel, theirs)


@pytest.mark.skipif(not HEADERS.exists(), reason=f"{HEADERS} is not installed")
def test_events_are_those_of_the_kernel() -> None:
    names = re.findall(r"^\s+(IFLA_EVENT_\w+),", (HEADERS / "if_link.h").read_text(), re.MULTILINE)
    kernel = plain({name: value for value, name in enumerate(names)}, "IFLA_EVENT_")
    assert plain(vars(linkstate), "EVENT_").items() <= kernel.items()


# -- bonds in other states --------------------------------------------------------------


def attribute(attribute_type: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), attribute_type) + value + bytes(-len(value) % 4)


def new_link(*attributes: bytes, flags: int = 0x11443) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, 6, flags, 0) + attribute(3, b"bond0\0")
    body += b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body


def bond(*data: bytes) -> bytes:
    return attribute(18, attribute(1, b"bond\0") + attribute(2, b"".join(data)))


def port(*data: bytes) -> bytes:
    return attribute(18, attribute(4, b"bond\0") + attribute(5, b"".join(data)))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((bond(attribute(1, b"\x04")),), Bond(linkstate.MODE_8023AD)),
        ((bond(attribute(1, b"\x01")),), Bond(linkstate.MODE_ACTIVE_BACKUP, 0)),  # all ports down
        (
            (bond(attribute(1, b"\x01"), attribute(2, struct.pack("=I", 9))),),
            Bond(linkstate.MODE_ACTIVE_BACKUP, 9),
        ),
        ((bond(),), None),
        ((attribute(18, attribute(1, b"bond\0")),), None),
        ((attribute(18, attribute(1, b"team\0") + attribute(2, attribute(1, b"\x01"))),), None),
        ((), None),
    ],
)
def test_a_bond(attributes: tuple[bytes, ...], expected: Bond | None) -> None:
    [found] = linkstate.decode(new_link(*attributes))
    assert isinstance(found, LinkSnapshot)
    assert found.bond == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((port(attribute(1, b"\x00"), attribute(2, b"\x00")),), BondPort(True, linkstate.LINK_UP)),
        (
            (port(attribute(1, b"\x01"), attribute(2, b"\x01")),),
            BondPort(False, linkstate.LINK_FAIL),
        ),
        (
            (port(attribute(1, b"\x01"), attribute(2, b"\x03")),),
            BondPort(False, linkstate.LINK_BACK),
        ),
        ((port(),), None),
        (
            (attribute(18, attribute(4, b"bridge\0") + attribute(5, attribute(1, b"\x03"))),),
            None,
        ),
        ((), None),
    ],
)
def test_a_port_of_a_bond(attributes: tuple[bytes, ...], expected: BondPort | None) -> None:
    [found] = linkstate.decode(new_link(*attributes))
    assert isinstance(found, LinkSnapshot)
    assert found.bond_port == expected


@pytest.mark.parametrize("event", range(8))
def test_the_event_is_told_as_it_is(event: int) -> None:
    [found] = linkstate.decode(new_link(attribute(44, struct.pack("=I", event))))
    assert isinstance(found, LinkSnapshot)
    assert found.event == event


@pytest.mark.parametrize(
    ("flags", "carrier"), [(0x10001, True), (0x10000, False), (0x00001, False), (0, False)]
)
def test_carrier(flags: int, carrier: bool) -> None:
    [found] = linkstate.decode(new_link(flags=flags))
    assert isinstance(found, LinkSnapshot)
    assert found.has_carrier is carrier


@pytest.mark.parametrize(
    ("datagram", "text"),
    [
        (new_link(bond(attribute(1, b""))), "attribute 1 is empty; must have 1 byte"),
        (
            new_link(bond(attribute(1, b"\x01"), attribute(2, b"\x09"))),
            "attribute 2 has 1 bytes; must have 4",
        ),
        (new_link(port(b"\x09\0\x01\0")), "attribute 1 at byte 0 gives its length as 9 of 4 bytes"),
    ],
)
def test_what_does_not_add_up_is_refused(datagram: bytes, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        linkstate.decode(datagram)
    assert text in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_messages_or_a_decode_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GOLDEN)))
    datagram = bytearray(golden.read(f"rtnetlink/{name}"))
    for _ in range(data.draw(st.integers(0, 4))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        linkstate.decode(bytes(datagram))
