"""What the watcher does about guests: contacts, rounds of hints, and announce-self.

Composes these three and gives each result of a call to those that it concerns.  Pure: events,
results and the time come in, calls go out.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.announce_self import ANNOUNCE_SELF, SelfAnnouncements
from garp_agent.hypervisor.core.contacts import Contacts
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.hint_rounds import HINT, Rounds
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.wire.notices import Notices
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.exchange import Call, Result
    from garp_agent.hypervisor.core.guests import Channel
    from garp_agent.wire.model import Notice


class HintOptions(NamedTuple):
    """What the operator wants of hints and leases."""

    lease: float = LEASE  # seconds; 0: promise no leases
    pace: float = 0.0  # guests a second that begin their burst; 0: all at once
    announce_self: bool = False  # for guests that do not answer


class Watcher:
    """All guests, and what is said to them.  The caller supplies the time and makes the calls."""

    def __init__(self, options: HintOptions, boot: str, random: Callable[[], float]) -> None:
        """``boot``: a name for this run of the watcher, unique.  ``random``: returns 0 to 1."""
        self._notices = Notices()
        self._contacts = Contacts(options.lease, boot, random, self._notices)
        self._rounds = Rounds(self._contacts.guests, options.pace, boot, self._notices)
        self._announcements = SelfAnnouncements(options.announce_self, self._notices)

    def found(self, channels: Iterable[Channel], now: float) -> None:
        """Take in the channels that exist now."""
        self._contacts.found(channels, now)

    def found_monitors(self, monitors: Iterable[Channel]) -> None:
        """Take in the QEMU monitors that exist now."""
        self._announcements.found(monitors)

    def promise(self, may_promise: bool, now: float) -> None:
        """Say whether leases may be promised: only while a failover would be noticed."""
        self._contacts.promise(may_promise, now)

    def failover(self, link: str, reason: str, now: float, wall: float) -> list[Call]:
        """Return the calls to make at once; cancel other calls to the same paths before.

        ``wall``: seconds since 1970, for the history.
        """
        calls = self._rounds.begin(link, reason, now, wall)
        assert self._rounds.current is not None
        guests = self._contacts.guests.values()
        return calls + self._announcements.announce_silent(self._rounds.current, guests)

    def finished(self, result: Result, now: float) -> list[Call]:
        """Take in the result of a call; return the calls that follow from it."""
        kind, path = result.call.kind, result.call.path
        if kind == ANNOUNCE_SELF:
            self._announcements.ended(result)
            return []
        self._contacts.ended(result, now)
        if kind != HINT or not self._rounds.ended(result, now):
            return []
        guest = self._contacts.guests.get(path)
        if guest is None:
            return []
        assert self._rounds.current is not None
        return self._announcements.announce(self._rounds.current, guest.channel.guest)

    def advance(self, now: float) -> list[Call]:
        """Return the calls that are due."""
        calls = self._rounds.advance(now)
        hinted = self._rounds.current.awaited if self._rounds.current is not None else {}
        return calls + self._contacts.advance(now, hinted)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min(self._rounds.deadline(), self._contacts.deadline())

    def revoke_leases(self, now: float) -> list[Call]:
        """Return the calls that revoke all leases, for the end of the watcher."""
        return self._contacts.revoke_leases(now)

    def status(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        outcomes = self._rounds.outcomes
        return {
            "failovers": dict(self._rounds.failovers),
            "guests": [guest.values(now) for guest in self._contacts.guests.values()],
            "hints": {outcome.value: outcomes.get(outcome, 0) for outcome in Outcome},
            "history": [record.values() for record in self._rounds.history],
            "lease": self._contacts.promised,
            "monitors": len(self._announcements),
        }

    def take_notices(self) -> list[Notice]:
        """Return what happened since the last call, for the log."""
        return self._notices.take()
