"""Events in, frames to announce out: composes the parts of the core, without a clock.

Composes planner, schedule, conflicts, lease and counters.  The caller hands over all that
happens (:meth:`Engine.handle`), asks for one frame after another (:meth:`Engine.next_frame`)
and comes back at :meth:`Engine.deadline` at the latest.  Does not open, send or read anything.

Causes come from differences: when a link has changed, the engine compares what policy says of it
now with what policy said before.  A carrier that comes back and NOTIFY_PEERS also concern the
links that are stacked on the link they happened to, because the addresses are there.

A burst of START, LINK_UP or RESUME begins with frames that claim nothing.  They teach the switches
at once.  Announcements follow where no station answers (guest.core.conflicts).  For a minute, the
refreshes begin so, too: the path may carry frames later than its carrier comes.
"""

from __future__ import annotations

from math import inf

from garp_agent.guest.core.conflicts import CHECKED, Conflicts
from garp_agent.guest.core.counters import Counters
from garp_agent.guest.core.lease import GuestLease
from garp_agent.guest.core.model import (
    Announcement,
    BurstRequested,
    Cause,
    ClaimSeen,
    HintPortClosed,
    Kind,
    LeaseGranted,
    LinkSeen,
    Resumed,
    SendOutcome,
    Sent,
)
from garp_agent.guest.core.planner import Planner
from garp_agent.guest.core.policy import Skip, probe_kinds
from garp_agent.guest.core.proxy_tests import Verdict
from garp_agent.guest.core.schedule import Schedule
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    DumpStarted,
    Errno,
)
from garp_agent.wire.notices import Notices, Repetition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garp_agent.config.settings import Settings
    from garp_agent.guest.core.link_schedule import Due
    from garp_agent.guest.core.model import EngineEvent, KernelEvent
    from garp_agent.guest.core.policy import LinkPlan, Target
    from garp_agent.guest.core.shared_addresses import Route

LATE = 1.0  # seconds; a turn that is less late does not count as a resume
PROBE_KINDS = (Kind.ARP_PROBE, Kind.DAD_PROBE)  # a station that has the address answers them
BROADCASTS = (Kind.ARP_REQUEST, Kind.ARP_REPLY, Kind.ARP_PROBE, Kind.RARP)
TAUGHT_FOR = 1.0  # seconds after a broadcast in which a RARP frame would tell switches nothing new
# Causes of announcements that wait for an unanswered probe while the path may be broken.  Others
# say that the network or the address has changed: they must not be late.
WAITS = (*CHECKED, Cause.REFRESH)


class Engine:
    """The decisions of one agent.

    ``uniform`` draws from [0, 1).  ``level``: the least urgent notices to keep, a LEVEL_*.
    ``route``: by which link the guest reaches an address (guest.core.shared_addresses).
    ``occasion``: the cause of the first burst.
    """

    def __init__(
        self,
        settings: Settings,
        uniform: Callable[[], float],
        level: int = LEVEL_INFO,
        route: Route = lambda destination, vrf: 0,
        occasion: Cause = Cause.START,
    ) -> None:
        self.settings = settings
        self._uniform = uniform
        self.notices = Notices(level)
        self.planner = Planner(settings, route)
        self.inventory = self.planner.inventory
        self.plans = self.planner.plans
        self.schedule = Schedule(settings, uniform)
        self.counters = Counters()
        self.conflicts = Conflicts(settings.conflict)
        self.lease = GuestLease()
        self._lease_notices = Repetition()
        self.revision = 0  # goes up whenever what is announced, or is listened for, changes
        self.overruns = 0
        self.resumes = 0
        self._bursts: dict[int, Cause] = {}  # links that will burst once their plans are made
        # The hardware address that a broadcast of a link last taught the switches, and when.
        self._taught: dict[int, tuple[bytes, float]] = {}
        self._frames: list[tuple[Due, Kind]] = []  # the address that was begun; an ARP reply, say
        self._awake_since = -inf  # the latest resume; lateness before it does not count again
        # Why links are announced that were not before; None: because of a kernel event.
        self._occasion: Cause | None = occasion
        self._topology = 0  # of the inventory, when the links were grouped by NIC

    # -- what happens -----------------------------------------------------------------

    def handle(self, event: EngineEvent, now: float) -> None:
        """Take in one event.  What follows from it comes out of :meth:`next_frame`."""
        if isinstance(event, Sent):
            self._sent(event, now)
        elif isinstance(event, BurstRequested):
            self._burst_requested(event, now)
        elif isinstance(event, LeaseGranted):
            self._lease_granted(event, now)
        elif isinstance(event, HintPortClosed):
            self._end_lease("the hint port is closed", now, burst=False)
        elif isinstance(event, Resumed):
            self._resumed(event, now)
        elif isinstance(event, ClaimSeen):
            self._claim_seen(event, now)
        else:
            self._kernel_event(event, now)

    def reconfigure(self, settings: Settings, now: float) -> None:
        """Use other settings.  Links that are announced for the first time under them burst."""
        self.settings = settings
        self.conflicts.configure(settings.conflict, now)
        self._occasion = Cause.OPERATOR
        self.planner.configure(settings)
        self._set_interval(now)

    # -- what is to be sent -------------------------------------------------------------

    def next_frame(self, now: float) -> Announcement | None:
        """Build the next frame that is to be sent now, from what is true at this moment.

        Return None if there is none, and before the first complete dump.  The caller sends the
        frame, hands over the outcome and what else happened, and asks again until it gets None.
        """
        if not self.inventory.complete:
            return None
        if now - self.schedule.deadline() > LATE or self.lease.until <= now:
            self._expire(now)
        if self._bursts or self.planner.deadline() <= now:
            self._make_plans(now)
        if self.conflicts.rivals and self.conflicts.deadline() <= now:
            self._take_steps(now)
        while True:
            if self._frames:
                due, kind = self._frames.pop(0)
                # An address of two frames can go, or change its form, between the two.
                if kind not in self._kinds(due):
                    continue
            else:
                next_due = self.schedule.next_due(now)
                if next_due is None:
                    return None
                due, kinds = next_due, self._first_kinds(next_due, now)
                if not kinds:
                    continue  # nothing is to be sent for that address any more
                kind = kinds[0]
                self._frames = [(due, each) for each in kinds[1:]]
            plan = self.plans[due.ifindex]
            target = plan.targets.get(due.address)
            return Announcement(
                due.ifindex,
                kind,
                plan.link.hardware_address,
                due.address,
                due.cause,
                target is not None and target.router,
                target is None or target.override,
            )

    def kinds(self, ifindex: int, target: Target) -> tuple[Kind, ...]:
        """Return the frames that are sent for an address now."""
        if self.conflicts.is_withheld(ifindex, target.address):
            return probe_kinds(target.address)
        return target.kinds

    def deadline(self) -> float:
        """Return when to call :meth:`next_frame` at the latest; ``math.inf``: after an event."""
        if not self.inventory.complete:
            return inf
        if self._bursts or self._frames:
            return -inf
        deadline = min(self.schedule.deadline(), self.lease.until, self.planner.deadline())
        return min(deadline, self.conflicts.deadline()) if self.conflicts.rivals else deadline

    def _first_kinds(self, due: Due, now: float) -> tuple[Kind, ...]:
        """Return the frames for an address whose turn has come.

        As a rule there is no rival, and the frames are those of the plan.
        """
        if self._waits(due) and not self.conflicts.check_again(*due):
            return ()
        kinds = self._kinds(due)
        if Kind.RARP in kinds and due.address and not self._teaches(due.ifindex, now):
            return tuple(kind for kind in kinds if kind is not Kind.RARP)
        return kinds

    def _teaches(self, ifindex: int, now: float) -> bool:
        """Return whether a broadcast from a link would tell the switches something new.

        Each IPv6 address that is checked asks for one, and all of them would be the same.
        """
        hardware_address, taught = self._taught.get(ifindex, (b"", -inf))
        is_same = hardware_address == self.plans[ifindex].link.hardware_address
        return not is_same or now - taught >= TAUGHT_FOR

    def _waits(self, due: Due) -> bool:
        """Return whether an announcement waits until a probe was not answered."""
        return (
            due.ifindex in self.conflicts.rivals
            and due.cause in WAITS
            and self.conflicts.is_unsure(due.ifindex, due.address)
        )

    def _kinds(self, due: Due) -> tuple[Kind, ...]:
        """Return the frames for what is due; () if it is no longer to be announced."""
        plan = self.plans.get(due.ifindex)
        if plan is None:
            return ()
        target = plan.targets.get(due.address)
        if target is None:
            return probe_kinds(due.address)[-1:] if due.cause is Cause.PROXY_TEST else ()
        if due.ifindex not in self.conflicts.rivals and due.cause is not Cause.CONFLICT:
            return target.kinds  # the usual case
        kinds = self.kinds(due.ifindex, target)
        if kinds is target.kinds and (due.cause is Cause.CONFLICT or self._waits(due)):
            return probe_kinds(due.address)[-1:]
        return kinds

    def _expire(self, now: float) -> None:
        """End the lease that is over; notice that this process was stopped."""
        if self.lease.until <= now:
            self._end_lease("ran out", now)
        late = now - self.schedule.deadline()
        if late > LATE:
            late = min(late, now - self._awake_since)
            if late > max(LATE, self.schedule.interval):
                self._resumed(Resumed(late), now)

    def _take_steps(self, now: float) -> None:
        """Send the probes of conflicts, and announce what is no longer withheld."""
        for ifindex, address, released, was_withheld, is_news in self.conflicts.steps(now):
            if released is None:
                self.schedule.send_once(ifindex, address, Cause.CONFLICT, now)
                continue
            self._set_frames(ifindex, address)
            if was_withheld:
                self.schedule.burst(ifindex, released, now, addresses=(address,))
            if released in WAITS:  # do not wait for the probes of all other addresses
                self.schedule.send_next(ifindex, address, released, now)
            if is_news:
                name = self._name(ifindex)
                self.notices.say(
                    LEVEL_NOTICE, "address-conflict-over", interface=name, address=address
                )

    def _set_frames(self, ifindex: int, address: bytes) -> None:
        """Tell the schedule how many frames an address takes now."""
        kinds = self.kinds(ifindex, self.plans[ifindex].targets[address])
        self.schedule.set_frames(ifindex, address, len(kinds))

    # -- events -------------------------------------------------------------------------

    def _kernel_event(self, event: KernelEvent, now: float) -> None:
        if isinstance(event, LinkSeen):
            self._link_seen(event, now)
            return
        if isinstance(event, DumpStarted) and event.overrun:
            self.overruns += 1
            self.notices.say(LEVEL_WARNING, "netlink-overrun", action="reading everything anew")
        self.planner.apply(event)

    def _link_seen(self, event: LinkSeen, now: float) -> None:
        ifindex = event.link.ifindex
        before = self.inventory.links.get(ifindex)
        self.planner.apply(event)
        if event.notify_peers:
            # The machine may run on another host now, which promised nothing.
            self._end_lease("the machine may have moved", now)
            self._burst_above(ifindex, Cause.NOTIFY_PEERS)
        if before is not None and event.link.has_carrier and not before.has_carrier:
            self._burst_above(ifindex, Cause.LINK_UP)

    def _burst_requested(self, event: BurstRequested, now: float) -> None:
        self._make_plans(now)
        if event.ends_lease:
            self._end_lease("a hint came", now, burst=False)  # the hint itself is the burst
        # A flood of hints writes one line to the log: the first, until nothing is under way.
        level = LEVEL_INFO if self.schedule.is_idle() else LEVEL_DEBUG
        for ifindex in self._announced():
            self.schedule.burst(ifindex, event.cause, now, event.offsets)
        self.notices.say(level, "burst", cause=event.cause.value, reason=event.reason or None)

    def _lease_granted(self, event: LeaseGranted, now: float) -> None:
        if event.seconds <= 0:
            # Nothing happened to the network, and all guests of a host hear it at once: no burst.
            self._end_lease("taken back", now, burst=False)
        elif self.lease.grant(event.seconds, now):
            self._say_of_lease(LEVEL_INFO, "lease-granted", now, seconds=event.seconds)
            # All guests of a host get it at once.  Each draws a phase of its own, as at the start.
            self._set_interval(now)

    def _resumed(self, event: Resumed, now: float) -> None:
        self.resumes += 1
        self._awake_since = now
        self.notices.say(LEVEL_NOTICE, "resumed", seconds=round(event.seconds, 3))
        self._end_lease("resumed", now)
        self._burst_everywhere(Cause.RESUME)
        self.schedule.rephase(now)

    def _claim_seen(self, event: ClaimSeen, now: float) -> None:
        ifindex = self.inventory.by_name.get(event.interface, 0)
        plan = self.plans.get(ifindex)
        if (
            plan is None
            or self.inventory.is_own(event.hardware_address)
            or self.conflicts.is_no_rival(ifindex, event.hardware_address, now)
        ):
            return
        if event.address in plan.targets:
            self._conflict(ifindex, event, now)
            return
        verdict = self.conflicts.proxy_tests.answered(
            (ifindex, event.hardware_address), event.address, now
        )
        if verdict is Verdict.MORE:
            self._go_on_testing(ifindex, event.hardware_address, now)
        elif verdict is Verdict.PROXY:
            self.conflicts.proxy_found(ifindex, event.hardware_address, now)
            self.notices.say(
                LEVEL_NOTICE,
                "answers-for-everything",
                interface=event.interface,
                hardware_address=event.hardware_address,
                effect="its claims are ignored",
            )

    def _conflict(self, ifindex: int, event: ClaimSeen, now: float) -> None:
        conflicts, address = self.conflicts, event.address
        is_news = conflicts.claim(ifindex, address, event.hardware_address, now, event.answer)
        if conflicts.is_withheld(ifindex, address):
            self._set_frames(ifindex, address)
            if conflicts.wants_test(ifindex, address, now):
                self._test_for_proxy(ifindex, address, event.hardware_address, now)
        elif conflicts.may_defend(ifindex, address, now):
            self.schedule.burst(ifindex, Cause.DEFENCE, now, (0.0,), (address,))
        if is_news:
            self.notices.say(
                LEVEL_WARNING,
                "address-conflict",
                interface=event.interface,
                address=event.address,
                claimed_by=event.hardware_address,
                policy=self.settings.conflict.policy.value,
            )

    def _test_for_proxy(
        self, ifindex: int, address: bytes, hardware_address: bytes, now: float
    ) -> None:
        """Find out whether a station that answers for our address answers for everything."""
        items = self.inventory.addresses(ifindex)
        lengths = [item.prefix_length for item in items if item.address == address]
        prefix_length = max(lengths, default=8 * len(address))  # it may just have gone
        station = ifindex, hardware_address
        self.conflicts.proxy_tests.start(station, address, prefix_length, now)
        self._go_on_testing(ifindex, hardware_address, now)

    def _go_on_testing(self, ifindex: int, hardware_address: bytes, now: float) -> None:
        """Send probes for addresses that no station is likely to have."""
        station, ours = (ifindex, hardware_address), self.plans[ifindex].targets
        unused = self.conflicts.proxy_tests.draw(station, ours, self._uniform)
        self.revision += 1  # to be listened for
        for each in reversed(unused):
            self.schedule.send_next(ifindex, each, Cause.PROXY_TEST, now)

    def _sent(self, event: Sent, now: float) -> None:
        is_news = self.counters.record(event, now)
        self.schedule.sent(event.announcement.ifindex, now)
        if event.announcement.kind in BROADCASTS and event.outcome is SendOutcome.SENT:
            self._taught[event.announcement.ifindex] = event.announcement.hardware_address, now
        if event.announcement.kind in PROBE_KINDS:
            ifindex, address = event.announcement.ifindex, event.announcement.address
            self.conflicts.proxy_tests.probed(ifindex, address, now)
            self.conflicts.probed(ifindex, address, now, event.outcome is SendOutcome.SENT)
        elif event.announcement.ifindex in self.conflicts.rivals:
            self.conflicts.announced(event.announcement.ifindex, event.announcement.address, now)
        if not is_news and self.notices.level < LEVEL_DEBUG:
            return  # the usual case
        frame = event.announcement
        news_level = LEVEL_WARNING if event.errno else LEVEL_INFO
        self.notices.say(
            news_level if is_news else LEVEL_DEBUG,
            "frame-" + event.outcome.value,
            interface=self._name(frame.ifindex),
            kind=frame.kind.value,
            address=frame.address or None,
            hardware_address=frame.hardware_address,
            cause=frame.cause.value,
            error=Errno(event.errno) if event.errno else None,
        )

    def _name(self, ifindex: int) -> object:
        link = self.inventory.links.get(ifindex)
        return link.name if link else ifindex

    # -- bursts and the lease -----------------------------------------------------------

    def _burst_above(self, ifindex: int, cause: Cause) -> None:
        for each in self.inventory.stacked_on(ifindex):
            self._burst_later(each, cause)

    def _burst_everywhere(self, cause: Cause) -> None:
        for ifindex in self._announced():
            self._burst_later(ifindex, cause)

    def _burst_later(self, ifindex: int, cause: Cause) -> None:
        """Burst a link once its plan is made.  No other cause takes away the check of CHECKED."""
        if self._bursts.get(ifindex) not in CHECKED:
            self._bursts[ifindex] = cause

    def _announced(self) -> Iterator[int]:
        return (ifindex for ifindex, plan in self.plans.items() if plan.targets)

    def _set_interval(self, now: float) -> None:
        settings = self.settings
        leased = self.lease.is_in_force
        interval = settings.interval_with_lease if leased else settings.interval
        self.schedule.configure(settings, interval, now)

    def _end_lease(self, why: str, now: float, burst: bool = True) -> None:
        if self.lease.end():
            self._say_of_lease(LEVEL_NOTICE, "lease-ended", now, reason=why)
            self._set_interval(now)
            if burst:
                self._burst_everywhere(Cause.RESUME)

    def _say_of_lease(self, level: int, event: str, now: float, **fields: object) -> None:
        """Say what became of the lease, but not each time if a host grants and ends it often."""
        level = self._lease_notices.level(level, now)
        if self._lease_notices.is_at_its_limit:
            fields["further_changes"] = "not logged for up to a minute"
        self.notices.say(level, event, **fields)

    # -- plans --------------------------------------------------------------------------

    def _make_plans(self, now: float) -> None:
        """Make the plans of the changed links anew, then start the bursts that wait for them.

        Not during the first dump: half of it would look like an address that was added.
        """
        if not self.inventory.complete or (self.planner.deadline() > now and not self._bursts):
            return
        if self._topology != self.inventory.topology:
            self._topology = self.inventory.topology
            self.schedule.group(self.inventory.nics(), now)
        for ifindex, before, after in self.planner.replan(now):
            if after is not None and after.targets:
                self._announce(before, after, now)
            else:
                self._withdraw(ifindex, before, after, now)
        bursts, self._bursts = self._bursts, {}
        # As for requested bursts: a flood of causes writes the first one to the log.
        level = LEVEL_INFO if self.schedule.is_idle() else LEVEL_DEBUG
        for ifindex, cause in bursts.items():
            if ifindex in self.plans and self.plans[ifindex].targets:
                self._burst(ifindex, cause, now)
                name = self._name(ifindex)
                self.notices.say(level, "burst", cause=cause.value, interface=name)
        if self._occasion is not None:  # other settings are in force
            for key, selector in self.planner.unmatched():
                self.notices.say(LEVEL_NOTICE, "selector-unmatched", key=key, selector=selector)
        self._occasion = None

    def _burst(self, ifindex: int, cause: Cause, now: float) -> None:
        """Burst all addresses of a link; those that are checked first begin with a probe."""
        targets = self.plans[ifindex].targets
        checked = []
        if cause in CHECKED:
            for address, target in targets.items():
                claims = target.override and not set(target.kinds) <= {Kind.RARP, Kind.ARP_PROBE}
                if claims and self.conflicts.check_first(ifindex, address, cause, now):
                    self._set_frames(ifindex, address)
                    checked.append(address)
        if not checked:
            self.schedule.burst(ifindex, cause, now)
            return
        self.schedule.burst(ifindex, cause, now, (0.0,))
        others = [address for address in targets if address not in checked]
        if others:
            self.schedule.burst(ifindex, cause, now, addresses=others)

    def _withdraw(
        self, ifindex: int, before: LinkPlan | None, after: LinkPlan | None, now: float
    ) -> None:
        if before is not None and before.targets:
            self.schedule.set_addresses(ifindex, {}, now)
            self.conflicts.keep(ifindex, (), now)
            self.counters.keep(ifindex, ())
            self.revision += 1
            why = "no address to announce"
            if after is None or after.skip is not None:
                why = after.skip.value if after is not None and after.skip else "gone"
            else:
                self._say_withdrawn(before, after)
            name = before.link.name
            self.notices.say(LEVEL_INFO, "link-withdrawn", interface=name, reason=why)
            self._taught.pop(ifindex, None)  # the switches may forget it while the link is down
        if after is None:
            self.schedule.remove(ifindex, now)

    def _say_withdrawn(self, before: LinkPlan, after: LinkPlan) -> None:
        """Log the addresses that are not announced any more, and why."""
        reasons = {item.address: reason.value for item, reason in after.skipped}
        for address in before.targets:
            if address and address not in after.targets:
                self.notices.say(
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
            self.revision += 1
        self.conflicts.keep(ifindex, after.targets, now)
        for address in after.targets:
            if address not in known:
                self.conflicts.appear(ifindex, address, now)
        frames = {each.address: len(self.kinds(ifindex, each)) for each in after.targets.values()}
        self.schedule.set_addresses(ifindex, frames, now)
        self.counters.keep(ifindex, after.targets)
        if before is None or not known:
            was_up = before is not None and before.skip in (None, Skip.VIRTUAL_ROUTER)
            usual = Cause.ADDRESS_ADDED if was_up else Cause.LINK_UP
            self._bursts.setdefault(ifindex, self._occasion or usual)
        elif before.link.hardware_address != after.link.hardware_address:
            self._burst_later(ifindex, Cause.HARDWARE_ADDRESS_CHANGED)
            self.notices.say(
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
                self.schedule.burst(ifindex, Cause.ADDRESS_ADDED, now, addresses=fresh)
        if before is not None:
            self._say_withdrawn(before, after)
        for address in after.targets:
            if address not in known:
                self.notices.say(
                    LEVEL_INFO,
                    "address-announced",
                    interface=after.link.name,
                    address=address or None,
                    hardware_address=after.link.hardware_address,
                )
