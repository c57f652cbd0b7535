"""What the watcher does about guests: contacts, rounds of hints, and announce-self.

Composes these three and gives each result of a call to those that it concerns.  Pure: events,
results and the time come in, calls go out.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.announce_self import ANNOUNCE_SELF, REWRITE, SelfAnnouncements
from garp_agent.hypervisor.core.contacts import Contacts
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.guests import rounded
from garp_agent.hypervisor.core.hint_rounds import HINT, Rounds
from garp_agent.hypervisor.core.hints import HintWriter
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.hypervisor.core.lease_paths import LEASE_AFTER, Paths, behind_every_link
from garp_agent.hypervisor.core.ways import NO_CHANNEL, NO_GUEST, way_without_learning
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.notices import Notices
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.bonds import FollowedLink
    from garp_agent.hypervisor.core.exchange import Call, Result
    from garp_agent.hypervisor.core.failover_record import FailoverRecord, Verification
    from garp_agent.hypervisor.core.guests import Channel, Guest
    from garp_agent.hypervisor.core.lease_paths import PathOf
    from garp_agent.wire.model import Notice

OPERATOR = "operator"  # the link in the history when the operator asked for hints


class HintOptions(NamedTuple):
    """What the operator wants of hints and leases."""

    lease: float = LEASE  # seconds; 0: promise no leases
    lease_after: float = LEASE_AFTER  # seconds without a change of the path
    pace: float = 0.0  # guests a second that begin their burst; 0: all at once
    announce_self: bool = False  # for guests that do not answer


class Watcher:
    """All guests, and what is said to them.  The caller supplies the time and makes the calls."""

    def __init__(
        self,
        options: HintOptions,
        boot: str,
        random: Callable[[], float],
        path_of: PathOf = behind_every_link,
    ) -> None:
        """``boot``: a name for this run of the watcher, unique.  ``random``: returns 0 to 1.

        ``path_of``: takes a guest and the names of the followed links; returns its path.
        """
        self._notices = Notices()
        self._look_at = inf  # when to look at the paths of all guests
        self._paths = Paths(options.lease_after, path_of)
        writer = HintWriter(boot, options.pace)
        self._contacts = Contacts(options.lease, self._paths, writer, random, self._notices)
        self._rounds = Rounds(self._contacts.guests, writer, self._notices)
        self._announcements = SelfAnnouncements(options.announce_self, self._notices)

    def found(self, channels: Iterable[Channel], now: float) -> None:
        """Take in the channels that exist now."""
        self._look_at = inf
        self._contacts.found(channels, now)

    def found_monitors(self, monitors: Iterable[Channel]) -> None:
        """Take in the QEMU monitors, and the Xen guests, that exist now."""
        self._announcements.found(monitors)

    def follow(self, links: Iterable[FollowedLink], now: float) -> None:
        """Take in the state of all followed links, before their failovers.

        Which guests are to be contacted, :meth:`advance` finds out: no hint waits for that.
        """
        if self._paths.follow(links, now):
            self._look_at = now

    def failover(
        self,
        link: str,
        reason: str,
        names: frozenset[str],
        now: float,
        wall: float,
        hold: float = 0.0,
    ) -> list[Call]:
        """Return the calls to make at once; cancel other calls to the same paths before.

        ``names``: all links that failed over, or the ports of guests that came to ``link``.
        ``wall``: seconds since 1970, for the history.  ``hold``: for so many seconds at most,
        wait for :meth:`path_forwards` with the hints.
        """
        self._paths.change(names, now)
        found = ((guest, self._paths.of(guest)) for guest in self._contacts.guests.values())
        guests = [guest for guest, path in found if path.is_behind(names)]
        return self._begin(link, reason, guests, now, wall, hold)

    @property
    def latest_failover(self) -> int:
        """Return the number of the latest failover."""
        return self._rounds.history[-1].number

    def path_forwards(self, number: int, is_late: bool, now: float) -> list[Call]:
        """Return the calls for a failover whose path has been seen to forward.

        ``is_late``: what was sent before is lost.
        """
        record = self._rounds.record(number)
        if record is None or (record.rounds and not is_late):
            return []
        calls = self._rounds.path_forwards(number, now)
        record.announced.clear()
        return calls + self._announce_silent(record, record.concerned)

    def verified(self, number: int, found: Verification, reached: frozenset[str]) -> None:
        """Take in what the network says after a failover.

        ``reached``: names of guest ports.  Guests with no other port are hinted no more.
        """
        record = self._rounds.record(number)
        if record is None:
            return
        record.verification = found
        done = set()
        for guest in [self._contacts.guests.get(path) for path in record.behind]:
            if guest is None:
                continue
            path = self._paths.of(guest)
            if path.is_known and path.ports and path.ports <= reached:
                done.add(guest.channel.path)
        self._rounds.reached(number, done)

    def log_verified(self, number: int) -> None:
        """Log what the network has said after a failover, when nothing more is asked."""
        record = self._rounds.record(number)
        if record is None or record.verification is None:
            return
        found = record.verification
        is_whole = found.forwards_after is not None and found.reached == found.addresses
        self._notices.say(
            LEVEL_NOTICE if is_whole else LEVEL_WARNING,
            "failover-verified",
            link=record.link,
            forwards_seconds=rounded(found.forwards_after),
            reached=found.reached,
            addresses=found.addresses,
            slowest_seconds=rounded(found.slowest),
        )

    def hint_all(self, reason: str, now: float, wall: float) -> list[Call]:
        """Hint all guests, because the operator says so; as :meth:`failover`."""
        self._paths.change(None, now)
        return self._begin(OPERATOR, reason, list(self._contacts.guests.values()), now, wall)

    def finished(self, result: Result, now: float) -> list[Call]:
        """Take in the result of a call; return the calls that follow from it."""
        kind, path = result.call.kind, result.call.path
        if kind in (ANNOUNCE_SELF, REWRITE):
            self._announcements.ended(result)
            return []
        self._contacts.ended(result, now)
        record = self._rounds.ended(result, now) if kind == HINT else None
        guest = self._contacts.guests.get(path)
        if guest is None or record is None:
            return []
        return self._announcements.announce(record, guest.channel.guest)

    def advance(self, now: float) -> list[Call]:
        """Return the calls that are due."""
        if now >= self._look_at:
            self._look_at = inf
            self._contacts.paths_changed(now)
        calls = self._rounds.advance(now)
        return calls + self._contacts.advance(now, self._rounds.is_awaited)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min(self._look_at, self._rounds.deadline(), self._contacts.deadline())

    def revoke_leases(self, now: float) -> list[Call]:
        """Return the calls that revoke all leases, for the end of the watcher."""
        return self._contacts.revoke_leases(now)

    def status(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        outcomes = self._rounds.outcomes
        return {
            "failovers": dict(self._rounds.failovers),
            "guests": [self._values(guest, now) for guest in self._contacts.guests.values()],
            "hints": {outcome.value: outcomes.get(outcome, 0) for outcome in Outcome},
            "history": [record.values() for record in self._rounds.history],
            "lease": self._contacts.promised,
            "monitors": len(self._announcements),
        }

    def _values(self, guest: Guest, now: float) -> dict[str, object]:
        path = self._paths.of(guest)
        has_monitor = self._announcements.covers(guest.channel.guest)
        way, why = way_without_learning(guest.answers, has_monitor)
        return {
            **guest.values(now),
            "way": way,
            "no_way": why or None,
            "no_lease": self._contacts.why_no_lease(guest, now) or None,
            "ports": sorted(path.ports),
            "behind": sorted(path.links) if path.is_known else None,
        }

    def _begin(
        self,
        link: str,
        reason: str,
        guests: list[Guest],
        now: float,
        wall: float,
        hold: float = 0.0,
    ) -> list[Call]:
        record, calls = self._rounds.begin(link, reason, guests, now, wall, hold)
        if hold:  # until the hint, they refresh as without a lease
            self._contacts.end_leases(guests, now)
        if not self._announcements.is_enabled:
            return calls
        # Guests without agent do not refresh, so nothing waits for the path here.
        paths = {guest.channel.path for guest in guests}
        return calls + self._announce_silent(record, paths)

    def _announce_silent(self, record: FailoverRecord, paths: set[str]) -> list[Call]:
        """Return the calls to the monitors of guests that do not answer, if they are concerned."""
        others = self._contacts.guests.values()
        spared = [each for each in others if each.answers or each.channel.path not in paths]
        return self._announcements.announce_silent(record, spared)

    def way_without_channel(self, guest: str, is_unmatched: bool) -> tuple[str, str]:
        """Return the way of a guest that has no channel, as way_without_learning().

        ``is_unmatched``: only its port is known, and it may have a channel.
        """
        why = NO_GUEST if is_unmatched else NO_CHANNEL
        return way_without_learning(False, self._announcements.covers(guest), why)

    def macs(self) -> list[bytes]:
        """Return the MACs of all guests, as their agents say."""
        return [mac for guest in self._contacts.guests.values() for mac in guest.macs]

    def take_notices(self) -> list[Notice]:
        """Return what happened since the last call, for the log."""
        return self._notices.take()
