"""The watcher's mind: which guest to talk to, when, and about what.

Decides who is hinted at a failover and in which order, when a hint is repeated, when a
lease is renewed, and what is remembered of it.  Pure: time and randomness come in as
arguments, calls go out.  Never opens a socket.  A guest is not trusted: what it replies
is used only after its type and range were looked at.
"""

from __future__ import annotations

from collections import deque
from math import inf

from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.core.guests import NAMES, Failover, Guest, Unanswered, rounded
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    Notice,
)
from garp_agent.wire.protocol import BURST_DELAY, Reply, encode_request
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from garp_agent.hypervisor.io.channels import Channel

LEASE = 90.0  # seconds promised; renewed at a third
CHECK_INTERVAL = 60.0  # seconds between looks at a guest that has no lease
RETRY_MOST = 60.0  # seconds between attempts at a guest that does not answer
HISTORY = 100  # failovers remembered
FRAMES_MOST = 1000000  # that a guest is believed to have sent for one hint
VERSION_LIMIT = 32  # characters kept of what a guest says its version is

HINT, CONTACT, FAREWELL, ANNOUNCE_SELF = "hint", "contact", "farewell", "announce-self"


class Options(NamedTuple):
    """What the operator wants."""

    lease: float = LEASE  # seconds; 0: promise nothing
    pace: float = 0.0  # guests a second that begin their burst; 0: all at once
    announce_self: bool = False  # QMP, for guests that do not answer


class Watcher:
    """Composes the above; hand it ``now`` as you would an engine."""

    def __init__(self, options: Options, boot: str, random: Callable[[], float]) -> None:
        """``boot`` names this run in the numbering of hints; ``random`` gives 0 to 1."""
        self.options = options
        self.boot = boot
        self.guests: dict[str, Guest] = {}  # by path
        self.history: deque[Failover] = deque(maxlen=HISTORY)
        self.failovers: dict[str, int] = {}  # by link
        self.outcomes: dict[Outcome, int] = {}  # of hints
        self._random = random
        self._monitors: dict[str, str] = {}  # paths by guest
        self._promising = False
        self._number = 0
        self._contacts = 0
        self._next_contact = inf
        self._notices: list[Notice] = []

    # -- what was found -----------------------------------------------------------------

    def found(self, channels: Iterable[Channel], now: float) -> None:
        """These channels there are now, and no others."""
        there = {channel.path: channel for channel in channels}
        for path in [path for path in self.guests if path not in there]:
            self._say(LEVEL_INFO, "guest-gone", guest=self.guests.pop(path).channel.guest)
        for path, channel in there.items():
            if path not in self.guests:
                self.guests[path] = Guest(channel, now)
                self._next_contact = now
                self._say(LEVEL_INFO, "guest-found", guest=channel.guest, path=path)

    def found_monitors(self, monitors: Iterable[Channel]) -> None:
        """These QEMU monitors there are now."""
        self._monitors = {monitor.guest: monitor.path for monitor in monitors}

    def promise(self, yes: bool, now: float) -> None:
        """Whether we would notice a failover: without it no lease is given."""
        if yes == self._promising:
            return
        self._promising = yes
        for guest in self.guests.values():
            self._contact_at(guest, now)

    # -- what happened ------------------------------------------------------------------

    def failover(self, link: str, reason: str, now: float, wall: float) -> list[Call]:
        """The guests' way out has changed: the calls to make at once.

        Whatever else is being said to these guests has to be cut short.
        """
        self._number += 1
        self.failovers[link] = self.failovers.get(link, 0) + 1
        record = Failover(self._number, link, reason, now, wall)
        if self.history:
            self.history[-1].end()
        self.history.append(record)
        # Those that answer come first: they are what the hurry is for.
        guests = sorted(self.guests.values(), key=lambda guest: not guest.answers)
        record.guests = len(guests)
        for guest in guests:
            guest.hints += 1
        self._say(LEVEL_NOTICE, "failover", link=link, reason=reason, guests=len(guests))
        return self._hint(record, guests) + self._announce_for_the_silent(record)

    def finished(self, result: Result, now: float) -> list[Call]:
        """A call has ended: the calls that follow from it."""
        kind, path = result.call.kind, result.call.path
        if kind == ANNOUNCE_SELF:
            self._note_announced(result)
            return []
        guest = self.guests.get(path)
        if guest is not None:
            self._note_outcome(guest, result.outcome)
            if kind == CONTACT:
                self._note_contact(guest, result, now)
            elif guest.next_contact == inf:  # a contact was cut short by a hint
                self._contact_at(guest, now)
        if kind != HINT or not self.history or self.history[-1].number != result.call.number:
            return []
        return self._note_hint(self.history[-1], path, guest, result, now)

    def advance(self, now: float) -> list[Call]:
        """The calls to make now."""
        calls = self._repeat(now)
        if now < self._next_contact:
            return calls
        self._next_contact = inf
        hinted = self.history[-1].awaited if self.history else {}
        for path, guest in self.guests.items():
            if guest.next_contact <= now and path not in hinted:
                guest.next_contact = inf
                calls.append(Call(path, self._contact(guest, now), CONTACT))
            elif guest.next_contact < inf:
                self._next_contact = min(self._next_contact, max(guest.next_contact, now + 0.1))
        return calls

    def deadline(self) -> float:
        """When to call :meth:`advance` at the latest."""
        repeat_at = self.history[-1].repeat_at if self.history else inf
        return min(self._next_contact, repeat_at)

    def farewell(self, now: float) -> list[Call]:
        """The calls that take every promise back."""
        request = {"bye": encode_request("lease", {"seconds": 0}, "bye")}
        return [
            Call(path, Exchange(request), FAREWELL)
            for path, guest in self.guests.items()
            if guest.open_promise or guest.leased_until > now
        ]

    def status(self, now: float) -> dict[str, object]:
        """How things stand, as plain values."""
        return {
            "failovers": dict(self.failovers),
            "guests": [guest.values(now) for guest in self.guests.values()],
            "hints": {outcome.value: self.outcomes.get(outcome, 0) for outcome in Outcome},
            "lease": self._promised(),
            "monitors": len(self._monitors),
        }

    def past(self) -> list[dict[str, object]]:
        """The history as plain values, the latest last."""
        return [record.values() for record in self.history]

    def take_notices(self) -> list[Notice]:
        """What an operator may want to read, since the last call."""
        notices, self._notices = self._notices, []
        return notices

    # -- hints --------------------------------------------------------------------------

    def _hint(self, record: Failover, guests: list[Guest]) -> list[Call]:
        record.awaited.update((guest.channel.path, guest.channel.guest) for guest in guests)
        id = f"{self.boot}-{record.number}"
        step = self._step(len(guests))
        line = {id: self._burst(record, id, 0.0)}
        calls = []
        for index, guest in enumerate(guests):
            if step and index:
                line = {id: self._burst(record, id, round(index * step, 3))}
            calls.append(Call(guest.channel.path, Exchange(line), HINT, record.number))
        return calls

    def _step(self, guests: int) -> float:
        """Seconds from one guest's burst to the next one's."""
        if not self.options.pace or guests < 2:
            return 0.0
        return min(1 / self.options.pace, BURST_DELAY.most / (guests - 1))

    def _burst(self, record: Failover, id: str, delay: float) -> bytes:
        arguments: dict[str, object] = {
            "reason": record.reason,
            "boot": self.boot,
            "sequence": record.number,
        }
        if delay:
            arguments["delay"] = delay
        return encode_request("burst", arguments, id)

    def _note_hint(
        self, record: Failover, path: str, guest: Guest | None, result: Result, now: float
    ) -> list[Call]:
        name = record.awaited.pop(path, path)
        seconds = now - record.began
        if result.outcome in (Outcome.ANSWERED, Outcome.REFUSED):
            record.unanswered.pop(path, None)
            record.answered += 1
            record.fastest = seconds if record.fastest is None else min(record.fastest, seconds)
            record.slowest = max(record.slowest or 0.0, seconds)
            for reply in _replies(result).values():
                record.frames += _frames(reply.value)
            if guest is not None:
                guest.answered += 1
                guest.last_seconds = seconds
                guest.slowest_seconds = max(guest.slowest_seconds or 0.0, seconds)
            self._count(result.outcome)
        else:
            has_agent = guest is not None and bool(guest.version)
            record.unanswered[path] = Unanswered(name, result.outcome, has_agent)
        if not record.awaited:
            self._round_ended(record, now)
        if guest is None or path not in record.unanswered:
            return []
        return self._announce(record, guest.channel.guest)

    def _round_ended(self, record: Failover, now: float) -> None:
        if record.repeats and self._to_repeat(record):
            record.repeat_at = max(now, record.began + record.repeats.pop(0))
            return
        for entry in record.unanswered.values():
            self._count(entry.outcome)
        lost = record.lost()
        self._say(
            LEVEL_WARNING if lost else LEVEL_NOTICE,
            "guests-hinted",
            link=record.link,
            guests=record.guests,
            answered=record.answered,
            slowest_seconds=rounded(record.slowest),
            unanswered=",".join(lost[:NAMES]) or None,
        )

    def _to_repeat(self, record: Failover) -> list[Guest]:
        """Who has an agent and did not answer."""
        found = (self.guests.get(path) for path in record.unanswered)
        return [guest for guest in found if guest is not None and guest.version]

    def _repeat(self, now: float) -> list[Call]:
        record = self.history[-1] if self.history else None
        if record is None or now < record.repeat_at:
            return []
        record.repeat_at = inf
        guests = self._to_repeat(record)
        if not guests:
            self._round_ended(record, now)
        return self._hint(record, guests)

    # -- announce-self ------------------------------------------------------------------

    def _announce_for_the_silent(self, record: Failover) -> list[Call]:
        answering = {guest.channel.guest for guest in self.guests.values() if guest.answers}
        silent = [name for name in self._monitors if name not in answering]
        return [call for name in silent for call in self._announce(record, name)]

    def _announce(self, record: Failover, name: str) -> list[Call]:
        path = self._monitors.get(name)
        if not self.options.announce_self or path is None or name in record.announced:
            return []
        record.announced.add(name)
        return [Call(path, announce_self(), ANNOUNCE_SELF, record.number)]

    def _note_announced(self, result: Result) -> None:
        if result.outcome is not Outcome.ANSWERED:
            outcome = result.outcome.value
            self._say(LEVEL_WARNING, "monitor-failed", path=result.call.path, outcome=outcome)

    # -- leases -------------------------------------------------------------------------

    def _contact(self, guest: Guest, now: float) -> Exchange:
        self._contacts += 1
        seconds = self._promised()
        requests = {}
        # In a channel without an agent a promise would wait, and be taken for a new one by an
        # agent that comes when we may be gone: only to who answers, else what waits is undone.
        if guest.answers and seconds:
            id = f"lease-{self.boot}-{self._contacts}"
            requests[id] = encode_request("lease", {"seconds": seconds}, id)
            guest.open_promise = True
        elif guest.open_promise or (not seconds and guest.leased_until > now):
            id = f"bye-{self.boot}-{self._contacts}"
            requests[id] = encode_request("lease", {"seconds": 0}, id)
        if not requests or not guest.version:
            id = f"info-{self.boot}-{self._contacts}"
            requests[id] = encode_request("info", None, id, delimited=not requests)
        return Exchange(requests)

    def _promised(self) -> float:
        """Seconds for which we promise hints now."""
        return self.options.lease if self._promising else 0.0

    def _note_contact(self, guest: Guest, result: Result, now: float) -> None:
        if not guest.answers:
            guest.failures += 1
            delay = min(RETRY_MOST, 2.0 ** min(guest.failures, 10))
            self._contact_at(guest, now + delay * (0.5 + self._random() / 2))
            return
        replies = _replies(result)
        delay = CHECK_INTERVAL
        for id, reply in replies.items():
            if id.startswith("info-"):
                guest.version = _version(reply.value)
                continue
            guest.open_promise = False
            if not reply.error_class:
                seconds = min(_seconds(reply.value), self.options.lease)
                guest.leased_until = now + seconds if seconds else -inf
                delay = max(1.0, seconds / 3) if seconds else CHECK_INTERVAL
        if self._promised() and not any(id.startswith("lease-") for id in replies):
            delay = 0.0  # it answers, and nothing was promised yet
        self._contact_at(guest, now + delay * (0.8 + self._random() / 5))

    def _contact_at(self, guest: Guest, when: float) -> None:
        guest.next_contact = when
        self._next_contact = min(self._next_contact, when)

    # -- notes --------------------------------------------------------------------------

    def _note_outcome(self, guest: Guest, outcome: Outcome) -> None:
        before, guest.outcome = guest.outcome, outcome
        if guest.answers:
            guest.failures = 0
        if before is not outcome:
            lost = bool(guest.version) and not guest.answers
            expected = before is None and guest.answers
            level = LEVEL_WARNING if lost else LEVEL_DEBUG if expected else LEVEL_INFO
            self._say(level, "guest-state", guest=guest.channel.guest, state=outcome.value)

    def _count(self, outcome: Outcome) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _say(self, level: int, event: str, **fields: object) -> None:
        self._notices.append(Notice(level, event, tuple(fields.items())))


# -- what a guest said, as far as it makes sense ----------------------------------------


def _replies(result: Result) -> dict[str, Reply]:
    conversation = result.call.conversation
    return conversation.replies if isinstance(conversation, Exchange) else {}


def _version(value: Mapping[str, object]) -> str:
    version = value.get("version")
    if isinstance(version, str) and version.isascii() and version.isprintable() and version:
        return version[:VERSION_LIMIT]
    return "unknown"


def _seconds(value: Mapping[str, object]) -> float:
    seconds = value.get("seconds")
    return max(0.0, float(seconds)) if isinstance(seconds, (int, float)) else 0.0


def _frames(value: Mapping[str, object]) -> int:
    frames = value.get("frames")
    return min(max(0, frames), FRAMES_MOST) if type(frames) is int else 0
