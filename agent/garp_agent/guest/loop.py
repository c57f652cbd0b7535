"""The agent's loop: waits, reads the clock, and sends what the engine says.

Hands what happened to the engine, sends one frame at a time as the engine builds it, and hands
back the outcome of each.  Does not decide what to send or when, and does not read requests.

Sources: clock_gettime(2), socket(7), <linux/time.h>.
"""

from __future__ import annotations

import time

from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Resumed, Sent
from garp_agent.runtime.reactor import Reactor
from garp_agent.wire.model import LEVEL_WARNING
from garp_agent.wire.record import NamedTuple, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Union

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.model import EngineEvent, KernelChange
    from garp_agent.guest.io.packet import DryRun, PacketSender
    from garp_agent.runtime.log import Log
    from garp_agent.runtime.netlink import Netlink
    from garp_agent.runtime.reactor import Source

    Sender = Union[PacketSender, DryRun]

_CLOCK_BOOTTIME = 7  # <linux/time.h>; Python 3.6 does not name it
# Seconds that the boot-time clock must gain on the monotonic clock to count as a suspension.
SUSPENDED = 0.5
# Seconds after which other sources get their turn, if frames fall due faster than they are sent.
TURN = 0.1


class NextTurn(NamedTuple):
    """When ``after_turn`` is to be called again, if nothing is read before; seconds, monotonic."""

    wake_at: float  # the loop wakes up for it; ``math.inf``: it does not
    call_at: float  # the first turn from this moment on calls it; ``-math.inf``: every turn


class Loop:
    """Kernel, engine and sender, and the other sources that the daemon watches.

    ``after_turn`` is called with the time (seconds, monotonic) when everything that was due is
    sent, in turns that have read something.  It returns in which other turns it is to be called:
    an ordinary refresh does not touch what the daemon does between frames.
    When the engine has other addresses to announce or to listen for, ``listen`` is called at the
    end of the turn.  Before each frame until then, ``hear_all`` is called with the name of the
    frame's link and the frame's address.  That call costs the same for any number of addresses.
    """

    def __init__(
        self,
        engine: Engine,
        netlink: Netlink[KernelChange],
        sender: Sender,
        log: Log,
        after_turn: Callable[[float], NextTurn] = lambda now: NextTurn(inf, inf),
        listen: Callable[[], object] = lambda: None,
        hear_all: Callable[[str, bytes], object] = lambda link, address: None,
    ) -> None:
        self.engine = engine
        self._netlink = netlink
        self._sender = sender
        self._log = log
        self._after_turn = after_turn
        self._listen = listen
        self._hear_all = hear_all
        self._revision = engine.revision  # when ``listen`` was called last
        self._reactor = Reactor(self._repair)
        self._before_frames: set[int] = set()  # descriptors to poll before every frame
        self._next_frame_at = -inf  # the engine's deadline when frames were sent last
        self._suspended = _suspended(time.monotonic())
        self._stopping = False
        # The first source is read first: no request may announce what is no longer ours.
        self.watch(netlink, self._read_kernel)
        self.poll_before_frames(netlink)

    def poll_before_frames(self, source: Source) -> None:
        """Also poll ``source``, which is watched, before every frame."""
        self._before_frames.add(source.fileno())

    def watch(self, source: Source, handler: Callable[[float], object]) -> None:
        """Call ``handler`` with the time (seconds, monotonic) whenever ``source`` is readable."""
        self._reactor.watch(source, handler)

    def unwatch(self, source: Source) -> None:
        """Stop waiting for ``source``.  Call this before ``source`` is closed."""
        self._reactor.unwatch(source)
        self._before_frames.discard(source.fileno())

    def stop(self) -> None:
        """Make :meth:`run` return after this turn."""
        self._stopping = True

    def run(self) -> None:
        """Wait, read and send until stopped."""
        while not self._stopping:
            try:
                self._take_turns()
            except MemoryError:
                self._reactor.repair(time.monotonic())

    def _take_turns(self) -> None:
        turn = NextTurn(inf, -inf)
        wake_at = -inf
        while not self._stopping:
            ready = self._reactor.wait(wake_at, look_again=False)  # send_due() does
            now = time.monotonic()
            gained = _suspended(now) - self._suspended
            if gained >= SUSPENDED:
                self.engine.handle(Resumed(gained), now)
            self._suspended += gained
            must_call = bool(ready) or now >= turn.call_at
            if ready:
                self._reactor.call(ready, now)
            if now >= self._netlink.deadline():
                self._hand_over(self._netlink.reconcile(now), now)
                must_call = True
            self.send_due()
            if self.engine.revision != self._revision:
                self._revision = self.engine.revision
                self._listen()
            if must_call:
                turn = self._after_turn(now)
                self._next_frame_at = self.engine.deadline()
            wake_at = min(turn.wake_at, self._next_frame_at, self._netlink.deadline())
            if self.engine.notices.kept:
                self._write_notices()

    def _repair(self, now: float, is_news: bool) -> None:
        """Treat a lack of memory as an overrun: what was being done is lost, and read anew."""
        self.engine.is_damaged = True  # first: this needs no memory
        self._netlink.lose(now)
        if is_news:
            self._log.say(LEVEL_WARNING, "out-of-memory", action="reading everything anew")

    def act(self, event: EngineEvent, now: float) -> int:
        """Let the engine act on one event at once; return the number of frames sent."""
        try:
            self.engine.handle(event, now)
            return self.send_due()
        except MemoryError:  # the caller refuses the request, and goes on
            self._reactor.repair(now)
            raise

    def send_due(self) -> int:
        """Send what is due; return the number of frames that were sent.

        Before each frame, read what the kernel and other stations have said: this process can
        be stopped between two frames, and an address can be gone by then.
        """
        now = time.monotonic()
        end = now + TURN
        before = self.engine.counters.sent
        while True:
            self._next_frame_at = self.engine.deadline()
            if not self._next_frame_at <= now <= end:
                break
            ready = self._reactor.look()
            if ready:
                self._reactor.call(ready & self._before_frames, now)
            frame = self.engine.next_frame(now)
            if frame is None:
                self._next_frame_at = self.engine.deadline()
                break
            name = self.engine.inventory.links[frame.ifindex].name
            if self.engine.revision != self._revision:
                self._hear_all(name, frame.address)
            outcome, errno = self._sender.send(frame.ifindex, name, encode(frame))
            now = time.monotonic()  # frames of many links leave later than the turn began
            self.engine.handle(Sent(frame, outcome, errno), now)
        return self.engine.counters.sent - before

    def close(self) -> None:
        """Write the last notices and close the sockets that the loop was given."""
        self._write_notices()
        self._reactor.close()
        self._netlink.close()
        self._sender.close()

    def _read_kernel(self, now: float) -> None:
        self._hand_over(self._netlink.read(now), now)

    def _hand_over(self, events: Sequence[EngineEvent], now: float) -> None:
        for event in events:
            self.engine.handle(event, now)

    def _write_notices(self) -> None:
        for notice in self.engine.notices.take():
            self._log.write(notice)


def _suspended(now: float) -> float:
    """Return the seconds for which this machine has been suspended since it booted.

    ``now``: seconds of CLOCK_MONOTONIC, which stops during a suspension; CLOCK_BOOTTIME does
    not (clock_gettime(2)).
    """
    return time.clock_gettime(_CLOCK_BOOTTIME) - now
