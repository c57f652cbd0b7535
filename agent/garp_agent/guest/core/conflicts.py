"""Conflicts: other stations that claim our addresses, and the policy: yield, warn or defend.

Decides whether an address is withheld and when it may be defended.  Does not build or send
frames, and does not see probes: a probe only asks, and the kernel answers it.

A withheld address is not announced until a hold-off after the last claim.  Frames that claim
nothing (ARP probe, RARP) still announce the hardware address, so that a false claim cannot make
the switches forget this guest.

Sources: RFC 5227 section 2.4 (ARP), RFC 4861 section 4.4 (neighbour advertisement).
"""

from __future__ import annotations

from math import inf

from garp_agent.config.settings import ConflictPolicy
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from garp_agent.config.settings import Conflict

DEFEND_INTERVAL = 10.0  # seconds, RFC 5227 section 1.1
NEWS_INTERVAL = 10.0  # seconds; at most one new rival per address is logged in this time


class Rival(NamedTuple):
    """Another station that claims an address of ours."""

    hardware_address: bytes  # of the latest claim
    claims: int  # number of claims since the address is ours
    last_claim: float  # seconds, monotonic
    last_defence: float  # seconds, monotonic; -inf: never
    withheld: bool  # the address is not announced, because of the rival
    last_news: float = -inf  # when a rival for the address was last logged, seconds, monotonic


class Conflicts:
    """The rivals for the addresses that are announced."""

    __slots__ = ("_deadline", "_settings", "claims", "rivals")

    def __init__(self, settings: Conflict) -> None:
        self._settings = settings
        self.claims = 0  # since the start
        self.rivals: dict[tuple[int, bytes], Rival] = {}  # by ifindex and address
        self._deadline: float | None = inf  # None: deadline() must compute it again

    def configure(self, settings: Conflict) -> None:
        """Use other settings.

        If the policy is no longer YIELD, withheld addresses are released at once.  If it becomes
        YIELD, addresses are withheld from the next claim on.
        """
        self._settings = settings
        self._deadline = None
        yields = settings.policy is ConflictPolicy.YIELD
        for key, rival in self.rivals.items():
            self.rivals[key] = rival._replace(withheld=rival.withheld and yields)

    def claim(self, ifindex: int, address: bytes, hardware_address: bytes, now: float) -> bool:
        """Record a claim; return whether it is worth a line in the log.

        It is if the conflict is new, or over by the hold-off, or under another policy, or if the
        rival is another one.  The last at most every NEWS_INTERVAL, because MACs are free to forge.
        """
        key = (ifindex, address)
        before = self.rivals.get(key, Rival(b"", 0, -inf, -inf, False))
        self.claims += 1
        yields = self._settings.policy is ConflictPolicy.YIELD
        is_another = before.hardware_address != hardware_address
        is_news = (
            now - before.last_claim > self._settings.hold_off
            or before.withheld != yields
            or (is_another and now - before.last_news > NEWS_INTERVAL)
        )
        self.rivals[key] = Rival(
            hardware_address,
            before.claims + 1,
            now,
            before.last_defence,
            yields,
            now if is_news else before.last_news,
        )
        self._deadline = None
        return is_news

    def may_defend(self, ifindex: int, address: bytes, now: float) -> bool:
        """Return whether to answer a claim with an announcement, and record that it is answered.

        At most one answer every DEFEND_INTERVAL, so that two defenders do not flood the network.
        """
        key = (ifindex, address)
        rival = self.rivals[key]
        if self._settings.policy is not ConflictPolicy.DEFEND:
            return False
        if now < rival.last_defence + DEFEND_INTERVAL:
            return False
        self.rivals[key] = rival._replace(last_defence=now)
        return True

    def is_withheld(self, ifindex: int, address: bytes) -> bool:
        """Return whether the address must not be announced now."""
        rival = self.rivals.get((ifindex, address))
        return rival is not None and rival.withheld

    def deadline(self) -> float:
        """Return when to call :meth:`expire` at the latest; ``math.inf`` for never."""
        if self._deadline is None:
            ends = [self._ends(each) for each in self.rivals.values() if each.withheld]
            self._deadline = min(ends, default=inf)
        return self._deadline

    def expire(self, now: float) -> list[tuple[int, bytes]]:
        """End the hold-offs that are over; return their ifindexes and addresses."""
        over = [
            key for key, rival in self.rivals.items() if rival.withheld and self._ends(rival) <= now
        ]
        for key in over:
            self.rivals[key] = self.rivals[key]._replace(withheld=False)
        self._deadline = None
        return over

    def keep(self, ifindex: int, addresses: Container[bytes]) -> None:
        """Forget the rivals for the addresses of a link that are not among ``addresses``."""
        for key in [k for k in self.rivals if k[0] == ifindex and k[1] not in addresses]:
            del self.rivals[key]
            self._deadline = None

    def _ends(self, rival: Rival) -> float:
        return rival.last_claim + self._settings.hold_off
