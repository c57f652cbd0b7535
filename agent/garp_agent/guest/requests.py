"""What a request makes the engine do, and the line that answers it.

Does not decide about frames.  The frames of a burst go out before the reply is built, so that the
reply can say how many there were.
"""

from __future__ import annotations

from garp_agent import __version__
from garp_agent.guest.core.model import BurstRequested, Cause, LeaseGranted
from garp_agent.runtime.log import address_text
from garp_agent.wire import protocol
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.model import EngineEvent
    from garp_agent.wire.lines import Line

# Only the host can promise hints; only the operator may see everything.
COMMANDS = {
    Cause.HINT: protocol.PORT_COMMANDS,
    Cause.OPERATOR: protocol.CONTROL_COMMANDS,
}


class RequestHandler:
    """Answers the requests that come in one way.

    ``cause``: of the bursts that are requested; HINT for the host, OPERATOR for local clients.
    ``status``: returns the daemon's status as plain values, given the time.
    """

    def __init__(
        self, engine: Engine, cause: Cause, status: Callable[[float], dict[str, object]]
    ) -> None:
        self._engine = engine
        self._cause = cause
        self._status = status
        self._known = Deduplicator()
        self.requests = 0  # lines that were requests
        self.errors = 0  # lines that were not
        self.last_request: float | None = None  # the time, seconds

    def answer(
        self, line: Line, now: float, act: Callable[[EngineEvent], int], limit: float = inf
    ) -> bytes:
        """Do what ``line`` asks for, and return the reply line.

        ``act`` hands an event to the engine, sends what is due, and returns how many frames were
        sent.  ``limit``: the bytes that the reply may have.
        """
        try:
            reply = self._answer(line, now, act)
            if len(reply) > limit:
                reply = self._shorter(line, now, limit)
            return reply
        except MemoryError:  # the status of thousands of addresses takes megabytes
            return protocol.OUT_OF_MEMORY

    def _answer(self, line: Line, now: float, act: Callable[[EngineEvent], int]) -> bytes:
        try:
            request = protocol.parse(line, COMMANDS[self._cause])
        except protocol.ProtocolError as error:
            self.errors += 1
            return protocol.encode_error(error)
        self.requests += 1
        self.last_request = now
        if isinstance(request, protocol.Sync):
            return protocol.encode_sync(request.id)
        return protocol.encode_return(request.id, self._value(request, now, act))

    def _shorter(self, line: Line, now: float, limit: float) -> bytes:
        """Return an info reply with fewer addresses; for anything else, that it is too long."""
        try:
            request = protocol.parse(line, COMMANDS[self._cause])
        except protocol.ProtocolError:
            return protocol.TOO_LONG
        if isinstance(request, protocol.Info):
            for most in (8, 4, 2, 1, 0):
                reply = protocol.encode_return(request.id, self._info(now, most))
                if len(reply) <= limit:
                    return reply
        return protocol.TOO_LONG

    def _value(
        self, request: protocol.Request, now: float, act: Callable[[EngineEvent], int]
    ) -> dict[str, object]:
        if isinstance(request, protocol.Burst):
            return self._burst(request, act)
        if isinstance(request, protocol.Lease):
            act(LeaseGranted(request.seconds))
            return protocol.lease_value(request, self._engine.schedule.interval)
        if isinstance(request, protocol.Status):
            return self._status(now)
        return self._info(now)

    def _burst(
        self, request: protocol.Burst, act: Callable[[EngineEvent], int]
    ) -> dict[str, object]:
        offsets = request.offsets(self._engine.settings.burst)
        seen = bool(request.boot) and self._known.seen(request.boot, request.sequence)
        # A numbered hint says that the network of the host has changed, or that the watcher has
        # just started: no promise that was made before holds any longer.
        ends_lease = bool(request.boot) and self._cause is Cause.HINT
        event = BurstRequested(self._cause, offsets, request.reason, ends_lease)
        frames = 0 if seen else act(event)
        return protocol.burst_value(request, offsets, frames, seen)

    def _info(self, now: float, addresses: int = protocol.INFO_ADDRESSES) -> dict[str, object]:
        counters = self._engine.counters
        return protocol.info_value(
            __version__,
            self._links(),
            {"sent": counters.sent, "dropped": sum(counters.dropped.values())},
            round(self._engine.lease.remaining(now) or 0.0, 3),
            round(self._engine.settings.longest_interval, 3),
            addresses,
        )

    def _links(self) -> Iterator[protocol.LinkBrief]:
        """Return the announced links; first one of each hardware address, because few fit."""
        plans = [plan for plan in self._engine.plans.values() if plan.targets]
        first = {plan.link.hardware_address: plan for plan in reversed(plans)}
        for plan in sorted(plans, key=lambda each: first[each.link.hardware_address] is not each):
            addresses = tuple(address_text(each) for each in plan.targets if each)
            mac = address_text(plan.link.hardware_address)
            yield protocol.LinkBrief(plan.link.name, mac, addresses)


class Deduplicator:
    """Remembers which numbered hints were seen.

    A host numbers its hints within one ``boot`` (any name for one run of the host's program).
    For each boot this keeps the highest number, and which of the ``window`` numbers below it were
    seen; older numbers count as seen.  It keeps the latest ``boots`` boots.
    """

    __slots__ = ("_boots", "_known", "_window")

    def __init__(self, boots: int = 8, window: int = 64) -> None:
        self._boots = boots
        self._window = window
        self._known: dict[str, tuple[int, int]] = {}  # highest number; bit n: highest - n was seen

    def seen(self, boot: str, sequence: int) -> bool:
        """Return whether this hint was seen before; remember it."""
        highest, bits = self._known.pop(boot, (sequence, 0))
        if sequence > highest:
            shift = min(sequence - highest, self._window)
            highest, bits = sequence, bits << shift & (1 << self._window) - 1
        age = highest - sequence
        known = age >= self._window or bool(bits >> age & 1)
        if not known:
            bits |= 1 << age
        self._known[boot] = (highest, bits)
        if len(self._known) > self._boots:
            del self._known[next(iter(self._known))]
        return known
