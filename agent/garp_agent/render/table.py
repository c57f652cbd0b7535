"""Text in columns, safe for a terminal.

Responsible for widths and for characters that must not reach a terminal.  Knows no content.
"""

from __future__ import annotations

Row = tuple[str, ...]


def table(rows: list[Row]) -> str:
    """Write rows as columns of equal width; lines have no spaces at their end."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n"
        for row in rows
    )


def printable(text: str) -> str:
    """Escape a text that could control a terminal: an interface name may hold any bytes."""
    if text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")
