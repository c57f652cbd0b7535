"""The agent's one loop: the only ``while``, the only reader of the clock.

Decides nothing: it waits, hands what happened to the engine, sends what the engine
says, and hands back what became of it.
"""

from __future__ import annotations

import select
import time
from math import inf

from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Resumed, Sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, Union

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.kernel import Observation
    from garp_agent.guest.core.model import Event
    from garp_agent.guest.io.packet import DryRun, PacketSender
    from garp_agent.runtime.log import Log
    from garp_agent.runtime.netlink import Netlink

    Sender = Union[PacketSender, DryRun]

    class Watched(Protocol):
        """Something to wait on."""

        def fileno(self) -> int: ...


SUSPENDED = 0.5  # seconds by which the boot-time clock must have gained on the monotonic one


class Loop:
    """Kernel, engine and sender, and whatever else is watched.

    ``after_turn`` is called with the time once everything that was due is sent, and
    returns when it wants to be called again at the latest.
    """

    def __init__(
        self,
        engine: Engine,
        netlink: Netlink[Observation],
        sender: Sender,
        log: Log,
        after_turn: Callable[[float], float] = lambda now: inf,
    ) -> None:
        self.engine = engine
        self._netlink = netlink
        self._sender = sender
        self._log = log
        self._after_turn = after_turn
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[float], object]] = {}
        self._decisive: dict[int, Callable[[float], bool]] = {}  # heard before each frame
        self._suspended = _suspended(time.monotonic())
        self._stopping = False
        self.watch(netlink, self._read_kernel)
        self.hear_before_sending(netlink, self._read_kernel)

    def hear_before_sending(self, source: Watched, reader: Callable[[float], bool]) -> None:
        """Call ``reader`` before a frame, too, if ``source`` can be read; did it hear anything?"""
        self._decisive[source.fileno()] = reader

    def watch(self, source: Watched, handler: Callable[[float], object]) -> None:
        """Call ``handler`` with the time whenever ``source`` can be read."""
        self._handlers[source.fileno()] = handler
        self._epoll.register(source.fileno(), select.EPOLLIN)

    def unwatch(self, source: Watched) -> None:
        """Stop waiting for ``source``; to be called before it is closed."""
        self._epoll.unregister(source.fileno())
        del self._handlers[source.fileno()]

    def stop(self) -> None:
        """End :meth:`run` after this turn."""
        self._stopping = True

    def run(self) -> None:
        """Turn until stopped."""
        wake_at = -inf
        while not self._stopping:
            # A process that was stopped and goes on (EINTR) may be told of a time-out only: look.
            ready = self._epoll.poll(_timeout(wake_at)) or self._epoll.poll(0)
            now = time.monotonic()
            self._note_suspension(now)
            # The kernel first: nobody's request may announce what is no longer ours.
            if len(ready) > 1:
                ready.sort(key=lambda each: each[0] != self._netlink.fileno())
            for descriptor, _ in ready:
                handler = self._handlers.get(descriptor)
                if handler is not None:  # an earlier handler may have closed it
                    handler(now)
            if now >= self._netlink.deadline():
                self._hand_over(self._netlink.reconcile(now), now)
            self.send_due()
            wake_at = min(self._after_turn(now), self.engine.deadline(), self._netlink.deadline())
            self._write_notices()

    def act(self, event: Event, now: float) -> int:
        """Let the engine act on one event at once; the number of frames that went out."""
        self.engine.handle(event, now)
        return self.send_due()

    def send_due(self) -> int:
        """Send what is due; the number of frames that went out.

        What the kernel and other claimants have said by then is heard before each frame: a
        turn may be long, or interrupted for as long as somebody likes.
        """
        now = time.monotonic()
        if self.engine.deadline() > now:
            return 0
        self._hear(now)
        before = self.engine.counters.sent
        for index, frame in enumerate(self.engine.advance(now)):
            if index and self._hear(now) and not self.engine.holds(frame, now):
                continue
            name = self.engine.inventory.links[frame.ifindex].name
            outcome, number = self._sender.send(frame.ifindex, name, encode(frame))
            self.engine.handle(Sent(frame, outcome, number), now)
        return self.engine.counters.sent - before

    def close(self) -> None:
        """Close what the loop was given to send and listen with."""
        self._write_notices()
        self._epoll.close()
        self._netlink.close()
        self._sender.close()

    def _hear(self, now: float) -> bool:
        heard = False
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._decisive:
                heard |= self._decisive[descriptor](now)
        return heard

    def _read_kernel(self, now: float) -> bool:
        """Whether the kernel said anything."""
        return self._hand_over(self._netlink.read(now), now)

    def _hand_over(self, events: Sequence[Event], now: float) -> bool:
        for event in events:
            self.engine.handle(event, now)
        return bool(events)

    def _note_suspension(self, now: float) -> None:
        gained = _suspended(now) - self._suspended
        self._suspended += gained
        if gained >= SUSPENDED:
            self.engine.handle(Resumed(gained), now)

    def _write_notices(self) -> None:
        for notice in self.engine.take_notices():
            self._log.write(notice)


def _suspended(now: float) -> float:
    """Seconds that this machine has been suspended since it booted (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - now


def _timeout(wake_at: float) -> float | None:
    if wake_at == inf:
        return None
    return max(0.0, wake_at - time.monotonic())
