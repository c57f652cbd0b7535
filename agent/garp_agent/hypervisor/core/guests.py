"""What the watcher remembers of a guest and of a failover.

Decides nothing but how they look as plain values.  Pure.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.io.channels import Channel

NAMES = 32  # guests named in one entry of the history
REPEATS = (1.0, 3.0)  # seconds after which a hint that was not answered is sent again


class Guest:
    """One guest's channel, and what is known of it."""

    __slots__ = (
        "answered",
        "channel",
        "failures",
        "hints",
        "last_seconds",
        "leased_until",
        "next_contact",
        "open_promise",
        "outcome",
        "slowest_seconds",
        "version",
    )

    def __init__(self, channel: Channel, now: float) -> None:
        self.channel = channel
        self.outcome: Outcome | None = None  # of the last call
        self.version = ""
        self.leased_until = -inf
        self.open_promise = False  # a lease was sent, and what became of it is not known
        self.next_contact = now  # inf: under way
        self.failures = 0  # in a row
        self.hints = 0  # sent, repeats not counted
        self.answered = 0  # of them
        self.last_seconds: float | None = None  # until a hint was answered
        self.slowest_seconds: float | None = None

    @property
    def answers(self) -> bool:
        """Whether there is an agent, as far as is known."""
        return self.outcome in (Outcome.ANSWERED, Outcome.REFUSED)

    def values(self, now: float) -> dict[str, object]:
        """How things stand with it, as plain values."""
        lease = self.leased_until - now
        return {
            "guest": self.channel.guest,
            "path": self.channel.path,
            "state": self.outcome.value if self.outcome else "new",
            "version": self.version or None,
            "lease": round(lease, 1) if lease > 0 else 0,
            "hints": self.hints,
            "answered": self.answered,
            "last_seconds": rounded(self.last_seconds),
            "slowest_seconds": rounded(self.slowest_seconds),
        }


class Unanswered(NamedTuple):
    """A guest that did not answer a hint."""

    guest: str
    outcome: Outcome
    has_agent: bool  # as far as is known: it has answered before


class Failover:
    """One reason to hint, and what came of it."""

    __slots__ = (
        "announced",
        "answered",
        "awaited",
        "began",
        "fastest",
        "frames",
        "guests",
        "link",
        "number",
        "reason",
        "repeat_at",
        "repeats",
        "slowest",
        "superseded",
        "unanswered",
        "wall",
    )

    def __init__(self, number: int, link: str, reason: str, now: float, wall: float) -> None:
        self.number = number
        self.link = link
        self.reason = reason
        self.began = now
        self.wall = wall
        self.guests = 0
        self.answered = 0
        self.frames = 0
        self.fastest: float | None = None  # seconds until the first answer
        self.slowest: float | None = None  # and until the last
        self.awaited: dict[str, str] = {}  # guests by path
        self.unanswered: dict[str, Unanswered] = {}  # by path
        self.superseded = 0  # guests not heard of when the next failover came
        self.announced: set[str] = set()  # guests for which QEMU was asked to announce
        self.repeats = list(REPEATS)
        self.repeat_at = inf

    def end(self) -> None:
        """A newer hint serves as well: nothing of this one is waited for any more."""
        self.superseded = len(self.awaited)
        self.awaited.clear()
        self.repeat_at = inf

    def lost(self) -> list[str]:
        """The guests that have an agent and did not answer."""
        return [entry.guest for entry in self.unanswered.values() if entry.has_agent]

    def values(self) -> dict[str, object]:
        """What came of it, as plain values."""
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


def rounded(seconds: float | None) -> float | None:
    """To microseconds."""
    return None if seconds is None else round(seconds, 6)
