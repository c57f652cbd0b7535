"""Hint lines to requests, replies to lines, and back; docs/protocol.md is the text of it.

Decides what a line means, which arguments are allowed and to which bounds they are
clamped.  Never acts on a request, never reads or writes a descriptor, never blocks,
and never keeps more than one line.  The guest's port, the control socket and the
hypervisor's end share it.  The form is QMP's and the QEMU guest agent's: one JSON
object a line, ``execute``, ``arguments``, ``id``, and 0xFF for "forget what came before".
"""

from __future__ import annotations

import json
from enum import Enum

from garp_agent.wire.bounds import BURST_ROUNDS, Bound
from garp_agent.wire.lines import DELIMITER, Overlong
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, Union

    from garp_agent.wire.lines import Line

    Scalar = Union[None, bool, int, float, str]

VERSION = 1

BURST_COUNT = BURST_ROUNDS
BURST_INTERVAL = Bound(0.05, 10.0)
BURST_INTERVAL_DEFAULT = 0.1  # where only a count is given
BURST_DELAY = Bound(0.0, 60.0)
LEASE_SECONDS = Bound(0.0, 3600.0)
REASON_LIMIT = 128  # characters; the rest is cut off
TEXT_LIMIT = 128  # characters of an id or a boot
INTEGER_MOST = 2**63 - 1
DESCRIPTION_LIMIT = 512
INFO_ADDRESSES = 32  # an info reply names at most as many, and as many links

PORT_COMMANDS = ("burst", "info", "lease", "sync")
CONTROL_COMMANDS = ("burst", "info", "status", "sync")


class ErrorClass(Enum):
    """What kind of thing went wrong, for programs; the description is for people."""

    LINE_TOO_LONG = "LineTooLong"
    INVALID_JSON = "InvalidJSON"
    INVALID_REQUEST = "InvalidRequest"
    COMMAND_NOT_FOUND = "CommandNotFound"
    INVALID_ARGUMENT = "InvalidArgument"
    FAILED = "Failed"  # understood, and could not be done


class ProtocolError(Exception):
    """A line that is no request, or no reply; or a request that could not be done."""

    def __init__(self, error_class: ErrorClass, description: str, id: Scalar = None) -> None:
        super().__init__(description)
        self.error_class = error_class
        self.description = description[:DESCRIPTION_LIMIT]
        self.id = id


# -- requests ---------------------------------------------------------------------------


class Burst(NamedTuple):
    """Announce now, in rounds."""

    id: Scalar = None
    reason: str = ""  # printable
    rounds: int | None = None  # `count` on the wire; None: as configured
    interval: float | None = None  # None: as configured
    delay: float = 0.0
    boot: str = ""  # "": not numbered
    sequence: int = 0
    adjusted: tuple[tuple[str, int | float | str], ...] = ()  # arguments that were clamped

    def offsets(self, configured: tuple[float, ...]) -> tuple[float, ...]:
        """When the rounds are due, in seconds from now."""
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
    """Tell in brief who you are and what you announce."""

    id: Scalar = None


class Lease(NamedTuple):
    """The host promises hints for so many seconds; 0 takes the promise back."""

    id: Scalar = None
    seconds: float = 0.0
    adjusted: tuple[tuple[str, int | float | str], ...] = ()


class Status(NamedTuple):
    """Tell everything."""

    id: Scalar = None


class Sync(NamedTuple):
    """Answer, so that the asker knows where the replies to it begin."""

    id: Scalar = None


if TYPE_CHECKING:
    Request = Union[Burst, Info, Lease, Status, Sync]


class _Arguments:
    """Takes arguments out of an object by name; collects all that is wrong with them."""

    __slots__ = ("adjusted", "allowed", "given", "problems")

    def __init__(self, given: dict[str, object], allowed: tuple[str, ...]) -> None:
        self.given = given
        self.allowed = allowed
        self.adjusted: list[tuple[str, int | float | str]] = []
        self.problems: list[str] = []
        for name in given:
            if name not in allowed:
                known = ", ".join(allowed) if allowed else "none"
                self.problems.append(f"argument {_brief(name)} is unknown; allowed: {known}")

    def number(self, name: str, bound: Bound) -> float | None:
        value = self.given.get(name)
        if type(value) is int or type(value) is float:
            return self._clamp(name, float(value), bound)
        self._wrong(name, value, "a number")
        return None

    def integer(self, name: str, bound: Bound) -> int | None:
        value = self.given.get(name)
        if type(value) is int:
            return int(self._clamp(name, value, bound))
        self._wrong(name, value, "an integer")
        return None

    def text(self, name: str) -> str | None:
        value = self.given.get(name)
        if isinstance(value, str):
            return value
        self._wrong(name, value, "a string")
        return None

    def _clamp(self, name: str, value: float, bound: Bound) -> float:
        clamped = min(max(value, bound.least), bound.most)
        if clamped != value:
            self.adjusted.append((name, clamped))
        return clamped

    def _wrong(self, name: str, value: object, expected: str) -> None:
        if name in self.given:
            self.problems.append(f"argument {name} must be {expected}, not {_brief(value)}")


def parse(line: Line, commands: tuple[str, ...] = PORT_COMMANDS) -> Request:
    """Return the request in ``line``; ``commands`` are those allowed where it came from.

    Raises ProtocolError.
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
            text = f"member {_brief(name)} is unknown; allowed: execute, arguments, id"
            raise ProtocolError(ErrorClass.INVALID_REQUEST, text, id)
    given = members.get("arguments", {})
    if not isinstance(given, dict):
        text = f'member "arguments" must be an object, not {_brief(given)}'
        raise ProtocolError(ErrorClass.INVALID_REQUEST, text, id)
    if command not in commands:
        text = f"command {_brief(command)} is unknown here; known: {', '.join(commands)}"
        raise ProtocolError(ErrorClass.COMMAND_NOT_FOUND, text, id)
    allowed, build = _COMMANDS[command]
    arguments = _Arguments(given, allowed)
    request = build(id, arguments)
    if arguments.problems:
        raise ProtocolError(ErrorClass.INVALID_ARGUMENT, "; ".join(arguments.problems), id)
    return request


def _burst(id: Scalar, arguments: _Arguments) -> Burst:
    reason = _reason(arguments)
    rounds = arguments.integer("count", BURST_COUNT)
    interval = arguments.number("interval", BURST_INTERVAL)
    delay = arguments.number("delay", BURST_DELAY)
    boot, sequence = _numbering(arguments)
    adjusted = tuple(arguments.adjusted)
    return Burst(id, reason, rounds, interval, delay or 0.0, boot, sequence, adjusted)


def _reason(arguments: _Arguments) -> str:
    """A hint is not lost over the words it comes with: they are made fit to print."""
    given = arguments.text("reason") or ""
    reason = given[:REASON_LIMIT]
    if not reason.isprintable():
        reason = "".join(character if character.isprintable() else "?" for character in reason)
    if reason != given:
        arguments.adjusted.append(("reason", reason))
    return reason


def _numbering(arguments: _Arguments) -> tuple[str, int]:
    if ("boot" in arguments.given) != ("sequence" in arguments.given):
        arguments.problems.append("arguments boot and sequence come together or not at all")
    boot, sequence = arguments.text("boot"), arguments.given.get("sequence", 0)
    if boot is not None and not (0 < len(boot) <= TEXT_LIMIT and _is_plain(boot)):
        text = f"argument boot must be 1 to {TEXT_LIMIT} printable ASCII characters"
        arguments.problems.append(text)
    if type(sequence) is not int or sequence < 0:
        text = f"argument sequence must be an integer from 0 to {INTEGER_MOST}"
        arguments.problems.append(f"{text}, not {_brief(sequence)}")
        return "", 0
    return boot or "", sequence


def _lease(id: Scalar, arguments: _Arguments) -> Lease:
    if "seconds" not in arguments.given:
        arguments.problems.append("argument seconds is missing")
    seconds = arguments.number("seconds", LEASE_SECONDS)
    return Lease(id, seconds or 0.0, tuple(arguments.adjusted))


def _info(id: Scalar, arguments: _Arguments) -> Info:
    return Info(id)


def _status(id: Scalar, arguments: _Arguments) -> Status:
    return Status(id)


def _sync(id: Scalar, arguments: _Arguments) -> Sync:
    return Sync(id)


_COMMANDS: dict[str, tuple[tuple[str, ...], Callable[[Scalar, _Arguments], Request]]] = {
    "burst": (("reason", "count", "interval", "delay", "boot", "sequence"), _burst),
    "info": ((), _info),
    "lease": (("seconds",), _lease),
    "status": ((), _status),
    "sync": ((), _sync),
}


# -- JSON, more strictly than the library reads it --------------------------------------


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else INTEGER_MOST + 1
    if abs(value) > INTEGER_MOST:
        raise ProtocolError(ErrorClass.INVALID_JSON, f"the integer {digits[:20]} is out of range")
    return value


def _real(digits: str) -> float:
    value = float(digits)
    if abs(value) == float("inf"):
        raise ProtocolError(ErrorClass.INVALID_JSON, f"the number {digits[:20]} is out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise ProtocolError(ErrorClass.INVALID_JSON, f"{name} is not JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ProtocolError(ErrorClass.INVALID_JSON, "an object names a member twice")
    return members


_WHITE = " \t\n\r"
_JSON = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_integer,
    parse_float=_real,
    parse_constant=_constant,
)


def _value(text: str) -> object:
    """The same as ``_JSON.decode``, which takes regular expressions to pass over white space."""
    value, end = _JSON.raw_decode(text, _past_white(text, 0))
    end = _past_white(text, end)
    if end < len(text):
        raise json.JSONDecodeError("extra data", text, end)
    return value


def _past_white(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip(_WHITE))


def _object(line: bytes) -> dict[str, object]:
    try:
        value = _value(line.decode())
    except UnicodeDecodeError as error:
        raise ProtocolError(
            ErrorClass.INVALID_JSON, f"the line is not UTF-8 at byte {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise ProtocolError(
            ErrorClass.INVALID_JSON, f"the line is not JSON at character {error.pos}"
        ) from None
    except RecursionError:
        raise ProtocolError(ErrorClass.INVALID_JSON, "the line is nested too deeply") from None
    if not isinstance(value, dict):
        text = f"the line must be an object, not {_brief(value)}"
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


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _brief(value: object) -> str:
    """A value as an error names it: bounded, ASCII, never walked."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    cut = value[:32] + "..." if isinstance(value, str) and len(value) > 32 else value
    return json.dumps(cut)


# -- replies ----------------------------------------------------------------------------


class Reply(NamedTuple):
    """What the other end answered: a value, or an error."""

    id: Scalar
    value: dict[str, object]
    error_class: str = ""  # "": no error.  Text: a newer peer may know more of them.
    description: str = ""


class LinkBrief(NamedTuple):
    """One link in an info reply; as text."""

    name: str
    hardware_address: str
    addresses: tuple[str, ...]  # those announced


def encode_return(id: Scalar, value: Mapping[str, object]) -> bytes:
    """The line that answers a request that was done."""
    return _encode({"return": dict(value)}, id)


def encode_sync(id: Scalar) -> bytes:
    """The answer to :class:`Sync`: 0xFF before it ends whatever line the reader had begun."""
    return DELIMITER + encode_return(id, {})


def encode_error(error: ProtocolError) -> bytes:
    """The line that answers a line that was no request, or could not be done."""
    members = {"class": error.error_class.value, "desc": error.description}
    return _encode({"error": members}, error.id)


def encode_request(
    command: str,
    arguments: Mapping[str, object] | None = None,
    id: Scalar = None,
    *,
    delimited: bool = True,
) -> bytes:
    """The line that asks; ``delimited`` makes the other end forget half a line of another."""
    members: dict[str, object] = {"execute": command}
    if arguments:
        members["arguments"] = dict(arguments)
    return (DELIMITER if delimited else b"") + _encode(members, id)


def parse_reply(line: bytes) -> Reply:
    """The reply that a line is; members not known here are passed over."""
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
    """What answers a burst: ``frames`` went out before this reply, rounds are at ``offsets``."""
    return {
        "adjusted": dict(burst.adjusted),
        "duplicate": duplicate,
        "frames": frames,
        "offsets": [] if duplicate else list(offsets),
    }


def lease_value(lease: Lease, interval: float) -> dict[str, object]:
    """What answers a lease: ``interval`` is the refresh interval now in force."""
    return {"adjusted": dict(lease.adjusted), "interval": interval, "seconds": lease.seconds}


def info_value(
    version: str, links: Iterable[LinkBrief], counters: Mapping[str, int], lease: float
) -> dict[str, object]:
    """What answers info; bounded, so that it fits a reply line whatever the guest has."""
    named: list[dict[str, object]] = []
    left, omitted = INFO_ADDRESSES, 0
    for link in links:
        shown = link.addresses[:left]
        omitted += len(link.addresses) - len(shown)
        left -= len(shown)
        if len(named) < INFO_ADDRESSES:
            mac = link.hardware_address
            named.append({"name": link.name, "mac": mac, "addresses": list(shown)})
    return {
        "commands": list(PORT_COMMANDS),
        "counters": dict(counters),
        "lease": lease,
        "links": named,
        "omitted": omitted,
        "protocol": VERSION,
        "version": version,
    }


def _encode(members: dict[str, object], id: Scalar) -> bytes:
    if id is not None:
        members["id"] = id
    text = json.dumps(members, sort_keys=True, allow_nan=False, separators=(", ", ": "))
    return text.encode("ascii") + b"\n"


# -- hints seen before ------------------------------------------------------------------


class Deduplicator:
    """Says whether a numbered hint was seen already.

    A host numbers its hints within one ``boot`` (any name for one run of it).  Per boot
    the highest number is kept and which of the ``window`` numbers below it were seen; what
    is older than that counts as seen.  The ``boots`` heard of last are kept.
    """

    __slots__ = ("_boots", "_known", "_window")

    def __init__(self, boots: int = 8, window: int = 64) -> None:
        self._boots = boots
        self._window = window
        self._known: dict[str, tuple[int, int]] = {}

    def seen(self, boot: str, sequence: int) -> bool:
        """Whether it was; from now on it has been."""
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
