"""All that a plan of learning frames is made of: links, VLAN tables and the memory.

Does not read the kernel's tables: its callers do (hypervisor.learning_lookup).
"""

from __future__ import annotations

from garp_agent.hypervisor.core.bridge_tables import (
    PortAddresses,
    TableEntry,
    read_entry,
    read_usual,
)
from garp_agent.hypervisor.core.bridge_vlans import PortVlans, read_vlans
from garp_agent.hypervisor.core.learning_memory import LearningMemory
from garp_agent.hypervisor.core.learning_plan import plan_learning
from garp_agent.hypervisor.core.link_counters import LinkCounters, read_counters
from garp_agent.wire import rtnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Union

    from garp_agent.hypervisor.core.learning_plan import LearningPlan, Moment
    from garp_agent.hypervisor.core.learning_rules import LearningRules
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.topology import Topology

    TableMessage = Union[PortAddresses, TableEntry, PortVlans, LinkCounters]

_READERS: dict[int, rtnetlink.Reader[TableMessage]] = {
    rtnetlink.RTM_NEWNEIGH: read_entry,
    rtnetlink.RTM_NEWLINK: read_vlans,
    rtnetlink.RTM_NEWSTATS: read_counters,
}


class LearningState:
    """The links, which the caller keeps up to date, and what the tables have said."""

    def __init__(self, table: LinkTable, topology: Topology) -> None:
        self._table = table
        self._topology = topology
        self.memory = LearningMemory()
        self.vlans: dict[int, PortVlans] = {}  # by ifindex, of the latest tables

    def needed_dumps(self) -> tuple[Callable[[int], bytes], ...]:
        """Return the dumps that a plan needs now, in order: 1,000 ports cost 20 ms in each."""
        links = self._table.links.values()
        steps: list[Callable[[int], bytes]] = [rtnetlink.dump_bridge_tables]
        if any(link.bridge is not None and link.bridge.filters_vlans for link in links):
            steps.append(rtnetlink.dump_bridge_vlans)
        silent = (link for link in links if not self.memory.has_sent(link.ifindex))
        if any(link.has_carrier and self._topology.is_guest_port(link) for link in silent):
            steps.append(rtnetlink.dump_link_counters)
        return tuple(steps)

    def take(self, told: Iterable[object], now: float) -> None:
        """Take in all that one dump of LEARNING_TABLES has said; skip what is no TableMessage."""
        entries, counters = [], []
        self.vlans = {}
        for each in told:
            if isinstance(each, (PortAddresses, TableEntry)):
                entries.append(each)
            elif isinstance(each, PortVlans):
                self.vlans[each.ifindex] = each
            elif isinstance(each, LinkCounters):
                counters.append(each)
        self.memory.take(entries, counters, self._table, self._topology, now)

    def plan(self, rules: LearningRules, moment: Moment) -> LearningPlan:
        """Return the learning frames for a moment."""
        return plan_learning(self._table, self._topology, self.vlans, self.memory, rules, moment)


def _read_tables(datagram: bytes) -> list[TableMessage | rtnetlink.ControlMessage]:
    found: list[TableMessage | rtnetlink.ControlMessage]
    found, offset = read_usual(datagram)  # type: ignore[assignment]
    if offset < len(datagram):
        found += rtnetlink.decode(_READERS, datagram[offset:])
    return found


LEARNING_TABLES: rtnetlink.Subject[TableMessage] = rtnetlink.Subject(
    (),
    (rtnetlink.dump_bridge_tables, rtnetlink.dump_bridge_vlans, rtnetlink.dump_link_counters),
    _read_tables,
)
