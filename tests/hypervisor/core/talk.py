"""A watcher, and agents that answer it; the guest's own parser reads every request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from garp_agent.hypervisor.core.bonds import FollowedLink
from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.core.guests import FIRST_REASON, Channel
from garp_agent.hypervisor.core.lease_paths import behind_every_link
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher
from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.lease_paths import PathOf

A, B, C = (Channel(name, f"/run/{name}") for name in "abc")
WALL = 1_700_000_000.0
BOND0, BOND1 = (
    FollowedLink(name, "bond", "active-backup", True, (f"{name}-a",)) for name in ("bond0", "bond1")
)
REVOKE = protocol.Lease(None, 0.0)


def first(number: int, delay: float = 0.0) -> list[Any]:
    """Return the requests of the first contact with a guest."""
    hint = protocol.Burst(None, FIRST_REASON, None, None, delay, "boot", number)
    return [hint, REVOKE, protocol.Info()]


def requests(call: Call) -> list[Any]:
    """Return what the guest reads."""
    return [protocol.parse(line) for line in LineDecoder().feed(call.exchange.outgoing)]


def asked(calls: list[Call]) -> dict[str, list[Any]]:
    """Return the requests by guest, without their ids."""
    return {call.path[-1]: [each._replace(id=None) for each in requests(call)] for call in calls}


class Talk:
    """A watcher that has found guests at 0 s.  Its links have not changed for a minute then."""

    def __init__(
        self,
        *channels: Channel,
        options: HintOptions | None = None,
        links: tuple[FollowedLink, ...] = (BOND0, BOND1),
        path_of: PathOf = behind_every_link,
        boot: str = "boot",
    ) -> None:
        self.random = 1.0
        self.version: object = "0.1.0"  # what the agents say
        self.seconds: object = None  # None: as asked
        self.frames: object = 2
        self.longest_interval: object = None  # what the agents say
        self.info: dict[str, object] = {}  # the links that each guest names, by path
        self.watcher = Watcher(
            options or HintOptions(lease=90.0), boot, lambda: self.random, path_of
        )
        self.watcher.follow(links, -60.0)
        self.watcher.found(channels, 0.0)

    def answer(self, calls: list[Call], now: float) -> list[Call]:
        """Let agents answer; return the calls that follow."""
        follow = []
        for call in calls:
            for request in requests(call):
                outcome = call.exchange.received(self._reply(request, call.path))
            assert outcome is Outcome.ANSWERED
            follow += self.watcher.finished(Result(call, outcome, 0.001), now)
        return follow

    def _reply(self, request: Any, path: str) -> bytes:
        value = {"version": self.version, "links": self.info.get(path)}
        value["longest_interval"] = self.longest_interval
        if isinstance(request, protocol.Lease):
            value = {"seconds": request.seconds if self.seconds is None else self.seconds}
        elif isinstance(request, protocol.Burst):
            value = {"frames": self.frames}
        return protocol.encode_return(request.id, value)

    def fail(
        self, calls: list[Call], now: float, outcome: Outcome = Outcome.NO_AGENT
    ) -> list[Call]:
        """End calls without a reply; return the calls that follow."""
        results = [Result(call, outcome, 1.0) for call in calls]
        return [call for result in results for call in self.watcher.finished(result, now)]

    def refuse(self, call: Call, now: float) -> None:
        """Let an agent answer a call with errors."""
        for request in requests(call):
            error = protocol.ProtocolError(protocol.ErrorClass.FAILED, "no", request.id)
            outcome = call.exchange.received(protocol.encode_error(error))
        assert outcome is Outcome.REFUSED
        assert self.watcher.finished(Result(call, outcome, 0.001), now) == []

    def turn(self, now: float, outcome: Outcome = Outcome.ANSWERED) -> dict[str, list[Any]]:
        """Let the calls that are due end so; return what they ask."""
        calls = self.watcher.advance(now)
        answered = outcome is Outcome.ANSWERED
        follow = self.answer(calls, now) if answered else self.fail(calls, now, outcome)
        assert follow == []
        return asked(calls)

    def run(self, until: float) -> list[tuple[float, dict[str, list[Any]]]]:
        """Let agents answer all calls that are due up to a time; return when they were asked."""
        turns = []
        while self.watcher.deadline() <= until:
            now = self.watcher.deadline()
            asks = self.turn(now)
            turns += [(now, asks)] if asks else []
        return turns

    def meet(self, now: float = 0.0) -> Talk:
        """Let agents answer all that is asked at that moment: a hint and info, then a lease."""
        while self.turn(now):
            pass
        self.watcher.take_notices()
        return self

    def failover(self, now: float, link: str = "bond0", reason: str = "r") -> list[Call]:
        return self.watcher.failover(link, reason, frozenset({link}), now, WALL)

    def guest(self, name: str, now: float = 0.0) -> dict[str, Any]:
        guests: Any = self.watcher.status(now)["guests"]
        return {guest["guest"]: guest for guest in guests}[name]

    def history(self) -> list[dict[str, Any]]:
        history: Any = self.watcher.status(0.0)["history"]
        return list(history)

    def notices(self) -> list[tuple[int, str, dict[str, Any]]]:
        return [(each.level, each.event, dict(each.fields)) for each in self.watcher.take_notices()]
