"""What the demo computes and prints; needs no lab."""

from __future__ import annotations

import pytest

from bench import demo
from bench.demo import Method, Result
from bench.prober import Arrivals

NOTHING = Method("nothing", "nothing", 0.5, 2)
LOOP = Method("loop", "a loop", 6.0, 2)


def test_table_has_minimum_median_and_maximum() -> None:
    results = [Result("loop", 5.0), Result("nothing", None), Result("loop", 0.0305)]
    results.append(Result("loop", 2.5))
    assert demo.table(results, [NOTHING, LOOP]) == "\n".join(
        [
            "  in the guest  failovers        min     median        max",
            "  --------------------------------------------------------",
            "  nothing               1     > 12 s     > 12 s     > 12 s",
            "  a loop                3      30 ms     2.50 s     5.00 s",
        ]
    )
    assert demo.table([], [LOOP]).splitlines()[-1].split() == ["a", "loop", "0", "-", "-", "-"]
    half = demo.table([Result("loop", 1.0), Result("loop", None)], [LOOP])
    assert half.endswith("2     1.00 s     > 12 s     > 12 s")


@pytest.mark.parametrize("count", [1, 2, 20])
def test_moments_cover_the_cycle_and_no_lab_is_left_without(count: int) -> None:
    moments = demo.moments(count, 6.0)
    assert sorted(int(moment * count / 6.0) for moment in moments) == list(range(count))
    dealt = demo.dealt(moments, 3)
    assert sorted(each for hand in dealt for each in hand) == sorted(moments)
    assert all(dealt)


@pytest.mark.parametrize(
    ("probes", "since", "outage"),
    [
        (((0, 1.0), (1, 1.1), (2, 9.0)), 0.0, 0.0),  # sent late, none lost
        (((0, 1.0), (1, 1.25), (5, 2.25), (6, 2.5)), 1.5, 1.0),
        (((0, 1.0), (9, 5.0), (10, 6.0), (12, 6.5)), 5.5, 0.5),  # an earlier outage
        (((0, 1.0), (9, 5.0), (10, 6.0), (12, 6.5)), 7.0, 0.0),
    ],
)
def test_outage_is_between_the_arrivals_around_lost_probes(
    probes: tuple[tuple[int, float], ...], since: float, outage: float
) -> None:
    arrivals = Arrivals()
    for number, sent in probes:
        arrivals.add(number, sent)
    assert arrivals.longest(since) == outage
