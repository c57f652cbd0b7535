"""What a request asks of the engine, and the line that answers it.

Decides nothing about frames.  First the frames, then the reply: the loop lets the
engine act on :func:`event` before it asks for :func:`reply`.
"""

from __future__ import annotations

from garp_agent import __version__
from garp_agent.guest.core.model import BurstRequested, Cause, LeaseGranted
from garp_agent.runtime.log import address_text
from garp_agent.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.model import Event
    from garp_agent.wire.lines import Line


class RequestHandler:
    """One door's requests.  ``status`` gives the whole status, for doors that may ask for it."""

    def __init__(
        self,
        engine: Engine,
        commands: tuple[str, ...],
        cause: Cause,
        status: Callable[[float], dict[str, object]],
    ) -> None:
        self._engine = engine
        self._commands = commands
        self._cause = cause
        self._status = status
        self._known = protocol.Deduplicator()
        self.requests = 0
        self.errors = 0
        self.last_request: float | None = None  # seconds, monotonic

    def answer(self, line: Line, now: float, act: Callable[[Event], int]) -> bytes:
        """Do what ``line`` asks for and say what came of it.

        ``act`` hands an event to the engine, sends what follows at once, and returns the
        number of frames that went out.
        """
        try:
            request = protocol.parse(line, self._commands)
        except protocol.ProtocolError as error:
            self.errors += 1
            return protocol.encode_error(error)
        self.requests += 1
        self.last_request = now
        if isinstance(request, protocol.Burst):
            return self._burst(request, act)
        if isinstance(request, protocol.Lease):
            act(LeaseGranted(request.seconds))
            interval = self._engine.schedule.interval
            return protocol.encode_return(request.id, protocol.lease_value(request, interval))
        if isinstance(request, protocol.Sync):
            return protocol.encode_sync(request.id)
        if isinstance(request, protocol.Status):
            return protocol.encode_return(request.id, self._status(now))
        return protocol.encode_return(request.id, self._info(now))

    def _burst(self, request: protocol.Burst, act: Callable[[Event], int]) -> bytes:
        offsets = request.offsets(self._engine.settings.burst)
        seen = bool(request.boot) and self._known.seen(request.boot, request.sequence)
        frames = 0 if seen else act(BurstRequested(self._cause, offsets, request.reason))
        value = protocol.burst_value(request, offsets, frames, seen)
        return protocol.encode_return(request.id, value)

    def _info(self, now: float) -> dict[str, object]:
        counters = self._engine.counters
        return protocol.info_value(
            __version__,
            self._links(),
            {"sent": counters.sent, "dropped": sum(counters.dropped.values())},
            max(0.0, round(self._engine.lease_until - now, 3)) if self._engine.has_lease() else 0,
        )

    def _links(self) -> Iterator[protocol.LinkBrief]:
        for plan in self._engine.plans.values():
            if plan.targets:
                addresses = tuple(address_text(each) for each in plan.targets if each)
                mac = address_text(plan.link.hardware_address)
                yield protocol.LinkBrief(plan.link.name, mac, addresses)
