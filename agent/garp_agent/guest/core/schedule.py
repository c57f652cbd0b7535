"""When each address is announced: refresh ticks and bursts, bounded by a bucket for each NIC.

Decides the order and the moment.  Does not know what an announcement contains, and reads no
clock: ``now`` is an argument, in seconds.

Each link has one ordered set of pending addresses.  A refresh tick adds the next few addresses to
it, and a round of a burst adds those of the burst.  The token bucket of the NIC
(guest.core.rate_limit) lets them out one by one.  An address is pending once or not at all, so
neither memory nor traffic grows with the number of triggers.  Rounds and ticks that were missed are
not caught up.

Links that leave by the same NIC (its VLANs, macvlans, bridge) share one bucket and take turns.
Links without an address (RARP) come last, and leave half of the bucket to the others.  They get a
turn after each full bucket of others.

A frame is charged when it was sent (:meth:`Schedule.sent`), not when it is planned: many links can
be due in one turn, and their frames leave later than the turn began.  A frame that the kernel
refused (:meth:`Schedule.refused`) is not charged, but its link rests for as long as a token takes,
and twice as long after each further one: thousands of links can refuse frames at the same time.
"""

from __future__ import annotations

from _heapq import heappop, heappush

from garp_agent.config.settings import LONGEST
from garp_agent.guest.core.link_schedule import BurstRounds, Due, LinkSchedule, Nic, Timer
from garp_agent.guest.core.model import Cause
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from garp_agent.config.settings import Settings

# Keys of bursts of all addresses, beside those of single addresses, which are bytes: a burst
# that begins at once, and one that begins later.
_ALL, _LATER = "all", "later"
# Frames that an agent sends in its first second for an address that takes one: a probe of two,
# three rounds of a burst, a refresh with its probe.
AT_START = 7
LONGEST_REST = 5.0  # seconds
# After these causes the path may carry frames later than the burst, and no hint of the host says
# when.  So a lease does not stretch the interval of a link for UNSETTLED seconds after them.
CHANGES = (
    Cause.START,
    Cause.LINK_UP,
    Cause.ADDRESS_ADDED,
    Cause.HARDWARE_ADDRESS_CHANGED,
    Cause.NOTIFY_PEERS,
    Cause.RESUME,
)
UNSETTLED = 60.0


class Schedule:
    """The moments of all links.  ``uniform`` draws from [0, 1)."""

    __slots__ = (
        "_heap",
        "_links",
        "_nic_of",
        "_nics",
        "_serial",
        "_settings",
        "_uniform",
        "interval",
    )

    def __init__(self, settings: Settings, uniform: Callable[[], float]) -> None:
        self._settings = settings
        self._uniform = uniform
        self._links: dict[int, LinkSchedule] = {}
        self._nic_of: Mapping[int, int] = {}  # ifindex -> number of its NIC; else its own ifindex
        # Also without links, as long as their buckets are not full: a link can come back.
        self._nics: dict[int, Nic] = {}
        self._heap: list[tuple[float, int, int, Timer]] = []  # due, rank, serial
        self._serial = 0  # of heap entries: of those due at one time, the first in comes first
        self.interval = settings.interval  # seconds between refreshes, before jitter

    # -- what there is to announce --------------------------------------------------

    def group(self, nic_of: Mapping[int, int], now: float) -> None:
        """Say by which NIC each link leaves: links with the same number share a bucket.

        A link that is not in ``nic_of`` has its own.  No link gains tokens by a change, nor does a
        NIC without a link here: that of a bridge gets the bridge's addresses when that is deleted.
        """
        known = (*self._nic_of, *nic_of)
        changes = {(self._nic_of.get(each, each), nic_of.get(each, each)) for each in known}
        for before, after in changes:
            if before != after and before in self._nics:
                self._nic(after).bucket.absorb(self._nics[before].bucket)
        self._nic_of = nic_of  # last: without memory for the others it is done again
        for link in self._links.values():
            nic = self._nic(nic_of.get(link.ifindex, link.ifindex))
            if nic is not link.nic:
                self._stop_waiting(link, now)
                link.nic.links -= 1
                nic.links += 1
                link.nic = nic
                self._wait(link, now)
        self._forget_nics(now)

    def set_addresses(self, ifindex: int, addresses: Mapping[bytes, int], now: float) -> None:
        """Set the addresses of a link, and the number of frames that each takes.

        With its first address, a link gets a first refresh at a random moment within the interval:
        guests that boot together must not announce together.  Without an address nothing is due,
        but the bucket stays as empty as it was: a carrier that flaps gains no tokens.
        """
        link = self._links.get(ifindex)
        if link is None:
            nic = self._nic(self._nic_of.get(ifindex, ifindex))
            link = self._links[ifindex] = LinkSchedule(ifindex, nic)
            nic.links += 1
        begins_or_ends = bool(link.addresses) != bool(addresses)
        is_bare = b"" in addresses
        if is_bare != link.is_bare:
            self._stop_waiting(link, now)
            link.is_bare = is_bare
        for address in [a for a in link.addresses if a not in addresses]:
            del link.addresses[address]
        for address in [a for a in link.pending if a not in addresses]:
            if link.pending[address] is not Cause.PROXY_TEST:
                link.forget(address)
        for address in [a for a in link.after_probe if a not in addresses]:
            del link.after_probe[address]
        for key in [k for k in link.bursts if isinstance(k, bytes) and k not in addresses]:
            del link.bursts[key]
        link.addresses.update(addresses)
        if begins_or_ends:
            link.refresh = self._phase(link, now)
            link.bursts.clear()
            link.rest, link.rest_end = 0.0, inf
        if not addresses:
            link.pending.clear()
            link.first.clear()
            link.after_probe.clear()
        link.find_next_round()
        if link.pending:
            self._wait(link, now)
        else:
            self._stop_waiting(link, now)
        self._enqueue(link)

    def set_frames(self, ifindex: int, address: bytes, frames: int) -> None:
        """Set the number of frames that an address takes, if the link has it."""
        link = self._links.get(ifindex)
        if link is not None and address in link.addresses:
            link.addresses[address] = frames

    def remove(self, ifindex: int, now: float) -> None:
        """Forget a link that is gone.  Nothing that is pending there is sent.

        Its bucket is kept until it is full: the link can come back under its ifindex.
        """
        if ifindex in self._links:
            self.set_addresses(ifindex, {}, now)
            link = self._links.pop(ifindex)
            self._push(link, inf)
            link.nic.links -= 1
        self._forget_nics(now)

    def keep(self, ifindexes: Container[int], now: float) -> list[int]:
        """Forget the links that are not among ``ifindexes``; return them."""
        others = [ifindex for ifindex in self._links if ifindex not in ifindexes]
        for ifindex in others:
            self.remove(ifindex, now)
        return others

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
        link = self._links.get(ifindex)
        if link is None:  # there was no memory to take in its plan
            return
        burst = BurstRounds(now, offsets or self._settings.burst, cause)
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
        if link.rest_end < inf:
            link.rest_end = min(link.rest_end, now + self._token)
        link.last_burst = (now, cause)
        if cause in CHANGES:
            link.unsettled_until = now + UNSETTLED
            if link.refresh > now + self._settings.interval:
                link.refresh = self._phase(link, now)
        link.find_next_round()
        self._enqueue(link)

    def send_once(self, ifindex: int, address: bytes, cause: Cause, now: float) -> None:
        """Add an address to the pending ones.

        With PROXY_TEST, it need not be one of the link's addresses.
        """
        link = self._links.get(ifindex)
        if link is not None:
            link.add(address, cause)
            self._wait(link, now)

    def send_next(self, ifindex: int, address: bytes, cause: Cause, now: float) -> None:
        """Let an address out before all others that are pending on the link.

        Those that were let out so before it come first.  An announcement also goes before what
        waits on the other links of its NIC.
        """
        link = self._links.get(ifindex)
        if link is not None:
            link.forget(address)
            first = {each: link.pending[each] for each in link.first}
            link.pending = {**first, address: cause, **link.pending}
            link.first[address] = None
            self._wait(link, now)

    def rephase(self, now: float) -> None:
        """Draw the next refresh of every link anew, as for a link that was just found."""
        for link in self._links.values():
            link.refresh = self._phase(link, now)
            self._enqueue(link)

    def configure(self, settings: Settings, interval: float, now: float) -> None:
        """Use other settings.

        No refresh gets later or moves within the interval.  No missing token is given back.
        """
        self._settings = settings
        self.interval = interval
        for nic in self._nics.values():
            nic.bucket.configure(settings.rate_limit, now)
            self._enqueue_nic(nic, now)
        for link in self._links.values():
            # Drawn anew only where it is too far off: many changes must not hurry it either.
            if link.refresh > now + self._interval(link, now):
                link.refresh = self._phase(link, now)
            self._enqueue(link)

    # -- the moments ----------------------------------------------------------------

    def deadline(self) -> float:
        """Return when :meth:`next_due` next has something to do; ``math.inf`` if never."""
        return self._heap[0][0] if self._heap else inf

    def next_due(self, now: float) -> Due | None:
        """Take the next address that is to be announced now; None if there is none.

        NICs take turns, and so do the links of a NIC: each sends one address before any sends
        its second.  Those without an address come last.  The caller reports each frame of the
        address to :meth:`sent`.
        """
        while self._heap and self._heap[0][0] <= now:  # deadline(), without a call
            timer = heappop(self._heap)[3]
            timer.due = inf
            if isinstance(timer, LinkSchedule):
                nic = timer.nic
                is_alone = not timer.pending and not nic.waiting and not nic.bare
                self._collect(timer, now)
                self._enqueue(timer)
                if is_alone and timer.rest_end == inf and len(timer.pending) == 1:
                    due = self._take_only(timer, now)
                    if due is not None:
                        return due
                if timer.pending:
                    self._wait(timer, now)
                continue
            assert isinstance(timer, Nic)
            due = self._take(timer, now)
            if due is not None:
                return due
        return None

    def sent(self, ifindex: int, now: float, announces: bool = True) -> None:
        """Count a frame of a link that was handed to the kernel at ``now``.

        ``announces``: it is no probe.
        """
        link = self._links.get(ifindex)
        if link is None:
            return
        if announces:
            link.last_announced = now
        link.rest = 0.0
        if link.rest_end < inf:
            link.rest_end = inf
            self._wait(link, now)
        nic = link.nic
        was_ready = nic.due <= now
        nic.bucket.charge(now)
        queue = nic.waiting or nic.bare
        if queue:
            self._enqueue_nic(nic, now)
            if was_ready and nic.due > now:
                next(iter(queue)).held += 1

    def refused(self, ifindex: int, now: float) -> None:
        """Let a link whose frame the kernel refused rest; the others need not wait for it.

        Its other addresses are tried first: the kernel may take their frames.
        """
        link = self._links.get(ifindex)
        if link is not None:
            rest = self._token
            if not link.pending:
                rest = link.rest = min(LONGEST_REST, 2.0 * link.rest or self._token)
            link.rest_end = now + rest
            self._stop_waiting(link, now)
            self._enqueue(link)

    def probed(self, ifindex: int, address: bytes, is_withheld: bool, now: float) -> None:
        """Let the announcement that was to follow a probe wait now, unless it is withheld."""
        link = self._links.get(ifindex)
        cause = link.after_probe.pop(address, None) if link else None
        if cause is not None and not is_withheld:
            self.send_once(ifindex, address, cause, now)

    def is_idle(self) -> bool:
        """Return whether no burst is under way and nothing waits for its bucket."""
        return not any(link.pending or link.bursts for link in self._links.values())

    def rested_at(self) -> float:
        """Return when the first second of a new process cannot exceed the limit by our frames.

        Its buckets are full: they do not know our frames.  ``-math.inf``: it cannot now.
        """
        frames = dict.fromkeys(self._nics.values(), 0)
        for link in self._links.values():
            frames[link.nic] += AT_START * sum(link.addresses.values())
        return max((nic.bucket.rested_at(count) for nic, count in frames.items()), default=-inf)

    def last_announced(self, ifindex: int) -> float:
        """Return when a link last sent an announcement; ``-math.inf`` if it has not yet."""
        link = self._links.get(ifindex)
        return link.last_announced if link else -inf

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

    @property
    def _token(self) -> float:
        """The seconds in which a bucket gets a token."""
        return 1.0 / self._settings.rate_limit.frames_per_second

    def _phase(self, link: LinkSchedule, now: float) -> float:
        return now + self._uniform() * self._interval(link, now) if link.addresses else inf

    def _interval(self, link: LinkSchedule, now: float) -> float:
        return self.interval if link.unsettled_until <= now else self._settings.interval

    def _collect(self, link: LinkSchedule, now: float) -> None:
        """Add what is due by now to the pending addresses; end a rest that is over."""
        if link.rest_end <= now:
            link.rest_end = inf
        if link.next_round <= now:
            for key, burst in [item for item in link.bursts.items() if item[1].next_round <= now]:
                for address in (key,) if isinstance(key, bytes) else link.addresses:
                    link.add(address, burst.cause)
                left = tuple(offset for offset in burst.offsets if burst.start + offset > now)
                if left:
                    link.bursts[key] = BurstRounds(burst.start, left, burst.cause)
                else:
                    del link.bursts[key]
            link.find_next_round()
        if link.refresh <= now:
            self._tick(link)
            swing = self._settings.jitter * (2.0 * self._uniform() - 1.0)
            link.refresh = now + min(LONGEST, self._interval(link, now) * (1.0 + swing))

    def _take_only(self, link: LinkSchedule, now: float) -> Due | None:
        """Take the only address that is pending, if its bucket lets it out now.

        As a rule a refresh is alone, and need not wait for its NIC.  Other links that are due now
        come after it anyway, unless it has no address.
        """
        ((address, cause),) = link.pending.items()
        frames = link.addresses.get(address, 1)
        if link.is_bare:
            if self._heap and self._heap[0][0] <= now:
                return None
            frames += self._settings.rate_limit.depth // 2
        if link.nic.bucket.ready_at(frames, now) > now:
            return None
        link.pending.clear()
        link.first.clear()
        return Due(link.ifindex, address, cause)

    def _tick(self, link: LinkSchedule) -> None:
        """Let the next addresses of each family wait.  IPv6 addresses are often many."""
        most = self._settings.addresses_per_tick
        room = {4: most, 16: most, 0: 1}  # by length: IPv4, IPv6, the frame without an address
        taken = []
        for address in link.addresses:
            size = len(address)
            if room[size]:
                room[size] -= 1
                taken.append(address)
                if len(taken) == 2 * most:
                    break
        for address in taken:
            link.addresses[address] = link.addresses.pop(address)  # to the end of the round
            link.pending.setdefault(address, Cause.REFRESH)

    # -- one NIC --------------------------------------------------------------------

    def _nic(self, number: int) -> Nic:
        if number not in self._nics:
            self._nics[number] = Nic(self._settings.rate_limit)
        return self._nics[number]

    def _forget_nics(self, now: float) -> None:
        """Forget the NICs that no link uses and whose buckets are full."""
        unused = [n for n, nic in self._nics.items() if not nic.links and nic.bucket.is_fresh(now)]
        for number in unused:
            del self._nics[number]

    def _wait(self, link: LinkSchedule, now: float) -> None:
        """Let the link wait for its NIC, if it has pending addresses."""
        nic = link.nic
        queue = nic.bare if link.is_bare else nic.waiting
        if not link.pending or link.rest_end < inf:
            return
        is_first = bool(link.first) and link not in nic.first and link.is_first()
        if is_first:
            nic.first[link] = None
        is_new = link not in queue
        if is_new or is_first:
            queue[link] = None
            self._enqueue_nic(nic, now)
            link.held += is_new and nic.due > now

    def _stop_waiting(self, link: LinkSchedule, now: float) -> None:
        queue = link.nic.bare if link.is_bare else link.nic.waiting
        if link in queue:
            del queue[link]
            link.nic.first.pop(link, None)
            self._enqueue_nic(link.nic, now)

    def _turn(self, nic: Nic, now: float) -> tuple[LinkSchedule, float]:
        """Return the waiting link whose turn it is, and when its first address may leave."""
        depth = self._settings.rate_limit.depth
        is_overdue = nic.overtaken >= depth
        queue, spare = nic.first or nic.waiting, 0
        if nic.bare and (is_overdue or not queue):
            queue = nic.bare
            if not is_overdue:
                spare = depth // 2
        link = next(iter(queue))
        frames = link.addresses.get(next(iter(link.pending)), 1)
        return link, nic.bucket.ready_at(frames + spare, now)

    def _take(self, nic: Nic, now: float) -> Due | None:
        """Take the first pending address of the link whose turn it is."""
        link, ready = self._turn(nic, now)
        due = None
        if ready <= now:
            queue = nic.bare if link.is_bare else nic.waiting
            nic.overtaken = 0 if link.is_bare or not nic.bare else nic.overtaken + 1
            del queue[link]
            nic.first.pop(link, None)
            due = link.take()
            if link.pending:
                queue[link] = None
                if link.first and link.is_first():
                    nic.first[link] = None
        self._enqueue_nic(nic, now)
        return due

    # -- the heap -------------------------------------------------------------------

    def _enqueue_nic(self, nic: Nic, now: float) -> None:
        """Put the NIC into the heap for the moment at which it lets a frame out."""
        if nic.waiting or nic.bare:
            self._push(nic, self._turn(nic, now)[1])
        else:
            self._push(nic, inf)

    def _enqueue(self, link: LinkSchedule) -> None:
        """Put the link into the heap for its next tick or round, or the end of its rest."""
        self._push(link, min(link.refresh, link.next_round, link.rest_end))

    def _push(self, timer: Timer, due: float) -> None:
        if due == inf:
            timer.due, timer.serial = inf, 0  # no entry has this serial
        elif due != timer.due:
            self._serial = serial = self._serial + 1
            heappush(self._heap, (due, timer.rank, serial, timer))
            timer.due, timer.serial = due, serial  # after it: there may be no memory for the entry
            timers = len(self._links) + len(self._nics)
            if len(self._heap) > 2 * timers + 64:  # a flood of triggers, all replaced
                self._heap = sorted(entry for entry in self._heap if entry[2] == entry[3].serial)
        # Keep an entry that counts at the top: its link is there and due at no other time.
        heap = self._heap
        while heap and heap[0][2] != heap[0][3].serial:
            heappop(heap)
