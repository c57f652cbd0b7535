"""Link messages: those of a real bond in a failover, and variants of them made by hand.

tests/guest/core/test_kernel.py has the format of messages and attributes, tests/fuzz any bytes.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.linkstate import (
    Bond,
    BondPort,
    LinkReport,
    LinkSnapshot,
    PortStateReport,
    VlanTag,
)
from garp_agent.wire.model import LinkGone
from garp_agent.wire.rtnetlink import DecodeError, DumpDone, DumpInterrupted
from tests import golden

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)

HEADERS = Path("/usr/include/linux")
ACTIVE = Bond(linkstate.MODE_ACTIVE_BACKUP, active_ifindex=5)
MAC = bytes.fromhex("020000000100")
BOND0 = LinkSnapshot(6, "bond0", 0x11443, 7, "bond", "bridge", ACTIVE, None, 3, 0, MAC)
USED, LOST = BondPort(True, linkstate.LINK_UP), BondPort(True, linkstate.LINK_DOWN)
UP1 = LinkSnapshot(5, "up1", 0x11843, 6, "veth", "bond", None, USED, None, 4, MAC)
UP0 = LinkSnapshot(3, "up0", 0x1803, 6, "veth", "bond", None, LOST, None, 2, MAC)
VLAN = LinkSnapshot(
    8, "bond0.5", 0x1002, 0, "vlan", lower_ifindex=6, hardware_address=MAC, vlan=VlanTag(0x8100, 5)
)


def other(ifindex: int, name: str, flags: int, mac: str, **more: Any) -> LinkSnapshot:
    return LinkSnapshot(ifindex, name, flags, hardware_address=bytes.fromhex(mac), **more)


VRF_PORT = other(11, "dum0", 0x82, "7a3c9ddb0966", master_ifindex=10, kind="dummy", port_kind="vrf")
ODD_NAME = other(19, "w\udcffx", 0x82, "eab8787bfb7d", kind="dummy")
ELSEWHERE = other(17, "here0", 0x1002, "4a8bfbf41026", kind="veth")  # IFLA_LINK is not ours
GOLDEN: dict[str, list[Any]] = {
    "rtnetlink/link-bond-failover": [LinkReport(BOND0, linkstate.EVENT_BONDING_FAILOVER)],
    "rtnetlink/link-bond-notify-peers": [LinkReport(BOND0, linkstate.EVENT_NOTIFY_PEERS)],
    "rtnetlink/link-bond-port": [LinkReport(UP1)],
    "rtnetlink/link-bond-port-lost": [LinkReport(UP0, packets=(6, 12))],
    "rtnetlink/link-vlan": [LinkReport(VLAN)],
    "rtnetlink/link-vrf-port": [LinkReport(VRF_PORT)],
    "rtnetlink/link-odd-name": [LinkReport(ODD_NAME, dumped=True)],
    "rtnetlink/link-veth-elsewhere": [LinkReport(ELSEWHERE, dumped=True)],
    "rtnetlink/link-bridge-port": [PortStateReport(6, 7, linkstate.STATE_DISABLED)],
    "rtnetlink/link-bridge-port-left": [],
    "topology/port-states": [PortStateReport(8, 37, state) for state in (1, 1, 1, 2, 3)],
    "topology/bridge-table": [],
    "rtnetlink/link-gone": [LinkGone(13)],
    "rtnetlink/dump-done": [DumpDone(7)],
    **{f"rtnetlink/{name}": [] for name in ("address-ipv4", "forwarding")},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_decode_golden_datagram_gives_its_messages(name: str) -> None:
    assert linkstate.decode(golden.read(name)) == GOLDEN[name]


def test_decode_interrupted_dump_marks_the_interruption_and_the_links() -> None:
    interrupted, *reports = linkstate.decode(golden.read("rtnetlink/dump-interrupted"))
    assert interrupted == DumpInterrupted(13)
    assert reports
    assert all(isinstance(report, LinkReport) and report.dumped for report in reports)


def constants(names: dict[str, int], prefix: str) -> dict[str, int]:
    """Return the constants with this prefix, by the rest of their names without underscores."""
    found = {name: value for name, value in names.items() if name.startswith(prefix)}
    return {name[len(prefix) :].replace("_", ""): value for name, value in found.items()}


@pytest.mark.skipif(not HEADERS.exists(), reason=f"{HEADERS} is not installed")
def test_numbers_are_those_of_the_kernel_headers() -> None:
    ours = vars(linkstate)
    defines = re.findall(r"#define\s+(\w+)\s+(\d+)\b", (HEADERS / "if_bonding.h").read_text())
    kernel = {name: int(value) for name, value in defines}
    assert constants(ours, "MODE_") == constants(kernel, "BOND_MODE_")
    states = re.findall(r"#define\s+(BR_\w+)\s+(\d+)", (HEADERS / "if_bridge.h").read_text())
    bridge = {name: int(value) for name, value in states}
    assert constants(ours, "STATE_") == constants(bridge, "BR_STATE_")
    assert constants(ours, "LINK_") == constants(kernel, "BOND_LINK_")
    names = re.findall(r"^\s+(IFLA_EVENT_\w+),", (HEADERS / "if_link.h").read_text(), re.MULTILINE)
    events = {name: value for value, name in enumerate(names)}
    assert constants(ours, "EVENT_").items() <= constants(events, "IFLA_EVENT_").items()


# -- bonds in other states --------------------------------------------------------------


def attribute(attribute_type: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), attribute_type) + value + bytes(-len(value) % 4)


def new_link(attributes: bytes) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, 6, 0x11443, 0) + attribute(3, b"bond0\0") + attributes
    return struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body


def linkinfo(kind: bytes, *data: bytes, of: int = 1) -> bytes:
    """IFLA_LINKINFO with IFLA_INFO_KIND and _DATA, or (of=4) _SLAVE_KIND and _SLAVE_DATA."""
    return attribute(18, attribute(of, kind) + attribute(of + 1, b"".join(data)))


MODE_1, BACKUP, LINK_3 = attribute(1, b"\x01"), attribute(1, b"\x01"), attribute(2, b"\x03")
NINE = struct.pack("=I", 9)


@pytest.mark.parametrize(
    ("attributes", "bond", "port"),
    [
        (linkinfo(b"bond\0", attribute(1, b"\x04")), Bond(linkstate.MODE_8023AD), None),
        (linkinfo(b"bond\0", MODE_1), Bond(1, 0), None),  # all ports are down
        (linkinfo(b"bond\0", MODE_1, attribute(2, NINE)), Bond(1, 9), None),
        (linkinfo(b"bond\0"), None, None),
        (attribute(18, attribute(1, b"bond\0")), None, None),
        (linkinfo(b"team\0", MODE_1), None, None),
        (linkinfo(b"bond\0", BACKUP, LINK_3, of=4), None, BondPort(False, linkstate.LINK_BACK)),
        (linkinfo(b"bond\0", of=4), None, None),
        (linkinfo(b"bridge\0", attribute(1, b"\x03"), of=4), None, None),
        (b"", None, None),
    ],
)
def test_decode_bond_data_gives_bond_and_port(
    attributes: bytes, bond: Bond | None, port: BondPort | None
) -> None:
    [found] = linkstate.decode(new_link(attributes + attribute(44, NINE)))
    assert isinstance(found, LinkReport)
    assert (found.link.bond, found.link.bond_port, found.event) == (bond, port, 9)


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        (attribute(38, b"pf0vf3\0") + attribute(57, b"pci\0"), ("pf0vf3", "pci", 0, None)),
        (attribute(5, NINE), ("", "", 9, None)),
        (attribute(5, NINE) + attribute(37, NINE), ("", "", 0, None)),  # of another namespace
        (linkinfo(b"vxlan\0", attribute(3, NINE)), ("", "", 9, None)),
        (linkinfo(b"vxlan\0"), ("", "", 0, None)),
        (linkinfo(b"bridge\0", attribute(1, b"\x04"), of=4), ("", "", 0, 4)),
        (linkinfo(b"bridge\0", of=4), ("", "", 0, None)),
        (linkinfo(b"bond\0", attribute(1, b"\x04"), of=4), ("", "", 0, None)),
    ],
)
def test_decode_gives_the_place_of_a_link(attributes: bytes, found: tuple[Any, ...]) -> None:
    [report] = linkstate.decode(new_link(attributes))
    assert isinstance(report, LinkReport)
    link = report.link
    assert (link.port_name, link.bus, link.lower_ifindex, link.port_state) == found


def test_decode_attribute_without_value_is_refused() -> None:
    with pytest.raises(DecodeError, match="attribute 1 is empty; must have 1 byte"):
        linkstate.decode(new_link(linkinfo(b"bond\0", attribute(1, b""))))


@pytest.mark.parametrize(("flags", "carrier"), [(0x10001, True), (0x10000, False), (1, False)])
def test_carrier_needs_both_flags(flags: int, carrier: bool) -> None:
    assert LinkSnapshot(1, "eth0", flags).has_carrier is carrier
