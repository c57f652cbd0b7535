"""The fold of link events, against a model of a kernel whose dump is not atomic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.bonds import BondFailover, Follower
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    EVENT_BONDING_FAILOVER,
    Bond,
    LinkReport,
    LinkSnapshot,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone

LINKS = range(2, 6)
ETH0 = LinkSnapshot(2, "eth0", IFF_UP | IFF_LOWER_UP, 5, "", "bond")
BOND0 = LinkSnapshot(5, "bond0", IFF_UP | IFF_LOWER_UP, 0, "bond", "", Bond(1, 2))

Event = Union[LinkReport, LinkGone, DumpStarted, DumpComplete]
Step = tuple[str, int, int]  # what the kernel does, to which link, with which variant


def link(ifindex: int, variant: int) -> LinkSnapshot:
    """Return one of a few states of a link; the highest ifindex is the bond of the others."""
    if ifindex == BOND0.ifindex:
        flags = IFF_UP | IFF_LOWER_UP * (variant % 2)
        return BOND0._replace(flags=flags, bond=Bond(1, variant))
    return ETH0._replace(ifindex=ifindex, name=f"eth{ifindex}", master_ifindex=5 * (variant % 2))


class Kernel:
    """The truth, and the messages that a listener gets."""

    def __init__(self) -> None:
        self.links = {ifindex: link(ifindex, 1) for ifindex in LINKS}
        self._unread = list(LINKS)  # by the dump
        self._unsent: list[LinkReport] = []

    def do(self, step: Step) -> list[Event]:
        """Carry one step out; return what is sent in it."""
        what, ifindex, variant = step
        if what == "change":
            self.links[ifindex] = link(ifindex, variant)
            return [LinkReport(self.links[ifindex], EVENT_BONDING_FAILOVER * (variant % 2))]
        if what == "delete" and ifindex in self.links:
            del self.links[ifindex]
            return [LinkGone(ifindex)]
        if what == "read":  # the dump looks at the next link, and sends it later
            found = self.links.get(self._unread.pop(0)) if self._unread else None
            self._unsent += [LinkReport(found, dumped=True)] if found else []
        if what == "send":
            sent, self._unsent = self._unsent, []
            return list(sent)
        return []

    def dumped(self, steps: list[Step]) -> Iterator[Event]:
        """Yield the messages of a dump and of what happens while it is made."""
        yield DumpStarted()
        for step in [*steps, *(("read", 0, 0) for _ in LINKS), ("send", 0, 0)]:
            yield from self.do(step)
        yield DumpComplete()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["change", "delete", "read", "send"]),
        st.sampled_from(LINKS),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(st.lists(st.tuples(st.just("change"), st.sampled_from(LINKS), st.integers(0, 3))), STEPS)
def test_table_after_any_dump_has_the_links_that_exist(lost: list[Step], steps: list[Step]) -> None:
    kernel, table = Kernel(), LinkTable()
    for event in kernel.dumped([]):
        table.apply(event)
    kernel = Kernel()
    for step in [*lost, ("delete", 3, 0)]:  # an overrun hides these
        kernel.do(step)
    for event in kernel.dumped(steps):
        table.apply(event)
    assert table.links == kernel.links


@given(STEPS)
def test_follower_reports_the_same_failovers_with_and_without_a_dump(steps: list[Step]) -> None:
    with_dump, without = Follower(debounce=0.0), Follower(debounce=0.0)
    for event in Kernel().dumped([]):
        with_dump.handle(event, 0.0)
        without.handle(event, 0.0)
    for now, event in enumerate(Kernel().dumped(steps), 1):
        with_dump.handle(event, now)
        if isinstance(event, LinkGone) or (isinstance(event, LinkReport) and not event.dumped):
            without.handle(event, now)
        assert with_dump.advance(now) == without.advance(now)
    assert with_dump.followed() == without.followed()


def test_bond_deleted_in_mid_dump_stays_deleted_when_the_dump_names_it() -> None:
    follower = Follower()
    dump: list[Event] = [DumpStarted(), LinkReport(ETH0), LinkReport(BOND0), DumpComplete()]
    for event in dump:
        follower.handle(event, 0.0)
    stale = LinkReport(BOND0, dumped=True)
    dump = [DumpStarted(), LinkGone(BOND0.ifindex), stale, DumpComplete()]
    for event in dump:
        follower.handle(event, 10.0)
    assert follower.advance(20.0) == []
    assert not follower.is_following
    follower.handle(LinkReport(BOND0), 30.0)
    assert follower.advance(30.0) == [BondFailover("bond0", (), ("#2",))]
