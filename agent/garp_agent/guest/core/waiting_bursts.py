"""The bursts that wait until the plans of their links are made, and how a burst begins.

Remembers one cause for each link.  After START, LINK_UP and RESUME each address begins with a
probe (guest.core.conflicts).  Does not decide what causes a burst.
"""

from __future__ import annotations

from garp_agent.guest.core.conflicts import CHECKED
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.core.conflicts import Conflicts
    from garp_agent.guest.core.frame_choice import FrameChoice
    from garp_agent.guest.core.model import Cause
    from garp_agent.guest.core.planner import Planner
    from garp_agent.guest.core.schedule import Schedule
    from garp_agent.wire.notices import Notices


class WaitingBursts:
    """The cause of the burst of each link that waits for its plan."""

    __slots__ = ("_choice", "_conflicts", "_notices", "_planner", "_schedule", "by_link")

    def __init__(
        self,
        planner: Planner,
        schedule: Schedule,
        conflicts: Conflicts,
        choice: FrameChoice,
        notices: Notices,
    ) -> None:
        self._planner = planner
        self._schedule = schedule
        self._conflicts = conflicts
        self._choice = choice
        self._notices = notices
        self.by_link: dict[int, Cause] = {}

    def above(self, ifindex: int, cause: Cause) -> None:
        """Burst a link, and those that are stacked on it."""
        for each in self._planner.inventory.stacked_on(ifindex):
            self.later(each, cause)

    def everywhere(self, cause: Cause) -> None:
        """Burst all links that are announced."""
        for ifindex in self._planner.announced():
            self.later(ifindex, cause)

    def later(self, ifindex: int, cause: Cause) -> None:
        """Burst a link once its plan is made.  No other cause takes away the check of CHECKED."""
        if self.by_link.get(ifindex) not in CHECKED:
            self.by_link[ifindex] = cause

    def start(self, now: float) -> None:
        """Start them all.  Call this when the plans are made."""
        if not self.by_link:
            return
        waiting, self.by_link = self.by_link, {}
        # As for requested bursts: a flood of causes writes the first one to the log.
        level = LEVEL_INFO if self._schedule.is_idle() else LEVEL_DEBUG
        # A carrier that flaps must not hold up the same links of its NIC each time.
        for ifindex in sorted(waiting, key=self._schedule.last_announced):
            cause = waiting[ifindex]
            if cause in CHECKED:
                self._conflicts.came_up(ifindex, now)
            plan = self._planner.plans.get(ifindex)
            if plan is not None and plan.targets:
                self._burst(ifindex, cause, now)
                self._notices.say(level, "burst", cause=cause.value, interface=plan.link.name)

    def _burst(self, ifindex: int, cause: Cause, now: float) -> None:
        """Burst all addresses of a link; those that are checked first begin with a probe."""
        targets = self._planner.plans[ifindex].targets
        checked = []
        if cause in CHECKED:
            for address, target in targets.items():
                if target.claims and self._conflicts.check_first(ifindex, address, cause, now):
                    count = self._choice.count(ifindex, address)
                    self._schedule.set_frames(ifindex, address, count)
                    checked.append(address)
        if not checked:
            self._schedule.burst(ifindex, cause, now)
            return
        self._schedule.burst(ifindex, cause, now, (0.0,))
        others = [address for address in targets if address not in checked]
        if others:
            self._schedule.burst(ifindex, cause, now, addresses=others)
