"""JSON (RFC 8259), read more strictly than the ``json`` module does.

Refuses what peers read in different ways: NaN and Infinity, a member named twice, integers that
do not fit 64 bits, numbers that do not fit a double.

Does not use ``json``: with what that loads (``re``, ``enum``, ``functools``), it costs a daemon
1.3 MB.  Only the writer in C behind ``json`` is used.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

INTEGER_MOST = 2**63 - 1
_WHITE = frozenset(" \t\n\r")
_OF_NUMBERS = frozenset("+-.0123456789Ee")
_HEXADECIMAL = frozenset("0123456789ABCDEFabcdef")
_CONSTANTS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_NO_JSON = ("NaN", "Infinity", "-Infinity")
_ESCAPES = dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t'))


class JsonError(ValueError):
    """Bytes that are not JSON in this sense; the text says where."""


def dumps(value: object) -> bytes:
    """Return a value as one line of ASCII JSON, with sorted members and without the line end.

    Raises ValueError for NaN and infinity, TypeError for what JSON has no form for.
    """
    return "".join(_ENCODER(value, 0)).encode("ascii")


def loads(line: bytes) -> object:
    """Return the value of one line.  Raises JsonError."""
    try:
        text = line.decode()
        value, end = _read_value(text, _skip_white(text, 0))
    except UnicodeDecodeError as error:
        raise JsonError(f"the line is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise JsonError("the line is nested too deeply") from None
    end = _skip_white(text, end)
    if end < len(text):
        raise _no_json(end)
    return value


# Each reader takes the position of the first character of what it reads; the readers of strings,
# objects and arrays that behind it.  It returns the value and the position behind that.  They look
# at a character before they call each other: with cold caches, a call takes 3 to 6 us.


def _read_value(text: str, at: int) -> tuple[object, int]:
    first = text[at : at + 1]
    if first == '"':
        return _read_string(text, at + 1)
    if first == "{":
        return _read_object(text, at + 1)
    if first == "[":
        return _read_array(text, at + 1)
    if first not in _CONSTANTS:
        return _read_number(text, at)
    name, value = _CONSTANTS[first]
    if not text.startswith(name, at):
        raise _no_json(at)
    return value, at + len(name)


def _read_object(text: str, at: int) -> tuple[dict[str, object], int]:
    members: dict[str, object] = {}
    while True:
        if text[at : at + 1] in _WHITE:
            at = _skip_white(text, at)
        if text[at : at + 1] != '"':
            if members or text[at : at + 1] != "}":
                raise _no_json(at)
            return members, at + 1
        name, at = _read_string(text, at + 1)
        if name in members:
            raise JsonError("an object names a member twice")
        if text[at : at + 1] in _WHITE:
            at = _skip_white(text, at)
        if text[at : at + 1] != ":":
            raise _no_json(at)
        at += 1
        if text[at : at + 1] in _WHITE:
            at = _skip_white(text, at)
        members[name], at = _read_value(text, at)
        if text[at : at + 1] in _WHITE:
            at = _skip_white(text, at)
        if text[at : at + 1] == "}":
            return members, at + 1
        if text[at : at + 1] != ",":
            raise _no_json(at)
        at += 1


def _read_array(text: str, at: int) -> tuple[list[object], int]:
    values: list[object] = []
    at = _skip_white(text, at)
    if text[at : at + 1] == "]":
        return values, at + 1
    while True:
        value, at = _read_value(text, at)
        values.append(value)
        at = _skip_white(text, at)
        if text[at : at + 1] == "]":
            return values, at + 1
        if text[at : at + 1] != ",":
            raise _no_json(at)
        at = _skip_white(text, at + 1)


def _read_string(text: str, at: int) -> tuple[str, int]:
    end = text.find('"', at)
    if end < 0:
        raise _no_json(at - 1)
    part = text[at:end]
    if part.isprintable() and "\\" not in part:  # as a rule
        return part, end + 1
    characters: list[str] = []
    while text[at : at + 1] != '"':
        character = text[at : at + 1]
        if character < " ":  # a control character, or the end of the line
            raise _no_json(at)
        if character == "\\":
            character, at = _escape(text, at + 1)
        else:
            at += 1
        characters.append(character)
    return "".join(characters), at + 1


def _escape(text: str, at: int) -> tuple[str, int]:
    kind = text[at : at + 1]
    if kind in _ESCAPES:
        return _ESCAPES[kind], at + 1
    unit = _utf16_unit(text, at)
    if 0xD800 <= unit < 0xDC00 and text[at + 5 : at + 6] == "\\":  # RFC 8259 section 7
        after = text[at + 6 : at + 7]
        low = _utf16_unit(text, at + 6) if after == "u" else 0
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + (unit - 0xD800 << 10) + low - 0xDC00), at + 11
    return chr(unit), at + 5


def _utf16_unit(text: str, at: int) -> int:
    digits = text[at + 1 : at + 5]
    if text[at : at + 1] != "u" or len(digits) < 4 or not _HEXADECIMAL.issuperset(digits):
        raise _no_json(at - 1)
    return int(digits, 16)


def _read_number(text: str, at: int) -> tuple[float, int]:
    end = at
    while text[end : end + 1] in _OF_NUMBERS:
        end += 1
    digits = text[at:end]
    unsigned = digits[1:] if digits[:1] == "-" else digits
    if unsigned.isdigit() and (unsigned[0] != "0" or unsigned == "0"):
        return _integer(digits), end
    mantissa, exponent_sign, exponent = unsigned.replace("E", "e").partition("e")
    whole, point, fraction = mantissa.partition(".")
    if (
        not whole.isdigit()
        or (whole[0] == "0" and whole != "0")
        or (point and not fraction.isdigit())
        or (exponent_sign and not exponent[exponent[:1] in ("+", "-") :].isdigit())
        or not (point or exponent_sign)
    ):
        for name in _NO_JSON:
            if text.startswith(name, at):
                raise JsonError(f"{name} is not JSON")
        raise _no_json(at)
    return _real(digits), end


def _integer(digits: str) -> int:
    # int() takes quadratic time, so it is not given what cannot fit.
    value = int(digits) if len(digits) <= 20 else INTEGER_MOST + 1
    if abs(value) > INTEGER_MOST:
        raise JsonError(f"the integer {digits[:20]} is out of range")
    return value


def _real(digits: str) -> float:
    value = float(digits)
    if abs(value) == float("inf"):
        raise JsonError(f"the number {digits[:20]} is out of range")
    return value


def _skip_white(text: str, at: int) -> int:
    while text[at : at + 1] in _WHITE:
        at += 1
    return at


def _no_json(at: int) -> JsonError:
    return JsonError(f"the line is not JSON at character {at}")


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"JSON has no form for {value!r}")


# As JSONEncoder makes it: no check for circles, a separator before values and one between members,
# members sorted, no name skipped, NaN and infinity refused.
_ENCODER = make_encoder(
    None, _refuse, encode_basestring_ascii, None, ": ", ", ", True, False, False
)
