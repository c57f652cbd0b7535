"""What is remembered for a while, in dictionaries that cannot grow without end."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Name = TypeVar("Name")
    Remembered = TypeVar("Remembered")


def remember(known: dict[Name, Remembered], key: Name, value: Remembered, most: int) -> None:
    """Set a value; forget the oldest one if there are more than ``most``."""
    known.pop(key, None)
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]
