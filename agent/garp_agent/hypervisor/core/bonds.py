"""Link changes to failovers: decides when guests must be told that their path has changed.

Knows bonds, teams and bridges; knows no guest, no socket and no clock.  A link that is followed
has ports in use, which carry its traffic:

  bond, active-backup   the active port
  bond, other modes     the active port, and the ports that the bond itself uses
  team                  the ports with carrier; NOTIFY_PEERS means that teamd switched
  bridge                the uplinks with carrier that forward (STP)

A failover is a change of the ports in use, BONDING_FAILOVER, or a carrier that comes back.
Without carrier a failover waits, because no hint could help before the carrier is back.  A port
that loses its carrier does not make a failover of a bond: the bond switches up to one monitoring
interval (miimon) later.  What is stacked on one bond is one failover.  The first one is reported
at once.  Changes in the next ``debounce`` seconds are reported together when that time has passed.

A new bridge moves no guest, unless a guest port is in it already.  A guest port whose frames leave
another way (hypervisor.core.port_moves) is reported by itself, if no such failover says so.

Sources: Documentation/networking/bonding.rst; drivers/net/bonding/bond_main.c,
bond_change_active_slave(); net/bridge/br_if.c, br_port_carrier_check().
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    EVENT_BONDING_FAILOVER,
    EVENT_NONE,
    EVENT_NOTIFY_PEERS,
    LINK_FAIL,
    LINK_UP,
    MODE_ACTIVE_BACKUP,
    STATE_FORWARDING,
    LinkSnapshot,
)
from garp_agent.hypervisor.core.port_moves import PortMoves
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.wire.model import IFF_UP, DumpComplete
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkEvent
    from garp_agent.hypervisor.core.topology import Path

DEBOUNCE = 0.2  # seconds
KINDS = ("bond", "team", "bridge")
_MODE_NAMES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)


class BondFailover(NamedTuple):
    """The traffic of ``link`` takes other ports, or the same ports after an interruption.

    Or, if ``guest_ports`` is not empty: their frames now pass ``link``.
    """

    link: str
    before: tuple[str, ...]  # names of the ports in use
    after: tuple[str, ...]
    links: frozenset[str] = frozenset()  # names of all links that it is a failover of
    guest_ports: frozenset[str] = frozenset()  # names

    @property
    def reason(self) -> str:
        """Return the failover in words, for the log of the guest."""
        if self.guest_ports:
            count = len(self.guest_ports)
            what = f"{count} guest ports now send" if count > 1 else "a guest port now sends"
            return f"{what} through {self.link}"
        others = len(self.links) - 1
        link = f"{self.link} and {others} more" if others > 0 else self.link
        if self.before == self.after:
            return f"{link} {'are' if others > 0 else 'is'} back on {_joined(self.after)}"
        return f"{link} went from {_joined(self.before)} to {_joined(self.after)}"


class FollowedLink(NamedTuple):
    """The state of one link that is followed, for the operator."""

    link: str
    kind: str  # one of KINDS
    mode: str  # of a bond, else ""
    carrier: bool
    ports: tuple[str, ...]  # in use


class _ActivePorts:
    """The ports in use of one link, and what is still to be reported."""

    __slots__ = ("carrying", "is_new", "lost_at", "ports", "reported", "unreported")

    def __init__(
        self, ports: frozenset[int], carrying: bool, reported: tuple[str, ...], unreported: bool
    ) -> None:
        self.ports = ports
        self.carrying = carrying  # the link has carrier and a port in use
        self.reported = reported  # names of the ports that were reported last
        self.unreported = unreported  # a failover has happened since
        self.is_new = False  # a bridge that has not carried anything since it has an uplink
        self.lost_at = inf  # when it stopped carrying, until it is reported as back


class Follower:
    """Follows links and reports their failovers.  The caller supplies the time."""

    def __init__(self, names: tuple[str, ...] = (), debounce: float = DEBOUNCE) -> None:
        """``names``: the links to follow, with the bridges on them; empty: each bond, each team,
        each bridge with an uplink.

        ``debounce``: seconds.
        """
        self.names = names
        self.debounce = debounce
        self.table = LinkTable()
        self.topology = Topology(self.table)
        self._active: dict[int, _ActivePorts] = {}  # of the followed links, by ifindex
        self._changed_at: dict[int, float] = {}  # when a changed one could be reported first
        self._quiet: dict[frozenset[int], float] = {}  # end of the debounce time, by root
        self._moves = PortMoves(self.table, self.topology, self._is_open)
        self._complete = False  # the first dump has ended: a link that appears now is new
        self._changes = 0  # of what followed() returns, except for places

    def handle(self, event: LinkEvent, now: float) -> None:
        """Take in one event of the kernel."""
        for before, after, why in self.table.apply(event):
            self._moves.note(before, after, now)
            if after is None:
                assert before is not None
                self._leave(before.ifindex)
                self._examine_master(before, now)
                continue
            if before is not None and before.master_ifindex != after.master_ifindex:
                self._examine_master(before, now)
            if after.ifindex in self._active and before != after:
                self._changes += 1
            self._examine_master(after, now)
            self._examine(after.ifindex, why, now)
        if isinstance(event, DumpComplete):
            for ifindex in [each for each in self.table.links if each not in self._active]:
                self._examine(ifindex, EVENT_NONE, now)  # what is below it may be known only now
            self._complete = True
            self._moves.look(now)

    def advance(self, now: float) -> list[BondFailover]:
        """Return the failovers that are due, and count them as reported."""
        if self._complete:
            self._moves.look(now)
        due = [(root, links) for root, links, due in self._pending() if now >= due]
        return [self._report(root, links, now) for root, links in due] + self._take_moved(now)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        dues = [due for _root, _links, due in self._pending()]
        return min([*dues, *self._moves.due(self.debounce).values()], default=inf)

    @property
    def is_following(self) -> bool:
        """Return whether there is a link to follow."""
        return bool(self._active)

    def follows(self, ifindex: int) -> bool:
        """Return whether a failover of this link would be reported."""
        return ifindex in self._active

    @property
    def version(self) -> tuple[int, int]:
        """Return a value that differs after each change of what :meth:`followed` returns."""
        return self.table.places, self._changes

    def followed(self) -> list[FollowedLink]:
        """Return the links that are followed, by name."""
        found = []
        for ifindex, active in self._active.items():
            link = self.table.links[ifindex]
            mode = mode_name(link.bond.mode) if link.bond else ""
            ports = self._names(active.ports)
            # The guests' ports keep the carrier of a bridge whose uplink has none.
            carrier = active.carrying or (link.has_carrier and not self._has_uplink(link))
            found.append(FollowedLink(link.name, link.kind, mode, carrier, ports))
        return sorted(found)

    # -- what is to be reported, and when -----------------------------------------------

    def _pending(self) -> list[tuple[frozenset[int], list[int], float]]:
        """Return the links with something to report: their root, themselves, and when."""
        if not self._changed_at:  # as after most messages
            return []
        pending: dict[frozenset[int], list[int]] = {}
        for ifindex in self._changed_at:
            pending.setdefault(self._root(ifindex), []).append(ifindex)
        return [(root, links, self._due(root, links)) for root, links in pending.items()]

    def _root(self, ifindex: int) -> frozenset[int]:
        return self.topology.path(ifindex).ends or frozenset({ifindex})

    def _due(self, root: frozenset[int], links: list[int]) -> float:
        """Return when to report a failover.

        The carrier returns to a bond first, then to its VLANs and the bridges on them.  A guest
        that is told before its bridge forwards can announce nothing.  So the report waits for
        the links that the same interruption has stopped, for at most the debounce time.
        """
        first = min(self._changed_at[ifindex] for ifindex in links)
        lost_at = min(self._active[ifindex].lost_at for ifindex in links)
        waits = lost_at < inf and any(
            not other.carrying and lost_at <= other.lost_at < inf and self._root(ifindex) == root
            for ifindex, other in self._active.items()
        )
        return max(first + self.debounce if waits else first, self._quiet.get(root, -inf))

    def _report(self, root: frozenset[int], links: list[int], now: float) -> BondFailover:
        named = {ifindex: self.table.links[ifindex] for ifindex in links}
        first = min(links, key=lambda each: (named[each].kind == "bridge", named[each].name))
        before, after = self._active[first].reported, self._names(self._active[first].ports)
        for ifindex in links:
            active = self._active[ifindex]
            active.reported = self._names(active.ports)
            active.unreported, active.lost_at = False, inf
            del self._changed_at[ifindex]
        self._quiet = {each: until for each, until in self._quiet.items() if until > now}
        self._quiet[root] = now + self.debounce
        self._moves.leave_to_failover(set(links))
        names = frozenset(link.name for link in named.values())
        return BondFailover(named[first].name, before, after, names)

    def _is_open(self, path: Path) -> bool:
        return all(self._active[each].carrying for each in path.switches if each in self._active)

    def _take_moved(self, now: float) -> list[BondFailover]:
        return [
            BondFailover(name, (), (), guest_ports=frozenset(self._names(ports)))
            for link, ports in self._moves.take(now, self.debounce).items()
            for name in self._names(frozenset({link}))
        ]

    # -- what a change means ------------------------------------------------------------

    def _has_uplink(self, link: LinkSnapshot) -> bool:
        """Return whether a bridge has an uplink; other links are uplinks themselves."""
        return link.kind != "bridge" or bool(self.topology.uplinks(link.ifindex))

    def _examine_master(self, port: LinkSnapshot, now: float) -> None:
        # A bridge can have the ports of 1,000 guests, and none of them is an uplink.
        if port.port_kind != "bridge" or self.topology.is_uplink(port):
            self._examine(port.master_ifindex, EVENT_NONE, now)

    def _examine(self, ifindex: int, event: int, now: float) -> None:
        link = self.table.links.get(ifindex)
        if link is None or not self._is_to_follow(link):
            self._leave(ifindex)
            return
        ports = self._ports_in_use(link)
        carrying = bool(ports) and (link.has_carrier or _is_bridge_up(link))
        active = self._active.get(ifindex)
        if active is None or not self._complete:
            self._begin(link, ports, carrying, now)
            return
        # A bond sends BONDING_FAILOVER after the message with the new active port: in the
        # debounce time the event belongs to the failover that was just reported.
        quiet_until = self._quiet.get(self._root(ifindex), -inf)
        switched = _is_switch(link, event) and now >= quiet_until
        changed = ports != active.ports or (carrying and not active.carrying)
        if active.is_new:
            changed = carrying and self._has_guest_port(link)
            active.is_new = not carrying
        active.unreported |= changed or switched
        if active.carrying and not carrying:
            active.lost_at = min(active.lost_at, now)
        if (ports, carrying) != (active.ports, active.carrying):
            active.ports, active.carrying = ports, carrying
            self._changes += 1
        self._set_changed(link.ifindex, active, now)

    def _begin(self, link: LinkSnapshot, ports: frozenset[int], carrying: bool, now: float) -> None:
        is_bridge = link.kind == "bridge"
        unreported = self._complete and (not is_bridge or self._has_guest_port(link))
        reported = self._names(ports) if carrying and not unreported else ()
        active = _ActivePorts(ports, carrying, reported, unreported)
        active.is_new = self._complete and is_bridge and not carrying
        self._active[link.ifindex] = active
        self._changes += 1
        self._set_changed(link.ifindex, active, now)

    def _leave(self, ifindex: int) -> None:
        if self._active.pop(ifindex, None) is not None:
            self._changed_at.pop(ifindex, None)
            self._changes += 1

    def _set_changed(self, ifindex: int, active: _ActivePorts, now: float) -> None:
        if active.unreported and active.carrying:
            self._changed_at.setdefault(ifindex, now)
        else:
            self._changed_at.pop(ifindex, None)

    def _has_guest_port(self, bridge: LinkSnapshot) -> bool:
        guest_ports = filter(self.topology.is_guest_port, self.table.links.values())
        return any(bridge.ifindex in self.topology.path(each.ifindex).links for each in guest_ports)

    def _is_to_follow(self, link: LinkSnapshot) -> bool:
        if not self.names:
            return link.kind in ("bond", "team") or (
                link.kind == "bridge" and self._has_uplink(link)
            )
        if link.name in self.names or link.kind != "bridge":
            return link.name in self.names and link.kind in KINDS
        below = self.topology.path(link.ifindex).switches
        return any(self.table.links[each].name in self.names for each in below)

    def _ports_in_use(self, link: LinkSnapshot) -> frozenset[int]:
        if link.kind == "bridge":
            uplinks = self.topology.uplinks(link.ifindex)
            return frozenset(port.ifindex for port in uplinks if _forwards(port))
        ports = self.table.ports(link.ifindex)
        if link.kind == "team":
            return frozenset(port.ifindex for port in ports if port.has_carrier)
        if link.bond is None:
            return frozenset()
        active = frozenset({link.bond.active_ifindex} - {0})
        if link.bond.mode == MODE_ACTIVE_BACKUP:
            return active
        return active | frozenset(port.ifindex for port in ports if _is_used(port))

    def _names(self, ports: frozenset[int]) -> tuple[str, ...]:
        found = ((self.table.links.get(ifindex), ifindex) for ifindex in ports)
        return tuple(sorted(link.name if link else f"#{ifindex}" for link, ifindex in found))


def _is_used(port: LinkSnapshot) -> bool:
    """Return whether the bond sends through ``port``; it does until the down delay is over."""
    state = port.bond_port
    return state is not None and state.active and state.link in (LINK_UP, LINK_FAIL)


def _forwards(port: LinkSnapshot) -> bool:
    """Return whether a bridge sends through ``port``."""
    return port.has_carrier and port.port_state in (None, STATE_FORWARDING)


def _is_bridge_up(link: LinkSnapshot) -> bool:
    # Its carrier follows that of its ports up to a second later (net/core/link_watch.c).
    return link.kind == "bridge" and bool(link.flags & IFF_UP)


def _is_switch(link: LinkSnapshot, event: int) -> bool:
    if link.kind == "bond":
        return event == EVENT_BONDING_FAILOVER
    return link.kind == "team" and event == EVENT_NOTIFY_PEERS


def mode_name(mode: int) -> str:
    """Return the name of a bond's mode, as bonding.rst has it."""
    return _MODE_NAMES[mode] if mode < len(_MODE_NAMES) else str(mode)


def _joined(ports: tuple[str, ...]) -> str:
    return "+".join(ports) or "nothing"
