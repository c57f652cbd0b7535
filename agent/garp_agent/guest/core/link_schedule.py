"""The schedule of one link and the bucket of one NIC, as guest.core.schedule keeps them.

Holds what is pending and when it is due.  Does not decide the order of links.
"""

from __future__ import annotations

from garp_agent.guest.core.model import Cause
from garp_agent.guest.core.rate_limit import FrameBucket
from garp_agent.wire.record import NamedTuple, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.config.settings import RateLimit


class Due(NamedTuple):
    """One address that is to be announced now."""

    ifindex: int
    address: bytes
    cause: Cause


class BurstRounds(NamedTuple):
    """The rounds of a burst that are still to come."""

    start: float  # seconds, monotonic
    offsets: tuple[float, ...]  # of the rounds that are still to come, seconds after the start
    cause: Cause

    @property
    def next_round(self) -> float:
        return self.start + self.offsets[0]


class Timer:
    """Something with a place in the heap."""

    __slots__ = ("due", "serial")
    rank = 0  # of those due at one time, the lowest ones come first

    def __init__(self) -> None:
        self.due = inf  # with ``serial``, the heap entry that counts
        self.serial = 0


class Nic(Timer):
    """A bucket, and the links that wait for it.  Due when the one whose turn it is may send."""

    __slots__ = ("bare", "bucket", "first", "links", "overtaken", "waiting")
    rank = 1  # all links that are due wait before one of them gets its turn

    def __init__(self, limits: RateLimit) -> None:
        super().__init__()
        self.bucket = FrameBucket(limits)
        self.links = 0  # that use it
        self.waiting: dict[LinkSchedule, None] = {}  # with pending addresses; the next one first
        # Those of ``waiting`` that have an announcement which comes before all else.
        self.first: dict[LinkSchedule, None] = {}
        self.bare: dict[LinkSchedule, None] = {}  # links that wait and have no address: they yield
        self.overtaken = 0  # turns of others since one of these had its turn


class LinkSchedule(Timer):
    """The schedule of one link.  Due when its next tick or round comes."""

    __slots__ = (
        "addresses",
        "after_probe",
        "bursts",
        "first",
        "held",
        "ifindex",
        "is_bare",
        "last_announced",
        "last_burst",
        "next_round",
        "nic",
        "pending",
        "refresh",
        "rest",
        "rest_end",
        "unsettled_until",
    )

    def __init__(self, ifindex: int, nic: Nic) -> None:
        super().__init__()
        self.ifindex = ifindex
        self.nic = nic
        # Address -> number of frames it takes.  The first ones are the next to be refreshed.
        self.addresses: dict[bytes, int] = {}
        self.is_bare = False  # it has no address but b"": its hardware address (RARP)
        self.pending: dict[bytes, Cause] = {}  # in the order in which they will be sent
        self.first: dict[bytes, None] = {}  # pending addresses that come before all others
        self.after_probe: dict[bytes, Cause] = {}  # what is to follow a pending probe
        self.bursts: dict[bytes | str, BurstRounds] = {}  # by address, or "all", or "later"
        self.next_round = inf  # the earliest next round of these bursts
        self.refresh = inf  # when the next tick comes
        self.rest = 0.0  # seconds after the latest frame, if the kernel refused it
        self.rest_end = inf  # inf: it does not rest
        self.unsettled_until = -inf  # a lease does not stretch its interval before
        self.last_announced = -inf  # when a frame that is no probe was sent
        self.held = 0  # how often an address had to wait for the bucket
        self.last_burst: tuple[float, Cause] | None = None

    def add(self, address: bytes, cause: Cause) -> None:
        """Add an address to the pending ones.

        A probe comes before what else the address is pending for, and instead of a refresh.
        """
        before = self.pending.setdefault(address, cause)
        if before is not cause and Cause.CONFLICT in (before, cause):
            self.pending[address] = Cause.CONFLICT
            other = cause if before is Cause.CONFLICT else before
            if other is not Cause.REFRESH:
                self.after_probe[address] = other

    def take(self) -> Due:
        """Take the first pending address."""
        address = next(iter(self.pending))
        self.first.pop(address, None)
        return Due(self.ifindex, address, self.pending.pop(address))

    def is_first(self) -> bool:
        """Return whether the next address is to be announced before those of other links.

        The probes of a proxy test are not: any station can cause many of them.
        """
        address = next(iter(self.first), None)
        return address is not None and self.pending[address] is not Cause.PROXY_TEST

    def forget(self, address: bytes) -> None:
        """Let an address not be pending any more."""
        self.pending.pop(address, None)
        self.first.pop(address, None)
        self.after_probe.pop(address, None)

    def find_next_round(self) -> None:
        """Update ``next_round``, after a change of ``bursts``.

        Not looked up for every frame: a link can have thousands of bursts of single addresses.
        """
        self.next_round = inf
        for burst in self.bursts.values():
            self.next_round = min(self.next_round, burst.start + burst.offsets[0])
