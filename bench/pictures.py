"""`make pictures`: the pictures of the README, with matplotlib, as SVG for light and dark pages.

The bars show the medians in the table of docs/measurements.md, which `make bench-failover` writes.
"""

from __future__ import annotations

import re
from typing import Any

import matplotlib
from matplotlib import pyplot

from bench.fleet import DOCS
from bench.plot import BAD, FAINT, GOOD, INK, PAGE, STYLE, save

FAULT, BARS = DOCS / "fault.svg", DOCS / "outages.svg"
MEASUREMENTS = DOCS / "measurements.md"
SHOWN = {  # the row of the table, and its name in the picture
    "nothing": "nothing",
    "arping loop, sleep 5 s": "arping loop, every 5 s",
    "garp-agent, every 5 s": "garp-agent, every 5 s",
    "no agent, QMP announce-self on failover": "QEMU announce-self, no agent",
    "garp-agent with hints (garp-hint watch)": "garp-agent with hints",
}


def medians() -> dict[str, float]:
    """Return the median outage in seconds for each row that the picture shows."""
    # The table of a Xen host comes later in the page, with the same titles.
    table = MEASUREMENTS.read_text().partition("<!-- end of outages -->")[0]
    found = re.findall(r"^\| (.+?) \| \d+ \| .+? \| (.+?) \|", table, re.M)
    times = {title: median for title, median in found if title in SHOWN}
    return {
        SHOWN[title]: float("inf") if times[title] == "-" else int(times[title].split()[0]) / 1000
        for title in SHOWN
    }


def draw_bars() -> None:
    """Draw the median outages as bars; what does not end runs out of the picture."""
    outages = medians()
    most = max(value for value in outages.values() if value != float("inf"))
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8, 2.6))
        names = list(outages)[::-1]
        for place, name in enumerate(names):
            value = outages[name]
            endless = value == float("inf")
            width = 1.3 * most if endless else value
            axes.barh(place, width, color=BAD if endless or value > 1 else GOOD, height=0.62)
            shown = f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
            label = "until the guest speaks: minutes" if endless else shown
            inside = endless
            axes.text(
                width - 0.05 if inside else width + 0.04,
                place,
                label,
                va="center",
                ha="right" if inside else "left",
                color=PAGE if inside else INK,
                weight="bold",
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 1.3 * most)
        axes.set_xlabel("median outage of a silent guest after a failover, in seconds")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        save(figure, BARS)


def box(axes: Any, place: tuple[float, float], text: str, width: float = 1.5, **more: Any) -> None:
    """Draw a box with a text in its middle."""
    x, y = place
    corner = (x - width / 2, y - 0.22)
    patch = pyplot.Rectangle(corner, width, 0.44, fill=False, edgecolor=INK, lw=1.3, **more)
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center")


def line(axes: Any, *points: tuple[float, float], colour: str = FAINT, **more: Any) -> None:
    """Draw a cable."""
    axes.plot(*zip(*points), color=colour, lw=more.pop("lw", 1.6), zorder=0, **more)


def arrow(axes: Any, *points: tuple[float, float], colour: str) -> None:
    """Draw the way of a frame, with a head at its end."""
    line(axes, *points, colour=colour, lw=3)
    axes.annotate(
        "",
        xy=points[-1],
        xytext=points[-2],
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 0, "shrinkB": 0},
    )


def network(axes: Any, title: str) -> None:
    """Draw what both halves of the picture have: a host outside, two switches, a hypervisor."""
    axes.set_title(title, color=INK, weight="bold", loc="left")
    axes.set_xlim(-2.3, 2.3)
    axes.set_ylim(-0.4, 4.5)
    axes.set_aspect("equal")
    axes.axis("off")
    line(axes, (0, 4.0), (-1.2, 3.0))
    line(axes, (0, 4.0), (1.2, 3.0))
    line(axes, (-0.55, 2.8), (0.55, 2.8))
    line(axes, (1.2, 2.58), (1.2, 1.6), (0.3, 1.42))
    line(axes, (-1.2, 2.58), (-1.2, 2.25))
    line(axes, (-1.2, 1.95), (-1.2, 1.6), (-0.3, 1.42))
    axes.text(-1.2, 2.1, "✕", color=BAD, ha="center", va="center", size=17, weight="bold")
    line(axes, (0, 0.98), (0, 0.52))
    box(axes, (0, 4.2), "host outside", 1.9)
    box(axes, (-1.2, 2.8), "switch A", 1.3)
    box(axes, (1.2, 2.8), "switch B", 1.3)
    box(axes, (0, 1.2), "bond and bridge", 2.1)
    box(axes, (0, 0.3), "guest", 1.1)
    axes.add_patch(
        pyplot.Rectangle((-1.9, -0.15), 3.8, 1.95, fill=False, edgecolor=FAINT, ls="--", lw=1)
    )
    axes.text(-1.8, -0.08, "hypervisor", color=FAINT, size=9, va="bottom")


def draw_fault() -> None:
    """Draw the fault and the cure side by side."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 5))
        network(left, "The fault: frames go to a dead port")
        arrow(left, (-0.25, 3.98), (-1.35, 3.04), colour=BAD)
        arrow(left, (-1.35, 2.56), (-1.35, 2.22), colour=BAD)
        left.text(-2.25, 3.55, "frames to\nthe guest", color=BAD, va="center")
        network(right, "The cure: the guest announces itself")
        arrow(right, (0.12, 0.55), (0.12, 0.95), colour=GOOD)
        arrow(right, (0.42, 1.46), (1.32, 1.64), (1.32, 2.55), colour=GOOD)
        arrow(right, (0.52, 2.88), (-0.52, 2.88), colour=GOOD)
        right.text(2.28, 2.05, "gratuitous\nARP or NA", color=GOOD, va="center", ha="right")
        save(figure, FAULT)


def main() -> None:
    """Draw both pictures."""
    draw_fault()
    draw_bars()


if __name__ == "__main__":
    main()
