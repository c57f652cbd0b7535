"""conflicts, through the engine: what is withheld, defended and logged, and for how long."""

from __future__ import annotations

import pytest

from garp_agent.config.settings import Conflict, ConflictPolicy, Settings
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    Kind,
)
from tests.world import Agent, Frame, address, dump, link

MINE = address("192.0.2.10/24")
SECOND = address("192.0.2.11/24")
MINE6 = address("2001:db8::10/64")
ETH0, ETH1 = link(2, "eth0"), link(3, "eth1")
RIVAL, RIVAL2 = b"\2\0\0\0\0\x66", b"\2\0\0\0\0\x67"
YIELD, WARN, DEFEND = ConflictPolicy.YIELD, ConflictPolicy.WARN, ConflictPolicy.DEFEND


def guest(policy: ConflictPolicy, hold_off: float = 60.0) -> Agent:
    """An agent at time 0 whose start burst is over, and whose next refresh is far away."""
    conflict = Conflict(policy, hold_off)
    settings = Settings(interval=5000.0, jitter=0.0, mac_only=False, conflict=conflict)
    agent = Agent(settings, now=-1.0)
    agent.tell(*dump(ETH0, ETH1, MINE, SECOND, MINE6))
    agent.until(0.0)
    agent.notices()
    return agent


def claim(
    agent: Agent, now: float, claimed: bytes = MINE.address, rival: bytes = RIVAL
) -> list[Frame]:
    return agent.until(now) + agent.tell(ClaimSeen("eth0", claimed, rival))


def burst(agent: Agent, now: float) -> dict[bytes, list[Kind]]:
    """The kinds of the frames of one burst, by address."""
    found: dict[bytes, list[Kind]] = {}
    for frame in agent.until(now) + agent.tell(BurstRequested(Cause.HINT, (0.0,))):
        found.setdefault(frame.announcement.address, []).append(frame.announcement.kind)
    return found


def logged_rivals(agent: Agent) -> list[object]:
    notices = [each for each in agent.engine.notices.take() if each.event == "address-conflict"]
    return [dict(each.fields)["claimed_by"] for each in notices]


def test_claim_under_yield_withholds_only_the_claimed_address() -> None:
    agent = guest(YIELD)
    assert claim(agent, 10.0) == []
    assert burst(agent, 11.0) == {
        MINE.address: [Kind.ARP_PROBE],
        SECOND.address: [Kind.ARP_REQUEST],
        MINE6.address: [Kind.UNSOLICITED_NA],
    }
    claim(agent, 12.0, MINE6.address)
    assert burst(agent, 13.0)[MINE6.address] == [Kind.RARP, Kind.DAD_PROBE]


def test_hold_off_runs_from_last_claim_and_ends_with_a_burst() -> None:
    agent = guest(YIELD, hold_off=60.0)
    claim(agent, 10.0)
    claim(agent, 40.0)
    claim(agent, 41.0, SECOND.address)
    assert agent.engine.conflicts.rivals[2, MINE.address].claims == 2
    assert agent.engine.deadline() == 100.0
    assert agent.until(99.0) == []
    frames = agent.until(100.0)
    assert [(f.at, f.announcement.address, f.announcement.kind) for f in frames] == [
        (100.0, MINE.address, Kind.ARP_REQUEST)
    ]
    assert frames[0].announcement.cause is Cause.ADDRESS_ADDED
    assert agent.notices()[-1:] == ["frame-sent"]
    assert agent.engine.deadline() < 101.0  # rounds of the burst, and the other hold-off


@pytest.mark.parametrize(
    ("claims", "logged"),
    [
        ([(10.0, RIVAL), (11.0, RIVAL), (21.0, RIVAL2)], [RIVAL, RIVAL2]),
        ([(10.0, RIVAL), (70.0, RIVAL)], [RIVAL]),  # the hold-off is extended by each claim
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
    agent = guest(YIELD)
    claim(agent, 10.0)
    for now, policy, kind in ((11.0, YIELD, Kind.ARP_PROBE), (13.0, WARN, Kind.ARP_REQUEST)):
        agent.until(now)
        agent.engine.reconfigure(
            agent.engine.settings._replace(interval=now, conflict=Conflict(policy)), now
        )
        released = [frame.announcement.kind for frame in agent.tell()]
        assert released == ([kind] if policy is WARN else [])
        assert set(burst(agent, now + 1.0)[MINE.address]) == {kind}
    assert logged_rivals(agent) == [RIVAL]
    claim(agent, 15.0)
    assert logged_rivals(agent) == []
    agent.engine.reconfigure(agent.engine.settings._replace(conflict=Conflict(YIELD)), 16.0)
    claim(agent, 16.0)
    assert logged_rivals(agent) == [RIVAL]


def test_hold_off_changed_is_in_force_at_once() -> None:
    agent = guest(YIELD, hold_off=60.0)
    claim(agent, 10.0)
    assert agent.engine.deadline() == 70.0
    agent.engine.reconfigure(agent.engine.settings._replace(conflict=Conflict(YIELD, 5.0)), 10.0)
    agent.tell()
    assert agent.engine.deadline() == 15.0


def test_claim_under_warn_is_logged_and_nothing_else() -> None:
    agent = guest(WARN)
    assert claim(agent, 10.0) + agent.until(20.0) == []
    assert agent.notices() == ["address-conflict"]
    assert burst(agent, 20.0)[MINE.address] == [Kind.ARP_REQUEST]


def test_claim_under_defend_is_answered_at_most_every_ten_seconds() -> None:
    agent = guest(DEFEND)
    frames = []
    for now in (10.0, 11.0, 19.9, 20.0, 29.0, 30.1):
        frames += claim(agent, now)
    answers = [(f.at, f.announcement.address, f.announcement.cause) for f in frames]
    assert answers == [(now, MINE.address, Cause.DEFENCE) for now in (10.0, 20.0, 30.1)]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(ClaimSeen("eth0", MINE.address, ETH0.hardware_address), id="our own frame"),
        pytest.param(ClaimSeen("eth0", MINE.address, ETH1.hardware_address), id="our other link"),
        pytest.param(ClaimSeen("eth0", bytes([192, 0, 2, 99]), RIVAL), id="not our address"),
        pytest.param(ClaimSeen("eth1", MINE.address, RIVAL), id="other network"),
        pytest.param(ClaimSeen("eth9", MINE.address, RIVAL), id="unknown link"),
    ],
)
def test_claim_that_is_no_conflict_is_ignored(event: ClaimSeen) -> None:
    agent = guest(YIELD)
    assert agent.tell(event) == []
    assert (agent.engine.conflicts.claims, agent.engine.conflicts.rivals) == (0, {})
    assert agent.notices() == []


def test_address_removed_forgets_its_rival() -> None:
    agent = guest(YIELD)
    claim(agent, 10.0)
    claim(agent, 10.0, SECOND.address)
    agent.tell(AddressGone(MINE))
    assert list(agent.engine.conflicts.rivals) == [(2, SECOND.address)]
    frames = agent.tell(AddressSeen(MINE))
    assert [frame.announcement.kind for frame in frames] == [Kind.ARP_REQUEST]
    agent.tell(AddressGone(SECOND))
    assert agent.until(69.0) != []  # the burst
    assert agent.engine.conflicts.deadline() == float("inf")
