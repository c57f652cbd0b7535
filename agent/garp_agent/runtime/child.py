"""Runs a function in a forked child, which hands the result over and ends.

Decides nothing about the work.  What the work needs to import, and whatever it hangs
on, stays with the child.
"""

from __future__ import annotations

import errno
import marshal
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PATIENCE = 10  # seconds the child may take


class ChildError(Exception):
    """The child ended without a result."""


class Child:
    """One run of ``work``, begun at once; its result must be fit for :mod:`marshal`.

    Raises OSError where there can be no further process, or no pipe to it.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        self._received = b""
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._pipe)
            os.close(write_end)
            raise
        if self._pid == 0:
            _be_the_child(work, write_end)
        os.close(write_end)

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._pipe

    def read(self) -> bool:
        """Take in what the child wrote; whether it has finished."""
        data = os.read(self._pipe, 1 << 16)
        self._received += data
        return not data

    def result(self) -> Any:
        """Wait for the child and return what the work returned; raises ChildError."""
        while not self.read():
            pass
        os.close(self._pipe)
        if os.waitpid(self._pid, 0)[1] != 0:
            raise ChildError(f"it failed, or took more than {PATIENCE} s")
        return marshal.loads(self._received)


def _be_the_child(work: Callable[[], Any], write_end: int) -> None:
    status = 1
    try:
        _close_all_but(write_end)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # a service is stopped with all its processes
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        _write_all(write_end, marshal.dumps(work()))
        status = 0
    finally:
        os._exit(status)


def _close_all_but(kept: int) -> None:
    """Nobody shall take the child for its parent: a socket answers as long as anyone has it."""
    try:
        descriptors = list(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # no /proc here
        descriptors = list(range(1024))
    for descriptor in descriptors:
        if descriptor > 2 and descriptor != kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # that of the list, or none


def _write_all(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
