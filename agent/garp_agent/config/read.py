"""YAML text to :class:`Settings`, and back.

Decides which texts are a configuration: the keys, how their values are written, and
the words in which everything else is refused.  All the problems of a file are told
at once, each with its file, line, key, the value given and what is allowed.

Never guesses: what YAML would turn into something else (``yes``, ``010``, ``1:30``, a
quoted number) is refused where a mistake could hide in it.  Never builds an object that
a file names, and never follows an alias: it reads the parser's events and nothing above
them, so neither its time nor its memory outgrows the file.  The only module that
imports yaml; the daemon runs it in a child that ends afterwards.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import stat
from collections.abc import Iterable
from enum import Enum
from typing import Any, Callable, NamedTuple, NoReturn, Union

import yaml

from garp_agent.config import settings as bounds
from garp_agent.config.settings import ArpForm, ConflictPolicy, Network, Settings
from garp_agent.wire.bounds import BURST_ROUNDS, Bound

MOST_BYTES = 1 << 20
MOST_NODES = 10_000  # keys and values; a file that describes one guest has some dozens
MOST_DEPTH = 16  # three are of use; the rest is room for an error that names the key
SOCKET_PATH_BYTES = 107  # sun_path is 108 with its NUL, unix(7)
INTERFACE_NAME_BYTES = 15  # IFNAMSIZ is 16 with its NUL
PORT_PATH_BYTES = 4095  # PATH_MAX
NONE = "none"

_SHOWN_CHARACTERS = 60
_RESOLVER: Any = yaml.resolver.Resolver()


class Problem(NamedTuple):
    """One thing that is wrong with a configuration."""

    source: str
    line: int  # from 1; 0 when the file as a whole is meant
    column: int
    key: str  # dotted, list items by index: "interfaces.include[2]"; "" for the whole
    given: str  # as written in the file; "" when there is nothing to show
    wrong: str
    allowed: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        given = f"given {self.given}" if self.given else ""
        allowed = f"; allowed {self.allowed}" if self.allowed else ""
        return ": ".join(filter(None, (place, self.key, given, self.wrong))) + allowed


class ConfigError(Exception):
    """A configuration is refused, for every one of ``errors``."""

    def __init__(self, errors: Iterable[Problem]) -> None:
        self.errors = tuple(sorted(errors, key=lambda problem: problem[1:3]))
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


class _InvalidError(Exception):
    """A value is not what its key takes; the text says why."""


class _FatalError(Exception):
    """The rest of the text cannot be read."""

    def __init__(self, line: int, column: int, wrong: str, allowed: str = "") -> None:
        super().__init__(wrong)
        self.line, self.column, self.wrong, self.allowed = line, column, wrong, allowed


# -- the text as a tree -------------------------------------------------------------------


class Scalar(NamedTuple):
    line: int
    column: int
    given: str  # as written, quotes and all
    text: str
    tag: str  # what YAML takes it for: "str", "int", "float", "bool", "null", ...
    quoted: bool


class Sequence(NamedTuple):
    line: int
    column: int
    given: str
    items: tuple[Any, ...]


class Mapping(NamedTuple):
    line: int
    column: int
    given: str
    items: tuple[tuple[Any, Any], ...]


class Refused(NamedTuple):
    """An alias, an anchor or a tag, and whatever hangs on it."""

    line: int
    column: int
    given: str
    wrong: str


Node = Union[Scalar, Sequence, Mapping, Refused]


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shown(text: str) -> str:
    """Fit to stand in one line of log, on any terminal."""
    text = " ".join(text[: 4 * _SHOWN_CHARACTERS].split())
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 3] + "..."
    return _escaped(text)


class _Composer:
    """One document's nodes from the parser's events; depth and number are bounded."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._loader: Any = yaml.SafeLoader(text)
        self._nodes = 0
        self._end = 0  # of the collection read last

    def compose(self) -> Node | None:
        self._event()  # the stream's start
        if isinstance(self._event(), yaml.StreamEndEvent):
            return None
        node = self._node(self._event(), 1)
        self._event()  # the document's end
        after = self._event()
        if not isinstance(after, yaml.StreamEndEvent):
            self._stop(after, "a second document begins", "one document")
        return node

    def _event(self) -> Any:
        return self._loader.get_event()

    def mark(self) -> Any:
        """Where the reading stands."""
        return self._loader.get_mark()

    def _stop(self, event: Any, wrong: str, allowed: str) -> NoReturn:
        mark = event.start_mark
        raise _FatalError(mark.line + 1, mark.column + 1, wrong, allowed)

    def _node(self, event: Any, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            self._stop(event, "too many values", f"{MOST_NODES} keys and values")
        if depth > MOST_DEPTH:
            self._stop(event, "nested too deeply", f"{MOST_DEPTH} levels")
        node = self._bare_node(event, depth)
        wrong = self._wrong_with(event)
        return Refused(node.line, node.column, node.given, wrong) if wrong else node

    def _bare_node(self, event: Any, depth: int) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        given = self._given(event)
        if isinstance(event, yaml.ScalarEvent):
            quoted = event.style is not None
            tag = "str" if quoted else _plain_tag(event.value)
            return Scalar(line, column, given, event.value, tag, quoted)
        if isinstance(event, yaml.SequenceStartEvent):
            items = tuple(self._items(depth))
            return Sequence(line, column, self._flow(event) or "a list", items)
        if isinstance(event, yaml.MappingStartEvent):
            entries = tuple(self._entries(depth))
            return Mapping(line, column, self._flow(event) or "a mapping", entries)
        return Refused(line, column, given, self._wrong_with(event))

    def _items(self, depth: int) -> Iterable[Node]:
        while not isinstance(event := self._event(), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)
        self._close(event)

    def _entries(self, depth: int) -> Iterable[tuple[Node, Node]]:
        while not isinstance(event := self._event(), yaml.MappingEndEvent):
            yield self._node(event, depth + 1), self._node(self._event(), depth + 1)
        self._close(event)

    def _close(self, event: Any) -> None:
        self._end = event.end_mark.index

    def _given(self, event: Any) -> str:
        return _shown(self._text[event.start_mark.index : event.end_mark.index]) or "nothing"

    def _flow(self, event: Any) -> str:
        """The text of a list or mapping in brackets, which has just been read; else ""."""
        return _shown(self._text[event.start_mark.index : self._end]) if event.flow_style else ""

    def _wrong_with(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            glob = _quoted(self._given(event))
            return f"YAML aliases are not taken, write {glob} if a glob is meant"
        if event.anchor is not None:
            return "YAML anchors are not taken"
        if event.tag is not None:
            return "YAML tags are not taken"
        return ""


def _compose(text: str) -> Node | None:
    composer = _composer(text)
    try:
        return composer.compose()
    except yaml.MarkedYAMLError as error:
        mark, wrong = error.problem_mark or composer.mark(), _syntax(error)
    except (ValueError, OverflowError):
        # The scanner does not check what it converts: "\UFFFFFFFF", %YAML with a long number.
        mark, wrong = composer.mark(), "a number or an escape is out of range"
    raise _FatalError(mark.line + 1, mark.column + 1, f"not YAML: {wrong}")


def _composer(text: str) -> _Composer:
    try:
        return _Composer(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        wrong = f"the character U+{ord(text[error.position]):04X} may not stand in YAML"
    raise _FatalError(before.count("\n") + 1, len(before) - before.rfind("\n"), wrong)


_HINTS = (
    ("alias", "; a glob that begins with * is written in quotes"),
    (r"character '\t'", "; write spaces for tabs"),
    ("flow", "; a value with [ ] { } ? or : in it is written in quotes"),
    ("cannot start any token", "; such a value is written in quotes"),
)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    words = ", ".join(_shown(part) for part in (error.context, error.problem) if part)
    words = words.replace(r"'\x00'", "the end")
    hints = (hint for part, hint in _HINTS if part in words)
    return words + next(hints, "")


# -- values: how each is written ----------------------------------------------------------


class Form(NamedTuple):
    """How one value is written: its reader, its writer, and the words for what is allowed."""

    allowed: str
    parse: Callable[[Scalar], Any]  # raises _InvalidError
    write: Callable[[Any], str]


_NUMBER = re.compile(r"(-?)(0|[1-9][0-9]{0,29})(?:\.([0-9]{1,3}))?")
_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}  # in microseconds
_PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/*-]*")


def _thousandths(text: str) -> int | None:
    """Of a decimal number with three decimals at most; None for any other text."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction = match.groups("")
    return (-1 if sign else 1) * int(whole + fraction.ljust(3, "0"))


def _decimal(number: int, scale: int) -> str:
    """``number / scale`` in decimal digits; ``scale`` is a power of ten."""
    digits = len(str(scale)) - 1
    return f"{number // scale}.{number % scale:0{digits}}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain_tag(text: str) -> str:
    """What YAML takes unquoted text for."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False))).rpartition(":")[2]


def _write_text(text: str) -> str:
    """Plain where YAML reads it back as the same text, in a list too; else quoted."""
    return text if _PLAIN.fullmatch(text) and _plain_tag(text) == "str" else _quoted(text)


def _within(value: float, bound: Bound, small: str, large: str) -> None:
    if value < bound.least:
        raise _InvalidError(small)
    if value > bound.most:
        raise _InvalidError(large)


def write_duration(seconds: float) -> str:
    """In the largest unit that needs no decimals, else seconds or milliseconds."""
    microseconds = round(seconds * 1_000_000)
    for unit in ("h", "m", "s"):
        if microseconds and microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    if microseconds >= 1_000_000 and microseconds % 1_000 == 0:
        return _decimal(microseconds, 1_000_000) + "s"
    return _decimal(microseconds, 1_000) + "ms"


def _duration(bound: Bound) -> Form:
    def parse(node: Scalar) -> float:
        number = node.text.rstrip("hms")
        unit = node.text[len(number) :]
        thousandths = _thousandths(number)
        if thousandths is None or unit not in ("", *_UNITS):
            raise _InvalidError("not a duration")
        if not unit:
            raise _InvalidError(f"no unit, write {number}s")
        seconds = thousandths * _UNITS[unit] // 1_000 / 1_000_000
        _within(seconds, bound, "too short", "too long")
        return seconds

    least, most = map(write_duration, bound)
    return Form(f"a duration from {least} to {most}", parse, write_duration)


def _write_percentage(fraction: float) -> str:
    return _decimal(round(fraction * 100_000), 1_000) + "%"


def _percentage_hint(text: str) -> str:
    number = _thousandths(text)
    if number is None or number < 0:
        return ""
    return f", write {_decimal(number, 1_000 if number >= 1_000 else 10)}%"


def _percentage(bound: Bound) -> Form:
    def parse(node: Scalar) -> float:
        thousandths = _thousandths(node.text[:-1]) if node.text.endswith("%") else None
        if thousandths is None:
            raise _InvalidError("not a percentage" + _percentage_hint(node.text))
        fraction = thousandths / 100_000
        _within(fraction, bound, "too small", "too large")
        return fraction

    least, most = map(_write_percentage, bound)
    return Form(f"a percentage from {least} to {most}", parse, _write_percentage)


def _write_number(number: float) -> str:
    return _decimal(round(number * 1_000), 1_000)


def _parse_number(node: Scalar, tags: tuple[str, ...], noun: str) -> int:
    thousandths = _thousandths(node.text)
    if node.quoted and thousandths is not None:
        raise _InvalidError("a text because of its quotes")
    if node.tag not in tags:
        raise _InvalidError(f"not a {noun}")
    if thousandths is None:
        raise _InvalidError("not in plain decimal digits")
    return thousandths


def _whole(bound: Bound) -> Form:
    def parse(node: Scalar) -> int:
        number = _parse_number(node, ("int",), "whole number") // 1_000
        _within(number, bound, "too small", "too large")
        return number

    least, most = map(_write_number, bound)
    return Form(f"a whole number from {least} to {most}", parse, str)


def _number(bound: Bound) -> Form:
    def parse(node: Scalar) -> float:
        number = _parse_number(node, ("int", "float"), "number") / 1_000
        _within(number, bound, "too small", "too large")
        return number

    least, most = map(_write_number, bound)
    return Form(f"a number from {least} to {most}", parse, _write_number)


_SWITCH_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), "true"),
    **dict.fromkeys(("false", "no", "off"), "false"),
}


def _parse_switch(node: Scalar) -> bool:
    meant = _SWITCH_WORDS.get(node.text.lower())
    if meant is None:
        raise _InvalidError("not a switch")
    if node.text != meant or node.quoted:
        raise _InvalidError(f"not a switch, write {meant}")
    return meant == "true"


_SWITCH = Form("true or false", _parse_switch, lambda on: "true" if on else "false")


def _series(words: Iterable[str], last: str) -> str:
    *front, end = words
    return f"{', '.join(front)} {last} {end}" if front else end


def _choice(enum: type[Enum]) -> Form:
    words = [member.value for member in enum]

    def parse(node: Scalar) -> Enum:
        if node.text not in words:
            raise _InvalidError("no such choice")
        return enum(node.text)

    return Form(_series(words, "or"), parse, lambda member: str(member.value))


_TAG_NAMES = {
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "null": "nothing at all",
    "timestamp": "a date",
}


def _parse_text(node: Scalar) -> str:
    """Text, unless YAML takes it for something else: ``no`` for a port is a trap."""
    if node.tag in _TAG_NAMES:
        hint = "" if node.tag == "null" else f", write {_quoted(node.text)} if a name is meant"
        raise _InvalidError(f"{_TAG_NAMES[node.tag]} to YAML{hint}")
    if not node.text:
        raise _InvalidError("empty")
    if not node.text.isprintable():
        raise _InvalidError("has a character that is not printable")
    return node.text


def _parse_glob(node: Scalar) -> str:
    text = _parse_text(node)
    if re.search(r"[\s/:]", text):
        raise _InvalidError("has a space, / or :, as no interface name has")
    if len(text.encode()) > INTERFACE_NAME_BYTES and not re.search(r"[*?\[]", text):
        raise _InvalidError(
            f"longer than an interface name, which has {INTERFACE_NAME_BYTES} bytes"
        )
    return text


_GLOB = Form("an interface name or glob, such as eth0 or en*", _parse_glob, _write_text)


def _parse_kind(node: Scalar) -> str:
    text = _parse_text(node)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise _InvalidError("not a word of letters, digits, _ and -")
    return text


_KIND = Form("a link kind, such as vlan, bridge or physical", _parse_kind, _write_text)


def _parse_block(node: Scalar) -> Network:
    address, _, prefix = node.text.partition("/")
    try:
        if "%" in address:
            raise ValueError
        block = ipaddress.ip_network(node.text, strict=False)
        first = ipaddress.ip_address(address)
    except ValueError:
        raise _InvalidError("not an address block") from None
    if not re.fullmatch("0|[1-9][0-9]*", prefix):
        raise _InvalidError(f"no prefix length, write {_write_text(str(block))}")
    if first != block.network_address:
        raise _InvalidError(f"bits set beyond the prefix, write {_write_text(str(block))}")
    return Network(block.network_address.packed, block.prefixlen)


def _write_block(block: Network) -> str:
    return _write_text(str(ipaddress.ip_network((block.address, block.prefix_length))))


_BLOCK = Form("a block such as 10.0.0.0/8 or 2001:db8::/32", _parse_block, _write_block)


def _parse_hint_port(node: Scalar) -> str:
    text = _parse_text(node)
    if text == NONE:
        return ""
    if text in (".", "..") or ("/" in text and not text.startswith("/")):
        raise _InvalidError("neither a name nor an absolute path")
    if len(text.encode()) > PORT_PATH_BYTES:
        raise _InvalidError(f"longer than {PORT_PATH_BYTES} bytes")
    return text


def _parse_control_socket(node: Scalar) -> str:
    text = _parse_text(node)
    if text == NONE:
        return ""
    if not text.startswith("/"):
        raise _InvalidError("not an absolute path")
    size = len(text.encode())
    if size > SOCKET_PATH_BYTES:
        raise _InvalidError(f"too long, {size} bytes")
    return text


def _write_optional(text: str) -> str:
    return _write_text(text) if text else NONE


_HINT_PORT = Form(f"a port name, an absolute path or {NONE}", _parse_hint_port, _write_optional)
_CONTROL_SOCKET = Form(
    f"an absolute path of at most {SOCKET_PATH_BYTES} bytes or {NONE}",
    _parse_control_socket,
    _write_optional,
)


# -- the keys -----------------------------------------------------------------------------


class Key(NamedTuple):
    """One key of the file."""

    name: str  # dotted
    form: Form  # of the value, or of each item
    field: str  # of Settings, dotted
    listed: bool = False
    check: Callable[[tuple[Any, ...]], str] | None = None  # of a whole list; "" for good
    allowed_list: str = ""

    @property
    def allowed(self) -> str:
        return self.allowed_list or self.form.allowed

    def write(self, value: Any) -> str:
        if self.listed:
            return f"[{', '.join(map(self.form.write, value))}]"
        return self.form.write(value)

    def value_in(self, settings: Settings) -> Any:
        value: Any = settings
        for name in self.field.split("."):
            value = getattr(value, name)
        return value


def _check_burst(offsets: tuple[float, ...]) -> str:
    if len(offsets) < BURST_ROUNDS.least:
        return "too few"
    if len(offsets) > BURST_ROUNDS.most:
        return f"too many, {len(offsets)}"
    for before, after in zip(offsets, offsets[1:]):
        if after <= before:
            return f"{write_duration(after)} does not come after {write_duration(before)}"
    return ""


def _one(name: str, form: Form, field: str = "") -> Key:
    return Key(name, form, field or name)


def _list(name: str, form: Form) -> Key:
    return Key(name, form, name, True, allowed_list=f"a list, each item {form.allowed}")


def _burst() -> Key:
    offset = _duration(bounds.BURST_OFFSET)
    least, most = BURST_ROUNDS
    durations = offset.allowed.replace("a duration", f"{least} to {most} durations")
    allowed = f"a list of {durations}, each longer than the one before"
    return Key("burst", offset, "burst", True, _check_burst, allowed)


KEYS = (
    _one("interval", _duration(bounds.INTERVAL)),
    _one("interval_with_lease", _duration(bounds.INTERVAL_WITH_LEASE)),
    _one("jitter", _percentage(bounds.JITTER)),
    _one("addresses_per_tick", _whole(bounds.ADDRESSES_PER_TICK)),
    _burst(),
    _one("rate_limit.frames_per_second", _number(bounds.BUCKET_RATE), "bucket.rate"),
    _one("rate_limit.depth", _whole(bounds.BUCKET_DEPTH), "bucket.depth"),
    _one("arp", _choice(ArpForm)),
    _one("mac_only", _SWITCH),
    _list("interfaces.include", _GLOB),
    _list("interfaces.exclude", _GLOB),
    _list("interfaces.include_kinds", _KIND),
    _list("interfaces.exclude_kinds", _KIND),
    _list("addresses.include", _BLOCK),
    _list("addresses.exclude", _BLOCK),
    _one("addresses.ipv4", _SWITCH),
    _one("addresses.ipv6", _SWITCH),
    _one("addresses.deprecated", _SWITCH),
    _one("conflict.policy", _choice(ConflictPolicy)),
    _one("conflict.hold_off", _duration(bounds.HOLD_OFF)),
    _one("reconcile_interval", _duration(bounds.RECONCILE_INTERVAL)),
    _one("hint_port", _HINT_PORT),
    _one("control_socket", _CONTROL_SOCKET),
)
_BY_NAME = {key.name: key for key in KEYS}
_SECTIONS = tuple(dict.fromkeys(key.name.partition(".")[0] for key in KEYS if "." in key.name))


def _names_in(section: str) -> list[str]:
    """The names that a section takes, in the file's order; "" is the top level."""
    if section:
        return [name.partition(".")[2] for name in _BY_NAME if name.startswith(section + ".")]
    return list(dict.fromkeys(name.partition(".")[0] for name in _BY_NAME))


# -- reading ------------------------------------------------------------------------------


class _Reading:
    """One file on its way to settings, and what is wrong with it so far."""

    def __init__(self, source: str) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._values: dict[str, Any] = {}  # by key; None for what is no good
        self._given: dict[str, tuple[Scalar, Node]] = {}  # by key or section

    def read(self, root: Node | None) -> Settings:
        if root is not None and not self._is_empty(root):
            self._mapping(root, root, "")
        self._check_intervals()
        self._check_families()
        return self._settings()

    def _report(self, at: Node, key: str, given: str, wrong: str, allowed: str = "") -> None:
        problem = Problem(self._source, at.line, at.column, key, given, wrong, allowed)
        self.problems.append(problem)

    @staticmethod
    def _is_empty(node: Node) -> bool:
        """Nothing written, as when all below a section is commented out."""
        return isinstance(node, Scalar) and not node.text and not node.quoted

    def _mapping(self, at: Node, node: Node, section: str) -> None:
        names = _names_in(section)
        if not isinstance(node, Mapping):
            wrong = node.wrong if isinstance(node, Refused) else "not a mapping"
            allowed = f"a mapping with {_series(names, 'and')}"
            self._report(at, section, node.given, wrong, allowed)
            return
        for key, value in node.items:
            self._entry(key, value, section, names)

    def _entry(self, key: Node, value: Node, section: str, names: list[str]) -> None:
        prefix = section and section + "."
        if not isinstance(key, Scalar):
            wrong = key.wrong if isinstance(key, Refused) else "not a key"
            self._report(key, section, key.given, wrong, _series(names, "or"))
        elif key.text not in names:
            self._unknown(key, prefix, names)
        elif prefix + key.text in self._given:
            first = self._given[prefix + key.text][0]
            wrong = f"a second time, first on line {first.line}"
            self._report(key, prefix + key.text, value.given, wrong, "once")
        else:
            self._given[prefix + key.text] = key, value
            self._value(key, value, prefix + key.text)

    def _unknown(self, key: Scalar, prefix: str, names: list[str]) -> None:
        name = prefix + key.given
        near = _nearest(key.text, prefix, names)
        if key.tag == "merge":
            self._report(key, name, "", "YAML merge keys are not taken", _series(names, "or"))
        elif near:
            self._report(key, name, "", f"no such key, did you mean {near}?")
        else:
            self._report(key, name, "", "no such key", _series(names, "or"))

    def _value(self, at: Scalar, node: Node, name: str) -> None:
        if name in _SECTIONS:
            if not self._is_empty(node):
                self._mapping(at, node, name)
            return
        key = _BY_NAME[name]
        value = self._list(at, node, key) if key.listed else self._one(at, node, key, name)
        self._values[name] = value

    def _one(self, at: Node, node: Node, key: Key, name: str) -> Any:
        try:
            if isinstance(node, Refused):
                raise _InvalidError(node.wrong)
            if not isinstance(node, Scalar):
                raise _InvalidError("not a single value")
            return key.form.parse(node)
        except _InvalidError as invalid:
            self._report(at, name, node.given, str(invalid), key.form.allowed)

    def _list(self, at: Node, node: Node, key: Key) -> tuple[Any, ...]:
        if not isinstance(node, Sequence):
            wrong = node.wrong if isinstance(node, Refused) else "not a list"
            if isinstance(node, Scalar) and node.text:
                wrong += f", write [{_shown(_write_text(node.text))}]"
            self._report(at, key.name, node.given, wrong, key.allowed)
            return ()
        count = len(self.problems)
        values = tuple(
            self._one(item, item, key, f"{key.name}[{index}]")
            for index, item in enumerate(node.items)
        )
        wrong = key.check(values) if key.check and len(self.problems) == count else ""
        if wrong:
            self._report(at, key.name, node.given, wrong, key.allowed)
        return values

    def _in_force(self, name: str) -> Any:
        """The value given, None where that is no good, or else the default."""
        if name in self._values:
            return self._values[name]
        return _BY_NAME[name].value_in(Settings())

    def _check_intervals(self) -> None:
        short, long = self._in_force("interval"), self._in_force("interval_with_lease")
        if short is None or long is None or long >= short:
            return
        if "interval_with_lease" in self._given:
            at, node = self._given["interval_with_lease"]
            wrong = f"shorter than interval, which is {write_duration(short)}"
            self._report(at, "interval_with_lease", node.given, wrong, "interval or longer")
        else:
            at, node = self._given["interval"]
            wrong = f"longer than interval_with_lease, which is {write_duration(long)}"
            self._report(at, "interval", node.given, wrong, "interval_with_lease or shorter")

    def _check_families(self) -> None:
        names = ("addresses.ipv4", "addresses.ipv6", "mac_only")
        if any(self._in_force(name) is not False for name in names):
            return
        at, node = max(self._given[name] for name in names[:2])
        self._report(
            at,
            f"addresses.{at.text}",
            node.given,
            "nothing is left to announce",
            "one of addresses.ipv4, addresses.ipv6 and mac_only true",
        )

    def _settings(self) -> Settings:
        fields: dict[str, Any] = {}
        sections: dict[str, dict[str, Any]] = {}
        for name, value in self._values.items():
            section, _, field = _BY_NAME[name].field.rpartition(".")
            (sections.setdefault(section, {}) if section else fields)[field] = value
        defaults = Settings()
        for section, inner in sections.items():
            fields[section] = getattr(defaults, section)._replace(**inner)
        return defaults._replace(**fields)


def _nearest(name: str, prefix: str, names: list[str]) -> str:
    """The key that was probably meant: here, or of the same name elsewhere."""
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS], names, 1)
    if near:
        return prefix + near[0]
    return " or ".join(key.name for key in KEYS if key.name.rpartition(".")[2] == name)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        before = text[: error.start]
        wrong = f"the byte 0x{text[error.start]:02x} is not UTF-8"
        column = len(before) - before.rfind(b"\n")
        raise _FatalError(before.count(b"\n") + 1, column, wrong) from None


def load(text: bytes, source: str) -> Settings:
    """The settings that ``text`` says; ``source`` is its name in errors."""
    source = _escaped(source)
    if len(text) > MOST_BYTES:
        raise ConfigError([_whole_file(source, "too large", f"at most {MOST_BYTES} bytes")])
    reading = _Reading(source)
    try:
        settings = reading.read(_compose(_decoded(text)))
    except _FatalError as fatal:
        problem = Problem(source, fatal.line, fatal.column, "", "", fatal.wrong, fatal.allowed)
        raise ConfigError([problem]) from None
    if reading.problems:
        raise ConfigError(reading.problems)
    return settings


def _whole_file(source: str, wrong: str, allowed: str = "") -> Problem:
    return Problem(source, 0, 0, "", "", wrong, allowed)


def read(path: str | os.PathLike[str]) -> Settings:
    """The settings that the file at ``path`` says."""
    source = os.fspath(path)
    try:
        text = _content(source)
    except _InvalidError as invalid:
        raise ConfigError([_whole_file(_escaped(source), str(invalid))]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        wrong = f"cannot be read: {reason}"
        raise ConfigError([_whole_file(_escaped(source), wrong)]) from None
    return load(text, source)


def _content(path: str) -> bytes:
    # O_NONBLOCK: opening a fifo that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _InvalidError("not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)


# -- writing ------------------------------------------------------------------------------


def dump(settings: Settings) -> str:
    """The whole configuration as YAML; :func:`load` reads the same settings from it."""
    lines: list[str] = []
    above = ""
    for key in KEYS:
        section, _, name = key.name.rpartition(".")
        if section and section != above:
            lines.append(f"{section}:")
        above = section
        lines.append(f"{'  ' if section else ''}{name}: {key.write(key.value_in(settings))}")
    return "\n".join(lines) + "\n"


def override(settings: Settings, given: dict[str, str]) -> Settings:
    """The settings, with keys of the top level as the command line gives them.

    An interval given there raises ``interval_with_lease``, which it can't give, to itself.
    """
    problems, values = [], {}
    for name, text in given.items():
        key = _BY_NAME[name]
        try:
            values[key.field] = key.form.parse(Scalar(0, 0, text, text, "str", False))
        except _InvalidError as invalid:
            option = "--" + name.replace("_", "-")
            shown = _quoted(text)
            problems.append(
                Problem("command line", 0, 0, option, shown, str(invalid), key.form.allowed)
            )
    if problems:
        raise ConfigError(problems)
    overridden = settings._replace(**values)
    with_lease = max(overridden.interval, overridden.interval_with_lease)
    return overridden._replace(interval_with_lease=with_lease)
