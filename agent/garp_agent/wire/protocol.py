"""The hint protocol: lines to requests, replies to lines, and back (docs/protocol.md).

Decides what a line means, which arguments are allowed, and to which ranges they are clamped.
Never acts on a request.  The hint port, both control sockets and the watcher use it.

The form is that of QMP and the QEMU guest agent: one JSON object a line with ``execute``,
``arguments`` and ``id``, and 0xFF for "discard what came before".
"""

from __future__ import annotations

from garp_agent.wire import strict_json
from garp_agent.wire.arguments import Arguments, brief
from garp_agent.wire.bounds import BURST_ROUNDS, Bound
from garp_agent.wire.lines import DELIMITER, Overlong
from garp_agent.wire.record import Enum, NamedTuple
from garp_agent.wire.strict_json import INTEGER_MOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Union

    from garp_agent.wire.lines import Line

    Scalar = Union[None, bool, int, float, str]

VERSION = 1

BURST_COUNT = BURST_ROUNDS
BURST_INTERVAL = Bound(0.05, 10.0)
BURST_INTERVAL_DEFAULT = 0.1  # seconds, if only a count is given
BURST_DELAY = Bound(0.0, 60.0)
LEASE_SECONDS = Bound(0.0, 3600.0)
REASON_LIMIT = 128  # characters; the rest is cut off
TEXT_LIMIT = 128  # characters of an id or a boot; more is an error
DESCRIPTION_LIMIT = 512  # characters; the rest is cut off
INFO_ADDRESSES = 32  # addresses in an info reply at most, and links at most

PORT_COMMANDS = ("burst", "info", "lease", "sync")
CONTROL_COMMANDS = ("burst", "info", "status", "sync")


class ErrorClass(Enum):
    """The kind of an error, for programs; its description is for people."""

    LINE_TOO_LONG = "LineTooLong"
    INVALID_JSON = "InvalidJSON"
    INVALID_REQUEST = "InvalidRequest"
    COMMAND_NOT_FOUND = "CommandNotFound"
    INVALID_ARGUMENT = "InvalidArgument"
    FAILED = "Failed"  # understood, but could not be done


class ProtocolError(Exception):
    """A line that is not a request or not a reply, or a request that could not be done."""

    def __init__(self, error_class: ErrorClass, description: str, id: Scalar = None) -> None:
        super().__init__(description)
        self.error_class = error_class
        self.description = description[:DESCRIPTION_LIMIT]
        self.id = id


# -- requests ---------------------------------------------------------------------------


class Burst(NamedTuple):
    """Announce all addresses, in rounds."""

    id: Scalar = None
    reason: str = ""  # printable
    rounds: int | None = None  # "count" in the request; None: as configured
    interval: float | None = None  # seconds between rounds; None: as configured
    delay: float = 0.0  # seconds before the first round
    boot: str = ""  # "": the hint has no number
    sequence: int = 0
    adjusted: tuple[tuple[str, int | float | str], ...] = ()  # arguments that were clamped

    def offsets(self, configured: tuple[float, ...]) -> tuple[float, ...]:
        """Return when the rounds are due, in seconds from now.

        ``configured``: the offsets of a burst in the guest's configuration.
        """
        if self.rounds is None and self.interval is None:
            if not self.delay:
                return configured
            offsets = configured
        else:
            rounds = len(configured) if self.rounds is None else self.rounds
            interval = BURST_INTERVAL_DEFAULT if self.interval is None else self.interval
            offsets = tuple(interval * number for number in range(rounds))
        return tuple(round(self.delay + offset, 6) for offset in offsets)


class Info(NamedTuple):
    """Return a short description of the agent and of what it announces."""

    id: Scalar = None


class Lease(NamedTuple):
    """Accept the host's promise to send hints for ``seconds``; 0 revokes it."""

    id: Scalar = None
    seconds: float = 0.0
    adjusted: tuple[tuple[str, int | float | str], ...] = ()


class Status(NamedTuple):
    """Return the whole status."""

    id: Scalar = None


class Sync(NamedTuple):
    """Reply, so that the client knows where the replies to it begin."""

    id: Scalar = None


if TYPE_CHECKING:
    Request = Union[Burst, Info, Lease, Status, Sync]


def parse(line: Line, commands: tuple[str, ...] = PORT_COMMANDS) -> Request:
    """Return the request in ``line``.

    ``commands``: those that are allowed where the line came from.
    Raises ProtocolError, with the request's id if it could be read.
    """
    if isinstance(line, Overlong):
        text = f"the line is longer than {line.limit} bytes and was discarded"
        raise ProtocolError(ErrorClass.LINE_TOO_LONG, text)
    if line.strip(b" \t") == b"BURST" and "burst" in commands:
        return Burst()
    members = _object(line)
    id = _id(members)
    command = members.get("execute")
    if not isinstance(command, str):
        raise ProtocolError(
            ErrorClass.INVALID_REQUEST, 'member "execute" must be there and a string', id
        )
    for name in members:
        if name not in ("execute", "arguments", "id"):
            text = f"member {brief(name)} is unknown; allowed: execute, arguments, id"
            raise ProtocolError(ErrorClass.INVALID_REQUEST, text, id)
    given = members.get("arguments", {})
    if not isinstance(given, dict):
        text = f'member "arguments" must be an object, not {brief(given)}'
        raise ProtocolError(ErrorClass.INVALID_REQUEST, text, id)
    if command not in commands:
        text = f"command {brief(command)} is unknown here; known: {', '.join(commands)}"
        raise ProtocolError(ErrorClass.COMMAND_NOT_FOUND, text, id)
    allowed, build = _COMMANDS[command]
    arguments = Arguments(given, allowed)
    request = build(id, arguments)
    if arguments.problems:
        raise ProtocolError(ErrorClass.INVALID_ARGUMENT, "; ".join(arguments.problems), id)
    return request


def _burst(id: Scalar, arguments: Arguments) -> Burst:
    reason = _reason(arguments)
    rounds = arguments.integer("count", BURST_COUNT)
    interval = arguments.number("interval", BURST_INTERVAL)
    delay = arguments.number("delay", BURST_DELAY)
    boot, sequence = _numbering(arguments)
    adjusted = tuple(arguments.adjusted)
    return Burst(id, reason, rounds, interval, delay or 0.0, boot, sequence, adjusted)


def _reason(arguments: Arguments) -> str:
    """Return the reason, cut and made printable: a hint is not refused because of its text."""
    given = arguments.text("reason") or ""
    reason = given[:REASON_LIMIT]
    if not reason.isprintable():
        reason = "".join(character if character.isprintable() else "?" for character in reason)
    if reason != given:
        arguments.adjusted.append(("reason", reason))
    return reason


def _numbering(arguments: Arguments) -> tuple[str, int]:
    if ("boot" in arguments.given) != ("sequence" in arguments.given):
        arguments.problems.append("arguments boot and sequence come together or not at all")
    boot, sequence = arguments.text("boot"), arguments.given.get("sequence", 0)
    if boot is not None and not (0 < len(boot) <= TEXT_LIMIT and is_plain(boot)):
        text = f"argument boot must be 1 to {TEXT_LIMIT} printable ASCII characters"
        arguments.problems.append(text)
    if type(sequence) is not int or sequence < 0:
        text = f"argument sequence must be an integer from 0 to {INTEGER_MOST}"
        arguments.problems.append(f"{text}, not {brief(sequence)}")
        return "", 0
    return boot or "", sequence


def _lease(id: Scalar, arguments: Arguments) -> Lease:
    if "seconds" not in arguments.given:
        arguments.problems.append("argument seconds is missing")
    seconds = arguments.number("seconds", LEASE_SECONDS)
    return Lease(id, seconds or 0.0, tuple(arguments.adjusted))


_COMMANDS: dict[str, tuple[tuple[str, ...], Callable[[Scalar, Arguments], Request]]] = {
    "burst": (("reason", "count", "interval", "delay", "boot", "sequence"), _burst),
    "info": ((), lambda id, arguments: Info(id)),
    "lease": (("seconds",), _lease),
    "status": ((), lambda id, arguments: Status(id)),
    "sync": ((), lambda id, arguments: Sync(id)),
}


# -- the parts of a line ---------------------------------------------------------------


def _object(line: bytes) -> dict[str, object]:
    try:
        value = strict_json.loads(line)
    except strict_json.JsonError as error:
        raise ProtocolError(ErrorClass.INVALID_JSON, str(error)) from None
    if not isinstance(value, dict):
        text = f"the line must be an object, not {brief(value)}"
        raise ProtocolError(ErrorClass.INVALID_REQUEST, text)
    return value


def _id(members: dict[str, object]) -> Scalar:
    value = members.get("id")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str) and len(value) <= TEXT_LIMIT:
        return value
    text = f'member "id" must be a scalar, a string of at most {TEXT_LIMIT} characters'
    raise ProtocolError(ErrorClass.INVALID_REQUEST, text)


def is_plain(text: str) -> bool:
    """Return whether text has printable ASCII characters only; true for none."""
    return text.isprintable() and len(text.encode()) == len(text)  # str.isascii() is of Python 3.7


# -- replies ----------------------------------------------------------------------------


class Reply(NamedTuple):
    """A reply: a value, or an error."""

    id: Scalar
    value: dict[str, object]
    error_class: str = ""  # "": no error.  Not an ErrorClass: newer peers may send others.
    description: str = ""


class LinkBrief(NamedTuple):
    """One link in an info reply, as text."""

    name: str
    hardware_address: str
    addresses: tuple[str, ...]  # those that are announced


def encode_return(id: Scalar, value: Mapping[str, object]) -> bytes:
    """Return the reply line for a request that was done."""
    return _encode({"return": dict(value)}, id)


def encode_sync(id: Scalar) -> bytes:
    """Return the reply to :class:`Sync`; its 0xFF discards the line that the reader had begun."""
    return DELIMITER + encode_return(id, {})


def encode_error(error: ProtocolError) -> bytes:
    """Return the reply line for a line that was not a request, or could not be done."""
    members = {"class": error.error_class.value, "desc": error.description}
    return _encode({"error": members}, error.id)


def encode_request(
    command: str,
    arguments: Mapping[str, object] | None = None,
    id: Scalar = None,
    *,
    delimited: bool = True,
) -> bytes:
    """Return a request line.

    ``delimited``: begin with 0xFF, so that the peer discards what another client left unfinished.
    """
    members: dict[str, object] = {"execute": command}
    if arguments:
        members["arguments"] = dict(arguments)
    return (DELIMITER if delimited else b"") + _encode(members, id)


def parse_reply(line: bytes) -> Reply:
    """Return the reply in ``line``; skip members of newer peers.  Raises ProtocolError."""
    members = _object(line)
    id = _id(members)
    value, error = members.get("return"), members.get("error")
    if isinstance(value, dict) and error is None:
        return Reply(id, value)
    if isinstance(error, dict) and value is None:
        error_class, description = error.get("class"), error.get("desc")
        if isinstance(error_class, str) and error_class and isinstance(description, str):
            return Reply(id, {}, error_class[:TEXT_LIMIT], description[:DESCRIPTION_LIMIT])
    text = 'a reply has a member "return" or a member "error", and each is an object'
    raise ProtocolError(ErrorClass.INVALID_REQUEST, text, id)


def burst_value(
    burst: Burst, offsets: Iterable[float], frames: int, duplicate: bool = False
) -> dict[str, object]:
    """Return the value of the reply to a burst.

    ``offsets``: when the rounds are due, seconds.  ``frames``: how many were sent before the reply.
    """
    return {
        "adjusted": dict(burst.adjusted),
        "duplicate": duplicate,
        "frames": frames,
        "offsets": [] if duplicate else list(offsets),
    }


def lease_value(lease: Lease, interval: float) -> dict[str, object]:
    """Return the value of the reply to a lease; ``interval``: the refresh interval in force."""
    return {"adjusted": dict(lease.adjusted), "interval": interval, "seconds": lease.seconds}


def info_value(
    version: str,
    links: Iterable[LinkBrief],
    counters: Mapping[str, int],
    lease: float,
    longest_interval: float,
    most: int = INFO_ADDRESSES,
) -> dict[str, object]:
    """Return the value of the reply to info, short enough for a reply line on the port.

    ``lease``: seconds left of the lease, 0 without one.  ``longest_interval``: seconds between two
    refreshes at most, without a lease.  ``most``: addresses, and links, that are named.
    """
    named: list[dict[str, object]] = []
    left, omitted = most, 0
    for link in links:
        shown = link.addresses[:left]
        omitted += len(link.addresses) - len(shown)
        left -= len(shown)
        if len(named) < most:
            mac = link.hardware_address
            named.append({"name": link.name, "mac": mac, "addresses": list(shown)})
    return {
        "commands": list(PORT_COMMANDS),
        "counters": dict(counters),
        "lease": lease,
        "links": named,
        "longest_interval": longest_interval,
        "omitted": omitted,
        "protocol": VERSION,
        "version": version,
    }


def _encode(members: dict[str, object], id: Scalar) -> bytes:
    if id is not None:
        members["id"] = id
    return strict_json.dumps(members) + b"\n"


TOO_LONG = encode_error(ProtocolError(ErrorClass.FAILED, "the reply is too long for this channel"))
# Encoded at the start, because later there is no memory to do it.
OUT_OF_MEMORY = encode_error(ProtocolError(ErrorClass.FAILED, "not enough memory to answer"))
