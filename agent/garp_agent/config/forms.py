"""The table of keys, and how each kind of value is written: durations, switches, names, lists.

Responsible for one value at a time, in both directions, and for the words that say what is
allowed.  Knows no files.  Never guesses: what YAML would turn into something else (``yes``,
``010``, ``1:30``, a quoted number) is refused wherever a mistake could hide in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import yaml

from garp_agent.config.errors import InvalidError, require, series
from garp_agent.config.settings import JITTER, ArpForm, ConflictPolicy, Network
from garp_agent.wire.bounds import BURST_ROUNDS


class Form(NamedTuple):
    """One way to write a value."""

    allowed: str  # completes "allowed ..."
    parse: Callable[[Any], Any]  # a yaml.ScalarNode, or a list's values; raises InvalidError
    write: Callable[[Any], str]  # parse reads the same value back
    item: Any = None  # the Form of a list's items; None for a single value


_NUMBER = r"-?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,3})?"  # at most three decimals


def _quantity(
    noun: str,
    units: dict[str, Any],
    write: Callable[[Any], str],
    bound: tuple[float, ...],
    unitless: Callable[[str], tuple[str, ...]] = lambda text: (),  # what is wrong, what to write
    beyond: tuple[str, str] = ("too small", "too large"),
) -> Form:
    """Take a number times its unit, within a bound."""

    def parse(node: yaml.ScalarNode) -> float:
        match: Any = re.fullmatch(f"({_NUMBER})({'|'.join(units)})", node.value)
        fault = re.fullmatch(_NUMBER, node.value) and unitless(node.value)
        require(match, *(fault or (f"not {noun}",)))
        number = float(Decimal(match[1]) * units[match[2]]) + 0.0  # -0 is 0
        require(number >= least, beyond[0])
        require(number <= most, beyond[1])
        return number

    least, most = bound
    return Form(f"{noun} from {write(least)} to {write(most)}", parse, write)


def _write_number(number: float | Decimal) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _number(noun: str, least: float, most: float, *tags: str) -> Form:
    """Take plain digits: YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_000 as 1000."""
    form = _quantity(noun, {"": 1}, _write_number, (least, most))

    def parse(node: yaml.ScalarNode) -> float:
        is_quoted = node.style and re.fullmatch("-?[0-9.]+", node.value)
        require(not is_quoted, "text because of its quotes", node.value)
        require(tag_of(node) in tags, f"not {noun}")
        require(re.fullmatch(_NUMBER, node.value), "not in plain decimal digits")
        number: float = form.parse(node)
        return number if "float" in tags else int(number)

    return form._replace(parse=parse)


def _percentage(*bound: float) -> Form:
    """Take ``12.5%`` as the fraction 0.125."""

    def unitless(text: str) -> tuple[str, str]:
        meant = Decimal(text) * (1 if Decimal(text) >= 1 else 100)  # 20 and 0.2 mean 20%
        return "not a percentage", f"{_write_number(meant)}%"

    def write(part: float) -> str:
        return f"{_write_number(part * 100)}%"

    return _quantity("a percentage", {"%": Decimal("0.01")}, write, bound, unitless)


def _duration(*bound: float) -> Form:
    """Take ``200ms``, ``1.5s``, ``10m``, ``1h`` as seconds."""
    units = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600}

    def unitless(text: str) -> tuple[str, str]:
        return "no unit", f"{text}s"

    beyond = "too short", "too long"
    return _quantity("a duration", units, _write_duration, bound, unitless, beyond)


def _write_duration(seconds: float) -> str:
    """Write in the largest unit that needs no decimals, else in seconds or milliseconds."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    is_short = seconds < 1 or round(seconds, 3) != seconds
    return f"{_write_number(seconds * 1000)}ms" if is_short else f"{_write_number(seconds)}s"


def _choice(words: dict[str, Any], wrong: str = "no such choice", **hints: str) -> Form:
    """Take one of these words; ``hints`` has the word for other spellings, in small letters.

    With ``hints``, a word in quotes is refused, too.
    """
    written = {value: word for word, value in words.items()}

    def parse(node: yaml.ScalarNode) -> Any:
        is_good = node.value in words and not (hints and node.style)
        require(is_good, wrong, hints.get(node.value.lower(), ""))
        return words[node.value]

    return Form(series(words, "or"), parse, written.__getitem__)


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
        text, noun = str(node.value), _NOUNS.get(tag_of(node))
        require(not noun, f"{noun} in YAML", quoted(text), meant=" if a name is meant")
        require(tag_of(node) != "null", "no value (null in YAML)")
        require(text, "empty")
        require(text.isprintable(), "contains a character that is not printable")
        if none and text == "none":
            return ""
        for pattern, wrong in rules:
            require(not re.match(pattern, text.encode()), wrong.format(len(text.encode())))
        return text

    return Form(allowed, parse, lambda text: write_text(text) if text else "none")


def _parse_block(node: yaml.ScalarNode) -> Network:
    try:
        address = ipaddress.ip_interface(node.value)
    except ValueError:
        raise InvalidError("not an address block") from None
    require("%" not in node.value, "not an address block")  # a zone (RFC 4007), which Python takes
    block = address.network
    written = write_text(str(block))
    require(re.search(r"/(0|[1-9][0-9]*)\Z", node.value), "no prefix length", written)
    require(address.ip == block.network_address, "bits set beyond the prefix", written)
    return Network(block.network_address.packed, block.prefixlen)


def _write_block(block: Network) -> str:
    return write_text(str(ipaddress.ip_network((block.address, block.prefix_length))))


_HARDWARE_TEXT = _text_form(
    "a hardware address such as 02:00:5e:00:53:01, or a glob of one: ? stands for a digit, *"
    " for an octet or for all that are not written"
)


def _parse_hardware_address(node: yaml.ScalarNode) -> tuple[bytes, ...]:
    octets = _HARDWARE_TEXT.parse(node).split(":")
    if len(octets) < 6 and octets[-1][1:] == "*":  # 02:0* is short for 02:0?:*
        octets.append("*")
    if octets.count("*") == 1:
        at = octets.index("*")
        octets[at:at] = ["*"] * (6 - len(octets))
    one = r"[0-9A-Fa-f?][0-9A-Fa-f?*]|\*"
    require(len(octets) == 6 and all(re.fullmatch(one, each) for each in octets), "not one")
    digits = "".join("??" if each == "*" else each.replace("*", "?") for each in octets)
    bits_and_mask = digits, re.sub("[^?]", "f", digits)
    return tuple(bytes.fromhex(each.replace("?", "0")) for each in bits_and_mask)


def _write_hardware_address(bits_and_mask: tuple[bytes, bytes]) -> str:
    bits, mask = (each.hex() for each in bits_and_mask)
    digits = "".join(digit if counts == "f" else "?" for digit, counts in zip(bits, mask))
    octets = (digits[at : at + 2] for at in range(0, len(digits), 2))
    return quoted(":".join("*" if each == "??" else each for each in octets))


def _list(item: Form) -> Form:
    """Take a list, which may be empty."""

    def write(values: tuple[Any, ...]) -> str:
        return f"[{', '.join(map(item.write, values))}]"

    return Form(f"a list, each item {item.allowed}", tuple, write, item)


def _offsets(item: Form) -> Form:
    """Take a list of durations that grow, one for each round of a burst."""
    few, many = BURST_ROUNDS

    def parse(values: tuple[float, ...]) -> tuple[float, ...]:
        require(len(values) >= few, "too few")
        require(len(values) <= many, f"too many, {len(values)}")
        for before, after in zip(values, values[1:]):
            pair = map(item.write, (after, before))
            require(before < after, " is not longer than ".join(pair))
        return values

    ranged = item.allowed.replace("a duration", f"{few} to {many} durations")
    allowed = f"a list of {ranged}, each longer than the one before"
    return _list(item)._replace(allowed=allowed, parse=parse)


_WORDS = {"true": ("true", "yes", "on"), "false": ("false", "no", "off")}
_HINTS = {spelling: word for word, spellings in _WORDS.items() for spelling in spellings}
_SWITCH = _choice({"true": True, "false": False}, "not a switch", **_HINTS)
_BLOCK = Form("a block such as 10.0.0.0/8 or 2001:db8::/32", _parse_block, _write_block)
_BLOCKS = _list(_BLOCK)
_HARDWARE_ADDRESS = Form(_HARDWARE_TEXT.allowed, _parse_hardware_address, _write_hardware_address)
_GLOBS = _list(
    _text_form(
        "an interface name or glob, such as eth0 or en*",
        (rb".*[ /]", "contains a space or /, which no interface name does"),
        # ALTIFNAMSIZ is 128 with its NUL, <linux/if.h>.
        (rb"[^*?[]{128,}\Z", "longer than an interface name, which has at most 127 bytes"),
    )
)
_KINDS = _list(
    _text_form(
        "a link kind, such as vlan, bridge or physical",
        (rb".*[^A-Za-z0-9_-]", "not a word of letters, digits, _ and -"),
    )
)

# By dotted name, in the order of the file: a section and a key in it.  Settings has the same names.
FORMS = {
    "interval": _duration(0.1, 270.0),
    "interval_with_lease": _duration(0.1, 270.0),  # and not shorter than the interval in force
    "jitter": _percentage(*JITTER),
    "addresses_per_tick": _number("a whole number", 1, 256, "int"),
    "burst": _offsets(_duration(0.0, 10.0)),
    "rate_limit.frames_per_second": _number("a number", 0.1, 1000.0, "int", "float"),
    "rate_limit.depth": _number("a whole number", 2, 1000, "int"),  # two for arp: both
    "arp": _choice({each.value: each for each in ArpForm}),
    "mac_only": _SWITCH,
    "interfaces.include": _GLOBS,
    "interfaces.exclude": _GLOBS,
    "interfaces.include_kinds": _KINDS,
    "interfaces.exclude_kinds": _KINDS,
    "addresses.include": _BLOCKS,
    "addresses.exclude": _BLOCKS,
    "addresses.ipv4": _SWITCH,
    "addresses.ipv6": _SWITCH,
    "addresses.deprecated": _SWITCH,
    "conflict.policy": _choice({each.value: each for each in ConflictPolicy}),
    "conflict.hold_off": _duration(1.0, 3600.0),
    "conflict.ignore": _list(_HARDWARE_ADDRESS),
    "reconcile_interval": _duration(10.0, 86400.0),
    "hint_port": _text_form(
        "a port name, an absolute path or none",
        (rb"\.\.?\Z|[^/].*/", "neither a name nor an absolute path"),
        (rb".{4096}", "longer than 4095 bytes"),  # PATH_MAX is 4096 with its NUL, linux/limits.h
        none=True,
    ),
    "control_socket": _text_form(
        "an absolute path of at most 107 bytes or none",
        (rb"[^/]", "not an absolute path"),
        (rb".{108}", "too long, {} bytes"),  # sun_path is 108 with its NUL, unix(7)
        none=True,
    ),
}
