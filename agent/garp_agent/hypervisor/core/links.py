"""The links of this host: the fold of the kernel's link events.

Does not decide which links matter or what a change means: hypervisor.core.topology and bonds do.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import (
    EVENT_NONE,
    LinkReport,
    LinkSnapshot,
    PortStateReport,
)
from garp_agent.wire.model import DumpPartial, DumpStarted, LinkGone
from garp_agent.wire.netlink_dump import DumpMarks
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkEvent


class LinkChange(NamedTuple):
    """One link that the kernel spoke of; it can be unchanged."""

    before: LinkSnapshot | None  # None: the link is new
    after: LinkSnapshot | None  # None: the link is gone
    event: int = EVENT_NONE


class LinkTable:
    """All known links, by ifindex."""

    def __init__(self) -> None:
        self.links: dict[int, LinkSnapshot] = {}
        self.places = 0  # grows whenever a link changes its place: what it is or is stacked on
        self._ports: dict[int, set[int]] = {}  # ifindexes, by that of their master
        self._marks = DumpMarks()
        # What bridges said of their ports since the dump began; the dump can be older.
        self._port_states: dict[int, PortStateReport] = {}

    def ports(self, ifindex: int) -> list[LinkSnapshot]:
        """Return the links whose master is ``ifindex``."""
        return [self.links[port] for port in self._ports.get(ifindex, ())]

    def apply(self, event: LinkEvent) -> list[LinkChange]:
        """Fold one event in; return what it says, without what a dump says too late."""
        if isinstance(event, LinkReport):
            return self._see(event)
        if isinstance(event, PortStateReport):
            return self._see_port_state(event)
        if isinstance(event, LinkGone):
            self._marks.removed(event.ifindex)
            return self._forget([event.ifindex])
        if isinstance(event, DumpPartial):
            return []  # the next dump starts anew
        self._port_states.clear()
        if isinstance(event, DumpStarted):
            self._marks.start()
            return []
        return self._forget(self._marks.sweep(self.links))

    def _see(self, report: LinkReport) -> list[LinkChange]:
        link = report.link
        if not self._marks.seen(link.ifindex, report.dumped):
            return []
        before = self.links.get(link.ifindex)
        bond = before.bond if before is not None and before.kind == link.kind else None
        if bond is not None and link.bond is None:
            link = link._replace(bond=bond)  # a message without bond data
        told = self._port_states.get(link.ifindex)
        if report.dumped and told is not None and told.bridge_ifindex == link.master_ifindex:
            link = link._replace(port_state=told.state, port_options=told.options)
        if before is not None and before == link:
            link = before  # what is kept does not move in memory with each message
        self._put(before, link)
        return [LinkChange(before, link, report.event)]

    def _see_port_state(self, report: PortStateReport) -> list[LinkChange]:
        # Not a mark: the message says nothing else, and the rest of the dump is still needed.
        if self._marks.is_under_way:
            self._port_states[report.ifindex] = report
        before = self.links.get(report.ifindex)
        if before is None or before.master_ifindex != report.bridge_ifindex:
            return []
        link = before._replace(port_state=report.state, port_options=report.options)
        self.links[report.ifindex] = link
        return [LinkChange(before, link)]

    def _put(self, before: LinkSnapshot | None, link: LinkSnapshot) -> None:
        if before is None or _place(before) != _place(link):
            self.places += 1
            self._leave(before)
            if link.master_ifindex:
                self._ports.setdefault(link.master_ifindex, set()).add(link.ifindex)
        self.links[link.ifindex] = link

    def _leave(self, link: LinkSnapshot | None) -> None:
        ports = self._ports.get(link.master_ifindex) if link is not None else None
        if link is not None and ports is not None:
            ports.discard(link.ifindex)
            if not ports:
                del self._ports[link.master_ifindex]

    def _forget(self, gone: list[int]) -> list[LinkChange]:
        known = [self.links.pop(ifindex, None) for ifindex in gone]
        changes = [LinkChange(link, None) for link in known if link is not None]
        for link, _after, _event in changes:
            self.places += 1
            self._leave(link)
        return changes


def _place(link: LinkSnapshot) -> tuple[object, ...]:
    """Return what the topology depends on; flags and states change much more often."""
    return (
        link.name,
        link.master_ifindex,
        link.kind,
        link.port_kind,
        link.lower_ifindex,
        link.hardware_address,
        link.port_name,
        link.bus,
    )
