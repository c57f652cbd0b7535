"""Rounds of hints after each failover, and its entry in the history.

Decides which guests get a hint, in which order and at which pace, and when it is repeated.  A
hint is repeated for a minute also to guests that answered: a reply shows that the guest has sent
its frames, not that they have arrived.  The port of a switch that has just got its carrier can
drop them for 30 s (STP without PortFast).  Does not decide what a failover is
(hypervisor.core.bonds) or who is behind a link (hypervisor.core.lease_paths), and opens no socket.

Each round has a number of its own, so that agents take a repetition for another hint.  It asks
for one burst round only: what is configured in the guest was sent after the failover.

Format: docs/protocol.md, command ``burst``.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import REPLIED, Call, Exchange, Outcome
from garp_agent.hypervisor.core.failover_record import NAMES, FailoverRecord, Unanswered
from garp_agent.hypervisor.core.guests import rounded
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.record import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.hypervisor.core.exchange import Result
    from garp_agent.hypervisor.core.guests import Guest
    from garp_agent.hypervisor.core.hints import HintWriter
    from garp_agent.wire.notices import Notices
    from garp_agent.wire.protocol import Reply

HINT = "hint"  # kind of a call
HISTORY = 100  # failovers kept
_ANSWERED = Outcome.ANSWERED
LINKS_COUNTED = 256  # links whose failovers are counted: tenant networks come and go
LOGGED_AFTER = 3  # rounds, after which a guest that answered none of them is logged
FRAMES_MOST = 1000000  # frames that one guest can claim for one hint


class Rounds:
    """The rounds under way and the history.  The caller supplies the time."""

    def __init__(self, guests: Mapping[str, Guest], writer: HintWriter, notices: Notices) -> None:
        """``guests``: the known guests by path; the caller keeps the mapping up to date."""
        self.history: deque[FailoverRecord] = deque(maxlen=HISTORY)  # the newest last
        self.failovers: dict[str, int] = {}  # by link, the one that failed over last at the end
        self.outcomes: dict[Outcome, int] = {}  # hints by outcome
        self._active: dict[int, FailoverRecord] = {}  # by number: awaiting a reply, or repeating
        self._guests = guests
        self._writer = writer
        self._notices = notices
        self._number = 0

    def begin(
        self,
        link: str,
        reason: str,
        guests: list[Guest],
        now: float,
        wall: float,
        hold: float = 0.0,
    ) -> tuple[FailoverRecord, list[Call]]:
        """Begin the rounds of a failover; return its record, and the first hints.

        ``wall``: seconds since 1970.  ``hold``: wait for :meth:`path_forwards` with the first
        round, for so many seconds at most.
        """
        self._number += 1
        self.failovers[link] = self.failovers.pop(link, 0) + 1
        if len(self.failovers) > LINKS_COUNTED:
            del self.failovers[next(iter(self.failovers))]
        record = FailoverRecord(self._number, link, reason, now, wall)
        record.guests = len(guests)
        record.behind = {guest.channel.path for guest in guests}
        record.concerned = set(record.behind)
        for older in list(self._active.values()):
            older.supersede(record.behind)
            self._retire(older)
        self.history.append(record)
        self._active[record.number] = record
        leases = 0
        for guest in guests:
            guest.hints += 1
            leases += guest.lease.may_be_held(now)
        self._notices.say(
            LEVEL_NOTICE,
            "failover",
            link=link,
            reason=reason,
            guests=len(guests),
            leases_ended=leases,
        )
        if hold and record.behind:
            record.repeat_at = now + hold
            return record, []
        calls = self._next_round(record, now)
        self._retire(record)
        return record, calls

    def record(self, number: int) -> FailoverRecord | None:
        """Return one entry of the history, if it is still kept."""
        return next((each for each in self.history if each.number == number), None)

    def path_forwards(self, number: int, now: float) -> list[Call]:
        """Return a round for a failover, because its path has just begun to forward.

        The repetitions begin anew, also if they were over: nothing sent before has arrived.
        """
        record = self.record(number)
        if record is None:
            return []
        record.begin_again(now)
        if not record.behind:
            return []
        self._active[number] = record
        calls = self._next_round(record, now)
        self._retire(record)
        return calls

    def reached(self, number: int, paths: set[str]) -> None:
        """Hint these guests no more for a failover: the network has them at their new place."""
        record = self._active.get(number)
        if record is not None and record.rounds:
            record.leave_out(paths)
            self._retire(record)

    def ended(self, result: Result, now: float) -> FailoverRecord | None:
        """Take in the outcome of a hint; return its failover if the guest did not answer.

        The result of a hint that a newer failover has superseded is ignored.
        """
        record = self._active.get(result.call.number)
        path = result.call.path
        if record is None or path not in record.awaited:
            return None
        guest = self._guests.get(path)
        name = record.awaited.pop(path)
        replied = result.outcome in REPLIED
        if replied:
            seconds = now - record.began
            replies = result.call.exchange.replies.values()
            is_first = record.add_answer(path, seconds, sum(map(_frames_in, replies)))
            if is_first and guest is not None:
                guest.note_hint_answered(seconds)
            if is_first and not record.is_logged:
                self._count(result.outcome)
        elif path not in record.answered:
            has_agent = guest is not None and guest.has_agent
            record.unanswered[path] = Unanswered(name, result.outcome, has_agent)
        if not record.awaited:
            self._log(record)
            self._retire(record)
        return None if replied else record

    def advance(self, now: float) -> list[Call]:
        """Return the repetitions that are due."""
        calls: list[Call] = []
        for record in sorted(self._active.values(), key=lambda each: each.rounds):
            if now < record.repeat_at:
                continue
            if now < self._writer.free_at:
                record.repeat_at = self._writer.free_at
                continue
            calls += self._next_round(record, now)
            self._retire(record)
        return calls

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return min((record.repeat_at for record in self._active.values()), default=inf)

    def is_awaited(self, path: str) -> bool:
        """Return whether a hint to this guest has no outcome yet."""
        return any(path in record.awaited for record in self._active.values())

    def _next_round(self, record: FailoverRecord, now: float) -> list[Call]:
        guests = [guest for path, guest in self._guests.items() if path in record.behind]
        if not record.rounds:
            # First the guests whose agent answers: the others may have none.
            first = [guest for guest in guests if guest.outcome is _ANSWERED]
            others = [guest for guest in guests if guest.outcome is not _ANSWERED]
            others.sort(key=lambda guest: (guest.is_silent, not guest.answers))
            return self._round(record, first + others, now)
        # A guest that still owes a reply has the hint, or will get it when QEMU is free.
        agents = [guest for guest in guests if _may_answer(guest, record)]
        if not agents:
            record.end()
        others = [guest for guest in agents if guest.channel.path not in record.awaited]
        return self._round(record, others, now)

    def _round(self, record: FailoverRecord, guests: list[Guest], now: float) -> list[Call]:
        number = self._writer.number()
        reason, rounds = record.reason, 1 if record.rounds else 0
        requests = self._writer.requests
        latest: Mapping[str, bytes] = {}
        joined = b""
        calls = []
        for guest, delay in zip(guests, self._writer.delays(guests, now)):
            name, path, _ = guest.channel
            record.awaited[path] = name
            lines = requests(guest, number, reason, delay, now, rounds)
            if lines is not latest:  # as a rule, all guests get the same
                latest, joined = lines, b"".join(lines.values())
            calls.append(Call(path, Exchange(lines, joined), HINT, record.number))
        if record.behind:
            record.rounds += 1
            record.plan_round(now, max(now, self._writer.free_at))
        return calls

    def _retire(self, record: FailoverRecord) -> None:
        """Forget a failover that needs nothing more, except for the history."""
        if record.repeat_at == inf and not record.awaited:
            record.end()
            if record.guests and not record.superseded:
                self._log(record)
            self._active.pop(record.number, None)

    def _log(self, record: FailoverRecord) -> None:
        """Log how the guests answered, once: when all have, or when some are given up."""
        lost = record.lost()
        is_over = record.repeat_at == inf or record.rounds >= LOGGED_AFTER
        if record.is_logged or (lost and not is_over):
            return
        record.is_logged = True
        for entry in record.unanswered.values():
            self._count(entry.outcome)
        self._notices.say(
            LEVEL_WARNING if lost else LEVEL_NOTICE,
            "guests-hinted",
            link=record.link,
            guests=record.guests,
            answered=len(record.answered),
            slowest_seconds=rounded(record.slowest),
            unanswered=",".join(lost[:NAMES]) or None,
        )

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def _frames_in(reply: Reply) -> int:
    frames = reply.value.get("frames")
    return min(max(0, frames), FRAMES_MOST) if type(frames) is int else 0


def _may_answer(guest: Guest, record: FailoverRecord) -> bool:
    """Return whether a guest has an agent, or was busy with another client when it was hinted."""
    unanswered = record.unanswered.get(guest.channel.path)
    is_busy = unanswered is not None and unanswered.outcome is Outcome.BUSY
    return guest.has_agent or is_busy
