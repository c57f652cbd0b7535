"""Notices for the operator, kept in memory until a daemon writes them to its log.

Bounded, because a flood of events must not fill the memory.  Does not format or write anything.
"""

from __future__ import annotations

from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_WARNING, Notice

NOTICES_KEPT = 1000  # between two calls of take(); more are counted and dropped


class Notices:
    """The notices since the last :meth:`take`.  ``level``: the least urgent LEVEL_* to keep."""

    __slots__ = ("_kept", "_lost", "level")

    def __init__(self, level: int = LEVEL_DEBUG) -> None:
        self.level = level
        self._kept: list[Notice] = []
        self._lost = 0

    def say(self, level: int, event: str, **fields: object) -> None:
        """Add a notice, unless it is less urgent than ``self.level`` or there are too many."""
        if level > self.level:
            return
        if len(self._kept) < NOTICES_KEPT:
            self._kept.append(Notice(level, event, tuple(fields.items())))
        else:
            self._lost += 1

    def take(self) -> list[Notice]:
        """Return and forget the notices, the oldest first; the last tells how many were lost."""
        notices, self._kept = self._kept, []
        if self._lost:
            notices.append(Notice(LEVEL_WARNING, "notices-lost", (("count", self._lost),)))
            self._lost = 0
        return notices
