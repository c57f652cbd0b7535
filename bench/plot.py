"""Line plots as SVG, for pages that are read on screen and on paper, in black and white.

Decides only how a plot looks: curves differ by their dashes, and their names stand beside the
plot in the order in which they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 46, 56
DASHES = ("", "7 4", "2 3", "12 4 2 4", "4 8")
SHADES = ("#000", "#555", "#222", "#777", "#444")


class Curve(NamedTuple):
    """One line and its name."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False  # a dot at every point
    steps: bool = False  # bins: horizontal pieces


class Plot:
    """Axes and a title."""

    def __init__(
        self, title: str, x: str, y: str, *, log_x: bool = False, log_y: bool = False
    ) -> None:
        self._title, self._x, self._y = title, x, y
        self._log_x, self._log_y = log_x, log_y

    def draw(self, curves: Sequence[Curve]) -> str:
        """The whole file."""
        xs = [x for curve in curves for x, _ in curve.points if x > 0 or not self._log_x]
        ys = [y for curve in curves for _, y in curve.points if y > 0 or not self._log_y]
        self._across = _Axis(xs, self._log_x, LEFT, WIDTH - RIGHT)
        self._upwards = _Axis(ys if self._log_y else [0.0, *ys], self._log_y, HEIGHT - BOTTOM, TOP)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
            f"<title>{escape(self._title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">'
            f"{escape(self._title)}</text>",
            *self._grid(),
        ]
        for number, curve in enumerate(curves):
            parts += self._curve(curve, number)
        by_end = sorted(range(len(curves)), key=lambda number: -curves[number].points[-1][1])
        for row, number in enumerate(by_end):
            parts += _name(curves[number].name, number, TOP + 10 + 20 * row)
        return "\n".join([*parts, "</svg>", ""])

    def _grid(self) -> list[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for value, y in self._upwards.ticks():
            parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
        for value, x in self._across.ticks():
            parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value}</text>')
        middle = (LEFT + right) / 2
        parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#000"/>')
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(self._x)}</text>'
        )
        parts.append(
            f'<text x="18" y="{(TOP + bottom) / 2}" text-anchor="middle" '
            f'transform="rotate(-90 18 {(TOP + bottom) / 2})">{escape(self._y)}</text>'
        )
        return parts

    def _curve(self, curve: Curve, number: int) -> list[str]:
        style = number % len(DASHES)
        places = [
            (self._across.place(x), self._upwards.place(y) if y > 0 or not self._log_y else None)
            for x, y in curve.points
        ]
        parts = [
            f'<path d="{_steps(places) if curve.steps else _line(places)}" fill="none" '
            f'stroke="{SHADES[style]}" stroke-width="1.6" stroke-dasharray="{DASHES[style]}"/>'
        ]
        shown = [(x, y) for x, y in places if y is not None]
        if curve.marks:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{SHADES[style]}"/>'
                for x, y in shown
            ]
        return parts


def _name(name: str, number: int, y: int) -> list[str]:
    style = number % len(DASHES)
    edge = WIDTH - RIGHT
    return [
        f'<path d="M{edge + 6} {y}h24" stroke="{SHADES[style]}" stroke-width="1.6" '
        f'stroke-dasharray="{DASHES[style]}"/>',
        f'<text x="{edge + 36}" y="{y + 4}">{escape(name)}</text>',
    ]


Place = tuple[float, "float | None"]


def _line(places: Sequence[Place]) -> str:
    words, pen_up = [], True
    for x, y in places:
        if y is None:
            pen_up = True
            continue
        words.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = False
    return "".join(words)


def _steps(places: Sequence[Place]) -> str:
    half = (places[1][0] - places[0][0]) / 2 if len(places) > 1 else 0.0
    floor_y = HEIGHT - BOTTOM
    words = []
    for number, (x, y) in enumerate(places):
        level = floor_y if y is None else y
        words.append(f"{'L' if number else 'M'}{x - half:.1f} {level:.1f}H{x + half:.1f}")
    return "".join(words)


class _Axis:
    """From values to places; powers of ten at both ends if it is logarithmic."""

    def __init__(self, values: Sequence[float], logarithmic: bool, start: float, end: float):
        self._log = logarithmic
        self._start, self._end = start, end
        if logarithmic:
            self._low = float(floor(log10(min(values))))
            self._high = max(ceil(log10(max(values))), self._low + 1)
        else:
            self._step = _round_step((max(values) - min(values)) / 6)
            self._low, self._high = min(values), max(values)

    def place(self, value: float) -> float:
        at = log10(value) if self._log else value
        return self._start + (at - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[tuple[str, float]]:
        if self._log:
            values = [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        else:
            first = ceil(self._low / self._step - 1e-6)
            last = floor(self._high / self._step + 1e-6)
            values = [n * self._step for n in range(first, last + 1)]
        return [(f"{value:,.10g}", self.place(value)) for value in values]


def _round_step(rough: float) -> float:
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
