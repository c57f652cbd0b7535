"""The fleet's simulation against what can be worked out by hand; the page and its plots."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from bench import fleet
from bench.fleet import Fleet, Times
from bench.plot import Curve, Plot
from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import BurstRequested, LeaseGranted

STILL = Settings(jitter=0.0)


class TestTimes:
    TIMES = Times([3.0, 1.0, 1.004, 1.0099, 1.01, 2.0])

    def test_the_peak_is_of_any_window(self) -> None:
        # 1.01 is 10 ms after 1.0, and no longer in its window.
        assert self.TIMES.peak(0.010) == 3
        assert self.TIMES.peak(0.0101) == 4
        assert self.TIMES.peak(100.0) == 6
        assert Times([]).peak(1.0) == 0

    def test_rate_and_bins(self) -> None:
        assert self.TIMES.rate(1.0, 3.0) == 2.5
        assert self.TIMES.binned(1.0, 3.0, 1.0) == [(1.5, 4.0), (2.5, 1.0)]
        assert self.TIMES.binned(1.0, 4.0, 1.0)[2] == (3.5, 1.0)


class TestFleet:
    def test_a_guest_starts_with_a_burst_and_then_refreshes(self) -> None:
        times = list(Fleet(STILL, [10.0]).run(30.0).all)
        assert times[:3] == [10.0, 10.1, 10.4]
        refreshes = times[3:]
        assert 10.0 <= refreshes[0] <= 15.0
        assert [b - a for a, b in zip(refreshes, refreshes[1:])] == pytest.approx(
            [5.0] * (len(refreshes) - 1)
        )

    def test_frames_a_second_are_guests_by_interval(self) -> None:
        times = Fleet(Settings(), fleet.boots(500, 5.0)).run(65.0)
        assert times.rate(15.0, 65.0) == pytest.approx(100.0, rel=0.03)

    def test_phase_and_jitter_keep_them_apart(self) -> None:
        together = Fleet(Settings(), [0.0] * 500).run(65.0)
        assert together.between(0.0, 0.01).peak(0.01) >= 500
        assert together.between(60.0, 65.0).peak(0.01) < 15

    def test_every_guest_draws_for_itself(self) -> None:
        made = Fleet(STILL, [0.0] * 100)
        made.run(10.0)
        assert len({when for when, _ in made.frames if when > 0.5}) > 90

    def test_a_lease_relaxes_it_and_its_end_is_a_burst(self) -> None:
        happenings = [(1.0, 0, LeaseGranted(90.0))]
        times = list(Fleet(STILL, [0.0]).run(120.0, happenings).all)
        assert len([when for when in times if 6.0 < when < 91.0]) <= 2
        # Its rounds, between which a refresh of the interval now in force may fall.
        assert {91.0, 91.1, 91.4} <= {round(when, 3) for when in times}

    def test_the_same_every_time(self) -> None:
        runs = [Fleet(Settings(), fleet.boots(20, 3.0)).run(60.0).all for _ in range(2)]
        assert runs[0] == runs[1]


def test_the_arping_loop() -> None:
    times = list(fleet.arping_loops([0.0], 60.0).all)
    gaps = [after - before for before, after in zip(times, times[1:])]
    assert len(times) == 10
    assert all(6.002 <= gap <= 6.008 for gap in gaps)


class TestHints:
    def test_every_guest_of_the_host_gets_its_line(self) -> None:
        told = fleet.hints(2, 100.0, 0.0, STILL)
        assert sorted(number for _, number, _ in told) == list(range(100))
        assert all(isinstance(event, BurstRequested) for _, _, event in told)
        assert {event.offsets for _, _, event in told} == {STILL.burst}  # type: ignore[union-attr]

    def test_the_guests_of_a_host_hear_one_after_another(self) -> None:
        times = sorted(when for when, _, _ in fleet.hints(1, 100.0, 0.0, STILL))
        steps = [after - before for before, after in zip(times, times[1:])]
        assert steps == pytest.approx([fleet.FAN_OUT] * 49)

    def test_a_pace_delays_each_one_more(self) -> None:
        told = fleet.hints(1, 100.0, 4.0, STILL)
        starts = sorted(event.offsets[0] for _, _, event in told)  # type: ignore[union-attr]
        assert starts == pytest.approx([n / 4 for n in range(50)])

    def test_the_last_guest_is_heard_within_the_fan_out(self) -> None:
        row = fleet._failover(100, 2, 0.0, leased=True)
        assert row["last"] <= fleet.HOSTS_APART + 50 * fleet.FAN_OUT
        assert 100 <= row["peak"] <= 110
        assert fleet._failover(100, 2, 4.0, leased=True)["port"] <= fleet.INSPECTION


class TestPage:
    def test_it_has_a_place_for_every_table(self) -> None:
        page = (fleet.DOCS / "scale.md").read_text()
        names = ("steady", "boot", "failover", "port", "lease")
        made = fleet.written(page, {name: f"the {name}" for name in names})
        assert fleet.written(made, {name: f"the {name}" for name in names}) == made
        for name in names:
            assert f"<!-- {name} -->\nthe {name}\n<!-- end of {name} -->" in made

    def test_a_place_that_is_missing(self) -> None:
        with pytest.raises(ValueError, match="no place for the table boot"):
            fleet.written("", {"boot": ""})

    def test_what_is_there_is_what_comes_out(self) -> None:
        """A row that is quickly made anew; where it differs, run python -m bench.fleet."""
        scale = fleet.Scale(fleets=(50, 500))
        found = {"steady": fleet.steady(scale), "boot": [], "failover": [], "port": []}
        found["failover"] = [fleet._failover(5000, 1, 4.0, leased=True)]
        made = fleet.tables({**found, "lease": fleet.lease_lost(fleet.Scale((5000, 0)))})
        page = (fleet.DOCS / "scale.md").read_text().splitlines()
        for name in ("steady", "failover", "lease"):
            lines = made[name].splitlines()[2:]
            assert lines
            assert [line for line in lines if line not in page] == []

    def test_its_plots_are_there_and_are_svg(self) -> None:
        page = (fleet.DOCS / "scale.md").read_text()
        names = re.findall(r"\(([a-z-]+\.svg)\)", page)
        assert len(names) == 3
        for name in names:
            root = ElementTree.parse(fleet.DOCS / name).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_small_fleet_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    scale = fleet.Scale((20,), (5.0,), (1,), (0.0,), (10,))
    found = json.loads(json.dumps(fleet.simulate(scale)))
    assert set(fleet.tables(found)) == {"steady", "boot", "failover", "port", "lease"}
    assert capsys.readouterr().err.count(" s\n") == 5


class TestPlot:
    CURVES = (
        Curve("one <two>", [(1.0, 1.0), (10.0, 100.0)], marks=True),
        Curve("same end", [(1.0, 5.0), (10.0, 100.0)]),
    )

    def test_names_do_not_lie_on_each_other(self) -> None:
        drawing = Plot("title", "x", "y", log_x=True, log_y=True).draw(self.CURVES)
        root = ElementTree.fromstring(drawing)
        texts = {each.text: each for each in root.iter("{http://www.w3.org/2000/svg}text")}
        heights = [float(texts[curve.name].attrib["y"]) for curve in self.CURVES]
        assert abs(heights[0] - heights[1]) >= 15

    def test_names_stand_in_the_order_in_which_curves_end(self) -> None:
        curves = [Curve(str(n), [(0.0, 1.0), (9.0, end)]) for n, end in enumerate((5.0, 7.0, 6.0))]
        texts = re.findall(r">([012])</text>", Plot("title", "x", "y").draw(curves))
        assert texts[-3:] == ["1", "2", "0"]

    def test_an_empty_bin_is_no_logarithm(self) -> None:
        bins = Curve("bins", [(0.5, 0.0), (1.5, 10.0), (2.5, 0.0), (3.5, 1000.0)], steps=True)
        ElementTree.fromstring(Plot("title", "x", "y", log_y=True).draw([bins]))
