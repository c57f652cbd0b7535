"""Which stations answer for everything: proxy ARP, ND proxies, client isolation.

Such a station answers the probes for our addresses, too, and is no rival.  A rival that answers is
therefore tested with probes for random addresses, other ones in each test.  It is a proxy if it
answers all of them.  Does not send the probes, and does not decide what a rival's answer changes.

A rival can have many addresses of its own, even most of a small network.  So an answer for an
address far from ours counts more than one for a near address: a proxy has a route there.  A station
that answers for near addresses only has to do so CERTAIN times without a miss, or for all addresses
of a network that has fewer: it may be a firewall that answers for the network it translates.  After
a failure a station is tested more rarely, and needs more answers: chance must not make a rival a
proxy in the end.

Sources: RFC 1027 (proxy ARP), RFC 4389 (ND proxies), RFC 4291 section 2.5.1 (interface
identifiers of 64 bits).
"""

from __future__ import annotations

from garp_agent.guest.core.memory import remember
from garp_agent.wire.record import Enum, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container

    Station = tuple[int, bytes]  # ifindex and hardware address

AT_ONCE = 3  # near addresses that are asked for at once
CERTAIN = 24  # answers for near addresses, without a miss, that make a proxy
# Near addresses are those of our network.  A rival can easily have all of one with fewer bits than
# LEAST_BITS, so that they are drawn from the NEAR_BITS around our address then.
LEAST_BITS, NEAR_BITS = 4, 8
FAR_BITS = {4: 16, 16: 64}  # by bytes of an address; no rival has most of so large a network
DRAWN = 16  # tries for each address of a large network: some may be ours
# Seconds for answers, from the moment when the latest probe was sent: in the first test of a
# station, and in the others.
WAITS = (1.0, 3.0)
# Seconds from one test of a station to the next, by failures.  The first tests follow soon, because
# one lost frame makes a test fail, and the address is not announced meanwhile.
RESTS = (2.0, 4.0, 60.0, 600.0, 3600.0)
SOON = 2  # tests that follow soon
UNSENT = 60.0  # seconds after which a test whose probes could not be sent is over
KNOWN_FOR = 3600.0  # seconds for which a station counts as a proxy
MOST_STATIONS = 64  # a forger must not fill the memory


class Verdict(Enum):
    """What an answer for a test address shows."""

    NOTHING = "nothing"  # no test address, too late, or other answers are still missing
    MORE = "more"  # the station may be a proxy: ask for other addresses
    PROXY = "proxy"


class _Test:
    """A station under test."""

    __slots__ = (
        "address",
        "answers",
        "asked",
        "bits",
        "far",
        "missing",
        "needed",
        "unsent",
        "until",
        "wait",
    )

    def __init__(self, address: bytes, bits: int, needed: int, wait: float) -> None:
        self.address = address  # of ours, that the station answered for
        self.bits = bits  # of the address behind the prefix
        self.needed = needed  # answers for near addresses
        self.answers = 0  # of these
        self.asked: set[bytes] = set()  # near addresses so far
        self.missing: set[bytes] = set()  # near addresses without an answer so far
        self.far = b""  # without an answer so far; b"": none
        self.unsent: set[bytes] = set()  # probes that wait for the token bucket
        self.until = inf  # when answers are late
        self.wait = wait


class ProxyTests:
    """The stations that are tested, and the proxies among them."""

    __slots__ = ("_failures", "_tests", "proxies")

    def __init__(self) -> None:
        self.proxies: dict[Station, float] = {}  # since when
        self._tests: dict[Station, _Test] = {}  # under way
        # When the latest test began, and how many failed before it.
        self._failures: dict[Station, tuple[float, int]] = {}

    def is_proxy(self, station: Station, now: float) -> bool:
        """Return whether a station is known to answer for everything."""
        return now - self.proxies.get(station, -inf) <= KNOWN_FOR

    def may_start(self, station: Station, now: float) -> bool:
        """Return whether a station may be tested: the latest test is long enough ago."""
        began, failures = self._failures.get(station, (-inf, 0))
        test = self._tests.get(station)
        if test is not None and now <= test.until:  # under way
            return now - began >= UNSENT
        return now - began >= RESTS[min(failures, len(RESTS) - 1)]

    def start(self, station: Station, address: bytes, prefix_length: int, now: float) -> None:
        """Start a test of a station that answered for ``address``."""
        failures = self._failures[station][1] + 1 if station in self._failures else 0
        remember(self._failures, station, (now, failures), MOST_STATIONS)
        needed = CERTAIN << min(max(0, failures - SOON), len(RESTS) - 1 - SOON)
        wait = WAITS[min(failures, 1)]
        test = _Test(address, 8 * len(address) - prefix_length, needed, wait)
        remember(self._tests, station, test, MOST_STATIONS)

    def end(self, ifindex: int) -> None:
        """End the tests on a link, because probes that wait for the token bucket are lost."""
        for station in [each for each in self._tests if each[0] == ifindex]:
            del self._tests[station]

    def draw(
        self, station: Station, ours: Collection[bytes], uniform: Callable[[], float]
    ) -> list[bytes]:
        """Return the addresses to send probes for, in this order.  None is in ``ours``."""
        test = self._tests[station]
        size = len(test.address)
        near_bits = test.bits if test.bits >= LEAST_BITS else NEAR_BITS
        near = drawn(test.address, near_bits, AT_ONCE + 1, {*ours, *test.asked}, uniform)
        if len(near) <= AT_ONCE:  # these are the last
            test.needed = min(test.needed, test.answers + len(near))
        del near[AT_ONCE:]
        test.asked.update(near)
        far: list[bytes] = []
        if not test.answers and test.bits < FAR_BITS[size]:
            far = drawn(test.address, FAR_BITS[size], 1, ours, uniform)
            test.far = far[0] if far else b""
        elif test.bits >= FAR_BITS[size]:
            test.needed = 0  # near ones are as good
        test.missing.update(each for each in near if each != test.far)
        test.unsent, test.until = {*far, *near}, inf
        return far + near

    def probed(self, ifindex: int, address: bytes, now: float) -> None:
        """Note that a probe was sent on a link."""
        for (link, _), test in self._tests.items():
            if link == ifindex and address in test.unsent:
                test.unsent.discard(address)
                test.until = inf if test.unsent else now + test.wait

    def addresses(self, now: float) -> list[bytes]:
        """Return the addresses for which answers are expected."""
        tests = [test for test in self._tests.values() if test.until >= now]
        return [each for test in tests for each in (test.far, *test.missing) if each]

    def answered(self, station: Station, address: bytes, now: float) -> Verdict:
        """Note an answer for an address; return what it shows."""
        test = self._tests.get(station)
        if test is None or now > test.until or address not in (test.far, *test.missing):
            return Verdict.NOTHING
        if address == test.far:
            test.needed, test.far = 0, b""
        else:
            test.missing.discard(address)
            test.answers += 1
        if test.missing:
            return Verdict.NOTHING
        if test.answers < test.needed:
            return Verdict.MORE
        del self._tests[station]
        self._failures.pop(station, None)
        remember(self.proxies, station, now, MOST_STATIONS)
        return Verdict.PROXY


def drawn(
    address: bytes, bits: int, count: int, taken: Container[bytes], uniform: Callable[[], float]
) -> list[bytes]:
    """Return up to ``count`` random addresses that differ from ``address`` in their last bits.

    None is in ``taken``.  Of up to NEAR_BITS bits, each address can be drawn; else a few tries have
    to be enough.
    """
    size, number = 1 << bits, int.from_bytes(address, "big")
    left = list(range(1, size - 1)) if bits <= NEAR_BITS else []  # neither the first nor the last
    found: dict[bytes, None] = {}
    for _ in range(len(left) or count * DRAWN):
        drawn_at = uniform()
        offset = left.pop(int(drawn_at * len(left))) if left else 1 + int(drawn_at * (size - 2))
        each = (number - number % size + offset).to_bytes(len(address), "big")
        if each != address and each not in taken:
            found[each] = None
        if len(found) == count:
            break
    return list(found)
