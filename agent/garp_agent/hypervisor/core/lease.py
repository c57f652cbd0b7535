"""The lease that this host promises to one guest: "I send hints for the next N seconds".

Decides what to send to a guest so that it never counts on a lease that is not kept.  Does not
decide whether a lease may be promised (hypervisor.core.lease_paths) and sends nothing.

Format: docs/protocol.md, command ``lease``.
"""

from __future__ import annotations

from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.protocol import Reply

# Seconds promised by default.  A watcher that dies or hangs keeps no promise.  So a lease ends when
# a refresh would have come at the latest without it: 5 s, and a fifth more.
LEASE = 6.0
LEASE_LEAST = 3.0  # seconds; a shorter one could not be renewed in time on a busy host
RENEWAL_LEAST = 1.0  # seconds between two renewals at least


class PromisedLease:
    """What one guest was promised, as far as this host knows."""

    __slots__ = ("_refused", "_unconfirmed", "_until")

    def __init__(self) -> None:
        self._until = -inf
        self._unconfirmed = False  # the guest may have a lease that no reply told of
        self._refused = False  # the last lease

    def remaining(self, now: float) -> float:
        """Return the seconds for which the guest has confirmed a lease; 0 without one."""
        return max(0.0, self._until - now)

    def why_ended(self, now: float) -> str:
        """Return why the guest has no lease, if this is no decision of this host."""
        if self._refused:
            return "the agent has refused it"
        return "it ended before its renewal" if -inf < self._until <= now else ""

    def may_be_held(self, now: float) -> bool:
        """Return whether the guest has a lease or can still get one from the channel."""
        return self._unconfirmed or self._until > now

    def void(self, now: float) -> bool:
        """Count the promise as ended; return whether the guest must be told."""
        self._unconfirmed = self._unconfirmed or self._until > now
        self._until = -inf
        self._refused = False
        return self._unconfirmed

    def to_send(self, wanted: float, answers: bool, now: float) -> float | None:
        """Return the seconds to send in a request: 0 revokes; None: send no such request.

        ``wanted``: the lease to promise now, in seconds; 0 for none.
        ``answers``: the guest replied to the last call.

        Without an agent, a lease waits in the channel.  An agent that starts later would take it
        for a new one when this host may be gone.  Therefore only a guest that answers gets a
        lease, and for the others a lease without a reply is revoked by the next request.
        """
        if wanted and answers:
            self._unconfirmed = True
            return wanted
        if self._unconfirmed or (not wanted and self._until > now):
            return 0.0
        return None

    def confirm(self, reply: Reply, most: float, now: float) -> float:
        """Take in the reply to a lease request; return the seconds until the renewal, or 0.

        ``most``: a guest cannot make this host promise more than that, in seconds.
        """
        self._unconfirmed = False
        self._refused = bool(reply.error_class)
        if self._refused:
            return 0.0
        given = reply.value.get("seconds")
        seconds = min(max(0.0, float(given)), most) if isinstance(given, (int, float)) else 0.0
        self._refused = most > 0 and not seconds
        self._until = now + seconds if seconds else -inf
        return max(RENEWAL_LEAST, renewal_after(seconds)) if seconds else 0.0


def renewal_after(seconds: float) -> float:
    """Return the seconds after which a lease of ``seconds`` is renewed.

    After a third, so that two renewals can fail.  A short lease is renewed after 5 s or 80 % of it:
    each renewal wakes the guest, and without a lease a refresh every 5 s would do the same.
    """
    return max(seconds / 3, min(seconds * 4 / 5, 5.0))
