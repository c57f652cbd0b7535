"""shared: one link of a segment announces an address that several of its links have."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.kernel import route_link, route_request
from garp_agent.guest.core.model import RT_SCOPE_HOST, RT_SCOPE_LINK, AddressGone, Link
from garp_agent.guest.core.shared_addresses import SharedAddresses
from garp_agent.guest.io.routes import link_towards
from garp_agent.wire.model import LinkGone
from garp_agent.wire.rtnetlink import DecodeError
from tests.world import address, dump, ip, link, seen

RT_SCOPE_SITE = 200  # <linux/rtnetlink.h>: that of fec0::/10
ETH2, ETH3, ETH4 = link(2), link(3), link(4)


class Guest:
    """An inventory whose route leads to ``preferred``, and which links may announce."""

    def __init__(self, *things: Any, preferred: int = 0) -> None:
        self.preferred = preferred
        self.asked: list[tuple[bytes, int]] = []
        self.unfit: set[int] = set()
        self.looks = 0  # at the addresses of a link
        self.inventory = Inventory()
        self.shared = SharedAddresses(self._route)
        self.tell(*dump(*things))

    def _route(self, destination: bytes, vrf: int) -> int:
        self.asked.append((destination, vrf))
        return self.preferred

    def tell(self, *events: Any) -> set[int]:
        return self.change({i for event in events for i in self.inventory.apply(event)})

    def change(self, links: set[int]) -> set[int]:
        return self.shared.update(self.inventory, links, self._suitable)

    def _suitable(self, ifindex: int) -> set[bytes]:
        self.looks += 1
        items = self.inventory.addresses(ifindex)
        return set() if ifindex in self.unfit else {each.address for each in items}

    def silent(self) -> dict[int, set[bytes]]:
        """Return for each link the addresses that another one announces."""
        found = {i: self.shared.elsewhere(i) for i in self.inventory.links}
        return {ifindex: each for ifindex, each in found.items() if each}


def on(*ifindexes: int, text: str = "10.0.0.9/24", **more: Any) -> list[Any]:
    return [address(text, ifindex, **more) for ifindex in ifindexes]


A = ip("10.0.0.9")
LINKS = [ETH2, ETH3, ETH4]


@pytest.mark.parametrize(
    ("things", "silent"),
    [
        pytest.param(on(2), set(), id="on one link"),
        pytest.param(on(2, 3), {3}, id="same subnet"),
        pytest.param(on(2, 3, 4), {3, 4}, id="three links"),
        pytest.param(on(2) + on(3, text="10.0.0.9/16"), {3}, id="longer and shorter prefix"),
        pytest.param(
            on(2, 3, text="10.0.0.9/32") + on(2, text="10.0.0.1/8") + on(3, text="10.0.0.2/24"),
            {3},
            id="in subnets of both links, of different lengths",
        ),
        pytest.param(on(2) + on(3, scope=RT_SCOPE_LINK), {3}, id="scope link on one"),
        pytest.param(on(2, 3, scope=RT_SCOPE_LINK), {3}, id="scope link on both"),
        pytest.param(
            on(2, 3, text="fec0::9/64", scope=RT_SCOPE_SITE), {3}, id="scope site on both"
        ),
        pytest.param(on(2, 3, text="10.0.0.9/32"), set(), id="no subnet: unnumbered"),
        pytest.param(on(2) + on(3, text="10.0.0.9/32"), set(), id="subnet on one"),
        pytest.param(
            on(2, 3, text="10.0.0.9/32") + on(2, 3, text="fd00::1/64"), {3}, id="IPv6 subnet"
        ),
        pytest.param(
            [
                *on(2, 3, 4, text="10.0.0.9/32"),
                *on(2, text="10.1.0.1/24"),
                *on(3, text="10.1.0.2/24"),
                *on(3, text="10.2.0.1/24"),
                *on(4, text="10.2.0.2/24"),
            ],
            {3, 4},
            id="joined by a third link",
        ),
        pytest.param(
            on(2, text="10.0.0.9/24", peer=ip("10.5.0.1"))
            + on(3, text="10.0.0.9/24", peer=ip("10.6.0.1")),
            set(),
            id="peers in different subnets",
        ),
        pytest.param(
            on(2, 3, text="fe80::1/64", scope=RT_SCOPE_LINK), set(), id="link-local is of each link"
        ),
        pytest.param(
            on(2, 3, text="10.0.0.9/32")
            + on(2, 3, text="fe80::1/64", scope=RT_SCOPE_LINK)
            + on(2, 3, text="169.254.7.7/16", scope=RT_SCOPE_LINK)
            + on(2, 3, text="169.254.9.9/16"),
            set(),
            id="link-local subnets do not tell",
        ),
        pytest.param(
            on(2, 3, text="10.0.0.9/32") + on(2, text="10.1.0.1/24") + on(3, text="10.2.0.1/24"),
            set(),
            id="virtual address on two uplinks",
        ),
        pytest.param(
            on(2, 3, text="192.0.2.9/32") + on(2, text="10.0.0.1/8") + on(3, text="10.1.0.1/24"),
            set(),
            id="subnets of different lengths without the address",
        ),
        pytest.param(on(2, 3, scope=RT_SCOPE_HOST), set(), id="scope host"),
    ],
)
def test_address_of_a_segment_is_announced_on_one_link(things: Any, silent: set[int]) -> None:
    guest = Guest(*LINKS, *things)
    assert set(guest.silent()) == silent


@pytest.mark.parametrize("kind", ["macvlan", "macvtap", "ipvlan", "ipvtap"])
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(("10.0.0.9/24", "10.0.0.9/32"), id="subnet on one"),
        pytest.param(("10.0.0.9/32", "10.0.0.9/32"), id="no subnet"),
    ],
)
def test_address_of_a_link_and_of_those_stacked_on_its_wire_is_announced_on_one(
    kind: str, texts: tuple[str, str]
) -> None:
    stacked = [each._replace(kind=kind, parent_ifindex=2) for each in (ETH3, ETH4)]
    guest = Guest(ETH2, *stacked, *on(2, text=texts[0]), *on(3, 4, text=texts[1]))
    assert set(guest.silent()) == {3, 4}
    assert guest.tell(LinkGone(2)) == {3}
    assert guest.silent() == {4: {A}}, "both are on the wire of a link without the address"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kind": "vlan", "parent_ifindex": 2}, id="VLAN: another segment"),
        pytest.param({"kind": "macvlan", "parent_ifindex": 4}, id="macvlan of another link"),
        pytest.param({"kind": "macvlan"}, id="macvlan of a link of another namespace"),
        pytest.param(
            {
                "kind": "macvlan",
                "parent_ifindex": 2,
                "master_ifindex": 9,
                "port_kind": "vrf",
            },
            id="macvlan in a VRF",
        ),
    ],
)
def test_address_of_a_link_and_of_one_on_another_wire_is_announced_on_both(changes: Any) -> None:
    upper = ETH3._replace(**changes)
    assert Guest(ETH2, ETH4, upper, *on(2), *on(3, text="10.0.0.9/32")).silent() == {}


def pair(ifindex: int, other: int, bridge: int = 0, port_kind: str = "bridge") -> Link:
    master: Any = {"master_ifindex": bridge, "port_kind": port_kind} if bridge else {}
    return link(ifindex, kind="veth", pair_ifindex=other, **master)


def far(ifindex: int, kind: str = "macvlan", device: tuple[int, int] = (0, 7)) -> Link:
    return link(ifindex, kind=kind, far_parent=device)


BRIDGE = link(9, kind="bridge")


@pytest.mark.parametrize(
    ("links", "silent"),
    [
        *(
            pytest.param([far(2, kind), far(3, kind)], {3}, id=f"{kind}s of a container")
            for kind in ("macvlan", "macvtap", "ipvlan", "ipvtap")
        ),
        pytest.param([far(2), far(3, device=(0, 8))], set(), id="macvlans on two NICs of the host"),
        pytest.param([far(2), far(3, device=(1, 7))], set(), id="macvlans in two containers"),
        pytest.param([far(2, "vlan"), far(3, "vlan")], set(), id="VLANs of one NIC of the host"),
        pytest.param([far(2), far(3, "vlan")], set(), id="macvlan and VLAN of a container"),
        pytest.param([pair(2, 4, 9), pair(4, 2), BRIDGE], {9}, id="pair to a bridge"),
        pytest.param(
            [pair(2, 3, 9), pair(3, 2, 5), link(5, kind="bridge"), BRIDGE], {9}, id="two bridges"
        ),
        pytest.param(
            [pair(2, 4, 9), pair(4, 2), pair(3, 5, 9), pair(5, 3), BRIDGE],
            {5, 9},
            id="two pairs to a bridge",
        ),
        pytest.param(
            [far(2)._replace(master_ifindex=9, port_kind="bridge"), BRIDGE, far(4)],
            {9},
            id="macvlan as port",
        ),
        pytest.param(
            [pair(2, 4, 9), pair(4, 2), BRIDGE._replace(filters_vlans=True)],
            set(),
            id="ports can be in other VLANs",
        ),
        pytest.param([pair(2, 4, 9, "bond"), pair(4, 2), link(9, kind="bond")], set(), id="bond"),
        pytest.param([pair(2, 4, 9, "vrf"), pair(4, 2), link(9, kind="vrf")], set(), id="VRF"),
        pytest.param([pair(2, 4, 9), pair(4, 7), BRIDGE], set(), id="pair that is not here"),
    ],
)
def test_address_of_links_on_one_wire_is_announced_on_one_whatever_their_subnets(
    links: list[Link], silent: set[int]
) -> None:
    holders = [each.ifindex for each in links if each.port_kind in ("", "vrf")]
    items = [address(f"10.{n}.0.1/24", n) for n in holders]
    for order in (links, links[::-1]):
        guest = Guest(*order, *items, *on(*holders, text="10.0.0.9/32"))
        assert set(guest.silent()) == silent


def test_wire_that_changes_at_another_link_changes_what_is_announced() -> None:
    guest = Guest(pair(2, 4), pair(4, 2), BRIDGE, *on(4, 9, text="10.0.0.9/32"))
    assert guest.silent() == {}
    assert guest.tell(*seen(pair(2, 4, 9))) == {9}
    assert guest.silent() == {9: {A}}
    assert guest.tell(*seen(BRIDGE._replace(filters_vlans=True))) == {9}
    assert guest.tell(*seen(BRIDGE)) == {9}
    assert guest.tell(LinkGone(2)) == {9}
    assert guest.silent() == {}


def test_longest_prefix_with_the_address_is_asked_for_the_route() -> None:
    guest = Guest(*LINKS, *on(2), *on(3, text="10.0.0.9/25"), preferred=3)
    assert (guest.silent(), guest.asked) == ({2: {A}}, [(ip("10.0.0.8"), 0)])
    guest = Guest(*LINKS, *on(2, text="10.0.0.200/24"), *on(2, text="10.0.0.9/32"), *on(3))
    assert set(guest.silent()) == {3}


def test_address_in_another_vrf_is_another_address() -> None:
    inside = [each._replace(master_ifindex=9, port_kind="vrf") for each in (ETH3, ETH4)]
    guest = Guest(ETH2, *inside, *on(2, 3, 4))
    assert (guest.silent(), [vrf for _, vrf in guest.asked]) == ({4: {A}}, [9])


@pytest.mark.parametrize(("preferred", "silent"), [(2, 3), (3, 2), (4, 3), (0, 3)])
def test_link_of_the_route_announces_or_else_the_first(preferred: int, silent: int) -> None:
    assert Guest(*LINKS, *on(2, 3), preferred=preferred).silent() == {silent: {A}}


@pytest.mark.parametrize(
    ("things", "asked"),
    [
        (on(2, 3), "10.0.0.8"),
        (on(2, 3) + on(4, text="10.0.0.8/24"), "10.0.0.11"),
        (on(2, 3, text="10.0.0.1/24"), "10.0.0.3"),  # 10.0.0.0 is the subnet's own
        (on(2, 3, text="10.0.0.2/31"), "10.0.0.3"),
        (on(2, 3, text="10.0.0.9/32") + on(2, 3, text="10.1.0.9/16"), "10.1.0.1"),
        (on(2, 3, text="fd00::9/64"), "fd00::8"),
    ],
)
def test_route_is_asked_for_another_station_of_the_subnet(things: Any, asked: str) -> None:
    assert (ip(asked), 0) in Guest(*LINKS, *things).asked


def test_route_is_asked_once_for_many_addresses() -> None:
    items = [each for n in range(1, 200) for each in on(2, 3, text=f"10.0.{n}.1/16")]
    guest = Guest(*LINKS, *items)
    assert (len(guest.silent()[3]), len(guest.asked)) == (199, 1)


def test_changes_concern_the_links_whose_announcements_change() -> None:
    guest = Guest(*LINKS, *on(2))
    first, second = on(2, 3)
    assert guest.tell(*seen(second)) == {3}
    assert guest.tell(*seen(ETH2._replace(name="lan"))) == set()
    guest.unfit = {2}
    assert guest.change({2}) == {3}
    assert (guest.silent(), guest.shared.look_again()) == ({}, set())
    guest.unfit = set()
    assert guest.change({2}) == {3}
    guest.preferred = 3
    assert guest.shared.look_again() == {2, 3}
    assert guest.change(guest.shared.look_again()) == {2, 3}
    assert guest.tell(AddressGone(second)) == {2}
    assert (guest.silent(), guest.shared.look_again()) == ({}, set())
    guest.tell(*seen(second))
    assert guest.tell(LinkGone(3)) == {2}
    guest.tell(AddressGone(first))
    left = guest.shared
    assert not any((left._views, left._holders, left._elsewhere, left._shared))
    assert not any((left._known, left._losers))


def test_link_that_comes_is_looked_at_alone_however_many_share_its_address() -> None:
    guest = Guest(*LINKS, *on(2, 3, text="10.0.0.9/32"))
    for ifindex in range(10, 110):
        guest.tell(*seen(link(ifindex), *on(ifindex, text="10.0.0.9/32")))
    assert guest.looks == 102
    assert guest.silent() == {}


def calls(guest: Guest, *events: Any) -> int:
    """Return how many functions are called while the guest takes in events."""
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        guest.tell(*events)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("mask", [24, 32])
def test_work_for_many_shared_addresses_grows_with_their_number(mask: int) -> None:
    def work(addresses: int) -> int:
        items = [each for n in range(addresses) for each in on(2, 3, text=f"10.0.{n}.1/{mask}")]
        subnets = [address(f"10.1.{n}.1/24", 2) for n in range(addresses)]
        guest = Guest(ETH2, ETH3, *on(2, 3, text="10.2.0.9/24"))
        return calls(guest, *seen(*items, *subnets))

    assert work(200) < 3 * work(100)


def test_address_that_changes_alone_is_decided_about_alone() -> None:
    items = [each for n in range(1, 50) for each in on(2, 3, text=f"10.0.{n}.1/24")]
    guest = Guest(*LINKS, *items)
    guest.asked.clear()
    for event in (*seen(address("10.0.1.2/24", 3)), *seen(address("10.0.1.2/24", 2))):
        guest.tell(event)
    assert (len(guest.silent()[3]), guest.asked) == (50, [(ip("10.0.1.3"), 0)])
    guest.preferred = 3
    guest.change(guest.shared.look_again())
    assert guest.silent().keys() == {2}


def test_links_without_shared_addresses_ask_nothing() -> None:
    guest = Guest(*LINKS, *on(2), *on(3, text="10.0.0.8/24"))
    assert (guest.silent(), guest.asked) == ({}, [])


def test_route_of_the_kernel_is_found_or_unknown() -> None:
    assert link_towards(ip("127.0.0.9"), 0) == 1
    assert link_towards(ip("127.0.0.9"), 0x7FFFFFFF) == 0  # no such VRF
    with pytest.raises(DecodeError):
        route_link(route_request(ip("10.0.0.1"))[:-2])
