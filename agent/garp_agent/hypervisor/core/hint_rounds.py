"""Rounds of hints: one round for each failover, and its entry in the history.

Decides which guests get a hint, in which order and at which pace, when a hint is repeated, and
when a round has ended.  Does not decide what a failover is (hypervisor.core.bonds) and opens no
socket.  Each hint of a round has the same number, so that an agent recognises a repetition.

Format: docs/protocol.md, command ``burst``.
"""

from __future__ import annotations

from collections import deque
from math import inf

from garp_agent.hypervisor.core.exchange import REPLIED, Call, Exchange, Outcome
from garp_agent.hypervisor.core.guests import rounded
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import BURST_DELAY, encode_request
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.hypervisor.core.exchange import Result
    from garp_agent.hypervisor.core.guests import Guest
    from garp_agent.wire.notices import Notices

HINT = "hint"  # kind of a call
HISTORY = 100  # rounds kept
NAMES = 32  # guests named in one entry of the history, and in one line of the log
REPEATS = (1.0, 3.0)  # seconds from the failover to each repetition
FRAMES_MOST = 1000000  # frames that one guest can claim for one hint


class Unanswered(NamedTuple):
    """A guest that did not answer a hint."""

    guest: str
    outcome: Outcome
    has_agent: bool  # it has answered some call before


class FailoverRecord:
    """One round of hints, as the history keeps it."""

    def __init__(self, number: int, link: str, reason: str, now: float, wall: float) -> None:
        self.number = number
        self.link = link
        self.reason = reason
        self.began = now
        self.wall = wall  # seconds since 1970
        self.guests = 0  # that got a hint
        self.answered = 0
        self.frames = 0  # sent by the guests before their replies
        self.fastest: float | None = None  # seconds until the first reply
        self.slowest: float | None = None  # seconds until the last reply
        self.awaited: dict[str, str] = {}  # guests whose outcome is not known yet, by path
        self.unanswered: dict[str, Unanswered] = {}  # by path
        self.superseded = 0  # guests still awaited when the next round began
        self.announced: set[str] = set()  # guests that QEMU was asked to announce
        self.repeats = list(REPEATS)
        self.repeat_at = inf

    def supersede(self) -> None:
        """End the round, because the hints of a newer one do its work."""
        self.superseded = len(self.awaited)
        self.awaited.clear()
        self.repeat_at = inf

    def add_answer(self, path: str, seconds: float, frames: int) -> None:
        """Count a reply that came ``seconds`` after the failover."""
        self.unanswered.pop(path, None)
        self.answered += 1
        self.frames += frames
        self.fastest = seconds if self.fastest is None else min(self.fastest, seconds)
        self.slowest = max(self.slowest or 0.0, seconds)

    def lost(self) -> list[str]:
        """Return the guests that have an agent and did not answer."""
        return [entry.guest for entry in self.unanswered.values() if entry.has_agent]

    def values(self) -> dict[str, object]:
        """Return the entry as plain values."""
        states: dict[str, int] = {}
        for entry in self.unanswered.values():
            states[entry.outcome.value] = states.get(entry.outcome.value, 0) + 1
        others = [entry.guest for entry in self.unanswered.values() if not entry.has_agent]
        return {
            "number": self.number,
            "time": self.wall,
            "link": self.link,
            "reason": self.reason,
            "guests": self.guests,
            "answered": self.answered,
            "awaited": len(self.awaited),
            "frames": self.frames,
            "fastest_seconds": rounded(self.fastest),
            "slowest_seconds": rounded(self.slowest),
            "superseded": self.superseded,
            "unanswered": self.lost()[:NAMES],
            "unanswered_without_agent": others[:NAMES],
            "unanswered_by_state": states,
            "announced_self": len(self.announced),
        }


class Rounds:
    """The current round and the history.  The caller supplies the time."""

    def __init__(
        self, guests: Mapping[str, Guest], pace: float, boot: str, notices: Notices
    ) -> None:
        """``guests``: the known guests by path; the caller keeps the mapping up to date.

        ``pace``: guests a second that begin their burst; 0 for all at once.
        ``boot``: a name for this run of the watcher.
        """
        self.history: deque[FailoverRecord] = deque(maxlen=HISTORY)  # the newest last
        self.failovers: dict[str, int] = {}  # rounds by link
        self.outcomes: dict[Outcome, int] = {}  # hints by outcome
        self._guests = guests
        self._pace = pace
        self._boot = boot
        self._notices = notices
        self._number = 0

    @property
    def current(self) -> FailoverRecord | None:
        """Return the newest round, ended or not."""
        return self.history[-1] if self.history else None

    def begin(self, link: str, reason: str, now: float, wall: float) -> list[Call]:
        """Begin a round for all guests; return its hints.  ``wall``: seconds since 1970."""
        if self.current is not None:
            self.current.supersede()
        self._number += 1
        self.failovers[link] = self.failovers.get(link, 0) + 1
        record = FailoverRecord(self._number, link, reason, now, wall)
        self.history.append(record)
        # First the guests whose agent answers: the others may have none.
        guests = sorted(self._guests.values(), key=lambda guest: not guest.answers)
        record.guests = len(guests)
        for guest in guests:
            guest.hints += 1
        self._notices.say(LEVEL_NOTICE, "failover", link=link, reason=reason, guests=len(guests))
        return self._hints(record, guests)

    def ended(self, result: Result, now: float) -> bool:
        """Take in the outcome of a hint; return whether the guest did not answer.

        The result of an older round is ignored.
        """
        record = self.current
        if record is None or record.number != result.call.number:
            return False
        path = result.call.path
        guest = self._guests.get(path)
        name = record.awaited.pop(path, path)
        replied = result.outcome in REPLIED
        if replied:
            seconds = now - record.began
            replies = result.call.exchange.replies.values()
            record.add_answer(path, seconds, sum(_frames_in(reply.value) for reply in replies))
            if guest is not None:
                guest.note_hint_answered(seconds)
            self._count(result.outcome)
        else:
            has_agent = guest is not None and bool(guest.version)
            record.unanswered[path] = Unanswered(name, result.outcome, has_agent)
        if not record.awaited:
            self._all_ended(record, now)
        return not replied

    def advance(self, now: float) -> list[Call]:
        """Return the repetitions that are due."""
        record = self.current
        if record is None or now < record.repeat_at:
            return []
        record.repeat_at = inf
        guests = self._to_repeat(record)
        if not guests:
            self._all_ended(record, now)
        return self._hints(record, guests)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return self.current.repeat_at if self.current is not None else inf

    def _hints(self, record: FailoverRecord, guests: list[Guest]) -> list[Call]:
        record.awaited.update((guest.channel.path, guest.channel.guest) for guest in guests)
        id = f"{self._boot}-{record.number}"
        step = self._step(len(guests))
        request = {id: self._request(record, id, 0.0)}
        calls = []
        for index, guest in enumerate(guests):
            if step and index:
                request = {id: self._request(record, id, round(index * step, 3))}
            calls.append(Call(guest.channel.path, Exchange(request), HINT, record.number))
        return calls

    def _step(self, guests: int) -> float:
        """Return the seconds between the bursts of two guests.

        The last guest cannot wait longer than the protocol allows.
        """
        if not self._pace or guests < 2:
            return 0.0
        return min(1 / self._pace, BURST_DELAY.most / (guests - 1))

    def _request(self, record: FailoverRecord, id: str, delay: float) -> bytes:
        arguments: dict[str, object] = {
            "reason": record.reason,
            "boot": self._boot,
            "sequence": record.number,
        }
        if delay:
            arguments["delay"] = delay
        return encode_request("burst", arguments, id)

    def _all_ended(self, record: FailoverRecord, now: float) -> None:
        if record.repeats and self._to_repeat(record):
            record.repeat_at = max(now, record.began + record.repeats.pop(0))
            return
        for entry in record.unanswered.values():
            self._count(entry.outcome)
        lost = record.lost()
        self._notices.say(
            LEVEL_WARNING if lost else LEVEL_NOTICE,
            "guests-hinted",
            link=record.link,
            guests=record.guests,
            answered=record.answered,
            slowest_seconds=rounded(record.slowest),
            unanswered=",".join(lost[:NAMES]) or None,
        )

    def _to_repeat(self, record: FailoverRecord) -> list[Guest]:
        """Return the guests that have an agent, did not answer, and still exist."""
        found = (self._guests.get(path) for path in record.unanswered)
        return [guest for guest in found if guest is not None and guest.version]

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def _frames_in(value: Mapping[str, object]) -> int:
    frames = value.get("frames")
    return min(max(0, frames), FRAMES_MOST) if type(frames) is int else 0
