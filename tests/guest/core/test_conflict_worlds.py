"""Worlds with rivals: what must hold whatever other stations do, and whatever happens meanwhile.

The agent lives in a small network (rival_stations): owners that answer, forgers, proxies and
repeaters, links whose ports forward late.  Hypothesis draws what happens.  After every turn of the
agent, a few promises of docs/how-it-works.md are checked.

``GARP_AGENT_EXAMPLES=5000`` makes a long run of it, with other examples every time.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from garp_agent.config.settings import Conflict, Settings
from garp_agent.guest.core.model import (
    PROBE_KINDS,
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    Kind,
    LeaseGranted,
    LinkSeen,
)
from tests.guest.core.conflict_world import CLAIMS, DEFEND, ETH0, ETH1, WARN, YIELD
from tests.guest.core.rival_stations import NAMES, Network, Station
from tests.world import NO_CARRIER, Agent, Frame, TokenBucket, address, dump, property_settings

Where = tuple[int, bytes]  # ifindex and address

ITEMS = [address(f"192.0.2.{n}/24") for n in range(10, 14)]
ITEMS += [address(f"2001:db8::{n}/64") for n in range(10, 12)]
LINKS = {ETH0.ifindex: ETH0, ETH1.ifindex: ETH1}
WAITS = (Cause.START, Cause.LINK_UP, Cause.RESUME, Cause.REFRESH)
UNSURE = 60.0  # seconds in which each refresh begins with a probe
REMEMBERED = 60.0  # seconds
ECHO = 1.0  # seconds; the answer of a station that was silent may be an echo before
LATE = 1.0  # seconds; a probe that comes later than another one belongs to another check
LEAST_WAIT = 0.1  # seconds between a probe and the announcement, in a check that goes on
REST = 4.0  # seconds after a check without an answer in which a claim starts no other
YIELDS = 10.0  # seconds: a rest, a place among the checks of the link, a probe and its answer
RETEST = 2.0  # seconds until a station whose test for a proxy missed one answer is tested again
UNSENT = 60.0  # seconds; the same where a flap has dropped the probes of the test
QUEUE = 3.0  # seconds in which the token bucket lets out what may be pending here

delays = st.sampled_from([0.0, 0.0, 0.02, 0.2, 0.45, 1.0, 1.4, 3.0, 8.0])
latencies = st.sampled_from([0.0005, 0.01, 0.06, 0.2])
numbers = st.integers(0, 23)
kinds = st.sampled_from(["owner", "owner", "owner", "crowd", "forger", "proxy", "repeater"])


class Worlds(RuleBasedStateMachine):
    """An agent among stations.  Each rule is one thing that happens, now or after a delay."""

    @initialize(
        interval=st.sampled_from([1.0, 5.0, 60.0]),
        count=st.sampled_from([1, 1, 2, 3, 6]),
        cast=st.lists(st.tuples(kinds, latencies), min_size=1, max_size=4),
        held=st.lists(st.tuples(numbers, numbers), max_size=4),
    )
    def start(
        self,
        interval: float,
        count: int,
        cast: list[tuple[str, float]],
        held: list[tuple[int, int]],
    ) -> None:
        self.settings = Settings(interval=interval)
        self.agent = Agent(self.settings, now=0.0)
        self.agent.after_frame = self._after_frame
        self.net = Network(self.agent, self._lost, self._heard, self._check)
        self.net.stations = [Station(n, *each) for n, each in enumerate(cast)]
        self.at = {item.address: item.ifindex for item in (ITEMS[::2] + ITEMS[1::2])[:count]}
        self.items = {item.address: item for item in ITEMS if item.address in self.at}
        self.gone: set[bytes] = set()  # addresses that the guest does not have now
        self.had: dict[bytes, float] = {}  # when an address was last announced on any link
        self.buckets = {ifindex: TokenBucket(*self.settings.rate_limit) for ifindex in LINKS}
        # The owners whose answer the guest has read, while it must leave the address to them.
        self.known: dict[bytes, set[Station]] = {each: set() for each in self.at}
        # Owners that claim an address, and since when.
        self.claiming: dict[bytes, dict[Station, float]] = {each: {} for each in self.at}
        self.missed: set[bytes] = set()  # the latest answer for these was lost: one may be
        self.probed: dict[Where, float] = {}  # the first probe since the latest claim
        self.latest_probe: dict[Where, float] = {}
        self.is_first_probe: dict[Where, bool] = {}  # of a check
        self.claimed: dict[Where, float] = {}
        self.answered: dict[Where, float] = {}  # the latest answer, or what looks like one
        self.withheld: dict[Where, float] = {}  # since when
        # Since when an address waits for an announcement, and the longest interval since then.
        self.clocks: dict[Where, tuple[float, float]] = {}
        self.claimers: dict[Where, Station] = {}  # the station that claimed an address last
        self.silent: set[tuple[int, Station]] = set()  # claimed, but answered no probe of a check
        self.ended: dict[Where, float] = {}  # the latest end of a check without an answer
        self.released: dict[Where, float] = {}  # since when one is to be announced again
        # The latest frame that teaches the switches, and the longest interval since then.
        self.taught: dict[int, tuple[float, float]] = {}
        # Claims through the port of a link since that, or the address, came.
        self.slips: dict[bytes, int] = {}
        self.unsure_until = dict.fromkeys(LINKS, UNSURE)
        self.resumed = (0.0, 0)  # when the guest last resumed, and how often it has
        self.settled = 0.0  # the latest stop, reload or flap: some bounds count from there
        self.at_once_until = 0.0  # a round of a burst need not begin with a probe before
        self.has_flapped = self.was_leased = False
        self.idle = (0, 0)  # the second that is counted, and its turns without a purpose
        self.frames = 0
        for who, which in held:
            self._take(self._station(who), self._address(which))
        self.net.tell(*dump(*LINKS.values(), *self.items.values()))

    # -- what other stations do -------------------------------------------------------------

    @rule(who=numbers, which=numbers, delay=delays, claims=st.sampled_from([0, 1, 5]))
    def an_owner_takes_an_address(self, who: int, which: int, delay: float, claims: int) -> None:
        station, one = self._station(who), self._address(which)
        self.net.after(delay, lambda: self._take(station, one))
        self._claim_often(station, one, delay, claims, 1.0)

    @rule(who=numbers, which=numbers, delay=delays, everything=st.booleans())
    def an_owner_leaves(self, who: int, which: int, delay: float, everything: bool) -> None:
        station, one = self._station(who), self._address(which)
        which_ones = list(self.at) if everything else [one]
        self.net.after(delay, lambda: self._leave(station, which_ones))

    @rule(
        who=numbers,
        which=numbers,
        delay=delays,
        times=st.sampled_from([1, 1, 3, 40]),
        apart=st.sampled_from([0.1, 1.0, 7.0]),
        form=st.booleans(),
    )
    def a_station_claims(
        self, who: int, which: int, delay: float, times: int, apart: float, form: bool
    ) -> None:
        self._claim_often(self._station(who), self._address(which), delay, times, apart, form)

    @rule(who=numbers, which=numbers)
    def a_station_claims_after_a_quiet_minute(self, who: int, which: int) -> None:
        station, one = self._station(who), self._address(which)
        self.net.wait(UNSURE + 15.0)
        self._take(station, one)
        self._claim_often(station, one, 0.0, 3, 7.0)
        self.net.wait(25.0)

    @rule(which=numbers, times=st.sampled_from([4, 40]))
    def a_forger_claims_under_many_hardware_addresses(self, which: int, times: int) -> None:
        one = ITEMS[which % 4].address
        for n in range(times):
            forged = Station(100 + n, "forger", 0.0005)
            self._claim_often(forged, one, n * 0.15)

    @rule(who=numbers, delay=delays, seconds=st.sampled_from([0.1, 1.0, 5.0, 70.0]))
    def answers_are_lost_for_a_while(self, who: int, delay: float, seconds: float) -> None:
        station = self._station(who)
        if station.kind == "proxy":  # after three failed tests, the next one comes after a minute
            return

        def be(mute: bool) -> None:
            station.is_mute, station.was_silent = mute, True

        self.net.after(delay, lambda: be(True))
        self.net.after(delay + seconds, lambda: be(False))

    @rule(who=numbers)
    def one_answer_is_lost(self, who: int) -> None:
        station = self._station(who)
        if not (station.kind == "proxy" and station.was_silent):  # only once, as above
            station.loses, station.was_silent = 1, station.was_silent or station.kind == "proxy"

    # -- what happens to the guest ----------------------------------------------------------

    @rule(
        ifindex=st.sampled_from(sorted(LINKS)),
        delay=delays,
        down=st.sampled_from([0.0, 0.3, 5.0, 70.0]),
        blocked=st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.6, 12.0, 30.0]),
    )
    def a_link_flaps(self, ifindex: int, delay: float, down: float, blocked: float) -> None:
        self.net.after(delay, lambda: self._go_down(ifindex))
        self.net.after(delay + down, lambda: self._come_up(ifindex, blocked))

    @rule(
        ifindex=st.sampled_from(sorted(LINKS)),
        down=st.sampled_from([0.3, 5.0, 70.0]),
        blocked=st.sampled_from([0.0, 0.3, 12.0]),
        later=st.sampled_from([0.0, 0.05, 2.0, 20.0]),
        who=numbers,
        which=numbers,
    )
    def a_link_flaps_and_has_its_addresses_later(
        self, ifindex: int, down: float, blocked: float, later: float, who: int, which: int
    ) -> None:
        """As a network manager does it.  Meanwhile a station takes one address, and claims none."""
        self._go_down(ifindex)
        for one in [each for each, at in self.at.items() if at == ifindex]:
            self._delete(one)
            self.net.after(down + later, lambda each=one: self._add(each, False))
        self._take(self._station(who), self._address(which))
        self.net.after(down, lambda: self._come_up(ifindex, blocked))

    @rule(
        which=numbers,
        delay=delays,
        away=st.sampled_from([0.0, 0.2, 5.0, 50.0, 90.0]),
        moves=st.booleans(),
    )
    def an_address_is_deleted_and_added_again(
        self, which: int, delay: float, away: float, moves: bool
    ) -> None:
        one = self._address(which)
        self.net.after(delay, lambda: self._delete(one))
        self.net.after(delay + away, lambda: self._add(one, moves))

    @rule(delay=delays, offsets=st.sampled_from([(), (0.0,), (0.7, 0.8)]), ends=st.booleans())
    def a_hint_comes(self, delay: float, offsets: tuple[float, ...], ends: bool) -> None:
        hint = BurstRequested(Cause.HINT, offsets, ends_lease=ends)
        self.net.after(delay, lambda: self.net.tell(hint))

    @rule(ifindex=st.sampled_from(sorted(LINKS)), delay=delays)
    def the_kernel_asks_for_announcements(self, ifindex: int, delay: float) -> None:
        def ask() -> None:
            if ifindex not in self.net.down:
                self.net.tell(LinkSeen(LINKS[ifindex], notify_peers=True))

        self.net.after(delay, ask)

    @rule(seconds=st.sampled_from([0.0, 10.0, 3600.0]))
    def a_lease_is_granted(self, seconds: float) -> None:
        self.net.tell(LeaseGranted(seconds))

    @rule(
        policy=st.sampled_from([YIELD, YIELD, YIELD, WARN, DEFEND]),
        hold_off=st.sampled_from([2.0, 2.0, 0.5, 20.0]),
        ignored=st.lists(numbers, max_size=1),
        interval=st.sampled_from([1.0, 5.0, 60.0]),
    )
    def the_configuration_is_read(
        self, policy: Any, hold_off: float, ignored: list[int], interval: float
    ) -> None:
        macs = [self._station(who).hardware_address for who in ignored]
        conflict = Conflict(policy, hold_off, tuple((each, b"\xff" * 6) for each in macs))
        self.settings = self.settings._replace(conflict=conflict, interval=interval)
        self._unsettle()
        for station in self.net.stations:
            station.answered.clear()
            station.was_silent |= self._is_ignored(station)
        for owners in self.known.values():
            kept = [each for each in owners if not self._is_ignored(each)]
            owners.intersection_update(kept if policy is YIELD else ())
        for known in (self.slips, self.withheld, self.released):
            known.clear()  # a probe that is pending can take the place of an announcement
        self.at_once_until = self.agent.now + QUEUE  # the rounds of a burst before
        self.agent.engine.reconfigure(self.settings, self.agent.now)
        self.net.tell()
        self.net.wait(0.3)  # a reload takes the next step of a check at once: not three in a row

    @rule(seconds=st.sampled_from([0.4, 3.0, 15.0]))
    def the_process_is_stopped(self, seconds: float) -> None:
        self._unsettle(seconds)
        self.at_once_until += seconds
        self.net.stop(seconds)

    @rule(seconds=st.sampled_from([1.0, 600.0]))
    def the_machine_is_suspended(self, seconds: float) -> None:
        self._unsettle()
        self.net.suspend(seconds)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0]))
    def a_moment_passes(self, seconds: float) -> None:
        self.net.wait(seconds)

    @rule(seconds=st.sampled_from([3.0, 8.0, 8.0, 30.0, 90.0]))
    def time_passes(self, seconds: float) -> None:
        self.net.wait(seconds)

    # -- how it happens ---------------------------------------------------------------------

    def _station(self, number: int) -> Station:
        return self.net.stations[number % len(self.net.stations)]

    def _address(self, number: int) -> bytes:
        return sorted(self.items)[number % len(self.items)]

    def _take(self, station: Station, one: bytes) -> None:
        if station.kind in ("owner", "crowd"):
            station.has.add(one)

    def _leave(self, station: Station, which: list[bytes]) -> None:
        station.has -= set(which)
        station.was_silent = True
        for one in which:
            station.answered.pop(one, None)
            self.known[one].discard(station)
            self.claiming[one].pop(station, None)

    def _claim_often(
        self,
        station: Station,
        one: bytes,
        delay: float,
        times: int = 1,
        apart: float = 1.0,
        form: bool = False,
    ) -> None:
        def claim() -> None:
            # Not in one turn with an answer: each station would be tested for a proxy at once.
            is_heard = station in self.net.stations or not self.net.is_stopped
            if is_heard and (station.kind == "forger" or one in station.has):
                self.net.claim(station, one, form)

        for n in range(times):
            self.net.after(delay + n * apart, claim)

    def _go_down(self, ifindex: int) -> None:
        self._note_what_there_is()
        self.net.down.add(ifindex)
        self.has_flapped = True
        self._unsettle()
        self.net.tell(LinkSeen(LINKS[ifindex]._replace(flags=NO_CARRIER)))

    def _come_up(self, ifindex: int, blocked: float) -> None:
        if ifindex not in self.net.down:
            return
        self.net.down.discard(ifindex)
        self._unsettle()
        self.unsure_until[ifindex] = self.agent.now + UNSURE
        for one, at in self.had.items():
            if self.at[one] == ifindex and self.agent.now - at > REMEMBERED:
                self.known[one].clear()
        if blocked:
            self.net.blocked[ifindex] = self.net.blocked.get(ifindex, 0) + 1
            self.net.after(blocked, lambda: self._open(ifindex))
        self.slips.update({one: 0 for one, where in self.at.items() if where == ifindex})
        self.net.tell(LinkSeen(LINKS[ifindex]))

    def _open(self, ifindex: int) -> None:
        self.net.blocked[ifindex] -= 1

    def _delete(self, one: bytes) -> None:
        if one not in self.gone:
            self._note_what_there_is()
            self.gone.add(one)
            self.net.tell(AddressGone(self.items[one]._replace(ifindex=self.at[one])))

    def _add(self, one: bytes, moves: bool) -> None:
        if one in self.gone:
            self.gone.discard(one)
            if self.agent.now - self.had.get(one, 0.0) > REMEMBERED:
                self.known[one].clear()
            self.at_once_until = self.agent.now + QUEUE
            self._unsettle()
            if moves:
                self.at[one] = sum(LINKS) - self.at[one]
            self.slips[one] = 0
            self.net.tell(AddressSeen(self.items[one]._replace(ifindex=self.at[one])))

    def _note_what_there_is(self) -> None:
        there = [one for one, ifindex in self.at.items() if self._is_announced((ifindex, one))]
        self.had.update(dict.fromkeys(there, self.agent.now))

    def _unsettle(self, seconds: float = 0.0) -> None:
        self.settled = max(self.settled, self.agent.now + seconds)
        for owners in self.claiming.values():
            owners.clear()

    # -- what the guest must know -------------------------------------------------------------

    def _lost(self, one: bytes, why: str) -> None:
        """A probe had no answer because of the path: the guest may think that nobody is there."""
        if why != "path":
            self.slips.pop(one, None)
        if one in self.known and (why != "once" or one in self.missed):
            for each in self.net.stations:
                each.was_silent = each.was_silent or one in each.has
            self.known[one].clear()
        self.missed.add(one)
        self.claiming.get(one, {}).clear()

    def _heard(self, station: Station, event: ClaimSeen, is_answer: bool) -> None:
        one, now = event.address, self.agent.now
        where = next(i for i, name in NAMES.items() if name == event.interface), one
        if one not in self.known or self.at[one] != where[0]:
            return
        if is_answer:
            self.missed.discard(one)
        if event.answers and station.kind != "proxy":
            self.answered[where] = now
            self.silent.discard((where[0], station))
        self.claimers[where] = station
        may_be_echo = station.was_silent and now - self.claimed.get(where, -ECHO) < ECHO
        yields = self.settings.conflict.policy is YIELD and not self._is_ignored(station)
        if not (yields and one in station.has and self._is_announced(where)):
            return
        if is_answer:
            # An answer may come after the end of a check that began before the station came.
            first = station.answered.setdefault(one, now)
            in_time = self.is_first_probe.get(where, False) or now - first > LATE
            if in_time and not may_be_echo:
                self.known[one].add(station)
                self.slips.pop(one, None)
        else:
            self.claiming[one].setdefault(station, now)

    def _is_ignored(self, station: Station) -> bool:
        ignored = [bits for bits, _ in self.settings.conflict.ignore]
        return station.hardware_address in ignored

    def _is_announced(self, where: Where) -> bool:
        plan = self.agent.engine.plans.get(where[0])
        return plan is not None and where[1] in plan.targets

    # -- the checks -----------------------------------------------------------------------------

    def _after_frame(self, frame: Frame) -> list[Any]:
        sent, now = frame.announcement, frame.at
        where, one = (sent.ifindex, sent.address), sent.address
        self.buckets[sent.ifindex].take(now)
        self.frames += 1
        if sent.kind not in (Kind.DAD_PROBE, Kind.SOLICITATION) and not sent.asked:
            self.taught[sent.ifindex] = now, 0.0
        if sent.kind in PROBE_KINDS and one in self.known:
            self.probed.setdefault(where, now)
            self.is_first_probe[where] = now - self.latest_probe.get(where, -LATE) > LATE
            self.latest_probe[where] = now
        if sent.kind in CLAIMS:
            self._check_claim(where, sent.cause, now)
            self.claimed[where], self.clocks[where] = now, (now, 0.0)
            self.released.pop(where, None)
            if sent.cause in WAITS:
                self.probed.pop(where, None)
        self.net.sent(frame)
        return []

    def _check_claim(self, where: Where, cause: Cause, now: float) -> None:
        one = where[1]
        yields = self.settings.conflict.policy is YIELD
        unsure_until = max(self.unsure_until[where[0]], self.resumed[0] + UNSURE)
        is_unsure = self.at_once_until < now < unsure_until - 1.0
        if yields and cause in WAITS[:3] and is_unsure:
            probed = self.probed.get(where, now)
            assert now - probed >= LEAST_WAIT - 1e-6, "announced without a probe before it"
        if self.net.carries(where[0]):
            owners = [each for each in self.known[one] if one in each.has]
            assert owners == [], f"{now}: claims {one.hex()}, which {owners} have, for {cause}"
            late = [each for each, at in self.claiming[one].items() if now - at > YIELDS]
            assert late == [], f"{now}: still claims {one.hex()}, which {late} have claimed"
            there = [each for each in self.net.stations if one in each.has and not each.is_mute]
            has_owner = not all(self._is_ignored(each) for each in there)
            if yields and has_owner and one in self.slips and cause in WAITS:
                self.slips[one] += now <= self.unsure_until[where[0]]
                assert self.slips[one] <= 1, "a second claim got through the port"

    def _check(self) -> None:
        """Check what must have happened by now."""
        now, engine = self.agent.now, self.agent.engine
        self._check_turns(now)
        leased = engine.lease.is_in_force
        ended = self.was_leased and not leased  # its end begins with probes, as a resume
        if ended:
            self._unsettle()
        if ended or engine.resumes != self.resumed[1]:
            self.resumed = now, engine.resumes
        self.was_leased = leased
        interval = self.settings.interval_with_lease if leased else self.settings.interval
        interval *= 1.0 + self.settings.jitter
        for ifindex in LINKS:
            plan = engine.plans.get(ifindex)
            if plan is None or not plan.targets:
                self.taught.pop(ifindex, None)
            else:
                since, most = self._waits(self.taught, ifindex, interval)
                assert now - since <= most + QUEUE, f"{now}: {ifindex} is dark"
        ticks = ceil(len(self.items) / self.settings.addresses_per_tick)
        for one, ifindex in self.at.items():
            where = ifindex, one
            if not self._is_announced(where):
                for known in (self.withheld, self.clocks, self.released, self.probed):
                    known.pop(where, None)
                continue
            self._check_withheld(where, now)
            since, most = self._waits(self.clocks, where, interval)
            late = now - max(since, self.answered.get(where, 0.0)) - ticks * most
            assert late <= self._most_withheld() + QUEUE, f"{now}: {where} is not announced"

    def _waits(self, clocks: dict[Any, Any], which: object, interval: float) -> tuple[float, float]:
        since, most = clocks.get(which, (self.agent.now, 0.0))
        clocks[which] = since, max(most, interval)
        return max(since, self.settled), clocks[which][1]

    def _most_withheld(self) -> float:
        """The seconds from the last answer, or the first claim, to the end of the check."""
        proxies = any(each.kind == "proxy" for each in self.net.stations)
        hold_off = self.settings.conflict.hold_off
        retest = (UNSENT if self.has_flapped else RETEST) + hold_off if proxies else 0.0
        return hold_off + 0.75 + QUEUE + retest

    def _check_withheld(self, where: Where, now: float) -> None:
        latest = max(self.settled, self.answered.get(where, 0.0))  # something but claims
        if self.agent.engine.conflicts.is_withheld(*where):
            self.released.pop(where, None)
            if where not in self.withheld and now - latest > UNSURE + 10.0:
                claimer = where[0], self.claimers[where]
                assert claimer not in self.silent, f"{now}: {where} is withheld for {claimer}"
                rest = now - self.ended.get(where, 0.0)
                assert rest >= REST - 1e-6, f"{now}: {where} has no rest"
            since = max(self.withheld.setdefault(where, now), latest)
            assert now - since <= self._most_withheld(), f"{now}: {where} is withheld too long"
        elif where in self.withheld:
            if latest < self.withheld.pop(where) and where in self.claimers:
                self.ended[where] = now
                self.silent.add((where[0], self.claimers[where]))
            if self.claimed.get(where) != now:
                self.released[where] = now
        late = now - max(self.released.get(where, now), self.settled)
        assert late <= QUEUE, f"{now}: {where} is not announced after its release"

    def _check_turns(self, now: float) -> None:
        """No loop may spin: turns without frame or event are rare."""
        idle = self.agent.wakeups - self.net.told - self.frames
        if int(now) != self.idle[0]:
            self.idle = int(now), idle
        assert idle - self.idle[1] <= 10 + 4 * len(self.items), "the loop spins"


TestWorlds = Worlds.TestCase
TestWorlds.settings = property_settings(200, stateful_step_count=40)
