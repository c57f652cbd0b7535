"""Link changes to failovers: decides when guests must be told that their path has changed.

Knows bonds, teams and bridges; knows no guest, no socket and no clock.  A link that is followed
has ports in use, which carry its traffic:

  bond, active-backup   the active port
  bond, other modes     the active port, and the ports that the bond itself uses
  team                  the ports with carrier; NOTIFY_PEERS means that teamd switched
  bridge                the uplinks (hardware, VLANs) with carrier

A failover is a change of the ports in use, BONDING_FAILOVER, or a carrier that comes back.
Without carrier a failover waits, because no hint could help before the carrier is back.  A port
that loses its carrier does not make a failover of a bond: the bond switches up to one monitoring
interval (miimon) later.  The first failover of a link is reported at once.  Changes in the next
``debounce`` seconds are reported together when that time has passed.

Sources: Documentation/networking/bonding.rst; drivers/net/bonding/bond_main.c,
bond_change_active_slave().
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
    LinkSnapshot,
)
from garp_agent.wire.model import DumpComplete
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkEvent

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


class BondFailover(NamedTuple):
    """The traffic of ``link`` takes other ports, or the same ports after an interruption."""

    link: str
    before: tuple[str, ...]  # names of the ports in use
    after: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Return the failover in words, for the log of the guest."""
        if self.before == self.after:
            return f"{self.link} is back on {_joined(self.after)}"
        return f"{self.link} went from {_joined(self.before)} to {_joined(self.after)}"


class FollowedLink(NamedTuple):
    """The state of one link that is followed, for the operator."""

    link: str
    kind: str  # one of KINDS
    mode: str  # of a bond, else ""
    carrier: bool
    ports: tuple[str, ...]  # in use


class _ActivePorts:
    """The ports in use of one link, and what is still to be reported."""

    __slots__ = ("carrying", "due", "ports", "quiet_until", "reported", "unreported")

    def __init__(
        self, ports: frozenset[int], carrying: bool, reported: tuple[str, ...], unreported: bool
    ) -> None:
        self.ports = ports
        self.carrying = carrying  # the link has carrier and a port in use
        self.reported = reported  # names of the ports that were reported last
        self.unreported = unreported  # a failover has happened since
        self.due = inf  # when to report it
        self.quiet_until = -inf  # end of the debounce time


class Follower:
    """Follows links and reports their failovers.  The caller supplies the time."""

    def __init__(self, names: tuple[str, ...] = (), debounce: float = DEBOUNCE) -> None:
        """``names``: the links to follow; empty: each bond, each team, each bridge with an uplink.

        ``debounce``: seconds.
        """
        self.names = names
        self.debounce = debounce
        self._table = LinkTable()
        self._active: dict[int, _ActivePorts] = {}  # of the followed links, by ifindex
        self._complete = False  # the first dump has ended: a link that appears now is new

    def handle(self, event: LinkEvent, now: float) -> None:
        """Take in one event of the kernel."""
        for before, after, why in self._table.apply(event):
            if after is None:
                assert before is not None
                self._active.pop(before.ifindex, None)
                self._examine_master(before, now)
                continue
            if before is not None and before.master_ifindex != after.master_ifindex:
                self._examine_master(before, now)
            self._examine_master(after, now)
            self._examine(after.ifindex, why, now)
        if isinstance(event, DumpComplete):
            self._complete = True

    def advance(self, now: float) -> list[BondFailover]:
        """Return the failovers that are due, and count them as reported."""
        failovers: list[BondFailover] = []
        for ifindex, active in self._active.items():
            if now >= active.due:
                names = self._names(active.ports)
                link = self._table.links[ifindex]
                failovers.append(BondFailover(link.name, active.reported, names))
                active.reported, active.unreported, active.due = names, False, inf
                active.quiet_until = now + self.debounce
        return failovers

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min((active.due for active in self._active.values()), default=inf)

    @property
    def is_following(self) -> bool:
        """Return whether there is a link to follow."""
        return bool(self._active)

    def followed(self) -> list[FollowedLink]:
        """Return the links that are followed, by name."""
        found = []
        for ifindex, active in self._active.items():
            link = self._table.links[ifindex]
            mode = _mode_name(link.bond.mode) if link.bond else ""
            ports = self._names(active.ports)
            found.append(FollowedLink(link.name, link.kind, mode, link.has_carrier, ports))
        return sorted(found)

    # -- what a change means ------------------------------------------------------------

    def _examine_master(self, port: LinkSnapshot, now: float) -> None:
        # A bridge can have the ports of 1,000 guests, and none of them is an uplink.
        if port.port_kind != "bridge" or port.kind in _UPLINK_KINDS:
            self._examine(port.master_ifindex, EVENT_NONE, now)

    def _examine(self, ifindex: int, event: int, now: float) -> None:
        link = self._table.links.get(ifindex)
        if link is None or not self._is_to_follow(link):
            self._active.pop(ifindex, None)
            return
        ports = self._ports_in_use(link)
        carrying = link.has_carrier and bool(ports)
        active = self._active.get(ifindex)
        if not self._complete:  # the state before the watcher started
            reported = self._names(ports) if carrying else ()
            active = self._active[ifindex] = _ActivePorts(ports, carrying, reported, False)
        elif active is None:
            active = self._active[ifindex] = _ActivePorts(ports, carrying, (), True)
        else:
            # A bond sends BONDING_FAILOVER after the message with the new active port: in the
            # debounce time the event belongs to the failover that was just reported.
            switched = _is_switch(link, event) and now >= active.quiet_until
            changed = ports != active.ports or (carrying and not active.carrying)
            active.unreported |= changed or switched
            active.ports, active.carrying = ports, carrying
        active.due = max(now, active.quiet_until) if active.unreported and carrying else inf

    def _is_to_follow(self, link: LinkSnapshot) -> bool:
        if self.names:
            return link.name in self.names and link.kind in KINDS
        return link.kind in ("bond", "team") or (link.kind == "bridge" and self._has_uplink(link))

    def _has_uplink(self, bridge: LinkSnapshot) -> bool:
        return any(port.kind in _UPLINK_KINDS for port in self._table.ports(bridge.ifindex))

    def _ports_in_use(self, link: LinkSnapshot) -> frozenset[int]:
        ports = self._table.ports(link.ifindex)
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

    def _names(self, ports: frozenset[int]) -> tuple[str, ...]:
        found = ((self._table.links.get(ifindex), ifindex) for ifindex in ports)
        return tuple(sorted(link.name if link else f"#{ifindex}" for link, ifindex in found))


def _is_used(port: LinkSnapshot) -> bool:
    """Return whether the bond sends through ``port``; it does until the down delay is over."""
    state = port.bond_port
    return state is not None and state.active and state.link in (LINK_UP, LINK_FAIL)


def _is_switch(link: LinkSnapshot, event: int) -> bool:
    if link.kind == "bond":
        return event == EVENT_BONDING_FAILOVER
    return link.kind == "team" and event == EVENT_NOTIFY_PEERS


def _mode_name(mode: int) -> str:
    return _MODE_NAMES[mode] if mode < len(_MODE_NAMES) else str(mode)


def _joined(ports: tuple[str, ...]) -> str:
    return "+".join(ports) or "nothing"
