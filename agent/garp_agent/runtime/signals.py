"""Turns signals into bytes on a pipe that the loop can wait on (signal(7)).

Decides nothing: which signal means what is the loop's business.
"""

from __future__ import annotations

import os
import signal

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """The signals that arrived."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, _ignore)

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._read_end

    def read(self) -> set[int]:
        """The numbers of the signals that have arrived since the last call."""
        try:
            return set(os.read(self._read_end, 4096)) & set(WATCHED)
        except BlockingIOError:
            return set()

    def close(self) -> None:
        """Give the signals their default meaning back."""
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read_end)
        os.close(self._write_end)


def _ignore(number: int, frame: object) -> None:
    """Only the byte on the pipe counts."""
