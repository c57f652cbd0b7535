"""Draws the plots of docs/ with matplotlib, as SVG whose bytes depend on the figures only.

Each curve has a colour, a line style and its name at its end, so that a plot can be read in grey
and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's colours, in an order in which neighbours also differ in grey.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
LABEL_GAP = 0.045  # of the plot's height
FLOOR = 1.0  # where an empty bin is drawn on a logarithmic axis


class Curve(NamedTuple):
    """One line and its name."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False  # bins: the value holds around each point


def lines(
    file: Path, title: str, x: str, y: str, curves: Sequence[Curve], *, log: str = ""
) -> None:
    """Draw curves.  ``log``: the axes with a logarithmic scale, of "x", "y" and "xy"."""
    figure, axes = _axes(title, x, y)
    for number, curve in enumerate(curves):
        xs, ys = zip(*curve.points)
        if "y" in log:
            ys = tuple(each or FLOOR for each in ys)  # an empty bin has no logarithm
        axes.plot(xs, ys, drawstyle="steps-mid" if curve.steps else "default", **_style(number))
    for axis in log:
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"{axis}axis").set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    binned = any(each.steps for each in curves)
    axes.set_ylim(bottom=0 if "y" not in log else FLOOR if binned else None)
    ends = [_share(axes, next(y for _, y in reversed(curve.points) if y)) for curve in curves]
    _name(axes, [curve.name for curve in curves], ends)
    _save(figure, file)


def outages(
    file: Path, title: str, outages: Mapping[str, Sequence[float | None]], limit: float
) -> None:
    """Draw the share of failovers whose outage is at most so long, for each method.

    Outages are in seconds; None is one that outlasted ``limit``: its curve ends below 100 %.
    """
    figure, axes = _axes(title, "outage at most", "share of the failovers")
    ends = []
    for number, values in enumerate(outages.values()):
        known = sorted(value for value in values if value is not None)
        shares = [done / len(values) for done in range(len(known) + 1)]
        ends.append(shares[-1])
        xs = [known[0] if known else limit, *known, limit]
        axes.plot(xs, [*shares, shares[-1]], drawstyle="steps-post", **_style(number))
    axes.set_xscale("log")
    axes.set_xlim(right=limit)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:g} s" if v >= 1 else f"{v * 1000:g} ms")
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    _name(axes, list(outages), ends)
    _save(figure, file)


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = pyplot.subplots(figsize=(8.6, 4.4), layout="constrained")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % 7], "linestyle": STYLES[number % 7], "linewidth": 1.8}


def _share(axes: Any, value: float) -> float:
    """Return where a value is, as a share of the axis' height."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((1.0, value)))[1])


def _name(axes: Any, names: Sequence[str], ends: Sequence[float]) -> None:
    """Write each name beside the end of its curve, apart from its neighbours."""
    place = 1.0 + LABEL_GAP
    for number in sorted(range(len(names)), key=lambda each: -ends[each]):
        place = min(ends[number], place - LABEL_GAP)
        style = {"color": COLOURS[number % 7], "va": "center", "fontsize": 9}
        axes.text(1.01, place, names[number], transform=axes.transAxes, **style)


def _save(figure: Any, file: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "garp-agent", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
