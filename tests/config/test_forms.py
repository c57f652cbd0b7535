"""Values: which are accepted, and the whole line about each that is refused."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.keys import BY_NAME
from tests.config.refusals import refusals, settings_of
from tests.world import property_settings

# Below each key: what is given, and what is wrong with it, at least two spaces apart.
REFUSED = r"""
interval  allowed a duration from 100ms to 270s
    5                   no unit, write 5s
    '5'                 no unit, write 5s
    0.5                 no unit, write 0.5s
    5 s                 not a duration
    5S                  not a duration
    05s                 not a duration
    5sm                 not a duration
    1m30s               not a duration
    1:30                not a duration
    1.0001s             not a duration
    5%                  not a duration
    s                   not a duration
    ~                   not a duration
    "5\x1b[1m"          not a duration
    -5s                 too short
    99ms                too short
    1h                  too long
    [5s]                not a single value
    {a: b}              not a single value
jitter  allowed a percentage from 0% to 50%
    0.2                 not a percentage, write 20%
    0.125               not a percentage, write 12.5%
    20                  not a percentage, write 20%
    1                   not a percentage, write 1%
    0                   not a percentage, write 0%
    -1                  not a percentage
    20 %                not a percentage
    20s                 not a percentage
    -1%                 too small
    51%                 too large
addresses_per_tick  allowed a whole number from 1 to 256
    0                   too small
    -4                  too small
    257                 too large
    '4'                 text because of its quotes, write 4
    four                not a whole number
    'four'              not a whole number
    4.0                 not a whole number
    yes                 not a whole number
    010                 not in plain decimal digits
    1:30                not in plain decimal digits
    0x10                not in plain decimal digits
    1_0                 not in plain decimal digits
rate_limit.frames_per_second  allowed a number from 0.1 to 1000
    .inf                not in plain decimal digits
    fast                not a number
    10s                 not a number
burst  allowed a list of 1 to 10 durations from 0ms to 10s, each longer than the one before
    0ms                 not a list, write [0ms]
    []                  too few
    [0s,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]  too many, 11
    [0ms, 400ms, 400ms]  400ms is not longer than 400ms
    [1s, 100ms]         100ms is not longer than 1s
burst[0]  allowed a duration from 0ms to 10s
    0                   no unit, write 0s
arp  allowed request, reply, both or probe
    Request             no such choice
conflict.policy  allowed yield, warn or defend
    no                  no such choice
mac_only  allowed true or false
    yes                 not a switch, write true
    Off                 not a switch, write false
    'true'              not a switch, write true
    1                   not a switch
interfaces.include  allowed a list, each item an interface name or glob, such as eth0 or en*
    eth0                not a list, write [eth0]
    'eth[01]'           not a list, write ["eth[01]"]
    *lan                YAML aliases are not supported, write "*lan" if a glob is meant
interfaces.include[0]  allowed an interface name or glob, such as eth0 or en*
    ''                  empty
    ~                   no value (null in YAML)
    no                  a boolean in YAML, write "no" if a name is meant
    010                 a number in YAML, write "010" if a name is meant
    1.5                 a number in YAML, write "1.5" if a name is meant
    2024-01-01          a date in YAML, write "2024-01-01" if a name is meant
    eth0:1              contains a space, / or :, which no interface name does
    eth/*               contains a space, / or :, which no interface name does
    a b                 contains a space, / or :, which no interface name does
    "eth\0"             contains a character that is not printable
    "\ud800"            contains a character that is not printable
    sixteen-letters-    longer than an interface name, which has at most 15 bytes
    éééééééé            longer than an interface name, which has at most 15 bytes
    *lan                YAML aliases are not supported, write "*lan" if a glob is meant
interfaces.include_kinds[0]  allowed a link kind, such as vlan, bridge or physical
    vlan bridge         not a word of letters, digits, _ and -
addresses.include[0]  allowed a block such as 10.0.0.0/8 or 2001:db8::/32
    10.0.0.1/8          bits set beyond the prefix, write 10.0.0.0/8
    '2001:db8::1/32'    bits set beyond the prefix, write "2001:db8::/32"
    10.0.0.5            no prefix length, write 10.0.0.5/32
    10.0.0.0/255.0.0.0  no prefix length, write 10.0.0.0/8
    10.0.0.0/08         no prefix length, write 10.0.0.0/8
    10.0.0.0/33         not an address block
    'fe80::%eth0/64'    not an address block
    1                   not an address block
hint_port  allowed a port name, an absolute path or none
    a/b                 neither a name nor an absolute path
    ..                  neither a name nor an absolute path
    off                 a boolean in YAML, write "off" if a name is meant
    ''                  empty
    "a\0b"              contains a character that is not printable
control_socket  allowed an absolute path of at most 107 bytes or none
    control.sock        not an absolute path
"""


def cases() -> list[tuple[str, str, str]]:
    """Return (text, where and what is given, what is wrong and what is allowed) of the table."""
    found = []
    for line in REFUSED.strip().splitlines():
        first, _, second = re.sub(" {2,}", "\0", line.strip()).partition("\0")
        if not line.startswith(" "):
            name, allowed = first, second
            continue
        value = f"[{first}]" if name.endswith("[0]") else f"{first} "  # an alias takes a } with it
        section, _, key = name.replace("[0]", "").rpartition(".")
        text = f"{section}: {{{key}: {value}}}" if section else f"{key}: {value}"
        found.append((text, f"{name}: given {first}", f"{second}; {allowed}"))
    return found


@pytest.mark.parametrize(("text", "given", "wrong"), cases(), ids=lambda value: value[:40])
def test_a_bad_value_is_refused_with_its_place_and_what_is_allowed(
    text: str, given: str, wrong: str
) -> None:
    assert refusals(text) == [f"f.yaml:1: {given}: {wrong}"]


@pytest.mark.parametrize(
    ("text", "given", "wrong"),
    [
        ("interval:", "nothing", "not a duration"),
        ("interval: 5\n  s", "5 s", "not a duration"),
        ("interval: |\n  5\n  s", "| 5 s", "not a duration"),
        ("interval: 1\u0665s", "1\u0665s", "not a duration"),
        ("interval: 5\u202es", r"5\u202es", "not a duration"),
        ("interval: " + 61 * "5", 57 * "5" + "...", "not a duration"),
        ("interval:\n- 5s", "a list", "not a single value"),
        ("interval:\n  a: b", "a mapping", "not a single value"),
        ("burst:", "nothing", "not a list"),
        ("burst:\n  a: b", "a mapping", "not a list"),
        ("hint_port:", "nothing", "no value (null in YAML)"),
        (f"hint_port: /{4095 * 'x'}", f"/{56 * 'x'}...", "longer than 4095 bytes"),
        (f"control_socket: /{52 * 'é'}xxx", f"/{52 * 'é'}xxx", "too long, 108 bytes"),
    ],
    ids=lambda value: value[:40],
)
def test_a_bad_value_is_shown_in_one_short_printable_line(
    text: str, given: str, wrong: str
) -> None:
    key = text.partition(":")[0]
    allowed = BY_NAME[key].form.allowed
    assert refusals(text) == [f"f.yaml:1: {key}: given {given}: {wrong}; allowed {allowed}"]


# The least and the most that are accepted, and the next values beyond.
BOUNDS = [
    ("interval", "100ms", "270s", "99.999ms", "270.001s"),
    ("interval_with_lease", "5s", "270s", "99.999ms", "270.001s"),
    ("jitter", "0%", "50%", "-0.001%", "50.001%"),
    ("addresses_per_tick", "1", "256", "0", "257"),
    ("burst", "[0ms]", "[10s]", "[-0.001ms]", "[10.001s]"),
    (
        "burst",
        "[1s]",
        "[0s,1s,2s,3s,4s,5s,6s,7s,8s,9s]",
        "[]",
        "[0s,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]",
    ),
    ("rate_limit.frames_per_second", "0.1", "1000", "0.099", "1000.001"),
    ("rate_limit.depth", "2", "1000", "1", "1001"),
    ("conflict.hold_off", "1s", "1h", "999.999ms", "3600.001s"),
    ("reconcile_interval", "10s", "24h", "9.999s", "86400.001s"),
]


@pytest.mark.parametrize(("key", "least", "most", "below", "above"), BOUNDS)
def test_a_number_is_accepted_up_to_its_bounds(
    key: str, least: str, most: str, below: str, above: str
) -> None:
    section, _, name = key.rpartition(".")

    def text(value: str) -> str:
        lease = "interval_with_lease: 270s\n" if key == "interval" else ""
        return f"{section}: {{{name}: {value}}}" if section else f"{lease}{name}: {value}"

    settings_of(text(least))
    settings_of(text(most))
    for value, size in ((below, "small|short|few"), (above, "large|long|many, 11")):
        (line,) = refusals(text(value))
        assert re.search(rf": too ({size}); allowed ", line)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("0.1s", 0.1),
        ("4.5m", 270.0),
        ("0.001h", 3.6),
        ("100.001ms", 0.100001),
        ("'5s'", 5.0),
    ],
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert settings_of(f"interval_with_lease: 270s\ninterval: {text}").interval == seconds


@property_settings(100)
@given(st.integers(0, 270_000), st.sampled_from(["ms", "s", "m", "h"]))
def test_a_duration_is_the_nearest_float(thousandths: int, unit: str) -> None:
    size = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
    seconds = Fraction(thousandths, 1000) * size[unit]
    text = f"interval_with_lease: 270s\ninterval: {thousandths // 1000}.{thousandths % 1000:03}"
    if Fraction(1, 10) <= seconds <= 270:
        assert settings_of(text + unit).interval == float(seconds)
    else:
        assert len(refusals(text + unit)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "interfaces: {include: [eth*-of-any-length, fifteen-letters, é]}",
        f"control_socket: /{53 * 'é'}",
        f"hint_port: /{4094 * 'x'}",
        "hint_port: .a",
        "hint_port: /../a",
    ],
    ids=lambda text: text[:30],
)
def test_a_name_or_path_is_accepted_up_to_its_greatest_length(text: str) -> None:
    settings_of(text)


@pytest.mark.parametrize("text", ["burst: [-0s]", "jitter: -0%"])
def test_minus_zero_is_zero(text: str) -> None:
    settings = settings_of(text)
    assert "-" not in f"{settings.burst} {settings.jitter}"
