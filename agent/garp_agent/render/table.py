"""Text in columns, safe for a terminal, and no wider than it.

Responsible for widths, and for characters that must not reach a terminal.  Knows no content, and
no terminal: its caller says how wide it is and how it shows a colour.
"""

from __future__ import annotations

import textwrap
from typing import Callable, NamedTuple


class Screen(NamedTuple):
    """Where a text is shown.  The default is a pipe or a file: nothing is cut or coloured."""

    width: int = 0  # columns; 0: any number
    paint: Callable[[str, str], str] = lambda text, meaning: text  # takes a text and its meaning


Row = tuple[str, ...]
PIPE = Screen()
GAP = "  "
NAMED = 4  # names on one line


def table(
    rows: list[Row],
    screen: Screen = PIPE,
    cut: tuple[int, ...] = (),
    meaning: Callable[[int, str], str] = lambda column, text: "",
) -> str:
    """Write rows as columns of equal width; the first row has the headings.

    ``cut``: the columns that are shortened if the rows are wider than the screen: the widest first,
    and none to less than its heading.  ``meaning``: takes a column and the text of a cell, and
    returns "good", "warn", "bad" or "quiet" for its colour; "" for none.  Lines have no spaces at
    their end.
    """
    shown = [tuple(map(printable, row)) for row in rows]
    widths = _fitting([max(map(len, column)) for column in zip(*shown)], shown[0], screen, cut)
    lines = []
    for number, (row, cells) in enumerate(zip(rows, shown)):
        line, gap = "", ""
        for column, (text, cell, width) in enumerate(zip(row, cells, widths)):
            short = shortened(cell, width).rstrip()
            if short:
                colour = meaning(column, text) if number else "heading"
                line += gap + (screen.paint(short, colour) if colour else short)
                gap = ""
            gap += " " * (width - len(short)) + GAP
        lines.append(line + "\n")
    return "".join(lines)


def _fitting(widths: list[int], headings: Row, screen: Screen, cut: tuple[int, ...]) -> list[int]:
    """Return the widths with which the columns fit the screen, as far as they can."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - screen.width if screen.width else 0
    for _ in range(excess):
        longer = [each for each in cut if widths[each] > len(headings[each])]
        if not longer:
            break
        widths[max(longer, key=widths.__getitem__)] -= 1
    return widths


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` columns; ASCII, because a locale may have nothing else."""
    return text if len(text) <= width else (text[: max(width - 3, 0)] + "...")[:width]


def wrapped(text: str, screen: Screen) -> str:
    """Return a line as printable lines that fit the screen, the further ones indented."""
    text = printable(text)
    if len(text) <= screen.width or not screen.width:
        return text
    return "\n".join(textwrap.wrap(text, screen.width, subsequent_indent="  "))


def printable(text: str) -> str:
    """Escape a text that could control a terminal: an interface name may hold any bytes."""
    if text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")


def some(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def counted(number: object, noun: str) -> str:
    """Return ``1 frame``, ``2 frames``.  ``number``: of any type, because a guest can send it."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if str(number) == '1' else plural}"
