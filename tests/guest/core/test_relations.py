"""relations: which links lead to containers only, from every order of changes."""

from __future__ import annotations

import itertools
import random
from math import inf
from typing import Any

import pytest

from garp_agent.config.settings import Settings
from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.model import (
    RT_SCOPE_LINK,
    AddressGone,
    AddressSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.guest.core.planner import Planner
from garp_agent.guest.core.policy import Skip
from garp_agent.guest.core.relations import Relations
from garp_agent.wire.model import LinkGone
from tests.world import DOWN, NO_CARRIER, address, dump, ip, link, seen

UPLINK = link(2, "eth0")
POD = link(10, "cali1", kind="veth")
POD6 = address("fe80::ecee:eeee:eeee:eeee/64", ifindex=10, scope=RT_SCOPE_LINK)
DOCKER = link(20, "docker0", kind="bridge")


def port(ifindex: int, kind: str = "veth", master: int = 20) -> Link:
    return link(ifindex, kind=kind, master_ifindex=master, port_kind="bridge")


def patch(ifindex: int, other: int, master: int = 0, kind: str = "bridge", **more: Any) -> Link:
    """An end of a veth pair whose other end is in the guest, too."""
    ports: dict[str, Any] = {"master_ifindex": master, "port_kind": kind} if master else {}
    return link(ifindex, kind="veth", pair_ifindex=other, **ports, **more)


def bridge(ifindex: int) -> Link:
    return link(ifindex, kind="bridge")


class Guest:
    """An inventory with its relations.

    ``default``: the link of the default route.  ``hidden``: that of one behind other routes.
    """

    def __init__(self, *things: Any, default: int = 0, hidden: int = 0) -> None:
        self.inventory = Inventory()
        self.default = default
        self.hidden = hidden
        self.asked: list[tuple[bytes, int]] = []  # for which routes, and by which link
        self.relations = Relations(self._route)
        self.tell(*dump(*things))

    def _route(self, destination: bytes, by: int) -> int:
        self.asked.append((destination, by))
        if len(destination) == 16:
            return 0
        return self.default if not by else by * (by == self.hidden)

    def tell(self, *events: Any) -> set[int]:
        changed = {i for event in events for i in self.inventory.apply(event)}
        return self.relations.update(self.inventory, changed)

    def quiet(self) -> set[int]:
        return {i for i in self.inventory.links if self.relations.leads_to_containers(i)}


QUIET = [
    pytest.param([UPLINK, POD, POD6], {10}, id="pod"),
    pytest.param([UPLINK, POD], {10}, id="pod without IPv6"),
    pytest.param([UPLINK, POD._replace(kind="netkit")], {10}, id="netkit"),
    pytest.param([UPLINK, POD, address("10.4.0.1/32", ifindex=10)], {10}, id="CNI ptp"),
    pytest.param([UPLINK, POD, POD6, address("fd00::1/128", ifindex=10)], {10}, id="ptp, IPv6"),
    pytest.param(
        [UPLINK, POD, address("10.4.0.1/32", ifindex=10, peer=ip("10.4.0.10"))],
        {10},
        id="ptp with a peer",
    ),
    pytest.param([UPLINK, POD, address("169.254.0.1/32", ifindex=10)], {10}, id="routed (LXD)"),
    pytest.param([UPLINK, DOCKER, port(21), port(22)], {20}, id="bridge of veths"),
    pytest.param([UPLINK, DOCKER, port(21, "tun")], {20}, id="bridge of taps"),
    pytest.param([UPLINK, DOCKER], {20}, id="bridge without ports"),
    pytest.param([UPLINK._replace(flags=NO_CARRIER), POD], {10}, id="uplink without carrier"),
    pytest.param([link(2, kind="veth"), address("10.0.0.1/24"), POD], {10}, id="pod in container"),
    pytest.param([link(2, kind="bond"), POD], {10}, id="uplink is a bond"),
    pytest.param(
        [link(2, kind="tun"), address("10.0.0.1/24"), POD],
        {10},
        id="tap with an address",
    ),
    pytest.param(
        [UPLINK, DOCKER, port(21), patch(22, 23, 20), patch(23, 22, 30), bridge(30)],
        {20, 30},
        id="bridges of containers joined by a pair",
    ),
    pytest.param(
        [UPLINK, DOCKER, port(21), patch(22, 23, 20), patch(23, 22)],
        {20, 23},
        id="pair into a bridge of containers",
    ),
    pytest.param([UPLINK, patch(22, 23), patch(23, 22)], {22, 23}, id="pair that leads nowhere"),
    pytest.param(
        [UPLINK, port(3, ""), bridge(20), patch(22, 23), patch(23, 9, 20)],
        {22},
        id="pair whose other end has left",
    ),
    pytest.param([UPLINK, patch(10, 11), link(12, kind="veth")], {10, 12}, id="other end unknown"),
]
SPEAKING = [
    pytest.param(
        [bridge(20), port(21, ""), patch(22, 23, 20), patch(23, 22, 30), bridge(30)],
        id="bridge joined to that of the NIC by a pair",
    ),
    pytest.param(
        [bridge(20), port(21, ""), patch(22, 23, 20), patch(23, 22)],
        id="pair into the bridge of the NIC",
    ),
    pytest.param(
        [UPLINK, patch(22, 23, 9, "openvswitch"), patch(23, 22, 30), bridge(30)],
        id="bridge joined to a switch by a pair",
    ),
    pytest.param(
        [bridge(20), port(21), patch(22, 23), address("10.0.0.1/24", ifindex=22), patch(23, 22)],
        id="pair with an address beside the bridge of a container",
    ),
    pytest.param([POD, POD6], id="only link"),
    pytest.param([POD, address("10.4.0.9/32", ifindex=10)], id="only link, without a subnet"),
    pytest.param(
        [POD, address("10.4.0.9/32", ifindex=10), DOCKER, port(21)],
        id="link without a subnet beside containers",
    ),
    pytest.param(
        [UPLINK, POD, address("10.4.0.1/32", ifindex=10), address("10.4.1.1/31", ifindex=10)],
        id="one address with a subnet",
    ),
    pytest.param([UPLINK._replace(flags=DOWN), POD], id="other link set down"),
    pytest.param([link(1, "lo", flags=UPLINK.flags | 8), POD], id="only loopback beside"),
    pytest.param([POD, link(11, kind="veth"), DOCKER, port(21)], id="nothing but containers"),
    pytest.param(
        [link(2, kind="tun", flags=NO_CARRIER), address("10.0.0.1/24"), DOCKER, port(21)],
        id="VPN without a carrier",
    ),
    pytest.param(
        [link(2, kind="veth", flags=NO_CARRIER), address("10.0.0.1/24"), DOCKER, port(21)],
        id="veth without a carrier",
    ),
    pytest.param([link(2, kind="tun"), DOCKER, port(21)], id="tap without an address"),
    pytest.param([UPLINK, POD, address("10.0.0.1/24", ifindex=10)], id="veth with an address"),
    pytest.param([UPLINK, POD, address("169.254.7.7/16", ifindex=10)], id="veth with 169.254"),
    pytest.param([UPLINK, POD, address("fd00::1/64", ifindex=10)], id="veth with global IPv6"),
    pytest.param([UPLINK, DOCKER, port(21), port(22, "")], id="bridge with a NIC"),
    pytest.param([UPLINK, DOCKER, port(22, "vlan")], id="bridge with a VLAN"),
    pytest.param([UPLINK, link(20, kind="bond"), link(21, kind="tun")], id="bond, tap"),
    pytest.param(
        [link(2, kind="veth"), link(3, kind="vlan", parent_ifindex=2)], id="veth below a VLAN"
    ),
    pytest.param(
        [port(2), DOCKER, link(3, kind="vlan", parent_ifindex=20)], id="bridge below a VLAN"
    ),
]


@pytest.mark.parametrize(("things", "quiet"), QUIET)
def test_link_to_containers_is_found_beside_another_link(things: Any, quiet: set[int]) -> None:
    assert Guest(*things).quiet() == quiet


@pytest.mark.parametrize("things", SPEAKING)
def test_link_that_the_guest_may_need_is_not_one_to_containers(things: Any) -> None:
    assert Guest(*things).quiet() == set()


@pytest.mark.parametrize("things", [case.values[0] for case in (*QUIET, *SPEAKING)])
def test_links_in_any_order_give_the_same(things: Any) -> None:
    expected = Guest(*things).quiet()
    for order in itertools.permutations(things):
        links = [thing for thing in order if isinstance(thing, Link)]
        addresses = [thing for thing in order if isinstance(thing, InterfaceAddress)]
        guest = Guest()
        for event in seen(*links, *addresses):
            guest.tell(event)
        assert guest.quiet() == expected
        # Everything goes one by one; what stays is judged as if the rest had never been there.
        for gone in links:
            guest.tell(LinkGone(gone.ifindex))
            left = [each for each in links if each.ifindex in guest.inventory.links]
            kept = [each for each in addresses if each.ifindex in guest.inventory.links]
            assert guest.quiet() == Guest(*left, *kept).quiet()
        relations = guest.relations
        left_behind = (
            relations._below,
            relations._uses,
            relations._candidates,
            relations._others,
            relations._carried,
            relations._addressed,
            relations._defaults,
            relations._paired,
            relations._joined,
        )
        assert not any(left_behind)


def test_change_of_the_last_other_link_concerns_all_links_to_containers() -> None:
    pods = [link(n, kind="veth") for n in range(10, 15)]
    guest = Guest(UPLINK, *pods)
    assert guest.tell(LinkGone(2)) == {2, *range(10, 15)}
    assert guest.tell(*seen(UPLINK)) == {2, *range(10, 15)}
    assert guest.tell(*seen(UPLINK._replace(flags=NO_CARRIER))) == {2}


def test_link_that_had_a_carrier_is_another_link_as_long_as_it_exists() -> None:
    guest = Guest(UPLINK, POD)
    guest.tell(*seen(UPLINK._replace(flags=DOWN)))
    assert guest.quiet() == {10}
    guest.tell(LinkGone(2))
    guest.tell(*seen(UPLINK._replace(flags=DOWN)))
    assert guest.quiet() == set()


# -- the link of the default route ----------------------------------------------------------

OWN = [link(2, "eth1", kind="veth"), address("10.0.1.1/24"), DOCKER, port(21)]
ON_BRIDGE = address("10.0.0.1/24", ifindex=20)


def test_link_of_the_default_route_does_not_lead_to_containers() -> None:
    assert Guest(*OWN, ON_BRIDGE, default=20).quiet() == set()
    assert Guest(*OWN, ON_BRIDGE, default=2).quiet() == {20}
    assert Guest(*OWN, ON_BRIDGE).quiet() == {20}


def test_veth_without_a_subnet_that_has_the_default_route_does_not_lead_to_containers() -> None:
    calico = [link(12, "eth0", kind="veth"), address("10.4.0.9/32", ifindex=12)]
    assert Guest(UPLINK, *calico, default=12).quiet() == set()
    assert Guest(UPLINK, *calico, default=2).quiet() == {12}
    assert Guest(*calico, POD, DOCKER, port(21), default=12).quiet() == {10, 20}
    assert Guest(*calico, POD, DOCKER, port(21)).quiet() == set()


def test_changed_default_route_concerns_the_links_that_it_leaves_and_takes() -> None:
    guest = Guest(*OWN, ON_BRIDGE)
    guest.default = 20
    assert guest.quiet() == {20}
    assert guest.tell(*seen(link(21, kind="veth"))) == {21}
    assert guest.quiet() == {20, 21}, "the kernel is not asked because of a link without address"
    assert guest.relations.depend_on_routes()
    assert guest.relations.ask_routes() == {20}
    assert guest.quiet() == {21}
    guest.default = 2
    assert guest.tell(*seen(address("10.0.1.2/24"))) == {2}
    assert guest.relations.update(guest.inventory, {20}) == {20}
    assert guest.quiet() == {20, 21}
    guest.tell(LinkGone(20))
    assert not guest.relations.depend_on_routes()


def test_default_route_is_asked_for_only_where_the_answer_counts() -> None:
    guest = Guest(UPLINK, address("10.0.0.1/24"), POD, POD6)
    guest.tell(*seen(*(link(n, kind="veth") for n in range(30, 140))))
    assert guest.asked == []
    guest.tell(*seen(DOCKER, ON_BRIDGE._replace(scope=RT_SCOPE_LINK, address=POD6.address)))
    assert guest.asked == []
    guest.tell(*seen(ON_BRIDGE))
    assert [(len(each), by) for each, by in guest.asked] == [(4, 0), (16, 0), (4, 20), (16, 20)]
    guest.tell(*seen(link(141, kind="veth")))
    assert len(guest.asked) == 4


def test_link_of_a_default_route_behind_the_routes_of_a_vpn_does_not_lead_to_containers() -> None:
    assert Guest(*OWN, ON_BRIDGE, default=2, hidden=20).quiet() == set()
    assert Guest(*OWN, ON_BRIDGE, default=2, hidden=21).quiet() == {20}


def test_few_links_are_asked_for_a_default_route_of_their_own() -> None:
    pods = [link(n, kind="veth") for n in range(30, 90)]
    hosts = [address(f"10.4.0.{n}/32", ifindex=n) for n in range(30, 90)]
    guest = Guest(UPLINK, *pods, *hosts, default=2)
    assert {by for _, by in guest.asked} == {0, *range(30, 46)}


def test_change_of_a_port_concerns_its_bridge() -> None:
    guest = Guest(UPLINK, DOCKER, port(21))
    assert guest.tell(*seen(port(22, ""))) == {20, 22}
    assert guest.quiet() == set()
    assert guest.tell(*seen(link(22))) == {20, 22}
    assert guest.quiet() == {20}


def test_veth_follows_its_addresses() -> None:
    guest = Guest(UPLINK, POD, POD6)
    own = address("10.0.0.1/24", ifindex=10)
    guest.tell(*seen(own))
    assert guest.quiet() == set()
    guest.tell(AddressGone(own))
    assert guest.quiet() == {10}


def test_bridges_in_a_row_of_pairs_lead_where_the_last_one_leads() -> None:
    row = [
        *(UPLINK, bridge(20), port(21), patch(22, 23, 20), patch(23, 22, 30), bridge(30)),
        *(patch(32, 33, 30), patch(33, 32, 40), bridge(40)),
    ]
    guest = Guest(*row)
    assert guest.quiet() == {20, 30, 40}
    assert guest.tell(*seen(port(24, ""))) == {20, 24, 30, 40}
    assert guest.quiet() == set()
    assert guest.tell(LinkGone(32)) == {32, 33, 40}
    assert guest.quiet() == {40}


# -- changes one by one -----------------------------------------------------------------------


def any_link(draw: random.Random) -> Link:
    kind = draw.choice(["", "bridge", "veth", "veth", "veth", "tun", "bond", "vlan"])
    changes: dict[str, Any] = {}
    if kind == "veth":
        changes["pair_ifindex"] = draw.choice([0, *range(2, 12)])
    if kind == "vlan":
        changes["parent_ifindex"] = draw.randrange(2, 12)
    if draw.random() < 0.5:
        changes["master_ifindex"] = draw.randrange(2, 12)
        changes["port_kind"] = draw.choice(["bridge", "bridge", "vrf", "bond"])
    return link(draw.randrange(2, 12), kind=kind, **changes)


@pytest.mark.parametrize("seed", range(40))
def test_changes_one_by_one_give_what_a_new_start_gives(seed: int) -> None:
    draw = random.Random(seed)
    guest = Guest()
    links: dict[int, Link] = {}
    items: dict[tuple[int, bytes], InterfaceAddress] = {}
    for _ in range(60):
        event: Any
        made, what = any_link(draw), draw.random()
        item = address(draw.choice(["10.0.0.1/24", "10.0.0.2/32"]), ifindex=made.ifindex)
        key = (item.ifindex, item.address)
        if what < 0.6:
            links[made.ifindex] = made
            event = LinkSeen(made)
        elif made.ifindex not in links:
            continue
        elif what < 0.7:
            del links[made.ifindex]
            items = {key: each for key, each in items.items() if key[0] != made.ifindex}
            event = LinkGone(made.ifindex)
        elif what < 0.9:
            items[key] = item
            event = AddressSeen(item)
        else:
            items.pop(key, None)
            event = AddressGone(item)
        before = guest.quiet()
        told = guest.tell(event)
        assert guest.quiet() == Guest(*links.values(), *items.values()).quiet()
        assert before ^ guest.quiet() <= told | {made.ifindex}


def test_address_costs_the_same_beside_any_number_of_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [patch(100 + n, 100 + (n ^ 1)) for n in range(200)]
    guest = Guest(UPLINK, *pairs)
    looked: list[Link] = []
    monkeypatch.setattr(Inventory, "other_end", lambda inventory, link: looked.append(link))
    guest.tell(*seen(address("10.0.0.1/24")))
    assert looked == []


@pytest.mark.parametrize("address_at", [10.5, 10.95, 11.0])
def test_default_route_is_found_a_second_after_its_address_whatever_else_happens(
    address_at: float,
) -> None:
    """Another address came at 10.0, so that the routes are looked at, at 11.0 too."""
    default = [0]
    planner = Planner(Settings(), lambda destination, by: default[0])
    own = address("10.0.0.9/24", ifindex=20)
    for event in dump(link(2), address("10.9.0.1/24"), DOCKER, link(22, kind="bridge")):
        planner.apply(event)
    planner.replan(0.0)
    for at, item in ((10.0, address("172.20.0.9/16", ifindex=22)), (address_at, own)):
        while planner.deadline() < at:
            planner.replan(planner.deadline())
        for event in seen(item):
            planner.apply(event)
        planner.replan(at)
    default[0] = 20
    while planner.deadline() < inf:
        planner.replan(planner.deadline())
    assert planner.plans[20].skip is not Skip.CONTAINERS


class Routed:
    """A planner of a container whose bridge has the default route, and when it asked for routes."""

    def __init__(self) -> None:
        self.default = 20
        self.asked_at: set[float] = set()
        self.now = 0.0
        self.planner = Planner(Settings(), self._route)
        self.tell(*dump(*OWN, ON_BRIDGE))

    def _route(self, destination: bytes, by: int) -> int:
        self.asked_at.add(self.now)
        return self.default if not by else 0

    def tell(self, *events: Any) -> None:
        for event in events:
            self.planner.apply(event)
        self.planner.replan(self.now)

    def until(self, then: float) -> None:
        while self.planner.deadline() <= then:
            self.now = self.planner.deadline()
            self.planner.replan(self.now)
        self.now = then

    @property
    def is_announced(self) -> bool:
        return self.planner.plans[20].skip is None


@pytest.mark.parametrize("away", [3.0, 15.0, 60.0])
def test_default_route_that_comes_back_alone_after_a_change_is_found(away: float) -> None:
    guest = Routed()
    guest.until(1000.0)
    guest.default = 0
    guest.tell(*seen(address("10.0.1.2/24")))
    guest.until(1000.0 + away)
    assert not guest.is_announced
    guest.default = 20
    guest.until(1000.0 + 4 * away + 4.0)
    assert guest.is_announced


def test_default_route_that_is_away_at_the_last_look_is_looked_for_again() -> None:
    guest = Routed()
    guest.until(1000.0)
    guest.tell(*seen(address("10.0.1.2/24")))
    guest.until(1063.5)
    guest.default = 0
    guest.until(1064.5)
    assert not guest.is_announced
    guest.default = 20
    guest.until(1065.0)
    assert guest.is_announced


def test_routes_are_looked_at_less_and_less_after_a_change_and_not_after_each_of_many() -> None:
    guest = Routed()
    guest.until(1000.0)
    guest.asked_at.clear()
    guest.tell(*seen(address("10.0.9.9/24", ifindex=20)))
    guest.until(2000.0)
    assert sorted(guest.asked_at) == [1000.0, 1001.0, 1004.0, 1016.0, 1064.0]
    guest.asked_at.clear()
    for _ in range(40):  # of another link, for which nobody asks at once
        guest.tell(*seen(link(2, "eth1", kind="veth"), address("10.0.1.1/24")))
        guest.tell(AddressGone(address("10.0.1.1/24")))
        guest.until(guest.now + 0.25)
    assert len(guest.asked_at) <= 20
    assert guest.planner.deadline() <= guest.now + 1.0
    guest.until(guest.now + 1000.0)
    assert guest.planner.deadline() == inf
