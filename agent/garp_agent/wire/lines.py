"""Bytes of a stream to lines: the framing of the hint protocol (docs/protocol.md).

A line ends with LF; 0xFF discards the line that was begun before it.  Knows nothing of what a
line means and loads no json: a port or a socket can be read with this alone.
"""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Line = Union[bytes, "Overlong"]

LINE_LIMIT = 4096  # bytes of a request line, without its end
REPLY_LIMIT = 8192  # bytes of a reply line on the hint port; `status` has no limit
DELIMITER = b"\xff"  # occurs in no UTF-8 text


class Overlong(NamedTuple):
    """Stands for a line that was longer than ``limit`` bytes and was discarded."""

    limit: int


class LineDecoder:
    """Joins chunks of any size to lines; keeps at most ``limit`` + 1 bytes."""

    __slots__ = ("_collected", "_discarding", "limit")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self.limit = limit
        self._collected = bytearray()
        self._discarding = False

    def clear(self) -> None:
        """Discard the line that was begun, because the peer went away or sent 0xFF."""
        self._collected.clear()
        self._discarding = False

    def feed(self, data: bytes) -> list[Line]:
        """Return the lines that ``data`` completes, without LF and CR LF; skip empty ones."""
        if not self._collected and not self._discarding and data.find(b"\n") == len(data) - 1:
            # As a rule a chunk is one line: nothing need be kept.
            line = data[data.rfind(DELIMITER) + 1 : -2 if data.endswith(b"\r\n") else -1]
            return [line if len(line) <= self.limit else Overlong(self.limit)] if line else []
        lines: list[Line] = []
        for index, part in enumerate(data.split(DELIMITER)):
            if index:
                self.clear()
            *ended, begun = part.split(b"\n")
            for piece in ended:
                self._append(piece)
                self._end(lines)
            self._append(begun)
        return lines

    def _append(self, piece: bytes) -> None:
        if self._discarding:
            return
        # One byte more than the limit, because the last one can be the CR of a line end.
        if len(self._collected) + len(piece) > self.limit + 1:
            self.clear()
            self._discarding = True
        else:
            self._collected += piece

    def _end(self, lines: list[Line]) -> None:
        line = bytes(self._collected[:-1] if self._collected.endswith(b"\r") else self._collected)
        if self._discarding or len(line) > self.limit:
            lines.append(Overlong(self.limit))
        elif line:
            lines.append(line)
        self.clear()
