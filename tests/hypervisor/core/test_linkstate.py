"""Link messages: those of a real bond in a failover, and variants of them made by hand."""

from __future__ import annotations

import re
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.linkstate import Bond, BondPort, LinkReport, LinkSnapshot
from garp_agent.wire.model import LinkGone
from garp_agent.wire.rtnetlink import DecodeError, DumpDone, DumpInterrupted
from tests import golden

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)

HEADERS = Path("/usr/include/linux")

PORT_UP, PORT_DOWN = BondPort(True, linkstate.LINK_UP), BondPort(True, linkstate.LINK_DOWN)
BOND0 = LinkSnapshot(
    ifindex=6,
    name="bond0",
    flags=0x11443,
    master_ifindex=7,
    kind="bond",
    port_kind="bridge",
    bond=Bond(linkstate.MODE_ACTIVE_BACKUP, active_ifindex=5),
)
UP1 = LinkSnapshot(5, "up1", 0x11843, 6, "veth", "bond", bond_port=PORT_UP)
UP0 = LinkSnapshot(3, "up0", 0x1803, 6, "veth", "bond", bond_port=PORT_DOWN)

GOLDEN: dict[str, list[Any]] = {
    "link-bond-failover": [LinkReport(BOND0, linkstate.EVENT_BONDING_FAILOVER)],
    "link-bond-notify-peers": [LinkReport(BOND0, linkstate.EVENT_NOTIFY_PEERS)],
    "link-bond-port": [LinkReport(UP1)],
    "link-bond-port-lost": [LinkReport(UP0)],
    "link-vlan": [LinkReport(LinkSnapshot(8, "bond0.5", 0x1002, kind="vlan"))],
    "link-vrf-port": [LinkReport(LinkSnapshot(11, "dum0", 0x82, 10, "dummy", "vrf"))],
    "link-odd-name": [LinkReport(LinkSnapshot(19, "w\udcffx", 0x82, kind="dummy"), dumped=True)],
    "link-bridge-port": [],
    "link-bridge-port-left": [],
    "link-gone": [LinkGone(13)],
    "address-ipv4": [],
    "forwarding": [],
    "dump-done": [DumpDone(7)],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_decode_golden_datagram_gives_its_messages(name: str) -> None:
    assert linkstate.decode(golden.read(f"rtnetlink/{name}")) == GOLDEN[name]


def test_decode_interrupted_dump_marks_the_interruption_and_the_links() -> None:
    interrupted, *reports = linkstate.decode(golden.read("rtnetlink/dump-interrupted"))
    assert interrupted == DumpInterrupted(13)
    assert reports
    assert all(isinstance(report, LinkReport) and report.dumped for report in reports)


# -- numbers ----------------------------------------------------------------------------


def plain(names: dict[str, int], prefix: str) -> dict[str, int]:
    """Return the constants with this prefix, by the rest of their names without underscores."""
    return {
        name[len(prefix) :].replace("_", ""): value
        for name, value in names.items()
        if name.startswith(prefix)
    }


@pytest.mark.skipif(not HEADERS.exists(), reason=f"{HEADERS} is not installed")
def test_numbers_are_those_of_the_kernel_headers() -> None:
    ours = vars(linkstate)
    defines = re.findall(r"#define\s+(\w+)\s+(\d+)\b", (HEADERS / "if_bonding.h").read_text())
    kernel = {name: int(value) for name, value in defines}
    assert plain(ours, "MODE_") == plain(kernel, "BOND_MODE_")
    assert plain(ours, "LINK_") == plain(kernel, "BOND_LINK_")
    names = re.findall(r"^\s+(IFLA_EVENT_\w+),", (HEADERS / "if_link.h").read_text(), re.MULTILINE)
    events = {name: value for value, name in enumerate(names)}
    assert plain(ours, "EVENT_").items() <= plain(events, "IFLA_EVENT_").items()


# -- bonds in other states --------------------------------------------------------------


def attribute(attribute_type: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), attribute_type) + value + bytes(-len(value) % 4)


def new_link(*attributes: bytes, flags: int = 0x11443) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, 6, flags, 0) + attribute(3, b"bond0\0")
    body += b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body


def linkinfo(kind: bytes, *data: bytes, of: int = 1) -> bytes:
    """IFLA_LINKINFO with IFLA_INFO_KIND and _DATA, or with _SLAVE_KIND and _SLAVE_DATA (of=4)."""
    return attribute(18, attribute(of, kind) + attribute(of + 1, b"".join(data)))


MODE_1, STATE_BACKUP = attribute(1, b"\x01"), attribute(1, b"\x01")
NINE = struct.pack("=I", 9)


@pytest.mark.parametrize(
    ("attributes", "bond", "port"),
    [
        ([linkinfo(b"bond\0", attribute(1, b"\x04"))], Bond(linkstate.MODE_8023AD), None),
        ([linkinfo(b"bond\0", MODE_1)], Bond(1, 0), None),  # all ports are down
        ([linkinfo(b"bond\0", MODE_1, attribute(2, NINE))], Bond(1, 9), None),
        ([linkinfo(b"bond\0")], None, None),
        ([attribute(18, attribute(1, b"bond\0"))], None, None),
        ([linkinfo(b"team\0", MODE_1)], None, None),
        ([linkinfo(b"bond\0", attribute(1, b"\0"), attribute(2, b"\0"), of=4)], None, PORT_UP),
        (
            [linkinfo(b"bond\0", STATE_BACKUP, attribute(2, b"\x03"), of=4)],
            None,
            BondPort(False, linkstate.LINK_BACK),
        ),
        ([linkinfo(b"bond\0", of=4)], None, None),
        ([linkinfo(b"bridge\0", attribute(1, b"\x03"), of=4)], None, None),
        ([], None, None),
    ],
)
def test_decode_bond_data_gives_bond_and_port(
    attributes: list[bytes], bond: Bond | None, port: BondPort | None
) -> None:
    [found] = linkstate.decode(new_link(*attributes))
    assert isinstance(found, LinkReport)
    assert (found.link.bond, found.link.bond_port) == (bond, port)


def test_decode_unknown_event_gives_its_number() -> None:
    [found] = linkstate.decode(new_link(attribute(44, NINE)))
    assert isinstance(found, LinkReport)
    assert found.event == 9


@pytest.mark.parametrize(
    ("flags", "carrier"), [(0x10001, True), (0x10000, False), (0x00001, False), (0, False)]
)
def test_carrier_needs_both_flags(flags: int, carrier: bool) -> None:
    assert LinkSnapshot(1, "eth0", flags).has_carrier is carrier


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (linkinfo(b"bond\0", attribute(1, b"")), "attribute 1 is empty; must have 1 byte"),
        (linkinfo(b"bond\0", MODE_1, attribute(2, b"\x09")), "attribute 2 has 1 bytes; must have"),
        (
            linkinfo(b"bond\0", b"\x09\0\x01\0", of=4),
            "attribute 1 at byte 0 gives its length as 9 of 4 bytes",
        ),
    ],
)
def test_decode_inconsistent_lengths_is_refused(info: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        linkstate.decode(new_link(info))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_decode_any_bytes_gives_messages_or_a_decode_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GOLDEN)))
    datagram = bytearray(golden.read(f"rtnetlink/{name}"))
    for _ in range(data.draw(st.integers(0, 4))):
        datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        linkstate.decode(bytes(datagram))
