"""inventory: dumps, overruns and live events fold into what the guest owns at this moment."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.model import (
    IFA_F_TENTATIVE,
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone
from tests.world import NO_CARRIER, address, dump, ip, link, mac, property_settings, seen

ETH0 = link(2, "eth0")
ETH1 = link(3, "eth1")
A = address("10.0.0.1/24")
B = address("fd00::1/64")
C = address("10.0.1.1/24", ifindex=3)


def told(*events: Any) -> Inventory:
    inventory = Inventory()
    for event in events:
        inventory.apply(event)
    return inventory


def owned(inventory: Inventory) -> set[tuple[int, bytes]]:
    return {
        (ifindex, item.address)
        for ifindex in inventory.links
        for item in inventory.addresses(ifindex)
    }


# -- the first dump ---------------------------------------------------------------------


def test_what_a_dump_tells_is_there() -> None:
    inventory = told(*dump(ETH0, ETH1, A, B, C, ForwardingSeen(3, True)))
    assert inventory.complete
    assert inventory.links == {2: ETH0, 3: ETH1}
    assert list(inventory.addresses(2)) == [A, B]
    assert list(inventory.addresses(3)) == [C]
    assert [inventory.forwards(ifindex) for ifindex in (2, 3)] == [False, True]


def test_what_is_seen_is_known_at_once_but_complete_only_at_the_end() -> None:
    inventory = told(DumpStarted(), LinkSeen(ETH0), AddressSeen(A))
    assert not inventory.complete
    assert owned(inventory) == {(2, A.address)}


def test_an_end_without_a_beginning_completes_nothing() -> None:
    inventory = told(*seen(ETH0, A), DumpComplete())
    assert not inventory.complete
    assert owned(inventory) == {(2, A.address)}


def test_an_unknown_link_has_no_addresses_and_does_not_forward() -> None:
    inventory = Inventory()
    assert list(inventory.addresses(9)) == []
    assert not inventory.forwards(9)


# -- mark and sweep -----------------------------------------------------------------------


def test_what_a_later_dump_does_not_tell_is_gone() -> None:
    inventory = told(*dump(ETH0, ETH1, A, B, C))
    changed: set[int] = set()
    for event in dump(ETH0, B):
        changed |= set(inventory.apply(event))
    assert inventory.links == {2: ETH0}
    assert owned(inventory) == {(2, B.address)}
    assert changed == {2, 3}


def test_a_dump_that_never_ends_removes_nothing() -> None:
    inventory = told(*dump(ETH0, ETH1, A, B, C), DumpStarted(), LinkSeen(ETH0))
    assert inventory.links == {2: ETH0, 3: ETH1}
    assert owned(inventory) == {(2, A.address), (2, B.address), (3, C.address)}


def test_a_dump_begun_anew_forgets_what_the_first_one_told() -> None:
    # An overrun in mid-dump: what was seen before it may be gone by now.
    inventory = told(*dump(ETH0, A, B), DumpStarted(), *seen(ETH0, A, B))
    for event in dump(ETH0, A, overrun=True):
        inventory.apply(event)
    assert owned(inventory) == {(2, A.address)}


def test_what_comes_into_being_during_a_dump_outlives_it() -> None:
    inventory = told(
        *dump(ETH0, A), DumpStarted(), *seen(ETH0), *seen(ETH1, C), *seen(A), DumpComplete()
    )
    assert owned(inventory) == {(2, A.address), (3, C.address)}


def test_what_goes_during_a_dump_stays_gone() -> None:
    inventory = told(
        *dump(ETH0, ETH1, A, C),
        DumpStarted(),
        *seen(ETH0, ETH1, A, C),
        AddressGone(A),
        LinkGone(3),
        DumpComplete(),
    )
    assert inventory.links == {2: ETH0}
    assert owned(inventory) == set()


def test_a_link_that_goes_and_comes_back_during_a_dump_is_there_without_its_addresses() -> None:
    inventory = told(
        *dump(ETH0, A), DumpStarted(), *seen(ETH0, A), LinkGone(2), LinkSeen(ETH0), DumpComplete()
    )
    assert inventory.links == {2: ETH0}
    assert owned(inventory) == set()


def test_a_second_dump_that_tells_the_same_changes_nothing() -> None:
    inventory = told(*dump(ETH0, A, B, ForwardingSeen(2, True)))
    changes = [
        ifindex
        for event in dump(ETH0, A, B, ForwardingSeen(2, True))
        for ifindex in inventory.apply(event)
    ]
    assert changes == []


# -- live events ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "changed"),
    [
        pytest.param(LinkSeen(ETH0), (), id="the same link"),
        pytest.param(LinkSeen(ETH0._replace(name="lan0")), (2,), id="a rename"),
        pytest.param(LinkSeen(ETH0._replace(flags=NO_CARRIER)), (2,), id="carrier lost"),
        pytest.param(LinkSeen(ETH1), (3,), id="a new link"),
        pytest.param(LinkGone(2), (2,), id="a link deleted"),
        pytest.param(LinkGone(9), (), id="an unknown link deleted"),
        pytest.param(AddressSeen(A), (), id="the same address"),
        pytest.param(AddressSeen(A._replace(flags=IFA_F_TENTATIVE)), (2,), id="other flags"),
        pytest.param(AddressSeen(B), (2,), id="a new address"),
        pytest.param(AddressGone(A), (2,), id="an address removed"),
        pytest.param(AddressGone(B), (), id="an unknown address removed"),
        pytest.param(AddressGone(C), (), id="an address of an unknown link removed"),
        pytest.param(ForwardingSeen(2, True), (2,), id="a router now"),
        pytest.param(ForwardingSeen(2, False), (), id="still no router"),
    ],
)
def test_each_event_names_the_links_whose_picture_changed(
    event: Any, changed: tuple[int, ...]
) -> None:
    assert tuple(told(*dump(ETH0, A)).apply(event)) == changed


def test_a_renamed_link_keeps_its_addresses() -> None:
    inventory = told(*dump(ETH0, A), LinkSeen(ETH0._replace(name="lan0")))
    assert inventory.links[2].name == "lan0"
    assert owned(inventory) == {(2, A.address)}


def test_two_links_can_swap_their_names() -> None:
    inventory = told(*dump(ETH0, ETH1, A, C))
    for ifindex, name in ((2, "tmp"), (3, "eth0"), (2, "eth1")):
        inventory.apply(LinkSeen(inventory.links[ifindex]._replace(name=name)))
    assert {i: each.name for i, each in inventory.links.items()} == {2: "eth1", 3: "eth0"}
    assert owned(inventory) == {(2, A.address), (3, C.address)}


def test_a_link_recreated_under_its_name_has_the_new_index_only() -> None:
    inventory = told(
        *dump(ETH0, A), LinkGone(2), LinkSeen(link(7, "eth0", hardware_address=mac("02:07" * 3)))
    )
    assert [(i, each.name) for i, each in inventory.links.items()] == [(7, "eth0")]
    assert owned(inventory) == set()


def test_a_deleted_link_takes_its_addresses_and_its_forwarding_along() -> None:
    inventory = told(*dump(ETH0, A, B, ForwardingSeen(2, True)), LinkGone(2), LinkSeen(ETH0))
    assert list(inventory.addresses(2)) == []
    assert not inventory.forwards(2)


def test_what_came_and_went_leaves_nothing_behind() -> None:
    inventory = told(*dump(), *seen(ETH0, A, C), AddressGone(C), AddressGone(A), LinkGone(2))
    assert (inventory.links, inventory._addresses, inventory._link_marks._seen) == ({}, {}, None)


def test_forwarding_may_be_told_before_the_link() -> None:
    inventory = told(ForwardingSeen(2, True), *seen(ETH0))
    assert inventory.forwards(2)
    inventory.apply(ForwardingSeen(2, False))
    assert not inventory.forwards(2)


def test_forwarding_told_before_its_link_outlives_the_end_of_a_dump_in_between() -> None:
    # The kernel tells of a new link's forwarding first, and dumps do not wait for it.
    inventory = told(DumpStarted(), ForwardingSeen(2, True), DumpComplete(), *seen(ETH0))
    assert inventory.forwards(2)


# -- which addresses are one and the same ------------------------------------------------


def test_one_ipv4_address_with_two_prefix_lengths_is_two_entries() -> None:
    # ip address add 10.0.0.1/24 and 10.0.0.1/25: the kernel keeps both.
    narrow = address("10.0.0.1/25")
    inventory = told(*dump(ETH0, A, narrow))
    assert list(inventory.addresses(2)) == [A, narrow]
    inventory.apply(AddressGone(narrow))
    assert list(inventory.addresses(2)) == [A]


def test_one_ipv4_address_with_two_peers_is_two_entries() -> None:
    one = address("10.0.0.1/32", peer=ip("10.0.0.2"))
    two = address("10.0.0.1/32", peer=ip("10.0.0.3"))
    inventory = told(*dump(ETH0, one, two), AddressGone(one))
    assert list(inventory.addresses(2)) == [two]


def test_an_ipv6_address_that_gets_another_peer_is_still_the_same_one() -> None:
    # ip address change fd00::1 peer fd00::3: the kernel tells only of the new one, and its
    # removal names the new peer only.  What stayed behind would be announced and not be ours.
    one = address("fd00::1/128", peer=ip("fd00::2"))
    two = address("fd00::1/128", peer=ip("fd00::3"))
    inventory = told(*dump(ETH0, one), AddressSeen(two))
    assert list(inventory.addresses(2)) == [two]
    inventory.apply(AddressGone(two))
    assert list(inventory.addresses(2)) == []


def test_an_address_is_removed_whatever_its_flags_were_when_it_was_seen() -> None:
    inventory = told(*dump(ETH0, B._replace(flags=IFA_F_TENTATIVE)), AddressGone(B))
    assert owned(inventory) == set()


def test_the_same_address_on_two_links_is_removed_from_one() -> None:
    other = A._replace(ifindex=3)
    inventory = told(*dump(ETH0, ETH1, A, other), AddressGone(A))
    assert owned(inventory) == {(3, A.address)}


# -- what is stacked on what ----------------------------------------------------------------


def stack(*links: Link) -> Inventory:
    return told(*dump(*links))


@pytest.mark.parametrize(
    ("links", "above"),
    [
        pytest.param([link(2)], {2}, id="alone"),
        pytest.param(
            [link(2, master_ifindex=5, port_kind="bridge"), link(5, kind="bridge")],
            {2, 5},
            id="a bridge over its port",
        ),
        pytest.param(
            [
                link(2, master_ifindex=5, port_kind="bond"),
                link(5, kind="bond"),
                link(6, kind="vlan", parent_ifindex=5),
                link(7, kind="bridge"),
                link(8, kind="vlan", parent_ifindex=5, master_ifindex=7, port_kind="bridge"),
            ],
            {2, 5, 6, 7, 8},
            id="bond, VLANs, and a bridge over one of them",
        ),
        pytest.param(
            [link(2), link(3, kind="macvlan", parent_ifindex=2), link(4)],
            {2, 3},
            id="a macvlan, but not its neighbour",
        ),
        pytest.param(
            [link(2, master_ifindex=9, port_kind="vrf"), link(9, kind="vrf")],
            {2, 9},
            id="a VRF over its member",
        ),
        pytest.param(
            [link(2, master_ifindex=5, port_kind="team"), link(3, master_ifindex=5), link(5)],
            {2, 5},
            id="but not the other port of a team",
        ),
        pytest.param(
            [link(2, master_ifindex=99), link(4, parent_ifindex=98)],
            {2},
            id="a master that is not known",
        ),
        pytest.param(
            [
                link(2, master_ifindex=3, parent_ifindex=4),
                link(3, parent_ifindex=2),
                link(4, parent_ifindex=3),
            ],
            {2, 3, 4},
            id="round in a circle",
        ),
        pytest.param([link(2, master_ifindex=2, parent_ifindex=2)], {2}, id="on itself"),
    ],
)
def test_what_is_stacked_on_a_link(links: list[Link], above: set[int]) -> None:
    assert stack(*links).stacked_on(2) == above


def test_nothing_is_stacked_on_an_unknown_link() -> None:
    assert stack(link(2)).stacked_on(44) == {44}


links_anyhow = st.lists(
    st.builds(
        link,
        st.integers(1, 8),
        master_ifindex=st.integers(0, 9),
        parent_ifindex=st.integers(0, 9),
    ),
    max_size=8,
    unique_by=lambda each: each.ifindex,
)


@property_settings(200)
@given(links_anyhow, st.integers(1, 9))
def test_stacking_agrees_with_a_walk_over_the_edges(links: list[Link], start: int) -> None:
    known = {each.ifindex for each in links}
    edges = {(each.ifindex, each.master_ifindex) for each in links} | {
        (each.parent_ifindex, each.ifindex) for each in links
    }
    reached = [start]
    for below in reached:
        reached += sorted(b for a, b in edges if a == below and b in known and b not in reached)
    assert stack(*links).stacked_on(start) == set(reached)


# -- any order of events -----------------------------------------------------------------------

one_address = st.sampled_from(["10.0.0.1/24", "10.0.0.1/25", "10.0.0.2/24", "fd00::1/64"])
any_event = st.one_of(
    st.builds(LinkSeen, st.builds(link, st.integers(2, 4), flags=st.sampled_from([0, 1]))),
    st.builds(LinkGone, st.integers(2, 4)),
    st.builds(AddressSeen, st.builds(address, one_address, st.integers(2, 4))),
    st.builds(AddressGone, st.builds(address, one_address, st.integers(2, 4))),
    st.builds(ForwardingSeen, st.integers(2, 4), st.booleans()),
    st.builds(DumpStarted),
    st.builds(DumpComplete),
)


def without_stale(events: list[Any]) -> list[Any]:
    kept: list[Any] = []
    told_live: set[object] | None = None  # since the dump's start
    left: set[int] = set()  # links that are not there any more, since then
    for event in events:
        if isinstance(event, (DumpStarted, DumpComplete)):
            told_live = set() if isinstance(event, DumpStarted) else None
            left.clear()
        elif told_live is not None and not isinstance(event, ForwardingSeen):
            subject: Any = (
                event.ifindex
                if isinstance(event, LinkGone)
                else event.link.ifindex
                if isinstance(event, LinkSeen)
                else event.address
            )
            if getattr(event, "dumped", False):
                of_a_link_that_left = isinstance(event, AddressSeen) and subject.ifindex in left
                if subject in told_live or of_a_link_that_left:
                    continue
            else:
                told_live.add(subject)
            if isinstance(event, LinkGone):
                left.add(subject)
            elif isinstance(event, LinkSeen):
                left.discard(subject)
        kept.append(event)
    return kept


def naive(events: list[Any]) -> tuple[dict[int, Link], set[InterfaceAddress]]:
    """What is owned after ``events``; a dump's end looks back at all that was said in it.

    What a dump says of something that was told live since its start is left out beforehand.
    """
    events = without_stale(events)
    links: dict[int, Link] = {}
    items: set[InterfaceAddress] = set()
    start: int | None = None

    def drop(ifindexes: set[int]) -> None:
        for ifindex in ifindexes:
            links.pop(ifindex, None)
        items.difference_update([item for item in items if item.ifindex in ifindexes])

    for at, event in enumerate(events):
        if isinstance(event, LinkSeen):
            links[event.link.ifindex] = event.link
        elif isinstance(event, LinkGone):
            drop({event.ifindex})
        elif isinstance(event, AddressSeen):
            items.add(event.address)
        elif isinstance(event, AddressGone):
            items.discard(event.address)
        elif isinstance(event, DumpStarted):
            start = at
        elif isinstance(event, DumpComplete) and start is not None:
            said = events[start:at]
            start = None
            drop(set(links) - {each.link.ifindex for each in said if isinstance(each, LinkSeen)})
            items &= {each.address for each in said if isinstance(each, AddressSeen)}
    return links, {item for item in items if item.ifindex in links}


def test_a_dump_brings_nothing_back_that_was_removed_since_it_began() -> None:
    one, other = address("10.0.0.1/24", 2), address("10.0.0.2/24", 3)
    inventory = told(DumpStarted(), LinkSeen(link(2)), AddressSeen(one), DumpComplete())
    for event in (
        DumpStarted(),
        LinkSeen(link(2), dumped=True),
        LinkSeen(link(3)),
        AddressGone(one),
        AddressSeen(one, dumped=True),
        LinkGone(3),
        LinkSeen(link(3), dumped=True),
        AddressSeen(other, dumped=True),
        DumpComplete(),
    ):
        inventory.apply(event)
    assert set(inventory.links) == {2}
    assert list(inventory.addresses(2)) == list(inventory.addresses(3)) == []


def test_what_is_added_anew_while_a_dump_is_under_way_stays() -> None:
    one = address("10.0.0.1/24", 2)
    inventory = told(
        DumpStarted(),
        LinkSeen(link(2), dumped=True),
        AddressGone(one),
        AddressSeen(one),
        AddressSeen(one, dumped=True),
        DumpComplete(),
    )
    assert list(inventory.addresses(2)) == [one]


@property_settings(300)
@given(st.lists(any_event, max_size=30))
def test_any_order_of_events_agrees_with_a_naive_reading(events: list[Any]) -> None:
    inventory = told(*events)
    links, addresses = naive(events)
    assert inventory.links == links
    assert {item for i in inventory.links for item in inventory.addresses(i)} == addresses
