"""schedule: ticks, bursts and the token bucket, at literal times."""

from __future__ import annotations

import random
from math import ceil, inf
from typing import Any

import pytest

from garp_agent.config.settings import RateLimit, Settings
from garp_agent.guest.core.link_schedule import Due
from garp_agent.guest.core.model import Cause
from garp_agent.guest.core.schedule import Schedule

LINK, OTHER = 2, 3
PLENTY = RateLimit(1000.0, depth=1000)


def halves() -> float:
    """Every draw in the middle: no jitter, and a first tick after half an interval."""
    return 0.5


def names(count: int, first: int = 0) -> list[bytes]:
    return [bytes((10, 0, 0, number)) for number in range(first, first + count)]


def one_each(addresses: list[bytes]) -> dict[bytes, int]:
    return dict.fromkeys(addresses, 1)


def schedule_of(
    addresses: list[bytes], uniform: Any = halves, now: float = 0.0, **settings: Any
) -> Schedule:
    made = Schedule(Settings(**settings), uniform)
    made.set_addresses(LINK, one_each(addresses), now)
    return made


def take(schedule: Schedule, now: float) -> list[Due]:
    """Everything that is due now, and sent at once."""
    taken = []
    for due in iter(lambda: schedule.next_due(now), None):
        for _ in range(schedule._links[due.ifindex].addresses[due.address]):
            schedule.sent(due.ifindex, now)
        taken.append(due)
    return taken


def run(schedule: Schedule, until: float) -> list[tuple[float, Due]]:
    """Come back at each deadline, as the loop does."""
    taken: list[tuple[float, Due]] = []
    while schedule.deadline() <= until:
        now = schedule.deadline()
        taken += [(round(now, 6), due) for due in take(schedule, now)]
        assert schedule.deadline() > now
    return taken


def moments(taken: list[tuple[float, Due]]) -> list[float]:
    return list(dict.fromkeys(at for at, _ in taken))


def addresses(taken: list[tuple[float, Due]]) -> list[bytes]:
    return [due.address for _, due in taken]


# -- ticks ------------------------------------------------------------------------------


def test_schedule_without_addresses_has_no_deadline() -> None:
    schedule = Schedule(Settings(), halves)
    assert (schedule.deadline(), schedule.next_due(1e9)) == (inf, None)
    schedule.set_addresses(LINK, {}, 1.0)
    assert schedule.deadline() == inf


def test_tick_without_jitter_comes_at_the_interval_after_the_phase() -> None:
    taken = run(schedule_of(names(1), interval=5.0), until=30.0)
    assert moments(taken) == [2.5, 7.5, 12.5, 17.5, 22.5, 27.5]
    assert {due for _, due in taken} == {Due(LINK, names(1)[0], Cause.REFRESH)}


@pytest.mark.parametrize(
    ("draw", "interval", "jitter", "gap"),
    [
        (0.0, 5.0, 0.2, 4.0),
        (0.25, 5.0, 0.2, 4.5),
        (0.75, 5.0, 0.2, 5.5),
        (0.75, 5.0, 0.0, 5.0),
        (0.25, 270.0, 0.5, 202.5),
        (0.75, 270.0, 0.5, 290.0),  # never more, because switches forget after 300 s
    ],
)
def test_tick_draw_becomes_a_phase_and_a_gap(
    draw: float, interval: float, jitter: float, gap: float
) -> None:
    schedule = schedule_of(names(1), lambda: draw, interval=interval, jitter=jitter)
    first, second = moments(run(schedule, until=600.0))[:2]
    assert (first, round(second - first, 6)) == (interval * draw, gap)


def test_each_link_draws_a_phase_at_first_on_rephase_and_when_it_is_announced_again() -> None:
    draws = iter([0.1, 0.7, 0.2, 0.9, 0.3])
    schedule = Schedule(Settings(interval=10.0), lambda: next(draws))
    for ifindex in (LINK, OTHER):
        schedule.set_addresses(ifindex, one_each(names(1)), 0.0)
    assert (schedule.next_refresh(LINK), schedule.next_refresh(OTHER)) == (1.0, 7.0)
    schedule.rephase(3600.0)
    assert (schedule.next_refresh(LINK), schedule.next_refresh(OTHER)) == (3602.0, 3609.0)
    assert schedule.deadline() == 3602.0
    schedule.set_addresses(LINK, {}, 3600.0)
    schedule.set_addresses(LINK, one_each(names(1)), 3601.0)
    assert schedule.next_refresh(LINK) == 3604.0


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 30])
@pytest.mark.parametrize("per_tick", [1, 4])
def test_ticks_take_a_few_addresses_each_and_go_round(count: int, per_tick: int) -> None:
    schedule = schedule_of(names(count), rate_limit=PLENTY, addresses_per_tick=per_tick)
    taken = addresses(run(schedule, until=5.0 * 40))
    size = min(per_tick, count)
    ticks = [taken[at : at + size] for at in range(0, len(taken), size)]
    assert len(ticks) == 40
    around = ceil(count / per_tick)
    for at in range(len(ticks) - around + 1):
        assert {a for tick in ticks[at : at + around] for a in tick} == set(names(count))


@pytest.mark.parametrize(
    ("others", "second"),
    [
        # A new address does not make the others wait longer, and a removed one takes no turn.
        ([*names(1, first=100), *names(8)], names(4, first=4)),
        ([*names(4), *names(2, first=6)], [*names(2, first=6), *names(2)]),
    ],
)
def test_ticks_after_an_address_change_go_on_with_the_next(
    others: list[bytes], second: list[bytes]
) -> None:
    schedule = schedule_of(names(8), addresses_per_tick=4)
    assert addresses(run(schedule, 2.5)) == names(4)
    schedule.set_addresses(LINK, one_each(others), 3.0)
    assert addresses(run(schedule, 7.5)) == second


@pytest.mark.parametrize(("ipv4", "ipv6"), [(1, 7), (3, 9), (6, 2), (0, 5)])
def test_tick_takes_as_many_addresses_of_each_family(ipv4: int, ipv6: int) -> None:
    """IPv6 privacy addresses do not make an IPv4 address wait, nor the other way round."""
    families = [names(ipv4), [bytes(12) + name for name in names(ipv6)]]
    schedule = schedule_of(families[1] + families[0], rate_limit=PLENTY, addresses_per_tick=3)
    ticks = [addresses(run(schedule, until=5.0 * tick)) for tick in range(1, 13)]
    for family in families:
        around = ceil(len(family) / 3)
        for at in range(len(ticks) - around + 1):
            taken = [name for tick in ticks[at : at + around] for name in tick if name in family]
            assert set(taken) == set(family)
            assert len(taken) == around * min(3, len(family))


# -- bursts -----------------------------------------------------------------------------

UP, PEERS, ADDED, HINT = Cause.LINK_UP, Cause.NOTIFY_PEERS, Cause.ADDRESS_ADDED, Cause.HINT
ONE = {"addresses": names(1)}


def later(*offsets: float) -> dict[str, Any]:
    return {"offsets": offsets}


@pytest.mark.parametrize(
    ("bursts", "expected"),
    [
        ([(10.0, UP, {})], {UP: [10.0, 10.1, 10.4]}),
        ([(10.0, HINT, later(1.0, 1.25))], {HINT: [11.0, 11.25]}),
        # An immediate burst replaces the one under way.
        ([(10.0, UP, {}), (10.25, PEERS, {})], {UP: [10.0, 10.1], PEERS: [10.25, 10.35, 10.65]}),
        ([(10.0, UP, {}), (10.05, HINT, later(0.0, 0.2))], {UP: [10.0], HINT: [10.05, 10.25]}),
        # Immediate and delayed bursts are independent.
        (
            [(10.0, UP, {}), (10.05, HINT, later(2.0, 2.1))],
            {UP: [10.0, 10.1, 10.4], HINT: [12.05, 12.15]},
        ),
        (
            [(10.0, HINT, later(2.0)), (11.0, UP, {}), (11.0, ADDED, ONE)],
            {UP: [11.0, 11.1, 11.4], HINT: [12.0]},
        ),
        ([(10.0, HINT, later(0.05)), (10.01, UP, {})], {UP: [10.01, 10.11, 10.41], HINT: [10.05]}),
        # Of delayed bursts, the earlier wins.
        (
            [(10.0, UP, later(3.0)), (11.0, HINT, later(1.0, 1.5)), (11.5, PEERS, later(3.0))],
            {HINT: [12.0, 12.5]},
        ),
        ([(10.0, UP, later(3.0)), (11.0, HINT, later(2.0))], {UP: [13.0]}),
        ([(10.0 + n, HINT, later(2.5)) for n in range(9)], {HINT: [12.5, 15.5, 18.5]}),
        # A burst of all replaces bursts of single addresses, unless it is delayed.
        (
            [(10.0, ADDED, ONE), (10.02, HINT, later(2.0)), (10.2, UP, {})],
            {ADDED: [10.0, 10.1], UP: [10.2, 10.3, 10.6], HINT: [12.02]},
        ),
        ([(10.0, UP, {}), (10.0, ADDED, ONE)] * 1000, {UP: [10.0, 10.1, 10.4]}),
    ],
)
def test_bursts_come_at_the_expected_moments(
    bursts: list[tuple[float, Cause, dict[str, Any]]], expected: dict[Cause, list[float]]
) -> None:
    schedule = schedule_of(names(2), interval=250.0, rate_limit=PLENTY)
    taken: list[tuple[float, Due]] = []
    for at, cause, more in bursts:
        taken += run(schedule, at - 1e-9)
        schedule.burst(LINK, cause, at, **more)
    taken += run(schedule, 20.0)
    first = [(at, due) for at, due in taken if due.address == names(1)[0]]
    assert {c: [at for at, due in first if due.cause is c] for c in expected} == expected
    assert len(first) == sum(map(len, expected.values()))
    single = sum(len(expected[cause]) for _, cause, more in bursts[:1] if more == ONE)
    assert len(taken) - len(first) == len(first) - single  # the other address


def test_burst_takes_all_addresses_in_order_or_only_those_named() -> None:
    schedule = schedule_of(names(3), interval=250.0)
    schedule.burst(LINK, UP, 10.0)
    assert run(schedule, 20.0) == [
        (at, Due(LINK, address, UP)) for at in (10.0, 10.1, 10.4) for address in names(3)
    ]
    schedule.burst(LINK, ADDED, 30.0, addresses=names(1, first=1))
    assert addresses(run(schedule, 40.0)) == [names(3)[1]] * 3


def test_burst_and_tick_are_not_disturbed_by_an_address_that_comes_or_goes() -> None:
    schedule = schedule_of(names(3), random.Random(9).random, interval=20.0)
    tick = schedule.next_refresh(LINK)
    schedule.burst(LINK, UP, 1.0)
    take(schedule, 1.0)
    schedule.set_addresses(LINK, one_each(names(4)), 1.05)
    schedule.burst(LINK, ADDED, 1.05, addresses=names(1, first=3))
    take(schedule, 1.05)
    schedule.set_addresses(LINK, one_each(names(3, first=1)), 1.07)
    assert schedule.next_refresh(LINK) == tick
    taken = [(at, due.address[3], due.cause) for at, due in run(schedule, 1.5)]
    assert taken == [
        *((1.1, number, UP) for number in (1, 2, 3)),
        (1.15, 3, ADDED),
        *((1.4, number, UP) for number in (1, 2, 3)),
        (1.45, 3, ADDED),
    ]


def test_burst_at_the_moment_of_a_tick_adds_no_frame() -> None:
    schedule = schedule_of(names(3), interval=20.0)  # first tick at 10.0
    schedule.burst(LINK, UP, 10.0)
    assert [at for at, _ in run(schedule, 10.05)] == [10.0] * 3


def test_rounds_and_ticks_that_were_missed_are_not_caught_up() -> None:
    schedule = schedule_of(names(2), interval=60.0, rate_limit=PLENTY)
    schedule.burst(LINK, UP, 10.0)
    assert [due.address for due in take(schedule, 29.0)] == names(2)
    assert schedule.deadline() == 30.0  # the tick
    assert [due.address for due in take(schedule, 3600.0)] == names(2)
    assert schedule.deadline() == 3660.0


def test_links_that_are_due_take_turns() -> None:
    schedule = Schedule(Settings(interval=60.0), halves)
    for ifindex in (LINK, OTHER, 4):
        schedule.set_addresses(ifindex, one_each(names(3)), 0.0)
    for at, ifindex in ((1.0, 4), (1.01, LINK), (1.02, OTHER)):
        schedule.burst(ifindex, HINT, at)
    taken = take(schedule, 1.05)
    assert [due.ifindex for due in taken] == [4, LINK, OTHER] * 3
    assert [due.address for due in taken if due.ifindex == 4] == names(3)


def test_link_that_becomes_due_between_two_frames_gets_its_turn_before_the_third() -> None:
    schedule = schedule_of(names(9), interval=60.0)
    schedule.set_addresses(OTHER, one_each(names(2)), 0.0)
    schedule.burst(LINK, UP, 1.0)
    assert schedule.next_due(1.0) == Due(LINK, names(1)[0], UP)
    schedule.burst(OTHER, UP, 1.0)
    pulled = [schedule.next_due(1.0), schedule.next_due(1.0)]
    assert {due.ifindex for due in pulled if due} == {LINK, OTHER}


def test_address_or_link_removed_between_two_frames_is_not_sent() -> None:
    schedule = schedule_of(names(3), interval=60.0)
    schedule.set_addresses(OTHER, one_each(names(2)), 0.0)
    for ifindex in (LINK, OTHER):
        schedule.burst(ifindex, UP, 1.0)
    assert schedule.next_due(1.0) == Due(LINK, names(1)[0], UP)
    schedule.set_addresses(LINK, one_each([names(3)[0], names(3)[2]]), 1.0)
    schedule.remove(OTHER, 1.0)
    assert take(schedule, 1.0) == [Due(LINK, names(3)[2], UP)]


def test_burst_is_under_way_while_addresses_wait_for_the_bucket() -> None:
    schedule = schedule_of(names(20), interval=60.0, burst=(0.0,), addresses_per_tick=20)
    assert (schedule.is_idle(), schedule.is_bursting(LINK)) == (True, False)
    assert schedule.last_burst(LINK) is schedule.last_burst(OTHER) is None
    take(schedule, schedule.deadline())  # a refresh, of which eight wait
    assert (schedule.is_idle(), schedule.is_bursting(LINK)) == (False, False)
    run(schedule, 50.0)
    schedule.burst(LINK, HINT, 50.0)
    assert (schedule.is_idle(), schedule.is_bursting(LINK)) == (False, True)
    take(schedule, 50.0)  # eight wait
    assert (schedule.is_idle(), schedule.is_bursting(LINK)) == (False, True)
    assert (schedule.last_burst(LINK), schedule.is_bursting(OTHER)) == ((50.0, HINT), False)
    run(schedule, 53.0)
    assert (schedule.is_idle(), schedule.is_bursting(LINK)) == (True, False)


# -- what is removed is not announced ---------------------------------------------------


def test_address_removed_in_mid_burst_is_not_sent_again() -> None:
    schedule = schedule_of(names(30), interval=60.0)
    schedule.burst(LINK, UP, 10.0)
    schedule.burst(LINK, ADDED, 10.0, addresses=names(1))
    assert len(take(schedule, 10.0)) == 12
    schedule.set_addresses(LINK, one_each(names(5, first=1)), 10.05)
    assert set(addresses(run(schedule, 29.0))) == set(names(5, first=1))


def test_link_removed_or_without_addresses_is_not_due_any_more() -> None:
    schedule = schedule_of(names(30), interval=60.0)
    schedule.burst(LINK, UP, 10.0)
    take(schedule, 10.0)
    schedule.set_addresses(LINK, {}, 10.05)
    assert (schedule.deadline(), schedule.next_refresh(LINK)) == (inf, None)
    schedule.configure(Settings(interval=5.0), 5.0, 11.0)
    schedule.rephase(12.0)
    assert (schedule.deadline(), schedule.is_idle()) == (inf, True)
    schedule.set_addresses(LINK, one_each(names(30)), 20.0)
    schedule.burst(LINK, UP, 20.0)
    schedule.remove(LINK, 20.0)
    assert (schedule.deadline(), run(schedule, 100.0)) == (inf, [])
    schedule.remove(OTHER, 20.0)  # was never there
    assert (schedule.next_refresh(OTHER), schedule.held(OTHER)) == (None, 0)


@pytest.mark.parametrize("removed", [False, True])
def test_link_announced_again_has_the_bucket_that_it_had(removed: bool) -> None:
    # A carrier that flaps, or a link that is deleted and created, must not gain tokens.
    schedule = schedule_of(names(12), interval=60.0, burst=(0.0,))
    sent = 0
    for step in range(200):
        if removed:
            schedule.remove(LINK, step * 0.01)
        else:
            schedule.set_addresses(LINK, {}, step * 0.01)
        schedule.set_addresses(LINK, one_each(names(12)), step * 0.01 + 0.005)
        schedule.burst(LINK, UP, step * 0.01 + 0.005)
        sent += len(take(schedule, step * 0.01 + 0.005))
    assert sent == 2 * 14  # in two seconds
    assert removed or schedule.held(LINK) > 100


# -- the bucket -------------------------------------------------------------------------


def burst_times(count: int, frames: int = 1, **settings: Any) -> tuple[list[float], Schedule]:
    """When the addresses of a burst at 10.0 are sent."""
    schedule = Schedule(Settings(interval=200.0, burst=(0.0,), **settings), halves)
    schedule.set_addresses(LINK, dict.fromkeys(names(count), frames), 0.0)
    schedule.burst(LINK, UP, 10.0)
    taken = run(schedule, 50.0)
    assert addresses(taken) == names(count)
    return [round(at, 3) for at, _ in taken], schedule


def test_bucket_full_lets_its_depth_out_and_then_its_rate() -> None:
    at, _ = burst_times(40, rate_limit=RateLimit(10.0, 20))
    assert at == [10.0] * 20 + [round(10.0 + 0.1 * n, 3) for n in range(1, 21)]


def test_bucket_lets_at_most_14_frames_out_in_any_second() -> None:
    # What flows in after the bucket was emptied waits until the second is over.
    at, _ = burst_times(30)
    second = [11.05] * 8 + [11.1, 11.2, 11.3, 11.4, 11.5, 11.6]
    assert at == [10.0] * 12 + [10.1, 10.2] + second + [12.1, 12.1]


@pytest.mark.parametrize(("count", "held"), [(12, 0), (13, 1), (14, 2)])
def test_held_counts_each_time_that_the_bucket_stops_a_link(count: int, held: int) -> None:
    _, schedule = burst_times(count)
    assert schedule.held(LINK) == held
    schedule.burst(LINK, UP, 50.0)
    assert len(take(schedule, 50.0)) == 12  # full again, and no fuller


def test_bucket_is_one_for_each_link() -> None:
    schedule = schedule_of(names(12), interval=200.0, burst=(0.0,))
    schedule.set_addresses(OTHER, one_each(names(12)), 0.0)
    schedule.burst(LINK, UP, 1.0)
    schedule.burst(OTHER, UP, 1.0)
    assert len(take(schedule, 1.0)) == 24
    assert (schedule.held(LINK), schedule.held(OTHER)) == (0, 0)


def test_links_of_one_nic_share_its_bucket_and_take_turns() -> None:
    schedule = schedule_of(names(12), interval=200.0, burst=(0.0,))
    schedule.set_addresses(OTHER, one_each(names(12)), 0.0)
    schedule.group({LINK: 9, OTHER: 9}, 0.0)
    schedule.burst(LINK, UP, 10.0)
    schedule.burst(OTHER, UP, 10.0)
    taken = run(schedule, 20.0)
    assert [due.ifindex for _, due in taken] == [LINK, OTHER] * 12
    assert [at for at, _ in taken[:15]] == [10.0] * 12 + [10.1, 10.2, 11.05]


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        ({}, {LINK: 9, OTHER: 9}, 0),
        ({LINK: 9, OTHER: 9}, {}, 2),
        ({LINK: 2, OTHER: 2}, {LINK: 3}, 0),
        ({}, {LINK: 5}, 12),
    ],
)
def test_links_grouped_otherwise_gain_no_tokens(
    before: dict[int, int], after: dict[int, int], others: int
) -> None:
    schedule = schedule_of(names(12), interval=200.0, burst=(0.0,))
    schedule.set_addresses(OTHER, one_each(names(12)), 0.0)
    schedule.group(before, 0.0)
    schedule.burst(LINK, UP, 10.0)
    assert len(take(schedule, 10.0)) == 12
    schedule.group(after, 10.0)
    schedule.burst(LINK, UP, 10.0)
    assert take(schedule, 10.0) == []
    assert moments(run(schedule, 11.0)) == [10.1, 10.2]
    schedule.burst(OTHER, UP, 11.0)
    assert sum(due.ifindex == OTHER for due in take(schedule, 11.0)) == others


@pytest.mark.parametrize("seed", range(20))
def test_wire_gets_at_most_14_frames_in_any_second_however_links_are_joined(seed: int) -> None:
    """A frame leaves by every NIC that is joined to its link at that moment."""
    draw = random.Random(seed)
    schedule = Schedule(Settings(interval=200.0), draw.random)
    wires: dict[int, list[float]] = {ifindex: [] for ifindex in range(2, 9)}
    now = 0.0
    for _ in range(100):
        there = [ifindex for ifindex in wires if draw.random() < 0.9]
        segments = {ifindex: draw.randrange(4) for ifindex in there}
        lowest = {segments[ifindex]: ifindex for ifindex in reversed(there)}
        schedule.group({ifindex: lowest[segments[ifindex]] for ifindex in there}, now)
        for ifindex in wires:
            if ifindex not in there:
                schedule.remove(ifindex, now)
            elif draw.random() < 0.5:
                schedule.set_addresses(ifindex, one_each(names(draw.choice([0, 3, 14]))), now)
                schedule.burst(ifindex, UP, now)
        until = now + draw.choice([0.01, 0.1, 0.4, 2.0])
        for at, due in run(schedule, until):
            for ifindex in there:
                if segments[ifindex] == segments[due.ifindex]:
                    wires[ifindex].append(max(at, now))
        now = until
    assert min(map(len, wires.values())) > 100
    for times in wires.values():
        assert all(later - first > 1.0 for first, later in zip(times, times[14:]))


@pytest.mark.parametrize("port", [5, 9])
def test_port_that_leaves_its_bridge_and_comes_back_is_charged_once_for_each_frame(
    port: int,
) -> None:
    schedule = Schedule(Settings(interval=200.0, burst=(0.0,)), halves)
    bridge, together = 7, {7: min(7, port), port: min(7, port)}
    schedule.group(together, 0.0)
    schedule.set_addresses(bridge, one_each(names(8)), 0.0)
    schedule.burst(bridge, UP, 10.0)
    assert len(take(schedule, 10.0)) == 8
    schedule.group({7: 7, port: port}, 10.0)
    schedule.group(together, 10.0)
    schedule.burst(bridge, UP, 10.0)
    assert [at for at, _ in run(schedule, 12.0)] == [10.0] * 4 + [10.1, 10.2, 11.05, 11.05]


@pytest.mark.parametrize(
    ("count", "rested_at"),
    [
        (1, -inf),  # a start sends seven frames for it at most, and three were sent
        (2, 11.45),
        (14, 12.65),
    ],
)
def test_rested_is_when_a_new_process_cannot_exceed_14_frames_in_a_second(
    count: int, rested_at: float
) -> None:
    schedule = schedule_of(names(count), interval=200.0)
    assert schedule.rested_at() == -inf
    schedule.burst(LINK, UP, 10.0)
    run(schedule, 20.0)
    assert round(schedule.rested_at(), 3) == rested_at


def test_frame_is_charged_when_it_is_sent_and_not_when_it_is_taken() -> None:
    schedule = schedule_of(names(15), interval=200.0, burst=(0.0,), rate_limit=RateLimit(14.0, 14))
    schedule.burst(LINK, UP, 10.0)
    for step in range(14):
        assert schedule.next_due(10.0 + 0.1 * step) is not None
        schedule.sent(LINK, 10.1 + 0.1 * step)  # a slow driver
    assert moments(run(schedule, 20.0)) == [11.4]


def test_bucket_takes_two_tokens_for_an_address_of_two_frames() -> None:
    at, _ = burst_times(8, frames=2)
    assert at == [10.0] * 6 + [10.2, 11.05]
    at, _ = burst_times(3, frames=2, rate_limit=RateLimit(0.1, 2))  # the smallest bucket allowed
    assert at == [10.0, 30.0, 50.0]


def test_burst_repeated_without_end_gives_each_address_its_turn() -> None:
    # A trigger every 200 ms for 40 addresses, at ten frames a second.
    schedule = schedule_of(names(40), interval=200.0)
    sent: list[bytes] = []
    for step in range(100):
        schedule.burst(LINK, HINT, 10.0 + 0.2 * step)
        sent += addresses(run(schedule, 10.0 + 0.2 * step + 0.199))
    counts = [sent.count(address) for address in names(40)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 4


@pytest.mark.parametrize("seed", range(10))
def test_probe_and_announcement_of_an_address_each_get_a_turn(seed: int) -> None:
    draw = random.Random(seed)
    schedule = schedule_of(names(20), draw.random, interval=200.0)
    asked: set[tuple[bytes, bool]] = set()

    def go_on(now: float) -> None:
        for _, due in run(schedule, now):
            asked.discard((due.address, due.cause is Cause.CONFLICT))
            if due.cause is Cause.CONFLICT:
                schedule.probed(LINK, due.address, False, now)

    now = 0.0
    for _ in range(300):
        now += draw.random() / 5
        go_on(now)
        address, is_probe = draw.choice(names(20)), draw.random() < 0.5
        asked.add((address, is_probe))
        if is_probe:
            schedule.send_once(LINK, address, Cause.CONFLICT, now)
        else:
            schedule.burst(LINK, HINT, now, (0.0,), [address])
    go_on(now + 5.0)
    go_on(now + 10.0)
    assert not asked


def test_address_that_went_and_came_back_is_not_announced_after_its_former_probe() -> None:
    first, second = names(2)
    schedule = schedule_of([first, second], interval=200.0)
    run(schedule, 10.0)
    schedule.send_once(LINK, first, Cause.CONFLICT, 10.0)
    schedule.burst(LINK, HINT, 10.0, (0.0,), [first])
    due = schedule.next_due(10.0)
    assert due is not None
    assert due.cause is Cause.CONFLICT
    schedule.set_addresses(LINK, one_each([second]), 10.0)
    schedule.set_addresses(LINK, one_each([first, second]), 10.0)
    schedule.probed(LINK, first, False, 10.0)
    assert run(schedule, 20.0) == []


@pytest.mark.parametrize(("cause", "place"), [(Cause.LINK_UP, 0), (Cause.PROXY_TEST, 5)])
def test_address_that_is_let_out_first_goes_before_probes_of_other_links_unless_it_is_a_test(
    cause: Cause, place: int
) -> None:
    schedule = Schedule(Settings(interval=200.0), halves)
    links = range(10, 28)
    schedule.group(dict.fromkeys(links, LINK), 0.0)
    for ifindex in links:
        schedule.set_addresses(ifindex, one_each(names(2)), 0.0)
        schedule.send_once(ifindex, names(1)[0], Cause.CONFLICT, 0.0)
    assert len(take(schedule, 0.0)) == 12
    schedule.send_next(27, names(2)[1], cause, 0.05)
    taken = [due for _, due in run(schedule, 5.0)]
    assert taken.index(Due(27, names(2)[1], cause)) == place
    assert [due.ifindex for due in taken if due.cause is Cause.CONFLICT] == [*range(22, 28)]


# -- links without an address -------------------------------------------------------------

BARE = range(100, 300)


def crowded(own: int = 1, bare: range = BARE, **settings: Any) -> Schedule:
    """A link with addresses, and links on the same NIC that have none: RARP."""
    schedule = Schedule(Settings(**settings), random.Random(4).random)
    schedule.group(dict.fromkeys((LINK, *bare), LINK), 0.0)
    for ifindex in bare:
        schedule.set_addresses(ifindex, {b"": 1}, 0.0)
    schedule.set_addresses(LINK, one_each(names(own)), 0.0)
    return schedule


def test_address_beside_200_links_without_one_is_announced_as_often_as_alone() -> None:
    at = [at for at, due in run(crowded(jitter=0.0), 100.0) if due.ifindex == LINK]
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 5.1


def test_burst_among_200_links_without_an_address_announces_the_addresses_first() -> None:
    schedule = crowded(own=6)
    run(schedule, 30.0)
    for ifindex in (*BARE, LINK):
        schedule.burst(ifindex, HINT, 30.05)
    assert {due.address for due in take(schedule, 30.05)[:6]} == set(names(6))


def test_burst_of_links_that_rested_announces_a_full_bucket_of_addresses_first() -> None:
    schedule = crowded(own=12, bare=range(100, 110), interval=200.0)
    schedule.rephase(10.0)
    for ifindex in (*range(100, 110), LINK):
        schedule.burst(ifindex, HINT, 5.0)
    assert [due.address for due in take(schedule, 5.0)] == names(12)


def test_each_of_200_links_without_an_address_is_announced_before_switches_forget_it() -> None:
    at = [(at, due.ifindex) for at, due in run(crowded(), 200.0)]
    for ifindex in BARE:
        mine = [0.0, *(when for when, which in at if which == ifindex), 200.0]
        assert max(later - earlier for earlier, later in zip(mine, mine[1:])) <= 35.0


def test_links_without_an_address_get_every_13th_frame_where_addresses_use_up_the_bucket() -> None:
    schedule = crowded(own=100, bare=range(100, 110), interval=1.0, addresses_per_tick=100)
    at = [due.ifindex == LINK for at, due in run(schedule, 90.0) if at > 3.0]
    turns = [place for place, is_own in enumerate(at) if not is_own]
    assert len(turns) > 60
    assert {later - earlier for earlier, later in zip(turns, turns[1:])} == {13}


def test_links_without_an_address_keep_half_of_the_bucket_for_one_that_comes() -> None:
    schedule = crowded(own=7)
    run(schedule, 30.0)
    schedule.set_addresses(100, one_each(names(6, first=50)), 30.05)
    schedule.burst(100, ADDED, 30.05)
    taken = take(schedule, 30.05)
    assert [due.address for due in taken if due.ifindex == 100] == names(6, first=50)


def test_link_that_loses_its_address_while_it_waits_comes_after_those_with_addresses() -> None:
    schedule = crowded(own=20, bare=range(100, 101), interval=200.0, burst=(0.0,))
    schedule.rephase(0.0)
    schedule.set_addresses(100, one_each(names(3, first=50)), 0.0)
    for ifindex in (100, LINK):
        schedule.burst(ifindex, UP, 0.0)
    assert len(take(schedule, 0.0)) == 12
    schedule.set_addresses(100, {b"": 1}, 0.0)
    schedule.burst(100, UP, 0.0)
    taken = [due.ifindex for _, due in run(schedule, 5.0)]
    assert taken == [LINK] * 11 + [100]


# -- other settings ---------------------------------------------------------------------


def test_configure_shorter_interval_is_in_force_at_once() -> None:
    schedule = schedule_of(names(1), interval=200.0)
    schedule.configure(Settings(interval=2.0), 2.0, now=10.0)
    assert moments(run(schedule, until=16.0)) == [11.0, 13.0, 15.0]


@pytest.mark.parametrize(
    ("before", "after", "times"),
    [
        (RateLimit(), RateLimit(100.0, 12), [10.01, 10.02, 10.03, 10.04, 10.05]),
        (RateLimit(1000.0, 12), RateLimit(1.0, 12), [11.0, 12.0, 13.0]),  # spent tokens stay spent
    ],
)
def test_configure_other_bucket_is_in_force_at_once(
    before: RateLimit, after: RateLimit, times: list[float]
) -> None:
    schedule = schedule_of(names(30), interval=200.0, burst=(0.0,), rate_limit=before)
    schedule.burst(LINK, UP, 10.0)
    assert len(take(schedule, 10.0)) == 12
    schedule.configure(Settings(interval=200.0, rate_limit=after), 200.0, now=10.0)
    assert moments(run(schedule, 13.5))[: len(times)] == times


def test_configure_repeated_neither_postpones_nor_hurries_the_refresh() -> None:
    # For example a host that grants a lease and revokes it several times a second.
    schedule = schedule_of(names(1), random.Random(5).random, interval=5.0)
    taken: list[tuple[float, Due]] = []
    for step in range(1, 400):
        taken += run(schedule, step * 0.05)
        schedule.configure(Settings(), 60.0 if step % 2 else 5.0, step * 0.05)
    at = [0.0, *moments(taken), 20.0]
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 6.0
    assert len(taken) <= 2 * 20.0 / 5.0


# -- memory -----------------------------------------------------------------------------


def test_flood_of_triggers_keeps_the_heap_small() -> None:
    schedule = schedule_of(names(2), interval=200.0)
    for step in range(10_000):
        now = 10.0 + step * 1e-4
        schedule.burst(LINK, HINT, now, offsets=(5.0 - step * 1e-4,))
        schedule.burst(LINK, HINT, now, offsets=(1.0,), addresses=names(1))
    assert len(schedule._heap) <= 100
    assert addresses(run(schedule, 12.0)) == names(1)
    assert addresses(run(schedule, 15.1)) == names(2)


def test_links_that_come_and_go_leave_no_memory() -> None:
    schedule = Schedule(Settings(), random.Random(3).random)
    for ifindex in range(5000):
        schedule.set_addresses(ifindex, one_each(names(2)), float(ifindex))
        schedule.burst(ifindex, UP, float(ifindex))
        schedule.remove(ifindex, float(ifindex))
    assert not schedule._links
    assert len(schedule._nics) <= 2  # those whose buckets are not full yet
    assert len(schedule._heap) <= 100
