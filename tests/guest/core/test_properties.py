"""A state machine: what must hold whatever happens, in whatever order.

It hands random events to an engine, also between two frames, and checks every frame against a
model of its own: what there is at that moment, an ordinary token bucket, and the time by which
each address must have been announced.

``GARP_AGENT_EXAMPLES=5000`` makes a long run of it, with other examples every time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    Conflict,
    ConflictPolicy,
    InterfaceSelection,
    RateLimit,
    Settings,
)
from garp_agent.guest.core.model import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    PROBE_KINDS,
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
from garp_agent.guest.core.schedule import LONGEST_REST
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

Row = tuple[object, ...]  # what the kernel tells the addresses of all links apart by
Where = tuple[int, bytes]  # ifindex and address

INDEXES = st.integers(2, 4)
BRIDGE = 4
V4 = [f"10.0.0.{n}/24" for n in range(1, 4)] + ["10.0.0.1/32"]
V6 = ["fd00::1/64", "fe80::1/64"]
CROWD = [f"10.1.0.{n}/16" for n in range(1, 31)]
RIVALS = [b"\2\0\0\0\0\x66", b"\2\0\0\0\0\x67"]
PEERS = [b"", bytes(15) + b"\7", bytes(15) + b"\x08"]
V6_FLAGS = [
    *(0, 0, IFA_F_TENTATIVE, IFA_F_TENTATIVE | IFA_F_OPTIMISTIC),
    *(IFA_F_TENTATIVE | IFA_F_DADFAILED, IFA_F_DEPRECATED),
]

links = st.builds(
    link,
    INDEXES,
    flags=st.sampled_from([RUNNING, RUNNING, RUNNING, NO_CARRIER, DOWN, RUNNING | IFF_LOOPBACK]),
    hardware_address=st.sampled_from([b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"]),
    master_ifindex=st.sampled_from([0, 0, 0, BRIDGE]),
    port_kind=st.sampled_from(["bridge", "vrf"]),
)
v6_items = st.builds(
    address,
    st.sampled_from(V6),
    INDEXES,
    flags=st.sampled_from(V6_FLAGS),
    peer=st.sampled_from(PEERS),
)
items = st.one_of(st.builds(address, st.sampled_from(V4), INDEXES), v6_items)
kernel_events = st.one_of(
    st.builds(LinkSeen, links, st.sampled_from([False, False, True])),
    st.builds(LinkSeen, links, dumped=st.booleans()),
    st.builds(AddressSeen, items),
    st.builds(AddressSeen, items, st.booleans()),
    st.builds(AddressGone, items),
    st.builds(LinkGone, INDEXES),
    st.builds(ForwardingSeen, INDEXES, st.booleans()),
    st.builds(DumpStarted, st.booleans()),
    st.builds(DumpComplete),
)
offsets = st.sampled_from([(), (0.0,), (0.0, 0.0, 0.05), (0.7, 0.8), (30.0,)])
other_events = st.one_of(
    st.builds(
        BurstRequested,
        st.sampled_from([Cause.HINT, Cause.OPERATOR]),
        offsets,
        ends_lease=st.booleans(),
    ),
    st.builds(LeaseGranted, st.sampled_from([0.0, 0.3, 7.0, 3600.0])),
    st.builds(HintPortClosed),
    st.builds(Resumed, st.sampled_from([0.5, 3600.0])),
    st.builds(
        ClaimSeen,
        INDEXES.map(lambda ifindex: f"eth{ifindex}"),
        st.sampled_from([address(text).address for text in (*V4, *V6, CROWD[0])]),
        st.sampled_from([*RIVALS, b"\2\0\0\0\0\1"]),
        st.booleans(),
    ),
)
events = st.lists(
    st.one_of(kernel_events, kernel_events, kernel_events, other_events), min_size=1, max_size=6
)

SETTINGS = [
    Settings(interval=5.0, interval_with_lease=20.0),
    Settings(interval=0.5, interval_with_lease=5.0, jitter=0.5, addresses_per_tick=1),
    Settings(interval=2.0, arp=ArpForm.BOTH, rate_limit=RateLimit(3.0, 2), mac_only=True),
    Settings(jitter=0.0, burst=(0.0,), addresses=AddressSelection(ipv6=False), mac_only=True),
    Settings(interval=1.0, interfaces=InterfaceSelection(exclude=("eth3",)), arp=ArpForm.PROBE),
    Settings(interval=1.0, conflict=Conflict(ConflictPolicy.YIELD, 3.0)),
    Settings(interval=1.0, conflict=Conflict(ConflictPolicy.DEFEND, 3.0)),
    Settings(interval=270.0, interval_with_lease=270.0, rate_limit=RateLimit(0.5, 4)),
]


def row(item: InterfaceAddress) -> Row:
    ipv4 = (item.prefix_length, item.peer) if len(item.address) == 4 else ()
    return (item.ifindex, item.address, *ipv4)


class Owned:
    """What the guest has, as rows of links and addresses."""

    def __init__(self) -> None:
        self.complete = False
        self.links: dict[int, Link] = {}
        self.items: dict[Row, InterfaceAddress] = {}
        self.routers: set[int] = set()
        self.dumping = False
        self.carried: set[int] = set()  # links that have, or had, a carrier
        self.named: set[Row] = set()  # what was seen since the dump under way was started
        self.live: set[Row] = set()  # what live events were about since then

    def take(self, event: Any) -> None:
        if isinstance(event, DumpStarted):
            self.dumping, self.named, self.live = True, set(), set()
        elif isinstance(event, DumpComplete) and self.dumping:
            self._drop([i for i in self.links if (i,) not in self.named])
            self.items = {key: item for key, item in self.items.items() if key in self.named}
            self.dumping, self.complete = False, True
        elif isinstance(event, LinkSeen) and self._believe((event.link.ifindex,), event.dumped):
            self.links[event.link.ifindex] = event.link
        elif isinstance(event, AddressSeen):
            link_row = (event.address.ifindex,)
            left = link_row in self.live and event.address.ifindex not in self.links
            stale = self.dumping and event.dumped and left
            if not stale and self._believe(row(event.address), event.dumped):
                self.items[row(event.address)] = event.address
        elif isinstance(event, AddressGone):
            self.items.pop(row(event.address), None)
            self.live.add(row(event.address))
        elif isinstance(event, LinkGone):
            self._drop([event.ifindex])
            self.live.add((event.ifindex,))
        elif isinstance(event, ForwardingSeen):
            (self.routers.add if event.forwarding else self.routers.discard)(event.ifindex)

    def note_carriers(self) -> None:
        """Note which links have a carrier at the end of a turn."""
        self.carried &= self.links.keys()
        self.carried.update(i for i, one in self.links.items() if one.flags == RUNNING)

    def _believe(self, key: Row, dumped: bool) -> bool:
        """A dump says nothing new about what live events were about since its start."""
        if self.dumping and dumped and key in self.live:
            return False
        self.named.add(key)
        if not dumped:
            self.live.add(key)
        return True

    def _drop(self, ifindexes: list[int]) -> None:
        for ifindex in ifindexes:
            self.links.pop(ifindex, None)
            self.routers.discard(ifindex)
            self.items = {key: item for key, item in self.items.items() if key[0] != ifindex}

    def pairs(self) -> set[Where]:
        return {(item.ifindex, item.address) for item in self.items.values()}

    def announceable(self, settings: Settings) -> dict[Where, bool]:
        """What may be announced, and with which override flag."""
        found: dict[Where, bool] = {}
        speaking: dict[int, dict[bytes, bool]] = {}
        for ifindex, one in self.links.items():
            is_port = one.master_ifindex and one.port_kind != "vrf"
            if one.flags != RUNNING or is_port or one.name in settings.interfaces.exclude:
                continue
            if one.kind == "bridge" and not self._has_port(ifindex) and self._has_other_link():
                continue
            good = {
                item.address: not item.flags & IFA_F_OPTIMISTIC
                for item in self.items.values()
                if item.ifindex == ifindex and self._is_good(item, settings)
            }
            speaking[ifindex] = good
        for ifindex, good in speaking.items():
            mine = {
                one: override
                for one, override in good.items()
                if ifindex == min(self._segment(ifindex, one, speaking))
            }
            if not mine and settings.mac_only:
                mine = {b"": True}
            found.update({(ifindex, one): override for one, override in mine.items()})
        return found

    def _segment(self, ifindex: int, address: bytes, speaking: dict[int, Any]) -> set[int]:
        """Return the links with an address that are in one segment with a link, also by others."""
        found = {ifindex}
        others = {each for each in speaking if address in speaking[each]} - found
        more = found
        while more:
            more = {each for each in others if any(self._is_joined(each, one) for one in found)}
            found = found | more
            others -= more
        return found

    def _is_joined(self, one: int, other: int) -> bool:
        """Return whether two links have a subnet and a VRF in common."""
        return bool(self._subnets(one) & self._subnets(other))

    def _subnets(self, ifindex: int) -> set[tuple[int, bytes]]:
        link = self.links[ifindex]
        return {
            (link.master_ifindex, (item.peer or item.address)[:3])
            for item in self.items.values()
            if item.ifindex == ifindex and item.prefix_length not in (32, 128)
        }

    def _has_port(self, bridge: int) -> bool:
        return any(
            one.master_ifindex == bridge and one.port_kind == "bridge"
            for one in self.links.values()
        )

    def _has_other_link(self) -> bool:
        return any(
            (one.flags in (RUNNING, NO_CARRIER) or one.ifindex in self.carried)
            and not one.flags & IFF_LOOPBACK
            and one.kind != "bridge"
            and not (one.master_ifindex and one.port_kind == "bridge")
            for one in self.links.values()
        )

    @staticmethod
    def _is_good(item: InterfaceAddress, settings: Settings) -> bool:
        if len(item.address) == 4:
            return True
        good = (0, IFA_F_DEPRECATED, IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)
        return settings.addresses.ipv6 and item.flags in good


class Clock:
    """Since when one address waits, and for how long it may wait at most."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.most = 0.0


class Guest(RuleBasedStateMachine):
    """An engine that gets random events."""

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
        self.owned = Owned()
        self.allowed: dict[Where, bool] = {}  # to be announced, with the override flag
        self.buckets: dict[int, TokenBucket] = {}
        self.clocks: dict[Where, Clock] = {}
        self.probed: dict[Where, float] = {}  # when a probe was sent
        self.yielded: dict[Where, float] = {}  # until when, because a rival answered a probe
        self.answering: tuple[bytes, ...] = ()  # rivals that answer the guest's probes
        self.interruptions: list[list[Any] | int] = []  # one after each of the next frames
        self.leased = False  # at some time in this step
        port = link(2, master_ifindex=BRIDGE if bridged else 0, port_kind="bridge")
        self.happen(dump(port, link(3), link(BRIDGE, kind="bridge"), *first))

    # -- what happens ---------------------------------------------------------------------

    @rule(events=events)
    def happen(self, events: list[Any]) -> None:
        self._take(events, self.agent.now)
        self._check(lambda: self.agent.tell(*events))

    @rule(interruptions=st.lists(st.one_of(events, st.integers(0, 99)), min_size=1, max_size=8))
    def interrupt_the_next_frames(self, interruptions: list[list[Any] | int]) -> None:
        self.interruptions = interruptions

    @rule(ifindex=INDEXES, gone=st.booleans())
    def a_crowd_comes_or_goes(self, ifindex: int, gone: bool) -> None:
        kind = AddressGone if gone else AddressSeen
        self.happen([kind(address(text, ifindex)) for text in CROWD])

    @rule(overrun=st.booleans(), left_out=st.integers(0, 9))
    def a_dump_leaves_out_one_thing(self, overrun: bool, left_out: int) -> None:
        things = [*self.owned.links.values(), *self.owned.items.values()]
        self.happen(dump(*(t for n, t in enumerate(things) if n != left_out), overrun=overrun))

    @rule(ifindex=INDEXES, times=st.integers(1, 20))
    def carrier_flaps(self, ifindex: int, times: int) -> None:
        if ifindex in self.owned.links:
            up = self.owned.links[ifindex]
            for flags in [NO_CARRIER, RUNNING] * times:
                self.happen([LinkSeen(up._replace(flags=flags))])

    @rule(which=st.integers(0, 99), rival=st.sampled_from(RIVALS))
    def a_rival_claims_an_address(self, which: int, rival: bytes) -> None:
        mine = sorted(pair for pair in self.owned.announceable(self.settings) if pair[1])
        if mine:
            ifindex, one = mine[which % len(mine)]
            self.happen([ClaimSeen(f"eth{ifindex}", one, rival)])

    @rule(rivals=st.sampled_from([(), (), RIVALS[:1], RIVALS]))
    def rivals_answer_from_now_on(self, rivals: tuple[bytes, ...]) -> None:
        self.answering = tuple(rivals)

    @rule(settings=st.sampled_from(SETTINGS))
    def reconfigure(self, settings: Settings) -> None:
        for bucket in self.buckets.values():
            bucket.change(*settings.rate_limit, self.agent.now)
        self.settings = settings
        self.yielded.clear()
        self.probed.clear()
        self.agent.engine.reconfigure(settings, self.agent.now)
        self._check(self.agent.tell)

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.1, 0.4, 1.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self._check(lambda: self.agent.wait(seconds))

    @rule(seconds=st.sampled_from([0.3, 3.0, 30.0, 3600.0]), events=events)
    def be_stopped(self, seconds: float, events: list[Any]) -> None:
        for clock in self.clocks.values():
            clock.since += seconds
        self._take(events, self.agent.now + seconds)
        self._check(lambda: self.agent.stop(seconds, *events), seconds)

    @rule(outcome=st.sampled_from([(SendOutcome.SENT, 0), (SendOutcome.DROPPED, 105)]))
    def frames_have_another_outcome(self, outcome: tuple[SendOutcome, int]) -> None:
        self.agent.outcome = outcome

    # -- the model ------------------------------------------------------------------------

    def _take(self, events: list[Any], now: float) -> None:
        """Note what there is, and which addresses are yielded because a rival has them."""
        before = self.owned.announceable(self.settings)
        for event in events:
            self.owned.take(event)
            pairs = self.owned.pairs()
            self.yielded = {which: end for which, end in self.yielded.items() if which in pairs}
        self.owned.note_carriers()
        after = self.owned.announceable(self.settings)
        if self.settings.conflict.policy is ConflictPolicy.YIELD:
            for event in events:
                if isinstance(event, ClaimSeen) and event.answers:
                    which = (int(event.interface[3:]), event.address)
                    if which in before and which in after and self._is_believed(event, now):
                        self.yielded[which] = now + self.settings.conflict.hold_off / 4

    def _is_believed(self, event: ClaimSeen, now: float) -> bool:
        """Whether the claim comes from a rival, in time after a probe."""
        ifindex = int(event.interface[3:])
        proxies = self.agent.engine.conflicts.proxy_tests.proxies
        is_rival = event.hardware_address in RIVALS
        in_time = now - self.probed.get((ifindex, event.address), -10.0) < 0.5
        return is_rival and in_time and (ifindex, event.hardware_address) not in proxies

    def _start_clocks(self, now: float) -> None:
        self.allowed = self.owned.announceable(self.settings)
        self.clocks = {which: self.clocks.get(which) or Clock(now) for which in self.allowed}
        for which, clock in self.clocks.items():
            clock.most = max(clock.most, self._longest(which[0]))

    def _longest(self, ifindex: int) -> float:
        """The most that may pass between two announcements of an address of the link."""
        settings = self.settings
        number = sum(one == ifindex for one, _ in self.allowed)
        ticks = ceil(number / settings.addresses_per_tick)
        interval = settings.interval_with_lease if self.leased else settings.interval
        # Stacked links share a bucket.  Each address can have an announcement before it in the
        # queue, and its release; each rival is tested with two frames.
        tokens = 4 * len(self.allowed) + settings.rate_limit.depth + 4
        return (
            ticks * interval * (1 + settings.jitter)
            + tokens / settings.rate_limit.frames_per_second
        )

    # -- the checks -----------------------------------------------------------------------

    def _check(self, act: Callable[[], object], stopped: float = 0.0) -> None:
        self.leased = self.agent.engine.lease.is_in_force
        self._start_clocks(self.agent.now + stopped)
        revision, targets = self.agent.engine.revision, self._targets()
        act()
        assert self._targets() == targets or self.agent.engine.revision != revision
        self.leased = self.leased or self.agent.engine.lease.is_in_force
        self.buckets = {i: b for i, b in self.buckets.items() if i in self.owned.links}
        self._start_clocks(self.agent.now)
        for which, clock in self.clocks.items():
            self._check_wait(which, clock, self.agent.now)

    def _targets(self) -> list[tuple[int, object]]:
        return [(i, plan.targets) for i, plan in self.agent.engine.plans.items() if plan.targets]

    def _check_wait(self, which: Where, clock: Clock, now: float) -> None:
        assert now - clock.since <= clock.most + 1e-3, (which, now - clock.since, clock.most)

    def _after_frame(self, frame: Frame) -> list[Any]:
        """Check a frame when it is sent; return what happens before the next one."""
        self._check_frame(frame)
        answers = self._answers(frame)
        self._take(answers, self.agent.now)
        if not self.interruptions:
            return answers
        happening = self.interruptions.pop(0)
        if isinstance(happening, int):  # one of the things there are goes
            gone: list[Any] = [LinkGone(ifindex) for ifindex in self.owned.links]
            gone += [AddressGone(item) for item in self.owned.items.values()]
            happening = [gone[happening % len(gone)]] if gone else []
        self._take(happening, self.agent.now)
        self.leased = self.leased or any(isinstance(each, LeaseGranted) for each in happening)
        self._start_clocks(self.agent.now)
        return [*answers, *happening]

    def _answers(self, frame: Frame) -> list[Any]:
        sent = frame.announcement
        if sent.kind not in PROBE_KINDS or sent.cause is Cause.PROXY_TEST:
            return []
        self.probed[sent.ifindex, sent.address] = frame.at
        name = f"eth{sent.ifindex}"
        return [
            ClaimSeen(name, sent.address, rival, sent.hardware_address) for rival in self.answering
        ]

    def _check_frame(self, frame: Frame) -> None:
        sent = frame.announcement
        which = (sent.ifindex, sent.address)
        assert self.owned.complete
        if sent.cause is Cause.PROXY_TEST:
            assert sent.kind in PROBE_KINDS
            assert any(one == sent.ifindex for one, _ in self.allowed)
            self._take_token(frame)
            return
        assert which in self.allowed, "what is announced is not there"
        assert sent.hardware_address == self.owned.links[sent.ifindex].hardware_address
        if frame.at < self.yielded.get(which, 0.0):
            assert sent.kind in (*PROBE_KINDS, Kind.RARP), "claims a yielded one"
        if sent.kind is Kind.UNSOLICITED_NA:
            assert sent.override == self.allowed[which]
            assert sent.router == (sent.ifindex in self.owned.routers)
        self._take_token(frame)
        clock = self.clocks[which]
        self._check_wait(which, clock, frame.at)
        clock.since, clock.most = frame.at, self._longest(sent.ifindex)
        if self.agent.outcome[0] is not SendOutcome.SENT:  # the link rests
            for one, waiting in self.clocks.items():
                if one[0] == sent.ifindex:
                    waiting.since = frame.at + LONGEST_REST

    def _take_token(self, frame: Frame) -> None:
        if self.agent.outcome[0] is not SendOutcome.SENT:
            return
        ifindex = frame.announcement.ifindex
        if ifindex not in self.buckets:
            self.buckets[ifindex] = TokenBucket(*self.settings.rate_limit)
        self.buckets[ifindex].take(frame.at)

    @invariant()
    def memory_is_bounded_by_what_there_is(self) -> None:
        engine = self.agent.engine
        if not engine.inventory.complete:
            return
        assert set(engine.plans) == set(self.owned.links)
        schedules = engine.schedule._links
        assert set(schedules) <= set(self.owned.links)
        # For three links and as many buckets, also those of former groups.
        assert len(engine.schedule._heap) <= 2 * 9 + 65
        allowed = set(self.owned.announceable(self.settings))
        assert {(i, one) for i, each in schedules.items() for one in each.addresses} == allowed
        for each in schedules.values():
            tests = {a for a, cause in each.pending.items() if cause is Cause.PROXY_TEST}
            assert each.pending.keys() - tests <= each.addresses.keys()
            assert len(each.bursts) <= len(each.addresses) + 2
        counted = {(i, one) for i, known in engine.counters._addresses.items() for one in known}
        assert counted <= allowed
        rivals = engine.conflicts.rivals.items()
        assert {(i, one) for i, known in rivals for one in known} <= allowed

    @invariant()
    def interval_is_that_of_the_lease_or_the_normal_one(self) -> None:
        engine, wanted = self.agent.engine, self.settings
        leased = engine.lease.is_in_force
        assert engine.schedule.interval == (
            wanted.interval_with_lease if leased else wanted.interval
        )


TestGuest = Guest.TestCase
TestGuest.settings = property_settings(100, stateful_step_count=50)
