"""The fleet's simulation against figures worked out by hand; the page holds its output."""

from __future__ import annotations

import pytest

from bench import fleet
from bench.fleet import Fleet, Times
from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import BurstRequested, LeaseGranted

STILL = Settings(jitter=0.0)


def test_times_give_peak_rate_and_bins() -> None:
    times = Times([3.0, 1.0, 1.004, 1.0099, 1.01, 2.0])
    assert times.peak(0.010) == 3  # 1.01 is 10 ms after 1.0: outside its window
    assert times.peak(0.0101) == 4
    assert Times([]).peak(1.0) == 0
    assert times.rate(1.0, 3.0) == 2.5
    assert times.binned(1.0, 4.0, 1.0) == [(1.5, 4.0), (2.5, 1.0), (3.5, 1.0)]


def test_fleet_of_one_sends_a_burst_and_then_refreshes() -> None:
    times = list(Fleet(STILL, [10.0]).run(30.0).all)
    assert times[:3] == [10.0, 10.1, 10.4]
    assert 10.0 <= times[3] <= 15.0
    gaps = [after - before for before, after in zip(times[3:], times[4:])]
    assert gaps == pytest.approx([5.0] * len(gaps))


def test_fleet_started_together_spreads_out_at_guests_by_interval() -> None:
    together = Fleet(Settings(), [0.0] * 500).run(65.0)
    assert together.rate(15.0, 65.0) == pytest.approx(100.0, rel=0.03)
    assert together.between(0.0, 0.01).peak(0.01) >= 500
    assert together.between(60.0, 65.0).peak(0.01) < 15
    assert together.all == Fleet(Settings(), [0.0] * 500).run(65.0).all


def test_fleet_lease_slows_it_and_its_end_is_a_burst() -> None:
    times = list(Fleet(STILL, [0.0]).run(120.0, [(1.0, 0, LeaseGranted(90.0))]).all)
    assert len([when for when in times if 6.0 < when < 91.0]) <= 2
    assert {91.0, 91.1, 91.4} <= {round(when, 3) for when in times}


def test_arping_loop_takes_six_seconds_and_a_fork() -> None:
    times = list(fleet.arping_loops([0.0], 60.0).all)
    assert len(times) == 10
    assert all(6.002 <= after - before <= 6.008 for before, after in zip(times, times[1:]))


def test_hints_reach_every_guest_at_the_pace() -> None:
    at_once = fleet.hints(2, 100.0, 0.0, STILL)
    assert sorted(number for _, number, _ in at_once) == list(range(100))
    steps = sorted(when for when, number, _ in at_once if number < 50)
    assert [b - a for a, b in zip(steps, steps[1:])] == pytest.approx([fleet.FAN_OUT] * 49)
    paced = [event for _, _, event in fleet.hints(1, 100.0, 4.0, STILL)]
    starts = sorted(event.offsets[0] for event in paced if isinstance(event, BurstRequested))
    assert starts == pytest.approx([n / 4 for n in range(50)])


def test_page_holds_what_the_simulation_gives() -> None:
    # Where it differs, run make bench-scale.
    page = (fleet.DOCS / "scale.md").read_text()
    scale = fleet.Scale(fleets=(50, 500))
    made = [*fleet.steady_table(fleet.steady(scale)).splitlines()[2:]]
    made += fleet.table((), [fleet.failover_row(5000, 1, 4.0, leased=True)]).splitlines()[2:]
    made += fleet.lease_table(fleet.Scale((5000, 0))).splitlines()[2:]
    assert len(made) == 4
    assert [row for row in made if row not in page.splitlines()] == []
    with pytest.raises(ValueError, match="no place for the table tables"):
        fleet.written(page, {"tables": ""})
    assert "<!-- boot -->\nnew\n<!-- end of boot -->" in fleet.written(page, {"boot": "new"})
