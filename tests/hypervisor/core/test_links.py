"""The fold of link events; tests/guest/core/test_inventory.py has more of what a dump overrules."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.hypervisor.core.bonds import BondFailover, Follower
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    Bond,
    LinkReport,
    LinkSnapshot,
    PortStateReport,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone

UP = IFF_UP | IFF_LOWER_UP
ETH0 = LinkSnapshot(2, "eth0", UP, 5, "", "bond")
ETH1 = ETH0._replace(ifindex=3, name="eth1")
BOND0 = LinkSnapshot(5, "bond0", UP, 0, "bond", "", Bond(1, 2))
SWITCHED = BOND0._replace(bond=Bond(1, 3))
FAILOVER = [BondFailover("bond0", ("eth0",), ("eth1",))]
BACK = [BondFailover("bond0", ("eth0",), ("eth0",))]
NEW = [BondFailover("bond0", (), ("eth1",))]


def dump(*links: LinkSnapshot) -> list[Any]:
    return [DumpStarted(), *(LinkReport(link, dumped=True) for link in links), DumpComplete()]


ALL = {ETH0, ETH1, BOND0}
OTHER = {ETH0, ETH1, SWITCHED}
SAME = dump(ETH0, ETH1, BOND0)


@pytest.mark.parametrize(
    ("events", "left", "failovers"),
    [
        (SAME, ALL, []),
        (SAME[:2], ALL, []),  # never ends
        (dump(ETH0, BOND0), {ETH0, BOND0}, []),
        (dump(ETH0, ETH1, SWITCHED), OTHER, FAILOVER),
        ([LinkGone(9)], ALL, []),
        # Live events overrule what the dump says later.
        ([DumpStarted(), LinkReport(SWITCHED), *SAME[1:]], OTHER, FAILOVER),
        ([DumpStarted(), LinkGone(5), *SAME[1:]], {ETH0, ETH1}, []),
        ([*SAME[:-1], LinkGone(3), DumpComplete()], {ETH0, BOND0}, []),
        # The next dump, and live events without a dump, are believed again.
        ([DumpStarted(), LinkReport(SWITCHED), DumpComplete(), *SAME], ALL, BACK),
        ([*SAME, LinkReport(SWITCHED)], OTHER, FAILOVER),
        ([DumpStarted(), LinkGone(5), *SAME[1:], LinkReport(SWITCHED)], OTHER, NEW),
    ],
)
def test_events_with_a_dump_leave_the_links_that_exist_and_their_failovers(
    events: list[Any], left: set[LinkSnapshot], failovers: list[BondFailover]
) -> None:
    table, follower = LinkTable(), Follower()
    for event in [*SAME, *events]:
        table.apply(event)
        follower.handle(event, 0.0)
    assert table.links == {link.ifindex: link for link in left}
    assert [each._replace(links=frozenset()) for each in follower.advance(0.0)] == failovers
    assert follower.is_following is any(link.kind == "bond" for link in left)


PORT = LinkSnapshot(9, "vnet0", UP, 7, "tun", "bridge", port_state=1)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([PortStateReport(9, 7, 3)], 3),
        ([PortStateReport(9, 8, 3)], 1),  # of a bridge that it has left
        ([DumpStarted(), PortStateReport(9, 7, 3), *dump(PORT)[1:]], 3),  # the dump is older
        ([DumpStarted(), PortStateReport(9, 8, 3), *dump(PORT)[1:]], 1),
        ([DumpStarted(), PortStateReport(9, 7, 3), *dump(PORT)[1:], *dump(PORT)], 1),
        ([LinkGone(9), DumpStarted(), PortStateReport(9, 7, 3), *dump(PORT)[1:]], 3),
        ([LinkGone(9), PortStateReport(9, 7, 3), LinkReport(PORT)], 1),
    ],
)
def test_state_of_a_port_is_what_its_bridge_said_last(events: list[Any], state: int) -> None:
    table = LinkTable()
    for event in [*dump(PORT), *events]:
        table.apply(event)
    assert table.links[9].port_state == state


def test_ports_of_a_link_follow_its_changes() -> None:
    table = LinkTable()
    for event in SAME:
        table.apply(event)
    assert table.ports(5) == [ETH0, ETH1]
    places = table.places
    table.apply(LinkReport(ETH0._replace(flags=0)))
    assert (table.ports(5)[0].flags, table.places) == (0, places)
    table.apply(LinkReport(ETH0._replace(master_ifindex=8)))
    assert (table.ports(5), table.ports(8), table.places > places) == (
        [ETH1],
        [ETH0._replace(master_ifindex=8)],
        True,
    )
    table.apply(LinkGone(3))
    assert table.ports(5) == []
