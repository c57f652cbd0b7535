"""relations: which links lead to containers only, from every order of changes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.model import RT_SCOPE_LINK, AddressGone, InterfaceAddress, Link
from garp_agent.guest.core.relations import Relations
from garp_agent.wire.model import LinkGone
from tests.world import DOWN, NO_CARRIER, address, dump, link, seen

UPLINK = link(2, "eth0")
POD = link(10, "cali1", kind="veth")
POD6 = address("fe80::ecee:eeee:eeee:eeee/64", ifindex=10, scope=RT_SCOPE_LINK)
DOCKER = link(20, "docker0", kind="bridge")


def port(ifindex: int, kind: str = "veth", master: int = 20) -> Link:
    return link(ifindex, kind=kind, master_ifindex=master, port_kind="bridge")


class Guest:
    """An inventory with its relations."""

    def __init__(self, *things: Any) -> None:
        self.inventory = Inventory()
        self.relations = Relations()
        self.tell(*dump(*things))

    def tell(self, *events: Any) -> set[int]:
        changed = {i for event in events for i in self.inventory.apply(event)}
        return self.relations.update(self.inventory, changed)

    def quiet(self) -> set[int]:
        return {i for i in self.inventory.links if self.relations.leads_to_containers(i)}


QUIET = [
    pytest.param([UPLINK, POD, POD6], {10}, id="pod"),
    pytest.param([UPLINK, POD], {10}, id="pod without IPv6"),
    pytest.param([UPLINK, POD._replace(kind="netkit")], {10}, id="netkit"),
    pytest.param([UPLINK, DOCKER, port(21), port(22)], {20}, id="bridge of veths"),
    pytest.param([UPLINK, DOCKER, port(21, "tun")], {20}, id="bridge of taps"),
    pytest.param([UPLINK, DOCKER], {20}, id="bridge without ports"),
    pytest.param([UPLINK._replace(flags=NO_CARRIER), POD], {10}, id="uplink without carrier"),
    pytest.param([link(2, kind="veth"), address("10.0.0.1/24"), POD], {10}, id="pod in container"),
    pytest.param([link(2, kind="bond"), POD], {10}, id="uplink is a bond"),
]
SPEAKING = [
    pytest.param([POD, POD6], id="only link"),
    pytest.param([UPLINK._replace(flags=DOWN), POD], id="other link set down"),
    pytest.param([link(1, "lo", flags=UPLINK.flags | 8), POD], id="only loopback beside"),
    pytest.param([POD, link(11, kind="veth"), DOCKER, port(21)], id="nothing but containers"),
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
        )
        assert not any(left_behind)


def test_change_of_the_last_other_link_concerns_all_links_to_containers() -> None:
    pods = [link(n, kind="veth") for n in range(10, 15)]
    guest = Guest(UPLINK, *pods)
    assert guest.tell(*seen(UPLINK._replace(flags=DOWN))) == {2, *range(10, 15)}
    assert guest.tell(*seen(UPLINK)) == {2, *range(10, 15)}
    assert guest.tell(*seen(UPLINK._replace(flags=NO_CARRIER))) == {2}


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
