"""Simulations with the agent's engine: docs/scale.md holds their figures, and two days hold."""

from __future__ import annotations

import pytest

from bench import fleet, soak
from bench.prober import Arrivals


def test_scale_page_holds_what_the_simulation_gives() -> None:
    # Where it differs, run make bench-scale.
    page = (fleet.DOCS / "scale.md").read_text()
    scale = fleet.Scale(fleets=(50, 500))
    made = [*fleet.steady_table(fleet.steady(scale)).splitlines()[2:]]
    made += fleet.table((), [fleet.failover_row(5000, 1, 4.0, leased=True)]).splitlines()[2:]
    made += fleet.lease_table(fleet.Scale((5000, 0))).splitlines()[2:]
    assert len(made) == 4
    assert [row for row in made if row not in page.splitlines()] == []


def test_a_day_of_a_soak_holds(capsys: pytest.CaptureFixture[str]) -> None:
    soak.year(days=1, seed=2)
    assert capsys.readouterr().out.startswith("day    1: ")


PROBES = ((0, 1.0), (9, 5.0), (10, 6.0), (12, 6.5))  # number and moment of each arrival


@pytest.mark.parametrize(
    ("probes", "since", "outage"),
    [
        (((0, 1.0), (1, 1.1), (2, 9.0)), 0.0, 0.0),  # sent late, none lost
        (((0, 1.0), (1, 1.25), (5, 2.25), (6, 2.5)), 1.5, 1.0),
        (PROBES, 5.5, 0.5),  # an earlier outage
        (PROBES, 7.0, 0.0),
    ],
)
def test_outage_is_between_the_arrivals_around_lost_probes(
    probes: tuple[tuple[int, float], ...], since: float, outage: float
) -> None:
    arrivals = Arrivals()
    for number, sent in probes:
        arrivals.add(number, sent)
    assert arrivals.longest(since) == outage


@pytest.mark.parametrize(("since", "lost"), [(0.0, 4.5), (2.0, 3.5), (6.0, 0.5), (7.0, 0.0)])
def test_lost_time_is_the_sum_of_the_gaps_since_then(since: float, lost: float) -> None:
    arrivals = Arrivals()
    for number, sent in PROBES:
        arrivals.add(number, sent)
    assert arrivals.lost(since) == lost
