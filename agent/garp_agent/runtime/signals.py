"""Turns signals into bytes on a pipe that a reactor can wait on (signal(7)).

Does not decide what a signal means.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # needs less memory: docs/design.md
import os
import sys

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# A full pipe is no fault: one byte is enough.  Python 3.6 warns in any case.
_WITHOUT_WARNING = {"warn_on_full_buffer": False} if sys.version_info >= (3, 7) else {}


class Signals:
    """The signals of WATCHED that arrived.  There can be one instance in a process.

    A parent can leave signals blocked, and so they stay over exec (signal(7)): none is from now on.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Python's C-level handler writes each signal's number to the pipe at once.
        signal.set_wakeup_fd(self._write_end, **_WITHOUT_WARNING)
        for number in WATCHED:
            signal.signal(number, _ignore)
        # A terminal with `stty tostop` would stop a process in the background that writes to it.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._read_end

    def read(self) -> set[int]:
        """Return the numbers of the signals that arrived since the last call."""
        try:
            return set(os.read(self._read_end, 4096)) & set(WATCHED)
        except BlockingIOError:
            return set()

    def close(self) -> None:
        """Give the signals back their default action, and close the pipe."""
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read_end)
        os.close(self._write_end)


def _ignore(number: int, frame: object) -> None:
    """Do nothing: the byte on the pipe is what counts.  SIG_IGN would write none."""
