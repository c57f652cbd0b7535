"""Learning frames of the watcher: the tables' reader, the socket, and the rounds, wired together.

Decides nothing (hypervisor.core.learning_rounds, learning_plan).  Loaded only with ``--learn``.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.learning_frames import learning_frame
from garp_agent.hypervisor.core.learning_memory import snapshot_interval
from garp_agent.hypervisor.core.learning_rounds import LearningRounds
from garp_agent.hypervisor.core.learning_state import LEARNING_TABLES, LearningState
from garp_agent.hypervisor.core.learning_warnings import learning_warnings
from garp_agent.hypervisor.core.linkstate import MODE_8023AD, LinkReport
from garp_agent.hypervisor.core.ways import NOTHING, way_with_learning
from garp_agent.hypervisor.io.learning_socket import LearningSocket, is_full
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_WARNING, DumpComplete, DumpPartial, DumpStarted
from garp_agent.wire.notices import Notices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from garp_agent.hypervisor.core.bonds import BondFailover, FollowedLink, Follower
    from garp_agent.hypervisor.core.learning_rules import LearningRules
    from garp_agent.hypervisor.core.learning_state import TableMessage
    from garp_agent.hypervisor.core.linkstate import LinkEvent
    from garp_agent.hypervisor.io.libvirt_cards import LibvirtCard
    from garp_agent.runtime.netlink import Events

_CONTROLS = frozenset((DumpStarted, DumpComplete, DumpPartial))
PART = 8  # datagrams read in one turn; each has about 500 entries


class Learning:
    """The learning frames while the watcher runs.  The caller supplies the time."""

    def __init__(
        self,
        follower: Follower,
        rules: LearningRules,
        pace: int,
        clock: Callable[[], float],
    ) -> None:
        """``clock``: tells when a frame has left, on the clock of the caller's times.

        Raises NoRawFramesError, OSError if there can be no socket.
        """
        self._follower = follower
        self._clock = clock
        self._notices = Notices()
        self.take_notices = self._notices.take
        self._socket = LearningSocket()
        self._state = LearningState(follower.table, follower.topology)
        self._rounds = LearningRounds(self._state, follower.table, rules, pace, self._notices)
        self._netlink: Netlink[TableMessage] = Netlink(
            snapshot_interval(follower.table), LEARNING_TABLES
        )
        self._told: list[TableMessage] = []  # by the dump under way
        self._is_reading = False
        self._warned: set[str] = set()
        self._found_cards: list[LibvirtCard] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Close the sockets."""
        self._netlink.close()
        self._socket.close()

    def note(self, event: LinkEvent) -> None:
        """Take in one event of the kernel: what was behind a port without carrier is forgotten."""
        if isinstance(event, LinkReport) and not event.link.has_carrier:
            # A macvtap has the carrier of the link below it: its guest may be the same.
            carrier_is_borrowed = event.link.kind in ("macvtap", "ipvtap")
            packets = (0, 0) if carrier_is_borrowed else event.packets
            self._state.memory.forget_port(event.link.ifindex, packets)

    def follow(self, links: Iterable[FollowedLink], now: float) -> None:
        """Take in the state of all followed links, before their failovers."""
        self._rounds.follow(links, now)

    def failover(self, failover: BondFailover, now: float, wall: float) -> None:
        """Begin the rounds for the bonds of a failover; send the first frames before it returns.

        ``wall``: seconds since 1970.
        """
        links = self._follower.table.links
        named = [link for link in links.values() if link.name in failover.links]
        bonds = self._bonds_of(link.ifindex for link in named)
        changed = bool(failover.before) and not set(failover.before) & set(failover.after)
        aggregators = frozenset(each for each in bonds if changed and self._mode(each))
        self._rounds.begin(bonds, aggregators, now, wall)
        self._send_at_once(now)

    def learn_all(self, now: float, wall: float) -> None:
        """Begin the rounds for all bonds, because the operator says so."""
        links = self._follower.table.links.values()
        bonds = [link.ifindex for link in links if link.bond is not None]
        followed = filter(self._follower.follows, bonds)
        self._rounds.begin(followed, frozenset(), now, wall)

    def read(self, now: float) -> None:
        """Read a part of the tables."""
        self._take(self._netlink.read(now, PART), now)

    def advance(self, now: float) -> None:
        """Ask for tables if it is time to; send what is due."""
        self._rounds.advance(now)
        if not self._is_reading:
            if self._rounds.wants_tables:
                self._netlink.ask_again(now)
            if now >= self._netlink.deadline():
                self._netlink.choose(self._state.needed_dumps())
        self._take(self._netlink.reconcile(now), now)
        self._send(now)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min(self._netlink.deadline(), self._rounds.deadline())

    def add_to(self, status: dict[str, object], now: float) -> None:
        """Add ``learning`` to the status and each entry of its history, and the ways of guests."""
        memory = self._state.memory
        remembered = sum(1 for port in memory.ports() for _ in memory.heard(port))
        status["learning"] = {**self._rounds.values(), "remembered": remembered}
        records = {record.wall: record.values() for record in self._rounds.history}
        history = status["history"]
        assert isinstance(history, list)
        for entry in history:
            entry["learning"] = records.get(entry["time"])
        guests, others = status["guests"], status["without_channel"]
        assert isinstance(guests, list)
        assert isinstance(others, list)
        self._add_ways([guest for guest in guests + others if guest["way"] == NOTHING], now)

    def _add_ways(self, guests: list[dict[str, Any]], now: float) -> None:
        if not guests:
            return
        plan = self._rounds.preview(now)
        covered = {entry.port for entry in plan.entries}
        left_out = {e.port: e.detail for e in plan.left_out if e.port not in covered}
        links = self._follower.table.links.values()
        silent = {link.name: "nothing was heard from it" for link in links}
        for port in covered:
            silent.pop(port, None)
        for guest in guests:
            ports = {card.port for card in self._found_cards if card.guest == guest["guest"]}
            ports.update(guest["ports"])
            way, why = way_with_learning(sorted(ports), {**silent, **left_out})
            guest["way"], guest["no_way"] = way, why or None

    def _take(self, events: Events[TableMessage], now: float) -> None:
        if _CONTROLS.isdisjoint(map(type, events)):  # as a rule; a dump has thousands
            self._told += events  # type: ignore[arg-type]
            return
        for event in events:
            if isinstance(event, DumpStarted):
                self._told, self._is_reading = [], True
            elif isinstance(event, (DumpComplete, DumpPartial)):
                self._has_read(now)
            else:
                self._told.append(event)

    def _has_read(self, now: float) -> None:
        self._state.take(self._told, now)
        self._told, self._is_reading = [], False
        self._rounds.tables_read(now)
        table = self._follower.table
        self._netlink.reconcile_interval = snapshot_interval(table)
        warnings = learning_warnings(table, self._follower.topology, self._state.memory)
        for warning in warnings:
            if warning not in self._warned:
                self._notices.say(LEVEL_WARNING, "learning-hindered", reason=warning)
        self._warned = set(warnings)

    def found(self, cards: list[LibvirtCard]) -> None:
        """Take in the cards of libvirt's guests."""
        self._found_cards = cards
        self._rounds.named = {card.port: card.hardware_address for card in self._found_cards}

    def _bonds_of(self, ifindexes: Iterable[int]) -> set[int]:
        """Return the bonds among links and below them."""
        links = self._follower.table.links
        below = {each for link in ifindexes for each in self._follower.topology.path(link).links}
        return {each for each in below if each in links and links[each].kind == "bond"}

    def _mode(self, ifindex: int) -> bool:
        bond = self._follower.table.links[ifindex].bond
        return bond is not None and bond.mode == MODE_8023AD

    def _send_at_once(self, now: float) -> None:
        """Read the tables and send in the same turn: the kernel has answered when it was asked."""
        self.advance(now)
        if self._rounds.wants_tables:
            self.read(now)
            self._send(now)

    def _send(self, now: float) -> None:
        while True:
            batch = self._rounds.next_batch(now)
            if not batch:
                return
            frames = [learning_frame(each.hardware_address, each.tags) for each in batch]
            sent, number = self._socket.send(batch[0].bond_ifindex, batch[0].bond, frames)
            # Not `now`: the tables were read and planned since, and the history tells how long.
            self._rounds.sent(sent, number, is_full(number), self._clock())
