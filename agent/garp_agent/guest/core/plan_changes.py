"""What follows from a change of the plans: schedule, conflicts and counters take it in.

Compares the plan of a link before with the plan after.  A link or an address that is new begins a
burst; one that went is forgotten.  Does not make the plans (guest.core.planner), and does not
decide how a burst begins (guest.core.waiting_bursts).
"""

from __future__ import annotations

from garp_agent.guest.core.model import Cause
from garp_agent.guest.core.policy import Skip
from garp_agent.wire.model import LEVEL_INFO, LEVEL_NOTICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.core.conflicts import Conflicts
    from garp_agent.guest.core.counters import Counters
    from garp_agent.guest.core.frame_choice import FrameChoice
    from garp_agent.guest.core.planner import Planner
    from garp_agent.guest.core.policy import LinkPlan
    from garp_agent.guest.core.schedule import Schedule
    from garp_agent.guest.core.waiting_bursts import WaitingBursts
    from garp_agent.wire.notices import Notices


class PlanChanges:
    """Hands each change of a plan to the parts that depend on it.

    ``occasion``: the cause of the first burst.
    """

    __slots__ = (
        "_bursts",
        "_choice",
        "_conflicts",
        "_counters",
        "_is_news",
        "_notices",
        "_planner",
        "_schedule",
        "_topology",
        "occasion",
    )

    def __init__(
        self,
        planner: Planner,
        schedule: Schedule,
        conflicts: Conflicts,
        choice: FrameChoice,
        counters: Counters,
        bursts: WaitingBursts,
        notices: Notices,
        occasion: Cause,
    ) -> None:
        self._planner = planner
        self._schedule = schedule
        self._conflicts = conflicts
        self._choice = choice
        self._counters = counters
        self._bursts = bursts
        self._notices = notices
        # Why links are announced that were not before; None: because of a kernel event.
        self.occasion: Cause | None = occasion
        self._is_news = False  # there are other addresses to announce
        self._topology = 0  # of the inventory, when the links were grouped by NIC

    def take_in(self, now: float) -> bool:
        """Make the plans of the changed links anew, then start the bursts that wait for them.

        Return whether there are other addresses to announce.  Not during the first dump: half of
        it would look like an address that was added.
        """
        inventory = self._planner.inventory
        if not inventory.complete:
            return False
        self._is_news = False
        if self._topology != inventory.topology:
            self._schedule.group(inventory.nics(), now)
            self._topology = inventory.topology
        replanned = self._planner.replan(now)
        for ifindex, _, after in replanned:  # first: an address may have moved to another link
            self._conflicts.keep(ifindex, after.targets if after is not None else (), now)
        for ifindex, before, after in replanned:
            if after is not None and after.targets:
                self._announce(before, after, now)
            else:
                self._withdraw(ifindex, before, after, now)
        self._bursts.start(now)
        if self.occasion is not None:  # other settings are in force
            for key, selector, why in self._planner.unmatched():
                if key != "addresses.exclude":  # a standby node has a virtual address now and then
                    self._notices.say(
                        LEVEL_NOTICE, "selector-unmatched", key=key, selector=selector, reason=why
                    )
        self.occasion = None
        return self._is_news

    def take_in_all(self, now: float) -> None:
        """Make all plans anew, and forget what has no plan: changes were taken in partly."""
        self._planner.rebuild()
        self.take_in(now)
        for ifindex in self._schedule.keep(self._planner.announced(), now):
            self._conflicts.keep(ifindex, (), now)
            self._counters.keep(ifindex, ())

    def _withdraw(
        self, ifindex: int, before: LinkPlan | None, after: LinkPlan | None, now: float
    ) -> None:
        if before is not None and before.targets:
            self._schedule.set_addresses(ifindex, {}, now)
            self._counters.keep(ifindex, ())
            self._is_news = True
            why = "no address to announce"
            if after is None or after.skip is not None:
                why = after.skip.value if after is not None and after.skip else "gone"
            else:
                self._say_withdrawn(before, after)
            name = before.link.name
            self._notices.say(LEVEL_INFO, "link-withdrawn", interface=name, reason=why)
            self._choice.forget(ifindex)  # the switches may forget it while the link is down
        if after is None:
            self._schedule.remove(ifindex, now)
        elif before is None and after.skip is None:  # a new link, whose addresses come later
            self._conflicts.came_up(ifindex, now)

    def _say_withdrawn(self, before: LinkPlan, after: LinkPlan) -> None:
        """Log the addresses that are not announced any more, and why."""
        reasons = {item.address: reason.value for item, reason in after.skipped}
        for address in before.targets:
            if address and address not in after.targets:
                self._notices.say(
                    LEVEL_INFO,
                    "address-withdrawn",
                    interface=after.link.name,
                    address=address,
                    reason=reasons.get(address, "removed"),
                )

    def _announce(self, before: LinkPlan | None, after: LinkPlan, now: float) -> None:
        ifindex = after.link.ifindex
        known = before.targets if before is not None else {}
        if known != after.targets:
            self._is_news = True
        for address, target in after.targets.items():
            if address not in known or (target.claims and not known[address].claims):
                self._conflicts.appear(ifindex, address, now, target.claims)
        targets = list(after.targets.values())
        if not known:  # a carrier that flaps must not hold up the same addresses each time
            targets.sort(key=lambda each: self._conflicts.last_announced(ifindex, each.address))
        frames = {each.address: len(self._choice.kinds(ifindex, each)) for each in targets}
        self._schedule.set_addresses(ifindex, frames, now)
        self._counters.keep(ifindex, after.targets)
        if before is None or not known:
            was_up = before is not None and before.skip in (None, Skip.VIRTUAL_ROUTER)
            usual = Cause.ADDRESS_ADDED if was_up else Cause.LINK_UP
            self._bursts.by_link.setdefault(ifindex, self.occasion or usual)
        elif before.link.hardware_address != after.link.hardware_address:
            self._bursts.later(ifindex, Cause.HARDWARE_ADDRESS_CHANGED)
            self._notices.say(
                LEVEL_INFO,
                "hardware-address-changed",
                interface=after.link.name,
                hardware_address=after.link.hardware_address,
                before=before.link.hardware_address,
            )
        else:
            # New, no longer optimistic, a router now, ...
            fresh = [
                address for address, target in after.targets.items() if target != known.get(address)
            ]
            if fresh:
                self._schedule.burst(ifindex, Cause.ADDRESS_ADDED, now, addresses=fresh)
        if before is not None:
            self._say_withdrawn(before, after)
        for address in after.targets:
            if address not in known:
                self._notices.say(
                    LEVEL_INFO,
                    "address-announced",
                    interface=after.link.name,
                    address=address or None,
                    hardware_address=after.link.hardware_address,
                )
