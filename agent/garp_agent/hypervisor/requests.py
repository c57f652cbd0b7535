"""What the status socket answers: status, sync, and burst (hint all guests now).

Format: docs/protocol.md.
"""

from __future__ import annotations

from garp_agent.wire.protocol import (
    OUT_OF_MEMORY,
    Burst,
    ProtocolError,
    Sync,
    encode_error,
    encode_return,
    encode_sync,
    parse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.wire.lines import Line

COMMANDS = ("burst", "status", "sync")


class OperatorRequests:
    """Answers requests; the caller supplies the time."""

    def __init__(
        self,
        hint: Callable[[str, float], int],
        status: Callable[[float], dict[str, object]],
    ) -> None:
        """``hint``: takes a reason and the time, hints all guests, and returns how many.

        ``status``: takes the time and returns plain values.
        """
        self._hint = hint
        self._status = status

    def answer(self, line: Line, now: float) -> bytes:
        """Do what ``line`` asks for; return the line to reply."""
        try:
            return self._answer(line, now)
        except MemoryError:  # the status of thousands of guests takes megabytes
            return OUT_OF_MEMORY

    def _answer(self, line: Line, now: float) -> bytes:
        try:
            request = parse(line, COMMANDS)
        except ProtocolError as error:
            return encode_error(error)
        if isinstance(request, Sync):
            return encode_sync(request.id)
        if isinstance(request, Burst):
            guests = self._hint(request.reason or "operator", now)
            return encode_return(request.id, {"guests": guests})
        return encode_return(request.id, self._status(now))
