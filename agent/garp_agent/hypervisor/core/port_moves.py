"""Guest ports whose frames leave this host another way than before: which, and when to say so.

A guest port moves when it comes to another bridge, when what is below its bridge changes, and when
STP lets it forward.  What is below changes if the bridge, or one that it is joined to, gets another
uplink, or a tunnel another device.  A port without a way out has not moved: its guest may come back
to the same one.  Does not know what a failover of a link is (hypervisor.core.bonds).
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.linkstate import STATE_FORWARDING, STATE_LEARNING
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot
    from garp_agent.hypervisor.core.topology import Path, Topology


class _Home(NamedTuple):
    """Where a guest port was last."""

    bridge: int  # 0 for a macvtap
    below: frozenset[int]  # the switches and ends of its path; empty: it had no way out yet
    link: int  # what a change is named after


class PortMoves:
    """The guest ports, and which are to be reported.  The caller supplies the time."""

    def __init__(
        self, table: LinkTable, topology: Topology, is_open: Callable[[Path], bool]
    ) -> None:
        """``is_open``: takes a path; returns whether frames can pass all its links."""
        self._table = table
        self._topology = topology
        self._is_open = is_open
        self._homes: dict[int, _Home] = {}  # by port
        self._moved: dict[int, float] = {}  # ports to report, since when
        self._places = -1  # of the table, for which _homes holds

    def note(self, before: LinkSnapshot | None, after: LinkSnapshot | None, now: float) -> None:
        """Take in one change of a link."""
        if after is None:
            if before is not None:
                self._homes.pop(before.ifindex, None)
                self._moved.pop(before.ifindex, None)
            return
        learnt = before is not None and before.port_state == STATE_LEARNING
        if learnt and after.port_state == STATE_FORWARDING and self._topology.is_guest_port(after):
            self._moved[after.ifindex] = now

    def look(self, now: float) -> None:
        """Compare the places of all guest ports with the last ones, if a link has another place."""
        if self._places == self._table.places:
            return
        self._places = self._table.places
        shared: dict[frozenset[int], frozenset[int]] = {}  # one set for all ports of a bridge
        for link in filter(self._topology.is_guest_port, self._table.links.values()):
            path = self._topology.path(link.ifindex)
            below = path.switches | path.ends if path.ends else frozenset()
            below = shared.setdefault(below, below)
            home = self._homes.get(link.ifindex)
            bridge = link.master_ifindex
            if home is None:
                self._homes[link.ifindex] = _Home(bridge, below, bridge)
                continue
            comes = bridge != home.bridge
            if comes or (below and below != home.below):
                if comes or home.below:
                    self._moved[link.ifindex] = now
                named = bridge if comes else min(below - home.below, default=bridge)
                self._homes[link.ifindex] = _Home(bridge, below or home.below, named)

    def leave_to_failover(self, links: set[int]) -> None:
        """Report no port whose path has one of these links: a failover of them is reported."""
        for port in [port for port in self._moved if links & self._topology.path(port).links]:
            del self._moved[port]

    def due(self, debounce: float) -> dict[int, float]:
        """Return when to report each port: when its path is open, after ``debounce`` seconds."""
        return {
            port: at + debounce if self._is_open(self._topology.path(port)) else inf
            for port, at in self._moved.items()
        }

    def take(self, now: float, debounce: float) -> dict[int, frozenset[int]]:
        """Return the ports that are due, by the link that they now send through."""
        found: dict[int, set[int]] = {}
        for port in [port for port, at in self.due(debounce).items() if now >= at]:
            del self._moved[port]
            link = self._homes[port].link if port in self._homes else 0
            found.setdefault(link or port, set()).add(port)
        return {link: frozenset(ports) for link, ports in found.items()}
