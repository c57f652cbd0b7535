"""One exchange with one peer, without the socket: bytes out, bytes in, an outcome.

Decides when the peer has answered and what its silence means.  Does not open a socket and does
not read a clock.  Only a reply with the id of one of the requests counts: a socket accepts bytes
also when no agent runs in the guest.  Replies to earlier clients can still be in the channel;
they are skipped, up to a limit.

Format: docs/protocol.md.
"""

from __future__ import annotations

from garp_agent.wire.lines import REPLY_LIMIT, LineDecoder
from garp_agent.wire.protocol import ProtocolError, Reply, parse_reply
from garp_agent.wire.record import Enum, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NOISE_LIMIT = 64 * 1024  # bytes without an expected reply, after which the peer is no agent


class Outcome(Enum):
    """How an exchange ended."""

    ANSWERED = "answered"
    REFUSED = "refused"  # an agent answered with an error
    BUSY = "busy"  # another client uses the channel
    NO_AGENT = "no-agent"  # connected, and no reply in time
    GARBAGE = "garbage"  # replies that are not of our protocol
    HUNG_UP = "hung-up"  # the connection was closed before the reply
    GONE = "gone"  # no process listens on the socket
    FORBIDDEN = "forbidden"  # connecting is not permitted
    FAILED = "failed"  # another system error; Result.errno has its number


REPLIED = (Outcome.ANSWERED, Outcome.REFUSED)  # an agent replied to all requests


class Exchange:
    """Requests that are sent together, and the replies to them."""

    __slots__ = ("_decoder", "_ids", "_noise", "outgoing", "replies")

    def __init__(self, requests: Mapping[str, bytes], joined: bytes = b"") -> None:
        """``requests``: lines by their ids.

        ``joined``: all lines, if the caller has them in one piece.
        """
        self.outgoing = joined or b"".join(requests.values())  # not sent yet
        self.replies: dict[str, Reply] = {}  # by id
        self._ids = tuple(requests)  # without the lines: they need most of the memory
        self._decoder: LineDecoder | None = None  # not before a reply: no hint waits for it
        self._noise = 0  # bytes since the last expected reply

    def received(self, data: bytes) -> Outcome | None:
        """Take in ``data``, b"" if the peer hung up; return the outcome once there is one."""
        if not data:
            return Outcome.HUNG_UP
        if self._decoder is None:
            self._decoder = LineDecoder(REPLY_LIMIT)
        self._noise += len(data)
        for line in self._decoder.feed(data):
            if isinstance(line, bytes):
                self._take(line)
        if len(self.replies) == len(self._ids):
            refused = any(reply.error_class for reply in self.replies.values())
            return Outcome.REFUSED if refused else Outcome.ANSWERED
        return Outcome.GARBAGE if self._noise > NOISE_LIMIT else None

    def expired(self) -> Outcome:
        """Return the outcome when the time is over."""
        return Outcome.GARBAGE if self._noise else Outcome.NO_AGENT

    def _take(self, line: bytes) -> None:
        try:
            reply = parse_reply(line)
        except ProtocolError:
            return
        id = reply.id
        if isinstance(id, str) and id in self._ids and id not in self.replies:
            self.replies[id] = reply
            self._noise = 0


class Call(NamedTuple):
    """An exchange to carry out on one socket."""

    path: str  # of the socket
    exchange: Exchange
    kind: str = ""  # for the caller, which finds it in the result
    number: int = 0  # likewise


class Result(NamedTuple):
    """How a call ended."""

    call: Call
    outcome: Outcome
    seconds: float  # since the call was started
    errno: int = 0
