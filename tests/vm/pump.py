"""One thread that reads whatever the guests send, and one way to wait for it.

Everything that arrives (frames, hint replies, QMP events, results of commands) is put
in its place by a callback in the pump's thread; a test waits for a condition on what
has arrived.  Time-outs are generous bounds after which a machine counts as hung, never
part of what a test asserts.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0  # seconds after which something that must happen counts as never happening

_Result = TypeVar("_Result")


class TookTooLongError(AssertionError):
    """What was waited for did not happen."""


class Pump:
    """Calls back when a descriptor can be read; tells those who wait afterwards."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._changed = threading.Condition()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        threading.Thread(target=self._run, name="pump", daemon=True).start()

    def add(self, descriptor: int, arrived: Callable[[], None]) -> None:
        """Calls ``arrived`` whenever the descriptor can be read."""
        with self._changed:
            self._selector.register(descriptor, selectors.EVENT_READ, arrived)
        os.write(self._wake_write, b"+")

    def remove(self, descriptor: int) -> None:
        """Calls no more; after this the descriptor may be closed.  Twice does no harm."""
        with self._changed, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def wait_for(
        self,
        condition: Callable[[], _Result],
        what: str,
        patience: float = PATIENCE,
        step: float = 0.2,
    ) -> _Result:
        """The first true value of ``condition``, evaluated whenever something arrived.

        A condition that nothing here announces is looked at every ``step`` seconds.
        """
        limit = time.monotonic() + patience
        with self._changed:
            while not (result := condition()):
                if time.monotonic() > limit:
                    raise TookTooLongError(f"{what}: not within {patience:.0f} s")
                self._changed.wait(step)
            return result

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            with self._changed:
                for key, _ in ready:
                    if key.fd == self._wake_read:
                        os.read(self._wake_read, 4096)
                    elif self._selector.get_map().get(key.fd) is key:
                        key.data()
                self._changed.notify_all()


PUMP = Pump()
