"""Contact with one guest: its channel, its state, its lease, and when to talk to it next.

Does not decide when a hint is sent (hypervisor.core.hint_rounds) and opens no socket.  A guest is
not trusted: each value in a reply is checked for type and range before it is used.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.exchange import REPLIED, Exchange, Outcome, Result
from garp_agent.hypervisor.core.lease import PromisedLease
from garp_agent.wire.protocol import encode_request
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CHECK_INTERVAL = 60.0  # seconds between contacts with a guest that answers and has no lease
RETRY_MOST = 60.0  # seconds between contacts with a guest that does not answer, at most
VERSION_LIMIT = 32  # characters kept of a guest's version


class Channel(NamedTuple):
    """The socket through which a guest is reached."""

    guest: str  # name
    path: str
    file: tuple[int, int] = (0, 0)  # device and inode of the socket's file: its identity


class Guest:
    """One guest, and what is known of it."""

    __slots__ = (
        "answered",
        "channel",
        "errno",
        "failures",
        "hints",
        "last_seconds",
        "lease",
        "next_contact",
        "outcome",
        "slowest_seconds",
        "version",
    )

    def __init__(self, channel: Channel, now: float) -> None:
        self.channel = channel
        self.outcome: Outcome | None = None  # of the last call; None: no call has ended yet
        self.errno = 0  # of that call, if a system call failed
        self.version = ""  # of the agent; "": it has never answered
        self.lease = PromisedLease()
        self.next_contact = now  # inf: a contact is under way
        self.failures = 0  # calls without a reply, in a row
        self.hints = 0  # sent to this guest, without repetitions
        self.answered = 0  # hints
        self.last_seconds: float | None = None  # from the failover to the reply, the last time
        self.slowest_seconds: float | None = None

    @property
    def answers(self) -> bool:
        """Return whether the agent replied to the last call."""
        return self.outcome in REPLIED

    def begin_contact(self, wanted: float, serial: str, now: float) -> Exchange:
        """Return what to ask now; ``wanted``: seconds of the lease, ``serial``: part of the ids."""
        self.next_contact = inf
        requests = {}
        seconds = self.lease.to_send(wanted, self.answers, now)
        if seconds is not None:
            id = f"lease-{serial}" if seconds else f"bye-{serial}"
            requests[id] = encode_request("lease", {"seconds": seconds}, id)
        if not requests or not self.version:
            id = f"info-{serial}"
            requests[id] = encode_request("info", None, id, delimited=not requests)
        return Exchange(requests)

    def end_contact(
        self, result: Result, wanted: float, most: float, random: float, now: float
    ) -> None:
        """Take in the replies and set the time of the next contact.

        ``wanted``, ``most``: seconds of a lease.  ``random``: 0 to 1; it spreads the contacts, so
        that guests that were found together are contacted at different times later.
        """
        if result.outcome not in REPLIED:
            self.failures += 1
            delay = min(RETRY_MOST, 2.0 ** min(self.failures, 10))
            self.next_contact = now + delay * (0.5 + random / 2)
            return
        delay = CHECK_INTERVAL
        replies = result.call.exchange.replies
        for id, reply in replies.items():
            if id.startswith("info-"):
                self.version = _version_in(reply.value)
            else:
                delay = self.lease.confirm(reply, most, now) or CHECK_INTERVAL
        if wanted and not any(id.startswith("lease-") for id in replies):
            delay = 0.0  # the guest answers, and no lease was offered yet
        self.next_contact = now + delay * (0.8 + random / 5)

    def note_hint_answered(self, seconds: float) -> None:
        """Count a hint that was answered ``seconds`` after the failover."""
        self.answered += 1
        self.last_seconds = seconds
        self.slowest_seconds = max(self.slowest_seconds or 0.0, seconds)

    def values(self, now: float) -> dict[str, object]:
        """Return the state as plain values, for the status."""
        return {
            "guest": self.channel.guest,
            "path": self.channel.path,
            "state": self.outcome.value if self.outcome else "new",
            "errno": self.errno,
            "version": self.version or None,
            "lease": round(self.lease.remaining(now), 1) or 0,
            "hints": self.hints,
            "answered": self.answered,
            "last_seconds": rounded(self.last_seconds),
            "slowest_seconds": rounded(self.slowest_seconds),
        }


def rounded(seconds: float | None) -> float | None:
    """Return ``seconds`` in whole microseconds."""
    return None if seconds is None else round(seconds, 6)


def _version_in(value: Mapping[str, object]) -> str:
    version = value.get("version")
    if isinstance(version, str) and version.isascii() and version.isprintable() and version:
        return version[:VERSION_LIMIT]
    return "unknown"
