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

from garp_agent.guest.core.claim_response import ClaimResponse
from garp_agent.guest.core.conflicts import Conflicts
from garp_agent.guest.core.counters import Counters
from garp_agent.guest.core.frame_choice import WAITS, FrameChoice
from garp_agent.guest.core.lease import GuestLease
from garp_agent.guest.core.model import (
    PROBE_KINDS,
    AddressProbed,
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
from garp_agent.guest.core.plan_changes import PlanChanges
from garp_agent.guest.core.planner import Planner
from garp_agent.guest.core.schedule import Schedule
from garp_agent.guest.core.waiting_bursts import WaitingBursts
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    DumpComplete,
    DumpPartial,
    DumpStarted,
    Errno,
)
from garp_agent.wire.notices import Notices, Repetition
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.config.settings import Settings
    from garp_agent.guest.core.link_schedule import Due
    from garp_agent.guest.core.model import EngineEvent, KernelEvent
    from garp_agent.guest.core.shared_addresses import Route

LATE = 1.0  # seconds; a turn that is less late does not count as a resume
MAKE_UP_AGAIN = 30.0  # seconds between bursts because of a lack of memory, at least


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
        self.notices = Notices(level)
        self.planner = Planner(settings, route)
        self.inventory = self.planner.inventory
        self.plans = self.planner.plans
        self.schedule = Schedule(settings, uniform)
        self.counters = Counters()
        self.conflicts = Conflicts(settings.conflict)
        self.choice = FrameChoice(self.plans, self.conflicts)
        self._claims = ClaimResponse(
            self.planner, self.schedule, self.conflicts, self.choice, self.notices, uniform
        )
        self.lease = GuestLease()
        self._lease_notices = Repetition()
        self._drop_notices, self._sent_notices = Repetition(), Repetition()
        self.revision = 0  # goes up whenever what is announced, or is listened for, changes
        self.overruns = 0
        # The caller had no memory for an event, a request, a plan or a frame: at the end of the
        # next dump, everything is looked at again.
        self.is_damaged = False
        self.resumes = 0
        self._bursts = WaitingBursts(
            self.planner, self.schedule, self.conflicts, self.choice, self.notices
        )
        self._changes = PlanChanges(
            self.planner,
            self.schedule,
            self.conflicts,
            self.choice,
            self.counters,
            self._bursts,
            self.notices,
            occasion,
        )
        self._frames: list[tuple[Due, Kind]] = []  # the address that was begun; an ARP reply, say
        self._awake_since = -inf  # the latest resume; lateness before it does not count again
        # After a lack of memory: when to burst because of it; the latest such burst.
        self._make_up_at, self._made_up_at = inf, -inf

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
            if self._claims.seen(event, now):
                self.revision += 1  # there are other addresses to listen for
        elif isinstance(event, AddressProbed):
            self._claims.probe_seen(event, now)
        else:
            self._kernel_event(event, now)

    def reconfigure(self, settings: Settings, now: float) -> None:
        """Use other settings.  Links that are announced for the first time under them burst."""
        self.settings = settings
        self.conflicts.configure(settings.conflict, now)
        self._changes.occasion = Cause.OPERATOR
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
        if self._make_up_at <= now:
            self._make_up(now)
        if self._bursts.by_link or self.planner.deadline() <= now:
            self._take_in_changes(now)
        if self.conflicts.rivals and self.conflicts.deadline() <= now:
            self._take_steps(now)
        while True:
            if self._frames:
                due, kind = self._frames.pop(0)
                # An address of two frames can go, or change its form, between the two.
                if kind not in self.choice.now(due):
                    continue
            else:
                next_due = self.schedule.next_due(now)
                if next_due is None:
                    return None
                due, kinds = next_due, self.choice.first(next_due, now)
                if not kinds:
                    continue  # nothing is to be sent for that address any more
                kind = kinds[0]
                self._frames = [(due, each) for each in kinds[1:]]
            plan = self.plans[due.ifindex]
            target = plan.targets.get(due.address)
            announcement = Announcement(
                due.ifindex,
                kind,
                plan.link.hardware_address,
                due.address,
                due.cause,
                target is not None and target.router,
                target is None or target.override,
            )
            return self.choice.probe(announcement) if kind in PROBE_KINDS else announcement

    def deadline(self) -> float:
        """Return when to call :meth:`next_frame` at the latest; ``math.inf``: after an event."""
        if not self.inventory.complete:
            return inf
        if self._bursts.by_link or self._frames:
            return -inf
        deadline = min(
            self.schedule.deadline(), self.lease.until, self.planner.deadline(), self._make_up_at
        )
        return min(deadline, self.conflicts.deadline()) if self.conflicts.rivals else deadline

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
            plan = self.plans.get(ifindex)
            if plan is None or address not in plan.targets:
                continue  # there was no memory to take in its plan
            # The check that begins or ends now can withhold or release it.
            self.schedule.set_frames(ifindex, address, self.choice.count(ifindex, address))
            if released is None:
                self.schedule.send_once(ifindex, address, Cause.CONFLICT, now)
                continue
            if was_withheld:
                self.schedule.burst(ifindex, released, now, addresses=(address,))
            if released in WAITS:  # do not wait for the probes of all other addresses
                self.schedule.send_next(ifindex, address, released, now)
            if is_news:
                name = self._name(ifindex)
                self.notices.say(
                    LEVEL_NOTICE, "address-conflict-over", interface=name, address=address
                )

    # -- events -------------------------------------------------------------------------

    def _kernel_event(self, event: KernelEvent, now: float) -> None:
        if isinstance(event, LinkSeen):
            self._link_seen(event, now)
            return
        if isinstance(event, DumpStarted) and event.overrun:
            self.overruns += 1
            self.notices.say(LEVEL_WARNING, "netlink-overrun", action="reading everything anew")
        self.planner.apply(event)
        if self.is_damaged and isinstance(event, (DumpComplete, DumpPartial)):
            self.is_damaged = False
            self._changes.take_in_all(now)
            self.revision += 1
            self._set_interval(now)  # which also puts into the schedule's heap what it has lost
            if self._make_up_at == inf:
                self._make_up_at = max(now, self._made_up_at + MAKE_UP_AGAIN)

    def _link_seen(self, event: LinkSeen, now: float) -> None:
        ifindex = event.link.ifindex
        before = self.inventory.links.get(ifindex)
        self.planner.apply(event)
        if event.notify_peers:
            # The machine may run on another host now, which promised nothing.
            self._end_lease("the machine may have moved", now)
            self._bursts.above(ifindex, Cause.NOTIFY_PEERS)
        if before is not None and event.link.readiness > before.readiness:
            self._bursts.above(ifindex, Cause.LINK_UP)

    def _burst_requested(self, event: BurstRequested, now: float) -> None:
        if self._bursts.by_link or self.planner.deadline() <= now:
            self._take_in_changes(now)
        if event.ends_lease:
            self._end_lease("a hint came", now, burst=False)  # the hint itself is the burst
        # A flood of hints writes one line to the log: the first, until nothing is under way.
        level = LEVEL_INFO if self.schedule.is_idle() else LEVEL_DEBUG
        for ifindex in self.planner.announced():
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
        self._bursts.everywhere(Cause.RESUME)
        for ifindex, plan in self.plans.items():
            if plan.skip is None and not plan.targets:  # its addresses come later
                self.conflicts.came_up(ifindex, now)
        self.schedule.rephase(now)

    def _sent(self, event: Sent, now: float) -> None:
        is_news = self.counters.record(event, now)
        if event.outcome is not SendOutcome.SENT:
            self.schedule.refused(event.announcement.ifindex, now)
        else:
            announces = event.announcement.kind not in PROBE_KINDS
            self.schedule.sent(event.announcement.ifindex, now, announces)
            self.choice.note_sent(event.announcement, now)
        if event.announcement.kind in PROBE_KINDS:
            ifindex, address = event.announcement.ifindex, event.announcement.address
            self.conflicts.proxy_tests.probed(ifindex, address, now)
            is_sent, asked = event.outcome is SendOutcome.SENT, event.announcement.asked
            self.conflicts.probed(ifindex, address, now, is_sent, asked)
            is_withheld = self.conflicts.is_withheld(ifindex, address)
            self.schedule.probed(ifindex, address, is_withheld, now)
        elif (
            event.announcement.ifindex in self.conflicts.rivals
            and event.announcement.kind is not Kind.RARP  # it claims nothing
        ):
            self.conflicts.announced(event.announcement.ifindex, event.announcement.address, now)
        if not is_news and self.notices.level < LEVEL_DEBUG:
            return  # the usual case
        frame, level, limit = event.announcement, LEVEL_DEBUG, {}
        if is_news:  # not for each of thousands of links
            repetition = self._drop_notices if event.errno else self._sent_notices
            level = repetition.level(LEVEL_WARNING if event.errno else LEVEL_INFO, now)
            if repetition.is_at_its_limit:
                limit = {"further_frames": "not logged for up to a minute"}
        self.notices.say(
            level,
            "frame-" + event.outcome.value,
            interface=self._name(frame.ifindex),
            kind=frame.kind.value,
            address=frame.address or None,
            hardware_address=frame.hardware_address,
            cause=frame.cause.value,
            error=Errno(event.errno) if event.errno else None,
            **limit,
        )

    def _name(self, ifindex: int) -> object:
        link = self.inventory.links.get(ifindex)
        return link.name if link else ifindex

    # -- bursts and the lease -----------------------------------------------------------

    def _make_up(self, now: float) -> None:
        """Burst because of a lack of memory: a hint, or what the kernel said, may have been lost.

        It begins with probes, because a return of the carrier may have been lost, too.
        """
        self._end_lease("out of memory", now, burst=False)
        self._bursts.everywhere(Cause.RESUME)
        self._make_up_at, self._made_up_at = inf, now

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
                self._bursts.everywhere(Cause.RESUME)

    def _say_of_lease(self, level: int, event: str, now: float, **fields: object) -> None:
        """Say what became of the lease, but not each time if a host grants and ends it often."""
        level = self._lease_notices.level(level, now)
        if self._lease_notices.is_at_its_limit:
            fields["further_changes"] = "not logged for up to a minute"
        self.notices.say(level, event, **fields)

    def _take_in_changes(self, now: float) -> None:
        if self._changes.take_in(now):
            self.revision += 1
