"""Plots for docs/ with matplotlib: SVG for light and dark pages, whose bytes depend on the figures.

Each curve has its name beside it, so no reader has to match colours with a legend.  The colours
differ in brightness, so that grey is enough to read a plot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

# Each stands for a variable of the style sheet below: SVG as matplotlib writes it has no theme.
INK, FAINT, BAD, GOOD, PAGE = "#010101", "#020202", "#030303", "#040404", "#050505"
LIGHT = {INK: "#1f2328", FAINT: "#8c959f", BAD: "#b35900", GOOD: "#0969da", PAGE: "#ffffff"}
DARK = {INK: "#e6edf3", FAINT: "#7d8590", BAD: "#f0883e", GOOD: "#58a6ff", PAGE: "#0d1117"}
# Okabe and Ito's colours, in an order in which neighbours also differ in grey.
COLOURS = (INK, "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.figsize": (9.6, 4.4),
    "font.size": 11,
    "grid.alpha": 0.3,
    "grid.color": FAINT,
    "svg.fonttype": "none",
    "svg.hashsalt": "garp-agent",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
LABEL_GAP = 0.06  # between two names at the ends of curves, as a part of the height


def save(figure: Any, file: Path) -> None:
    """Write the figure; its colours follow the reader's theme (CSS prefers-color-scheme)."""
    figure.savefig(file, metadata={"Date": None}, transparent=True)
    pyplot.close(figure)
    text = re.sub(r"(\.\d\d)\d+", r"\1", file.read_text())  # a hundredth of a point is enough
    rules = []
    for theme in (LIGHT, DARK):
        rules.append(" ".join(f"--c{colour[-1]}: {theme[colour]};" for colour in theme))
    sheet = f":root {{{rules[0]}}} @media (prefers-color-scheme: dark) {{:root {{{rules[1]}}}}}"
    text = re.sub(r"#0(\d)0\1(?:0\1)", lambda match: f"var(--c{match[1]})", text)
    file.write_text(re.sub("(<svg [^>]*>)", rf"\1\n <style>{sheet}</style>", text, count=1))


@contextmanager
def plot(file: Path, **properties: Any) -> Iterator[Any]:
    """Give axes with these properties (title, xscale, ...) to draw on, and save them.

    Each line with a label has it at its right end.
    """
    with matplotlib.rc_context({**STYLE, "axes.grid": True}):
        figure, axes = pyplot.subplots(subplot_kw=properties)
        yield axes
        _name_ends(axes)
        save(figure, file)


def _name_ends(axes: Any) -> None:
    """Write the label of each line at the height of its end, or next to it where that is taken."""
    axes.margins(x=0)
    axes.autoscale_view()
    to_height = axes.transData + axes.transAxes.inverted()
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    ends = [(to_height.transform(line.get_xydata()[-1])[1], line) for line in lines]
    ends.sort(key=lambda end: end[0])
    heights: list[float] = []
    for height, _ in ends:
        heights.append(max(height, heights[-1] + LABEL_GAP if heights else 0.0))
    highest = 1.0
    for at in reversed(range(len(heights))):
        heights[at] = min(heights[at], highest)
        highest = heights[at] - LABEL_GAP
    for (_, line), height in zip(ends, heights):
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (6, 0)}
        colour = line.get_color()
        axes.annotate(line.get_label(), (1, height), color=colour, va="center", **place)


def draw_panels(
    file: Path, title: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str
) -> None:
    """Draw values over seconds, each curve in a panel with its name; all have the same scale."""
    with matplotlib.rc_context({**STYLE, "axes.grid": True}):
        size = {"figsize": (9.6, 1.6 * len(curves) + 0.8), "sharex": True, "sharey": True}
        figure, panels = pyplot.subplots(len(curves), **size)
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        for panel, colour, (name, (times, values)) in zip(panels, COLOURS, curves.items()):
            panel.fill_between(times, values, color=colour, step="mid", lw=0)
            text = f"{name}: at most {max(values):,.0f} {unit}"
            panel.set_title(text, size="medium", weight="normal")
            panel.yaxis.set_major_formatter("{x:,g}")
            panel.margins(x=0.005)
        panels[0].set_ylim(bottom=0)
        panels[-1].set_xlabel("seconds")
        figure.supylabel(unit)
        save(figure, file)


def draw_rows(
    file: Path, title: str, rows: Mapping[str, Sequence[float | None]], limit: float
) -> None:
    """Draw a dot for each duration in seconds, and a bar at the median, in a row for each name.

    None is a duration that had not ended after `limit`.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(9.6, 0.55 * len(rows) + 1.2))
        axes.set_title(title)
        for place, durations in enumerate(rows.values()):
            ended = [each for each in durations if each is not None]
            heights = [place + 0.12 * (each % 3 - 1) for each in range(len(ended))]
            colour = BAD if median([limit, *ended]) > 1 else GOOD
            axes.plot(ended, heights, "o", color=colour, ms=5, alpha=0.6, mew=0)
            if len(ended) < len(durations):
                text = f"{len(durations) - len(ended)} of {len(durations)} not ended after "
                axes.text(limit, place, f"{text}{limit:g} s", ha="right", va="center", color=BAD)
            else:
                axes.plot([median(ended)] * 2, [place - 0.3, place + 0.3], color=INK, lw=2)
                text = f"{median(ended):.2f} s" if median(ended) < 1 else f"{median(ended):.1f} s"
                right = max(ended) + 0.02 * limit
                axes.text(right, place, f"median {text}", va="center")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, limit)
        axes.set_xlabel("seconds")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        save(figure, file)
