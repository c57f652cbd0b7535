"""YAML itself: which texts are read, and the whole line about those that cannot be.

Every text here that is refused must give lines with the file and the line, never a traceback.
"""

from __future__ import annotations

import pytest

from garp_agent.config.document import MOST_BYTES
from garp_agent.config.settings import Settings
from tests.config.refusals import refusals, settings_of

SCANNING = "1: not YAML: while scanning"
IN_QUOTES = "; write a value that contains [ ] { } ? or : in quotes"
GLOB_IN_QUOTES = "; write a glob that begins with * in quotes"

# A text, and what is wrong with it, after "f.yaml:".
REFUSED: list[tuple[str | bytes, str]] = [
    ("a: b: c", "1: not YAML: mapping values are not allowed here"),
    (
        "interfaces: {include: [*]}",
        f"{SCANNING} an alias, expected alphabetic or numeric character, but found ']'"
        + GLOB_IN_QUOTES,
    ),
    (
        "hint_port: *",
        f"{SCANNING} an alias, expected alphabetic or numeric character, but found the end"
        + GLOB_IN_QUOTES,
    ),
    (
        "interfaces: {include: [eth[01]]}",
        f"1: not YAML: while parsing a flow sequence, expected ',' or ']', but got '['{IN_QUOTES}",
    ),
    (
        "jitter: %20",
        f"{SCANNING} for the next token, found character '%' that cannot start any token; "
        "write such a value in quotes",
    ),
    (
        "jitter:\t20%",
        f"{SCANNING} for the next token, found character '\\t' that cannot start any token; "
        "write spaces instead of tabs",
    ),
    ("interval: !x!y 5s", "1: not YAML: while parsing a node, found undefined tag handle '!x!'"),
    ('interval: "\\UFFFFFFFF"', "1: not YAML: a number or an escape is out of range"),
    (f"%YAML {5000 * '1'}.1", "1: not YAML: a number or an escape is out of range"),
    ("interval: 5s\n---\n", "2: a second document begins; allowed one document"),
    ("interval: 5s\n...\nmore\n", "3: not YAML: expected '<document start>', but found '<scalar>'"),
    ("a\0b", "1: the character U+0000 is not allowed in YAML"),
    ("a: 1\n\n\x7f\n", "3: the character U+007F is not allowed in YAML"),
    (b"\xff\xfei\0n\0", "1: the byte 0xff is not UTF-8"),
    (b"# \xc3\xa9\n# \xe9\n", "2: the byte 0xe9 is not UTF-8"),
    (b"\xef\xbb\xbfinterval: 5\xe9", "1: the byte 0xe9 is not UTF-8"),
    (17 * "[", "1: nested too deeply; allowed at most 16 levels"),
    (5000 * "[" + 5000 * "]", "1: nested too deeply; allowed at most 16 levels"),
    ("burst:\n" + 5000 * "- ", "2: nested too deeply; allowed at most 16 levels"),
    (5000 * "{a: ", "1: nested too deeply; allowed at most 16 levels"),
    (5000 * "? ", "1: nested too deeply; allowed at most 16 levels"),
    (
        "".join(f"{n * ' '}a:\n" for n in range(1000)),
        "16: nested too deeply; allowed at most 16 levels",
    ),
    (
        "addresses:\n  include:\n" + 9_996 * "  - 10.0.0.0/8\n",
        "9998: too many values; allowed at most 10000 keys and values",
    ),
]


@pytest.mark.parametrize(("text", "line"), REFUSED, ids=lambda value: repr(value)[:40])
def test_a_text_that_is_not_readable_is_refused_with_one_line(text: str | bytes, line: str) -> None:
    assert refusals(text) == [f"f.yaml:{line}"]


def test_a_text_that_is_too_large_is_refused_as_a_whole() -> None:
    assert refusals((MOST_BYTES + 1) * "#") == ["f.yaml: too large; allowed at most 1048576 bytes"]


def test_a_text_is_read_up_to_the_limits() -> None:
    settings_of(MOST_BYTES * "#")
    settings_of("addresses:\n  include:\n" + 9_995 * "  - 10.0.0.0/8\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# nothing but a comment\n",
        "---\n",
        "---\n...\n",
        "{}",
        "rate_limit:\n",
        "interfaces:\n  # include: [eth0]\naddresses:\n",
        "\ufeff",
        "\ufeffinterval: 5s\n",
        "interval: 5s\r\njitter: 20%\r\n",
        '"interval": "5s"\n',
        "? interval\n: 5s\n",
        "%YAML 1.1\n---\ninterval: 5s\n",
    ],
)
def test_a_text_that_changes_nothing_gives_the_defaults(text: str) -> None:
    assert settings_of(text) == Settings()


DURATION = "allowed a duration from 100ms to 270s"
KEYS = (
    "interval, interval_with_lease, jitter, addresses_per_tick, burst, rate_limit, arp, mac_only, "
    "interfaces, addresses, conflict, reconcile_interval, hint_port {} control_socket"
)
TOP = f"allowed a mapping with {KEYS.format('and')}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("interval: &a 5s", f"interval: given &a 5s: YAML anchors are not supported; {DURATION}"),
        (
            "&a interval: 5s",
            f"given &a interval: YAML anchors are not supported; allowed {KEYS.format('or')}",
        ),
        (
            "interval: !!str 5s",
            f"interval: given !!str 5s: YAML tags are not supported; {DURATION}",
        ),
        ("interval: ! 5s", f"interval: given ! 5s: YAML tags are not supported; {DURATION}"),
        (
            "interval: !!python/object/apply:os.system [reboot]",
            "interval: given !!python/object/apply:os.system [reboot]: "
            f"YAML tags are not supported; {DURATION}",
        ),
        ("!!map {}", f"given !!map {{}}: YAML tags are not supported; {TOP}"),
        (
            "conflict: *it",
            "conflict: given *it: YAML aliases are not supported, "
            'write "*it" if a glob is meant; allowed a mapping with policy and hold_off',
        ),
        (
            "<<: {interval: 5s}",
            f"<<: YAML merge keys are not supported; allowed {KEYS.format('or')}",
        ),
        ("[interval, 5s]", f"given [interval, 5s]: not a mapping; {TOP}"),
        ("- interval: 5s", f"given a list: not a mapping; {TOP}"),
        ("interval", f"given interval: not a mapping; {TOP}"),
        ("~", f"given ~: not a mapping; {TOP}"),
        (5 * "\ufeff", f"given {4 * '{}'}: not a mapping; {TOP}".replace("{}", r"\ufeff")),
    ],
)
def test_yaml_beyond_keys_and_values_is_refused_where_it_stands(text: str, line: str) -> None:
    assert refusals(text) == [f"f.yaml:1: {line}"]


def test_aliases_are_not_followed() -> None:
    laughs = "a0: &a0 [lol]\n"
    for level in range(1, 100):
        laughs += f"a{level}: &a{level} [{', '.join(9 * [f'*a{level - 1}'])}]\n"
    lines = refusals(f"{laughs}burst: *a99\n")
    assert len(lines) == 101
    assert lines[-1].startswith("f.yaml:101: burst: given *a99: YAML aliases are not supported")
