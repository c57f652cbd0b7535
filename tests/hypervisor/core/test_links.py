"""The fold of link events; tests/guest/core/test_inventory.py has more of what a dump overrules."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.hypervisor.core.bonds import BondFailover, Follower
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import Bond, LinkReport, LinkSnapshot
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
