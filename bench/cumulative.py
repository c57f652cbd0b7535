"""A plot of distributions, cumulative, as an SVG that is readable in black and white.

Decides how it looks, not what is measured.  Time is on a logarithmic axis; each curve
has a dash pattern and a marker of its own.  What never happened within the limit does
not reach the top: the curve ends at the right edge, below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from typing import NamedTuple, Optional
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 800, 470
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 44, 58
LEGEND_LINE = 19
DASHES = ("", "9 4", "2 3", "12 3 2 3", "6 2 2 2 2 2", "5 2 1 2", "16 5")
INK = "#111"


class Curve(NamedTuple):
    """One method's outages in seconds; None for one that outlasted the limit."""

    title: str
    values: Sequence[Optional[float]]  # noqa: UP045 - evaluated by Python 3.9


def svg(title: str, curves: Sequence[Curve], limit: float) -> str:
    """The whole file."""
    known = [value for curve in curves for value in curve.values if value is not None]
    axis = Axis(floor(log10(min(known))), log10(limit))
    height = HEIGHT + LEGEND_LINE * len(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        *_grid(axis),
    ]
    for number, curve in enumerate(curves):
        parts += _curve(curve, number, axis)
        parts += _legend(curve, number)
    return "\n".join([*parts, "</svg>", ""])


class Axis(NamedTuple):
    """Powers of ten to the right, fractions of one upwards."""

    first: int  # exponent at the left edge
    last: float  # exponent at the right edge

    def x(self, seconds: float) -> float:
        """Where a time is."""
        share = (log10(seconds) - self.first) / (self.last - self.first)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, share: float) -> float:
        """Where a share of the failovers is."""
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def _grid(axis: Axis) -> Iterator[str]:
    bottom, top = axis.y(0.0), axis.y(1.0)
    for exponent in range(axis.first, ceil(axis.last) + 1):
        for digit in range(1, 10):
            seconds = digit * 10.0**exponent
            if log10(seconds) > axis.last + 1e-9:
                break
            x, colour = axis.x(seconds), "#999" if digit == 1 else "#e4e4e4"
            yield f'<path d="M{x} {bottom}V{top}" stroke="{colour}" stroke-width="0.7"/>'
            if digit in (1, 2, 5):
                yield _text(x, bottom + 18, _time(seconds), "middle")
    for quarter in range(5):
        y = axis.y(quarter / 4)
        yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#999" stroke-width="0.7"/>'
        yield _text(LEFT - 8, y + 4, f"{25 * quarter} %", "end")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, bottom + 38, "outage at most (logarithmic)", "middle")


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _curve(curve: Curve, number: int, axis: Axis) -> Iterator[str]:
    known = sorted(value for value in curve.values if value is not None)
    path = f"M{axis.x(known[0]) if known else LEFT} {axis.y(0.0)}"
    for done, value in enumerate(known, start=1):
        path += f"H{axis.x(value)}V{axis.y(done / len(curve.values))}"
    lost = len(known) < len(curve.values)
    yield _stroke(path + f"H{WIDTH - RIGHT}" if lost else path, number)
    for done, value in enumerate(known, start=1):
        if done % 4 == 1 or done == len(known):
            yield _marker(axis.x(value), axis.y(done / len(curve.values)), number)


def _stroke(path: str, number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    pattern = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.8"{pattern}/>'


def _marker(x: float, y: float, number: int) -> str:
    shapes = (
        f"M{x - 4} {y - 4}h8v8h-8z",
        f"M{x} {y - 5}l5 9h-10z",
        f"M{x} {y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        f"M{x - 4.5} {y}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        f"M{x} {y + 5}l5 -9h-10z",
        f"M{x - 5} {y - 2}h10v4h-10z",
        f"M{x - 5.5} {y - 1.5}h4v-4h3v4h4v3h-4v4h-3v-4h-4z",
    )
    fill = "#fff" if number % 2 else INK
    shape = shapes[number % len(shapes)]
    return f'<path d="{shape}" fill="{fill}" stroke="{INK}" stroke-width="1.2"/>'


def _legend(curve: Curve, number: int) -> Iterator[str]:
    y = HEIGHT + 2 + number * LEGEND_LINE
    yield _stroke(f"M{LEFT} {y - 4}h62", number)
    yield _marker(LEFT + 31, y - 4, number)
    lost = sum(value is None for value in curve.values)
    note = f" ({lost} of {len(curve.values)} beyond the right edge)" if lost else ""
    yield _text(LEFT + 74, y, curve.title + note)
