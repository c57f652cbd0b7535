"""Values: which are accepted, and the whole line about each that is refused."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.errors import ConfigError
from garp_agent.config.forms import FORMS
from tests.config.refusals import refusals, settings_of
from tests.world import property_settings

# Below each key: what is wrong, and the values with that fault, at least two spaces apart.
REFUSED = r"""
interval  allowed a duration from 100ms to 270s
    no unit, write 5s  5  '5'
    no unit, write 0.5s  0.5
    no unit  5000  0.05
    not a duration  5 s  5S  05s  5sm  1m30s  1:30  1.0001s  5%  s  ~  "5\x1b[1m"
    too short  -5s  99ms
    too long  1h
    not a single value  [5s]  {a: b}
jitter  allowed a percentage from 0% to 50%
    not a percentage, write 20%  0.2  20
    not a percentage, write 12.5%  0.125
    not a percentage, write 1%  1
    not a percentage, write 0%  0
    not a percentage  -1  20 %  20s  60
    too small  -1%
    too large  51%
addresses_per_tick  allowed a whole number from 1 to 256
    too small  0  -4
    too large  257
    text because of its quotes, write 4  '4'
    text because of its quotes  '4000'
    not a whole number  four  'four'  4.0  yes
    not in plain decimal digits  010  1:30  0x10  1_0
rate_limit.frames_per_second  allowed a number from 0.1 to 1000
    not in plain decimal digits  .inf
    not a number  fast  10s
burst  allowed a list of 1 to 10 durations from 0ms to 10s, each longer than the one before
    not a list, write [0ms]  0ms
    not a list, write [3s]  3
    not a list  3m  fast  300
    too few  []
    too many, 11  [0s,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]
    400ms is not longer than 400ms  [0ms, 400ms, 400ms]
    100ms is not longer than 1s  [1s, 100ms]
burst[0]  allowed a duration from 0ms to 10s
    no unit, write 0s  0
arp  allowed request, reply, both or probe
    no such choice  Request
conflict.policy  allowed yield, warn or defend
    no such choice  no
mac_only  allowed true or false
    not a switch, write true  yes  on  'true'
    not a switch, write false  Off  no
    not a switch  1
interfaces.include  allowed a list, each item an interface name or glob, such as eth0 or en*
    not a list, write [eth0]  eth0
    not a list, write ["eth[01]"]  'eth[01]'
    YAML aliases are not supported, write ["*lan"] if a glob is meant  *lan
interfaces.include[0]  allowed an interface name or glob, such as eth0 or en*
    empty  ''
    no value (null in YAML)  ~
    a boolean in YAML, write "no" if a name is meant  no
    a number in YAML, write "010" if a name is meant  010
    a number in YAML, write "1.5" if a name is meant  1.5
    a date in YAML, write "2024-01-01" if a name is meant  2024-01-01
    contains a space or /, which no interface name does  eth/*  a b
    contains a character that is not printable  "eth\0"  "\ud800"
    YAML aliases are not supported, write "*lan" if a glob is meant  *lan
interfaces.include_kinds[0]  allowed a link kind, such as vlan, bridge or physical
    not a word of letters, digits, _ and -  vlan bridge
addresses.include[0]  allowed a block such as 10.0.0.0/8 or 2001:db8::/32
    bits set beyond the prefix, write 10.0.0.0/8  10.0.0.1/8
    bits set beyond the prefix, write "2001:db8::/32"  '2001:db8::1/32'
    no prefix length, write 10.0.0.5/32  10.0.0.5
    no prefix length, write 10.0.0.0/8  10.0.0.0/255.0.0.0  10.0.0.0/08
    not an address block  10.0.0.0/33  'fe80::%eth0/64'  1
conflict.ignore[0]  allowed HARDWARE
    not one  02:00:5e:00:53  "02:00:5e:00:53:01:02"  02:00:5e:00:53:1  "*:5e:*"  02-00-5e-*
    not one  "02:*1:5e:00:53:01"  "02:0*:53:01"  "02:[01]0:*"  "5254.00*"  "02:00:*:"  "02:00:g?:*"
hint_port  allowed a port name, an absolute path or none
    neither a name nor an absolute path  a/b  ..
    a boolean in YAML, write "off" if a name is meant  off
    empty  ''
    contains a character that is not printable  "a\0b"
control_socket  allowed an absolute path of at most 107 bytes or none
    not an absolute path  control.sock
"""


def cases() -> list[tuple[str, str]]:
    """Return the texts of the table, and the lines about them."""
    found = []
    for line in REFUSED.strip().splitlines():
        first, *others = re.split(" {2,}", line.strip())
        if not line.startswith(" "):
            name, allowed = (
                first,
                others[0].replace("HARDWARE", FORMS["conflict.ignore"].item.allowed),
            )
            continue
        for value in others:
            written = f"[{value}]" if name.endswith("[0]") else f"{value} "  # *a} is one alias
            section, _, key = name.replace("[0]", "").rpartition(".")
            text = f"{section}: {{{key}: {written}}}" if section else f"{key}: {written}"
            found.append((text, f"f.yaml:1: {name}: given {value}: {first}; {allowed}"))
    return found


@pytest.mark.parametrize(("text", "line"), cases(), ids=lambda value: value[:40])
def test_a_bad_value_is_refused_with_its_place_and_what_is_allowed(text: str, line: str) -> None:
    assert refusals(text) == [line]


NUMBERS = st.decimals(0, 10**6, places=2).map(lambda number: f"{number.normalize():f}")


RULES = ("longer than", "shorter than", "nothing is left")  # they join two keys


def wrong_with(key: str, written: str) -> list[str]:
    """Return what is wrong with a value as the file has it."""
    section, _, name = key.rpartition(".")
    text = f"{section}: {{{name}: {written}}}" if section else f"{key}: {written}"
    try:
        settings_of(text)
    except ConfigError as error:
        return [each.wrong for each in error.problems if not each.wrong.startswith(RULES)]
    return []


@property_settings(200)
@given(st.sampled_from(sorted(FORMS)), NUMBERS | st.text("05.1sm%no*-:/é", min_size=1, max_size=8))
def test_advice_to_write_a_value_is_accepted(key: str, value: str) -> None:
    for written in (value, f"'{value}'"):
        for wrong in wrong_with(key, written):
            advice = re.search(", write (.*?)(?: if an? [a-z ]+ is meant)?$", wrong)
            assert advice is None or wrong_with(key, advice[1]) == []


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
    allowed = FORMS[key].allowed
    assert refusals(text) == [f"f.yaml:1: {key}: given {given}: {wrong}; allowed {allowed}"]


# The least and the most that are accepted, and the next values beyond.
BOUNDS = """
interval  100ms  270s  99.999ms  270.001s
interval_with_lease  5s  270s  99.999ms  270.001s
jitter  0%  50%  -0.001%  50.001%
addresses_per_tick  1  256  0  257
burst  [0ms]  [10s]  [-0.001ms]  [10.001s]
burst  [1s]  [0s,1s,2s,3s,4s,5s,6s,7s,8s,9s]  []  [0s,1s,2s,3s,4s,5s,6s,7s,8s,9s,10s]
rate_limit.frames_per_second  0.1  1000  0.099  1000.001
rate_limit.depth  2  1000  1  1001
conflict.hold_off  1s  1h  999.999ms  3600.001s
reconcile_interval  10s  24h  9.999s  86400.001s
"""


@pytest.mark.parametrize("row", BOUNDS.strip().splitlines())
def test_a_number_is_accepted_up_to_its_bounds(row: str) -> None:
    name, *values = row.split("  ")
    section, _, key = name.rpartition(".")
    lease = "interval_with_lease: 270s\n" if key == "interval" else ""
    texts = [
        f"{section}: {{{key}: {value}}}" if section else f"{lease}{key}: {value}"
        for value in values
    ]
    for text in texts[:2]:
        settings_of(text)
    for text, size in zip(texts[2:], ("small|short|few", "large|long|many, 11")):
        (line,) = refusals(text)
        assert re.search(rf": too ({size}); allowed ", line)


LONG_LEASE = "interval_with_lease: 270s\n"


@property_settings(100)
@given(st.integers(0, 270_000), st.sampled_from(["ms", "s", "m", "h"]))
def test_a_duration_is_the_nearest_float(thousandths: int, unit: str) -> None:
    size = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
    seconds = Fraction(thousandths, 1000) * size[unit]
    text = f"{LONG_LEASE}interval: {thousandths // 1000}.{thousandths % 1000:03}{unit}"
    if Fraction(1, 10) <= seconds <= 270:
        assert settings_of(text).interval == float(seconds)
    else:
        assert len(refusals(text)) == 1


def test_names_and_paths_are_accepted_up_to_their_greatest_lengths() -> None:
    settings_of("interfaces: {include: [eth*-of-any-length, fifteen-letters, é]}")
    settings_of(f"control_socket: /{53 * 'é'}")
    for port in (f"/{4094 * 'x'}", ".a", "/../a"):
        assert settings_of(f"hint_port: {port}").hint_port == port


@pytest.mark.parametrize("text", ["burst: [-0s]", "jitter: -0%"])
def test_minus_zero_is_zero(text: str) -> None:
    settings = settings_of(text)
    assert "-" not in f"{settings.burst} {settings.jitter}"


@pytest.mark.parametrize(
    ("glob", "bits", "mask", "written"),
    [
        ("02:00:5E:00:53:01", "02005e005301", "ffffffffffff", "02:00:5e:00:53:01"),
        ("00:00:5e:*", "00005e000000", "ffffff000000", "00:00:5e:*:*:*"),
        ("02:*:*:00:53:01", "020000005301", "ff0000ffffff", "02:*:*:00:53:01"),
        ("*:53:01", "000000005301", "00000000ffff", "*:*:*:*:53:01"),
        ("02:*:01", "020000000001", "ff00000000ff", "02:*:*:*:*:01"),
        ("52:54:0?:?a:??:*", "5254000a0000", "fffff00f0000", "52:54:0?:?a:*:*"),
        ("02:0*", "020000000000", "fff000000000", "02:0?:*:*:*:*"),
        ("02:00:5e:00:53:f*", "02005e0053f0", "fffffffffff0", "02:00:5e:00:53:f?"),
        ("*", "000000000000", "000000000000", "*:*:*:*:*:*"),
    ],
)
def test_hardware_address_glob_is_read_as_bits_and_written_back(
    glob: str, bits: str, mask: str, written: str
) -> None:
    (pattern,) = settings_of(f'conflict: {{ignore: ["{glob}"]}}').conflict.ignore
    assert (pattern[0].hex(), pattern[1].hex()) == (bits, mask)
    assert FORMS["conflict.ignore"].item.write(pattern) == f'"{written}"'
