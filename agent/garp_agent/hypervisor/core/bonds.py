"""Snapshots of links, in the order the kernel gives them, to failovers.

Decides when the guests' way out has changed and they have to be told.  Never reads a
socket or a clock, and knows nothing of guests.  The way of a link is the set of ports
that carry its traffic, as far as rtnetlink tells:

  bond, active-backup        the active port
  bond, other modes          the ports that the bond itself uses, and the active one
  team                       the ports with carrier; NOTIFY_PEERS says that teamd switched
  bridge                     the uplinks (hardware, VLANs) with carrier

A failover is another way, BONDING_FAILOVER, or a carrier that came back.  While there is
no carrier it waits for it: nothing sent before would arrive.  The port's own loss of
carrier is not taken for a failover of a bond: it precedes the switch by the monitoring
interval.  The first failover is told at once; what follows within ``debounce`` seconds
is told together at their end.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.linkstate import (
    EVENT_BONDING_FAILOVER,
    EVENT_NONE,
    EVENT_NOTIFY_PEERS,
    LINK_FAIL,
    LINK_UP,
    MODE_ACTIVE_BACKUP,
    LinkSnapshot,
)
from garp_agent.wire.record import NamedTuple

DEBOUNCE = 0.2  # seconds
KINDS = ("bond", "team", "bridge")
_UPLINK_KINDS = ("", "vlan")
_MODE_NAMES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)


class Failover(NamedTuple):
    """The guests behind ``link`` have another way out."""

    link: str
    before: tuple[str, ...]  # the ports of the way, by name
    after: tuple[str, ...]

    @property
    def reason(self) -> str:
        """In words, for the guest's log."""
        if self.before == self.after:
            return f"{self.link} is back on {_names(self.after)}"
        return f"{self.link} went from {_names(self.before)} to {_names(self.after)}"


class Followed(NamedTuple):
    """How things stand with one link that is followed."""

    link: str
    kind: str  # "bond", "team", "bridge"
    mode: str  # of a bond
    carrier: bool
    ports: tuple[str, ...]  # those of the way


class _Way:
    """What is remembered of one link that is followed."""

    __slots__ = ("carrying", "due", "owed", "ports", "quiet_until", "told")

    def __init__(
        self, ports: frozenset[int], carrying: bool, told: tuple[str, ...], owed: bool
    ) -> None:
        self.ports = ports
        self.carrying = carrying
        self.told = told  # the names of the ports that the guests were told of last
        self.owed = owed  # a failover that was not told yet
        self.due = inf  # when to tell it
        self.quiet_until = -inf


class Follower:
    """Folds snapshots; hand it ``now`` as you would an engine."""

    def __init__(self, names: tuple[str, ...] = (), debounce: float = DEBOUNCE) -> None:
        """``names``: the links to follow; () for every bond, team and bridge with an uplink."""
        self.names = names
        self.debounce = debounce
        self._links: dict[int, LinkSnapshot] = {}
        self._ways: dict[int, _Way] = {}
        self._unmarked: set[int] | None = None  # during a dump: not named yet
        self._started = False  # the first dump is complete: what appears now is new

    # -- what the kernel said -----------------------------------------------------------

    def dump_started(self) -> None:
        """From here on everything is told anew."""
        self._unmarked = set(self._links)

    def dump_complete(self, now: float) -> None:
        """What was not named since the start of the dump is gone."""
        for ifindex in self._unmarked or ():
            self.gone(ifindex, now)
        self._unmarked = None
        self._started = True

    def seen(self, link: LinkSnapshot, now: float) -> None:
        """A link looks like this now."""
        before = self._links.get(link.ifindex)
        if before is not None and before.kind == link.kind and link.bond is None:
            link = link._replace(bond=before.bond)  # some messages leave it out
        self._links[link.ifindex] = link._replace(event=EVENT_NONE)
        if self._unmarked is not None:
            self._unmarked.discard(link.ifindex)
        if before is not None and before.master_ifindex != link.master_ifindex:
            self._look_at_master(before, now)
        self._look_at_master(link, now)
        self._look(link.ifindex, link.event, now)

    def gone(self, ifindex: int, now: float) -> None:
        """A link was deleted."""
        link = self._links.pop(ifindex, None)
        self._ways.pop(ifindex, None)
        if link is not None:
            self._look_at_master(link, now)

    # -- what follows from it -----------------------------------------------------------

    def advance(self, now: float) -> list[Failover]:
        """The failovers to tell the guests of now."""
        failovers: list[Failover] = []
        for ifindex, way in self._ways.items():
            if now >= way.due:
                names = self._port_names(way.ports)
                failovers.append(Failover(self._links[ifindex].name, way.told, names))
                way.told, way.owed, way.due = names, False, inf
                way.quiet_until = now + self.debounce
        return failovers

    def deadline(self) -> float:
        """When to call :meth:`advance` at the latest."""
        return min((way.due for way in self._ways.values()), default=inf)

    @property
    def is_following(self) -> bool:
        """Whether there is any link to follow."""
        return bool(self._ways)

    def followed(self) -> list[Followed]:
        """What is followed, for the operator."""
        found = []
        for ifindex, way in self._ways.items():
            link = self._links[ifindex]
            mode = _mode_name(link.bond.mode) if link.bond else ""
            ports = self._port_names(way.ports)
            found.append(Followed(link.name, link.kind, mode, link.has_carrier, ports))
        return sorted(found)

    # -- looking ------------------------------------------------------------------------

    def _look_at_master(self, port: LinkSnapshot, now: float) -> None:
        # The taps of a thousand guests are no uplinks.
        if port.port_kind != "bridge" or port.kind in _UPLINK_KINDS:
            self._look(port.master_ifindex, EVENT_NONE, now)

    def _look(self, ifindex: int, event: int, now: float) -> None:
        link = self._links.get(ifindex)
        if link is None or not self._is_followed(link):
            self._ways.pop(ifindex, None)
            return
        ports = self._way_of(link)
        carrying = link.has_carrier and bool(ports)
        way = self._ways.get(ifindex)
        if not self._started:  # how things were before us
            told = self._port_names(ports) if carrying else ()
            way = self._ways[ifindex] = _Way(ports, carrying, told, owed=False)
        elif way is None:
            way = self._ways[ifindex] = _Way(ports, carrying, (), owed=True)
        else:
            switched = _is_switch(link, event) and now >= way.quiet_until
            way.owed |= ports != way.ports or switched or (carrying and not way.carrying)
            way.ports, way.carrying = ports, carrying
        way.due = max(now, way.quiet_until) if way.owed and carrying else inf

    def _is_followed(self, link: LinkSnapshot) -> bool:
        if self.names:
            return link.name in self.names and link.kind in KINDS
        return link.kind in ("bond", "team") or (link.kind == "bridge" and self._has_uplink(link))

    def _has_uplink(self, bridge: LinkSnapshot) -> bool:
        return any(port.kind in _UPLINK_KINDS for port in self._ports(bridge))

    def _ports(self, link: LinkSnapshot) -> list[LinkSnapshot]:
        return [port for port in self._links.values() if port.master_ifindex == link.ifindex]

    def _way_of(self, link: LinkSnapshot) -> frozenset[int]:
        ports = self._ports(link)
        if link.kind == "team":
            return frozenset(port.ifindex for port in ports if port.has_carrier)
        if link.kind == "bridge":
            uplinks = (port for port in ports if port.kind in _UPLINK_KINDS)
            return frozenset(port.ifindex for port in uplinks if port.has_carrier)
        if link.bond is None:
            return frozenset()
        active = frozenset({link.bond.active_ifindex} - {0})
        if link.bond.mode == MODE_ACTIVE_BACKUP:
            return active
        return active | frozenset(port.ifindex for port in ports if _is_used(port))

    def _port_names(self, ports: frozenset[int]) -> tuple[str, ...]:
        found = ((self._links.get(ifindex), ifindex) for ifindex in ports)
        return tuple(sorted(link.name if link else f"#{ifindex}" for link, ifindex in found))


def _is_used(port: LinkSnapshot) -> bool:
    """Whether the bond itself sends through it: until its down delay is over it does."""
    state = port.bond_port
    return state is not None and state.active and state.link in (LINK_UP, LINK_FAIL)


def _is_switch(link: LinkSnapshot, event: int) -> bool:
    if link.kind == "bond":
        return event == EVENT_BONDING_FAILOVER
    return link.kind == "team" and event == EVENT_NOTIFY_PEERS


def _mode_name(mode: int) -> str:
    return _MODE_NAMES[mode] if mode < len(_MODE_NAMES) else str(mode)


def _names(ports: tuple[str, ...]) -> str:
    return "+".join(ports) or "nothing"
