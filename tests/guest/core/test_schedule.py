"""schedule: ticks, bursts and the bucket, at literal times."""

from __future__ import annotations

import random
from itertools import cycle
from math import ceil, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.settings import Bucket, Settings
from garp_agent.guest.core.model import Cause
from garp_agent.guest.core.schedule import Due, Schedule
from tests.world import TokenBucket, property_settings

LINK, OTHER = 2, 3
PLENTY = Bucket(rate=1000.0, depth=1000)


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
    """Everything that is due now."""
    taken = []
    while (due := schedule.next_due(now)) is not None:
        taken.append(due)
    return taken


def run(schedule: Schedule, until: float) -> list[tuple[float, Due]]:
    """Come back at each deadline, as the loop does."""
    taken: list[tuple[float, Due]] = []
    while (now := schedule.deadline()) <= until:
        taken += [(round(now, 6), due) for due in take(schedule, now)]
        assert schedule.deadline() > now
    return taken


def moments(taken: list[tuple[float, Due]]) -> list[float]:
    return list(dict.fromkeys(at for at, _ in taken))


# -- the timer --------------------------------------------------------------------------


def test_a_schedule_of_nothing_never_wants_to_be_called() -> None:
    schedule = Schedule(Settings(), halves)
    assert schedule.deadline() == inf
    assert take(schedule, 1e9) == []


def test_without_jitter_ticks_come_at_the_interval_after_the_phase() -> None:
    schedule = schedule_of(names(1), interval=5.0)
    assert moments(run(schedule, until=30.0)) == [2.5, 7.5, 12.5, 17.5, 22.5, 27.5]


def test_a_tick_names_its_cause() -> None:
    ((_, due),) = run(schedule_of(names(1)), until=3.0)
    assert due == Due(LINK, names(1)[0], Cause.REFRESH)


@pytest.mark.parametrize("jitter", [0.0, 0.2, 0.5])
def test_every_interval_lies_within_the_jitter_and_uses_all_of_it(jitter: float) -> None:
    schedule = schedule_of(names(1), random.Random(7).random, interval=5.0, jitter=jitter)
    at = moments(run(schedule, until=5000.0))
    gaps = [later - earlier for earlier, later in zip(at, at[1:])]
    assert min(gaps) >= 5.0 * (1 - jitter) - 1e-5
    assert max(gaps) <= 5.0 * (1 + jitter) + 1e-5
    assert min(gaps) <= 5.0 * (1 - 0.95 * jitter) + 1e-5
    assert max(gaps) >= 5.0 * (1 + 0.95 * jitter) - 1e-5
    assert sum(gaps) / len(gaps) == pytest.approx(5.0, rel=0.02)


def test_no_refresh_comes_later_than_switches_remember() -> None:
    schedule = schedule_of(names(1), random.Random(7).random, interval=270.0, jitter=0.5)
    at = moments(run(schedule, until=50000.0))
    gaps = [later - earlier for earlier, later in zip(at, at[1:])]
    assert max(gaps) == pytest.approx(290.0)
    assert min(gaps) < 150.0


@pytest.mark.parametrize(("draw", "gap"), [(0.0, 4.0), (0.25, 4.5), (0.75, 5.5)])
def test_a_draw_becomes_a_gap(draw: float, gap: float) -> None:
    schedule = schedule_of(names(1), lambda: draw, interval=5.0, jitter=0.2)
    first, second = moments(run(schedule, until=12.0))[:2]
    assert (first, round(second - first, 6)) == (5.0 * draw, gap)


def test_guests_booted_together_spread_their_first_tick_over_the_interval() -> None:
    firsts = sorted(
        schedule_of(names(1), random.Random(seed).random, interval=5.0).deadline()
        for seed in range(200)
    )
    assert firsts[0] < 0.2
    assert firsts[-1] > 4.8
    gaps = [later - earlier for earlier, later in zip(firsts, firsts[1:])]
    assert max(gaps) < 0.25


def test_guests_booted_together_never_fall_into_step() -> None:
    # Two hundred guests, an hour later: no second sees more than a few of them.
    ticks = []
    for seed in range(200):
        schedule = schedule_of(names(1), random.Random(seed).random, interval=5.0)
        ticks += [int(at * 10) for at in moments(run(schedule, 3600.0)) if at > 3590.0]
    assert max(ticks.count(tenth) for tenth in set(ticks)) <= 15


def test_each_link_has_a_phase_of_its_own() -> None:
    draws = iter([0.1, 0.7])
    schedule = Schedule(Settings(interval=10.0), lambda: next(draws))
    schedule.set_addresses(LINK, one_each(names(1)), 0.0)
    schedule.set_addresses(OTHER, one_each(names(1)), 0.0)
    assert (schedule.next_refresh(LINK), schedule.next_refresh(OTHER)) == (1.0, 7.0)


# -- going round ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 30])
@pytest.mark.parametrize("per_tick", [1, 4])
def test_a_tick_is_bounded_and_goes_round(count: int, per_tick: int) -> None:
    schedule = schedule_of(names(count), bucket=PLENTY, addresses_per_tick=per_tick)
    taken = [due.address for _, due in run(schedule, until=5.0 * 40)]
    size = min(per_tick, count)
    ticks = [taken[at : at + size] for at in range(0, len(taken), size)]
    assert len(ticks) == 40
    around = ceil(count / per_tick)
    for at in range(len(ticks) - around + 1):
        assert {a for tick in ticks[at : at + around] for a in tick} == set(names(count))


def test_an_address_that_comes_does_not_make_the_others_wait_longer() -> None:
    schedule = schedule_of(names(8), addresses_per_tick=4)
    assert [due.address for _, due in run(schedule, 2.5)] == names(4)
    schedule.set_addresses(LINK, one_each([*names(1, first=100), *names(8)]), 3.0)
    assert [due.address for _, due in run(schedule, 7.5)] == names(4, first=4)


def test_an_address_that_goes_takes_no_turn() -> None:
    schedule = schedule_of(names(8), addresses_per_tick=4)
    run(schedule, 2.5)
    schedule.set_addresses(LINK, one_each([*names(4), *names(2, first=6)]), 3.0)
    assert [due.address for _, due in run(schedule, 7.5)] == [*names(2, first=6), *names(2)]


# -- bursts ----------------------------------------------------------------------------------


def test_a_burst_comes_at_once_and_again_after_100_and_400_ms() -> None:
    schedule = schedule_of(names(2), now=100.0, interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 110.0)
    assert run(schedule, 120.0) == [
        (at, Due(LINK, address, Cause.LINK_UP))
        for at in (110.0, 110.1, 110.4)
        for address in names(2)
    ]


def test_a_burst_may_have_rounds_of_its_own() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.HINT, 10.0, offsets=(1.0, 1.25))
    assert moments(run(schedule, 20.0)) == [11.0, 11.25]


def test_a_burst_of_one_address_leaves_the_others_alone() -> None:
    schedule = schedule_of(names(3), interval=60.0)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 10.0, addresses=names(1, first=1))
    assert [due.address for _, due in run(schedule, 20.0)] == [names(3)[1]] * 3


def test_a_trigger_in_mid_burst_starts_it_anew_and_does_not_wait() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert moments(run(schedule, 10.2)) == [10.0, 10.1]
    schedule.burst(LINK, Cause.NOTIFY_PEERS, 10.25)
    assert moments(run(schedule, 20.0)) == [10.25, 10.35, 10.65]


def test_a_request_for_rounds_from_now_on_takes_the_place_of_the_burst_under_way() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    take(schedule, 10.0)
    schedule.burst(LINK, Cause.HINT, 10.05, offsets=(0.0, 0.2))
    assert moments(run(schedule, 20.0)) == [10.05, 10.25]


def test_an_address_that_comes_or_goes_disturbs_neither_tick_nor_burst() -> None:
    schedule = schedule_of(names(3), random.Random(9).random, interval=20.0)
    tick = schedule.next_refresh(LINK)
    schedule.burst(LINK, Cause.LINK_UP, 1.0)
    take(schedule, 1.0)
    schedule.set_addresses(LINK, one_each(names(4)), 1.05)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 1.05, addresses=names(1, first=3))
    take(schedule, 1.05)
    schedule.set_addresses(LINK, one_each(names(3, first=1)), 1.07)
    assert schedule.next_refresh(LINK) == tick
    taken = [(at, due.address[3], due.cause) for at, due in run(schedule, 1.5)]
    assert taken == [
        (1.1, 1, Cause.LINK_UP),
        (1.1, 2, Cause.LINK_UP),
        (1.1, 3, Cause.LINK_UP),
        (1.15, 3, Cause.ADDRESS_ADDED),
        (1.4, 1, Cause.LINK_UP),
        (1.4, 2, Cause.LINK_UP),
        (1.4, 3, Cause.LINK_UP),
        (1.45, 3, Cause.ADDRESS_ADDED),
    ]


def test_a_burst_of_all_takes_in_the_bursts_of_single_addresses() -> None:
    schedule = schedule_of(names(3), interval=60.0)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 10.0, addresses=names(1))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert [at for at, _ in run(schedule, 20.0)] == [10.0] * 3 + [10.1] * 3 + [10.4] * 3


def test_a_burst_asked_for_later_leaves_the_one_under_way_alone() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    schedule.burst(LINK, Cause.HINT, 10.05, offsets=(2.0, 2.1))
    assert [(at, due.cause.value) for at, due in run(schedule, 20.0)] == [
        (10.0, "link-up"),
        (10.1, "link-up"),
        (10.4, "link-up"),
        (12.05, "hint"),
        (12.15, "hint"),
    ]


def test_a_burst_under_way_leaves_the_one_asked_for_later_alone() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.HINT, 10.0, offsets=(2.0,))
    schedule.burst(LINK, Cause.LINK_UP, 11.0)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 11.0, addresses=names(1))
    assert moments(run(schedule, 20.0)) == [11.0, 11.1, 11.4, 12.0]


def test_a_little_later_is_later() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.HINT, 10.0, offsets=(0.05,))
    schedule.burst(LINK, Cause.LINK_UP, 10.01)
    assert moments(run(schedule, 20.0)) == [10.01, 10.05, 10.11, 10.41]


def test_of_bursts_asked_for_later_the_first_to_begin_serves_all() -> None:
    schedule = schedule_of(names(1), interval=60.0)
    schedule.burst(LINK, Cause.HINT, 10.0, offsets=(3.0,))
    schedule.burst(LINK, Cause.HINT, 11.0, offsets=(1.0, 1.5))
    schedule.burst(LINK, Cause.HINT, 11.5, offsets=(3.0,))
    assert moments(run(schedule, 20.0)) == [12.0, 12.5]


def test_hints_that_go_on_coming_do_not_put_a_later_burst_off_for_ever() -> None:
    schedule = schedule_of(names(1), interval=250.0)
    sent = []
    for number in range(10):
        schedule.burst(LINK, Cause.HINT, 10.0 + number, offsets=(2.5,))
        sent += moments(run(schedule, 11.0 + number))
    assert sent == [12.5, 15.5, 18.5]


def test_a_burst_of_all_ends_those_of_single_addresses_unless_asked_for_later() -> None:
    schedule = schedule_of(names(2), interval=60.0)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 10.0, addresses=names(1))
    schedule.burst(LINK, Cause.HINT, 10.02, offsets=(2.0,))
    assert moments(run(schedule, 10.2)) == [10.0, 10.1]
    schedule.burst(LINK, Cause.LINK_UP, 10.2)
    assert moments(run(schedule, 20.0)) == [10.2, 10.3, 10.6, 12.02]


def test_a_thousand_triggers_at_once_are_one_burst() -> None:
    schedule = schedule_of(names(2), interval=60.0, bucket=PLENTY)
    for _ in range(1000):
        schedule.burst(LINK, Cause.LINK_UP, 10.0)
        schedule.burst(LINK, Cause.ADDRESS_ADDED, 10.0, addresses=names(1))
    assert [at for at, _ in run(schedule, 20.0)] == [10.0] * 2 + [10.1] * 2 + [10.4] * 2


def test_a_tick_in_mid_burst_adds_no_frame_of_the_same_moment() -> None:
    schedule = schedule_of(names(3), interval=20.0)  # first tick at 10.0
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert [at for at, _ in run(schedule, 10.05)] == [10.0] * 3


def test_rounds_that_were_missed_are_one() -> None:
    schedule = schedule_of(names(2), interval=60.0, bucket=PLENTY)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert [due.address for due in take(schedule, 29.0)] == names(2)
    assert schedule.deadline() > 29.5


def test_ticks_that_were_missed_are_one() -> None:
    schedule = schedule_of(names(2), interval=5.0, bucket=PLENTY)
    assert [due.address for due in take(schedule, 3600.0)] == names(2)
    assert schedule.deadline() == 3605.0


def test_one_frame_of_every_link_comes_before_the_others() -> None:
    schedule = Schedule(Settings(interval=60.0), halves)
    for ifindex in (LINK, OTHER, 4):
        schedule.set_addresses(ifindex, one_each(names(3)), 0.0)
    for ifindex in (LINK, OTHER, 4):
        schedule.burst(ifindex, Cause.HINT, 1.0)
    taken = take(schedule, 1.0)
    assert sorted(due.ifindex for due in taken[:3]) == [LINK, OTHER, 4]
    assert len(taken) == 9
    for ifindex in (LINK, OTHER, 4):
        assert [due.address for due in taken if due.ifindex == ifindex] == names(3)


def test_the_last_burst_is_remembered() -> None:
    schedule = schedule_of(names(1))
    assert schedule.last_burst(LINK) is None
    schedule.burst(LINK, Cause.HINT, 4.0)
    assert schedule.last_burst(LINK) == (4.0, Cause.HINT)
    assert schedule.last_burst(OTHER) is None


def test_a_refresh_that_waits_for_the_bucket_is_no_burst() -> None:
    schedule = schedule_of(names(20), interval=60.0, burst=(0.0,), addresses_per_tick=20)
    take(schedule, schedule.deadline())
    assert not schedule.is_idle()
    assert not schedule.is_bursting(LINK)
    schedule.burst(LINK, Cause.HINT, 100.0)
    take(schedule, 100.0)
    assert schedule.is_bursting(LINK)
    assert not schedule.is_bursting(OTHER)


def test_it_is_idle_when_no_burst_is_under_way_and_nothing_waits() -> None:
    schedule = schedule_of(names(20), interval=60.0, burst=(0.0,))
    assert schedule.is_idle()
    schedule.burst(LINK, Cause.OPERATOR, 1.0)
    assert not schedule.is_idle()
    take(schedule, 1.0)
    assert not schedule.is_idle()  # eight wait for their tokens
    run(schedule, 3.0)
    assert schedule.is_idle()


# -- what goes is not announced ---------------------------------------------------------------


def test_an_address_that_goes_in_mid_burst_is_not_announced_again() -> None:
    schedule = schedule_of(names(3), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    schedule.burst(LINK, Cause.ADDRESS_ADDED, 10.05, addresses=names(1))
    run(schedule, 10.05)
    schedule.set_addresses(LINK, one_each(names(2, first=1)), 10.06)
    assert {due.address for _, due in run(schedule, 200.0)} == set(names(2, first=1))


def test_an_address_that_goes_while_it_waits_for_its_token_is_not_announced() -> None:
    schedule = schedule_of(names(30), interval=60.0, burst=(0.0,))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert len(take(schedule, 10.0)) == 12
    schedule.set_addresses(LINK, one_each(names(5)), 10.05)
    assert run(schedule, 29.0) == []


def test_a_link_that_goes_is_not_announced_again() -> None:
    schedule = schedule_of(names(30), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    take(schedule, 10.0)
    schedule.remove(LINK, 10.0)
    assert schedule.deadline() == inf
    assert run(schedule, 100.0) == []


def test_a_link_with_nothing_to_announce_wakes_nobody() -> None:
    schedule = schedule_of(names(3), interval=60.0)
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    take(schedule, 10.0)
    schedule.set_addresses(LINK, {}, 10.05)
    assert (schedule.deadline(), schedule.next_refresh(LINK)) == (inf, None)
    schedule.configure(Settings(interval=5.0), 5.0, 11.0)
    schedule.rephase(12.0)
    assert (schedule.deadline(), schedule.is_idle()) == (inf, True)


def test_a_link_that_never_had_anything_to_announce_wakes_nobody() -> None:
    schedule = Schedule(Settings(), halves)
    schedule.set_addresses(LINK, {}, 1.0)
    assert schedule.deadline() == inf


def test_a_link_that_is_announced_again_gets_a_new_phase() -> None:
    draws = iter([0.9, 0.1])
    schedule = schedule_of(names(1), lambda: next(draws), interval=10.0)
    schedule.set_addresses(LINK, {}, 1.0)
    schedule.set_addresses(LINK, one_each(names(1)), 2.0)
    assert schedule.next_refresh(LINK) == 3.0


def test_a_link_that_is_announced_again_finds_its_bucket_as_it_left_it() -> None:
    # A flapping carrier must not pass the bucket by.
    schedule = schedule_of(names(12), interval=60.0, burst=(0.0,))
    sent = 0
    for step in range(200):
        schedule.set_addresses(LINK, {}, step * 0.01)
        schedule.set_addresses(LINK, one_each(names(12)), step * 0.01 + 0.005)
        schedule.burst(LINK, Cause.LINK_UP, step * 0.01 + 0.005)
        sent += len(take(schedule, step * 0.01 + 0.005))
    assert sent == 2 * 14  # in two seconds
    assert schedule.held(LINK) > 0


def test_a_link_that_comes_back_under_its_index_finds_its_bucket_as_it_left_it() -> None:
    schedule = schedule_of(names(12), interval=60.0, burst=(0.0,))
    sent = 0
    for step in range(200):
        schedule.remove(LINK, step * 0.01)
        schedule.set_addresses(LINK, one_each(names(12)), step * 0.01 + 0.005)
        schedule.burst(LINK, Cause.LINK_UP, step * 0.01 + 0.005)
        sent += len(take(schedule, step * 0.01 + 0.005))
    assert sent == 2 * 14  # in two seconds


def test_to_remove_what_was_never_there_is_no_error() -> None:
    schedule = Schedule(Settings(), halves)
    schedule.remove(LINK, 10.0)
    assert (schedule.next_refresh(LINK), schedule.held(LINK)) == (None, 0)


# -- the bucket ---------------------------------------------------------------------------------


def test_a_full_bucket_lets_its_depth_out_at_once_and_then_its_rate() -> None:
    schedule = schedule_of(names(40), interval=200.0, burst=(0.0,), bucket=Bucket(10.0, 20))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    at = [at for at, _ in run(schedule, 50.0)]
    assert at == [10.0] * 20 + [round(10.0 + 0.1 * n, 6) for n in range(1, 21)]


def test_no_second_holds_as_many_as_shut_a_port() -> None:
    # What flows in after the bucket was emptied waits until the second is over.
    schedule = schedule_of(names(30), interval=200.0, burst=(0.0,))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    at = [round(at, 3) for at, _ in run(schedule, 50.0)]
    first = [10.0] * 12 + [10.1, 10.2]
    second = [11.0] * 8 + [11.1, 11.2, 11.3, 11.4, 11.5, 11.6]
    assert at == [*first, *second, 12.0, 12.0]


def test_what_is_held_back_is_counted_and_sent_in_order() -> None:
    schedule = schedule_of(names(14), interval=200.0, burst=(0.0,))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert [due.address for _, due in run(schedule, 50.0)] == names(14)
    assert schedule.held(LINK) == 2


def test_the_bucket_fills_up_while_nothing_is_sent_and_no_further() -> None:
    schedule = schedule_of(names(30), interval=2000.0, burst=(0.0,))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    run(schedule, 100.0)
    schedule.burst(LINK, Cause.LINK_UP, 900.0)
    assert len(take(schedule, 900.0)) == 12


def test_the_bucket_of_one_link_is_not_that_of_another() -> None:
    schedule = schedule_of(names(12), interval=200.0, burst=(0.0,))
    schedule.set_addresses(OTHER, one_each(names(12)), 0.0)
    schedule.burst(LINK, Cause.LINK_UP, 1.0)
    schedule.burst(OTHER, Cause.LINK_UP, 1.0)
    assert len(take(schedule, 1.0)) == 24
    assert (schedule.held(LINK), schedule.held(OTHER)) == (0, 0)


def test_an_address_of_two_frames_takes_two_tokens() -> None:
    schedule = Schedule(Settings(interval=200.0, burst=(0.0,)), halves)
    schedule.set_addresses(LINK, dict.fromkeys(names(8), 2), 0.0)
    schedule.burst(LINK, Cause.LINK_UP, 1.0)
    assert [round(at, 3) for at, _ in run(schedule, 50.0)] == [1.0] * 6 + [1.2, 2.0]


def test_an_address_of_two_frames_passes_the_least_bucket_allowed() -> None:
    schedule = Schedule(Settings(interval=200.0, bucket=Bucket(0.1, 2)), halves)
    schedule.set_addresses(LINK, {b"abcd": 2}, 0.0)
    schedule.burst(LINK, Cause.LINK_UP, 1.0)
    assert [at for at, _ in run(schedule, 50.0)] == [1.0, 21.0]


def test_what_waits_longest_goes_first_however_often_it_is_asked_for() -> None:
    # A trigger every 200 ms for 40 addresses at ten a second: everyone gets a turn.
    schedule = schedule_of(names(40), interval=200.0)
    sent: list[bytes] = []
    for step in range(100):
        schedule.burst(LINK, Cause.HINT, 10.0 + 0.2 * step)
        sent += [due.address for _, due in run(schedule, 10.0 + 0.2 * step + 0.199)]
    counts = [sent.count(address) for address in names(40)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 4


@property_settings(60)
@given(
    st.randoms(use_true_random=False), st.floats(0.5, 50.0), st.integers(2, 20), st.integers(1, 40)
)
def test_no_window_holds_more_than_the_bucket_allows(
    draw: random.Random, rate: float, depth: int, count: int
) -> None:
    schedule = schedule_of(names(count), draw.random, interval=0.5, bucket=Bucket(rate, depth))
    bucket = TokenBucket(rate, depth)
    now = 0.0
    sent: list[float] = []
    for _ in range(60):
        now += draw.choice([0.0, 0.01, 0.3, 2.0])
        addresses = draw.choice([None, names(1)])
        schedule.burst(LINK, Cause.HINT, now, draw.choice([(), (0.0, 0.0, 0.05)]), addresses)
        for due in take(schedule, now):
            assert due.ifindex == LINK
            bucket.take(now)
            sent.append(now)
    if rate <= 14 and depth <= 14:
        assert all(last - first > 1.0 for first, last in zip(sent, sent[14:]))


# -- other settings --------------------------------------------------------------------------------


def test_a_shorter_interval_is_in_force_at_once() -> None:
    schedule = schedule_of(names(1), interval=200.0)
    schedule.configure(Settings(interval=2.0), 2.0, now=10.0)
    assert moments(run(schedule, until=16.0)) == [11.0, 13.0, 15.0]


def test_another_bucket_is_in_force_at_once() -> None:
    schedule = schedule_of(names(30), interval=200.0, burst=(0.0,))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert len(take(schedule, 10.0)) == 12
    schedule.configure(Settings(interval=200.0, bucket=Bucket(100.0, 12)), 200.0, now=10.0)
    assert [at for at, _ in run(schedule, 10.055)] == [10.01, 10.02, 10.03, 10.04, 10.05]


def test_tokens_that_were_spent_stay_spent_when_the_bucket_becomes_a_slower_one() -> None:
    schedule = schedule_of(names(30), interval=200.0, burst=(0.0,), bucket=Bucket(1000.0, 12))
    schedule.burst(LINK, Cause.LINK_UP, 10.0)
    assert len(take(schedule, 10.0)) == 12
    schedule.configure(Settings(interval=200.0, bucket=Bucket(1.0, 12)), 200.0, now=10.0)
    assert moments(run(schedule, 13.5)) == [11.0, 12.0, 13.0]


def test_other_settings_never_put_a_refresh_off() -> None:
    # A host that grants a lease and takes it back, or a reload, several times a second.
    schedule = schedule_of(names(1), random.Random(5).random, interval=5.0)
    taken: list[tuple[float, Due]] = []
    for step in range(1, 400):
        taken += run(schedule, step * 0.05)
        schedule.configure(Settings(interval=5.0), 5.0, step * 0.05)
    at = [0.0, *moments(taken), 20.0]
    assert max(later - earlier for earlier, later in zip(at, at[1:])) <= 6.0


def test_another_number_of_addresses_per_tick_is_in_force_at_the_next_tick() -> None:
    schedule = schedule_of(names(9), interval=10.0, addresses_per_tick=1)
    schedule.configure(Settings(interval=10.0, addresses_per_tick=9), 10.0, now=0.0)
    assert len(run(schedule, 6.0)) == 9


def test_a_new_phase_is_drawn_on_waking_for_every_link() -> None:
    draws = cycle([0.2, 0.9])
    schedule = Schedule(Settings(interval=10.0), lambda: next(draws))
    schedule.set_addresses(LINK, one_each(names(1)), 0.0)
    schedule.set_addresses(OTHER, one_each(names(1)), 0.0)
    schedule.rephase(3600.0)
    assert (schedule.next_refresh(LINK), schedule.next_refresh(OTHER)) == (3602.0, 3609.0)
    assert schedule.deadline() == 3602.0


# -- no bound is lost under a flood --------------------------------------------------------------


def test_a_flood_of_triggers_keeps_the_heap_bounded() -> None:
    schedule = schedule_of(names(2), interval=200.0)
    for step in range(10_000):
        now = 10.0 + step * 1e-4
        schedule.burst(LINK, Cause.HINT, now, offsets=(5.0 - step * 1e-4,))
        schedule.burst(LINK, Cause.HINT, now, offsets=(1.0,), addresses=names(1))
    assert len(schedule._heap) <= 100


def test_links_that_come_and_go_leave_nothing_behind() -> None:
    schedule = Schedule(Settings(), random.Random(3).random)
    for ifindex in range(5000):
        schedule.set_addresses(ifindex, one_each(names(2)), float(ifindex))
        schedule.burst(ifindex, Cause.LINK_UP, float(ifindex))
        schedule.remove(ifindex, float(ifindex))
    assert not schedule._links
    assert len(schedule._removed) <= 2  # those whose buckets are not full yet
    assert len(schedule._heap) <= 100
