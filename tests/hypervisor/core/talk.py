"""A watcher, and agents that answer it; the guest's own parser reads every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher
from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder
from garp_agent.wire.protocol import Burst, Lease

if TYPE_CHECKING:
    from garp_agent.wire.protocol import Request

A, B, C = (Channel(name, f"/run/{name}") for name in "abc")
WALL = 1_700_000_000.0


def requests(call: Call) -> list[Request]:
    """Return what the guest reads."""
    return [protocol.parse(line) for line in LineDecoder().feed(call.exchange.outgoing)]


def asked(calls: list[Call]) -> dict[str, list[object]]:
    """Return the requests by guest, without their ids."""
    return {call.path[-1]: [each._replace(id=None) for each in requests(call)] for call in calls}


class Talk:
    """A watcher that has found guests at 0 s."""

    def __init__(
        self, *channels: Channel, options: HintOptions | None = None, promise: bool = True
    ) -> None:
        self.watcher = Watcher(options or HintOptions(), "boot", lambda: 1.0)
        self.watcher.promise(promise, 0.0)
        self.watcher.found(channels, 0.0)
        # What the agents say; `seconds` None: as asked.
        self.version: object = "0.1.0"
        self.seconds: object = None
        self.frames: object = 2

    def answer(self, calls: list[Call], now: float) -> list[Call]:
        """Let agents answer; return the calls that follow."""
        follow = []
        for call in calls:
            for request in requests(call):
                line = protocol.encode_return(request.id, self._value(request))
                outcome = call.exchange.received(line)
            assert outcome is Outcome.ANSWERED
            follow += self.watcher.finished(Result(call, outcome, 0.001), now)
        return follow

    def _value(self, request: Request) -> dict[str, object]:
        if isinstance(request, Lease):
            return {"seconds": request.seconds if self.seconds is None else self.seconds}
        return {"frames": self.frames} if isinstance(request, Burst) else {"version": self.version}

    def fail(
        self, calls: list[Call], now: float, outcome: Outcome = Outcome.NO_AGENT
    ) -> list[Call]:
        """End calls without a reply; return the calls that follow."""
        results = [Result(call, outcome, 1.0) for call in calls]
        return [call for result in results for call in self.watcher.finished(result, now)]

    def meet(self, now: float = 0.0) -> Talk:
        """Let agents answer all that is asked at that moment: info, then a lease."""
        while calls := self.watcher.advance(now):
            self.answer(calls, now)
        self.watcher.take_notices()
        return self

    def failover(self, now: float, link: str = "bond0", reason: str = "r") -> list[Call]:
        return self.watcher.failover(link, reason, now, WALL)

    def guest(self, name: str, now: float = 0.0) -> dict[str, object]:
        guests = self.watcher.status(now)["guests"]
        assert isinstance(guests, list)
        [found] = [guest for guest in guests if guest["guest"] == name]
        assert isinstance(found, dict)
        return found

    def history(self) -> list[dict[str, object]]:
        history = self.watcher.status(0.0)["history"]
        assert isinstance(history, list)
        return history

    def notices(self) -> list[tuple[int, str, dict[str, object]]]:
        return [(each.level, each.event, dict(each.fields)) for each in self.watcher.take_notices()]
