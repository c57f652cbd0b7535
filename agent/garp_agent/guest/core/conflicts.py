"""Who else claims our addresses, and what we do about it: yield, warn or defend.

Decides whether an address is withheld, and when it may be defended; never builds or
sends a frame.  Only what others announce by themselves counts (RFC 5227 section 2.4,
RFC 4861 section 4.4): a probe merely asks, and the kernel answers it.

Yielding means that we stop saying "this address is here" for a hold-off after the last
claim, but go on saying "this hardware address is here" (ARP probe form, RARP), which
claims nothing: a liar on the network can't make the switches lose us.
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
NEWS_INTERVAL = 10.0  # seconds between two rivals for one address of which the log tells


class Rival(NamedTuple):
    """Another station that claims an address of ours."""

    hardware_address: bytes  # of the latest claim
    claims: int  # since we own the address
    last_claim: float  # seconds, monotonic
    last_defence: float  # seconds, monotonic; -inf: never
    withheld: bool  # we yield to it now
    last_news: float = -inf  # seconds, monotonic; when an operator was last told


class Conflicts:
    """All claims to addresses that we announce."""

    __slots__ = ("_deadline", "_settings", "claims", "rivals")

    def __init__(self, settings: Conflict) -> None:
        self._settings = settings
        self.claims = 0  # since the start
        self.rivals: dict[tuple[int, bytes], Rival] = {}  # by ifindex and address
        self._deadline: float | None = inf  # None: to be found anew

    def configure(self, settings: Conflict) -> None:
        """Put other settings into force; to yield no more, or on again with the next claim."""
        self._settings = settings
        self._deadline = None
        yields = settings.policy is ConflictPolicy.YIELD
        for key, rival in self.rivals.items():
            self.rivals[key] = rival._replace(withheld=rival.withheld and yields)

    def claim(self, ifindex: int, address: bytes, hardware_address: bytes, now: float) -> bool:
        """Note a claim; whether it is news: a new rival, or one that was over.

        Of rivals that take turns only one is news in a while: anybody can invent more of them.
        """
        key = (ifindex, address)
        before = self.rivals.get(key, Rival(b"", 0, -inf, -inf, False))
        self.claims += 1
        yields = self._settings.policy is ConflictPolicy.YIELD
        another = before.hardware_address != hardware_address
        news = (
            now - before.last_claim > self._settings.hold_off
            or before.withheld != yields
            or (another and now - before.last_news > NEWS_INTERVAL)
        )
        self.rivals[key] = Rival(
            hardware_address,
            before.claims + 1,
            now,
            before.last_defence,
            yields,
            now if news else before.last_news,
        )
        self._deadline = None
        return news

    def may_defend(self, ifindex: int, address: bytes, now: float) -> bool:
        """Whether to answer a claim with an announcement of our own; noted as done."""
        key = (ifindex, address)
        rival = self.rivals[key]
        if self._settings.policy is not ConflictPolicy.DEFEND:
            return False
        if now < rival.last_defence + DEFEND_INTERVAL:
            return False
        self.rivals[key] = rival._replace(last_defence=now)
        return True

    def is_withheld(self, ifindex: int, address: bytes) -> bool:
        """Whether we yield the address now."""
        rival = self.rivals.get((ifindex, address))
        return rival is not None and rival.withheld

    def deadline(self) -> float:
        """When to call :meth:`expire` at the latest."""
        if self._deadline is None:
            ends = [self._ends(each) for each in self.rivals.values() if each.withheld]
            self._deadline = min(ends, default=inf)
        return self._deadline

    def expire(self, now: float) -> list[tuple[int, bytes]]:
        """End the hold-offs that are over; the links and addresses they were for."""
        if now < self.deadline():  # asked before every frame
            return []
        over = [
            key for key, rival in self.rivals.items() if rival.withheld and self._ends(rival) <= now
        ]
        for key in over:
            self.rivals[key] = self.rivals[key]._replace(withheld=False)
        self._deadline = None
        return over

    def keep(self, ifindex: int, addresses: Container[bytes]) -> None:
        """Forget the rivals for the link's other addresses."""
        for key in [k for k in self.rivals if k[0] == ifindex and k[1] not in addresses]:
            del self.rivals[key]
            self._deadline = None

    def _ends(self, rival: Rival) -> float:
        return rival.last_claim + self._settings.hold_off
