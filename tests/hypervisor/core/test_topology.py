"""Paths of guest ports: from recorded dumps of each topology, and from links made by hand."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import Bond, LinkReport, LinkSnapshot
from garp_agent.hypervisor.core.topology import Path, Topology
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone
from tests import golden
from tests.world import property_settings

UP = IFF_UP | IFF_LOWER_UP
little_endian = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)


class Host:
    """The links of a host, by name."""

    def __init__(self, *links: LinkSnapshot) -> None:
        self.table = LinkTable()
        self.topology = Topology(self.table)
        for link in links:
            self.table.apply(LinkReport(link))

    def link(self, name: str) -> LinkSnapshot:
        return next(link for link in self.table.links.values() if link.name == name)

    def guest_ports(self) -> list[str]:
        links = self.table.links.values()
        return sorted(link.name for link in links if self.topology.is_guest_port(link))

    def path(self, name: str) -> tuple[str, str, str, list[str]]:
        """Return the names of the links, the switches and the ends of a path, and its gaps."""
        path = self.topology.path(self.link(name).ifindex)
        names = [" ".join(self.name(each) for each in sorted(part)) for part in path[:3]]
        return names[0], names[1], names[2], list(path.gaps)

    def name(self, ifindex: int) -> str:
        return self.table.links[ifindex].name


def recorded(name: str) -> list[LinkSnapshot]:
    found = linkstate.decode(golden.read(f"topology/{name}"))
    return [each.link for each in found if isinstance(each, LinkReport)]


@little_endian
@pytest.mark.parametrize(
    ("name", "guest_ports", "port", "path"),
    [
        ("vlan", ["vnet0"], "vnet0", ("bond0 bond0.60 br60", "bond0 br60", "bond0", [])),
        ("vlan", ["vnet0"], "br61", ("bond0 br61 bond0.61", "bond0 br61", "bond0", [])),
        ("veth", ["tap101i0"], "tap101i0", ("bond0 vmbr0 fwbr101i0", "bond0 vmbr0", "bond0", [])),
        (
            "vlan-on-bridge",
            ["vnet0"],
            "vnet0",
            ("bond0 br0 br0.60 br60", "bond0 br0 br60", "bond0", []),
        ),
        ("openvswitch", ["vnet0"], "vnet0", ("ovs-system", "", "", ["Open vSwitch"])),
        ("tunnels", ["macvtap0"], "macvtap0", ("bond0 macvtap0", "bond0", "bond0", [])),
        ("tunnels", ["macvtap0"], "br1", ("bond0 br1 vx1", "bond0 br1", "bond0", [])),
        ("tunnels", ["macvtap0"], "br2", ("br2 vx2", "br2", "vx2", ["vx2"])),
        ("tunnels", ["macvtap0"], "br3", ("bond0 br3 gre3", "bond0 br3", "bond0", [])),
        ("tunnels", ["macvtap0"], "br4", ("br4 gre4 gnv0", "br4", "gre4 gnv0", ["gnv0", "gre4"])),
        ("tunnels", ["macvtap0"], "br5", ("eth2 br5 macsec5", "br5", "eth2", [])),
        ("tunnels", ["macvtap0"], "br6", ("bond0 br6 mv6", "bond0 br6", "bond0", [])),
    ],
)
def test_recorded_links_give_guest_ports_and_paths(
    name: str, guest_ports: list[str], port: str, path: tuple[str, str, str, list[str]]
) -> None:
    host = Host(*recorded(name))
    assert host.guest_ports() == guest_ports
    links, switches, ends, gaps = host.path(port)
    assert (links, switches, ends) == path[:3]
    assert len(gaps) == len(path[3])
    assert all(part in gap for part, gap in zip(path[3], gaps))


# -- links made by hand -----------------------------------------------------------------

BR0 = LinkSnapshot(10, "br0", UP, 0, "bridge")
BR1 = LinkSnapshot(11, "br1", UP, 0, "bridge")
ETH0 = LinkSnapshot(2, "eth0", UP, 10, "", "bridge", bus="pci")
BOND0 = LinkSnapshot(3, "bond0", UP, 0, "bond", "", Bond(1, 2))


def port(name: str, kind: str = "", ifindex: int = 20, **more: Any) -> LinkSnapshot:
    return LinkSnapshot(ifindex, name, UP, 10, kind, "bridge")._replace(**more)


@pytest.mark.parametrize(
    ("link", "is_uplink"),
    [
        (port("eth1", bus="pci"), True),
        (port("eth1", bus="virtio"), True),
        (port("uplink", bus="pci", port_name="p0"), True),  # of a switching card
        (port("vif3.0"), False),  # before Linux 5.14
        (port("web1", bus="xen-backend"), False),  # vifname=web1
        (port("vif3.0-emu", "tun"), False),
        (port("vif3"), True),
        (port("viffy.0"), True),
        (port("enp1s0f0_3", bus="pci", port_name="pf0vf3"), False),
        (port("enp1s0f0_3", bus="pci", port_name="c1pf0vf3"), False),
        (port("en3f0pf0sf88", bus="pci", port_name="pf0sf88"), False),
        (port("pf0hpf", bus="pci", port_name="c1pf0"), False),  # the host behind a DPU
        (port("eth1", bus="pci", port_name="pfx"), True),
        (port("nk0", "netkit"), False),
        (port("vnet0", "tun"), False),
        (port("veth0", "veth"), False),
        (port("team0", "team"), True),
        (port("hsr0", "hsr"), True),
    ],
)
def test_port_of_bridge_is_an_uplink_or_a_guest_port(link: LinkSnapshot, is_uplink: bool) -> None:
    host = Host(BR0, ETH0, link)
    assert host.topology.is_uplink(link) is is_uplink
    assert host.topology.is_guest_port(link) is not is_uplink


@pytest.mark.parametrize(
    ("links", "gaps"),
    [
        ([BR0, port("vnet0", "tun")], []),
        ([BR0, port("vnet0", "tun"), ETH0], []),
        ([ETH0, LinkSnapshot(20, "vnet0", UP, 0, "macvtap", lower_ifindex=2)], []),
        ([BR0, port("vnet0", "tun"), port("hsr0", "hsr", 21)], ["hsr0: links of kind hsr are not"]),
        ([BR0, port("vnet0", "tun"), port("v5", "vlan", 21)], ["v5: what is below is in another"]),
        ([LinkSnapshot(20, "vnet0", UP, 0, "tun")], ["vnet0: in no bridge"]),
        ([port("vnet0", "tun", master_ifindex=99)], []),  # its bridge is not known yet
    ],
)
def test_gaps_of_a_path_say_why_a_failover_can_go_unseen(
    links: list[LinkSnapshot], gaps: list[str]
) -> None:
    found = Host(*links).path("vnet0")[3]
    assert len(found) == len(gaps)
    assert all(each.startswith(start) for each, start in zip(found, gaps))


def test_bond_in_open_vswitch_is_on_the_path_of_its_guests() -> None:
    system = LinkSnapshot(10, "ovs-system", 0, 0, "openvswitch")
    bond = BOND0._replace(master_ifindex=10, port_kind="openvswitch")
    tap = port("vnet0", "tun", port_kind="openvswitch")
    inner = port("br-int", "openvswitch", 21, port_kind="openvswitch")
    host = Host(system, bond, tap, inner)
    links, switches, _ends, gaps = host.path("vnet0")
    assert (links, switches) == ("bond0 ovs-system br-int", "bond0")
    assert "ovs-system: Open vSwitch is not followed" in gaps


def test_links_in_a_circle_end_the_search() -> None:
    vlan = port("br1.5", "vlan", lower_ifindex=11)
    other = port("br0.5", "vlan", 21, master_ifindex=11, lower_ifindex=10)
    host = Host(BR0, BR1, vlan, other)
    assert host.path("br0")[0] == "br0 br1 br1.5 br0.5"


def test_bridges_joined_by_veths_share_one_path() -> None:
    """1,000 of them, as on Proxmox with its firewall: one search serves all."""
    links = [BR0, ETH0]
    for n in range(100, 4100, 4):
        links += [
            LinkSnapshot(n, f"fwbr{n}", UP, 0, "bridge"),
            LinkSnapshot(n + 1, f"fwln{n}", UP, n, "veth", "bridge", lower_ifindex=n + 2),
            LinkSnapshot(n + 2, f"fwpr{n}", UP, 10, "veth", "bridge", lower_ifindex=n + 1),
            LinkSnapshot(n + 3, f"tap{n}", UP, n, "tun", "bridge"),
        ]
    host = Host(*links)
    paths = {id(host.topology.path(n)) for n in range(103, 4100, 4)}
    assert len(paths) == 1
    assert host.topology.path(103).switches == {BR0.ifindex}


# -- any order --------------------------------------------------------------------------

HOSTS = [
    [*recorded(name), BR0._replace(ifindex=90)]
    for name in ("vlan", "veth", "vlan-on-bridge", "openvswitch", "tunnels")
    if sys.byteorder == "little"
]


def paths(table: LinkTable) -> dict[int, tuple[bool, Path]]:
    topology = Topology(table)
    return {
        each: (topology.is_guest_port(table.links[each]), topology.path(each))
        for each in table.links
    }


@little_endian
@given(st.sampled_from(HOSTS or [[]]), st.integers(0, 1 << 32))
@property_settings(60)
def test_any_order_of_events_gives_the_same_paths_as_the_dump(
    links: list[LinkSnapshot], seed: int
) -> None:
    """Each link comes in two steps: first as another one somewhere else, or not at all.

    After each event, what is kept is what a new topology works out.
    """
    rng = random.Random(seed)
    dump, live = LinkTable(), LinkTable()
    kept = Topology(live)
    dump.apply(DumpStarted())
    for link in links:
        dump.apply(LinkReport(link, dumped=True))
    dump.apply(DumpComplete())
    first: list[Any] = []
    for link in links:
        other = link._replace(
            master_ifindex=rng.choice([0, *(each.ifindex for each in links)]),
            kind=rng.choice(["", "tun", "vlan", "bridge", "veth"]),
            lower_ifindex=rng.choice([0, rng.choice(links).ifindex]),
            port_kind=rng.choice(["", "bridge", "openvswitch"]),
        )
        first.append(rng.choice([LinkReport(other), LinkGone(link.ifindex)]))
    last: list[Any] = [LinkReport(link) for link in links]
    rng.shuffle(first)
    rng.shuffle(last)
    for event in (*first, *last):
        live.apply(event)
        new = Topology(live)
        for each in live.links:
            assert (kept.path(each), kept.uplinks(each)) == (new.path(each), new.uplinks(each))
    assert paths(live) == paths(dump)
    assert {each: kept.path(each) for each in live.links} == {
        each: path for each, (_, path) in paths(dump).items()
    }
