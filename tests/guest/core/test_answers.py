"""What answers a probe, and whom probes ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from garp_agent.config.settings import ArpForm, Conflict, ConflictPolicy, Settings
from garp_agent.guest.core.model import (
    ALL_NODES_ETHERNET,
    IFA_F_OPTIMISTIC,
    PROBE_KINDS,
    Cause,
    ClaimSeen,
    Kind,
    Resumed,
)
from tests.guest.core.conflict_world import (
    CLAIMS,
    ETH0,
    MINE,
    MINE6,
    RIVAL,
    RIVAL2,
    answered_by,
    claim,
    guest,
    is_withheld,
    kinds,
)
from tests.world import NO_CARRIER, Agent, Frame, address, dump

LINK_LOCAL = address("fe80::10/64")
ANOTHER6 = address("2001:db8::11/64")


def guest6(*items: object) -> Agent:
    """An agent with these addresses whose start is long over."""
    agent = Agent(Settings(interval=5000.0, jitter=0.0, mac_only=False), now=-100.0)
    agent.tell(*dump(ETH0, *items))
    agent.until(0.0)
    return agent


def asked(frames: list[Frame]) -> list[bytes]:
    """Whom the probes of conflicts ask; b"": all."""
    sent = [frame.announcement for frame in frames]
    return [
        each.asked for each in sent if each.kind in PROBE_KINDS and each.cause is Cause.CONFLICT
    ]


def asked_before_claims(frames: list[Frame]) -> list[bytes]:
    """Whom the probes for our address ask before the first announcement; b"": all."""
    sent = [frame.announcement for frame in frames]
    begun = next(n for n, each in enumerate(sent) if each.kind in CLAIMS)
    own = [each for each in sent[:begun] if each.kind in PROBE_KINDS]
    return [each.asked for each in own if each.cause is not Cause.PROXY_TEST]


def only_to_all(frame: Frame) -> list[ClaimSeen]:
    """A switch that answers for RIVAL, and forwards what is sent to RIVAL alone."""
    sent = frame.announcement
    if sent.kind not in PROBE_KINDS or sent.asked or sent.cause is Cause.PROXY_TEST:
        return []
    return [ClaimSeen("eth0", sent.address, RIVAL, sent.hardware_address)]


@pytest.mark.parametrize("item", [MINE, MINE6], ids=["IPv4", "IPv6"])
def test_cached_answer_is_followed_by_three_probes_for_that_station_alone(item: object) -> None:
    agent = Agent(Settings(interval=5.0, jitter=0.0, mac_only=False), now=0.0)
    agent.after_frame = only_to_all
    frames = agent.tell(*dump(ETH0, item)) + agent.until(20.0)
    assert asked_before_claims(frames) == [b"", RIVAL, RIVAL, RIVAL]
    claims = [frame.at for frame in frames if frame.announcement.kind in CLAIMS]
    assert claims[0] <= 1.0
    assert all(later - earlier <= 6.0 for earlier, later in zip(claims, claims[1:]))


def test_rival_that_answers_is_asked_alone_every_few_seconds() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    frames = claim(agent, 10.0) + agent.until(30.0)
    alone = [frame.at for frame in frames if frame.announcement.asked == RIVAL]
    assert [round(later - earlier) for earlier, later in zip(alone, alone[1:])] == [4, 4, 4, 4]
    assert is_withheld(agent)


def test_two_stations_that_answer_are_asked_no_more_often_than_one() -> None:
    agent = guest()
    answered_by(agent, RIVAL)
    one = asked(claim(agent, 10.0) + agent.until(60.0))
    agent = guest()
    answered_by(agent, RIVAL, RIVAL2)
    two = asked(claim(agent, 10.0) + agent.until(60.0))
    assert is_withheld(agent)
    assert len(two) <= 2 * len(one)


def test_station_that_claims_while_another_is_asked_alone_is_asked_too() -> None:
    agent = guest()
    agent.after_frame = only_to_all
    agent.tell(Resumed(60.0))
    assert {*asked(agent.until(agent.now + 0.3))} == {RIVAL}
    agent.after_frame = lambda frame: []
    frames = claim(agent, agent.now, rival=RIVAL2) + agent.until(agent.now + 2.0)
    alone = asked([each for each in frames if each.announcement.address == MINE.address])
    assert alone == [RIVAL, RIVAL, RIVAL2, RIVAL2, RIVAL2]


def owner_beside(stations: list[bytes]) -> Callable[[Frame], list[ClaimSeen]]:
    """Caches that name these stations and the owner, RIVAL2, whose answer comes last."""

    def react(frame: Frame) -> list[ClaimSeen]:
        sent, cached = frame.announcement, only_to_all(frame)
        is_owner = sent.kind in PROBE_KINDS and sent.asked in (b"", RIVAL2)
        owner = ClaimSeen("eth0", sent.address, RIVAL2, sent.hardware_address)
        answers = [each._replace(hardware_address=mac) for each in cached for mac in stations]
        return answers + [owner] * (is_owner and sent.cause is not Cause.PROXY_TEST)

    return react


STATIONS = [RIVAL[:5] + bytes((0x80 + n,)) for n in range(8)]


@pytest.mark.parametrize("count", range(7))
def test_owner_that_answers_beside_caches_keeps_the_address(count: int) -> None:
    """All answers are read before the next probe leaves."""
    agent = guest()
    agent.after_frame = owner_beside(STATIONS[:count])
    agent.tell(Resumed(60.0))
    frames = agent.until(60.0)
    assert is_withheld(agent)
    assert not {*kinds(frames)} & {*CLAIMS}


@pytest.mark.parametrize("claimant", [RIVAL, RIVAL2, STATIONS[0]], ids=["cached", "owner", "other"])
@pytest.mark.parametrize("step", range(22, 36))
def test_claim_while_one_station_after_another_is_asked_leaves_the_address_to_its_owner(
    step: int, claimant: bytes
) -> None:
    agent = guest()
    agent.after_frame = owner_beside([RIVAL])
    agent.tell(Resumed(60.0))
    frames = agent.until(agent.now + 0.05 * step)
    frames += claim(agent, agent.now, rival=claimant) + agent.until(agent.now + 30.0)
    assert is_withheld(agent)
    assert not {*kinds(frames)} & {*CLAIMS}


@pytest.mark.parametrize("count", [3, 4, 8])
@pytest.mark.parametrize("step", range(16))
def test_station_that_takes_an_address_over_while_others_claim_it_is_found(
    step: int, count: int
) -> None:
    """RIVAL has left, and is asked alone; strays claim the address, then RIVAL2 does."""
    agent = guest()
    agent.after_frame = only_to_all
    agent.tell(Resumed(60.0))
    frames = agent.until(agent.now + 0.05 * step)
    agent.after_frame = lambda frame: []
    for mac in STATIONS[:count]:
        frames += claim(agent, agent.now, rival=mac)
    answered_by(agent, RIVAL2)
    frames += claim(agent, agent.now, rival=RIVAL2) + agent.until(agent.now + 8.0)
    assert is_withheld(agent)
    assert not {*kinds(frames)} & {*CLAIMS}


@pytest.mark.parametrize("lost", range(12))
def test_owner_whose_answer_is_lost_once_beside_a_cache_keeps_the_address(lost: int) -> None:
    agent = guest()
    both, answers = owner_beside([RIVAL]), 0

    def react(frame: Frame) -> list[ClaimSeen]:
        nonlocal answers
        heard = both(frame)
        answers += bool(heard)
        return heard[:-1] if answers == lost + 3 and len(heard) > 1 else heard

    agent.after_frame = react
    agent.tell(Resumed(60.0))
    frames = agent.until(60.0)
    assert is_withheld(agent)
    assert not {*kinds(frames)} & {*CLAIMS}


def test_policy_that_does_not_yield_releases_an_address_at_once_however_many_are_asked() -> None:
    agent = guest()
    agent.after_frame = two_caches
    agent.tell(Resumed(60.0))
    agent.until(agent.now + 0.1)
    assert is_withheld(agent)
    settings = agent.engine.settings._replace(conflict=Conflict(ConflictPolicy.WARN))
    agent.engine.reconfigure(settings, agent.now)
    agent.tell(ClaimSeen("eth0", MINE.address, STATIONS[0]))
    agent.until(agent.now)
    assert not is_withheld(agent)


@pytest.mark.parametrize("event", ["resume", "carrier"])
def test_probes_ask_all_stations_again_when_the_guest_may_have_been_away(event: str) -> None:
    """Another station may have the address now."""
    agent = guest()
    agent.after_frame = only_to_all
    agent.tell(Resumed(60.0))
    agent.until(agent.now + 0.3)
    assert is_withheld(agent)
    answered_by(agent, RIVAL2)
    if event == "carrier":
        agent.see(ETH0._replace(flags=NO_CARRIER))
        agent.see(ETH0)
    else:
        agent.tell(Resumed(60.0))
    frames = agent.until(agent.now + 60.0)
    assert is_withheld(agent)
    assert not {*kinds(frames)} & {*CLAIMS}


def test_probe_form_of_an_announcement_goes_to_all_after_a_station_was_asked_alone() -> None:
    agent = Agent(Settings(interval=5.0, arp=ArpForm.PROBE, mac_only=False), now=0.0)
    agent.tell(*dump(ETH0, MINE))
    agent.until(100.0)
    agent.after_frame = only_to_all
    claim(agent, 100.0)
    agent.until(104.0)
    agent.after_frame = lambda frame: []
    frames = agent.until(130.0)
    assert len(frames) >= 4
    assert {frame.announcement.asked for frame in frames} == {b""}


def two_caches(frame: Frame) -> list[ClaimSeen]:
    """Two switches that answer for two stations that have left."""
    return [
        each for one in only_to_all(frame) for each in (one, one._replace(hardware_address=RIVAL2))
    ]


def test_caches_that_name_two_stations_withhold_the_address_for_seconds() -> None:
    agent = Agent(Settings(interval=5.0, jitter=0.0, mac_only=False), now=0.0)
    agent.after_frame = two_caches
    frames = agent.tell(*dump(ETH0, MINE)) + agent.until(60.0)
    assert asked_before_claims(frames) == [b"", RIVAL, RIVAL, RIVAL, RIVAL2, RIVAL2, RIVAL2]
    claims = [frame.at for frame in frames if frame.announcement.kind in CLAIMS]
    assert claims[0] <= 2.0
    assert all(later - earlier <= 7.0 for earlier, later in zip(claims, claims[1:]))


def test_second_cached_answer_to_one_probe_is_no_proof() -> None:
    """Two switches answer for one station that has left."""
    agent = Agent(Settings(interval=5.0, mac_only=False), now=0.0)
    answers: list[tuple[float, ClaimSeen]] = []

    def react(frame: Frame) -> list[ClaimSeen]:
        answers.extend(
            (frame.at + after, each) for each in only_to_all(frame) for after in (0.001, 0.003)
        )
        return []

    agent.after_frame = react
    frames = agent.tell(*dump(ETH0, MINE))
    while agent.now < 20.0:
        until = min([agent.now + 0.01, *(at for at, _ in answers)])
        frames += agent.until(until)
        due = [each for at, each in answers if at <= until]
        answers = [each for each in answers if each[0] > until]
        frames += agent.tell(*due)
    claims = [frame.at for frame in frames if frame.announcement.kind in CLAIMS]
    assert len(claims) >= 6


# -- IPv6 --------------------------------------------------------------------------------


def sources(frames: list[Frame]) -> set[tuple[Kind, bytes]]:
    sent = [frame.announcement for frame in frames if frame.announcement.address == MINE6.address]
    return {(each.kind, each.source) for each in sent if each.kind in PROBE_KINDS}


def test_solicitation_comes_from_the_link_local_address() -> None:
    agent = guest6(MINE, MINE6, ANOTHER6, LINK_LOCAL)
    frames = claim(agent, 10.0, MINE6.address)
    assert sources(frames) == {(Kind.SOLICITATION, LINK_LOCAL.address)}


def test_address_that_is_withheld_asks_for_no_other() -> None:
    agent = guest6(MINE6, ANOTHER6, LINK_LOCAL)
    claim(agent, 10.0, LINK_LOCAL.address)
    assert sources(claim(agent, 10.1, MINE6.address)) == {(Kind.SOLICITATION, ANOTHER6.address)}
    claim(agent, 10.2, ANOTHER6.address)  # now all are, because of claims without an answer
    assert sources(agent.until(10.7)) == {(Kind.SOLICITATION, LINK_LOCAL.address)}


def test_optimistic_address_asks_for_no_other() -> None:
    """It may be another station's, too: RFC 4429 section 3.3."""
    agent = guest6(MINE6, LINK_LOCAL._replace(flags=IFA_F_OPTIMISTIC))
    assert sources(claim(agent, 10.0, MINE6.address)) == {(Kind.DAD_PROBE, b"")}


def test_first_probes_come_from_no_address() -> None:
    agent = Agent(Settings(mac_only=False), now=0.0)
    frames = agent.tell(*dump(ETH0, MINE6, LINK_LOCAL)) + agent.until(0.1)
    assert sources(frames) == {(Kind.DAD_PROBE, b"")}


def advertised(to: Callable[[Frame], bytes]) -> Callable[[Frame], list[ClaimSeen]]:
    def react(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        is_probe = sent.kind in PROBE_KINDS and sent.cause is not Cause.PROXY_TEST
        return [ClaimSeen("eth0", sent.address, RIVAL, to(frame))] if is_probe else []

    return react


@pytest.mark.parametrize(
    ("items", "to", "withheld"),
    [
        pytest.param([MINE6], ALL_NODES_ETHERNET, True, id="to all, one address"),
        pytest.param([MINE6, LINK_LOCAL], ALL_NODES_ETHERNET, False, id="to all, two addresses"),
        pytest.param([MINE6, LINK_LOCAL], ETH0.hardware_address, True, id="to us, two addresses"),
        pytest.param([MINE6, LINK_LOCAL], RIVAL2, False, id="to another station"),
    ],
)
def test_advertisement_is_an_answer_if_it_is_for_the_address_that_asked(
    items: list[object], to: bytes, withheld: bool
) -> None:
    agent = guest6(*items)
    agent.after_frame = advertised(lambda frame: to)
    frames = claim(agent, 10.0, MINE6.address) + agent.until(14.0)
    assert is_withheld(agent, MINE6) == withheld
    assert (Kind.UNSOLICITED_NA in kinds(frames, MINE6.address)) != withheld
