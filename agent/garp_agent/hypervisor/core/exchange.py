"""One conversation with one guest, without the wire: bytes out, bytes in, an outcome.

Decides when a guest has answered and what its silence means.  Pure: never opens a
socket, never reads a clock.  Only a reply with the id of a request is evidence of an
agent; what others left in the channel is passed over, within bounds.
"""

from __future__ import annotations

from enum import Enum

from garp_agent.wire.lines import REPLY_LIMIT, LineDecoder
from garp_agent.wire.protocol import ProtocolError, Reply, parse_reply
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Conversation(Protocol):
        """What :mod:`garp_agent.hypervisor.io.fanout` can carry out."""

        outgoing: bytes  # to be sent

        def received(self, data: bytes) -> Outcome | None:
            """Take in what came (b"" when the other end hung up); the outcome once there is one."""

        def expired(self) -> Outcome:
            """The outcome when time has run out."""


NOISE_LIMIT = 64 * 1024  # bytes read before what we wait for is given up as garbage


class Outcome(Enum):
    """What became of a conversation."""

    ANSWERED = "answered"
    REFUSED = "refused"  # by an agent, with an error
    BUSY = "busy"  # another client has the channel
    NO_AGENT = "no-agent"  # connected, and nobody replied in time
    GARBAGE = "garbage"  # replied, with something that is not our protocol
    HUNG_UP = "hung-up"  # closed before the reply
    GONE = "gone"  # nobody listens there
    FORBIDDEN = "forbidden"
    FAILED = "failed"  # another error of the system: see its number


class Call(NamedTuple):
    """Whom to talk to, and about what."""

    path: str  # of the socket
    conversation: Conversation
    kind: str = ""  # the caller's; comes back in the result
    number: int = 0  # likewise


class Result(NamedTuple):
    """How a call ended."""

    call: Call
    outcome: Outcome
    seconds: float  # from its start
    errno: int = 0


class Exchange:
    """Requests that go out together, and the replies to them."""

    __slots__ = ("_awaited", "_decoder", "_noise", "outgoing", "replies")

    def __init__(self, requests: Mapping[str, bytes]) -> None:
        """``requests``: lines by their ids."""
        self.outgoing = b"".join(requests.values())
        self.replies: dict[str, Reply] = {}
        self._awaited = set(requests)
        self._decoder = LineDecoder(REPLY_LIMIT)
        self._noise = 0

    def received(self, data: bytes) -> Outcome | None:
        """Take in what came; the outcome once every request is answered, or none can be."""
        if not data:
            return Outcome.HUNG_UP
        self._noise += len(data)
        for line in self._decoder.feed(data):
            if isinstance(line, bytes):
                self._take(line)
        if not self._awaited:
            refused = any(reply.error_class for reply in self.replies.values())
            return Outcome.REFUSED if refused else Outcome.ANSWERED
        return Outcome.GARBAGE if self._noise > NOISE_LIMIT else None

    def expired(self) -> Outcome:
        """The outcome when time has run out."""
        return Outcome.GARBAGE if self._noise else Outcome.NO_AGENT

    def _take(self, line: bytes) -> None:
        try:
            reply = parse_reply(line)
        except ProtocolError:
            return
        if isinstance(reply.id, str) and reply.id in self._awaited:
            self._awaited.remove(reply.id)
            self.replies[reply.id] = reply
            self._noise = 0
