"""One failover: what became of its hints, as the history keeps it.

Counts; does not decide who is hinted or when (hypervisor.core.hint_rounds).
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.guests import rounded
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.exchange import Outcome

NAMES = 32  # guests named in one entry of the history, and in one line of the log
REPEATS = (1.0, 3.0, 7.0, 15.0, 30.0, 60.0)  # seconds from the failover to each repetition


class Unanswered(NamedTuple):
    """A guest that did not answer a hint."""

    guest: str
    outcome: Outcome
    has_agent: bool  # it has answered some call before


class Verification(NamedTuple):
    """What path probes have said after a failover (hypervisor.core.path_check)."""

    forwards_after: float | None = None  # seconds from the failover; None: not seen to forward
    reached: int = 0  # addresses that the network has at their new place
    addresses: int = 0  # that are probed
    slowest: float | None = None  # seconds from the failover until the last one was reached

    def values(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "forwards_seconds": rounded(self.forwards_after),
            "reached": self.reached,
            "addresses": self.addresses,
            "slowest_seconds": rounded(self.slowest),
        }


class PathForwards(NamedTuple):
    """The path of a failover forwards; ``is_late``: hints sent before are lost."""

    number: int
    is_late: bool


class PathLost(NamedTuple):
    """The path of a failover cannot be probed any more: no hint waits for it."""

    number: int


class AddressesReached(NamedTuple):
    """What the network has said so far about a failover."""

    number: int
    found: Verification
    ports: frozenset[str]  # names of guest ports whose addresses are all reached
    is_over: bool


class FailoverRecord:
    """The hints after one failover, or those that the operator asked for."""

    def __init__(self, number: int, link: str, reason: str, now: float, wall: float) -> None:
        self.number = number
        self.link = link
        self.reason = reason
        self.began = now
        self.wall = wall  # seconds since 1970
        self.guests = 0  # that got a hint
        self.rounds = 0  # sent so far
        self.frames = 0  # sent by the guests before their replies
        self.fastest: float | None = None  # seconds until the first guest has answered
        self.slowest: float | None = None  # seconds until the last guest has answered
        self.behind: set[str] = set()  # paths of the guests that the next round is for
        self.concerned: set[str] = set()  # the same, before any was reached or given up
        self.answered: set[str] = set()  # paths of guests that answered a hint
        self.awaited: dict[str, str] = {}  # guests whose outcome is not known yet, by path
        self.unanswered: dict[str, Unanswered] = {}  # by path
        self.superseded = 0  # guests still awaited when a newer failover hinted them
        self.announced: set[str] = set()  # guests that QEMU was asked to announce
        self.is_logged = False  # how the guests answered
        self.verification: Verification | None = None  # None: the network was not asked
        self.repeat_at = inf
        self._repeats: tuple[float, ...] = REPEATS
        self._repeats_from = now

    def supersede(self, paths: set[str]) -> None:
        """Leave these guests to a newer failover, whose hints do the work of these."""
        self.concerned -= paths
        self.behind -= paths
        late = paths & set(self.awaited)
        self.superseded += len(late)
        for path in late:
            del self.awaited[path]
        if not self.behind:
            self.end()

    def leave_out(self, paths: set[str]) -> None:
        """Send no further round to these guests: the network has them at their new place."""
        self.behind -= paths
        if not self.behind:
            self.end()

    def plan_round(self, now: float, free: float) -> None:
        """Set the time of the next round, after one that began now.

        No round begins before ``free``, while guests still wait for their burst: together they
        would exceed the pace.  Of the times that pass meanwhile, the last one counts.
        """
        times = [self._repeats_from + offset for offset in self._repeats]
        passed = sum(time <= free for time in times)
        self._repeats = self._repeats[passed:]
        missed = any(now < time for time in times[:passed])
        self.repeat_at = free if missed else inf
        if not missed and self._repeats:
            self.repeat_at = times[passed]

    def begin_again(self, now: float) -> None:
        """Plan all rounds again, from now on: what was sent before is lost."""
        self.behind = set(self.concerned)
        self._repeats, self._repeats_from = REPEATS, now

    def end(self) -> None:
        """Send no further round."""
        self.behind.clear()
        self.repeat_at = inf

    def add_answer(self, path: str, seconds: float, frames: int) -> bool:
        """Count a reply that came ``seconds`` after the failover; return whether it is the first.

        ``frames``: how many the guest sent before.
        """
        self.unanswered.pop(path, None)
        self.frames += frames
        if path in self.answered:
            return False
        self.answered.add(path)
        self.fastest = seconds if self.fastest is None else min(self.fastest, seconds)
        self.slowest = max(self.slowest or 0.0, seconds)
        return True

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
            "answered": len(self.answered),
            "awaited": len(self.awaited),
            "rounds": self.rounds,
            "repeating": len(self.behind),
            "frames": self.frames,
            "fastest_seconds": rounded(self.fastest),
            "slowest_seconds": rounded(self.slowest),
            "superseded": self.superseded,
            "unanswered": self.lost()[:NAMES],
            "unanswered_without_agent": others[:NAMES],
            "unanswered_by_state": states,
            "announced_self": len(self.announced),
            "verified": self.verification.values() if self.verification else None,
        }
