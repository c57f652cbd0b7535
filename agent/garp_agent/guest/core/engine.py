"""The whole decision, without a clock: events in, announcements out.

Composes inventory, policy, schedule and counters; holds the lease.  Opens nothing,
sends nothing, reads no time: the loop calls :meth:`Engine.handle` for everything that
happens, :meth:`Engine.next_frame` for each frame that is to be sent now, and comes back at
:meth:`Engine.deadline` at the latest.

Causes come from differences: the engine compares what policy says of a changed link
with what it said before.  A carrier that comes back and NOTIFY_PEERS also concern the
links stacked on the one they happened to, because the addresses live there.
"""

from __future__ import annotations

from math import inf

from garp_agent.guest.core.conflicts import Conflicts
from garp_agent.guest.core.counters import Counters
from garp_agent.guest.core.inventory import Inventory
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
    Sent,
)
from garp_agent.guest.core.policy import Plan, plan
from garp_agent.guest.core.schedule import Due, Schedule
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    DumpStarted,
    Errno,
    Notice,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garp_agent.config.settings import Settings
    from garp_agent.guest.core.model import Event, KernelEvent

NOTICES_KEPT = 1000  # between two drains; more are counted, not kept
LATE = 1.0  # seconds; the least lateness that counts as having been stopped


class Engine:
    """The agent's mind.  ``uniform`` draws from [0, 1); ``level`` is a LEVEL_* of the model."""

    def __init__(
        self, settings: Settings, uniform: Callable[[], float], level: int = LEVEL_INFO
    ) -> None:
        self.settings = settings
        self.level = level  # the least urgent notices that somebody will read
        self.inventory = Inventory()
        self.schedule = Schedule(settings, uniform)
        self.counters = Counters()
        self.conflicts = Conflicts(settings.conflict)
        self.plans: dict[int, Plan] = {}  # of every link, those skipped too
        self.revision = 0  # goes up whenever what is announced changes
        self.overruns = 0
        self.resumes = 0
        self.lease_until = -inf  # until when the host promised hints
        self._changed: set[int] = set()  # links to look at again
        self._raised: dict[int, Cause] = {}  # links to burst on, once looked at
        self._awake_since = -inf  # the latest resume; what was due before it is no second one
        self._occasion: Cause | None = Cause.START  # why links are announced that were not before
        self._due = Due(0, b"", Cause.START)  # the address that is being announced
        self._kinds: list[Kind] = []  # the frames that it still takes
        self._notices: list[Notice] = []
        self._notices_lost = 0  # since the last drain, for want of room

    # -- what happens -----------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take one event in; what follows from it comes out of :meth:`next_frame`."""
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
        """Put other settings into force; links that are announced from now on burst."""
        self.settings = settings
        self.conflicts.configure(settings.conflict)
        self._occasion = Cause.OPERATOR
        self._changed.update(self.inventory.links)
        self._set_interval(now)

    def next_frame(self, now: float) -> Announcement | None:
        """Build the next frame that is to be sent now, from what is true at this moment.

        Return None if there is none, and before the first complete dump.  Send the frame, hand
        over what happened meanwhile, then ask again until the answer is None.
        """
        if not self.inventory.complete:
            return None
        self._expire(now)
        self._settle(now)
        while self._kinds or self._take_due(now):
            kind = self._kinds.pop(0)
            plan = self.plans.get(self._due.ifindex)
            target = plan.targets.get(self._due.address) if plan else None
            if plan is not None and target is not None and kind in target.kinds:
                return Announcement(
                    self._due.ifindex,
                    kind,
                    plan.link.hardware_address,
                    self._due.address,
                    self._due.cause,
                    target.router,
                    target.override,
                )
        return None

    def deadline(self) -> float:
        """When to call :meth:`next_frame` at the latest; ``math.inf`` if only events matter."""
        if not self.inventory.complete:
            return inf
        if self._changed or self._raised or self._kinds:
            return -inf
        lease = self.lease_until if self.has_lease() else inf
        return min(self.schedule.deadline(), self.conflicts.deadline(), lease)

    def has_lease(self) -> bool:
        """Whether the host's promise of hints is in force."""
        return self.lease_until > -inf

    def take_notices(self) -> list[Notice]:
        """What an operator may want to read since the last call."""
        notices, self._notices = self._notices, []
        if self._notices_lost:
            notices.append(Notice(LEVEL_WARNING, "notices-lost", (("count", self._notices_lost),)))
            self._notices_lost = 0
        return notices

    # -- events -------------------------------------------------------------------------

    def _kernel_event(self, event: KernelEvent, now: float) -> None:
        if isinstance(event, LinkSeen):
            self._link_seen(event, now)
            return
        if isinstance(event, DumpStarted) and event.overrun:
            self.overruns += 1
            self._note(LEVEL_WARNING, "netlink-overrun", ("action", "reading everything anew"))
        self._changed.update(self.inventory.apply(event))

    def _link_seen(self, event: LinkSeen, now: float) -> None:
        ifindex = event.link.ifindex
        before = self.inventory.links.get(ifindex)
        self._changed.update(self.inventory.apply(event))
        if event.notify_peers:
            # Another host may be under us now: its predecessor's promise is void.
            self._end_lease("the machine may have moved", now)
            self._raise_above(ifindex, Cause.NOTIFY_PEERS)
        elif before is not None and event.link.has_carrier and not before.has_carrier:
            self._raise_above(ifindex, Cause.LINK_UP)

    def _burst_requested(self, event: BurstRequested, now: float) -> None:
        self._settle(now)
        # A flood of hints is one line of log: from the first until there is peace again.
        level = LEVEL_INFO if self.schedule.is_idle() else LEVEL_DEBUG
        for ifindex in self._announced():
            self.schedule.burst(ifindex, event.cause, now, event.offsets)
        self._note(level, "burst", ("cause", event.cause.value), ("reason", event.reason or None))

    def _lease_granted(self, event: LeaseGranted, now: float) -> None:
        if event.seconds <= 0:
            # Nothing happened to the network, and all guests of a host hear it at once: no burst.
            self._end_lease("taken back", now, burst=False)
            return
        is_new = not self.has_lease()
        self.lease_until = now + event.seconds
        if is_new:
            self._note(LEVEL_INFO, "lease-granted", ("seconds", event.seconds))
            # All guests of a host have it at once: each in a phase of its own, as at the start.
            self._set_interval(now)

    def _resumed(self, event: Resumed, now: float) -> None:
        self.resumes += 1
        self._awake_since = now
        self._note(LEVEL_NOTICE, "resumed", ("seconds", round(event.seconds, 3)))
        self._end_lease("resumed", now)
        self._raise_everywhere(Cause.RESUME)
        self.schedule.rephase(now)

    def _claim_seen(self, event: ClaimSeen, now: float) -> None:
        links = self.inventory.links.values()
        if any(link.hardware_address == event.hardware_address for link in links):
            return  # our own frame, come back through a loop
        for ifindex in [each.ifindex for each in links if each.name == event.interface]:
            if ifindex in self.plans and event.address in self.plans[ifindex].targets:
                self._conflict(ifindex, event, now)

    def _conflict(self, ifindex: int, event: ClaimSeen, now: float) -> None:
        news = self.conflicts.claim(ifindex, event.address, event.hardware_address, now)
        if self.conflicts.is_withheld(ifindex, event.address):
            self._changed.add(ifindex)
        elif self.conflicts.may_defend(ifindex, event.address, now):
            self.schedule.burst(ifindex, Cause.DEFENCE, now, (0.0,), (event.address,))
        if news:
            self._note(
                LEVEL_WARNING,
                "address-conflict",
                ("interface", event.interface),
                ("address", event.address),
                ("claimed_by", event.hardware_address),
                ("policy", self.settings.conflict.policy.value),
            )

    def _sent(self, event: Sent, now: float) -> None:
        news = self.counters.record(event, now)
        if not news and self.level < LEVEL_DEBUG:
            return
        frame = event.announcement
        self._note(
            LEVEL_WARNING if news and event.errno else LEVEL_INFO if news else LEVEL_DEBUG,
            "frame-" + event.outcome.value,
            ("interface", self._name(frame.ifindex)),
            ("kind", frame.kind.value),
            ("address", frame.address or None),
            ("hardware_address", frame.hardware_address),
            ("cause", frame.cause.value),
            ("error", Errno(event.errno) if event.errno else None),
        )

    def _name(self, ifindex: int) -> object:
        link = self.inventory.links.get(ifindex)
        return link.name if link else ifindex

    # -- causes -------------------------------------------------------------------------

    def _raise_above(self, ifindex: int, cause: Cause) -> None:
        self._raised.update(dict.fromkeys(self.inventory.stacked_on(ifindex), cause))

    def _raise_everywhere(self, cause: Cause) -> None:
        self._raised.update(dict.fromkeys(self._announced(), cause))

    def _announced(self) -> Iterator[int]:
        return (ifindex for ifindex, plan in self.plans.items() if plan.targets)

    # -- lease --------------------------------------------------------------------------

    def _interval(self) -> float:
        settings = self.settings
        return settings.interval_with_lease if self.has_lease() else settings.interval

    def _set_interval(self, now: float) -> None:
        self.schedule.configure(self.settings, self._interval(), now)

    def _end_lease(self, why: str, now: float, burst: bool = True) -> None:
        if self.has_lease():
            self.lease_until = -inf
            self._note(LEVEL_NOTICE, "lease-ended", ("reason", why))
            self._set_interval(now)
            if burst:
                self._raise_everywhere(Cause.RESUME)

    def _expire(self, now: float) -> None:
        """End what has run out by now, and notice a turn that comes far too late."""
        if self.lease_until <= now and self.lease_until > -inf:
            self._end_lease("ran out", now)
        for ifindex, address in self.conflicts.expire(now):
            self._changed.add(ifindex)
            self._note(
                LEVEL_NOTICE,
                "address-conflict-over",
                ("interface", self._name(ifindex)),
                ("address", address),
            )
        late = now - max(self.schedule.deadline(), self._awake_since)
        if late > max(LATE, self.schedule.interval):
            self._resumed(Resumed(late), now)

    # -- plans --------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Look at the changed links again, then start the bursts that were raised."""
        if not self.inventory.complete:
            return
        if not self._changed and not self._raised:
            return
        changed, self._changed = self._changed, set()
        for ifindex in sorted(changed):
            self._look_at(ifindex, now)
        raised, self._raised = self._raised, {}
        for ifindex, cause in raised.items():
            if ifindex in self.plans and self.plans[ifindex].targets:
                self.schedule.burst(ifindex, cause, now)
        self._occasion = None

    def _look_at(self, ifindex: int, now: float) -> None:
        before = self.plans.get(ifindex)
        link = self.inventory.links.get(ifindex)
        if link is None:
            self.plans.pop(ifindex, None)
            self._withdraw(before, "gone", now)
            self.schedule.remove(ifindex, now)
            self.conflicts.keep(ifindex, ())
            return
        self.conflicts.keep(ifindex, {each.address for each in self.inventory.addresses(ifindex)})
        after = self.plans[ifindex] = plan(
            link,
            self.inventory.addresses(ifindex),
            self.inventory.forwards(ifindex),
            self.settings,
            self.conflicts.is_withheld,
        )
        if after.targets:
            self._announce(before, after, now)
        else:
            why = after.skip.value if after.skip else "no address to announce"
            self._withdraw(before, why, now)

    def _withdraw(self, before: Plan | None, why: str, now: float) -> None:
        if before is not None and before.targets:
            ifindex = before.link.ifindex
            self.schedule.set_addresses(ifindex, {}, now)
            self.counters.keep(ifindex, ())
            self.revision += 1
            self._note(
                LEVEL_INFO, "link-withdrawn", ("interface", before.link.name), ("reason", why)
            )

    def _announce(self, before: Plan | None, after: Plan, now: float) -> None:
        ifindex = after.link.ifindex
        known = before.targets if before is not None else {}
        if known != after.targets:
            self.revision += 1
        frames = {address: len(target.kinds) for address, target in after.targets.items()}
        self.schedule.set_addresses(ifindex, frames, now)
        self.counters.keep(ifindex, after.targets)
        if before is None or not known:
            was_up = before is not None and before.skip is None
            usual = Cause.ADDRESS_ADDED if was_up else Cause.LINK_UP
            self._raised.setdefault(ifindex, self._occasion or usual)
        elif before.link.hardware_address != after.link.hardware_address:
            self._raised[ifindex] = Cause.HARDWARE_ADDRESS_CHANGED
        else:
            # New, no longer optimistic, a router now, no longer in conflict, ...
            fresh = [
                address
                for address, target in after.targets.items()
                if target != known.get(address) and not target.withheld
            ]
            if fresh:
                self.schedule.burst(ifindex, Cause.ADDRESS_ADDED, now, addresses=fresh)
        self._note_targets(after, known.keys())

    def _note_targets(self, after: Plan, known: object) -> None:
        for address in after.targets:
            if address not in known:  # type: ignore[operator]
                self._note(
                    LEVEL_INFO,
                    "address-announced",
                    ("interface", after.link.name),
                    ("address", address or None),
                    ("hardware_address", after.link.hardware_address),
                )

    def _take_due(self, now: float) -> bool:
        """Take the next address that is due, with the frames that announce it."""
        due = self.schedule.next_due(now)
        if due is None:
            return False
        self._due = due
        self._kinds += self.plans[due.ifindex].targets[due.address].kinds
        return True

    def _note(self, level: int, event: str, *fields: tuple[str, object]) -> None:
        if level > self.level:
            return
        if len(self._notices) < NOTICES_KEPT:
            self._notices.append(Notice(level, event, fields))
        else:
            self._notices_lost += 1
