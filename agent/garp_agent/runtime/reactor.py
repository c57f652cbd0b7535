"""Waits on file descriptors and calls their handlers: the one epoll loop under both daemons.

Does not decide when to wake up, what to send, or what an event means; does not read the clock
except to turn a deadline into a time-out.

A lack of memory ends neither daemon.  A handler that finds no memory is given up, the others get
their turn, and the daemon decides what was lost.

Source: epoll(7).
"""

from __future__ import annotations

import select
import time

from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Set
    from typing import Protocol

    class Source(Protocol):
        """Something with a descriptor to wait on."""

        def fileno(self) -> int: ...


NOTHING: Set[int] = frozenset()
PAUSE = 0.1  # seconds until the sources are looked at after a lack of memory: they are still ready
REPORT_AGAIN = 10.0  # seconds until a lack of memory is news again


class Reactor:
    """The watched descriptors and their handlers.

    Handlers are called in the order in which their sources were first watched.

    ``repair`` is called after a lack of memory with the time (seconds, monotonic), and with whether
    to log it.  Without it, a lack of memory raises MemoryError.
    """

    def __init__(self, repair: Callable[[float, bool], object] | None = None) -> None:
        self._repair = repair
        self._must_pause = False
        self._report_at = -inf  # when a lack of memory is news
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[float], object]] = {}  # by descriptor

    def watch(self, source: Source, handler: Callable[[float], object]) -> None:
        """Call ``handler`` with the time (seconds, monotonic) whenever ``source`` is readable.

        Raises OSError as epoll_ctl(2) does, for example EPERM for a regular file.
        """
        self._epoll.register(source.fileno(), select.EPOLLIN)
        self._handlers[source.fileno()] = handler

    def unwatch(self, source: Source) -> None:
        """Stop waiting for ``source``.  Call this before ``source`` is closed."""
        self._epoll.unregister(source.fileno())
        del self._handlers[source.fileno()]

    def wait(self, wake_at: float, look_again: bool = True) -> Set[int]:
        """Wait until a source is readable or until ``wake_at``; return the readable descriptors.

        ``wake_at``: seconds of the monotonic clock; ``-math.inf`` returns at once, ``math.inf``
        waits without a limit.  After SIGSTOP and SIGCONT, epoll_wait can report a time-out although
        a source is readable.  So it is asked once more, unless the caller does so with
        :meth:`look` before it acts on the time.
        """
        if self._must_pause:
            self._must_pause = False
            time.sleep(PAUSE)
        timeout = None if wake_at == inf else max(0.0, wake_at - time.monotonic())
        found = self._epoll.poll(timeout)
        if not found and look_again and timeout != 0.0:
            found = self._epoll.poll(0)
        return {descriptor for descriptor, _ in found} if found else NOTHING

    def look(self) -> Set[int]:
        """Return the readable descriptors at once."""
        found = self._epoll.poll(0)
        return {descriptor for descriptor, _ in found} if found else NOTHING

    def call(self, ready: Set[int], now: float) -> None:
        """Call the handlers of these descriptors, in order of priority."""
        if not ready:
            return
        for descriptor in [each for each in self._handlers if each in ready]:
            handler = self._handlers.get(descriptor)
            if handler is not None:  # an earlier handler may have stopped watching it
                try:
                    handler(now)
                except MemoryError:
                    if self._repair is None:
                        raise
                    self.repair(now)

    def repair(self, now: float) -> None:
        """Call the daemon's ``repair`` after a MemoryError, and pause before the next wait."""
        assert self._repair is not None
        self._must_pause = True
        try:
            is_news = now >= self._report_at
            self._repair(now, is_news)
            if is_news:
                self._report_at = now + REPORT_AGAIN
        except MemoryError:
            pass  # not even for that: what was given up is tried again, and fails or succeeds

    def close(self) -> None:
        """Close the epoll descriptor.  The sources stay open."""
        self._epoll.close()
