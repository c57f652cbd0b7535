"""VLAN tags on the bond, for guest ports and links of the host."""

from __future__ import annotations

import pytest

from garp_agent.hypervisor.core.bridge_vlans import VlanRange
from garp_agent.hypervisor.core.linkstate import BridgeOptions, LinkSnapshot, PortOptions, VlanTag
from garp_agent.hypervisor.core.tagged_paths import NO_UPLINK, BondExit, TaggedPaths
from garp_agent.wire.model import IFF_UP
from tests.hypervisor.core.learning import FILTERS, UP, Host, bond, bridge, port, vlan

QINQ = BridgeOptions(filters_vlans=True, vlan_protocol=0x88A8)
ISOLATED = PortOptions(isolated=True)


def paths(host: Host) -> TaggedPaths:
    return TaggedPaths(host.table, host.topology, host.vlans)


def from_port(host: Host, ifindex: int, vlan: int = 0) -> tuple[list[tuple[int, ...]], str]:
    """Return the bond and the VLANs of each exit, and why there is none."""
    found = paths(host).from_port(host.table.links[ifindex], vlan)
    return [(each.bond_ifindex, *(tag.vlan for tag in each.tags)) for each in found.bonds], (
        found.refusal
    )


@pytest.mark.parametrize(
    ("links", "exits"),
    [
        ([bond(3, "bond0", 10)], [(3,)]),
        ([bond(3, "bond0"), vlan(4, "bond0.60", 3, 60, 10)], [(3, 60)]),
        ([bond(3, "bond0"), vlan(4, "v50", 3, 0x88A80032), vlan(5, "v7", 4, 7, 10)], [(3, 50, 7)]),
        ([bond(3, "bond0", 10), bond(4, "bond1", 10)], [(3,), (4,)]),
        ([bond(3, "bond0", 11), bridge(11, "br1"), vlan(5, "br1.60", 11, 60, 10)], [(3, 60)]),
    ],
)
def test_guest_port_on_plain_bridge_leaves_with_the_tags_of_the_vlans_below(
    links: list[LinkSnapshot], exits: list[tuple[int, ...]]
) -> None:
    host = Host(bridge(10, "br0"), port(20, "p0", 10), *links)
    assert from_port(host, 20) == (exits, "")
    assert from_port(host, 20, vlan=5) == (exits, "")  # such a bridge has VLAN tables too


def test_tag_keeps_the_protocol_of_its_vlan() -> None:
    host = Host(bond(3, "bond0"), vlan(4, "v50", 3, 0x88A80032), vlan(5, "v7", 4, 7))
    found = paths(host).from_link(host.table.links[5])
    assert found.bonds == (BondExit(3, (VlanTag(0x88A8, 50), VlanTag(0x8100, 7))),)


@pytest.mark.parametrize(
    ("links", "refusal"),
    [
        ([], NO_UPLINK),
        ([LinkSnapshot(3, "eth0", UP, 10, "", "bridge", bus="pci")], "eth0 is no bond"),
        ([LinkSnapshot(3, "vx1", UP, 10, "vxlan", "bridge")], "vx1 is no bond"),
        ([bond(3, "bond0", 10)._replace(port_state=4)], "bond0 does not forward (STP)"),
        ([vlan(4, "v60", 3, 60, 10)], "#3 is not known or in a circle"),
        (
            [bond(3, "bond0"), vlan(4, "v60", 3, 60, 10)._replace(flags=0)],
            "v60 is down",
        ),
        ([bond(3, "bond0"), vlan(4, "v60", 3, 60, 10)._replace(vlan=None)], "v60 is no bond"),
        ([vlan(4, "br0.5", 10, 5, 10)], "#10 is not known or in a circle"),
    ],
)
def test_guest_port_without_a_path_to_a_bond_says_why(
    links: list[LinkSnapshot], refusal: str
) -> None:
    host = Host(bridge(10, "br0"), port(20, "p0", 10), *links)
    found = from_port(host, 20)
    assert found[0] == []
    assert found[1] == refusal.replace("#10", "br0")


def test_carrier_of_a_vlan_below_is_not_waited_for() -> None:
    """It returns after that of the bond, on which the frame is sent."""
    late = vlan(4, "v60", 3, 60, 10)._replace(flags=IFF_UP)
    assert from_port(Host(bridge(10, "br0"), port(20, "p0", 10), bond(3, "bond0"), late), 20)[0]


def test_isolation_stops_frames_between_two_isolated_ports_only() -> None:
    guest, uplink = port(20, "p0", 10), bond(3, "bond0", 10)
    for is_guest, is_uplink, found in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0)]:
        host = Host(
            bridge(10, "br0"),
            guest._replace(port_options=PortOptions(isolated=bool(is_guest))),
            uplink._replace(port_options=PortOptions(isolated=bool(is_uplink))),
        )
        assert len(from_port(host, 20)[0]) == found
    assert from_port(host, 20)[1] == "bond0 is isolated from it"


# -- bridges that filter VLANs ----------------------------------------------------------


def filtering(options: BridgeOptions = FILTERS) -> Host:
    """The uplink has VLAN 1 untagged, 200 and 300 to 310 tagged."""
    host = Host(bridge(10, "br0", options), bond(3, "bond0", 10), port(20, "p0", 10))
    host.allow(3, VlanRange(1, 1, untagged=True), VlanRange(200, 200), VlanRange(300, 310), pvid=1)
    return host


@pytest.mark.parametrize(
    ("vlan", "exits", "refusal"),
    [
        (1, [(3,)], ""),
        (200, [(3, 200)], ""),
        (305, [(3, 305)], ""),
        (310, [(3, 310)], ""),
        (311, [], "bond0 does not let VLAN 311 out"),
        (100, [], "bond0 does not let VLAN 100 out"),
    ],
)
def test_uplink_of_a_filtering_bridge_decides_how_a_vlan_leaves(
    vlan: int, exits: list[tuple[int, ...]], refusal: str
) -> None:
    assert from_port(filtering(), 20, vlan) == (exits, refusal)


def test_filtering_bridge_writes_tags_of_its_own_protocol() -> None:
    host = filtering(QINQ)
    found = paths(host).from_port(host.table.links[20], 200)
    assert found.bonds == (BondExit(3, (VlanTag(0x88A8, 200),)),)


def test_filtering_bridge_whose_vlan_tables_are_not_known_lets_nothing_out() -> None:
    host = filtering()
    host.vlans.clear()
    assert from_port(host, 20, 200)[0] == []


@pytest.mark.parametrize(
    ("tag", "exits", "refusal"),
    [
        (200, [(3, 200)], ""),  # br0 itself has it
        (0x88A80005, [(3, 5)], ""),  # another protocol: untagged to br0, so its PVID, 1
        (201, [], "br0 does not let VLAN 201 in"),
    ],
)
def test_vlan_on_a_filtering_bridge_enters_by_the_table_of_the_bridge_itself(
    tag: int, exits: list[tuple[int, ...]], refusal: str
) -> None:
    host = filtering()
    host.allow(10, VlanRange(1, 1, untagged=True), VlanRange(200, 200), pvid=1)
    host.change(bridge(11, "br60"), vlan(5, "br0.60", 10, tag, 11), port(21, "p60", 11))
    assert from_port(host, 21) == (exits, refusal)


def test_bridge_that_has_no_pvid_itself_sends_nothing_untagged() -> None:
    host = filtering()
    host.allow(10, VlanRange(200, 200))
    assert paths(host).from_link(host.table.links[10]).refusal == "br0 does not let VLAN none in"


def test_veths_that_join_two_bridges_pass_tags_and_vlans_on() -> None:
    """Proxmox: the guest's firewall bridge, joined to a bridge that filters."""
    host = filtering()
    host.change(
        bridge(11, "fwbr"),
        port(30, "fwln", 11, lower_ifindex=31),
        port(31, "fwpr", 10, lower_ifindex=30),
        port(21, "tap", 11, "tun"),
    )
    assert from_port(host, 21) == ([], "fwpr does not let VLAN none in")
    host.allow(31, VlanRange(200, 200, untagged=True), pvid=200)
    assert from_port(host, 21) == ([(3, 200)], "")
    host.change(host.table.links[30]._replace(port_options=ISOLATED))
    assert from_port(host, 21)[0]
    host.change(host.table.links[21]._replace(port_options=ISOLATED))
    assert from_port(host, 21) == ([], "fwln is isolated from it")
    host.change(host.table.links[21]._replace(port_options=PortOptions()))
    host.change(host.table.links[31]._replace(port_state=4))
    assert from_port(host, 21) == ([], "fwpr does not forward (STP)")


def test_bridges_joined_in_a_circle_end_the_search() -> None:
    host = Host(
        bridge(10, "br0"),
        bridge(11, "br1"),
        port(20, "p0", 10),
        port(30, "a", 10, lower_ifindex=31),
        port(31, "b", 11, lower_ifindex=30),
        port(32, "c", 10, lower_ifindex=33),
        port(33, "d", 11, lower_ifindex=32),
    )
    assert from_port(host, 20) == ([], NO_UPLINK)
