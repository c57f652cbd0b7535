"""The plot of the measurements: what it says of each distribution."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.cumulative import Axis, Curve, svg

SVG = "{http://www.w3.org/2000/svg}"
CURVES = [
    Curve("never", [None, None]),
    Curve("a & b", [0.1, 1.0, None, 0.1]),
    Curve("all", [2.0, 0.05]),
]


@pytest.fixture
def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(svg("Title <1>", CURVES, limit=8.0))


def test_every_curve_is_in_the_legend_with_what_it_lost(drawn: ElementTree.Element) -> None:
    texts = [element.text for element in drawn.iter(f"{SVG}text")]
    assert "Title <1>" in texts
    assert "never (2 of 2 beyond the right edge)" in texts
    assert "a & b (1 of 4 beyond the right edge)" in texts
    assert "all" in texts


def test_curves_differ_without_colour(drawn: ElementTree.Element) -> None:
    strokes = [e for e in drawn.iter(f"{SVG}path") if e.get("stroke-width") == "1.8"]
    patterns = [stroke.get("stroke-dasharray", "") for stroke in strokes]
    assert len(set(patterns)) == len(CURVES)
    assert {stroke.get("stroke") for stroke in strokes} == {"#111"}


def test_a_curve_rises_by_one_share_at_each_value() -> None:
    text = svg("t", [CURVES[1], CURVES[2]], limit=8.0)
    axis = Axis(-2, 0.9031)
    x, y = axis.x, axis.y
    first, second = re.findall(r'd="(M[^"]*V[^"]*)" fill="none"', text)
    assert first.startswith(f"M{x(0.1)} {y(0.0)}H{x(0.1)}V{y(0.25)}H{x(0.1)}V{y(0.5)}H{x(1.0)}")
    assert first.endswith(f"V{y(0.75)}H782")  # a quarter is beyond the edge
    assert second.endswith(f"V{y(1.0)}")


def test_the_axis_is_logarithmic() -> None:
    axis = Axis(-2, 1.0)
    assert axis.x(0.01) == 62
    assert axis.x(10.0) == 782
    assert axis.x(1.0) - axis.x(0.1) == pytest.approx(axis.x(0.1) - axis.x(0.01), abs=0.2)
