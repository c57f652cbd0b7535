"""Whatever happens, in whatever order: what must never be, and what must always be.

Two state machines.  ``Guest`` tells an engine anything at all and judges every frame by a
model of its own: what is owned at that moment, an ordinary token bucket, the time by which
each address must have been announced.  ``Kernel`` has links and addresses of its own, loses
events and dumps them in parts; once a dump is whole the inventory is what there is.

``GARP_AGENT_EXAMPLES=5000`` makes a long run of it, with other examples every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    Bucket,
    Conflict,
    ConflictPolicy,
    InterfaceSelection,
    Settings,
)
from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.model import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    ForwardingSeen,
    HintPortClosed,
    InterfaceAddress,
    Kind,
    LeaseGranted,
    Link,
    LinkSeen,
    Resumed,
    SendOutcome,
)
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone
from tests.world import (
    DOWN,
    NO_CARRIER,
    RUNNING,
    Agent,
    Frame,
    TokenBucket,
    address,
    dump,
    link,
    property_settings,
)

INDEXES = st.integers(2, 4)
BRIDGE = 4
V4 = [f"10.0.0.{n}/24" for n in range(1, 4)] + ["10.0.0.1/32"]
V6 = ["fd00::1/64", "fe80::1/64"]
CROWD = [f"10.1.0.{n}/16" for n in range(1, 31)]

links = st.builds(
    link,
    INDEXES,
    flags=st.sampled_from([RUNNING, RUNNING, RUNNING, NO_CARRIER, DOWN, RUNNING | IFF_LOOPBACK]),
    hardware_address=st.sampled_from([b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"]),
    master_ifindex=st.sampled_from([0, 0, 0, BRIDGE]),
    port_kind=st.sampled_from(["bridge", "vrf"]),
)
items = st.one_of(
    st.builds(address, st.sampled_from(V4), INDEXES),
    st.builds(
        address,
        st.sampled_from(V6),
        INDEXES,
        flags=st.sampled_from(
            [
                0,
                0,
                IFA_F_TENTATIVE,
                IFA_F_TENTATIVE | IFA_F_OPTIMISTIC,
                IFA_F_TENTATIVE | IFA_F_DADFAILED,
                IFA_F_DEPRECATED,
            ]
        ),
        peer=st.sampled_from([b"", bytes(15) + b"\7", bytes(15) + b"\x08"]),
    ),
)
NOT_DUMPED = st.just(False)
kernel_events = st.one_of(
    st.builds(LinkSeen, links, st.sampled_from([False, False, True]), NOT_DUMPED),
    st.builds(LinkSeen, links, st.just(False), NOT_DUMPED),
    st.builds(AddressSeen, items, NOT_DUMPED),
    st.builds(AddressSeen, items, NOT_DUMPED),
    st.builds(AddressGone, items),
    st.builds(LinkGone, INDEXES),
    st.builds(ForwardingSeen, INDEXES, st.booleans()),
    st.builds(DumpStarted, st.booleans()),
    st.builds(DumpComplete),
)
offsets = st.sampled_from([(), (0.0,), (0.0, 0.0, 0.05), (0.7, 0.8), (30.0,)])
requests = st.one_of(
    st.builds(BurstRequested, st.sampled_from([Cause.HINT, Cause.OPERATOR]), offsets),
    st.builds(LeaseGranted, st.sampled_from([0.0, 0.3, 7.0, 3600.0])),
    st.builds(HintPortClosed),
    st.builds(Resumed, st.sampled_from([0.5, 3600.0])),
)
claims = st.builds(
    ClaimSeen,
    INDEXES.map(lambda ifindex: f"eth{ifindex}"),
    st.sampled_from([address(text).address for text in (*V4, *V6, CROWD[0])]),
    st.sampled_from([b"\2\0\0\0\0\x66", b"\2\0\0\0\0\x67", b"\2\0\0\0\0\1"]),
)
events = st.lists(
    st.one_of(kernel_events, kernel_events, kernel_events, requests, claims),
    min_size=1,
    max_size=6,
)

SETTINGS = [
    Settings(interval=5.0, interval_with_lease=20.0),
    Settings(interval=0.5, interval_with_lease=5.0, jitter=0.5, addresses_per_tick=1),
    Settings(interval=2.0, arp=ArpForm.BOTH, bucket=Bucket(3.0, 2), mac_only=True),
    Settings(jitter=0.0, burst=(0.0,), addresses=AddressSelection(ipv6=False), mac_only=True),
    Settings(interval=1.0, interfaces=InterfaceSelection(exclude=("eth3",)), arp=ArpForm.PROBE),
    Settings(interval=1.0, conflict=Conflict(ConflictPolicy.YIELD, 3.0)),
    Settings(interval=1.0, conflict=Conflict(ConflictPolicy.DEFEND, 3.0)),
    Settings(interval=270.0, interval_with_lease=270.0, bucket=Bucket(0.5, 4)),
]


class Owned:
    """What the guest owns, told naively: a link is a row, an address is a row."""

    def __init__(self) -> None:
        self.complete = False
        self.links: dict[int, Link] = {}
        self.items: dict[tuple[object, ...], InterfaceAddress] = {}
        self.routers: set[int] = set()
        self.since_start: list[tuple[object, ...]] | None = None

    @staticmethod
    def row(item: InterfaceAddress) -> tuple[object, ...]:
        ipv4 = (item.prefix_length, item.peer) if len(item.address) == 4 else ()
        return (item.ifindex, item.address, *ipv4)

    def take(self, event: Any) -> None:
        if isinstance(event, DumpStarted):
            self.since_start = []
        elif isinstance(event, DumpComplete) and self.since_start is not None:
            self._drop([i for i in self.links if (i,) not in self.since_start])
            for row in [row for row in self.items if row not in self.since_start]:
                del self.items[row]
            self.since_start, self.complete = None, True
        elif isinstance(event, LinkSeen):
            self.links[event.link.ifindex] = event.link
            self._said((event.link.ifindex,))
        elif isinstance(event, AddressSeen):
            self.items[self.row(event.address)] = event.address
            self._said(self.row(event.address))
        elif isinstance(event, AddressGone):
            self.items.pop(self.row(event.address), None)
        elif isinstance(event, LinkGone):
            self._drop([event.ifindex])
            if self.since_start is not None:
                self.since_start = [row for row in self.since_start if row != (event.ifindex,)]
        elif isinstance(event, ForwardingSeen):
            (self.routers.add if event.forwarding else self.routers.discard)(event.ifindex)

    def _said(self, row: tuple[object, ...]) -> None:
        if self.since_start is not None:
            self.since_start.append(row)

    def _drop(self, ifindexes: list[int]) -> None:
        for ifindex in ifindexes:
            self.links.pop(ifindex, None)
            self.routers.discard(ifindex)
            for row in [row for row in self.items if row[0] == ifindex]:
                del self.items[row]

    def announceable(self, settings: Settings) -> dict[tuple[int, bytes], bool]:
        """(link, address) -> whether the address may override; the rules, said once more."""
        found: dict[tuple[int, bytes], bool] = {}
        if not self.complete:
            return found
        for ifindex, each in self.links.items():
            is_port = each.master_ifindex != 0 and each.port_kind != "vrf"
            is_excluded = each.name in settings.interfaces.exclude
            if each.flags != RUNNING or is_port or is_excluded:
                continue
            mine = [item for item in self.items.values() if item.ifindex == ifindex]
            good = {
                item.address: self._overrides(item) for item in mine if self._fit(item, settings)
            }
            if not good and settings.mac_only:
                good = {b"": True}
            found.update({(ifindex, one): override for one, override in good.items()})
        return found

    @staticmethod
    def _fit(item: InterfaceAddress, settings: Settings) -> bool:
        if len(item.address) == 4:
            return True
        only_optimistic = (0, IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)
        return settings.addresses.ipv6 and item.flags in only_optimistic

    @staticmethod
    def _overrides(item: InterfaceAddress) -> bool:
        return item.flags == 0


class Clock:
    """For one address: since when it waits, and the most it may wait."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.most = 0.0


class Guest(RuleBasedStateMachine):
    """An engine that is told anything."""

    @initialize(
        settings=st.sampled_from(SETTINGS),
        seed=st.integers(0, 3),
        first=st.lists(items, min_size=1, max_size=5),
        bridged=st.booleans(),
    )
    def start(
        self, settings: Settings, seed: int, first: list[InterfaceAddress], bridged: bool
    ) -> None:
        self.agent = Agent(settings, seed=seed)
        self.agent.after_frame = self._after_frame
        self.settings = settings
        self.interruptions: list[list[Any] | int] = []  # one after each of the next frames
        self.interrupted = 0  # since the last step
        self.allowed: dict[tuple[int, bytes], bool] = {}
        self.leased = False  # at some time since the last step
        self.owned = Owned()
        self.buckets: dict[int, TokenBucket] = {}
        self.clocks: dict[tuple[int, bytes], Clock] = {}
        self.yielded: dict[tuple[int, bytes], float] = {}  # until when
        master = BRIDGE if bridged else 0
        port = link(2, master_ifindex=master, port_kind="bridge")
        self.happen(dump(port, link(3), link(BRIDGE, kind="bridge"), *first))

    # -- what happens ---------------------------------------------------------------------

    @rule(events=events)
    def happen(self, events: list[Any]) -> None:
        self._take(events, self.agent.now)
        self._judge(lambda: self.agent.tell(*events))

    @rule(ifindex=INDEXES, gone=st.booleans())
    def a_crowd_comes_or_goes(self, ifindex: int, gone: bool) -> None:
        kind = AddressGone if gone else AddressSeen
        self.happen([kind(address(text, ifindex)) for text in CROWD])

    @rule(overrun=st.booleans(), left_out=st.integers(0, 9))
    def a_dump_tells_all_there_is_but_one_thing(self, overrun: bool, left_out: int) -> None:
        things = [*self.owned.links.values(), *self.owned.items.values()]
        self.happen(dump(*(t for n, t in enumerate(things) if n != left_out), overrun=overrun))

    @rule(ifindex=INDEXES, times=st.integers(1, 20))
    def carrier_flaps(self, ifindex: int, times: int) -> None:
        if ifindex in self.owned.links:
            up = self.owned.links[ifindex]
            for _ in range(times):
                self.happen([LinkSeen(up._replace(flags=NO_CARRIER))])
                self.happen([LinkSeen(up._replace(flags=RUNNING))])

    @rule(which=st.integers(0, 99), rival=st.sampled_from([0x66, 0x67]))
    def somebody_claims_an_address(self, which: int, rival: int) -> None:
        mine = sorted(pair for pair in self.owned.announceable(self.settings) if pair[1])
        if mine:
            ifindex, one = mine[which % len(mine)]
            self.happen([ClaimSeen(f"eth{ifindex}", one, bytes((2, 0, 0, 0, 0, rival)))])

    @rule(interruptions=st.lists(st.one_of(events, st.integers(0, 99)), min_size=1, max_size=8))
    def something_happens_after_each_of_the_next_frames(
        self, interruptions: list[list[Any] | int]
    ) -> None:
        self.interruptions = interruptions

    @rule(settings=st.sampled_from(SETTINGS))
    def reconfigure(self, settings: Settings) -> None:
        for bucket in self.buckets.values():
            bucket.change(settings.bucket.rate, settings.bucket.depth, self.agent.now)
        self.settings = settings
        self.yielded.clear()
        self.agent.engine.reconfigure(settings, self.agent.now)
        self._judge(self.agent.tell)

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.1, 0.4, 1.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        before = self.agent.wakeups
        self._judge(lambda: self.agent.wait(seconds))
        assert self.agent.wakeups - before <= self._most_wakeups(seconds)

    @rule(seconds=st.sampled_from([0.3, 3.0, 30.0, 3600.0]), events=events)
    def be_stopped(self, seconds: float, events: list[Any]) -> None:
        for clock in self.clocks.values():
            clock.since += seconds
        self._take(events, self.agent.now + seconds)
        self._judge(lambda: self.agent.stop(seconds, *events), self.agent.now + seconds)

    @rule(outcome=st.sampled_from([(SendOutcome.SENT, 0), (SendOutcome.DROPPED, 105)]))
    def frames_fare(self, outcome: tuple[SendOutcome, int]) -> None:
        self.agent.outcome = outcome

    # -- the judge ------------------------------------------------------------------------

    def _take(self, events: list[Any], now: float) -> None:
        """Note what is owned, and what is yielded to others because they claimed it."""
        before = self.owned.announceable(self.settings)
        for event in events:
            self.owned.take(event)
            owned = {(item.ifindex, item.address) for item in self.owned.items.values()}
            self.yielded = {which: end for which, end in self.yielded.items() if which in owned}
        after = self.owned.announceable(self.settings)
        if self.settings.conflict.policy is ConflictPolicy.YIELD:
            for event in events:
                if isinstance(event, ClaimSeen) and event.hardware_address[5] >= 0x66:
                    which = (int(event.interface[3:]), event.address)
                    if which in before and which in after:
                        self.yielded[which] = now + self.settings.conflict.hold_off

    def _judge(self, act: Any, now: float | None = None) -> None:
        self.leased = self.agent.engine.lease.is_in_force
        self.interrupted = 0
        self._note_who_waits(self.agent.now if now is None else now)
        act()
        self.leased = self.leased or self.agent.engine.lease.is_in_force
        self.buckets = {i: b for i, b in self.buckets.items() if i in self.owned.links}
        self._note_who_waits(self.agent.now)
        for (ifindex, one), clock in self.clocks.items():
            waited = self.agent.now - clock.since
            assert waited <= clock.most + 1e-3, (ifindex, one, waited, clock.most)

    def _after_frame(self, frame: Frame) -> list[Any]:
        """Judge a frame at the moment it is sent; what happens before the next one."""
        self._judge_frame(frame, self.allowed)
        if not self.interruptions:
            return []
        self.interrupted += 1
        events = self._events_of(self.interruptions.pop(0))
        self._take(events, self.agent.now)
        self._note_who_waits(self.agent.now)
        return events

    def _events_of(self, interruption: list[Any] | int) -> list[Any]:
        if isinstance(interruption, list):
            return interruption
        gone = [LinkGone(ifindex) for ifindex in self.owned.links]
        gone += [AddressGone(item) for item in self.owned.items.values()]
        return [gone[interruption % len(gone)]] if gone else []

    def _judge_frame(self, frame: Frame, allowed: dict[tuple[int, bytes], bool]) -> None:
        sent = frame.announcement
        which = (sent.ifindex, sent.address)
        assert self.owned.complete
        assert sent.hardware_address == self.owned.links[sent.ifindex].hardware_address
        assert which in allowed, "announced what is not owned"
        if frame.at < self.yielded.get(which, 0.0):
            assert sent.kind in (Kind.ARP_PROBE, Kind.RARP, Kind.DAD_PROBE), (
                "claimed what another claims"
            )
        if sent.kind is Kind.UNSOLICITED_NA:
            assert sent.override == allowed[which]
            assert sent.router == (sent.ifindex in self.owned.routers)
        bucket = self.settings.bucket
        if sent.ifindex not in self.buckets:
            self.buckets[sent.ifindex] = TokenBucket(bucket.rate, bucket.depth)
        self.buckets[sent.ifindex].take(frame.at)
        clock = self.clocks[which]
        assert frame.at - clock.since <= clock.most + 1e-3, (which, frame.at - clock.since)
        clock.since, clock.most = frame.at, self._longest(sent.ifindex, allowed)

    def _note_who_waits(self, now: float) -> None:
        allowed = self.allowed = self.owned.announceable(self.settings)
        self.clocks = {which: self.clocks.get(which) or Clock(now) for which in allowed}
        for which, clock in self.clocks.items():
            clock.most = max(clock.most, self._longest(which[0], allowed))

    def _longest(self, ifindex: int, allowed: dict[tuple[int, bytes], bool]) -> float:
        """The most that may pass between two announcements of an address of the link."""
        settings = self.settings
        number = sum(one == ifindex for one, _ in allowed)
        ticks = ceil(number / settings.addresses_per_tick)
        interval = settings.interval_with_lease if self.leased else settings.interval
        tokens = 2 * number + settings.bucket.depth
        return ticks * interval * (1 + settings.jitter) + tokens / settings.bucket.rate

    def _most_wakeups(self, seconds: float) -> float:
        links = max(1, len(self.owned.links))
        ticks = seconds / (self.settings.interval * (1 - self.settings.jitter)) + 1
        rounds = 10 * (len(self.owned.items) + 2) * (1 + self.interrupted)
        tokens = seconds * self.settings.bucket.rate + self.settings.bucket.depth
        return links * (ticks + rounds + tokens)

    # -- what must always be ---------------------------------------------------------------

    @invariant()
    def memory_is_bounded_by_what_is_owned(self) -> None:
        engine = self.agent.engine
        if not engine.inventory.complete:
            return
        assert set(engine.plans) == set(self.owned.links)
        lines = engine.schedule._links
        assert set(lines) <= set(self.owned.links)
        assert len(engine.schedule._heap) <= 2 * 3 + 65  # of three links, not of the triggers
        allowed = self.owned.announceable(self.settings)
        assert {(i, one) for i, line in lines.items() for one in line.addresses} == set(allowed)
        for line in lines.values():
            assert line.pending.keys() <= line.addresses.keys()
            assert len(line.bursts) <= len(line.addresses) + 2
        counted = {(i, one) for i, known in engine.counters._addresses.items() for one in known}
        assert counted <= set(allowed)
        owned = {(item.ifindex, item.address) for item in self.owned.items.values()}
        assert set(engine.conflicts.rivals) <= owned

    @invariant()
    def the_interval_is_that_of_the_lease_or_the_normal_one(self) -> None:
        engine = self.agent.engine
        wanted = self.settings
        expected = wanted.interval_with_lease if engine.lease.is_in_force else wanted.interval
        assert engine.schedule.interval == expected


TestGuest = Guest.TestCase
TestGuest.settings = property_settings(100, stateful_step_count=50)


class Kernel(RuleBasedStateMachine):
    """A kernel with links and addresses of its own, and a queue that may overrun.

    The reader does as system.netlink does: after an overrun it reads what was queued
    before, then asks for a dump; events go on meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inventory = Inventory()
        self.links: dict[int, Link] = {}
        self.items: dict[tuple[object, ...], InterfaceAddress] = {}
        self.queue: list[Any] = []
        self.lost = False  # since the last DumpStarted
        self.dump: Iterator[None] | None = None
        self.trusted = False  # nothing was lost since a dump was begun that is whole by now
        self.next_index = 2

    # -- what the kernel does ---------------------------------------------------------------

    @rule(flags=st.sampled_from([RUNNING, DOWN]))
    def create(self, flags: int) -> None:
        if len(self.links) < 4:
            self._tell_link(link(self.next_index, "eth0", flags=flags))
            self.next_index += 1

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ifindex = data.draw(st.sampled_from(sorted(self.links)))
        for row in [row for row in self.items if row[0] == ifindex]:
            self.queue.append(AddressGone(self.items.pop(row)))
        del self.links[ifindex]
        self.queue.append(LinkGone(ifindex))

    @precondition(lambda self: self.links)
    @rule(data=st.data(), name=st.sampled_from(["eth0", "eth1"]), end=st.integers(1, 9))
    def change(self, data: st.DataObject, name: str, end: int) -> None:
        ifindex = data.draw(st.sampled_from(sorted(self.links)))
        mac = bytes((2, 0, 0, 0, 0, end))
        self._tell_link(self.links[ifindex]._replace(name=name, hardware_address=mac))

    @precondition(lambda self: self.links)
    @rule(data=st.data(), item=items)
    def add(self, data: st.DataObject, item: InterfaceAddress) -> None:
        item = item._replace(ifindex=data.draw(st.sampled_from(sorted(self.links))))
        self.items[Owned.row(item)] = item
        self.queue.append(AddressSeen(item))

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.items, key=repr)))
        self.queue.append(AddressGone(self.items.pop(row)))

    @rule()
    def overrun(self) -> None:
        self.queue.clear()
        self.lost = True
        self.trusted = False

    def _tell_link(self, one: Link) -> None:
        self.links[one.ifindex] = one
        self.queue.append(LinkSeen(one))

    # -- what the reader does -----------------------------------------------------------------

    @rule(number=st.integers(1, 5))
    def read(self, number: int) -> None:
        now, self.queue = self.queue[:number], self.queue[number:]
        for event in now:
            self.inventory.apply(event)
            if isinstance(event, DumpComplete):
                self.trusted = not self.lost
                self.dump = None

    @precondition(lambda self: self.dump is None)
    @rule()
    def ask_for_a_dump(self) -> None:
        self.read(len(self.queue))
        self.inventory.apply(DumpStarted(self.lost))
        self.lost = False
        self.dump = self._dump()

    @precondition(lambda self: self.dump is not None)
    @rule()
    def dump_on(self) -> None:
        assert self.dump is not None
        next(self.dump, None)

    def _dump(self) -> Iterator[None]:
        # A datagram is filled at one moment, and what happens before it is queued comes first.
        told: list[Any] = [LinkSeen(one, dumped=True) for one in self.links.values()]
        yield
        self.queue += told
        rows = sorted(self.items, key=repr)
        for half in (rows[::2], rows[1::2]):
            there = [self.items[row] for row in half if row in self.items]
            yield
            self.queue += [AddressSeen(item, dumped=True) for item in there]
        if self.lost:
            self.dump = None  # the end of a dump with a loss in it is not passed on
        else:
            self.queue.append(DumpComplete())
        yield

    @invariant()
    def what_was_told_is_known(self) -> None:
        if self.trusted and not self.queue:
            found = {item for i in self.inventory.links for item in self.inventory.addresses(i)}
            assert self.inventory.links == self.links
            assert found == set(self.items.values())


TestKernel = Kernel.TestCase
TestKernel.settings = property_settings(60, stateful_step_count=60)
