"""The configuration: what is accepted, the whole text of what is not, and the way back.

Error texts are pinned as an operator reads them; the example file and the reference
page are held to the code.
"""

from __future__ import annotations

import os
import re
import socket
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.config import read as config
from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    Bucket,
    Conflict,
    ConflictPolicy,
    InterfaceSelection,
    Network,
    Settings,
)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "contrib" / "garp-agent.yaml"
REFERENCE = ROOT / "docs" / "configuration.md"


def errors_of(text: str | bytes) -> list[str]:
    """The lines that an operator reads about ``text`` in the file f.yaml."""
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(config.ConfigError) as caught:
        config.load(raw, "f.yaml")
    return str(caught.value).split("\n")


def load(text: str) -> Settings:
    return config.load(text.encode(), "f.yaml")


# -- what is accepted ---------------------------------------------------------------------

EVERY_KEY = """\
interval: 1.5s
interval_with_lease: 2m
jitter: 12.5%
addresses_per_tick: 7
burst: [50ms, 1s]
rate_limit: {frames_per_second: 2.5, depth: 20}
arp: both
mac_only: true
interfaces:
  include: [eth*, "*.100", 'en[ps]?']
  exclude: [docker0]
  include_kinds: [vlan, physical]
  exclude_kinds:
  - veth
addresses: {include: [10.0.0.0/8, "2001:db8::/32"], exclude: [10.0.0.5/32], ipv4: true, ipv6: false,
  deprecated: true}
conflict: {policy: defend, hold_off: 10s}
reconcile_interval: 1h
hint_port: /dev/hvc1
control_socket: none
"""


def test_every_key_sets_its_value() -> None:
    assert load(EVERY_KEY) == Settings(
        interval=1.5,
        interval_with_lease=120.0,
        jitter=0.125,
        addresses_per_tick=7,
        burst=(0.05, 1.0),
        bucket=Bucket(2.5, 20),
        arp=ArpForm.BOTH,
        mac_only=True,
        interfaces=InterfaceSelection(
            include=("eth*", "*.100", "en[ps]?"),
            exclude=("docker0",),
            include_kinds=("vlan", "physical"),
            exclude_kinds=("veth",),
        ),
        addresses=AddressSelection(
            include=(
                Network(bytes([10, 0, 0, 0]), 8),
                Network(bytes([0x20, 0x01, 0x0D, 0xB8, *bytes(12)]), 32),
            ),
            exclude=(Network(bytes([10, 0, 0, 5]), 32),),
            ipv4=True,
            ipv6=False,
            deprecated=True,
        ),
        conflict=Conflict(ConflictPolicy.DEFEND, 10.0),
        reconcile_interval=3600.0,
        hint_port="/dev/hvc1",
        control_socket="",
    )


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
def test_says_the_defaults(text: str) -> None:
    assert load(text) == Settings()


def test_names_and_paths_of_any_length_that_can_be() -> None:
    assert load("interfaces: {include: [eth*-of-any-length]}").interfaces.include
    assert load("interfaces: {include: [fifteen-letters]}").interfaces.include
    assert load(f"control_socket: /{53 * 'é'}").control_socket == f"/{53 * 'é'}"


def test_a_key_left_out_of_a_section_keeps_its_default() -> None:
    assert load("rate_limit: {depth: 30}").bucket == Bucket(rate=10.0, depth=30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("270s", 270.0),
        ("4.5m", 270.0),
        ("0.1s", 0.1),
        ("100.001ms", 0.100001),
        ("0.001h", 3.6),
        ("'5s'", 5.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert load(f"interval_with_lease: 270s\ninterval: {text}").interval == seconds


@given(st.integers(0, 270_000), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_are_the_nearest_floats(thousandths: int, unit: str) -> None:
    size = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
    seconds = Fraction(thousandths, 1000) * size[unit]
    text = f"interval_with_lease: 270s\ninterval: {thousandths // 1000}.{thousandths % 1000:03}"
    if Fraction(1, 10) <= seconds <= 270:
        assert load(text + unit).interval == float(seconds)
    else:
        assert len(errors_of(text + unit)) == 1


# Each bound of core/settings.py: the least and the most that pass, and the next beyond.
BOUNDS = [
    ("interval", "100ms", "270s", "99.999ms", "270.001s"),
    ("interval_with_lease", "5s", "270s", "99.999ms", "270.001s"),
    ("jitter", "0%", "50%", "-0.001%", "50.001%"),
    ("addresses_per_tick", "1", "256", "0", "257"),
    ("burst", "[0ms]", "[10s]", "[-0.001ms]", "[10.001s]"),
    ("burst", "[1s]", f"[{', '.join(f'{n}s' for n in range(10))}]", "[]", None),
    ("rate_limit.frames_per_second", "0.1", "1000", "0.099", "1000.001"),
    ("rate_limit.depth", "2", "1000", "1", "1001"),
    ("conflict.hold_off", "1s", "1h", "999.999ms", "3600.001s"),
    ("reconcile_interval", "10s", "24h", "9.999s", "86400.001s"),
]


@pytest.mark.parametrize(("key", "least", "most", "below", "above"), BOUNDS)
def test_bounds(key: str, least: str, most: str, below: str, above: str | None) -> None:
    section, _, name = key.rpartition(".")

    def text(value: str) -> str:
        lease = "interval_with_lease: 270s\n" if key == "interval" else ""
        return f"{section}: {{{name}: {value}}}" if section else f"{lease}{name}: {value}"

    load(text(least))
    load(text(most))
    for value in filter(None, (below, above)):
        (line,) = errors_of(text(value))
        assert re.search(r": (too (small|large|short|long|few)); allowed ", line)


# -- what is refused, word for word -------------------------------------------------------

DURATION = "allowed a duration from 100ms to 270s"
PERCENTAGE = "allowed a percentage from 0% to 50%"
WHOLE = "allowed a whole number from 1 to 256"
BURST = "allowed a list of 1 to 10 durations from 0ms to 10s, each longer than the one before"
NAME = "allowed an interface name or glob, such as eth0 or en*"
KIND = "allowed a link kind, such as vlan, bridge or physical"
BLOCK = "allowed a block such as 10.0.0.0/8 or 2001:db8::/32"
PORT = "allowed a port name, an absolute path or none"
SOCKET = "allowed an absolute path of at most 107 bytes or none"
FRONT_KEYS = (
    "interval, interval_with_lease, jitter, addresses_per_tick, burst, rate_limit, arp, mac_only, "
    "interfaces, addresses, conflict, reconcile_interval, hint_port"
)
KEYS = f"allowed {FRONT_KEYS} or control_socket"
TOP = f"allowed a mapping with {FRONT_KEYS} and control_socket"

VALUES = [
    ("interval: 5", f"interval: given 5: no unit, write 5s; {DURATION}"),
    ("interval: '5'", f"interval: given '5': no unit, write 5s; {DURATION}"),
    ("interval: 0.5", f"interval: given 0.5: no unit, write 0.5s; {DURATION}"),
    ("interval: 5 s", f"interval: given 5 s: not a duration; {DURATION}"),
    ("interval: 5\n  s", f"interval: given 5 s: not a duration; {DURATION}"),
    ("interval: 5S", f"interval: given 5S: not a duration; {DURATION}"),
    ("interval: 05s", f"interval: given 05s: not a duration; {DURATION}"),
    ("interval: 5sm", f"interval: given 5sm: not a duration; {DURATION}"),
    ("interval: 1m30s", f"interval: given 1m30s: not a duration; {DURATION}"),
    ("interval: 1:30", f"interval: given 1:30: not a duration; {DURATION}"),
    ("interval: 1.0001s", f"interval: given 1.0001s: not a duration; {DURATION}"),
    ("interval: 1\u0665s", f"interval: given 1\u0665s: not a duration; {DURATION}"),
    ("interval: s", f"interval: given s: not a duration; {DURATION}"),
    ("interval:", f"interval: given nothing: not a duration; {DURATION}"),
    ("interval: ~", f"interval: given ~: not a duration; {DURATION}"),
    ("interval: -5s", f"interval: given -5s: too short; {DURATION}"),
    ("interval: 99ms", f"interval: given 99ms: too short; {DURATION}"),
    ("interval: 1h", f"interval: given 1h: too long; {DURATION}"),
    ("interval: [5s]", f"interval: given [5s]: not a single value; {DURATION}"),
    ("interval: {a: b}", f"interval: given {{a: b}}: not a single value; {DURATION}"),
    ("interval:\n- 5s", f"interval: given a list: not a single value; {DURATION}"),
    ("interval:\n  a: b", f"interval: given a mapping: not a single value; {DURATION}"),
    ('interval: "5\\x1b[1m"', f'interval: given "5\\x1b[1m": not a duration; {DURATION}'),
    ("interval: 5\u202es", f"interval: given 5\\u202es: not a duration; {DURATION}"),
    ("interval: |\n  5\n  s", f"interval: given | 5 s: not a duration; {DURATION}"),
    (
        "interval: " + 61 * "5",
        f"interval: given {57 * '5'}...: not a duration; {DURATION}",
    ),
    ("jitter: 0.2", f"jitter: given 0.2: not a percentage, write 20%; {PERCENTAGE}"),
    ("jitter: 20", f"jitter: given 20: not a percentage, write 20%; {PERCENTAGE}"),
    ("jitter: 1", f"jitter: given 1: not a percentage, write 1%; {PERCENTAGE}"),
    ("jitter: 0", f"jitter: given 0: not a percentage, write 0%; {PERCENTAGE}"),
    ("jitter: -1", f"jitter: given -1: not a percentage; {PERCENTAGE}"),
    ("jitter: 20 %", f"jitter: given 20 %: not a percentage; {PERCENTAGE}"),
    ("jitter: -1%", f"jitter: given -1%: too small; {PERCENTAGE}"),
    ("jitter: 51%", f"jitter: given 51%: too large; {PERCENTAGE}"),
    ("addresses_per_tick: 0", f"addresses_per_tick: given 0: too small; {WHOLE}"),
    ("addresses_per_tick: -4", f"addresses_per_tick: given -4: too small; {WHOLE}"),
    ("addresses_per_tick: 257", f"addresses_per_tick: given 257: too large; {WHOLE}"),
    (
        "addresses_per_tick: '4'",
        f"addresses_per_tick: given '4': a text because of its quotes; {WHOLE}",
    ),
    ("addresses_per_tick: four", f"addresses_per_tick: given four: not a whole number; {WHOLE}"),
    ("addresses_per_tick: 4.0", f"addresses_per_tick: given 4.0: not a whole number; {WHOLE}"),
    ("addresses_per_tick: yes", f"addresses_per_tick: given yes: not a whole number; {WHOLE}"),
    (
        "addresses_per_tick: 010",
        f"addresses_per_tick: given 010: not in plain decimal digits; {WHOLE}",
    ),
    (
        "addresses_per_tick: 1:30",
        f"addresses_per_tick: given 1:30: not in plain decimal digits; {WHOLE}",
    ),
    (
        "addresses_per_tick: 0x10",
        f"addresses_per_tick: given 0x10: not in plain decimal digits; {WHOLE}",
    ),
    (
        "rate_limit: {frames_per_second: .inf}",
        "rate_limit.frames_per_second: given .inf: not in plain decimal digits; "
        "allowed a number from 0.1 to 1000",
    ),
    (
        "rate_limit: {frames_per_second: fast}",
        "rate_limit.frames_per_second: given fast: not a number; allowed a number from 0.1 to 1000",
    ),
    (
        "rate_limit: 5",
        "rate_limit: given 5: not a mapping; allowed a mapping with frames_per_second and depth",
    ),
    (
        "rate_limit: ~",
        "rate_limit: given ~: not a mapping; allowed a mapping with frames_per_second and depth",
    ),
    ("burst: 0ms", f"burst: given 0ms: not a list, write [0ms]; {BURST}"),
    ("burst:", f"burst: given nothing: not a list; {BURST}"),
    ("burst: []", f"burst: given []: too few; {BURST}"),
    (
        "burst: [0ms,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]",
        f"burst: given [0ms,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]: too many, 11; {BURST}",
    ),
    (
        "burst: [0ms, 400ms, 400ms]",
        f"burst: given [0ms, 400ms, 400ms]: 400ms does not come after 400ms; {BURST}",
    ),
    (
        "burst: [1s, 100ms]",
        f"burst: given [1s, 100ms]: 100ms does not come after 1s; {BURST}",
    ),
    (
        "burst: [0]",
        "burst[0]: given 0: no unit, write 0s; allowed a duration from 0ms to 10s",
    ),
    (
        "arp: Request",
        "arp: given Request: no such choice; allowed request, reply, both or probe",
    ),
    (
        "conflict: {policy: no}",
        "conflict.policy: given no: no such choice; allowed yield, warn or defend",
    ),
    ("mac_only: yes", "mac_only: given yes: not a switch, write true; allowed true or false"),
    ("mac_only: Off", "mac_only: given Off: not a switch, write false; allowed true or false"),
    ("mac_only: 'true'", "mac_only: given 'true': not a switch, write true; allowed true or false"),
    ("mac_only: 1", "mac_only: given 1: not a switch; allowed true or false"),
    (
        "interfaces: {include: eth0}",
        "interfaces.include: given eth0: not a list, write [eth0]; "
        "allowed a list, each item an interface name or glob, such as eth0 or en*",
    ),
    (
        "interfaces: {include: 'eth[01]'}",
        "interfaces.include: given 'eth[01]': not a list, write [\"eth[01]\"]; "
        "allowed a list, each item an interface name or glob, such as eth0 or en*",
    ),
    ("interfaces: {include: ['']}", f"interfaces.include[0]: given '': empty; {NAME}"),
    (
        "interfaces: {include: [~]}",
        f"interfaces.include[0]: given ~: nothing at all to YAML; {NAME}",
    ),
    (
        "interfaces: {include: [no]}",
        "interfaces.include[0]: given no: a boolean to YAML, "
        f'write "no" if a name is meant; {NAME}',
    ),
    (
        "interfaces: {include: [010]}",
        "interfaces.include[0]: given 010: a number to YAML, "
        f'write "010" if a name is meant; {NAME}',
    ),
    (
        "interfaces: {include: [2024-01-01]}",
        "interfaces.include[0]: given 2024-01-01: a date to YAML, "
        f'write "2024-01-01" if a name is meant; {NAME}',
    ),
    (
        "interfaces: {include: [eth0:1]}",
        "interfaces.include[0]: given eth0:1: has a space, / or :, as no interface name has; "
        + NAME,
    ),
    (
        "interfaces: {include: [eth/*]}",
        "interfaces.include[0]: given eth/*: has a space, / or :, as no interface name has; "
        + NAME,
    ),
    (
        'interfaces: {include: ["eth\\0"]}',
        'interfaces.include[0]: given "eth\\0": has a character that is not printable; ' + NAME,
    ),
    (
        'interfaces: {include: ["\\ud800"]}',
        'interfaces.include[0]: given "\\ud800": has a character that is not printable; ' + NAME,
    ),
    (
        "interfaces: {exclude: [sixteen-letters-]}",
        "interfaces.exclude[0]: given sixteen-letters-: "
        f"longer than an interface name, which has 15 bytes; {NAME}",
    ),
    (
        "interfaces: {include_kinds: [vlan bridge]}",
        "interfaces.include_kinds[0]: given vlan bridge: "
        f"not a word of letters, digits, _ and -; {KIND}",
    ),
    (
        "addresses: {include: [10.0.0.1/8]}",
        "addresses.include[0]: given 10.0.0.1/8: bits set beyond the prefix, write 10.0.0.0/8; "
        + BLOCK,
    ),
    (
        "addresses: {include: ['2001:db8::1/32']}",
        "addresses.include[0]: given '2001:db8::1/32': bits set beyond the prefix, "
        f'write "2001:db8::/32"; {BLOCK}',
    ),
    (
        "addresses: {exclude: [10.0.0.5]}",
        "addresses.exclude[0]: given 10.0.0.5: no prefix length, write 10.0.0.5/32; " + BLOCK,
    ),
    (
        "addresses: {exclude: [10.0.0.0/255.0.0.0]}",
        "addresses.exclude[0]: given 10.0.0.0/255.0.0.0: no prefix length, write 10.0.0.0/8; "
        + BLOCK,
    ),
    (
        "addresses: {exclude: [10.0.0.0/08]}",
        "addresses.exclude[0]: given 10.0.0.0/08: no prefix length, write 10.0.0.0/8; " + BLOCK,
    ),
    (
        "addresses: {exclude: [10.0.0.0/33]}",
        f"addresses.exclude[0]: given 10.0.0.0/33: not an address block; {BLOCK}",
    ),
    (
        "addresses: {exclude: ['fe80::%eth0/64']}",
        f"addresses.exclude[0]: given 'fe80::%eth0/64': not an address block; {BLOCK}",
    ),
    (
        "addresses: {exclude: [1]}",
        f"addresses.exclude[0]: given 1: not an address block; {BLOCK}",
    ),
    ("hint_port: a/b", f"hint_port: given a/b: neither a name nor an absolute path; {PORT}"),
    ("hint_port: ..", f"hint_port: given ..: neither a name nor an absolute path; {PORT}"),
    (
        "hint_port: off",
        f'hint_port: given off: a boolean to YAML, write "off" if a name is meant; {PORT}',
    ),
    ("hint_port:", f"hint_port: given nothing: nothing at all to YAML; {PORT}"),
    ("hint_port: ''", f"hint_port: given '': empty; {PORT}"),
    (
        'hint_port: "a\\0b"',
        f'hint_port: given "a\\0b": has a character that is not printable; {PORT}',
    ),
    (
        f"hint_port: /{4095 * 'x'}",
        f"hint_port: given /{56 * 'x'}...: longer than 4095 bytes; {PORT}",
    ),
    (
        "control_socket: control.sock",
        f"control_socket: given control.sock: not an absolute path; {SOCKET}",
    ),
    (
        f"control_socket: /{52 * 'é'}xxx",
        f"control_socket: given /{52 * 'é'}xxx: too long, 108 bytes; {SOCKET}",
    ),
]

STRUCTURE = [
    ("intervall: 5s", "intervall: no such key, did you mean interval?"),
    ("mac-only: true", "mac-only: no such key, did you mean mac_only?"),
    ("depth: 3", "depth: no such key, did you mean rate_limit.depth?"),
    (
        "exclude: []",
        "exclude: no such key, did you mean interfaces.exclude or addresses.exclude?",
    ),
    ("conflict: {polcy: warn}", "conflict.polcy: no such key, did you mean conflict.policy?"),
    ("conflict: {zzz: 1}", "conflict.zzz: no such key; allowed policy or hold_off"),
    ("zzz: 1", f"zzz: no such key; {KEYS}"),
    ("1: 1", f"1: no such key; {KEYS}"),
    ('"a\\nb": 1', f'"a\\nb": no such key; {KEYS}'),
    ("[a, b]: 1", f"given [a, b]: not a key; {KEYS}"),
    ("<<: {interval: 5s}", f"<<: YAML merge keys are not taken; {KEYS}"),
    ("&a interval: 5s", f"given &a interval: YAML anchors are not taken; {KEYS}"),
    ("interval: &a 5s", f"interval: given &a 5s: YAML anchors are not taken; {DURATION}"),
    ("interval: !!str 5s", f"interval: given !!str 5s: YAML tags are not taken; {DURATION}"),
    ("interval: ! 5s", f"interval: given ! 5s: YAML tags are not taken; {DURATION}"),
    (
        "interval: !!python/object/apply:os.system [reboot]",
        "interval: given !!python/object/apply:os.system [reboot]: "
        f"YAML tags are not taken; {DURATION}",
    ),
    (
        "interfaces: {include: [*lan]}",
        "interfaces.include[0]: given *lan: YAML aliases are not taken, "
        f'write "*lan" if a glob is meant; {NAME}',
    ),
    (
        "interfaces: {include: *lan }",
        "interfaces.include: given *lan: YAML aliases are not taken, "
        'write "*lan" if a glob is meant; '
        "allowed a list, each item an interface name or glob, such as eth0 or en*",
    ),
    (
        "conflict: *it",
        'conflict: given *it: YAML aliases are not taken, write "*it" if a glob is meant; '
        "allowed a mapping with policy and hold_off",
    ),
    ("[interval, 5s]", f"given [interval, 5s]: not a mapping; {TOP}"),
    ("interval", f"given interval: not a mapping; {TOP}"),
    ("~", f"given ~: not a mapping; {TOP}"),
    ("!!map {}", f"given !!map {{}}: YAML tags are not taken; {TOP}"),
    ("a: b: c", "not YAML: mapping values are not allowed here"),
    (
        "interfaces: {include: [*]}",
        "not YAML: while scanning an alias, expected alphabetic or numeric character, "
        "but found ']'; a glob that begins with * is written in quotes",
    ),
    (
        "hint_port: *",
        "not YAML: while scanning an alias, expected alphabetic or numeric character, "
        "but found the end; a glob that begins with * is written in quotes",
    ),
    (
        "interfaces: {include: [eth[01]]}",
        "not YAML: while parsing a flow sequence, expected ',' or ']', but got '['; "
        "a value with [ ] { } ? or : in it is written in quotes",
    ),
    (
        "jitter: %20",
        "not YAML: while scanning for the next token, found character '%' that cannot start "
        "any token; such a value is written in quotes",
    ),
    (
        "jitter:\t20%",
        "not YAML: while scanning for the next token, found character '\\t' that cannot start "
        "any token; write spaces for tabs",
    ),
    ("interval: !x!y 5s", "not YAML: while parsing a node, found undefined tag handle '!x!'"),
    ('interval: "\\UFFFFFFFF"', "not YAML: a number or an escape is out of range"),
    (f"%YAML {5000 * '1'}.1", "not YAML: a number or an escape is out of range"),
    (17 * "[", "nested too deeply; allowed 16 levels"),
    ("a\0b", "the character U+0000 may not stand in YAML"),
    ("a: \x1b", "the character U+001B may not stand in YAML"),
    (b"\xff\xfei\0n\0", "the byte 0xff is not UTF-8"),
    (b"\xef\xbb\xbfinterval: 5\xe9", "the byte 0xe9 is not UTF-8"),
]


def ids(cases: list[tuple[Any, str]]) -> list[str]:
    return [str(text)[:40] for text, _ in cases]


@pytest.mark.parametrize(("text", "line"), VALUES, ids=ids(VALUES))
def test_a_value_that_is_refused(text: str, line: str) -> None:
    assert errors_of(text) == ["f.yaml:1: " + line]


@pytest.mark.parametrize(("text", "line"), STRUCTURE, ids=ids(STRUCTURE))
def test_a_structure_that_is_refused(text: str | bytes, line: str) -> None:
    assert errors_of(text) == ["f.yaml:1: " + line]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "interval: 5s\n\ninterval: 6s\n",
            ["f.yaml:3: interval: given 6s: a second time, first on line 1; allowed once"],
        ),
        (
            "conflict: {}\nconflict: {policy: warn}\n",
            [
                "f.yaml:2: conflict: given {policy: warn}: a second time, first on line 1; "
                "allowed once"
            ],
        ),
        (
            "conflict:\n  policy: warn\n  'policy': warn\n",
            ["f.yaml:3: conflict.policy: given warn: a second time, first on line 2; allowed once"],
        ),
        (
            "interval: 1m\ninterval_with_lease: 5s\n",
            [
                "f.yaml:2: interval_with_lease: given 5s: "
                "shorter than interval, which is 1m; allowed interval or longer"
            ],
        ),
        (
            "interval_with_lease: 4s\n",
            [
                "f.yaml:1: interval_with_lease: given 4s: "
                "shorter than interval, which is 5s; allowed interval or longer"
            ],
        ),
        (
            "# slow\ninterval: 90s\n",
            [
                "f.yaml:2: interval: given 90s: "
                "longer than interval_with_lease, which is 1m; "
                "allowed interval_with_lease or shorter"
            ],
        ),
        (
            "addresses:\n  ipv6: false\n  ipv4: false\n",
            [
                "f.yaml:3: addresses.ipv4: given false: nothing is left to announce; "
                "allowed one of addresses.ipv4, addresses.ipv6 and mac_only true"
            ],
        ),
        ("interval: 5s\n---\n", ["f.yaml:2: a second document begins; allowed one document"]),
        (
            "interval: 5s\n...\nmore\n",
            ["f.yaml:3: not YAML: expected '<document start>', but found '<scalar>'"],
        ),
        ("a: 1\n\n\x7f\n", ["f.yaml:3: the character U+007F may not stand in YAML"]),
        (b"# \xc3\xa9\n# \xe9\n", ["f.yaml:2: the byte 0xe9 is not UTF-8"]),
        (f"burst:\n{10_000 * '- '}", ["f.yaml:2: nested too deeply; allowed 16 levels"]),
        (
            "addresses:\n  include:\n" + 9_996 * "  - 10.0.0.0/8\n",
            ["f.yaml:9998: too many values; allowed 10000 keys and values"],
        ),
        ((1 << 20) * "#" + "#", ["f.yaml: too large; allowed at most 1048576 bytes"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_and_their_lines(text: str | bytes, lines: list[str]) -> None:
    assert errors_of(text) == lines


def test_an_interval_in_error_is_not_compared() -> None:
    assert len(errors_of("interval: 0s\ninterval_with_lease: 1s\n")) == 1
    assert len(errors_of("interval: 10s\ninterval_with_lease: 1\n")) == 1


def test_mac_only_is_something_to_announce() -> None:
    assert load("addresses: {ipv4: false, ipv6: false}\nmac_only: true").mac_only


@pytest.mark.parametrize("text", [9_995 * "  - 10.0.0.0/8\n", (1 << 20) * "#"], ids=len)
def test_as_much_as_is_allowed(text: str) -> None:
    before = "" if text[0] == "#" else "addresses:\n  include:\n"
    load(before + text)


def test_all_errors_at_once_in_the_order_of_the_file() -> None:
    text = """\
interval: 5
colour: blue
interfaces: {include: [eth0, a/b, *lan], exclude: none}
rate_limit:
  depth: 1
  dept: 12
burst: [100ms, 5,
  20s]
interval: 7s
interval_with_lease: 1s
arp: {form: both}
addresses: {ipv4: false, ipv6: false}
"""
    assert errors_of(text) == [
        f"f.yaml:1: interval: given 5: no unit, write 5s; {DURATION}",
        f"f.yaml:2: colour: no such key; {KEYS}",
        "f.yaml:3: interfaces.include[1]: given a/b: has a space, / or :, "
        f"as no interface name has; {NAME}",
        "f.yaml:3: interfaces.include[2]: given *lan: YAML aliases are not taken, "
        f'write "*lan" if a glob is meant; {NAME}',
        "f.yaml:3: interfaces.exclude: given none: not a list, write [none]; "
        "allowed a list, each item an interface name or glob, such as eth0 or en*",
        "f.yaml:5: rate_limit.depth: given 1: too small; allowed a whole number from 2 to 1000",
        "f.yaml:6: rate_limit.dept: no such key, did you mean rate_limit.depth?",
        "f.yaml:7: burst[1]: given 5: no unit, write 5s; allowed a duration from 0ms to 10s",
        "f.yaml:8: burst[2]: given 20s: too long; allowed a duration from 0ms to 10s",
        "f.yaml:9: interval: given 7s: a second time, first on line 1; allowed once",
        "f.yaml:11: arp: given {form: both}: not a single value; "
        "allowed request, reply, both or probe",
        "f.yaml:12: addresses.ipv6: given false: nothing is left to announce; "
        "allowed one of addresses.ipv4, addresses.ipv6 and mac_only true",
    ]


@pytest.mark.parametrize("between", [", ", ",\n "], ids=["on one line", "on many"])
def test_errors_found_last_have_their_place_too(between: str) -> None:
    entries = ("arp: 1", "interval: 2m", "addresses: {ipv4: false, ipv6: false}", "zzz: 1")
    found = [line.split(": ")[1] for line in errors_of(f"{{{between.join(entries)}}}")]
    assert found == ["arp", "interval", "addresses.ipv6", "zzz"]


def test_an_error_in_its_parts() -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(b"burst: [0ms, 20s]\n", "f.yaml")
    assert caught.value.errors == (
        config.Problem(
            source="f.yaml",
            line=1,
            column=14,
            key="burst[1]",
            given="20s",
            wrong="too long",
            allowed="a duration from 0ms to 10s",
        ),
    )


def test_aliases_do_not_multiply() -> None:
    laughs = "a0: &a0 [lol]\n"
    for level in range(1, 100):
        laughs += f"a{level}: &a{level} [{', '.join(9 * [f'*a{level - 1}'])}]\n"
    lines = errors_of(f"{laughs}burst: *a99\n")
    assert len(lines) == 101
    assert lines[-1] == (
        'f.yaml:101: burst: given *a99: YAML aliases are not taken, write "*a99" if a glob is '
        f"meant; {BURST}"
    )


# -- files --------------------------------------------------------------------------------


def test_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(EVERY_KEY)
    assert config.read(path) == config.read(str(path)) == load(EVERY_KEY)


def file_error(path: str) -> str:
    with pytest.raises(config.ConfigError) as caught:
        config.read(path)
    return str(caught.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    fifo, loop, large, bad, unix = (
        str(tmp_path / name) for name in ("fifo", "loop", "large", "bad", "unix")
    )
    os.mkfifo(fifo)
    os.symlink(loop, loop)
    Path(large).write_bytes(b"#" * ((1 << 20) + 1))
    Path(bad).write_text("\ninterval: 5\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(unix)
        assert file_error(unix) == f"{unix}: cannot be read: No such device or address"
    assert file_error(f"{tmp_path}/none") == f"{tmp_path}/none: cannot be read: {NO_FILE}"
    assert file_error(f"{tmp_path}") == f"{tmp_path}: not a regular file"
    assert file_error(fifo) == f"{fifo}: not a regular file"
    assert file_error("/dev/zero") == "/dev/zero: not a regular file"
    assert file_error(loop) == f"{loop}: cannot be read: Too many levels of symbolic links"
    assert file_error("a\0b") == "a\\x00b: cannot be read: not a file name"
    assert file_error(large) == f"{large}: too large; allowed at most 1048576 bytes"
    assert file_error(bad) == f"{bad}:2: interval: given 5: no unit, write 5s; {DURATION}"


NO_FILE = "No such file or directory"


def test_a_file_name_fit_for_no_terminal(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b")
    assert file_error(path) == f"{tmp_path}/\\udcff\\x1b: cannot be read: {NO_FILE}"


# -- any bytes ----------------------------------------------------------------------------


def gives_settings_or_errors(raw: bytes) -> None:
    try:
        settings = config.load(raw, "f.yaml")
    except config.ConfigError as error:
        refused = error
    else:
        assert load(config.dump(settings)) == settings
        return
    for line in str(refused).split("\n"):
        assert re.match(r"f\.yaml(:[1-9][0-9]*)?: ", line)
        assert line.isprintable()


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x00")
@example(b"? ? ? [")
@example(b'"\\UFFFFFFFF": "\\ud800"')
def test_any_bytes(raw: bytes) -> None:
    gives_settings_or_errors(raw)


SNIPPETS = (
    *(key.name for key in config.KEYS),
    *("interfaces", "addresses", "rate_limit", "conflict", "include", "depth", "policy"),
    *(" ", "\n", "\n  ", ": ", ", ", "- ", "[", "]", "{", "}", "\t", "? ", "# "),
    *("&a ", "*a", "!!int ", "!x ", "<<", "'", '"', "|\n ", "> ", "%YAML 1.1\n", "---\n", "...\n"),
    *("5s", "100ms", "20%", "5", "yes", "true", "false", "~", "eth*", "10.0.0.0/8", "::/0"),
    *("\\x00", "\\ud800", "\x85", "\u2028", "\ufeff", "é", "\U0001f600"),
)


@given(st.lists(st.sampled_from(SNIPPETS), max_size=40).map("".join))
def test_any_text_like_yaml(text: str) -> None:
    gives_settings_or_errors(text.encode())


@given(st.data())
def test_a_good_file_with_a_slip_in_it(data: st.DataObject) -> None:
    lines = EVERY_KEY.splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 1))
    line = lines[number]
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, len(line)))
    lines[number] = line[:start] + data.draw(st.sampled_from(["", *SNIPPETS])) + line[end:]
    gives_settings_or_errors("".join(lines).encode())


# -- and back -----------------------------------------------------------------------------


def microseconds(least: float, most: float) -> st.SearchStrategy[float]:
    return st.integers(round(least * 1e6), round(most * 1e6)).map(lambda number: number / 1e6)


def networks() -> st.SearchStrategy[Network]:
    def network(size: int, number: int, length: int) -> Network:
        host_bits = 8 * size - min(length, 8 * size)
        kept = number % (1 << 8 * size) >> host_bits << host_bits
        return Network(kept.to_bytes(size, "big"), 8 * size - host_bits)

    numbers = st.integers(0, (1 << 128) - 1)
    return st.builds(network, st.sampled_from([4, 16]), numbers, st.integers(0, 128))


PRINTABLE = st.characters(exclude_categories=("C", "Z"))
TEXTS = st.one_of(
    st.text(PRINTABLE, min_size=1, max_size=15),
    st.sampled_from(
        ["no", "5", "~", "null", "1e3", "1.5", "*", "&a", "-", "- a", "#", "a #b", "="]
    ),
    st.sampled_from(
        ["010", "<<", "2024-01-01", "'", '"', "\\", "a,b", "[x]*", "é", "%", "@", "!a"]
    ),
)
GLOBS = TEXTS.filter(lambda text: not set(text) & set("/: ") and len(text.encode()) <= 15)
KINDS = st.from_regex(r"[A-Za-z0-9_-]{1,15}", fullmatch=True)
PATHS = TEXTS.map(lambda text: "/" + text.replace("/", "_"))
PORTS = TEXTS.filter(lambda text: "/" not in text and text not in (".", "..", "none"))


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=3).map(tuple)


def settings_with(interval: float) -> st.SearchStrategy[Settings]:
    return st.builds(
        Settings,
        interval=st.just(interval),
        interval_with_lease=microseconds(interval, 270),
        jitter=st.integers(0, 50_000).map(lambda number: number / 100_000),
        addresses_per_tick=st.integers(1, 256),
        burst=st.sets(microseconds(0, 10), min_size=1, max_size=10).map(sorted).map(tuple),
        bucket=st.builds(
            Bucket,
            rate=st.integers(100, 1_000_000).map(lambda number: number / 1_000),
            depth=st.integers(2, 1_000),
        ),
        arp=st.sampled_from(ArpForm),
        mac_only=st.just(True),
        interfaces=st.builds(
            InterfaceSelection,
            include=tuples(GLOBS),
            exclude=tuples(GLOBS),
            include_kinds=tuples(KINDS),
            exclude_kinds=tuples(KINDS),
        ),
        addresses=st.builds(
            AddressSelection, include=tuples(networks()), exclude=tuples(networks())
        ),
        conflict=st.builds(
            Conflict, policy=st.sampled_from(ConflictPolicy), hold_off=microseconds(1, 3600)
        ),
        reconcile_interval=microseconds(10, 86_400),
        hint_port=st.one_of(st.just(""), PORTS, PATHS),
        control_socket=st.one_of(st.just(""), PATHS),
    )


@given(microseconds(0.1, 270).flatmap(settings_with))
def test_what_is_dumped_loads_back(settings: Settings) -> None:
    assert load(config.dump(settings)) == settings


def test_the_whole_dump() -> None:
    assert (
        config.dump(load(EVERY_KEY))
        == """\
interval: 1.5s
interval_with_lease: 2m
jitter: 12.5%
addresses_per_tick: 7
burst: [50ms, 1s]
rate_limit:
  frames_per_second: 2.5
  depth: 20
arp: both
mac_only: true
interfaces:
  include: [eth*, "*.100", "en[ps]?"]
  exclude: [docker0]
  include_kinds: [vlan, physical]
  exclude_kinds: [veth]
addresses:
  include: [10.0.0.0/8, "2001:db8::/32"]
  exclude: [10.0.0.5/32]
  ipv4: true
  ipv6: false
  deprecated: true
conflict:
  policy: defend
  hold_off: 10s
reconcile_interval: 1h
hint_port: /dev/hvc1
control_socket: none
"""
    )


@pytest.mark.parametrize("name", ["0?", "no", "5", "~", "1.5", "a,b", "[x]", '"', "\\", "#", "é"])
def test_names_that_yaml_would_take_for_something_else(name: str) -> None:
    chosen = Settings(interfaces=InterfaceSelection(include=(name,)))
    assert load(config.dump(chosen)) == chosen


# -- one key for each setting, the example, the reference ---------------------------------


def leaves(value: Any, name: str = "") -> list[str]:
    """The dotted names of all fields that hold no further fields."""
    if not hasattr(value, "_fields"):
        return [name]
    inner = ((field, getattr(value, field)) for field in value._fields)
    return [
        leaf for field, each in inner for leaf in leaves(each, f"{name}.{field}" if name else field)
    ]


def test_every_setting_has_one_key() -> None:
    assert [key.field for key in config.KEYS] == leaves(Settings())


def test_the_example_is_the_defaults_with_comments() -> None:
    text = EXAMPLE.read_text()
    assert load(text) == Settings()
    bare = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert bare == config.dump(Settings()).splitlines()


def test_the_reference_lists_every_key_with_its_default_and_bounds() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9_.]+)` \| `(.*?)` \| (.*?) \| .+ \|$", REFERENCE.read_text(), re.M
    )
    defaults = Settings()
    assert rows == [
        (key.name, key.write(key.value_in(defaults)), key.allowed) for key in config.KEYS
    ]


def test_the_errors_shown_in_the_reference() -> None:
    text = """\
interval: 5
rate_limit:
  dept: 3
interfaces: {include: [eth0, *lan]}
addresses: {exclude: [10.0.0.1/8]}
"""
    (shown,) = re.findall(r"^```\n(.*?)\n```$", REFERENCE.read_text(), re.M | re.S)
    with pytest.raises(config.ConfigError) as caught:
        config.load(text.encode(), "/etc/garp-agent/config.yaml")
    assert str(caught.value) == shown


PLACES = {
    "duration": ["interval: {}", "reconcile_interval: {}"],
    "percentage": ["jitter: {}"],
    "number": ["rate_limit:\n  frames_per_second: {}"],
    "switch": ["mac_only: {}"],
    "name, glob, path": ["interfaces:\n  include:\n  - {}"],
    "block": ["addresses:\n  exclude:\n  - {}"],
    "list": ["interfaces:\n  exclude: {}"],
}


@pytest.mark.parametrize("form", PLACES)
def test_how_the_reference_says_that_values_are_written(form: str) -> None:
    row = rf"^\| {form} \| (.*?) \| (.*) \|$"
    ((written, refused),) = re.findall(row, REFERENCE.read_text(), re.M)
    for text in re.findall("`(.*?)`", written):
        assert any(is_good(place.format(text)) for place in PLACES[form]), text
    for text in re.findall("`(.*?)`", refused):
        assert not any(is_good(place.format(text)) for place in PLACES[form]), text


def is_good(text: str) -> bool:
    try:
        load(text)
    except config.ConfigError:
        return False
    return True


# -- what the command line says ------------------------------------------------------------


@pytest.mark.parametrize(("interval", "expected"), [("2m", (120.0, 120.0)), ("30s", (30.0, 60.0))])
def test_an_interval_of_the_command_line_takes_the_other_one_with_it(
    interval: str, expected: tuple[float, float]
) -> None:
    settings = config.override(Settings(), {"interval": interval})
    assert (settings.interval, settings.interval_with_lease) == expected


def test_the_command_line_is_judged_as_a_file_is() -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.override(Settings(), {"interval": "1h", "control_socket": "relative"})
    lines = str(refused.value).splitlines()
    assert lines[0].startswith('command line: --interval: given "1h": ')
    assert lines[1].startswith('command line: --control-socket: given "relative": ')
