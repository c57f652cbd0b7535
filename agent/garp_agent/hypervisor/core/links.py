"""The links of this host: the fold of the kernel's link events.

Does not decide which links matter or what a change means: hypervisor.core.bonds does.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import EVENT_NONE, LinkReport, LinkSnapshot
from garp_agent.wire.model import DumpStarted, LinkGone
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
        self._marks = DumpMarks()

    def ports(self, ifindex: int) -> list[LinkSnapshot]:
        """Return the links whose master is ``ifindex``."""
        return [port for port in self.links.values() if port.master_ifindex == ifindex]

    def apply(self, event: LinkEvent) -> list[LinkChange]:
        """Fold one event in; return what it says, without what a dump says too late."""
        if isinstance(event, LinkReport):
            return self._see(event)
        if isinstance(event, LinkGone):
            self._marks.removed(event.ifindex)
            return self._forget([event.ifindex])
        if isinstance(event, DumpStarted):
            self._marks.start()
            return []
        return self._forget(self._marks.sweep(self.links))

    def _see(self, report: LinkReport) -> list[LinkChange]:
        link = report.link
        if not self._marks.seen(link.ifindex, report.dumped):
            return []
        before = self.links.get(link.ifindex)
        if before is not None and before.kind == link.kind and link.bond is None:
            link = link._replace(bond=before.bond)  # a message without bond data
        self.links[link.ifindex] = link
        return [LinkChange(before, link, report.event)]

    def _forget(self, gone: list[int]) -> list[LinkChange]:
        known = [self.links.pop(ifindex, None) for ifindex in gone]
        return [LinkChange(link, None) for link in known if link is not None]
