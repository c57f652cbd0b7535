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
    too: tuple[str, str] = ("too small", "too large")  # what is wrong beyond a bound

    def within(self, bound: Bound) -> Form:
        """Return the same form for numbers within a bound."""

        def parse(node: yaml.ScalarNode) -> float:
            number: float = self.parse(node)
            require(number >= bound.least, self.too[0])
            require(number <= bound.most, self.too[1])
            return number

        least, most = map(self.write, bound)
        return self._replace(allowed=f"{self.allowed} from {least} to {most}", parse=parse)


_NUMBER = r"-?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,3})?"  # at most three decimals
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def _measured(text: str, units: dict[str, Decimal], wrong: str) -> float:
    """Return a number times its unit."""
    match: Any = re.fullmatch(f"({_NUMBER})({'|'.join(units)})", text)
    require(match, wrong)
    return float(Decimal(match[1]) * units[match[2]]) + 0.0  # -0 is 0


def _write_number(number: float | Decimal) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def write_duration(seconds: float) -> str:
    """Write in the largest unit that needs no decimals, else in seconds or milliseconds."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    is_short = seconds < 1 or round(seconds, 3) != seconds
    return f"{_write_number(seconds * 1000)}ms" if is_short else f"{_write_number(seconds)}s"


def _parse_duration(node: yaml.ScalarNode) -> float:
    """Take ``200ms``, ``1.5s``, ``10m``, ``1h`` as seconds."""
    require(not re.fullmatch(_NUMBER, node.value), f"no unit, write {node.value}s")
    return _measured(node.value, _SECONDS, "not a duration")


def _parse_percentage(node: yaml.ScalarNode) -> float:
    """Take ``12.5%`` as the fraction 0.125."""
    hint = ""
    number = Decimal(node.value) if re.fullmatch(_NUMBER, node.value) else Decimal(-1)
    if number >= 0:
        meant = number if number >= 1 else number * 100  # 20 and 0.2 mean 20%
        hint = f", write {_write_number(meant)}%"
    return _measured(node.value, {"%": Decimal("0.01")}, "not a percentage" + hint)


def _number_form(noun: str, *tags: str) -> Form:
    """Take plain digits: YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_000 as 1000."""

    def parse(node: yaml.ScalarNode) -> float:
        is_number = re.fullmatch("-?[0-9.]+", node.value)
        require(not (node.style and is_number), f"text because of its quotes, write {node.value}")
        require(tag_of(node) in tags, f"not {noun}")
        number = _measured(node.value, {"": Decimal(1)}, "not in plain decimal digits")
        return number if "float" in tags else int(number)

    return Form(noun, parse, _write_number)


DURATION = Form("a duration", _parse_duration, write_duration, too=("too short", "too long"))
PERCENTAGE = Form("a percentage", _parse_percentage, lambda part: _write_number(part * 100) + "%")
NUMBER = _number_form("a number", "int", "float")
WHOLE_NUMBER = _number_form("a whole number", "int")


def choice_form(words: dict[str, Any], wrong: str = "no such choice", **hints: str) -> Form:
    """Take one of these words; ``hints`` has the word for other spellings, in small letters."""
    written = {value: word for word, value in words.items()}

    def parse(node: yaml.ScalarNode) -> Any:
        hint = hints.get(node.value.lower())
        require(not hint or (node.value == hint and not node.style), f"{wrong}, write {hint}")
        require(node.value in words, wrong)
        return words[node.value]

    return Form(series(words, "or"), parse, written.__getitem__)


_SWITCH_HINTS = {"true": "true", "yes": "true", "on": "true"}
_SWITCH_HINTS.update({"false": "false", "no": "false", "off": "false"})
SWITCH = choice_form({"true": True, "false": False}, "not a switch", **_SWITCH_HINTS)


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
            require(not re.match(pattern, text.encode()), wrong.format(len(text.encode())))
        return text

    return Form(allowed, parse, lambda text: write_text(text) if text else "none")


GLOB = _text_form(
    "an interface name or glob, such as eth0 or en*",
    (rb".*[ /]", "contains a space or /, which no interface name does"),
    # ALTIFNAMSIZ is 128 with its NUL, <linux/if.h>.
    (rb"[^*?[]{128,}\Z", "longer than an interface name, which has at most 127 bytes"),
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
    try:
        address = ipaddress.ip_interface(node.value)
    except ValueError:
        raise InvalidError("not an address block") from None
    require("%" not in node.value, "not an address block")  # a zone (RFC 4007), which Python takes
    block = address.network
    written = write_text(str(block))
    require(re.search(r"/(0|[1-9][0-9]*)\Z", node.value), f"no prefix length, write {written}")
    require(address.ip == block.network_address, f"bits set beyond the prefix, write {written}")
    return Network(block.network_address.packed, block.prefixlen)


BLOCK = Form(
    "a block such as 10.0.0.0/8 or 2001:db8::/32",
    _parse_block,
    lambda block: write_text(str(ipaddress.ip_network((block.address, block.prefix_length)))),
)


_HARDWARE_TEXT = _text_form(
    "a hardware address such as 02:00:5e:00:53:01, or a glob of one: ? stands for a digit, *"
    " for an octet or for all that are not written"
)


def _parse_hardware_address(node: yaml.ScalarNode) -> tuple[bytes, bytes]:
    octets = _HARDWARE_TEXT.parse(node).split(":")
    require(all(re.fullmatch(r"[0-9A-Fa-f?][0-9A-Fa-f?*]|\*", each) for each in octets), "not one")
    if len(octets) < 6 and octets[-1][1:] == "*":  # 02:0* is short for 02:0?:*
        octets.append("*")
    if len(octets) < 6:
        require(octets.count("*") == 1, "not one")
        at = octets.index("*")
        octets[at:at] = ["*"] * (6 - len(octets))
    require(len(octets) == 6, "not one")
    digits = "".join("??" if each == "*" else each.replace("*", "?") for each in octets)
    return bytes.fromhex(digits.replace("?", "0")), bytes.fromhex(
        re.sub(r"\w", "f", digits).replace("?", "0")
    )


def _write_hardware_address(bits_and_mask: tuple[bytes, bytes]) -> str:
    bits, mask = (each.hex() for each in bits_and_mask)
    digits = "".join(digit if counts == "f" else "?" for digit, counts in zip(bits, mask))
    octets = [digits[at : at + 2] for at in range(0, len(digits), 2)]
    return quoted(":".join("*" if each == "??" else each for each in octets))


HARDWARE_ADDRESS = Form(_HARDWARE_TEXT.allowed, _parse_hardware_address, _write_hardware_address)


def list_form(item: Form) -> Form:
    """Take a list, which may be empty."""
    allowed = f"a list, each item {item.allowed}"
    return Form(allowed, tuple, lambda values: f"[{', '.join(map(item.write, values))}]", item)


def offsets_form(item: Form) -> Form:
    """Take a list of durations that grow, one for each round of a burst."""
    few, many = BURST_ROUNDS
    ranged = item.allowed.replace("a duration", f"{few} to {many} durations")

    def parse(values: tuple[float, ...]) -> tuple[float, ...]:
        require(len(values) >= few, "too few")
        require(len(values) <= many, f"too many, {len(values)}")
        for before, after in zip(values, values[1:]):
            pair = map(write_duration, (after, before))
            require(before < after, " is not longer than ".join(pair))
        return values

    allowed = f"a list of {ranged}, each longer than the one before"
    return list_form(item)._replace(allowed=allowed, parse=parse)
