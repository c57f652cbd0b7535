"""conflicts, through the engine: what is withheld, probed, defended and logged, and when."""

from __future__ import annotations

import random
from typing import Any

import pytest

from garp_agent.config.settings import ArpForm, Conflict, ConflictPolicy, Settings
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    Kind,
    Link,
    LinkSeen,
    Resumed,
)
from garp_agent.wire.model import LinkGone
from tests.guest.core.conflict_world import (
    CLAIMS,
    DEFEND,
    ETH0,
    ETH1,
    MINE,
    MINE6,
    PROBES,
    REQUESTS,
    RIVAL,
    RIVAL2,
    SECOND,
    WARN,
    YIELD,
    answered_by,
    claim,
    crowd,
    guest,
    is_withheld,
    kinds,
    logged_rivals,
    moments,
    rivals,
)
from tests.world import NO_CARRIER, Agent, Frame, address, dump, link, mac, seen

# -- a claim and its check ----------------------------------------------------------


def test_claim_without_answers_withholds_for_three_probes_and_then_bursts() -> None:
    agent = guest()
    frames = claim(agent, 10.0) + agent.until(20.0)
    assert (kinds(frames), moments(frames)) == (
        PROBES + [Kind.ARP_REQUEST] * 3,
        [10.0, 10.5, 11.0, 11.5, 11.6, 11.9],
    )
    assert {f.announcement.address for f in frames} == {MINE.address}
    causes = [frame.announcement.cause for frame in frames]
    assert causes == [Cause.CONFLICT] * 3 + [Cause.ADDRESS_ADDED] * 3
    notices = [each for each in agent.notices() if each.startswith("address")]
    assert notices == ["address-conflict", "address-conflict-over"]


def test_claim_to_an_ipv6_address_is_checked_by_dad_probes() -> None:
    agent = guest()
    frames = claim(agent, 10.0, MINE6.address) + agent.until(20.0)
    assert kinds(frames, MINE6.address) == [
        *(Kind.RARP, Kind.DAD_PROBE),
        Kind.DAD_PROBE,  # the broadcast was half a second ago
        *(Kind.RARP, Kind.DAD_PROBE),
        *[Kind.UNSOLICITED_NA] * 3,
    ]


def test_hint_while_an_address_is_withheld_sends_a_probe_for_it_and_announces_the_others() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    frames = agent.until(11.0) + agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    assert kinds(frames)[-1:] == [Kind.ARP_PROBE]
    assert kinds(frames, SECOND.address) == [Kind.ARP_REQUEST]
    assert kinds(frames, MINE6.address) == [Kind.UNSOLICITED_NA]


def test_rival_that_answers_is_probed_at_each_hold_off_and_left_after_three_probes() -> None:
    agent = guest(hold_off=4.0)
    answered_by(agent, RIVAL)
    frames = claim(agent, 10.0) + agent.until(1000.0)
    assert set(kinds(frames)) == {Kind.ARP_PROBE}
    last = moments(frames)[-1]
    frames = [frame for frame in frames if not frame.announcement.asked]
    assert moments(frames)[:4] == [10.0, 11.0, 12.0, 13.0]  # a quarter in the first minute
    # A probe for the rival alone comes a quarter of a second later than the one for all.
    times = moments(frames)
    waits = [(at, round(later - at, 6)) for at, later in zip(times, times[1:])]
    assert {wait for at, wait in waits if at < 70.0} == {1.0, 1.25}
    late = [wait for at, wait in waits if at > 80.0]
    assert max(late) == 4.25
    assert late.count(4.25) > 0.8 * len(late)  # a refresh can come between two
    assert is_withheld(agent)
    answered_by(agent)
    frames = agent.until(1020.0)
    assert kinds(frames) == PROBES + REQUESTS
    assert moments(frames)[3] == last + 4.0 + 0.75


def test_rival_that_leaves_within_a_minute_is_missed_within_little_more_than_a_second() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    agent.until(20.6)
    answered_by(agent)
    frames = agent.until(30.0)
    claims = [f.at for f in frames if f.announcement.kind is Kind.ARP_REQUEST]
    assert 0.75 <= claims[0] - 20.6 <= 1.25


def test_rivals_for_many_addresses_are_probed_four_times_a_second_and_starve_no_other() -> None:
    settings = Settings(jitter=0.0, addresses_per_tick=256, mac_only=False)
    agent = Agent(settings, now=0.0)
    items = crowd(50)
    agent.tell(*dump(ETH0, *items))
    agent.until(100.0)
    spared = items[-1].address
    agent.after_frame = lambda frame: [
        ClaimSeen("eth0", frame.announcement.address, RIVAL, ETH0.hardware_address)
        for _ in range(frame.announcement.kind is Kind.ARP_PROBE)
        if frame.announcement.address != spared
        if frame.announcement.cause is not Cause.PROXY_TEST
    ]
    for item in items[:-1]:
        claim(agent, agent.now + 1.0, item.address)
    agent.engine.reconfigure(settings._replace(interval=60.0), agent.now)
    agent.until(300.0)
    frames = agent.until(420.0)
    probes = [f for f in frames if f.announcement.cause is Cause.CONFLICT]
    assert 3.0 <= len(probes) / 120.0 <= 4.1
    assert len(moments(frames, spared)) >= 2


def test_answer_that_comes_before_any_probe_is_a_claim_like_others() -> None:
    agent = guest()
    frames = claim(agent, 10.0, answer=True) + agent.until(20.0)
    assert kinds(frames) == PROBES + REQUESTS


def test_claim_during_the_rest_after_a_check_is_checked_when_the_rest_is_over() -> None:
    agent = guest()
    claim(agent, 10.0)
    frames = claim(agent, 13.0, rival=RIVAL2) + agent.until(20.0)
    probes = [frame for frame in frames if frame.announcement.kind is Kind.ARP_PROBE]
    assert moments(probes)[2:] == [15.5, 16.0, 16.5]


def test_claims_without_end_leave_no_gap_longer_than_the_loop() -> None:
    """A forger with ever new hardware addresses; the loop announces every five to six seconds."""
    agent = guest()
    agent.engine.reconfigure(agent.engine.settings._replace(interval=5.0), 0.0)
    frames: list[Frame] = []
    for step in range(3000):
        forged = bytes((2, 1, 0, 0, *divmod(step, 256)))
        frames += claim(agent, 0.1 * step, rival=forged)
    at = [f.at for f in frames if kinds([f]) == [Kind.ARP_REQUEST]]
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 5.2
    assert len(agent.engine.conflicts.silent) <= 64


def test_claims_of_a_silent_station_withhold_nothing_until_it_answers() -> None:
    agent = guest()
    claim(agent, 10.0)
    agent.until(30.0)
    frames = claim(agent, 30.0) + agent.until(39.0)
    assert not is_withheld(agent)
    # One probe, to see whether it still does not answer.
    assert kinds(frames) == [Kind.ARP_PROBE, Kind.ARP_REQUEST]
    answered_by(agent, RIVAL)
    claim(agent, 40.0)
    agent.tell()
    assert is_withheld(agent)
    assert not agent.engine.conflicts.silent


def test_other_rival_during_the_check_of_a_silent_station_withholds_the_address() -> None:
    agent = guest()
    claim(agent, 10.0)
    agent.until(30.0)
    claim(agent, 30.0)
    claim(agent, 30.1, rival=RIVAL2)
    assert is_withheld(agent)


@pytest.mark.parametrize("is_claimed_first", [True, False])
def test_hint_while_a_probe_that_withholds_nothing_waits_for_its_turn_is_announced(
    is_claimed_first: bool,
) -> None:
    agent = Agent(Settings(interval=5000.0, mac_only=False), now=0.0)
    agent.tell(*dump(ETH0, *crowd(30)))
    first = crowd(1)[0].address
    claim(agent, 70.0, first)  # nobody answers: the station is silent from now on
    agent.until(150.0)
    hint, echo = BurstRequested(Cause.HINT, (0.0,)), ClaimSeen("eth0", first, RIVAL)
    assert moments(agent.tell(hint), first) == [150.0]
    agent.now = 150.05
    happens = [echo, hint] if is_claimed_first else [hint, echo]
    frames = agent.tell(happens[0]) + agent.tell(happens[1]) + agent.until(160.0)
    assert sorted(each.value for each in kinds(frames, first)) == ["arp-probe", "arp-request"]


# -- stations that are no rivals ----------------------------------------------------


@pytest.mark.parametrize("item", [MINE, MINE6])
def test_station_that_answers_for_everything_is_no_rival(item: Any) -> None:
    agent = guest()
    answered_by(agent, RIVAL, everything=True)
    claim(agent, 10.0, item.address)
    agent.until(13.0)
    assert not is_withheld(agent, item)
    assert list(agent.engine.conflicts.proxy_tests.proxies) == [(2, RIVAL)]
    assert agent.notices().count("answers-for-everything") == 1
    agent.until(20.0)
    assert claim(agent, 20.0, item.address) == []
    assert not is_withheld(agent, item)
    assert agent.engine.conflicts.proxy_tests._tests == {}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("held", [2, 127, 200])
def test_rival_that_holds_most_of_the_network_is_no_proxy(held: int, seed: int) -> None:
    settings = Settings(interval=60.0, mac_only=False, conflict=Conflict(hold_off=20.0))
    agent = Agent(settings, now=0.0, seed=seed)
    agent.tell(*dump(ETH0, MINE))
    agent.until(100.0)
    has = {MINE.address[:3] + bytes([n]) for n in random.Random(seed).sample(range(1, 255), held)}
    has.add(MINE.address)
    agent.after_frame = lambda frame: [
        ClaimSeen("eth0", frame.announcement.address, RIVAL, ETH0.hardware_address)
        for _ in range(frame.announcement.kind is Kind.ARP_PROBE)
        if frame.announcement.address in has
    ]
    claim(agent, 100.0)
    asked = [f.announcement for f in agent.until(100.0 + 4800.0)]
    asked = [each.address for each in asked if each.cause is Cause.PROXY_TEST]
    assert not agent.engine.conflicts.proxy_tests.proxies
    assert is_withheld(agent)
    assert len(asked) >= 12
    assert len(set(asked)) >= 0.75 * len(asked)  # other ones in each test


@pytest.mark.parametrize("prefix", ["192.0.2.10/24", "192.0.2.10/30", "192.0.2.10/32"])
def test_station_that_answers_for_one_network_only_is_a_proxy_after_many_answers(
    prefix: str,
) -> None:
    """A firewall that answers for the network that it translates."""
    agent = Agent(Settings(mac_only=False), now=0.0)
    agent.tell(*dump(ETH0, address(prefix)))
    agent.until(100.0)
    asked = []

    def answers(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        if sent.kind is not Kind.ARP_PROBE or sent.address[:3] != MINE.address[:3]:
            return []
        asked.append(sent.cause)
        return [ClaimSeen("eth0", sent.address, RIVAL, sent.hardware_address)]

    agent.after_frame = answers
    claim(agent, 100.0)
    agent.until(105.0)  # the loop, too, announces again within six seconds
    assert list(agent.engine.conflicts.proxy_tests.proxies) == [(2, RIVAL)]
    assert not is_withheld(agent)
    assert asked.count(Cause.PROXY_TEST) >= 24


def test_rival_beside_a_station_that_answers_for_everything_keeps_the_address() -> None:
    agent = guest()
    answered_by(agent, RIVAL, RIVAL2)
    claim(agent, 10.0)
    agent.until(11.0)
    agent.after_frame = lambda frame: [
        ClaimSeen("eth0", frame.announcement.address, each, ETH0.hardware_address)
        for each in (RIVAL, RIVAL2)
        if each == RIVAL or frame.announcement.cause is not Cause.PROXY_TEST
    ]
    agent.until(200.0)
    assert list(agent.engine.conflicts.proxy_tests.proxies) == [(2, RIVAL)]
    assert is_withheld(agent)


def test_station_known_as_answering_for_everything_is_forgotten_after_an_hour() -> None:
    agent = guest()
    answered_by(agent, RIVAL, everything=True)
    claim(agent, 10.0)
    agent.until(20.0)
    answered_by(agent, RIVAL)
    claim(agent, 3000.0)
    assert not is_withheld(agent)
    claim(agent, 3700.0)
    assert is_withheld(agent)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(ClaimSeen("eth0", MINE.address, ETH0.hardware_address), id="our own frame"),
        pytest.param(ClaimSeen("eth0", MINE.address, ETH1.hardware_address), id="our other link"),
        pytest.param(ClaimSeen("eth0", bytes([192, 0, 2, 99]), RIVAL), id="not our address"),
        pytest.param(ClaimSeen("eth1", MINE.address, RIVAL), id="other network"),
        pytest.param(ClaimSeen("eth9", MINE.address, RIVAL), id="unknown link"),
        pytest.param(ClaimSeen("eth0", MINE.address, b"\xff" * 6), id="broadcast"),
        pytest.param(ClaimSeen("eth0", MINE.address, mac("01:00:5e:00:00:01")), id="multicast"),
        pytest.param(ClaimSeen("eth0", MINE.address, bytes(6)), id="zero"),
        pytest.param(ClaimSeen("eth0", MINE.address, mac("02:aa:00:00:00:77")), id="ignored"),
    ],
)
def test_claim_that_is_no_conflict_is_ignored(event: ClaimSeen) -> None:
    agent = guest(ignore=((mac("02:aa:00:00:00:00"), mac("ff:ff:00:00:00:00")),))
    assert agent.tell(event) == []
    assert (agent.engine.conflicts.claims, rivals(agent)) == (0, set())
    assert agent.notices() == []


@pytest.mark.parametrize(
    ("former", "is_ignored"),
    [
        (ETH0, True),
        (ETH0._replace(hardware_address=mac("00:00:5e:00:01:33")), False),
        (ETH0._replace(kind="macvlan", parent_ifindex=3, is_private=True), False),
    ],
)
def test_claim_from_a_former_hardware_address_is_ignored_unless_it_is_a_virtual_routers(
    former: Link, is_ignored: bool
) -> None:
    agent = guest()
    hardware_address = former.hardware_address
    agent.see(former)
    agent.see(ETH0._replace(hardware_address=mac("02:00:00:00:00:99")))
    agent.until(10.0)
    claim(agent, 10.0, rival=hardware_address)
    assert is_withheld(agent) != is_ignored
    agent.tell(LinkGone(2), *seen(link(4, "eth0"), address("192.0.2.10/24", ifindex=4)))
    agent.until(20.0)
    claim(agent, 20.0, rival=mac("02:00:00:00:00:99"))
    assert not agent.engine.conflicts.is_withheld(4, MINE.address)


# -- addresses that come back, and guests that were away ----------------------------


def test_address_added_again_within_a_minute_is_checked_for_its_rival() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    agent.until(12.0)
    agent.tell(AddressGone(MINE))
    assert rivals(agent) == set()
    frames = agent.until(60.0) + agent.tell(AddressSeen(MINE)) + agent.until(200.0)
    assert set(kinds(frames)) == {Kind.ARP_PROBE}
    assert is_withheld(agent)
    agent.tell(AddressGone(MINE))
    answered_by(agent)
    agent.until(300.0)  # more than a minute
    frames = agent.tell(AddressSeen(MINE)) + agent.until(310.0)
    assert kinds(frames) == REQUESTS


def test_addresses_that_went_with_rivals_are_remembered_in_bounded_memory() -> None:
    agent = guest()
    for number in range(3000):
        one = address(f"10.{number >> 8}.{number & 255}.1/24")
        agent.tell(AddressSeen(one), ClaimSeen("eth0", one.address, RIVAL))
        agent.tell(AddressSeen(one))
        agent.engine.handle(ClaimSeen("eth0", one.address, RIVAL), agent.now)
        agent.tell(AddressGone(one))
    assert 0 < len(agent.engine.conflicts._gone) <= 1024


@pytest.mark.parametrize(
    ("events", "cause", "at"),
    [
        (
            [*seen(ETH0._replace(flags=NO_CARRIER), ETH0)],
            Cause.LINK_UP,
            [0.0, 0.5, 0.6, 1.1],
        ),
        ([Resumed(60.0)], Cause.RESUME, [0.0, 0.25, 0.35, 0.6, 0.65, 1.05]),
    ],
)
def test_guest_that_was_away_probes_first_and_yields_to_a_station_that_answers(
    events: list[Any], cause: Cause, at: list[float]
) -> None:
    agent = guest()
    frames = agent.tell(*events) + agent.until(10.0)
    assert kinds(frames) == [Kind.ARP_PROBE, Kind.ARP_REQUEST] * (len(at) // 2)
    assert kinds(frames, MINE6.address)[:2] == [Kind.DAD_PROBE, Kind.UNSOLICITED_NA]
    assert {frame.announcement.cause for frame in frames} == {cause}
    assert moments(frames) == at
    answered_by(agent, RIVAL)
    frames = agent.tell(*events) + agent.until(60.0)
    assert set(kinds(frames)) == {Kind.ARP_PROBE}


@pytest.mark.parametrize("opens", [0.1, 0.6, 0.95, 3.0, 12.0, 31.0, 58.0])
@pytest.mark.parametrize("item", [MINE, MINE6])
@pytest.mark.parametrize("interval", [1.0, 5.0])
def test_path_that_forwards_after_the_check_lets_one_claim_through_at_most(
    item: Any, opens: float, interval: float
) -> None:
    """The port of the switch has its carrier, and forwards later."""
    agent = guest()
    agent.engine.reconfigure(agent.engine.settings._replace(interval=interval), 0.0)
    agent.tell(*seen(ETH0._replace(flags=NO_CARRIER), ETH0))
    agent.until(opens)
    answered_by(agent, RIVAL)
    frames = agent.until(opens + 200.0)
    claims = [each for each in kinds(frames, item.address) if each in CLAIMS]
    assert len(claims) <= 1
    assert is_withheld(agent, item)


def test_path_that_is_broken_while_a_rival_has_the_address_lets_one_claim_through_at_most() -> None:
    agent = guest()
    agent.engine.reconfigure(agent.engine.settings._replace(interval=5.0), 0.0)
    agent.until(100.0)  # the minute after the start is over
    answered_by(agent, RIVAL)
    claim(agent, 110.0)
    agent.until(115.0)
    answered_by(agent)
    agent.until(127.0)
    assert not is_withheld(agent)
    answered_by(agent, RIVAL)
    frames = agent.until(300.0)
    assert len([each for each in kinds(frames) if each in CLAIMS]) <= 1
    assert is_withheld(agent)


def test_refreshes_begin_with_a_probe_for_a_minute_after_the_guest_was_away() -> None:
    agent = guest()
    agent.engine.reconfigure(agent.engine.settings._replace(interval=10.0), 0.0)
    agent.tell(Resumed(60.0))
    agent.until(5.0)
    frames = agent.until(200.0)
    at = {kind: [f.at for f in frames if kinds([f]) == [kind]] for kind in set(kinds(frames))}
    probes, requests = at[Kind.ARP_PROBE], at[Kind.ARP_REQUEST]
    assert [each + 0.5 for each in probes] == requests[: len(probes)]
    assert 60.0 <= probes[-1] <= 70.0
    assert len(requests) in (19, 20)


def test_hint_within_a_minute_after_the_guest_was_away_is_announced_at_once() -> None:
    agent = guest()
    agent.tell(Resumed(60.0))
    frames = agent.until(10.0) + agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    assert kinds(frames)[-1] == Kind.ARP_REQUEST
    assert not agent.engine.conflicts.is_checking(2)


@pytest.mark.parametrize("more", [[], [MINE]], ids=["IPv6 alone", "with IPv4"])
def test_start_of_many_ipv6_addresses_teaches_the_switches_with_one_broadcast(
    more: list[Any],
) -> None:
    agent = Agent(Settings(interval=5000.0), now=0.0)
    items = [address(f"2001:db8::{n}/64") for n in range(1, 6)]
    frames = agent.tell(*dump(ETH0, ETH1, *more, *items))
    sent = [f.announcement for f in frames if f.announcement.ifindex == 2]
    broadcasts = [each.kind for each in sent if each.kind in (Kind.RARP, Kind.ARP_PROBE)]
    assert len(broadcasts) == 1
    assert [each.kind for each in sent].count(Kind.DAD_PROBE) == 5


def test_broadcast_comes_again_after_a_second_and_for_another_hardware_address() -> None:
    agent = Agent(Settings(interval=5000.0), now=0.0)
    agent.tell(*dump(ETH0, MINE6))
    agent.until(0.9)
    assert kinds(agent.tell(Resumed(60.0)), MINE6.address) == [Kind.DAD_PROBE]
    agent.until(1.9)
    assert kinds(agent.tell(Resumed(60.0)), MINE6.address) == [Kind.RARP, Kind.DAD_PROBE]
    frames = agent.tell(LinkSeen(ETH0._replace(hardware_address=mac("02:00:00:00:00:99"))))
    assert kinds(frames, MINE6.address) == [Kind.RARP, Kind.DAD_PROBE]


def test_start_with_many_addresses_announces_each_soon_after_its_probe() -> None:
    settings = Settings(interval=5000.0, interval_with_lease=5000.0)
    agent = Agent(settings, now=0.0)
    items = [address(f"10.0.{n}.1/24") for n in range(100)]
    frames = agent.tell(*dump(ETH0, *items)) + agent.until(120.0)
    for item in items:
        at = moments(frames, item.address)
        assert at[1] - at[0] < 5.0


@pytest.mark.parametrize("up", [0.6, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("number", [2, 8, 12])
def test_each_address_has_its_turn_while_the_carrier_flaps(up: float, number: int) -> None:
    agent = Agent(Settings())
    items = [address(f"10.0.0.{n}/24") for n in range(1, number + 1)]
    frames = agent.tell(*dump(ETH0, *items))
    for _ in range(40):
        frames += agent.wait(up)
        frames += agent.see(ETH0._replace(flags=NO_CARRIER))
        frames += agent.wait(0.2)
        frames += agent.see(ETH0)
    claims = [f.announcement.address for f in frames if f.announcement.kind is Kind.ARP_REQUEST]
    counts = [claims.count(item.address) for item in items]
    assert min(counts) > 0
    assert max(counts) <= 2 * min(counts)


@pytest.mark.parametrize("policy", [YIELD, WARN])
@pytest.mark.parametrize("up", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("number", [7, 14, 30])
def test_each_link_of_a_nic_has_its_turn_while_the_carrier_flaps(
    number: int, up: float, policy: ConflictPolicy
) -> None:
    agent = Agent(Settings(conflict=Conflict(policy)))
    links = [link(2), *(link(n, kind="macvlan", parent_ifindex=2) for n in range(10, 10 + number))]
    away = [each._replace(flags=NO_CARRIER) for each in links]
    items = [address(f"10.0.0.{n}/24", n) for n in range(10, 10 + number)]
    agent.tell(*dump(*links, *items))
    agent.wait(12.0)
    begin, frames = agent.now, []
    for _ in range(40):
        frames += agent.see(*away) + agent.wait(0.3) + agent.see(*links) + agent.wait(up)
    claims = [f for f in frames if f.announcement.kind is Kind.ARP_REQUEST]
    at = [[f.at for f in claims if f.announcement.address == each.address] for each in items]
    counts = [len(own) for own in at]
    assert min(counts) > 0
    assert max(counts) <= 2 * min(counts)
    if number <= 14:
        rows = [[begin, *own, agent.now] for own in at]
        gaps = [later - earlier for row in rows for earlier, later in zip(row, row[1:])]
        assert max(gaps) < 15.0


@pytest.mark.parametrize("policy", [WARN, DEFEND])
def test_guest_that_was_away_announces_at_once_if_it_does_not_yield(policy: ConflictPolicy) -> None:
    frames = guest(policy).tell(Resumed(60.0))
    assert kinds(frames) == [Kind.ARP_REQUEST]


def test_arp_form_probe_claims_nothing_and_needs_no_check() -> None:
    agent = Agent(Settings(interval=5000.0, arp=ArpForm.PROBE), now=0.0)
    frames = agent.tell(*dump(ETH0, MINE)) + agent.until(5.0)
    assert moments(frames) == [0.0, 0.1, 0.4]


def test_link_that_goes_down_during_a_check_forgets_it() -> None:
    agent = guest()
    claim(agent, 10.0)
    agent.tell(LinkSeen(ETH0._replace(flags=NO_CARRIER)))
    assert rivals(agent) == set()
    assert agent.until(5000.0 - 3.0) == []


# -- the log, the other policies, other settings -------------------------------------


@pytest.mark.parametrize(
    ("claims", "logged"),
    [
        ([(10.0, RIVAL), (11.0, RIVAL), (21.0, RIVAL2)], [RIVAL, RIVAL2]),
        ([(10.0, RIVAL), (70.0, RIVAL)], [RIVAL]),  # it goes on
        ([(10.0, RIVAL), (71.0, RIVAL)], [RIVAL, RIVAL]),  # it was over
        ([(10.0, RIVAL), (20.0, RIVAL2), (20.1, RIVAL2)], [RIVAL]),
        ([(10.0, RIVAL), (20.1, RIVAL2), (29.0, RIVAL), (30.2, RIVAL2)], [RIVAL, RIVAL2, RIVAL2]),
    ],
)
def test_rival_is_logged_if_new_and_at_most_every_ten_seconds(
    claims: list[tuple[float, bytes]], logged: list[bytes]
) -> None:
    agent = guest(WARN)
    for now, rival in claims:
        claim(agent, now, rival=rival)
    assert logged_rivals(agent) == logged
    assert agent.engine.conflicts.claims == len(claims)


def test_policy_changed_releases_withheld_addresses_and_logs_the_rival_anew() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    agent.until(11.0)
    settings = agent.engine.settings._replace(conflict=Conflict(WARN))
    agent.engine.reconfigure(settings, 11.0)
    assert kinds(agent.tell()) == [Kind.ARP_REQUEST]
    assert logged_rivals(agent) == [RIVAL]
    claim(agent, 15.0)
    assert logged_rivals(agent) == [RIVAL]  # under another policy
    claim(agent, 30.0)
    assert logged_rivals(agent) == []
    agent.engine.reconfigure(settings._replace(conflict=Conflict(YIELD)), 31.0)
    claim(agent, 42.0)
    assert is_withheld(agent)
    assert logged_rivals(agent) == [RIVAL]


def test_hold_off_changed_is_in_force_at_once() -> None:
    agent = guest(hold_off=3600.0)
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    assert agent.engine.conflicts.deadline() == 910.0
    agent.engine.reconfigure(agent.engine.settings._replace(conflict=Conflict(YIELD, 5.0)), 12.0)
    agent.tell()
    assert agent.engine.conflicts.deadline() == 12.0  # 1.25 s after the answer is over


def test_claim_under_warn_is_logged_and_nothing_else() -> None:
    agent = guest(WARN)
    assert claim(agent, 10.0) + agent.until(20.0) == []
    assert agent.notices() == ["address-conflict"]
    assert kinds(agent.tell(BurstRequested(Cause.HINT, (0.0,)))) == [Kind.ARP_REQUEST]


def test_claim_under_defend_is_answered_at_most_every_ten_seconds() -> None:
    agent = guest(DEFEND)
    frames = []
    for now in (10.0, 11.0, 19.9, 20.0, 29.0, 30.1):
        frames += claim(agent, now)
    answers = [(f.at, f.announcement.address, f.announcement.cause) for f in frames]
    assert answers == [(now, MINE.address, Cause.DEFENCE) for now in (10.0, 20.0, 30.1)]


def test_answer_for_an_address_that_was_removed_in_the_same_turn_has_no_effect() -> None:
    agent = guest()
    claim(agent, 10.0)
    agent.tell(AddressGone(MINE), ClaimSeen("eth0", MINE.address, RIVAL, ETH0.hardware_address))
    assert rivals(agent) == set()


# -- many addresses, and many claims --------------------------------------------------


@pytest.mark.parametrize("count", [1, 40, 100])
def test_station_that_answers_for_everything_is_recognised_beside_many_addresses(
    count: int,
) -> None:
    agent = Agent(Settings(mac_only=False), now=0.0)
    answered_by(agent, RIVAL, everything=True)
    agent.engine.handle(ClaimSeen("eth0", MINE.address, RIVAL), 0.0)
    frames = agent.tell(*dump(ETH0, *crowd(count))) + agent.until(120.0)
    assert list(agent.engine.conflicts.proxy_tests.proxies) == [(2, RIVAL)]
    announced = {
        f.announcement.address
        for f in frames
        if kinds([f], f.announcement.address) == [Kind.ARP_REQUEST]
    }
    assert len(announced) == count


def test_proxy_test_uses_no_address_of_ours() -> None:
    agent = Agent(Settings(), now=0.0)
    items = [address(f"10.0.0.{n}/24") for n in range(1, 200)]
    agent.tell(*dump(ETH0, *items))
    agent.until(300.0)
    answered_by(agent, RIVAL, everything=True)
    agent.tell(ClaimSeen("eth0", items[0].address, RIVAL))
    agent.until(330.0)
    assert list(agent.engine.conflicts.proxy_tests.proxies) == [(2, RIVAL)]


def test_flood_of_claims_withholds_few_addresses_and_starves_none() -> None:
    agent = Agent(Settings(jitter=0.0, addresses_per_tick=256), now=0.0)
    items = crowd(50)
    agent.tell(*dump(ETH0, *items))
    agent.until(100.0)
    spared = items[-1].address
    frames: list[Frame] = []
    for step in range(120):
        agent.tell(
            *(
                ClaimSeen("eth0", item.address, bytes((2, 1, 0, step, n, 0)))
                for n, item in enumerate(items[:-1])
            )
        )
        assert sum(is_withheld(agent, item) for item in items) <= 4
        frames += agent.wait(1.0)
    at = moments(frames, spared)
    calm = 6.0 + 50 / 10  # what 50 addresses take at ten frames a second
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 2 * calm


def test_repeater_of_ipv6_announcements_is_logged_once_and_withholds_nothing_any_more() -> None:
    agent = guest(hold_off=60.0)
    agent.engine.reconfigure(agent.engine.settings._replace(interval=1.0), 0.0)

    def echo(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        return (
            [ClaimSeen("eth0", sent.address, RIVAL, sent.hardware_address)]
            if sent.kind is Kind.UNSOLICITED_NA
            else []
        )

    agent.after_frame = echo
    agent.until(10.0)
    for _ in range(300):
        agent.wait(1.0)
        assert not is_withheld(agent, MINE6)
    assert logged_rivals(agent) == [RIVAL]


def test_steps_of_many_rivals_leave_no_stale_entries() -> None:
    agent = guest(hold_off=3600.0)
    answered_by(agent, RIVAL)
    for item in (MINE, SECOND, MINE6):
        claim(agent, agent.now + 1.0, item.address)
    for _ in range(2000):
        agent.wait(0.3)
        agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    assert len(agent.engine.conflicts._heap) <= 2 * 3 + 65
