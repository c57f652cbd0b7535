"""Runs a function in a forked child, which hands over the result and exits.

The modules that the work imports, its memory and whatever it hangs on stay with the child.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # needs less memory: docs/design.md
import errno
import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Seconds; then SIGALRM ends the child.  Less than TimeoutStartSec= of the units.  Python with its
# modules takes more than 20 s on an emulated machine whose processor is shared by ten others.
TIME_LIMIT = 60


class ChildError(Exception):
    """The child ended without a result.

    ``may_pass``: a new attempt may succeed: it was killed, or it lacked memory or a file.
    """

    def __init__(self, reason: str, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class Child:
    """A child process that runs ``work``, started at once.

    The result must be one that :mod:`marshal` can write.  ``time_limit``: seconds; 0 for none.
    Raises OSError if there can be no process, or no pipe to it.
    """

    def __init__(self, work: Callable[[], Any], time_limit: int | None = None) -> None:
        self._limit = TIME_LIMIT if time_limit is None else time_limit
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        self._received = b""
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._pipe)
            os.close(write_end)
            raise
        if self._pid == 0:
            _run_in_child(work, write_end, self._limit)
        os.close(write_end)

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._pipe

    def read(self) -> bool:
        """Receive a part of the result; return whether the child has finished."""
        data = os.read(self._pipe, 1 << 16)
        self._received += data
        return not data

    def end(self) -> None:
        """Kill the child, and wait for its end."""
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._pipe)
        self._wait()

    def result(self) -> Any:
        """Wait for the child to exit, and return what ``work`` returned.

        Raises ChildError if ``work`` raised, took longer than TIME_LIMIT, or was killed.
        """
        while not self.read():
            pass
        os.close(self._pipe)
        if self._wait() != 0 or not self._received:
            late = f", or took more than {self._limit} s" if self._limit else ""
            raise ChildError(f"it was killed{late}")
        try:
            is_done, value = marshal.loads(self._received)
        except (EOFError, ValueError, TypeError):  # only a part of it came
            raise ChildError("it was killed") from None
        if not is_done:
            raise ChildError(*value)
        return value

    def _wait(self) -> int:
        """Wait for the child's end; return its wait status, 0 if the kernel does not keep it."""
        try:
            return os.waitpid(self._pid, 0)[1]
        except ChildProcessError:  # SIGCHLD is ignored, as the parent left it: waitpid(2)
            return 0


def _run_in_child(work: Callable[[], Any], write_end: int, limit: int) -> None:
    status = 1
    try:
        _close_all_but(write_end)
        signal.set_wakeup_fd(-1)
        # systemd sends SIGTERM to all processes of a unit: the child must end by it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.alarm(limit)
        _write_all(write_end, marshal.dumps(_attempt(work)))
        status = 0
    finally:
        os._exit(status)


def _attempt(work: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether the work was done, and its result or the arguments of a ChildError."""
    try:
        return True, work()
    except Exception as error:
        may_pass = isinstance(error, (OSError, MemoryError))
        return False, (f"{type(error).__name__}: {error}", may_pass)


def _close_all_but(kept: int) -> None:
    """Close inherited descriptors: a socket accepts clients as long as any process has it open."""
    try:
        descriptors = list(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # /proc is not mounted
        descriptors = list(range(1024))
    for descriptor in descriptors:
        if descriptor > 2 and descriptor != kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # not open: the listing's own descriptor is already closed


def _write_all(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        if error.errno != errno.EPIPE:  # EPIPE: the daemon has ended
            raise
