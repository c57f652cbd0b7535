"""Standard error, written without waiting for its reader, whatever kind of stream it is.

A terminal that polls as writable may take only a part of a line, and a write would wait for room.
The flag O_NONBLOCK belongs to all processes that share the stream, so it stays as it is:

- a socket (journald's) takes each line with MSG_DONTWAIT (send(2)),
- a pipe or a terminal is opened a second time, with the flag (/proc/self/fd, proc(5)),
- a regular file makes no writer wait for a reader.

A stream that cannot be opened again, such as the terminal of another user, is polled before each
byte: it may have room for a part of a line only.  Does not know what a line says.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import os
import select
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


class StandardError:
    """The stream that ``sys.stderr`` is now; nothing if it was closed before the start."""

    def __init__(self) -> None:
        self._stream: TextIO | None = sys.stderr  # None: the descriptor may be anything by now
        self._rest = b""  # of a line of which only a part fitted
        self._must_poll = False
        self._socket: socket.socket | None = None
        self._descriptor = self._open()

    def write(self, line: str) -> bool:
        """Write a line; return False if there is no room for it.

        A line of which a part fits counts as written: the rest comes before the next line.
        """
        if self._stream is None:
            return True
        if self._descriptor < 0:
            return self._write_to_object(self._stream, line)
        data = self._rest + line.encode(self._stream.encoding, "backslashreplace")
        before = len(self._rest)
        try:
            written = self._send(data)
        except OSError:  # no room, a full disk, or the reader has gone
            return False
        self._rest = data[written:]
        if written >= before:
            return True
        self._rest = self._rest[: before - written]
        return False

    def _open(self) -> int:
        """Prepare a way to write; return its descriptor, -1 if there is none behind the stream."""
        try:
            descriptor = self._stream.fileno() if self._stream else -1
            mode = os.fstat(descriptor).st_mode
        except (OSError, ValueError):
            return -1
        if stat.S_ISREG(mode):
            return descriptor
        try:
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(descriptor))
                return self._socket.fileno()
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            self._must_poll = True
            return descriptor

    def _send(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if not self._must_poll:
            return os.write(self._descriptor, data)
        written = 0
        try:
            while written < len(data) and select.select((), (self._descriptor,), (), 0)[1]:
                written += os.write(self._descriptor, data[written : written + 1])
        except OSError:
            pass  # the reader has gone, perhaps in the middle of the line
        if not written:
            raise BlockingIOError
        return written

    def _write_to_object(self, stream: TextIO, line: str) -> bool:
        """Write to a stream that only Python knows."""
        try:
            stream.write(line)
            stream.flush()
        except (OSError, ValueError):  # it is closed, or its encoding lacks a character
            pass
        return True
