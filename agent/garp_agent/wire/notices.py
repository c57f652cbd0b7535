"""Notices for the operator, kept in memory until a daemon writes them to its log.

Bounded, because a flood of events must not fill the memory.  Does not format or write anything.
"""

from __future__ import annotations

from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_WARNING, Notice
from garp_agent.wire.record import inf

REPEATED = 6  # notices of one kind that are kept at their own level in each PERIOD
PERIOD = 60.0  # seconds
NOTICES_KEPT = 1000  # between two calls of take(); more are counted and dropped


class Notices:
    """The notices since the last :meth:`take`.  ``level``: the least urgent LEVEL_* to keep."""

    __slots__ = ("_lost", "kept", "level")

    def __init__(self, level: int = LEVEL_DEBUG) -> None:
        self.level = level
        self.kept: list[Notice] = []  # empty: take() would return nothing
        self._lost = 0

    def say(self, level: int, event: str, **fields: object) -> None:
        """Add a notice, unless it is less urgent than ``self.level`` or there are too many."""
        if level > self.level:
            return
        if len(self.kept) < NOTICES_KEPT:
            self.kept.append(Notice(level, event, tuple(fields.items())))
        else:
            self._lost += 1

    def take(self) -> list[Notice]:
        """Return and forget the notices, the oldest first; the last tells how many were lost."""
        notices, self.kept = self.kept, []
        if self._lost:
            notices.append(Notice(LEVEL_WARNING, "notices-lost", (("count", self._lost),)))
            self._lost = 0
        return notices


class Repetition:
    """Makes notices of one kind less urgent when a peer can cause any number of them."""

    __slots__ = ("_count", "_until")

    def __init__(self) -> None:
        self._count = 0
        self._until = -inf  # when the period ends, seconds, monotonic

    def level(self, level: int, now: float) -> int:
        """Return ``level`` for the first REPEATED notices in a PERIOD, then LEVEL_DEBUG."""
        if now >= self._until:
            self._count, self._until = 0, now + PERIOD
        self._count += 1
        return level if self._count <= REPEATED else LEVEL_DEBUG

    @property
    def is_at_its_limit(self) -> bool:
        """Whether the latest notice is the last one of its period that is kept."""
        return self._count == REPEATED
