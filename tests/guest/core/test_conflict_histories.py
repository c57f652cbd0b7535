"""Conflicts that meet other events: rivals that return, addresses that move, reloads, stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from garp_agent.config.settings import Conflict, Settings
from garp_agent.guest.core.conflicts import Conflicts
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    Kind,
    LeaseGranted,
    Resumed,
)
from garp_agent.wire.record import inf
from tests.guest.core.conflict_world import (
    CLAIMS,
    ETH0,
    ETH1,
    MINE,
    MINE6,
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
    moments,
)
from tests.world import NO_CARRIER, Agent, Frame, TokenBucket, address, dump, seen


def announcements(frames: list[Frame], of: bytes = MINE.address) -> list[float]:
    """When an address was announced."""
    return moments([frame for frame in frames if frame.announcement.kind in CLAIMS], of)


def usual(*items: Any, now: float = 0.0) -> Agent:
    """An agent with the default settings that has just started."""
    agent = Agent(Settings(mac_only=False), now=now)
    agent.tell(*dump(ETH0, *items))
    return agent


def late(
    agent: Agent, delay: float, answer: Callable[[Frame], Iterable[Any]]
) -> Callable[[float], list[Frame]]:
    """Let what `answer` returns for a frame happen `delay` seconds later."""
    coming: list[tuple[float, ClaimSeen]] = []

    def after(frame: Frame) -> list[ClaimSeen]:
        coming.extend((agent.now + delay, event) for event in answer(frame))
        return []

    def until(then: float) -> list[Frame]:
        frames: list[Frame] = []
        while coming and coming[0][0] <= then:
            frames += agent.until(coming[0][0])
            while coming and coming[0][0] <= agent.now:
                frames += agent.tell(coming.pop(0)[1])
        return frames + agent.until(then)

    def step(then: float) -> list[Frame]:
        frames: list[Frame] = []
        while agent.now < then:  # an answer can come before the agent's next deadline
            frames += until(min(then, agent.now + delay / 4))
        return frames

    agent.after_frame = after
    return step


# -- checks that begin anew -------------------------------------------------------------


@pytest.mark.parametrize(("up", "down"), [(0.4, 0.2), (0.3, 0.3), (0.2, 0.05), (0.12, 2.0)])
@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
def test_carrier_that_never_stays_for_a_whole_check_does_not_silence_an_address(
    item: Any, up: float, down: float
) -> None:
    """The times in which nobody answers add up."""
    agent = usual()
    frames = agent.tell(*seen(item))
    while agent.now < 120.0:
        frames += agent.wait(up)
        frames += agent.see(ETH0._replace(flags=NO_CARRIER))
        frames += agent.wait(down)
        frames += agent.see(ETH0)
    claims = [0.0, *announcements(frames, item.address), agent.now]
    loop = 5.0 * (up + down) / up  # `arping` every 5 s meets the carrier by chance
    assert max(after - before for before, after in zip(claims, claims[1:])) <= max(6.0, loop)


@pytest.mark.parametrize("pause", [0.12, 0.2, 0.3, 0.45])
@pytest.mark.parametrize("cause", [Cause.LINK_UP, Cause.RESUME])
def test_check_that_begins_anew_all_the_time_comes_to_an_end(pause: float, cause: Cause) -> None:
    """A bridge bursts each time that the carrier of one of its ports comes."""
    agent = usual(MINE)
    frames: list[Frame] = []
    for _ in range(int(60.0 / pause)):
        if cause is Cause.RESUME:
            frames += agent.tell(Resumed(2.0))
        else:
            frames += agent.see(ETH0._replace(flags=NO_CARRIER), ETH0)
        frames += agent.wait(pause)
    claims = [0.0, *announcements(frames), agent.now]
    assert max(after - before for before, after in zip(claims, claims[1:])) <= 6.0


@pytest.mark.parametrize("delay", [0.002, 0.08])
@pytest.mark.parametrize(("up", "down"), [(0.4, 0.2), (0.2, 0.05), (0.12, 2.0)])
def test_rival_that_answers_keeps_the_address_while_the_carrier_flaps(
    up: float, down: float, delay: float
) -> None:

    def answer(frame: Frame) -> list[ClaimSeen]:
        is_probe = frame.announcement.kind is Kind.ARP_PROBE
        return [ClaimSeen("eth0", MINE.address, RIVAL, ETH0.hardware_address)] if is_probe else []

    agent = Agent(Settings(), now=0.0)
    until = late(agent, delay, answer)
    frames = agent.tell(*dump(ETH0, MINE))
    while agent.now < 60.0:
        frames += until(agent.now + up)
        frames += agent.see(ETH0._replace(flags=NO_CARRIER))
        frames += until(agent.now + down)
        frames += agent.see(ETH0)
    assert announcements(frames) == []


# -- stations that were silent --------------------------------------------------------


@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
def test_silent_station_that_answers_soon_after_an_announcement_gets_the_address(item: Any) -> None:
    """Its answer could be the echo of the announcement."""
    agent = guest()
    claim(agent, 10.0, item.address)
    agent.until(100.0)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    answered_by(agent, RIVAL)
    claim(agent, 100.5, item.address)
    agent.until(102.0)
    assert is_withheld(agent, item)


@pytest.mark.parametrize("interval", [0.2, 0.9])
@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
def test_silent_station_that_answers_gets_the_address_however_often_that_is_announced(
    item: Any, interval: float
) -> None:
    settings = Settings(interval=interval, interval_with_lease=interval, jitter=0.0)
    agent = Agent(settings, now=0.0)
    agent.tell(*dump(ETH0, item))
    agent.until(70.0)
    claim(agent, 70.0, item.address)
    agent.until(80.0)
    answered_by(agent, RIVAL)
    claim(agent, 80.0, item.address)
    agent.until(83.0)
    assert announcements(agent.until(110.0), item.address) == []


def echo(frame: Frame) -> list[ClaimSeen]:
    """What a repeater makes of a frame."""
    is_claim = frame.announcement.kind in CLAIMS
    return [ClaimSeen("eth0", frame.announcement.address, RIVAL)] if is_claim else []


def test_repeater_slower_than_a_second_causes_no_more_announcements_than_the_loop_has() -> None:
    items = crowd(12)
    agent = usual(*items)
    agent.until(100.0)
    agent.tell(LeaseGranted(3600.0))
    until = late(agent, 1.2, echo)
    until(200.0)
    frames = until(500.0)
    loop = 300.0 / 5.0 * 12  # what `arping` every 5 s sends
    assert len([each for each in frames if each.announcement.kind in CLAIMS]) <= 1.25 * loop


def test_answer_beside_a_frame_that_claims_nothing_is_no_echo() -> None:
    """The probe of an IPv6 address has two frames.  One of them teaches the switches."""
    agent = guest()
    claim(agent, 10.0, MINE6.address, RIVAL2)  # which is silent then
    agent.until(100.0)
    answered_by(agent, RIVAL)
    claim(agent, 100.0, MINE6.address)
    agent.until(200.0)
    answered_by(agent, RIVAL2)
    frames = claim(agent, 200.0, MINE6.address, RIVAL2) + agent.until(300.0)
    assert is_withheld(agent, MINE6)
    assert announcements(frames, MINE6.address) == []


def test_each_claim_of_a_silent_station_is_followed_by_an_announcement() -> None:
    """Under a lease the next refresh may be a minute away, and others believe the claim."""
    agent = guest()
    claim(agent, 10.0)
    agent.until(100.0)
    for now in (100.0, 200.0, 300.0):
        frames = claim(agent, now) + agent.until(now + 50.0)
        assert announcements(frames) == [now + 0.5]
    agent.until(400.0)
    agent.tell(BurstRequested(Cause.HINT, (0.0,)))
    assert announcements(claim(agent, 400.9) + agent.until(450.0)) == []  # it can be an echo


@pytest.mark.parametrize("every", [2.0, 3.0, 5.0, 7.0, 20.0])
@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["no lease", "lease"])
def test_station_that_claims_and_never_answers_is_believed_no_longer_than_beside_the_loop(
    every: float, seconds: float
) -> None:
    """Also if its claims come soon after announcements, and look like their echoes."""
    agent = usual(MINE)
    agent.until(100.0)
    agent.tell(LeaseGranted(seconds))
    claim(agent, 300.0)
    believed_since, longest = inf, 0.0
    for count in range(1, 200):
        for at in announcements(agent.until(310.0 + count * every)):
            longest, believed_since = max(longest, at - believed_since), inf
        claim(agent, agent.now)
        believed_since = min(believed_since, agent.now)
    assert longest <= 5.0


# -- addresses that come back, and move -----------------------------------------------


@pytest.mark.parametrize("before", [2, 3])
@pytest.mark.parametrize("cause", ["moved", "carrier lost"])
def test_withheld_address_that_another_link_announces_now_stays_withheld(
    before: int, cause: str
) -> None:
    after = 5 - before
    item, moved = address("192.0.2.99/24", before), address("192.0.2.99/24", after)
    link = (ETH0, ETH1)[before - 2]
    agent = guest()
    agent.engine.planner._shared._route = lambda destination, vrf: before
    agent.see(address("192.0.2.30/24", 3), item, *([moved] if cause != "moved" else []))
    agent.until(20.0)
    answered_by(agent, RIVAL)
    agent.tell(ClaimSeen(link.name, item.address, RIVAL))
    agent.until(30.0)
    assert is_withheld(agent, item)
    if cause == "moved":
        frames = agent.tell(AddressGone(item), AddressSeen(moved))
    else:
        frames = agent.see(link._replace(flags=NO_CARRIER))
    frames += agent.until(90.0)
    assert is_withheld(agent, moved)
    assert announcements(frames, item.address) == []


@pytest.mark.parametrize("first", [2, 3])
def test_rival_is_remembered_for_its_link_where_the_address_is_on_two(first: int) -> None:
    """One address on two links of different networks; netplan deletes both and adds them again."""
    items = {ifindex: address("198.51.100.9/32", ifindex) for ifindex in (2, 3)}
    agent = usual()
    agent.see(ETH1, address("192.0.2.7/24", 2), address("203.0.113.7/24", 3), *items.values())
    agent.until(100.0)

    def answer(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        is_asked = sent.kind is Kind.ARP_PROBE and sent.address == items[2].address
        if sent.ifindex != 2 or not is_asked:
            return []
        return [ClaimSeen("eth0", sent.address, RIVAL, ETH0.hardware_address)]

    agent.after_frame = answer
    agent.tell(ClaimSeen("eth0", items[2].address, RIVAL))
    agent.until(110.0)
    agent.tell(*map(AddressGone, items.values()))
    agent.until(110.5)
    frames = agent.see(items[first])
    agent.until(110.8)
    frames += agent.see(items[5 - first]) + agent.until(150.0)
    claims = [each for each in frames if each.announcement.kind in CLAIMS]
    shared = [each.announcement for each in claims if each.announcement.address == items[2].address]
    assert {each.ifindex for each in shared} == {3}


@pytest.mark.parametrize("since", [61.0, 90.0])
def test_what_another_link_knew_of_an_address_too_long_ago_hides_nothing(since: float) -> None:
    """A claim that waits for its check is remembered, although four others are under way."""
    items = {ifindex: address("198.51.100.9/32", ifindex) for ifindex in (2, 3)}
    others = crowd(4)
    agent = usual(*others)
    agent.see(ETH1, address("203.0.113.7/24", 3), *items.values())
    agent.until(100.0)
    answered_by(agent, RIVAL)
    agent.tell(ClaimSeen("eth1", items[3].address, RIVAL))
    agent.until(110.0)
    agent.tell(AddressGone(items[3]))
    agent.until(110.0 + since)
    agent.after_frame = lambda frame: ()
    agent.tell(*(ClaimSeen("eth0", item.address, RIVAL) for item in (*others, items[2])))
    answered_by(agent, RIVAL)
    agent.tell(AddressGone(items[2]))
    frames = agent.see(items[2]) + agent.until(150.0 + since)
    assert announcements(frames, items[2].address) == []


@pytest.mark.parametrize("added_again", [0.2, 5.0])
def test_address_added_again_before_the_path_is_known_to_work_is_left_to_its_owner(
    added_again: float,
) -> None:
    """The port of the switch forwards after 10 s: the probe before may have been lost."""
    agent = usual(MINE)
    agent.until(added_again)
    agent.tell(AddressGone(MINE))
    agent.tell(AddressSeen(MINE))
    agent.until(10.0)
    answered_by(agent, RIVAL)
    assert len(announcements(agent.until(300.0))) <= 1


def test_address_added_again_while_a_claim_waits_for_its_check_is_checked() -> None:
    agent = guest()
    claim(agent, 10.0)
    agent.until(12.0)
    answered_by(agent, RIVAL2)
    claim(agent, 13.0, rival=RIVAL2)  # until 15.5, no claim starts a check
    agent.until(14.0)
    assert not is_withheld(agent)
    agent.tell(AddressGone(MINE))
    frames = agent.tell(AddressSeen(MINE))
    rival = agent.engine.conflicts.rivals[MINE.ifindex][MINE.address]
    assert rival.claims == 3  # two, and an answer
    frames += agent.until(100.0)
    assert is_withheld(agent)
    assert announcements(frames) == []


@pytest.mark.parametrize("what", ["added again", "carrier"])
def test_claims_of_a_silent_repeater_that_wait_withhold_nothing_when_addresses_come_back(
    what: str,
) -> None:
    items = crowd(30)
    agent = usual(*items)
    until = late(agent, 0.01, echo)
    until(59.0)
    frames: list[Frame] = []
    for now in (60.0, 63.0):
        gone = seen(ETH0._replace(flags=NO_CARRIER))
        agent.tell(*(gone if what == "carrier" else map(AddressGone, items)))
        frames = until(now) + agent.tell(*seen(*([ETH0] if what == "carrier" else items)))
        frames += until(now + 2.0)
    frames += until(80.0)
    first = [announcements(frames, item.address)[0] for item in items]
    assert max(first) - 63.0 <= 6.0


# -- stops and reloads ----------------------------------------------------------------


@pytest.mark.parametrize("claimed", [False, True], ids=["first check", "claim"])
def test_check_under_way_before_a_suspension_begins_anew_after_it(claimed: bool) -> None:
    agent = usual(MINE)
    if claimed:
        claim(agent, 100.0)
        agent.until(101.2)
    else:
        agent.until(0.4)
    answered_by(agent, RIVAL2)  # it takes the address meanwhile
    frames = agent.stop(600.0, Resumed(600.0)) + agent.wait(60.0)
    assert is_withheld(agent)
    assert announcements(frames) == []


def reconfigure(agent: Agent, **conflict: Any) -> None:
    agent.engine.reconfigure(
        agent.engine.settings._replace(conflict=Conflict(**conflict)), agent.now
    )
    agent.tell()


def test_claim_that_waits_for_its_check_withholds_nothing_under_another_policy() -> None:
    agent = guest()
    claim(agent, 10.0)
    claim(agent, 13.0, rival=RIVAL2)
    agent.until(14.0)
    reconfigure(agent, policy=WARN)
    for now in (15.4, 15.6, 16.6):
        agent.until(now)
        assert not is_withheld(agent)


def test_policy_that_becomes_yield_checks_the_rivals_that_are_known() -> None:
    agent = guest(WARN)
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    agent.until(100.0)
    reconfigure(agent, policy=YIELD)
    agent.until(200.0)
    assert is_withheld(agent)


def test_address_of_a_rival_that_is_ignored_from_now_on_is_released_at_once() -> None:
    agent = guest(hold_off=3600.0)
    answered_by(agent, RIVAL)
    claim(agent, 10.0)
    agent.until(300.0)
    reconfigure(agent, hold_off=3600.0, ignore=((RIVAL, b"\xff" * 6),))
    agent.until(302.0)
    assert not is_withheld(agent)


@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
def test_station_that_takes_the_address_at_the_end_of_a_check_is_asked(item: Any) -> None:
    agent = guest()
    claim(agent, 10.0, item.address, RIVAL2)  # forged: no station answers
    agent.until(11.3)
    answered_by(agent, RIVAL)
    frames = claim(agent, 11.3, item.address, RIVAL) + agent.until(30.0)
    assert announcements(frames, item.address) == []


def test_reloads_do_not_end_a_check_before_its_answers_can_come() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    answer = agent.after_frame
    until = late(agent, 0.1, answer)
    until(10.0)
    agent.tell(ClaimSeen("eth0", MINE.address, RIVAL))
    until(10.5)
    assert is_withheld(agent)
    frames: list[Frame] = []
    for _ in range(300):
        frames += until(agent.now + 0.1)
        if kinds(frames[-1:]) == [Kind.ARP_PROBE] and frames[-1].at == agent.now:
            break
    for _ in range(4):
        agent.engine.reconfigure(agent.engine.settings, agent.now)
        frames += agent.tell()
    frames += until(agent.now + 1.0)
    assert announcements(frames) == []


# -- addresses that come after their link ------------------------------------------------


@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("flag", [NO_CARRIER, ETH0.flags], ids=["link up", "start"])
@pytest.mark.parametrize("mac_only", [True, False])
def test_address_that_is_added_soon_after_its_link_is_announced_at_once_then_left_to_its_owner(
    item: Any, flag: int, mac_only: bool
) -> None:
    """A network manager removes addresses without a carrier, and adds them after it came."""
    agent = Agent(Settings(mac_only=mac_only), now=0.0)
    agent.tell(*dump(ETH0._replace(flags=flag)))
    agent.see(ETH0)
    agent.until(20.0)
    answered_by(agent, RIVAL)
    frames = agent.see(item) + agent.until(200.0)
    assert announcements(frames, item.address) == [20.0, 20.1, 20.4]


def test_address_that_is_added_during_a_check_of_a_claim_is_left_to_its_owner() -> None:
    agent = Agent(Settings(), now=0.0)
    agent.tell(*dump(ETH0, MINE))
    claim(agent, 100.0)
    agent.see(ETH0._replace(flags=NO_CARRIER))
    agent.tell(AddressGone(MINE))
    agent.see(ETH0)
    agent.until(101.0)
    agent.see(MINE)
    agent.until(120.0)  # the port drops all probes
    answered_by(agent, RIVAL)
    assert len(announcements(agent.until(300.0))) <= 1


@pytest.mark.parametrize("mac_only", [True, False])
def test_address_that_is_added_soon_after_a_resume_is_left_to_its_owner(mac_only: bool) -> None:
    agent = Agent(Settings(mac_only=mac_only), now=0.0)
    agent.tell(*dump(ETH0, MINE))
    agent.until(100.0)
    agent.tell(AddressGone(MINE))
    agent.until(170.0)
    agent.tell(Resumed(3600.0))
    agent.until(171.0)
    answered_by(agent, RIVAL)
    frames = agent.see(MINE) + agent.until(300.0)
    assert announcements(frames) == [171.0, 171.1, 171.4]


def test_address_that_is_added_a_minute_after_its_link_is_refreshed_without_probes() -> None:
    agent = Agent(Settings(), now=0.0)
    agent.tell(*dump(ETH0))
    agent.until(61.0)
    assert set(kinds(agent.see(MINE) + agent.until(200.0))) == {Kind.ARP_REQUEST}


def test_link_without_an_address_that_flaps_soon_after_its_start_sends_no_probes() -> None:
    agent = Agent(Settings(), now=0.0)
    agent.tell(*dump(ETH0))
    agent.until(20.0)
    agent.see(ETH0._replace(flags=NO_CARRIER))
    assert set(kinds(agent.see(ETH0) + agent.until(200.0), b"")) == {Kind.RARP}


# -- many addresses -------------------------------------------------------------------


@pytest.mark.parametrize("asked", [105.08, 105.1, 105.2, 105.4])
def test_check_of_a_claim_that_waited_sends_no_frame_more_than_the_bucket_has(asked: float) -> None:
    """An IPv6 address takes two frames from the moment in which it is withheld."""
    items = [address(f"2001:db8::{n:x}/64") for n in range(1, 9)]
    agent = usual(*items)
    bucket = TokenBucket(*agent.engine.settings.rate_limit)

    def take(frame: Frame) -> list[Any]:
        bucket.take(frame.at)
        return []

    agent.after_frame = take
    claim(agent, 100.0, items[0].address)
    claim(agent, 103.0, items[0].address, rival=RIVAL2)
    agent.until(asked - 1.18)
    agent.tell(BurstRequested(Cause.OPERATOR))
    agent.until(110.0)
    assert bucket.taken


@pytest.mark.parametrize("flaps", [False, True], ids=["link stays up", "link flaps"])
@pytest.mark.parametrize("left", [320.0, 341.0, 377.0, 504.0])
def test_rival_that_leaves_many_addresses_at_once_is_missed_for_all_within_a_few_seconds(
    left: float, flaps: bool
) -> None:
    items = crowd(20)
    agent = usual(*items)
    agent.until(300.0)
    answered_by(agent, RIVAL)
    agent.tell(*(ClaimSeen("eth0", item.address, RIVAL) for item in items))
    agent.until(left)
    assert all(is_withheld(agent, item) for item in items)
    answered_by(agent)
    if flaps:
        agent.see(ETH0._replace(flags=NO_CARRIER))
        agent.see(ETH0)
    frames = agent.until(left + 60.0)
    first = [announcements(frames, item.address)[0] for item in items]
    # Two probes and an announcement of each take 6 s, at 10 a second.
    assert max(first) - left <= 9.0


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("claimed", [0.05, 0.17, 0.3, 0.45])
def test_rival_that_leaves_one_of_many_addresses_keeps_the_others(
    count: int, claimed: float
) -> None:
    """Its answer to a probe for another address is on its way when the first one is released."""
    left, *kept = crowd(count)
    agent = usual(left, *kept)
    agent.until(300.0)
    answered_by(agent, RIVAL)
    answers = agent.after_frame
    gone_at = 310.0

    def answer(frame: Frame) -> list[ClaimSeen]:
        is_gone = frame.announcement.address == left.address and frame.at >= gone_at
        return [] if is_gone else list(answers(frame))

    until = late(agent, 0.05, answer)
    agent.tell(ClaimSeen("eth0", left.address, RIVAL))
    until(300.0 + claimed)
    agent.tell(*(ClaimSeen("eth0", item.address, RIVAL) for item in kept))
    until(gone_at)
    frames = until(330.0)
    assert announcements(frames, left.address)
    assert [item for item in kept if announcements(frames, item.address)] == []


def test_claim_during_the_probe_before_a_refresh_is_followed_by_a_probe_in_a_flood() -> None:
    """Four other checks are under way, so this claim withholds nothing."""
    conflicts = Conflicts(Conflict())
    conflicts.check_first(2, MINE.address, Cause.START, 0.0)
    conflicts.probed(2, MINE.address, 0.0, True)
    conflicts.steps(0.5)
    conflicts.announced(2, MINE.address, 0.5)
    conflicts.check_again(2, MINE.address, Cause.REFRESH)
    conflicts.probed(2, MINE.address, 50.0, True)
    for item in crowd(4):
        conflicts.claim(2, item.address, bytes((2, 9, *item.address)), 50.1)
    conflicts.claim(2, MINE.address, RIVAL, 50.2)
    steps = [step for step in conflicts.steps(50.6) if step.address == MINE.address]
    assert [step.released for step in steps] == [None]  # a probe


@pytest.mark.parametrize("since", [20.0, 200.0])
def test_flood_of_claims_leaves_tokens_for_announcements_also_soon_after_the_start(
    since: float,
) -> None:
    items = crowd(50)
    agent = usual(*items)
    agent.until(since)
    frames: list[Frame] = []
    for step in range(300):
        for n, item in enumerate(items[:-1]):
            rival = bytes((2, 1, *(step * 50 + n).to_bytes(4, "big")))
            frames += agent.tell(ClaimSeen("eth0", item.address, rival))
        frames += agent.wait(0.1)
        assert sum(is_withheld(agent, item) for item in items) <= 4
    sent = [frame.announcement.kind for frame in frames]
    assert sum(sent.count(kind) for kind in CLAIMS) > sent.count(Kind.ARP_PROBE) / 3


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_proxy_that_misses_one_probe_of_a_test_is_found_by_the_next(lost: int) -> None:
    agent = usual(MINE)
    agent.until(100.0)
    asked: list[bytes] = []

    def answer(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        if sent.cause is Cause.PROXY_TEST:
            asked.append(sent.address)
            if len(asked) == lost:
                return []
        return (
            [ClaimSeen("eth0", sent.address, RIVAL, sent.hardware_address)]
            if sent.kind not in CLAIMS
            else []
        )

    agent.after_frame = answer
    frames = claim(agent, 100.0) + agent.until(106.0)
    assert len(asked) > lost
    assert announcements(frames)
    assert not is_withheld(agent)


@pytest.mark.parametrize("delay", [0.45, 1.2, 2.5])
def test_proxy_that_answers_late_is_found_by_the_second_test(delay: float) -> None:
    agent = usual(MINE)
    found = announcements(late(agent, delay, as_proxy)(200.0))
    assert max(later - at for at, later in zip([0.0, *found], [*found, 200.0])) <= 10.0


def as_proxy(frame: Frame) -> list[ClaimSeen]:
    """How a station answers that answers every probe."""
    sent = frame.announcement
    return (
        [ClaimSeen("eth0", sent.address, RIVAL, sent.hardware_address)]
        if sent.kind not in CLAIMS
        else []
    )


def test_forged_claims_beside_one_answer_leave_frames_for_other_addresses() -> None:
    """They are read in the turn of the answer."""
    agent = usual(MINE, SECOND)
    agent.until(100.0)
    claim(agent, 100.0)
    agent.until(100.2)
    forged = [ClaimSeen("eth0", MINE.address, bytes((2, 1, 0, 0, 0, n))) for n in range(40)]
    frames = agent.tell(
        ClaimSeen("eth0", MINE.address, RIVAL, ETH0.hardware_address), *forged
    ) + agent.until(120.0)
    at = [100.0, *announcements(frames, SECOND.address)]
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 8.0


def test_flap_during_the_test_of_a_proxy_does_not_silence_addresses_for_a_minute() -> None:
    items = crowd(20)
    agent = usual(*items)
    agent.until(100.0)
    answered_by(agent, RIVAL, everything=True)
    until = late(agent, 0.05, agent.after_frame)
    frames: list[Frame] = []
    for now in (100.0, 100.5):  # at the second one, probes of the test wait for tokens
        frames += until(now) + agent.see(ETH0._replace(flags=NO_CARRIER)) + agent.see(ETH0)
    frames += until(200.0)
    first = [announcements(frames, item.address)[:1] for item in items]
    assert max(first)[0] <= 115.0
