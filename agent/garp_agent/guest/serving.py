"""Serves requests: reads them from the control socket or the hint port, answers, replies.

Does not know what a request means (guest.requests) or how its bytes come (the endpoints).
"""

from __future__ import annotations

from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.model import Cause
    from garp_agent.guest.loop import Loop
    from garp_agent.guest.requests import RequestHandler
    from garp_agent.wire.lines import Line

    class Endpoint(Protocol):
        """Where lines come in: a ControlSocket or a HintPort."""

        @property
        def reply_limit(self) -> float: ...  # bytes
        def fileno(self) -> int: ...
        def attempt_at(self) -> float: ...
        def attempt(self, now: float) -> None: ...
        def read(self, now: float) -> Iterable[tuple[int, Line]]: ...
        def reply(self, client: int, data: bytes) -> None: ...
        def close(self) -> None: ...


class Service:
    """One endpoint at a time, and the handler that answers its requests.

    ``cause``: of the bursts that are requested here; it also says which commands are allowed.
    ``status``: returns the daemon's status as plain values, given the time.
    """

    def __init__(
        self,
        engine: Engine,
        loop: Loop,
        cause: Cause,
        status: Callable[[float], dict[str, object]],
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._cause = cause
        self._status = status
        self._endpoint: Endpoint | None = None
        self.handler: RequestHandler | None = None  # None: not loaded yet

    def load(self) -> RequestHandler:
        """Return the handler; the first call loads the code.

        The code includes json, which takes 0.5 MB and about 15 ms.  The first frames do not wait
        for it: the daemon loads it after they are sent, or here if a client is faster.
        """
        if self.handler is None:
            from garp_agent.guest.requests import RequestHandler

            self.handler = RequestHandler(self._engine, self._cause, self._status)
        return self.handler

    def open(self, endpoint: Endpoint) -> None:
        """Serve ``endpoint`` from now on.  Close the one before first."""
        self._endpoint = endpoint
        self._loop.watch(endpoint, self._read)

    def attempt(self, now: float) -> None:
        """Let the endpoint try again what failed before."""
        if self._endpoint is not None:
            self._endpoint.attempt(now)

    def attempt_at(self) -> float:
        """Return from when on :meth:`attempt` has something to do; ``math.inf``: nothing failed."""
        return inf if self._endpoint is None else self._endpoint.attempt_at()

    def close(self) -> None:
        """Close the endpoint, if there is one."""
        if self._endpoint is not None:
            self._loop.unwatch(self._endpoint)
            self._endpoint.close()
            self._endpoint = None

    def _read(self, now: float) -> None:
        assert self._endpoint is not None
        handler = self.load()
        for client, line in self._endpoint.read(now):
            limit = self._endpoint.reply_limit
            answer = handler.answer(line, now, lambda event: self._loop.act(event, now), limit)
            self._endpoint.reply(client, answer)
