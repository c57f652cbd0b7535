"""A stream of kernel events: one rtnetlink socket for dumps and live events (rtnetlink(7)).

Keeps the stream complete: starts a new dump after an overrun (ENOBUFS), a second after a dump that
changes interrupted (NLM_F_DUMP_INTR) or that the caller had no memory for, and every
``reconcile_interval``.  Does not decide what an event means.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno

from garp_agent.wire import rtnetlink
from garp_agent.wire.model import DumpComplete, DumpPartial, DumpStarted
from garp_agent.wire.record import Generic, T, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Union

    from garp_agent.wire.rtnetlink import ControlMessage, Subject

    Events = list[Union[T, DumpStarted, DumpComplete, DumpPartial]]

RECEIVE_BUFFER = 1 << 20  # bytes asked for; the kernel caps it at net.core.rmem_max
DATAGRAM = 1 << 16  # bytes; the kernel limits a datagram of a dump to half of that
# Datagrams read in one call.  The buffer holds fewer, because the kernel counts at least 768
# bytes for each: one call reads everything that happened before it.
BATCH = 4096
_CONTROLS = frozenset((rtnetlink.DumpDone, rtnetlink.DumpInterrupted, rtnetlink.RequestFailed))
RETRY = 1.0  # seconds until a dump that failed is tried again


class Netlink(Generic[T]):
    """A stream of events that begins with a complete dump.

    ``reconcile_interval``: seconds between dumps, whatever else happens.
    ``subject``: which events to receive and how to decode them.
    Raises OSError if there can be no socket.
    """

    def __init__(self, reconcile_interval: float, subject: Subject[T]) -> None:
        self._subject = subject
        self.reconcile_interval = reconcile_interval
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind((0, sum(1 << (group - 1) for group in subject.groups)))
        self.malformed = 0  # datagrams that could not be decoded
        self._sequence = 0  # of the latest request
        self._step: int | None = None  # of the dump under way
        self._again = False  # start a new dump after the one under way, because events were lost
        self._overrun = False  # the reason for _again is an overrun
        self._interrupted = False  # changes interrupted the dump under way
        self._next_dump = -inf

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._socket.fileno()

    def deadline(self) -> float:
        """Return when to call :meth:`reconcile` at the latest."""
        return -inf if self._again and self._step is None else self._next_dump

    def reconcile(self, now: float) -> Events[T]:
        """Start a dump if it is time to; return the events that came before it, and its start."""
        if now >= self._next_dump:
            self._next_dump = now + self.reconcile_interval
            self._again = True
        if not self._must_start():
            return []
        events, is_empty = self._received(now, BATCH)
        return events + self._start(now) if is_empty and self._must_start() else events

    def choose(self, steps: tuple[Callable[[int], bytes], ...]) -> None:
        """Make only these requests in the dumps to come.  Not during a dump."""
        self._subject = self._subject._replace(steps=steps)

    def ask_again(self, now: float) -> None:
        """Start a dump with the next call of :meth:`reconcile`, at ``now`` or later."""
        self._next_dump = min(self._next_dump, now)

    def lose(self, now: float) -> None:
        """Take events for lost that the caller could not handle: start a new dump after RETRY."""
        self._overrun = True
        self._give_up(now)

    def read(self, now: float, most: int = BATCH) -> Events[T]:
        """Return the events that have arrived, at most ``most`` datagrams of them."""
        events, is_empty = self._received(now, most)
        if is_empty and self._step is not None:
            # The kernel adds to a dump while it is read (netlink_recvmsg() in af_netlink.c).  So
            # this one has lost its end.
            self._give_up(now)
        elif is_empty and self._must_start():
            events += self._start(now) + self._received(now, most)[0]
        return events

    def _received(self, now: float, most: int) -> tuple[Events[T], bool]:
        """Return the events of at most ``most`` datagrams, and whether no more wait."""
        events: Events[T] = []
        for _ in range(most):
            try:
                datagram, sender = self._socket.recvfrom(DATAGRAM)
            except BlockingIOError:
                return events, True
            except OSError:  # ENOBUFS or ENOMEM: the kernel dropped a datagram
                self._overrun = self._again = True
                continue
            if sender[0] == 0:  # the port number of the kernel; others are processes
                events += self._decode(datagram, now)
        return events, False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _decode(self, datagram: bytes, now: float) -> Events[T]:
        try:
            messages = self._subject.decode(datagram)
        except rtnetlink.DecodeError:
            self.malformed += 1
            return []
        if _CONTROLS.isdisjoint(map(type, messages)):  # as a rule; a dump has thousands
            return messages  # type: ignore[return-value]
        return [event for message in messages for event in self._take(message, now)]

    def _take(self, message: T | ControlMessage, now: float) -> Events[T]:
        if isinstance(message, rtnetlink.DumpDone):
            if message.errno:  # the dump ended early; what it did not name may still exist
                failure = rtnetlink.RequestFailed(message.sequence, message.errno)
                return self._step_failed(failure, now)
            return self._step_done(message.sequence, now)
        if isinstance(message, rtnetlink.DumpInterrupted):
            self._interrupted = self._step is not None
            return []
        if isinstance(message, rtnetlink.RequestFailed):
            return self._step_failed(message, now)
        return [message]

    def _must_start(self) -> bool:
        """Return whether to start a dump as soon as no datagram waits to be read.

        Not before: datagrams that wait are older than the dump, and would be taken for a part of
        it.  Not during another dump: the kernel answers a second one with EBUSY.
        """
        return self._again and self._step is None

    def _start(self, now: float) -> Events[T]:
        started = DumpStarted(self._overrun)
        self._again = self._overrun = self._interrupted = False
        self._ask(0, now)
        return [started]

    def _ask(self, step: int, now: float) -> None:
        self._step = step
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        try:
            self._socket.send(self._subject.steps[step](self._sequence))
        except OSError:  # ENOBUFS or ENOMEM
            self._give_up(now)

    def _step_done(self, sequence: int, now: float) -> Events[T]:
        if self._step is None or sequence != self._sequence:
            return []
        if self._step + 1 < len(self._subject.steps):
            self._ask(self._step + 1, now)
            return []
        self._step = None
        if self._again:
            return []
        if self._interrupted:
            # While changes go on, they interrupt every dump.  What this one named is there, because
            # the live events are complete, so it counts; another dump finds what is gone.
            self._next_dump = min(self._next_dump, now + RETRY)
        return [DumpPartial() if self._interrupted else DumpComplete()]

    def _step_failed(self, failure: rtnetlink.RequestFailed, now: float) -> Events[T]:
        if failure.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return self._step_done(failure.sequence, now)  # this kernel has no IPv6
        if self._step is not None and failure.sequence == self._sequence:
            self._give_up(now)
        return []

    def _give_up(self, now: float) -> None:
        """Abandon the dump under way, and start another one after RETRY."""
        self._step = None
        self._again = False
        self._next_dump = min(self._next_dump, now + RETRY)
