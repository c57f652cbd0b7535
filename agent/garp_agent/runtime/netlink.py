"""What the kernel tells: one rtnetlink socket for events and dumps (rtnetlink(7)).

Decides only how to keep the stream whole: after an overrun (ENOBUFS), or a dump that
the kernel says was interrupted, everything is asked for anew.  Never decides what an
event means.
"""

from __future__ import annotations

import errno
import socket
from math import inf

from garp_agent.wire import rtnetlink
from garp_agent.wire.model import DumpComplete, DumpStarted
from garp_agent.wire.record import Generic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, Union

    from garp_agent.wire.rtnetlink import ControlMessage, Subject

    Event = TypeVar("Event")
    Events = list[Union[Event, DumpStarted, DumpComplete]]
else:
    Event = None

RECEIVE_BUFFER = 1 << 20  # bytes asked for; the kernel caps it at net.core.rmem_max
DATAGRAM = 1 << 16  # bytes; the kernel's own limit for a dump's datagram is half of that
# Datagrams read before the loop gets its turn again.  More than the buffer holds (the kernel
# counts 768 bytes or more for each): all that happened before a frame is known before it.
BATCH = 4096
RETRY = 1.0  # seconds until a dump that the kernel refused is asked for again


class Netlink(Generic[Event]):
    """A stream of events that begins with everything there is."""

    def __init__(self, reconcile_interval: float, subject: Subject[Event]) -> None:
        self._subject = subject
        self.reconcile_interval = reconcile_interval  # seconds between dumps, whatever happens
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind((0, sum(1 << (group - 1) for group in subject.groups)))
        self.malformed = 0  # datagrams that could not be decoded
        self._sequence = 0
        self._step: int | None = None  # of the dump under way
        self._again = False  # something was lost: a dump is wanted, after the one under way
        self._overrun = False
        self._next_dump = -inf

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._socket.fileno()

    def deadline(self) -> float:
        """When to call :meth:`reconcile` at the latest."""
        return -inf if self._must_start() else self._next_dump

    def reconcile(self, now: float) -> Events[Event]:
        """Ask for everything anew if it is time to."""
        if now < self._next_dump:
            return self.read(now) if self._must_start() else []
        self._next_dump = now + self.reconcile_interval
        return self._start(now)

    def read(self, now: float) -> Events[Event]:
        """The events that have arrived, a bounded batch of them."""
        events: Events[Event] = []
        for _ in range(BATCH):
            try:
                datagram, sender = self._socket.recvfrom(DATAGRAM)
            except BlockingIOError:
                if not self._must_start():
                    break
                events += self._start(now)
                continue
            except OSError:  # ENOBUFS, or no memory for a copy: something was lost
                self._overrun = self._again = True
                continue
            if sender[0] == 0:  # from the kernel, not from another process
                events += self._decode(datagram, now)
        return events

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _decode(self, datagram: bytes, now: float) -> Events[Event]:
        try:
            messages = self._subject.decode(datagram)
        except rtnetlink.DecodeError:
            self.malformed += 1
            return []
        return [event for message in messages for event in self._take(message, now)]

    def _take(self, message: Event | ControlMessage, now: float) -> Events[Event]:
        if isinstance(message, rtnetlink.DumpDone):
            if message.errno:  # it ended early: what it did not name may well be there
                failure = rtnetlink.RequestFailed(message.sequence, message.errno)
                return self._step_failed(failure, now)
            return self._step_done(message.sequence, now)
        if isinstance(message, rtnetlink.DumpInterrupted):
            self._again = True
            return []
        if isinstance(message, rtnetlink.RequestFailed):
            return self._step_failed(message, now)
        return [message]

    def _must_start(self) -> bool:
        """Whether a dump is wanted and may be asked for as soon as nothing waits to be read.

        What waits is older than the dump, and what undid it may be lost: read after the
        dump's start it would pass for a part of it.  And one dump at a time: the kernel
        answers EBUSY to a second.
        """
        return self._again and self._step is None

    def _start(self, now: float) -> Events[Event]:
        started = DumpStarted(self._overrun)
        self._again = self._overrun = False
        self._ask(0, now)
        return [started]

    def _ask(self, step: int, now: float) -> None:
        self._step = step
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        try:
            self._socket.send(self._subject.steps[step](self._sequence))
        except OSError:  # ENOBUFS, ENOMEM: it may be asked for again
            self._give_up(now)

    def _step_done(self, sequence: int, now: float) -> Events[Event]:
        if self._step is None or sequence != self._sequence:
            return []
        if self._step + 1 < len(self._subject.steps):
            self._ask(self._step + 1, now)
            return []
        self._step = None
        return [] if self._again else [DumpComplete()]

    def _step_failed(self, failure: rtnetlink.RequestFailed, now: float) -> Events[Event]:
        if failure.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return self._step_done(failure.sequence, now)  # no IPv6 in this kernel
        if self._step is not None and failure.sequence == self._sequence:
            self._give_up(now)
        return []

    def _give_up(self, now: float) -> None:
        """This dump comes to nothing; another one shortly."""
        self._step = None
        self._again = False
        self._next_dump = min(self._next_dump, now + RETRY)
