"""inventory: dumps, overruns and live events become what the guest has at this moment."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.guest.core.inventory import FORMER, Inventory
from garp_agent.guest.core.model import (
    IFA_F_TENTATIVE,
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    Link,
    LinkSeen,
)
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone
from tests.world import NO_CARRIER, address, dump, ip, link, seen

ETH0 = link(2, "eth0")
ETH1 = link(3, "eth1")
A = address("10.0.0.1/24")
B = address("fd00::1/64")
C = address("10.0.1.1/24", ifindex=3)
ALL = {(2, A.address), (2, B.address), (3, C.address)}
ROUTER = ForwardingSeen(2, True)


def told(*events: Any) -> Inventory:
    return told_more(Inventory(), *events)


def told_more(inventory: Inventory, *events: Any) -> Inventory:
    for event in events:
        inventory.apply(event)
    return inventory


def owned(inventory: Inventory) -> set[tuple[int, bytes]]:
    return {
        (ifindex, item.address)
        for ifindex in inventory.links
        for item in inventory.addresses(ifindex)
    }


# -- dumps ------------------------------------------------------------------------------


def test_dump_complete_gives_links_addresses_and_forwarding() -> None:
    inventory = told(*dump(ETH0, ETH1, A, B, C, ForwardingSeen(3, True)))
    assert inventory.complete
    assert inventory.links == {2: ETH0, 3: ETH1}
    assert list(inventory.addresses(2)) == [A, B]
    assert list(inventory.addresses(3)) == [C]
    assert [inventory.forwards(ifindex) for ifindex in (2, 3, 9)] == [False, True, False]
    assert list(inventory.addresses(9)) == []


@pytest.mark.parametrize(
    "events", [[DumpStarted(), *seen(ETH0, A)], [*seen(ETH0, A), DumpComplete()]]
)
def test_dump_without_start_or_end_is_applied_but_not_complete(events: list[Any]) -> None:
    inventory = told(*events)
    assert not inventory.complete
    assert owned(inventory) == {(2, A.address)}


def test_dump_removes_what_it_does_not_name() -> None:
    inventory = told(*dump(ETH0, ETH1, A, B, C))
    changed = {ifindex for event in dump(ETH0, B) for ifindex in inventory.apply(event)}
    assert (inventory.links, owned(inventory)) == ({2: ETH0}, {(2, B.address)})
    assert changed == {2, 3}


def test_dump_that_repeats_everything_changes_nothing() -> None:
    everything = dump(ETH0, A, B, ROUTER)
    inventory = told(*everything)
    assert [ifindex for event in everything for ifindex in inventory.apply(event)] == []


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([DumpStarted(), LinkSeen(ETH0)], ALL),  # never ends
        # A second dump starts before the first one ends.
        ([DumpStarted(), *seen(ETH0, A, B), *dump(ETH0, A, overrun=True)], {(2, A.address)}),
        # Live events during the dump.
        (
            [DumpStarted(), *seen(ETH0, ETH1, C, A), DumpComplete()],
            {(2, A.address), (3, C.address)},
        ),
        # Removed after the dump named them.
        (
            [DumpStarted(), *seen(ETH0, ETH1, A, C), AddressGone(A), LinkGone(3), DumpComplete()],
            set(),
        ),
        # The link is deleted and created again.
        ([DumpStarted(), *seen(ETH0, A), LinkGone(2), LinkSeen(ETH0), DumpComplete()], set()),
        # The dump names what live events removed.
        ([DumpStarted(), AddressGone(A), LinkGone(3), *dump(ETH0, ETH1, A, C)[1:]], set()),
        # Removed and added again, then named by the dump.
        ([DumpStarted(), AddressGone(A), AddressSeen(A), *dump(ETH0, A)[1:]], {(2, A.address)}),
        # Removed during the dump before this one.
        ([DumpStarted(), AddressGone(A), DumpComplete(), *dump(ETH0, A)], {(2, A.address)}),
    ],
)
def test_dump_with_other_events_leaves_what_there_is(
    events: list[Any], left: set[tuple[int, bytes]]
) -> None:
    assert owned(told(*dump(ETH0, ETH1, A, B, C), *events)) == left


def test_dump_does_not_overrule_newer_live_event() -> None:
    tentative = B._replace(flags=IFA_F_TENTATIVE)
    new = ETH0._replace(flags=NO_CARRIER)
    inventory = told(DumpStarted(), *seen(new, B), *dump(ETH0, tentative)[1:])
    assert (inventory.links[2], list(inventory.addresses(2))) == (new, [B])


# -- live events ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        pytest.param(LinkSeen(ETH0), (), id="same link"),
        pytest.param(LinkSeen(ETH0._replace(name="lan0")), (2,), id="renamed"),
        pytest.param(LinkSeen(ETH0._replace(flags=NO_CARRIER)), (2,), id="carrier lost"),
        pytest.param(LinkSeen(ETH1), (3,), id="new link"),
        pytest.param(LinkGone(2), (2,), id="link deleted"),
        pytest.param(LinkGone(9), (), id="unknown link deleted"),
        pytest.param(AddressSeen(A), (), id="same address"),
        pytest.param(AddressSeen(A._replace(flags=IFA_F_TENTATIVE)), (2,), id="other flags"),
        pytest.param(AddressSeen(B), (2,), id="new address"),
        pytest.param(AddressGone(A), (2,), id="address removed"),
        pytest.param(AddressGone(B), (), id="unknown address removed"),
        pytest.param(AddressGone(C), (), id="address of unknown link removed"),
        pytest.param(ForwardingSeen(2, True), (2,), id="router now"),
        pytest.param(ForwardingSeen(2, False), (), id="still no router"),
    ],
)
def test_event_returns_links_that_it_changed(event: Any, changed: tuple[int, ...]) -> None:
    assert tuple(told(*dump(ETH0, A)).apply(event)) == changed


def test_links_that_swap_names_keep_their_addresses() -> None:
    inventory = told(*dump(ETH0, ETH1, A, C))
    for ifindex, name in ((2, "tmp"), (3, "eth0"), (2, "eth1")):
        inventory.apply(LinkSeen(inventory.links[ifindex]._replace(name=name)))
    assert {i: each.name for i, each in inventory.links.items()} == {2: "eth1", 3: "eth0"}
    assert owned(inventory) == {(2, A.address), (3, C.address)}


def test_link_created_again_has_neither_addresses_nor_forwarding() -> None:
    inventory = told(*dump(ETH0, A, B, ROUTER), LinkGone(2), LinkSeen(ETH0))
    assert (list(inventory.addresses(2)), inventory.forwards(2)) == ([], False)


def test_everything_removed_leaves_no_memory() -> None:
    inventory = told(*dump(), *seen(ETH0, A, C), AddressGone(C), AddressGone(A), LinkGone(2))
    assert (inventory.links, inventory._addresses) == ({}, {})
    assert not inventory._link_marks._live
    assert not inventory._address_marks._live


def test_forwarding_reported_before_its_link_is_kept() -> None:
    # The kernel reports it first for a new link, and a dump can end in between.
    inventory = told(DumpStarted(), ROUTER, DumpComplete(), *seen(ETH0))
    assert inventory.forwards(2)
    inventory.apply(ForwardingSeen(2, False))
    assert not inventory.forwards(2)


# -- which addresses are the same one ----------------------------------------------------

PEER2, PEER3 = ip("10.0.0.2"), ip("10.0.0.3")
NARROW = address("10.0.0.1/25")
WITH_2 = address("10.0.0.1/32", peer=PEER2)
WITH_3 = address("10.0.0.1/32", peer=PEER3)
SIX_2 = address("fd00::1/128", peer=ip("fd00::2"))
SIX_3 = address("fd00::1/128", peer=ip("fd00::3"))
ELSEWHERE = A._replace(ifindex=3)


@pytest.mark.parametrize(
    ("items", "gone", "left"),
    [
        pytest.param([A, NARROW], [NARROW], [A], id="IPv4 with two prefix lengths"),
        pytest.param([WITH_2, WITH_3], [WITH_2], [WITH_3], id="IPv4 with two peers"),
        # The kernel reports only the new peer, and a removal names only that one.
        pytest.param([SIX_2, SIX_3], [], [SIX_3], id="IPv6 gets another peer"),
        pytest.param([SIX_2, SIX_3], [SIX_3], [], id="IPv6 with another peer removed"),
        pytest.param([B._replace(flags=IFA_F_TENTATIVE)], [B], [], id="other flags"),
        pytest.param([A, ELSEWHERE], [ELSEWHERE], [A], id="same address on another link"),
    ],
)
def test_address_is_known_by_what_the_kernel_knows_it_by(
    items: list[Any], gone: list[Any], left: list[Any]
) -> None:
    inventory = told(*dump(ETH0, ETH1), *seen(*items), *map(AddressGone, gone))
    assert list(inventory.addresses(2)) == left


# -- stacked links ------------------------------------------------------------------------


def port(ifindex: int, master: int, kind: str, **more: Any) -> Link:
    return link(ifindex, master_ifindex=master, port_kind=kind, **more)


def pair(ifindex: int, other: int, bridge: int = 0) -> Link:
    port_kind = "bridge" if bridge else ""
    return link(
        ifindex, kind="veth", pair_ifindex=other, master_ifindex=bridge, port_kind=port_kind
    )


def child(ifindex: int, parent: int, kind: str = "vlan", **more: Any) -> Link:
    return link(ifindex, parent_ifindex=parent, kind=kind, **more)


@pytest.mark.parametrize(
    ("links", "above"),
    [
        pytest.param([link(2)], {2}, id="alone"),
        pytest.param([port(2, 5, "bridge"), link(5, kind="bridge")], {2, 5}, id="bridge"),
        pytest.param(
            [
                port(2, 5, "bond"),
                link(5, kind="bond"),
                child(6, 5),
                link(7, kind="bridge"),
                child(8, 5, master_ifindex=7, port_kind="bridge"),
            ],
            {2, 5, 6, 7, 8},
            id="bond, VLANs, and a bridge with one of the VLANs",
        ),
        pytest.param([link(2), child(3, 2, "macvlan"), link(4)], {2, 3}, id="macvlan"),
        pytest.param([port(2, 9, "vrf"), link(9, kind="vrf")], {2, 9}, id="VRF"),
        pytest.param([port(2, 5, "team"), port(3, 5, "team"), link(5)], {2, 5}, id="other port"),
        pytest.param([link(2, master_ifindex=99), child(4, 98)], {2}, id="unknown master"),
        pytest.param(
            [child(2, 4, master_ifindex=3), child(3, 2), child(4, 3)], {2, 3, 4}, id="circle"
        ),
        pytest.param([child(2, 2, master_ifindex=2)], {2}, id="on itself"),
        pytest.param([link(3)], {2}, id="unknown link"),
        pytest.param(
            [port(2, 5, "bridge"), link(5), pair(3, 4, 5), pair(4, 3, 6), link(6), child(7, 6)],
            {2, 3, 4, 5, 6, 7},
            id="bridge behind a pair",
        ),
        pytest.param([pair(2, 3), pair(3, 2), child(4, 3)], {2, 3, 4}, id="pair"),
        pytest.param([pair(2, 3), pair(3, 9), child(4, 3)], {2}, id="another link's number"),
        pytest.param(
            [port(2, 9, "vrf"), link(9), pair(3, 4)._replace(master_ifindex=9, port_kind="vrf")],
            {2, 9},
            id="pair in the VRF",
        ),
    ],
)
def test_stacked_on_link_gives_all_that_send_through_it(links: list[Link], above: set[int]) -> None:
    assert told(*dump(*links)).stacked_on(2) == above


@pytest.mark.parametrize(
    ("links", "groups"),
    [
        pytest.param([link(2), link(3)], [{2}, {3}], id="alone"),
        pytest.param([link(2), child(3, 2), child(4, 3)], [{2, 3, 4}], id="VLANs"),
        pytest.param([port(2, 9, "vrf"), port(3, 9, "vrf"), link(9)], [{2}, {3}, {9}], id="VRF"),
        pytest.param(
            [port(2, 5, "bridge"), link(5), pair(3, 4, 5), pair(4, 3, 6), link(6)],
            [{2, 3, 4, 5, 6}],
            id="bridges joined by a pair",
        ),
        pytest.param([pair(3, 2), pair(2, 3), pair(4, 2)], [{2, 3}, {4}], id="pairs"),
        pytest.param(
            [*(link(n, far_parent=(0, 9)) for n in (2, 5, 8)), link(9), child(10, 5)],
            [{2, 5, 8, 10}, {9}],
            id="parent in another namespace",
        ),
        pytest.param(
            [link(2, far_parent=(0, 9)), link(3, far_parent=(1, 9)), link(4, far_parent=(0, 8))],
            [{2}, {3}, {4}],
            id="other parents",
        ),
        pytest.param(
            [child(2, 9, "macvlan"), child(3, 9, "macvlan")], [{2, 3}], id="parent that moved away"
        ),
    ],
)
def test_links_that_leave_by_one_nic_have_its_number(
    links: list[Link], groups: list[set[int]]
) -> None:
    for order in (links, links[::-1]):
        numbers = told(*dump(*order)).nics()
        found = [{each for each in numbers if numbers[each] == n} for n in set(numbers.values())]
        assert sorted(found, key=min) == groups


def test_nic_that_comes_back_has_its_former_number() -> None:
    inventory = told(*dump(link(2), link(5)), LinkGone(5))
    before = inventory.topology
    back = link(9, hardware_address=b"\2\0\0\0\0\x99")
    assert told_more(inventory, *seen(back)).nics() == {2: 2, 9: 9}
    back = back._replace(hardware_address=link(5).hardware_address)
    assert told_more(inventory, *seen(back)).nics() == {2: 2, 9: 5}
    assert inventory.topology == before + 2


def test_number_of_a_link_that_went_is_not_given_to_a_stranger() -> None:
    inventory = told(*dump(link(5)), LinkGone(5))
    stranger, back = link(5, hardware_address=b"\2\0\0\0\0\x99"), link(5)._replace(ifindex=9)
    assert told_more(inventory, *seen(stranger, back)).nics() == {5: 5, 9: 9}


@pytest.mark.parametrize("mac", [b"", bytes(6), b"\0\0\x5e\0\1\7"])
def test_hardware_address_that_many_links_have_tells_no_nic(mac: bytes) -> None:
    inventory = told(*dump(link(5, hardware_address=mac)), LinkGone(5))
    assert told_more(inventory, *seen(link(9, hardware_address=mac))).nics() == {9: 9}


def test_nics_that_went_are_not_remembered_without_end() -> None:
    links = [link(n) for n in range(2, 2 + 2 * FORMER)]
    inventory = told(*dump(*links), *(LinkGone(each.ifindex) for each in links))
    assert len(inventory._gone) == FORMER


def test_change_of_what_a_link_stands_on_is_a_change_of_the_topology() -> None:
    inventory = told(*dump(pair(3, 4)))
    for changed in (pair(3, 5), pair(3, 5, 6), link(3, far_parent=(0, 5))):
        before = inventory.topology
        inventory.apply(LinkSeen(changed))
        assert inventory.topology == before + 1
