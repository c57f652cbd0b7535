"""What is known of one address that another station claims, or that is checked first.

Holds the state of its check.  Does not decide when a check starts or what its end changes:
guest.core.conflicts does.

Source: RFC 5227 section 1.1 (number of probes).
"""

from __future__ import annotations

from garp_agent.guest.core.model import Cause
from garp_agent.wire.record import NamedTuple, inf

PROBES = 3  # unanswered ones after which no other station has the address, RFC 5227 section 1.1
MOST_ASKED = 3  # stations that are asked alone after another one


class Rival:
    """Another station that claims an address of ours, or the first check of the address."""

    __slots__ = (
        "answerer",
        "asked",
        "asked_at",
        "claimants",
        "claims",
        "hardware_address",
        "is_ambiguous",
        "is_asked",
        "is_awaited",
        "is_checked",
        "is_fresh",
        "is_logged",
        "last_announced",
        "last_answer",
        "last_claim",
        "last_defence",
        "last_news",
        "last_proof",
        "last_unprompted",
        "listened",
        "present_since",
        "probed_at",
        "probes",
        "proven",
        "release_cause",
        "rest_until",
        "step_at",
        "to_ask",
        "unsure_until",
        "wanted",
        "withheld",
    )

    def __init__(self) -> None:
        self.hardware_address = b""  # of the latest claim; b"": none yet
        self.answerer = b""  # the hardware address of the latest answer
        self.asked = b""  # the only station that the probes ask; b"": all
        self.to_ask: tuple[bytes, ...] = ()  # stations that are asked after it; b"": all
        self.proven = b""  # the latest station that answered a probe for it alone; b"": none yet
        self.asked_at = -inf  # when a probe for one station alone was last hurried
        self.claimants = 0  # hardware addresses that joined since the check began
        self.claims = 0
        self.last_claim = self.last_answer = self.last_defence = self.last_news = -inf
        self.last_announced = -inf
        self.last_unprompted = -inf  # the latest claim that cannot be the echo of an announcement
        # The latest frame that the station itself must have sent: no cache answered for it.
        self.last_proof = -inf
        self.present_since = inf  # the first answer
        self.is_asked = False  # a probe followed a claim of this hardware address
        self.is_checked = False  # probes are sent, and answers are awaited
        self.is_ambiguous = False  # in this check, an answer came that may be an echo
        self.is_awaited = False  # an announcement waits for the end of the check
        self.is_fresh = False  # a check was not answered, and no announcement followed yet
        self.is_logged = False  # the conflict is in the log, its end not yet
        self.withheld = False
        self.listened = 0.0  # seconds without an answer, in checks that this one goes on from
        self.probed_at = -inf  # the first probe of the check
        self.probes = 0  # sent since the latest answer
        self.wanted = PROBES  # so many without an answer end the check
        self.release_cause = Cause.ADDRESS_ADDED  # of the burst when the address is released
        self.rest_until = -inf  # no claim starts a check before
        self.step_at = inf  # when to look at it again; inf: not before the next claim
        self.unsure_until = -inf  # a check that ends before may not have reached the network

    def ask_too(self, hardware_address: bytes) -> bool:
        """Let a station be asked alone later; False: there are MOST_ASKED others."""
        if hardware_address not in self.to_ask and len(self.to_ask) < MOST_ASKED:
            self.to_ask += (hardware_address,)
        return hardware_address in self.to_ask

    def unanswered(self, now: float, most: float, goes_on: float) -> float:
        """Return for how many seconds no station has answered, for a check that goes on.

        ``most``: of the check under way.  0 if it began with a claim, or more than ``goes_on``
        seconds ago: this guest was stopped.
        """
        since = now - self.probed_at if self.probes else 0.0
        if self.wanted > 1 or not self.withheld or since > goes_on:
            return 0.0
        return self.listened + min(since, most)

    def check(self, wanted: int, cause: Cause, withheld: bool = True) -> None:
        """Check the address until ``wanted`` probes remain without an answer."""
        self.is_checked = True
        self.is_ambiguous = False
        self.asked, self.to_ask = b"", ()
        self.withheld = withheld
        self.claimants = 0
        self.listened = 0.0
        self.probes = 0
        self.wanted = wanted
        self.release_cause = cause


class Step(NamedTuple):
    """What is to be done about one address."""

    ifindex: int
    address: bytes
    released: Cause | None  # None: send a probe; else announce the address, for this cause
    was_withheld: bool = False
    is_news: bool = False  # the conflict that is over was logged


def is_no_station(hardware_address: bytes, ignored: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Return whether a hardware address belongs to no station, or to one that is ignored.

    Group (broadcast, multicast) and zero addresses belong to none.  ``ignored``: bits of a
    hardware address, and a mask of those that count.
    """
    return (
        bool(hardware_address[0] & 1)
        or not any(hardware_address)
        or any(
            all(a & m == b for a, b, m in zip(hardware_address, bits, mask))
            for bits, mask in ignored
        )
    )
