"""What is remembered for a while, in dictionaries that cannot grow without end."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Key = TypeVar("Key")
    Value = TypeVar("Value")


def remember(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Set a value; forget the oldest one if there are more than ``most``."""
    known.pop(key, None)
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]
