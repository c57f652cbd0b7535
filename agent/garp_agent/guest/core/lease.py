"""The host's promise to send hints, as the guest keeps it.

While the promise is in force, the guest refreshes its addresses less often.  Does not decide
what ends the promise or what follows from its end: the engine does.  Reads no clock.
"""

from __future__ import annotations

from garp_agent.wire.record import inf


class GuestLease:
    """At most one promise: the latest one replaces those before it."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = inf  # when the promise runs out, seconds, monotonic; inf: there is none

    @property
    def is_in_force(self) -> bool:
        """Whether there is a promise.  One that has run out stays in force until :meth:`end`."""
        return self.until < inf

    def grant(self, seconds: float, now: float) -> bool:
        """Begin, extend or shorten the promise; return whether there was none before."""
        is_new = not self.is_in_force
        self.until = now + seconds
        return is_new

    def end(self) -> bool:
        """Forget the promise; return whether there was one."""
        was_in_force = self.is_in_force
        self.until = inf
        return was_in_force

    def remaining(self, now: float) -> float | None:
        """Return the seconds for which the promise still holds, at least 0; None without one."""
        return max(0.0, self.until - now) if self.is_in_force else None
