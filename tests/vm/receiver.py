"""Waits for what the machines send.

Callbacks store frames, replies to hints, QMP events and results of commands. They run while a test
waits for a condition on what was stored. Timeouts only find machines that hang: no test asserts how
long something took.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import TypeVar

HANG_TIMEOUT = 120.0  # seconds

T = TypeVar("T")
_selector = selectors.DefaultSelector()


class HangError(AssertionError):
    """A condition did not come true within its timeout."""


def add(descriptor: int, read: Callable[[], None]) -> None:
    """Call ``read`` whenever the descriptor can be read, during each wait from now on."""
    _selector.register(descriptor, selectors.EVENT_READ, read)


def remove(descriptor: int) -> None:
    """Stop the calls, so that the descriptor may be closed. Harmless if repeated."""
    with contextlib.suppress(KeyError, ValueError):
        _selector.unregister(descriptor)


def wait_for(
    condition: Callable[[], T], what: str, timeout: float = HANG_TIMEOUT, step: float = 0.2
) -> T:
    """Return the first true value of ``condition``, which may wait in turn.

    Evaluate it whenever something was received, and every ``step`` seconds for what no
    descriptor tells. Raises HangError after ``timeout`` seconds.
    """
    limit = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > limit:
            raise HangError(f"{what}: not within {timeout:.0f} s")
        for key, _ in _selector.select(step):
            # A callback before this one may have removed the descriptor.
            if _selector.get_map().get(key.fd) is key:
                key.data()
    return result


def pause(seconds: float) -> None:
    """Let time pass and store what is received."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= end, "the time", 2 * seconds + HANG_TIMEOUT, step=seconds)
