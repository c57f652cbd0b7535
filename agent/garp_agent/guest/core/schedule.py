"""When each address is announced: refresh ticks, bursts, and the token bucket that bounds both.

Decides the order and the moment.  Does not know what an announcement contains, and reads no
clock: ``now`` is an argument, in seconds.

Each link has one ordered set of pending addresses.  A refresh tick adds the next few addresses
to it, a round of a burst adds the addresses of the burst, and the token bucket lets them out one
by one.  An address is pending once or not at all, so neither memory nor traffic grows with the
number of triggers.  Rounds and ticks that were missed are not caught up.

The bucket is stored as the time at which it will be full again (GCRA, ITU-T I.371 annex A): one
number, and the same comparison answers "may it be sent" and "when may it be sent".  What flows
into a bucket that was just emptied comes on top of its depth.  The times of the last frames are
therefore kept as well, to bound the number of frames in any second.
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
    from collections.abc import Callable, Iterable, Mapping

    from garp_agent.config.settings import Settings

# Keys of bursts of all addresses, beside those of single addresses, which are bytes: a burst
# that begins at once, and one that begins later.
_ALL, _LATER = "all", "later"

ROUNDING = 1e-6  # seconds by which the bucket may be early: sums of floats are not exact
SECOND = 1.0 + 2 * ROUNDING


class Due(NamedTuple):
    """One address that is to be announced now."""

    ifindex: int
    address: bytes
    cause: Cause


class _Burst(NamedTuple):
    start: float  # seconds, monotonic
    offsets: tuple[float, ...]  # of the rounds that are still to come, seconds after the start
    cause: Cause

    @property
    def next_round(self) -> float:
        return self.start + self.offsets[0]


class _LinkSchedule:
    """The schedule of one link."""

    __slots__ = (
        "addresses",
        "bursts",
        "due",
        "full_at",
        "held",
        "last_burst",
        "next_round",
        "pending",
        "recent",
        "refresh",
        "serial",
    )

    def __init__(self) -> None:
        # Address -> number of frames it takes.  The first ones are the next to be refreshed.
        self.addresses: dict[bytes, int] = {}
        self.pending: dict[bytes, Cause] = {}  # in the order in which they will be sent
        self.bursts: dict[bytes | str, _Burst] = {}  # by address, or _ALL, or _LATER
        self.next_round = inf  # the earliest next round of these bursts
        self.refresh = inf  # when the next tick comes
        self.full_at = -inf  # when the bucket is full again
        self.recent: deque[float] = deque()  # when the frames of the last second were sent
        self.due = inf  # with ``serial``, the heap entry of this link that counts
        self.serial = 0
        self.held = 0  # how often an address had to wait for the bucket
        self.last_burst: tuple[float, Cause] | None = None

    def find_next_round(self) -> None:
        """Update ``next_round``, after a change of ``bursts``.

        Not looked up for every frame: a link can have thousands of bursts of single addresses.
        """
        self.next_round = inf
        for burst in self.bursts.values():
            self.next_round = min(self.next_round, burst.next_round)


class Schedule:
    """The moments of all links.  ``uniform`` draws from [0, 1)."""

    __slots__ = (
        "_heap",
        "_in_a_second",
        "_links",
        "_removed",
        "_serial",
        "_settings",
        "_uniform",
        "interval",
    )

    def __init__(self, settings: Settings, uniform: Callable[[], float]) -> None:
        self._settings = settings
        self._in_a_second = int(settings.rate_limit.in_a_second)
        self._uniform = uniform
        self._links: dict[int, _LinkSchedule] = {}
        self._removed: dict[int, _LinkSchedule] = {}  # kept until their buckets are full
        self._heap: list[tuple[float, int, int]] = []  # due, serial, ifindex
        self._serial = 0  # of heap entries: of links due at one time, the first in comes first
        self.interval = settings.interval  # seconds between refreshes, before jitter

    # -- what there is to announce --------------------------------------------------

    def set_addresses(self, ifindex: int, addresses: Mapping[bytes, int], now: float) -> None:
        """Set the addresses of a link, and the number of frames that each takes.

        With its first address, a link gets a first refresh at a random moment within the
        interval, so that guests that boot together do not announce together.  Without an
        address nothing is due, but the bucket stays as empty as it was: a carrier that flaps
        gains no tokens.
        """
        link = self._links.get(ifindex)
        if link is None:
            link = self._removed.pop(ifindex) if ifindex in self._removed else _LinkSchedule()
            self._links[ifindex] = link
        begins_or_ends = bool(link.addresses) != bool(addresses)
        for known in (link.addresses, link.pending):
            for address in [a for a in known if a not in addresses]:
                del known[address]
        for key in [k for k in link.bursts if isinstance(k, bytes) and k not in addresses]:
            del link.bursts[key]
        link.addresses.update(addresses)
        if begins_or_ends:
            link.refresh = self._phase(link, now)
            link.bursts.clear()
        link.find_next_round()
        self._enqueue(ifindex, link, now)

    def remove(self, ifindex: int, now: float) -> None:
        """Forget a link that is gone.  Nothing that is pending there is sent.

        Its bucket is kept until it is full: the link can come back under its ifindex.
        """
        if ifindex in self._links:
            self.set_addresses(ifindex, {}, now)
            self._removed[ifindex] = self._links.pop(ifindex)
            self._drop_stale_entries()
        for each in [i for i, link in self._removed.items() if link.full_at <= now - SECOND]:
            del self._removed[each]

    # -- triggers -------------------------------------------------------------------

    def burst(
        self,
        ifindex: int,
        cause: Cause,
        now: float,
        offsets: tuple[float, ...] = (),
        addresses: Iterable[bytes] | None = None,
    ) -> None:
        """Start a burst of these addresses, or of all (None).  It replaces the one under way.

        ``offsets``: seconds from now of each round; () as configured.  A burst of all whose
        first offset is above 0 is delayed.  Immediate and delayed bursts are independent; of
        two delayed ones, the earlier wins.
        """
        link = self._links[ifindex]
        burst = _Burst(now, offsets or self._settings.burst, cause)
        if addresses is not None:
            link.bursts.update(dict.fromkeys(addresses, burst))
        elif offsets and offsets[0] > 0:
            # The earlier wins, so that hints that keep coming cannot postpone it without end.
            delayed = link.bursts.setdefault(_LATER, burst)
            if burst.next_round < delayed.next_round:
                link.bursts[_LATER] = burst
        else:
            for single in [key for key in link.bursts if isinstance(key, bytes)]:
                del link.bursts[single]
            link.bursts[_ALL] = burst
        link.last_burst = (now, cause)
        link.find_next_round()
        self._enqueue(ifindex, link, now)

    def rephase(self, now: float) -> None:
        """Draw the next refresh of every link anew, as for a link that was just found."""
        for ifindex, link in self._links.items():
            link.refresh = self._phase(link, now)
            self._enqueue(ifindex, link, now)

    def configure(self, settings: Settings, interval: float, now: float) -> None:
        """Use other settings.

        No refresh gets later or moves within the interval.  No missing token is given back.
        """
        slower = self._settings.rate_limit.frames_per_second / settings.rate_limit.frames_per_second
        self._settings = settings
        self._in_a_second = int(settings.rate_limit.in_a_second)
        self.interval = interval
        for ifindex, link in self._links.items():
            # Drawn anew only where it is too far off: many changes must not hurry it either.
            if link.refresh > now + interval:
                link.refresh = self._phase(link, now)
            link.full_at = now + max(0.0, link.full_at - now) * slower
            self._enqueue(ifindex, link, now)

    # -- the moments ----------------------------------------------------------------

    def deadline(self) -> float:
        """Return when :meth:`next_due` next has something to do; ``math.inf`` if never."""
        return self._heap[0][0] if self._heap else inf

    def next_due(self, now: float) -> Due | None:
        """Take the next address that is to be announced now; None if there is none.

        Links take turns: each sends one address before any sends its second.
        """
        while self.deadline() <= now:
            ifindex = heappop(self._heap)[2]
            link = self._links[ifindex]
            link.due = inf
            self._collect(link, now)
            due = self._take(ifindex, link, now)
            self._enqueue(ifindex, link, now)
            if due is not None:
                return due
        return None

    def is_idle(self) -> bool:
        """Return whether no burst is under way and nothing waits for its bucket."""
        return not any(link.pending or link.bursts for link in self._links.values())

    # -- for status -----------------------------------------------------------------

    def next_refresh(self, ifindex: int) -> float | None:
        """Return when the next tick of a link comes; None without an address."""
        link = self._links.get(ifindex)
        return link.refresh if link and link.addresses else None

    def last_burst(self, ifindex: int) -> tuple[float, Cause] | None:
        """Return when the latest burst of a link was started, and its cause."""
        link = self._links.get(ifindex)
        return link.last_burst if link else None

    def is_bursting(self, ifindex: int) -> bool:
        """Return whether rounds of a burst are to come, or its frames wait for the bucket."""
        link = self._links.get(ifindex)
        if link is None:
            return False
        return bool(link.bursts) or any(each is not Cause.REFRESH for each in link.pending.values())

    def held(self, ifindex: int) -> int:
        """Return how often addresses of a link had to wait for the token bucket.

        Counted once for each time that the link is due and the bucket stops it, not once for
        each address that waits.
        """
        link = self._links.get(ifindex)
        return link.held if link else 0

    # -- one link -------------------------------------------------------------------

    def _phase(self, link: _LinkSchedule, now: float) -> float:
        return now + self._uniform() * self.interval if link.addresses else inf

    def _enqueue(self, ifindex: int, link: _LinkSchedule, now: float) -> None:
        """Put the link into the heap for the moment at which it is due next."""
        due = min(link.refresh, link.next_round)
        if link.pending:
            due = min(due, self._ready_at(link, now))
        if due != link.due:
            link.due = due
            self._serial = link.serial = self._serial + 1
            heappush(self._heap, (due, link.serial, ifindex))
            if len(self._heap) > 2 * len(self._links) + 64:  # a flood of triggers, all replaced
                self._heap = sorted((each.due, each.serial, i) for i, each in self._links.items())
        self._drop_stale_entries()

    def _drop_stale_entries(self) -> None:
        """Keep an entry that counts at the top: its link is there and due at no other time."""
        heap, links = self._heap, self._links
        while heap:
            link = links.get(heap[0][2])
            if link is not None and link.serial == heap[0][1]:
                break
            heappop(heap)

    def _collect(self, link: _LinkSchedule, now: float) -> None:
        """Add what is due by now to the pending addresses."""
        if link.next_round <= now:
            for key, burst in [item for item in link.bursts.items() if item[1].next_round <= now]:
                for address in (key,) if isinstance(key, bytes) else link.addresses:
                    link.pending.setdefault(address, burst.cause)
                left = tuple(offset for offset in burst.offsets if burst.start + offset > now)
                if left:
                    link.bursts[key] = burst._replace(offsets=left)
                else:
                    del link.bursts[key]
            link.find_next_round()
        if link.refresh <= now:
            self._tick(link)
            swing = self._settings.jitter * (2.0 * self._uniform() - 1.0)
            link.refresh = now + min(LONGEST, self.interval * (1.0 + swing))

    def _tick(self, link: _LinkSchedule) -> None:
        for _ in range(min(self._settings.addresses_per_tick, len(link.addresses))):
            address = next(iter(link.addresses))
            link.addresses[address] = link.addresses.pop(address)  # to the end of the round
            link.pending.setdefault(address, Cause.REFRESH)

    def _take(self, ifindex: int, link: _LinkSchedule, now: float) -> Due | None:
        """Take the first pending address and its tokens; None if it has to wait for them."""
        due = None
        if link.pending and self._ready_at(link, now) <= now:
            address = next(iter(link.pending))
            frames = link.addresses[address]
            seconds = frames / self._settings.rate_limit.frames_per_second
            link.full_at = max(now, link.full_at) + seconds
            while link.recent and link.recent[0] <= now - SECOND:
                link.recent.popleft()
            link.recent.extend([now] * frames)
            due = Due(ifindex, address, link.pending.pop(address))
        if link.pending and self._ready_at(link, now) > now:
            link.held += 1
        return due

    def _ready_at(self, link: _LinkSchedule, now: float) -> float:
        """Return when the bucket lets the first pending address out, not earlier than ``now``.

        The bucket may have been ready for a long time.  A link must not look as if it was due
        then: it would overtake other links, and a late turn is taken for a suspension.
        """
        limit = self._settings.rate_limit
        frames = link.addresses[next(iter(link.pending))]
        ready = link.full_at + (frames - limit.depth) / limit.frames_per_second
        over = len(link.recent) + frames - self._in_a_second
        if over > 0:
            ready = max(ready, link.recent[min(over, len(link.recent)) - 1] + SECOND)
        return ready if ready - ROUNDING > now else now
