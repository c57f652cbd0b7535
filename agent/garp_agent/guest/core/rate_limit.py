"""The token bucket that bounds the frames which leave by one NIC.

Says how soon frames may leave, and counts those that left.  Does not know links or addresses.

The bucket is stored as the time at which it will be full again (GCRA, ITU-T I.371 annex A): one
number, and the same comparison answers "may it be sent" and "when may it be sent".  What flows
into a bucket that was just emptied comes on top of its depth.  The times of the last frames are
therefore kept as well, to bound the number of frames in any second.

All times are those at which the kernel had taken the frame, in seconds (monotonic).
"""

from __future__ import annotations

from garp_agent.wire.record import deque, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.config.settings import RateLimit

ROUNDING = 1e-6  # seconds by which the bucket may be early: sums of floats are not exact
# Seconds in which a receiver may count the frames of one second.  A queue can hold the first frame
# back for longer than the last, so that they arrive closer together than they were sent.
SECOND = 1.05


class FrameBucket:
    """The tokens of one NIC, and the times of its last frames."""

    __slots__ = ("_full_at", "_limits", "_recent")

    def __init__(self, limits: RateLimit) -> None:
        self._limits = limits
        self._full_at = -inf  # when the bucket is full again
        self._recent: deque[float] = deque(maxlen=int(limits.in_a_second))

    def ready_at(self, frames: int, now: float) -> float:
        """Return when so many frames may leave, not earlier than ``now``.

        The bucket may have been ready for a long time.  A link must not look as if it was due
        then: it would overtake other links, and a late turn is taken for a suspension.
        """
        ready = self._full_at + (frames - self._limits.depth) / self._limits.frames_per_second
        over = len(self._recent) + frames - (self._recent.maxlen or 0)
        if over > 0:
            ready = max(ready, self._recent[min(over, len(self._recent)) - 1] + SECOND)
        return ready if ready - ROUNDING > now else now

    def rested_at(self, frames: int) -> float:
        """Return when so many frames of another process exceed no second; ``-math.inf``: now."""
        most = self._recent.maxlen or 0
        over = len(self._recent) + min(frames, most) - most
        return self._recent[over - 1] + SECOND if over > 0 else -inf

    def charge(self, now: float) -> None:
        """Count one frame that left at ``now``."""
        self._full_at = max(now, self._full_at) + 1.0 / self._limits.frames_per_second
        self._recent.append(now)

    def configure(self, limits: RateLimit, now: float) -> None:
        """Use other limits.  No missing token is given back."""
        slower = self._limits.frames_per_second / limits.frames_per_second
        self._full_at = now + max(0.0, self._full_at - now) * slower
        self._recent = deque(self._recent, int(limits.in_a_second))
        self._limits = limits

    def absorb(self, other: FrameBucket) -> None:
        """Miss every token that ``other`` misses: its frames leave here from now on.

        A frame that both have counted counts once.
        """
        self._full_at = max(self._full_at, other._full_at)
        times = [*self._recent]
        for at in set(other._recent):
            times += [at] * (other._recent.count(at) - self._recent.count(at))
        self._recent = deque(sorted(times), self._recent.maxlen)

    def is_fresh(self, now: float) -> bool:
        """Return whether a new bucket would be the same."""
        last = self._recent[-1] if self._recent else -inf
        return self._full_at <= now and last <= now - SECOND
