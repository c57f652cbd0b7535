"""What a claim of another station makes this guest do: check, defend, or test the station.

Does not decide whether an address is withheld (guest.core.conflicts) or which station is a proxy
(guest.core.proxy_tests).  Starts the bursts and probes that follow from what they say.
"""

from __future__ import annotations

from garp_agent.guest.core.model import ALL_NODES_ETHERNET, Cause
from garp_agent.guest.core.proxy_tests import Verdict
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.guest.core.conflicts import Conflicts
    from garp_agent.guest.core.frame_choice import FrameChoice
    from garp_agent.guest.core.model import AddressProbed, ClaimSeen
    from garp_agent.guest.core.planner import Planner
    from garp_agent.guest.core.schedule import Schedule
    from garp_agent.wire.notices import Notices


class ClaimResponse:
    """The parts of the engine that a claim concerns.  ``uniform`` draws from [0, 1)."""

    __slots__ = ("_choice", "_conflicts", "_notices", "_planner", "_schedule", "_uniform")

    def __init__(
        self,
        planner: Planner,
        schedule: Schedule,
        conflicts: Conflicts,
        choice: FrameChoice,
        notices: Notices,
        uniform: Callable[[], float],
    ) -> None:
        self._planner = planner
        self._schedule = schedule
        self._conflicts = conflicts
        self._choice = choice
        self._notices = notices
        self._uniform = uniform

    def seen(self, event: ClaimSeen, now: float) -> bool:
        """Take in one claim; return whether there are other addresses to listen for."""
        ifindex = self._planner.inventory.by_name.get(event.interface, 0)
        plan = self._planner.plans.get(ifindex)
        if (
            plan is None
            or self._planner.inventory.is_own(event.hardware_address)
            or self._conflicts.is_no_rival(ifindex, event.hardware_address, now)
        ):
            return False
        if event.address in plan.targets:
            return self._conflict(ifindex, event, now)
        verdict = self._conflicts.proxy_tests.answered(
            (ifindex, event.hardware_address), event.address, now
        )
        if verdict is Verdict.MORE:
            self._go_on_testing(ifindex, event.hardware_address, now)
        elif verdict is Verdict.PROXY:
            self._conflicts.proxy_found(ifindex, event.hardware_address, now)
            self._notices.say(
                LEVEL_NOTICE,
                "answers-for-everything",
                interface=event.interface,
                hardware_address=event.hardware_address,
                effect="its claims are ignored",
            )
        return verdict is Verdict.MORE

    def probe_seen(self, event: AddressProbed, now: float) -> None:
        """Take in a probe for an address of ours: its station may withhold it, as we do."""
        ifindex = self._planner.inventory.by_name.get(event.interface, 0)
        plan = self._planner.plans.get(ifindex)
        if plan is not None and event.address in plan.targets:
            station, ours = event.hardware_address, plan.link.hardware_address
            self._conflicts.rival_probed(ifindex, event.address, station, ours, now)

    def _conflict(self, ifindex: int, event: ClaimSeen, now: float) -> bool:
        """Answer a claim for an address of ours; return whether a test of the station begins."""
        conflicts, address = self._conflicts, event.address
        is_tested = False
        is_answer = event.answers == self._planner.plans[ifindex].link.hardware_address
        if event.answers == ALL_NODES_ETHERNET:
            is_answer = not self._choice.source(ifindex, address)  # else it was asked from there
        is_news = conflicts.claim(ifindex, address, event.hardware_address, now, is_answer)
        if conflicts.is_withheld(ifindex, address):
            self._schedule.set_frames(ifindex, address, self._choice.count(ifindex, address))
            is_tested = conflicts.wants_test(ifindex, address, now)
            if is_tested:
                self._test_for_proxy(ifindex, address, event.hardware_address, now)
        elif conflicts.may_defend(ifindex, address, now):
            self._schedule.burst(ifindex, Cause.DEFENCE, now, (0.0,), (address,))
        if is_news:
            self._notices.say(
                LEVEL_WARNING,
                "address-conflict",
                interface=event.interface,
                address=event.address,
                claimed_by=event.hardware_address,
                policy=self._planner.settings.conflict.policy.value,
            )
        return is_tested

    def _test_for_proxy(
        self, ifindex: int, address: bytes, hardware_address: bytes, now: float
    ) -> None:
        """Find out whether a station that answers for our address answers for everything."""
        items = self._planner.inventory.addresses(ifindex)
        lengths = [item.prefix_length for item in items if item.address == address]
        prefix_length = max(lengths, default=8 * len(address))  # it may just have gone
        station = ifindex, hardware_address
        self._conflicts.proxy_tests.start(station, address, prefix_length, now)
        self._go_on_testing(ifindex, hardware_address, now)

    def _go_on_testing(self, ifindex: int, hardware_address: bytes, now: float) -> None:
        """Send probes for addresses that no station is likely to have."""
        station, ours = (ifindex, hardware_address), self._planner.plans[ifindex].targets
        unused = self._conflicts.proxy_tests.draw(station, ours, self._uniform)
        for each in reversed(unused):
            self._schedule.send_next(ifindex, each, Cause.PROXY_TEST, now)
