"""Collects notices for the log of the watcher until the daemon writes them."""

from __future__ import annotations

from garp_agent.wire.model import Notice


class Notices:
    """Notices that were not taken yet."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []

    def say(self, level: int, event: str, **fields: object) -> None:
        """Add a notice; ``level`` is a LEVEL_* of wire.model."""
        self._notices.append(Notice(level, event, tuple(fields.items())))

    def take(self) -> list[Notice]:
        """Return the notices since the last call, the oldest first."""
        notices, self._notices = self._notices, []
        return notices
