"""Plots for docs/ with matplotlib, as SVG whose bytes depend on the figures only.

Curves differ in colour and in line style, so that grey is enough to read a plot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

# Okabe and Ito's colours, in an order in which neighbours also differ in grey.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
STYLE = {
    "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLOURS, linestyle=STYLES),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#dddddd",
    "figure.constrained_layout.use": True,
    "figure.figsize": (9.6, 4.4),
    "svg.fonttype": "none",
    "svg.hashsalt": "garp-agent",
}


@contextmanager
def plot(file: Path, **properties: Any) -> Iterator[Any]:
    """Give axes with these properties (title, xscale, ...) to draw on, and save them."""
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(subplot_kw=properties)
        yield axes
        figure.legend(loc="outside right upper")
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)
