"""Which frames an address takes at this moment: those of its plan, or probes, or none.

An address that is withheld gets frames that claim nothing.  An announcement waits for an
unanswered probe while the path may be broken.  Does not decide when an address has its turn, and
builds no bytes.
"""

from __future__ import annotations

from garp_agent.guest.core.conflicts import CHECKED
from garp_agent.guest.core.model import Cause, Kind
from garp_agent.guest.core.policy import probe_kinds
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.guest.core.conflicts import Conflicts
    from garp_agent.guest.core.link_schedule import Due
    from garp_agent.guest.core.model import Announcement
    from garp_agent.guest.core.policy import LinkPlan, Target

BROADCASTS = (Kind.ARP_REQUEST, Kind.ARP_REPLY, Kind.ARP_PROBE, Kind.RARP)
TAUGHT_FOR = 1.0  # seconds after a broadcast in which a RARP frame would tell switches nothing new
# Causes of announcements that wait for an unanswered probe while the path may be broken.  Others
# say that the network or the address has changed: they must not be late.
WAITS = (*CHECKED, Cause.REFRESH)


class FrameChoice:
    """The frames of the planned addresses, and what the switches were taught last."""

    __slots__ = ("_conflicts", "_plans", "_taught")

    def __init__(self, plans: Mapping[int, LinkPlan], conflicts: Conflicts) -> None:
        self._plans = plans
        self._conflicts = conflicts
        # The hardware address that a broadcast of a link last taught the switches, and when.
        self._taught: dict[int, tuple[bytes, float]] = {}

    def kinds(self, ifindex: int, target: Target) -> tuple[Kind, ...]:
        """Return the frames that are sent for an address now."""
        if self._conflicts.is_withheld(ifindex, target.address):
            return probe_kinds(target.address)
        return target.kinds

    def first(self, due: Due, now: float) -> tuple[Kind, ...]:
        """Return the frames for an address whose turn has come.

        As a rule there is no rival, and the frames are those of the plan.
        """
        if self._waits(due) and not self._conflicts.check_again(*due):
            return ()
        kinds = self.now(due)
        if Kind.RARP in kinds and due.address and not self._teaches(due.ifindex, now):
            return tuple(kind for kind in kinds if kind is not Kind.RARP)
        return kinds

    def now(self, due: Due) -> tuple[Kind, ...]:
        """Return the frames for what is due; () if it is no longer to be announced."""
        plan = self._plans.get(due.ifindex)
        if plan is None:
            return ()
        target = plan.targets.get(due.address)
        if target is None:
            return probe_kinds(due.address)[-1:] if due.cause is Cause.PROXY_TEST else ()
        if due.ifindex not in self._conflicts.rivals and due.cause is not Cause.CONFLICT:
            return target.kinds  # the usual case
        kinds = self.kinds(due.ifindex, target)
        if kinds is target.kinds and (due.cause is Cause.CONFLICT or self._waits(due)):
            return probe_kinds(due.address)[-1:]
        return kinds

    def probe(self, plain: Announcement) -> Announcement:
        """Return a probe in the form in which its answer says most."""
        ifindex, address = plain.ifindex, plain.address
        is_check = plain.cause is Cause.CONFLICT
        asked = self._conflicts.asked(ifindex, address, is_check)
        source = self.source(ifindex, address)
        kind = Kind.SOLICITATION if source else plain.kind
        return plain._replace(kind=kind, asked=asked, source=source)

    def source(self, ifindex: int, address: bytes) -> bytes:
        """Return an IPv6 address that can ask for another one; b"" if there is none.

        The question claims the address that asks, if only at the station that answers.
        """
        if len(address) == 4:
            return b""
        others = [each for each in self._plans[ifindex].sources if each != address]
        for each in others:
            if not self._conflicts.is_withheld(ifindex, each):
                return each
        for each in others:
            if self._conflicts.is_only_claimed(ifindex, each):
                return each
        return b""

    def count(self, ifindex: int, address: bytes) -> int:
        """Return the number of these frames."""
        return len(self.kinds(ifindex, self._plans[ifindex].targets[address]))

    def note_sent(self, announcement: Announcement, now: float) -> None:
        """Note that a frame has left: a broadcast teaches the switches."""
        if announcement.kind in BROADCASTS and not announcement.asked:
            self._taught[announcement.ifindex] = announcement.hardware_address, now

    def forget(self, ifindex: int) -> None:
        """Forget what the switches were taught of a link."""
        self._taught.pop(ifindex, None)

    def _teaches(self, ifindex: int, now: float) -> bool:
        """Return whether a broadcast from a link would tell the switches something new.

        Each IPv6 address that is checked asks for one, and all of them would be the same.
        """
        hardware_address, taught = self._taught.get(ifindex, (b"", -inf))
        is_same = hardware_address == self._plans[ifindex].link.hardware_address
        return not is_same or now - taught >= TAUGHT_FOR

    def _waits(self, due: Due) -> bool:
        """Return whether an announcement waits until a probe was not answered."""
        return (
            due.ifindex in self._conflicts.rivals
            and due.cause in WAITS
            and self._conflicts.is_unsure(due.ifindex, due.address)
        )
