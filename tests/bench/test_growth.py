"""The slopes of docs/growth.md: lines through points, and how a page says them."""

from __future__ import annotations

import pytest

from bench.growth import SERIES, Line, Point, exponent, fitted, section, settings

GUESTS = next(each for each in SERIES if each.key == "guests")


def test_line_through_points_has_their_start_and_slope() -> None:
    line = fitted([1, 10, 100], [12.0, 30.0, 210.0])
    assert line == pytest.approx(Line(10.0, 2.0))
    assert line.at(1000) == pytest.approx(2010.0)


def test_relative_line_starts_where_small_sizes_are() -> None:
    sizes, values = [1, 10, 100, 1000], [1.0, 1.0, 1.0, 2000.0]
    assert fitted(sizes, values).start < -10
    assert -2 < fitted(sizes, values, relative=True).start < 2


@pytest.mark.parametrize(
    ("values", "power"), [([5.0, 5.0, 5.0], 0.0), ([3.0, 30.0, 300.0], 1.0), ([2.0, 200.0, 2e4], 2)]
)
def test_log_log_slope_is_the_power_with_which_a_cost_grows(
    values: list[float], power: float
) -> None:
    assert exponent([1, 10, 100], values) == pytest.approx(power)
    assert exponent([0, 1, 10, 100], [7.0, *values]) == pytest.approx(power)


def test_section_names_the_slopes_with_their_units() -> None:
    text = section(GUESTS, [Point(1, 0.05, 12.0), Point(1000, 50.0, 14.0)])
    assert "| 1,000 | 50.0 ms | 14.0 MB |" in text
    assert "+50.0 us for each guest (log-log: 1.00); memory +2.1 kB for each guest." in text


@pytest.mark.parametrize(("links", "interval"), [(1, "0.125s"), (80, "10.000s"), (5000, "270")])
def test_interval_is_such_that_eight_frames_a_second_are_sent(links: int, interval: str) -> None:
    assert f"interval: {interval}" in settings(links)
