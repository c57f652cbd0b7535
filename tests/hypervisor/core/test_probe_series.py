"""A series of path probes: the pace, what arrives, the verdicts.  The times are given."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeSeen, ProbeTarget
from garp_agent.hypervisor.core.probe_series import (
    DELIVERED,
    LOST,
    NOT_SENT,
    OTHER_VLAN,
    Pace,
    ProbeResult,
    ProbeSeries,
)
from tests.world import mac, property_settings

PATH = ProbePath(9, 3, 2)
VLAN = ((0x8100, 100),)
ONE = ProbeTarget(mac("52:54:00:00:00:01"), (), PATH, "one")
TWO = ProbeTarget(mac("52:54:00:00:00:02"), VLAN, PATH, "two")
PACE = Pace(gap=0.25, interval=0.5)


def sequences(series: ProbeSeries, times: list[float]) -> list[int | None]:
    probes = [series.next_probe(now) for now in times]
    return [None if probe is None else probe.sequence for probe in probes]


def test_targets_take_turns_at_the_pace() -> None:
    series = ProbeSeries([ONE, TWO], PACE, rounds=2)
    assert series.deadline() == -inf
    assert sequences(series, [10.0, 10.0, 10.24, 10.25]) == [0, None, None, 1]
    assert series.deadline() == 10.5
    assert sequences(series, [10.5, 10.75, 11.0]) == [2, 3, None]
    assert [series.target_of(number).guest for number in range(4)] == ["one", "two", "one", "two"]
    assert (series.is_sent, series.deadline()) == (True, inf)


def test_a_late_probe_delays_the_others_unless_they_may_catch_up() -> None:
    series = ProbeSeries([ONE], PACE)
    assert sequences(series, [0.0, 0.75, 1.0, 1.25]) == [0, 1, None, 2]
    series = ProbeSeries([ONE], Pace(0.25, 0.5, catch_up=0.25))
    assert sequences(series, [0.0, 0.75, 1.0, 1.5]) == [0, 1, 2, 3]
    assert sequences(series, [9.0, 9.0, 9.25]) == [4, None, 5]


def test_verdict_follows_from_what_arrived() -> None:
    series = ProbeSeries([ONE, TWO], PACE, rounds=2)
    sequences(series, [0.0, 0.25, 0.5, 0.75])
    assert [each.verdict for each in series.results()] == [LOST, LOST]
    series.seen(2, ProbeSeen(1, ()), 0.26)
    assert series.results()[1] == ProbeResult(TWO, OTHER_VLAN, 2, 0, None, ())
    series.seen(2, ProbeSeen(0, ()), 0.5)
    series.seen(2, ProbeSeen(2, ()), 0.625)
    series.seen(2, ProbeSeen(2, ()), 0.7)  # a copy
    assert series.results()[0] == ProbeResult(ONE, DELIVERED, 2, 2, 0.125, ())
    assert not series.is_complete
    series.not_sent(3, 100)
    assert series.is_complete
    assert series.results()[1] == ProbeResult(TWO, OTHER_VLAN, 1, 0, None, (), 100)


def test_probe_on_another_port_or_of_another_station_does_not_count() -> None:
    series = ProbeSeries([ONE], PACE, rounds=1)
    sequences(series, [0.0])
    series.seen(3, ProbeSeen(0, ()), 0.1)
    series.seen(2, ProbeSeen(1, ()), 0.1)
    assert series.results() == [ProbeResult(ONE, LOST, 1, 0, None, ())]


def test_target_of_which_no_probe_could_be_sent_is_not_lost() -> None:
    series = ProbeSeries([ONE], PACE, rounds=1)
    assert series.results()[0].verdict == NOT_SENT
    sequences(series, [0.0])
    series.not_sent(0, 100)
    assert series.results() == [ProbeResult(ONE, NOT_SENT, 0, 0, None, (), 100)]


def test_series_without_targets_is_complete() -> None:
    series = ProbeSeries([], PACE)
    assert (series.next_probe(0.0), series.is_complete, series.deadline()) == (None, True, inf)


@property_settings(100)
@given(
    st.integers(1, 60),
    st.lists(st.floats(0, 0.02), min_size=200, max_size=400),
    st.sampled_from([0.0, 0.01]),
)
def test_no_second_has_more_probes_than_the_pace_allows(
    targets: int, steps: list[float], catch_up: float
) -> None:
    """However late the caller asks: one for each gap of a second and of the time to catch up."""
    gap = 0.005
    series = ProbeSeries([ONE] * targets, Pace(gap, 0.1, catch_up))
    now = 0.0
    for step in steps:
        now += step
        while series.next_probe(now) is not None:
            pass
    sent = series.sent_at
    most = (1.0 + catch_up) / gap + 1
    assert all(sum(at <= each < at + 1.0 for each in sent) <= most for at in sent)
    for index in range(targets):
        own = sent[index::targets]
        gaps = [later - earlier for earlier, later in zip(own, own[1:])]
        assert all(each >= 0.1 - catch_up - 1e-9 for each in gaps)
