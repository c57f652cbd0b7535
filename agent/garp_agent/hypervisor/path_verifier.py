"""Asks the network after a failover, with path probes: sockets and tables for the watcher.

Decides neither what is probed (hypervisor.core.path_check) nor what follows from it
(hypervisor.core.watcher).  Needs CAP_NET_RAW, and two ports of a bond with carrier.

Hints wait for the path only after a failover to a port that got its carrier lately: its switch port
may not forward yet.  And only between two ports that probes have shown to be joined: the switches
of another network may drop the probes.  While no check is under way, each standby port is proven
again with every dump of the tables, so that a proof does not outlive a change in the network.
"""

from __future__ import annotations

import os
from math import inf

from garp_agent.hypervisor.core.failover_record import (
    AddressesReached,
    PathForwards,
    PathLost,
    Verification,
)
from garp_agent.hypervisor.core.learning_plan import Moment
from garp_agent.hypervisor.core.learning_rules import LearningRules
from garp_agent.hypervisor.core.learning_state import LEARNING_TABLES, LearningState
from garp_agent.hypervisor.core.path_check import PATH_MOST, PathCheck
from garp_agent.hypervisor.core.path_probes import (
    RUN_LENGTH,
    plan_probe_paths,
    probe_source,
    targets_behind,
)
from garp_agent.hypervisor.io.probe_socket import ProbeReceiver
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import DumpComplete, DumpPartial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from garp_agent.hypervisor.core.bonds import Follower
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot
    from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeTarget
    from garp_agent.hypervisor.io.probe_socket import ProbeSender
    from garp_agent.runtime.reactor import Reactor

    Found = PathForwards | PathLost | AddressesReached

HOLD = 40.0  # seconds for which hints wait for a path: spanning trees need 30 s
LATELY = 60.0  # seconds after its carrier came, in which a port may not forward yet
LATE = 0.05  # seconds after a failover; hints sent before a path forwards later are lost
READ_TABLES = 150.0  # seconds between two dumps: half the ageing time of bridges
PROOF_MOST = 2.0  # seconds for which a standby port is asked for a proof
PROOF_LASTS = 900.0  # seconds; a port that was down for longer may come back in another network
PART = 8  # datagrams of a dump that are read in one turn
FRAMES_MOST = 64  # sent in one turn
CLOSE_AFTER = 2.0  # seconds; each close can wait for the kernel, 5 to 26 ms: not at a failover
NEWS = 0.1  # seconds between two reports of a check: each costs 10 ms with 1,000 guests


class _Running:
    """A check and its sockets."""

    def __init__(
        self, check: PathCheck, number: int, began: float, receivers: list[ProbeReceiver]
    ) -> None:
        self.check = check
        self.number = number  # of the failover; 0: none, at the start of the watcher
        self.began = began
        self.receivers = receivers
        self.told = -1  # addresses reached, as of the latest event
        self.tell_at = -inf  # when the next such event may come
        self.is_open = False

    @property
    def has_news(self) -> bool:
        """Return whether more addresses are reached than the latest event says."""
        return len(self.check.delivered) != self.told

    def deadline(self) -> float:
        """Return when the next frame or event is due."""
        return min(self.check.deadline(), self.tell_at if self.has_news else inf)


class PathVerifier:
    """All checks under way.  The caller supplies the time."""

    def __init__(
        self,
        follower: Follower,
        reactor: Reactor,
        sender: ProbeSender,
        read_tables: float = READ_TABLES,
    ) -> None:
        """``sender``: is closed with this.  ``read_tables``: seconds between two dumps.

        Raises OSError if there can be no socket.
        """
        self._follower = follower
        self._reactor = reactor
        self._sender = sender
        self._netlink = Netlink(read_tables, LEARNING_TABLES)
        self._told: list[object] = []  # of the dump under way
        self._state = LearningState(follower.table, follower.topology)
        self._running: dict[tuple[int, int], _Running] = {}  # by bond and standby port
        self.proven: dict[int, float] = {}  # ports on a path that was seen to forward, and when
        self._places = -1  # of the table, as of the latest look
        self._bonded: list[int] = []  # bonds and their ports
        self._links: list[LinkSnapshot] = []  # these, as of the latest look
        self._are_links_new = False  # since the running checks were compared with them
        self._unused: list[ProbeReceiver] = []  # of checks that have ended
        self._close_at = inf  # when the next of them is closed
        self._is_first = True  # no dump has ended yet
        self._carrier_at: dict[int, float] = {}  # when each port of a bond got its carrier
        reactor.watch(self._netlink, self._read_tables)

    @property
    def numbers(self) -> set[int]:
        """Return the numbers of the failovers that are checked."""
        return {running.number for running in self._running.values()}

    @property
    def is_checking(self) -> bool:
        """Return whether a check is under way."""
        return bool(self._running)

    @property
    def checked(self) -> set[tuple[int, int]]:
        """Return bonds and standby ports, by ifindex, between which frames are sent."""
        return set(self._running)

    def close(self) -> None:
        """Close all sockets."""
        for each in list(self._running):
            self._end(each, 0.0)
        for receiver in self._unused:
            receiver.close()
        self._reactor.unwatch(self._netlink)
        self._netlink.close()
        self._sender.close()

    def note_links(self, now: float) -> bool:
        """Note which ports have carrier; return whether a bond or one of its ports has changed.

        Call this after each change of the links.
        """
        table = self._follower.table
        if self._places != table.places:  # not at each message: the ports of guests change often
            self._places = table.places
            known = table.links.values()
            self._bonded = [each.ifindex for each in known if "bond" in (each.kind, each.port_kind)]
        links = [table.links[ifindex] for ifindex in self._bonded]
        if links == self._links:
            return False
        self._links = links
        ports = {port.ifindex for port in links if port.port_kind == "bond" and port.has_carrier}
        first = -inf if self._is_first else now
        self._carrier_at = {port: self._carrier_at.get(port, first) for port in ports}
        self._are_links_new = True
        return True

    def hold(self, names: Iterable[str], now: float) -> float:
        """Return for how many seconds the hints of a failover of these links are to wait."""
        paths = self._best_paths(self._bonds(names), now)
        lately = self._lately(now)
        # If the standby port does not forward, no probe arrives, and that says nothing.
        proven = {port for port, at in self.proven.items() if at > now - PROOF_LASTS}
        waits = [
            proven.issuperset(path[1:]) and path.active in lately and path.standby not in lately
            for path in paths
        ]
        return HOLD if waits and all(waits) else 0.0

    def begin(self, number: int, names: Iterable[str], now: float) -> bool:
        """Begin the checks after failover ``number`` of these links, where they are possible.

        Return whether one has begun: it can fail, or there can be no address to probe.
        """
        self._begin(number, self._best_paths(self._bonds(names), now), now)
        return number in self.numbers

    def advance(self, now: float) -> list[Found]:
        """Send what is due; return what the checks have found out."""
        for event in self._netlink.reconcile(now):
            self._take(event, now)
        if now >= self._close_at:
            self._unused.pop().close()
            self._close_at = now if self._unused else inf
        events = self._end_lost(now)
        for each, running in list(self._running.items()):
            for _ in range(FRAMES_MOST):
                out = running.check.next_frame(now)
                if out is None:
                    break
                link = self._follower.table.links.get(out.port)
                if link is not None:
                    self._sender.send(link.name, out.frame)
            events += self._news(running, now)
            is_proof = running.check.is_open and not running.number
            if running.check.is_over or is_proof:
                self._end(each, now)
        return events

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        checks = (running.deadline() for running in self._running.values())
        return min(self._netlink.deadline(), self._close_at, *checks)

    # -- checks -------------------------------------------------------------------------

    def _bonds(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names of bonds; "" if there is none, because () would mean all."""
        links = self._follower.table.links.values()
        bonds = {link.name for link in links if link.kind == "bond"}
        return tuple(sorted(bonds.intersection(names))) or ("",)

    def _lately(self, now: float) -> set[int]:
        """Return the ports whose switch port may not forward yet."""
        return {port for port, at in self._carrier_at.items() if at > now - LATELY}

    def _best_paths(self, bonds: tuple[str, ...], now: float) -> list[ProbePath]:
        """Return one path for each bond, from the standby port that most likely forwards."""
        lately = self._lately(now)

        def doubt(path: ProbePath) -> tuple[bool, bool]:
            return path.standby in lately, path.standby not in self.proven

        best: dict[int, ProbePath] = {}
        for path in plan_probe_paths(self._follower.table, bonds).paths:
            best[path.bond] = min(best.get(path.bond, path), path, key=doubt)
        return list(best.values())

    def _prove(self, now: float) -> None:
        """Ask whether the standby ports are joined to the active ones; no guest is asked for."""
        busy = {bond for bond, _standby in self._running}
        paths = plan_probe_paths(self._follower.table).paths
        self._begin(0, [path for path in paths if path.bond not in busy], now)

    def _end_lost(self, now: float) -> list[Found]:
        """End the checks whose ports have changed; go on with another standby port, if there is."""
        if not self._are_links_new:
            return []
        self._are_links_new = False
        table = self._follower.table
        known = plan_probe_paths(table).paths
        events: list[Found] = []
        for each, running in list(self._running.items()):
            if running.check.path in known:
                continue
            self._close(each, now)
            if not running.number:
                continue
            if running.is_open:
                events.append(_reached(running)._replace(is_over=True))
                continue
            bond = table.links.get(running.check.path.bond)
            self._begin(running.number, self._best_paths((bond.name if bond else "",), now), now)
            if running.number not in self.numbers:
                events.append(PathLost(running.number))
        return events

    def _begin(self, number: int, paths: Collection[ProbePath], now: float) -> None:
        moment = Moment(now)
        entries = self._state.plan(LearningRules(), moment).entries
        bonds = {path.bond for path in paths}
        for each in [each for each in self._running if each[0] in bonds]:
            self._end(each, now)
        for path in paths:
            targets = targets_behind([path], entries, {})
            if targets:
                self._start(number, path, targets, now)

    def _start(
        self, number: int, path: ProbePath, targets: tuple[ProbeTarget, ...], now: float
    ) -> None:
        table = self._follower.table
        run = os.urandom(RUN_LENGTH)
        standby, active = (table.links[port] for port in (path.standby, path.active))
        sources = probe_source(table, standby), probe_source(table, active)
        most = PATH_MOST if number else PROOF_MOST
        check = PathCheck(path, targets, run, sources, now, most)
        receivers: list[ProbeReceiver] = []
        try:
            receivers.append(ProbeReceiver(standby.name, run, sources[0]))
            receivers.append(ProbeReceiver(active.name, run))
        except OSError:  # the port is gone, or no descriptor is left: no check
            for receiver in receivers:
                receiver.close()
            return
        running = _Running(check, number, now, receivers)
        self._running[path.bond, path.standby] = running
        for port, receiver in zip((path.standby, path.active), receivers):
            self._watch(running, port, receiver)

    def _watch(self, running: _Running, port: int, receiver: ProbeReceiver) -> None:
        def read(now: float) -> None:
            for probe in receiver.read():
                running.check.seen(port, probe, now)

        self._reactor.watch(receiver, read)

    def _end(self, each: tuple[int, int], now: float) -> None:
        running = self._close(each, now)
        if not running.check.is_open:
            path = running.check.path
            self.proven.pop(path.standby, None)
            if running.number:  # else others may prove the active port
                self.proven.pop(path.active, None)

    def _close(self, each: tuple[int, int], now: float) -> _Running:
        running = self._running.pop(each)
        for receiver in running.receivers:
            self._reactor.unwatch(receiver)
        self._unused += running.receivers
        self._close_at = min(self._close_at, now + CLOSE_AFTER)
        return running

    def _news(self, running: _Running, now: float) -> list[Found]:
        check = running.check
        events: list[Found] = []
        if check.is_open and not running.is_open:
            running.is_open = True
            self.proven.update(dict.fromkeys(check.path[1:], check.opened_at))
            is_late = check.opened_at > running.began + LATE
            events.append(PathForwards(running.number, is_late))
        if (running.has_news and now >= running.tell_at) or check.is_over:
            running.told, running.tell_at = len(check.delivered), now + NEWS
            events.append(_reached(running))
        return events if running.number else []

    # -- tables -------------------------------------------------------------------------

    def _read_tables(self, now: float) -> None:
        for event in self._netlink.read(now, PART):
            self._take(event, now)

    def _take(self, event: object, now: float) -> None:
        if not isinstance(event, (DumpComplete, DumpPartial)):
            self._told.append(event)
            return
        self._state.take(self._told, now)
        self._told = []
        self._is_first = False
        self._prove(now)


def _reached(running: _Running) -> AddressesReached:
    check = running.check
    forwards_after = check.opened_at - running.began if check.is_open else None
    slowest = max(check.delivered.values(), default=None)
    found = Verification(
        forwards_after,
        len(check.delivered),
        len(check.targets),
        None if slowest is None else slowest - running.began,
    )
    missing = {each.port for n, each in enumerate(check.targets) if n not in check.delivered}
    ports = frozenset(each.port for each in check.targets) - missing
    return AddressesReached(running.number, found, ports, check.is_over)
