"""Learning frames planned from the kernel's own dumps of one host, and what is wrong in dumps.

bond0 in br0: p0, q0 (veths), vnet0 (its guest has sent), vnet1 (its guest has not)
br0.60 in br60: p60
bond0.100 in br100: p100 · bond0.200: macvtap mt0 · bond0, 802.1ad 50, 802.1Q 7 in br7: p7
bond1 in br1, which filters VLANs: pa has 100; pt has 1, 200, 300 to 310 and 400, of which bond1
lacks some; pi has 100 and is isolated, as bond1 is; pl is locked; vx1 is a vxlan
bond2 (balance-xor) in br2, bond3 in br3: 802.1ad bridges; p3 has 9
"""

from __future__ import annotations

import struct
import sys
from itertools import permutations
from typing import Any

import pytest

from garp_agent.hypervisor.core import bridge_tables, learning_plan, linkstate
from garp_agent.hypervisor.core.bridge_tables import TableEntry, read_entry
from garp_agent.hypervisor.core.bridge_vlans import PortVlans, VlanRange, read_vlans
from garp_agent.hypervisor.core.learning_memory import LearningMemory
from garp_agent.hypervisor.core.learning_plan import LearningPlan, Moment
from garp_agent.hypervisor.core.learning_rules import LearningRules
from garp_agent.hypervisor.core.link_counters import LinkCounters, read_counters
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    BridgeOptions,
    LinkReport,
    LinkSnapshot,
    PortOptions,
    VlanTag,
)
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.wire import rtnetlink
from garp_agent.wire.rtnetlink import DecodeError
from tests import golden
from tests.hypervisor.core.learning import guest, shown

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)


def recorded(name: str) -> list[Any]:
    readers: dict[int, Any] = {
        rtnetlink.RTM_NEWLINK: read_vlans,
        rtnetlink.RTM_NEWNEIGH: read_entry,
        rtnetlink.RTM_NEWSTATS: read_counters,
    }
    return rtnetlink.decode(readers, golden.read(f"topology/learning-{name}"))


def links() -> dict[str, LinkSnapshot]:
    found = linkstate.decode(golden.read("topology/learning-links"))
    return {each.link.name: each.link for each in found if isinstance(each, LinkReport)}


@pytest.fixture(scope="module")
def plan() -> LearningPlan:
    table = LinkTable()
    for link in links().values():
        table.apply(LinkReport(link))
    topology, memory = Topology(table), LearningMemory()
    memory.take(recorded("table"), recorded("counters"), table, topology, 100.0)
    vlans = {each.ifindex: each for each in recorded("vlans")}
    return learning_plan.plan_learning(
        table, topology, vlans, memory, LearningRules(), Moment(100.0)
    )


def test_recorded_host_gets_these_frames(plan: LearningPlan) -> None:
    bond0, br0, br1 = (links()[name].hardware_address.hex(":") for name in ("bond0", "br0", "br1"))
    br3 = links()["br3"].hardware_address.hex(":")
    assert sorted((each.port, *shown(each)) for each in plan.entries) == [
        ("br0", br0, "", "bond0"),
        ("br1", br1, "", "bond1"),
        ("br100", bond0, "100", "bond0"),
        ("br3", br3, "", "bond3"),
        ("br60", br0, "60", "bond0"),
        ("br7", bond0, "88a8:50 7", "bond0"),
        ("mt0", guest(0xF0).hex(":"), "200", "bond0"),
        ("p0", guest(1).hex(":"), "", "bond0"),
        ("p100", guest(2).hex(":"), "100", "bond0"),
        ("p3", guest(0x33).hex(":"), "88a8:9", "bond3"),
        ("p60", guest(0x60).hex(":"), "60", "bond0"),
        ("p7", guest(7).hex(":"), "88a8:50 7", "bond0"),
        ("pa", guest(0x0A).hex(":"), "100", "bond1"),
        ("pa", guest(0xE1).hex(":"), "100", "bond1"),
        ("pt", guest(0x0B).hex(":"), "", "bond1"),
        ("pt", guest(0x0B).hex(":"), "200", "bond1"),
        ("pt", guest(0x0B).hex(":"), "305", "bond1"),
        ("q0", guest(2).hex(":"), "", "bond0"),
        ("vnet0", guest(0x71).hex(":"), "", "bond0"),
    ]


def test_recorded_host_leaves_these_out(plan: LearningPlan) -> None:
    found = sorted((each.port, each.reason, each.detail) for each in plan.left_out)
    assert found == [
        ("br2", "bond-mode", "bond2 sends through several ports at once"),
        ("p2", "bond-mode", "bond2 sends through several ports at once"),
        ("pi", "no-path", "bond1 is isolated from it"),
        ("pl", "locked", "pl is locked"),
        ("pt", "no-path", "bond1 does not let VLAN 310 out"),
        ("pt", "no-path", "bond1 does not let VLAN 400 out"),
        ("vnet1", "never-sent", "its guest has not sent a frame yet"),
    ]


def test_recorded_entries_have_age_vlan_and_trust() -> None:
    index = {name: link.ifindex for name, link in links().items()}
    table = {each[:2]: each for each in recorded("table")}
    again, once = table[guest(2), index["q0"]], table[guest(1), index["p0"]]
    assert table[guest(0x0D), index["pl"]] == TableEntry(
        guest(0x0D), index["pl"], index["br1"], 1, 1.71, False
    )
    assert (once.age > 1, again.age < 1) == (True, True)
    assert (guest(0xE0), index["pa"]) not in table  # told by a control plane
    assert table[guest(0xE1), index["pa"]].is_trusted


def test_recorded_vlan_tables_are_read_as_ranges() -> None:
    vlans = {each.ifindex: each for each in recorded("vlans")}
    index = {name: link.ifindex for name, link in links().items()}
    bond1 = (VlanRange(1, 1, untagged=True), *(VlanRange(n, n) for n in (100, 200)))
    expected = PortVlans(index["bond1"], index["br1"], (*bond1, VlanRange(300, 305)), 1)
    assert vlans[index["bond1"]] == expected
    assert vlans[index["pa"]].pvid == 100
    assert vlans[index["br1"]].bridge_ifindex == index["br1"]
    assert vlans[index["pt"]].range_of(310) == VlanRange(300, 310)


def test_recorded_links_have_the_options_of_bridges_ports_and_vlans() -> None:
    found = links()
    assert found["br0"].bridge == BridgeOptions()
    assert found["br1"].bridge == BridgeOptions(filters_vlans=True)
    assert found["br3"].bridge == BridgeOptions(filters_vlans=True, vlan_protocol=0x88A8)
    assert found["br0.60"].vlan == VlanTag(0x8100, 60)
    assert found["pi"].port_options == PortOptions(isolated=True)
    assert found["pl"].port_options == PortOptions(locked=True)
    assert found["mt0"].port_options == PortOptions()


def test_recorded_counters_are_read() -> None:
    index = {name: link.ifindex for name, link in links().items()}
    counters = {each.ifindex: each for each in recorded("counters")}
    assert counters[index["vnet0"]].received == 1
    assert counters[index["vnet1"]].received == 0
    assert counters[index["mt0"]].sent == 1


# -- dumps made by hand -----------------------------------------------------------------


def attribute(attribute_type: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), attribute_type) + value + bytes(-len(value) % 4)


def vlans(*info: tuple[int, int], family: int = 7) -> bytes:
    body = struct.pack("=BxHiII", family, 1, 9, 0, 0)
    nested = b"".join(attribute(2, struct.pack("=HH", *each)) for each in info)
    return body + attribute(10, struct.pack("=I", 8)) + attribute(26, nested + attribute(1, b"\0"))


@pytest.mark.parametrize(
    ("info", "ranges", "pvid"),
    [
        ([], (), 0),
        ([(0x06, 5)], (VlanRange(5, 5, untagged=True),), 5),
        ([(0x0C, 5), (0x14, 9)], (VlanRange(5, 9, untagged=True),), 0),
        ([(0x10, 9)], (VlanRange(9, 9),), 0),  # an end without a begin
        ([(0x08, 9), (0x10, 5)], (), 0),
        ([(0, 4095)], (), 0),
    ],
)
def test_vlans_of_a_port_are_ranges_and_a_pvid(
    info: list[tuple[int, int]], ranges: tuple[VlanRange, ...], pvid: int
) -> None:
    data = vlans(*info)
    assert read_vlans(data, 0, len(data), True) == (PortVlans(9, 8, ranges, pvid),)


def test_vlans_of_another_family_are_skipped() -> None:
    data = vlans((0, 5), family=0)
    assert read_vlans(data, 0, len(data), True) == ()


def test_counters_that_are_cut_short_are_refused_and_missing_ones_skipped() -> None:
    header = struct.pack("=B3xII", 0, 9, 1)
    assert read_counters(header, 0, len(header), True) == ()
    data = header + attribute(1, bytes(8))
    with pytest.raises(DecodeError, match="body has 8 bytes"):
        read_counters(data, 0, len(data), True)
    data = header + attribute(1, struct.pack("=QQ", 3, 4))
    assert read_counters(data, 0, len(data), True) == (LinkCounters(9, 3, 4),)


def test_table_of_learnt_addresses_is_that_of_the_entries() -> None:
    decoded = bridge_tables.decode(golden.read("topology/learning-table"))
    assert decoded == [each[:2] for each in recorded("table")]


@pytest.mark.parametrize("order", list(permutations((2, 9, 15, 3))))
def test_entry_is_read_in_whatever_order_its_attributes_come(order: tuple[int, ...]) -> None:
    address, bridge, locked = bytes.fromhex("525400000001"), 7, 2
    values = {2: address, 9: struct.pack("=I", bridge), 15: struct.pack("=I", locked)}
    values[3] = struct.pack("=IIII", 0, 0, 150, 0)
    head = struct.pack("=BxxxIHBB", rtnetlink.AF_BRIDGE, 5, 0, 0, 0)
    data = head + b"".join(attribute(number, values[number]) for number in order)
    assert read_entry(data, 0, len(data), True) == (TableEntry(address, 5, bridge, 0, 1.5, False),)
