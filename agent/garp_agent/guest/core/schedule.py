"""When each address is announced: refresh deadlines, bursts, and the bucket that bounds both.

Decides the order and the moment; never what an announcement contains, and reads no
clock: ``now`` is an argument, in seconds.

Every link has one ordered set of pending addresses.  A refresh tick puts the next few
addresses into it, a round of a burst its own; the token bucket takes from it.  An
address is pending once or not at all, so neither memory nor the wire grows with the
number of triggers.  Rounds and ticks that were missed are not caught up.

The bucket is kept as the time at which it will be full again (GCRA, ITU-T I.371
annex A): one number, and exactly the same comparison for "may I" and "when may I".
What flows into a bucket that was just emptied comes on top of its depth, so the last
frames' times are kept as well, to bound what any second holds.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf

from garp_agent.config.settings import LONGEST
from garp_agent.guest.core.model import Cause
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from garp_agent.config.settings import Settings

# A burst is of one address, of all, or of all but asked for later: these two in place of bytes.
_ALL, _LATER = "all", "later"

ROUNDING = 1e-6  # seconds by which the bucket may be early: sums of floats are not exact
SECOND = 1.0 + 2 * ROUNDING


class Due(NamedTuple):
    """One address whose moment has come."""

    ifindex: int
    address: bytes
    cause: Cause


class _Burst(NamedTuple):
    start: float
    offsets: tuple[float, ...]
    cause: Cause

    @property
    def next_round(self) -> float:
        return self.start + self.offsets[0]


class _Line:
    """The schedule of one link."""

    __slots__ = (
        "addresses",
        "bursts",
        "due",
        "full_at",
        "held",
        "last_burst",
        "pending",
        "recent",
        "refresh",
    )

    def __init__(self) -> None:
        self.addresses: dict[bytes, int] = {}  # address -> frames it takes; first: next to refresh
        self.pending: dict[bytes, Cause] = {}  # in the order in which they will be sent
        self.bursts: dict[bytes | str, _Burst] = {}  # by address, or _ALL, or _LATER
        self.refresh = inf  # when the next tick comes
        self.full_at = -inf  # when the bucket is full again
        self.recent: deque[float] = deque()  # when the frames of the last second were sent
        self.due = inf  # what the heap has for this line
        self.held = 0  # how often a frame had to wait for the bucket
        self.last_burst: tuple[float, Cause] | None = None


class Schedule:
    """The moments of all links.  ``uniform`` draws from [0, 1)."""

    __slots__ = ("_heap", "_left", "_lines", "_settings", "_uniform", "interval")

    def __init__(self, settings: Settings, uniform: Callable[[], float]) -> None:
        self._settings = settings
        self._uniform = uniform
        self._lines: dict[int, _Line] = {}
        self._left: dict[int, _Line] = {}  # of links that are gone, until their buckets are full
        self._heap: list[tuple[float, int]] = []
        self.interval = settings.interval  # seconds between refreshes, before jitter

    # -- what there is to announce --------------------------------------------------

    def set_addresses(self, ifindex: int, addresses: Mapping[bytes, int], now: float) -> None:
        """Say which addresses a link has, and how many frames each takes.

        A link gets a phase with its first address: a first refresh anywhere within the
        interval, so that guests booted together do not announce together.  With its last
        address gone it waits for nothing, but its bucket is as empty as it was: a carrier
        that flaps gets no tokens for it.
        """
        line = self._lines.get(ifindex)
        if line is None:
            line = self._left.pop(ifindex) if ifindex in self._left else _Line()
            self._lines[ifindex] = line
        begins_or_ends = bool(line.addresses) != bool(addresses)
        for known in (line.addresses, line.pending):
            for address in [a for a in known if a not in addresses]:
                del known[address]
        for key in [k for k in line.bursts if isinstance(k, bytes) and k not in addresses]:
            del line.bursts[key]
        line.addresses.update(addresses)
        if begins_or_ends:
            line.refresh = self._phase(line, now)
            line.bursts.clear()
        self._plan(ifindex, line)

    def remove(self, ifindex: int, now: float) -> None:
        """Forget a link that is gone: nothing pending there is ever sent.

        It may come back under its index: as long as its bucket is not full, that is kept.
        """
        if ifindex in self._lines:
            self.set_addresses(ifindex, {}, now)
            self._left[ifindex] = self._lines.pop(ifindex)
        for each in [i for i, line in self._left.items() if line.full_at <= now - SECOND]:
            del self._left[each]

    # -- triggers -------------------------------------------------------------------

    def burst(
        self,
        ifindex: int,
        cause: Cause,
        now: float,
        offsets: tuple[float, ...] = (),
        addresses: Iterable[bytes] | None = None,
    ) -> None:
        """Start a burst of these addresses, or of all (None), anew: the last trigger counts.

        ``offsets``: seconds from now of each round; () as configured.  One that is asked
        for later and those that begin at once leave each other alone; of two that are asked
        for later the one that begins first stays.
        """
        line = self._lines[ifindex]
        burst = _Burst(now, offsets or self._settings.burst, cause)
        if addresses is not None:
            line.bursts.update(dict.fromkeys(addresses, burst))
        elif offsets and offsets[0] > 0:
            # The first to begin serves them all; hints that go on coming put none off.
            asked = line.bursts.setdefault(_LATER, burst)
            if burst.next_round < asked.next_round:
                line.bursts[_LATER] = burst
        else:
            for single in [key for key in line.bursts if isinstance(key, bytes)]:
                del line.bursts[single]
            line.bursts[_ALL] = burst
        line.last_burst = (now, cause)
        self._plan(ifindex, line)

    def rephase(self, now: float) -> None:
        """Draw every link's next refresh anew, as for a link just found."""
        for ifindex, line in self._lines.items():
            line.refresh = self._phase(line, now)
            self._plan(ifindex, line)

    def configure(self, settings: Settings, interval: float, now: float) -> None:
        """Put other settings into force: no refresh is put off, no missing token given away."""
        slower = self._settings.bucket.rate / settings.bucket.rate
        self._settings = settings
        self.interval = interval
        for ifindex, line in self._lines.items():
            line.refresh = min(line.refresh, self._phase(line, now))
            line.full_at = now + max(0.0, line.full_at - now) * slower
            self._plan(ifindex, line)

    # -- the moments ----------------------------------------------------------------

    def deadline(self) -> float:
        """When :meth:`take` next has something to do; ``math.inf`` if never."""
        heap = self._heap
        while heap and self._is_stale(*heap[0]):
            heappop(heap)
        return heap[0][0] if heap else inf

    def take(self, now: float) -> list[Due]:
        """What is to be sent now: one address of every link first, then their others."""
        first: list[Due] = []
        others: list[Due] = []
        while self.deadline() <= now:
            ifindex = heappop(self._heap)[1]
            line = self._lines[ifindex]
            self._collect(line, now)
            for address, cause in self._drain(line, now):
                place = first if not first or first[-1].ifindex != ifindex else others
                place.append(Due(ifindex, address, cause))
            self._plan(ifindex, line)
        return first + others

    def is_idle(self) -> bool:
        """Whether no burst is under way and nothing waits for its bucket."""
        return not any(line.pending or line.bursts for line in self._lines.values())

    # -- for status -----------------------------------------------------------------

    def next_refresh(self, ifindex: int) -> float | None:
        """When the link's next tick comes."""
        line = self._lines.get(ifindex)
        return line.refresh if line and line.addresses else None

    def last_burst(self, ifindex: int) -> tuple[float, Cause] | None:
        """When the link's latest burst was started, and why."""
        line = self._lines.get(ifindex)
        return line.last_burst if line else None

    def is_bursting(self, ifindex: int) -> bool:
        """Whether a round of a burst is to come, or a frame of one waits for the bucket."""
        line = self._lines.get(ifindex)
        if line is None:
            return False
        return bool(line.bursts) or any(each is not Cause.REFRESH for each in line.pending.values())

    def held(self, ifindex: int) -> int:
        """How often a frame of this link had to wait for the token bucket."""
        line = self._lines.get(ifindex)
        return line.held if line else 0

    # -- one link -------------------------------------------------------------------

    def _phase(self, line: _Line, now: float) -> float:
        return now + self._uniform() * self.interval if line.addresses else inf

    def _is_stale(self, due: float, ifindex: int) -> bool:
        line = self._lines.get(ifindex)
        return line is None or line.due != due

    def _plan(self, ifindex: int, line: _Line) -> None:
        due = line.refresh
        for burst in line.bursts.values():
            due = min(due, burst.next_round)
        if line.pending:
            due = min(due, self._ready_at(line, next(iter(line.pending))))
        if due != line.due:
            line.due = due
            heappush(self._heap, (due, ifindex))
            if len(self._heap) > 2 * len(self._lines) + 64:  # a flood of triggers leaves stale ones
                self._heap = sorted((each.due, index) for index, each in self._lines.items())

    def _collect(self, line: _Line, now: float) -> None:
        """Move what is due by now into the pending set."""
        for key, burst in [item for item in line.bursts.items() if item[1].next_round <= now]:
            for address in (key,) if isinstance(key, bytes) else line.addresses:
                line.pending.setdefault(address, burst.cause)
            left = tuple(offset for offset in burst.offsets if burst.start + offset > now)
            if left:
                line.bursts[key] = burst._replace(offsets=left)
            else:
                del line.bursts[key]
        if line.refresh <= now:
            self._tick(line)
            swing = self._settings.jitter * (2.0 * self._uniform() - 1.0)
            line.refresh = now + min(LONGEST, self.interval * (1.0 + swing))

    def _tick(self, line: _Line) -> None:
        for _ in range(min(self._settings.addresses_per_tick, len(line.addresses))):
            address = next(iter(line.addresses))
            line.addresses[address] = line.addresses.pop(address)  # to the end of the round
            line.pending.setdefault(address, Cause.REFRESH)

    def _drain(self, line: _Line, now: float) -> Iterator[tuple[bytes, Cause]]:
        while line.pending:
            address = next(iter(line.pending))
            if now < self._ready_at(line, address) - ROUNDING:
                line.held += 1
                return
            frames = line.addresses[address]
            line.full_at = max(now, line.full_at) + frames / self._settings.bucket.rate
            while line.recent and line.recent[0] <= now - SECOND:
                line.recent.popleft()
            line.recent.extend([now] * frames)
            yield address, line.pending.pop(address)

    def _ready_at(self, line: _Line, address: bytes) -> float:
        bucket, frames = self._settings.bucket, line.addresses[address]
        ready = line.full_at + (frames - bucket.depth) / bucket.rate
        over = len(line.recent) + frames - int(bucket.in_a_second)
        if over <= 0:
            return ready
        return max(ready, line.recent[min(over, len(line.recent)) - 1] + SECOND)
