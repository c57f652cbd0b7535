"""How each kind of value is written: durations, percentages, numbers, switches, names, lists.

Responsible for one value at a time, in both directions, and for the words that say what is
allowed.  Knows neither keys nor files.  Never guesses: what YAML would turn into something else
(``yes``, ``010``, ``1:30``, a quoted number) is refused wherever a mistake could hide in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import yaml

from garp_agent.config.errors import InvalidError, require, series
from garp_agent.config.settings import Network
from garp_agent.wire.bounds import BURST_ROUNDS, Bound


class Form(NamedTuple):
    """One way to write a value."""

    allowed: str  # completes "allowed ..."
    parse: Callable[[Any], Any]  # a yaml.ScalarNode, or a list's values; raises InvalidError
    write: Callable[[Any], str]  # parse reads the same value back
    item: Any = None  # the Form of a list's items; None for a single value


# -- numbers, with and without a unit ------------------------------------------------------

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def _split(text: str, wrong: str) -> tuple[Decimal, str]:
    """Return a number with at most three decimals, and its unit."""
    match = re.fullmatch(r"(-?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,3})?)(ms|[smh%]|)", text)
    if not match:
        raise InvalidError(wrong)
    return Decimal(match[1]), match[2]


def _require_within(
    bound: Bound, value: Decimal, small: str = "small", large: str = "large"
) -> float:
    number = float(value) + 0.0  # -0 is 0
    require(number >= bound.least, f"too {small}")
    require(number <= bound.most, f"too {large}")
    return number


def _write_number(number: float | Decimal) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def write_duration(seconds: float) -> str:
    """Write in the largest unit that needs no decimals, else in seconds or milliseconds."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    if seconds >= 1 and round(seconds, 3) == seconds:
        return f"{_write_number(seconds)}s"
    return f"{_write_number(seconds * 1000)}ms"


def duration_form(bound: Bound) -> Form:
    """Take ``200ms``, ``1.5s``, ``10m``, ``1h`` as seconds."""

    def parse(node: yaml.ScalarNode) -> float:
        number, unit = _split(node.value, "not a duration")
        require(unit != "%", "not a duration")
        require(unit, f"no unit, write {node.value}s")
        return _require_within(bound, number * _SECONDS[unit], "short", "long")

    least, most = map(write_duration, bound)
    return Form(f"a duration from {least} to {most}", parse, write_duration)


def percentage_form(bound: Bound) -> Form:
    """Take ``12.5%`` as the fraction 0.125."""

    def parse(node: yaml.ScalarNode) -> float:
        number, unit = _split(node.value, "not a percentage")
        meant = _write_number(number if number >= 1 else number * 100)  # 20 and 0.2 mean 20%
        hint = f", write {meant}%" if number >= 0 and not unit else ""
        require(unit == "%", "not a percentage" + hint)
        return _require_within(bound, number / 100)

    def write(fraction: float) -> str:
        return f"{_write_number(fraction * 100)}%"

    least, most = map(write, bound)
    return Form(f"a percentage from {least} to {most}", parse, write)


def number_form(bound: Bound, is_whole: bool = False) -> Form:
    """Take plain digits: YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_000 as 1000."""
    noun, tags = ("whole number", ("int",)) if is_whole else ("number", ("int", "float"))

    def parse(node: yaml.ScalarNode) -> float:
        is_number = re.fullmatch("-?[0-9.]+", node.value)
        require(not (node.style and is_number), f"text because of its quotes, write {node.value}")
        require(tag_of(node) in tags, f"not a {noun}")
        value = _require_within(bound, _split(node.value, "not in plain decimal digits")[0])
        return int(value) if is_whole else value

    least, most = map(_write_number, bound)
    return Form(f"a {noun} from {least} to {most}", parse, _write_number)


# -- words ---------------------------------------------------------------------------------


def _parse_switch(node: yaml.ScalarNode) -> bool:
    words = {"true": ("true", "yes", "on"), "false": ("false", "no", "off")}
    (meant,) = [word for word, same in words.items() if node.value.lower() in same] or [""]
    require(meant, "not a switch")
    require(node.value == meant and not node.style, f"not a switch, write {meant}")
    return meant == "true"


SWITCH = Form("true or false", _parse_switch, lambda on: "true" if on else "false")


def choice_form(enum: type[Enum]) -> Form:
    """Take one of an enumeration's values."""
    words = {member.value: member for member in enum}

    def parse(node: yaml.ScalarNode) -> Enum:
        require(node.value in words, "no such choice")
        return words[node.value]

    return Form(series(words, "or"), parse, lambda member: str(member.value))


# -- names, paths and address blocks -------------------------------------------------------


def tag_of(node: yaml.ScalarNode) -> str:
    """Return what YAML takes a scalar for: "str", "int", "float", "bool", "null", "merge", ..."""
    return str(node.tag).rpartition(":")[2]


def quoted(text: str) -> str:
    """Write a text in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_text(text: str) -> str:
    """Write without quotes where YAML reads the same text back, in a list too; else with them."""
    resolver: Any = yaml.resolver.Resolver()
    is_text = resolver.resolve(yaml.ScalarNode, text, (True, False)).endswith(":str")
    return text if is_text and re.fullmatch(r"[\w/][\w./*-]*", text, re.ASCII) else quoted(text)


_NOUNS = {"bool": "a boolean", "int": "a number", "float": "a number", "timestamp": "a date"}


def _text_form(allowed: str, *rules: tuple[bytes, str], none: bool = False) -> Form:
    """Take text, unless a rule's pattern matches its UTF-8 bytes, which {} counts in the words.

    With ``none``, the word none means "".
    """

    def parse(node: yaml.ScalarNode) -> str:
        text, tag = str(node.value), tag_of(node)
        hint = f" in YAML, write {quoted(text)} if a name is meant"
        require(tag not in _NOUNS, _NOUNS.get(tag, "") + hint)
        require(tag != "null", "no value (null in YAML)")
        require(text, "empty")
        require(text.isprintable(), "contains a character that is not printable")
        if none and text == "none":
            return ""
        for pattern, wrong in rules:
            raw = text.encode()
            require(not re.match(pattern, raw), wrong.format(len(raw)))
        return text

    return Form(allowed, parse, lambda text: write_text(text) if text else "none")


GLOB = _text_form(
    "an interface name or glob, such as eth0 or en*",
    (rb".*[ /:]", "contains a space, / or :, which no interface name does"),
    # IFNAMSIZ is 16 with its NUL, netdevice(7).
    (rb"[^*?[]{16,}\Z", "longer than an interface name, which has at most 15 bytes"),
)
KIND = _text_form(
    "a link kind, such as vlan, bridge or physical",
    (rb".*[^A-Za-z0-9_-]", "not a word of letters, digits, _ and -"),
)
HINT_PORT = _text_form(
    "a port name, an absolute path or none",
    (rb"\.\.?\Z|[^/].*/", "neither a name nor an absolute path"),
    (rb".{4096}", "longer than 4095 bytes"),  # PATH_MAX is 4096 with its NUL, linux/limits.h
    none=True,
)
CONTROL_SOCKET = _text_form(
    "an absolute path of at most 107 bytes or none",
    (rb"[^/]", "not an absolute path"),
    (rb".{108}", "too long, {} bytes"),  # sun_path is 108 with its NUL, unix(7)
    none=True,
)


def _parse_block(node: yaml.ScalarNode) -> Network:
    address, _, prefix = node.value.partition("/")
    try:
        block = ipaddress.ip_network(node.value, strict=False)
        first = ipaddress.ip_address(address)
    except ValueError:
        raise InvalidError("not an address block") from None
    require("%" not in address, "not an address block")  # a zone (RFC 4007), which Python takes
    written = write_text(str(block))
    require(re.fullmatch("0|[1-9][0-9]*", prefix), f"no prefix length, write {written}")
    require(first == block.network_address, f"bits set beyond the prefix, write {written}")
    return Network(block.network_address.packed, block.prefixlen)


BLOCK = Form(
    "a block such as 10.0.0.0/8 or 2001:db8::/32",
    _parse_block,
    lambda block: write_text(str(ipaddress.ip_network((block.address, block.prefix_length)))),
)


# -- lists ---------------------------------------------------------------------------------


def list_form(item: Form) -> Form:
    """Take a list, which may be empty."""

    allowed = f"a list, each item {item.allowed}"
    return Form(allowed, tuple, lambda values: f"[{', '.join(map(item.write, values))}]", item)


def offsets_form(bound: Bound) -> Form:
    """Take a list of durations that grow, one for each round of a burst."""
    durations = duration_form(bound)
    ranged = durations.allowed.replace("a duration", "{} to {} durations".format(*BURST_ROUNDS))
    allowed = f"a list of {ranged}, each longer than the one before"

    def parse(values: tuple[float, ...]) -> tuple[float, ...]:
        require(len(values) >= BURST_ROUNDS.least, "too few")
        require(len(values) <= BURST_ROUNDS.most, f"too many, {len(values)}")
        for before, after in zip(values, values[1:]):
            pair = map(write_duration, (after, before))
            require(before < after, " is not longer than ".join(pair))
        return values

    return list_form(durations)._replace(allowed=allowed, parse=parse)
