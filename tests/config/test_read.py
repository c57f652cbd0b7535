"""From a file to settings and back, for every key and for any bytes."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.config import read
from garp_agent.config.errors import ConfigError, Problem
from garp_agent.config.forms import FORMS
from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    Conflict,
    ConflictPolicy,
    InterfaceSelection,
    Network,
    RateLimit,
    Settings,
)
from tests.config.refusals import settings_of
from tests.world import property_settings

EVERY_KEY = """\
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
  ignore: ["02:00:5e:00:53:01", "00:00:5e:*:*:*"]
reconcile_interval: 1h
hint_port: /dev/hvc1
control_socket: none
"""
IGNORED = (
    (b"\2\0\x5e\0\x53\1", b"\xff" * 6),
    (b"\0\0\x5e\0\0\0", b"\xff\xff\xff\0\0\0"),
)
EVERY_SETTING = Settings(
    *(1.5, 120.0, 0.125, 7, (0.05, 1.0), RateLimit(2.5, 20), ArpForm.BOTH, True),
    InterfaceSelection(("eth*", "*.100", "en[ps]?"), ("docker0",), ("vlan", "physical"), ("veth",)),
    AddressSelection(
        (Network(b"\x0a\0\0\0", 8), Network(b"\x20\x01\x0d\xb8" + bytes(12), 32)),
        (Network(b"\x0a\0\0\5", 32),),
        ipv4=True,
        ipv6=False,
        deprecated=True,
    ),
    *(Conflict(ConflictPolicy.DEFEND, 10.0, IGNORED), 3600.0, "/dev/hvc1", ""),
)


def test_every_key_sets_its_value_and_is_written_in_its_shortest_form() -> None:
    assert repr(settings_of(EVERY_KEY)) == repr(EVERY_SETTING)  # 7 is no 7.0
    assert read.as_yaml(EVERY_SETTING) == EVERY_KEY


def test_a_key_left_out_of_a_section_keeps_its_default() -> None:
    assert settings_of("rate_limit: {depth: 30}").rate_limit == RateLimit(10.0, depth=30)


def test_mac_only_is_enough_to_announce() -> None:
    assert settings_of("addresses: {ipv4: false, ipv6: false}\nmac_only: true").mac_only


# -- files --------------------------------------------------------------------------------


def file_error(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read.read_files([path])
    return str(caught.value).replace(path, "FILE")


def test_a_file_gives_the_settings_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(EVERY_KEY)
    assert read.read_files([str(path)]) == EVERY_SETTING


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    fifo, loop, large, bad, unix, missing = (
        str(tmp_path / name) for name in ("fifo", "loop", "large", "bad", "unix", "none\x1b\udcff")
    )
    os.mkfifo(fifo)
    os.symlink(loop, loop)
    Path(large).write_bytes(b"#" * ((1 << 20) + 1))
    Path(bad).write_text("\ninterval: 5\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(unix)
    for path in (str(tmp_path), fifo, unix, "/dev/zero"):
        assert file_error(path) == "FILE: not a regular file"
    unreadable = "cannot be read: No such file or directory"
    assert file_error(missing) == f"{tmp_path}/none\\x1b\\udcff: {unreadable}"
    assert file_error(loop) == "FILE: cannot be read: Too many levels of symbolic links"
    assert file_error("a\0b") == "a\\x00b: cannot be read: not a file name"
    assert file_error(large) == "FILE: too large; allowed at most 1048576 bytes"
    assert file_error(bad).startswith("FILE:2: interval: given 5: no unit")


# -- the command line ---------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "expected"), [("2m", (120.0, 120.0)), ("30s", (30.0, 60.0))])
def test_an_interval_of_the_command_line_raises_the_one_with_a_lease(
    interval: str, expected: tuple[float, float]
) -> None:
    settings = read.override(Settings(), {"interval": interval})
    assert (settings.interval, settings.interval_with_lease) == expected


def test_bad_options_are_refused_as_bad_values_are() -> None:
    with pytest.raises(ConfigError) as caught:
        read.override(Settings(), {"interval": "1h", "control_socket": "relative"})
    first, second = caught.value.problems
    assert (second.key, second.given) == ("--control-socket", '"relative"')
    assert first == Problem(
        source="command line",
        wrong="too long",
        allowed="a duration from 100ms to 270s",
        key="--interval",
        given='"1h"',
    )
    assert str(first).startswith('command line: --interval: given "1h": too long; allowed a dur')


# -- any text (tests/fuzz tries any bytes) ------------------------------------------------

SNIPPETS = (
    *FORMS,
    *("interfaces", "addresses", "rate_limit", "conflict", "include", "depth", "policy"),
    *(" ", "\n", "\n  ", ": ", ", ", "- ", "[", "]", "{", "}", "\t", "? ", "# "),
    *("&a ", "*a", "!!int ", "!x ", "<<", "'", '"', "|\n ", "> ", "%YAML 1.1\n", "---\n", "...\n"),
    *("5s", "100ms", "20%", "5", "yes", "true", "false", "~", "eth*", "10.0.0.0/8", "::/0"),
    *("\\x00", "\\ud800", "\x85", "\u2028", "\ufeff", "é", "\U0001f600"),
)
PARTS = st.one_of(st.sampled_from(SNIPPETS), st.sampled_from(EVERY_KEY.splitlines(keepends=True)))


@property_settings(200)
@given(st.lists(PARTS, max_size=40).map("".join))
@example("? ? ? [")
@example('"\\UFFFFFFFF": "\\ud800"')
def test_any_text_that_resembles_yaml_gives_settings_or_lines(text: str) -> None:
    try:
        settings = settings_of(text)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert re.match(r"f\.yaml(:[1-9][0-9]*)?: ", line)
            assert line.isprintable()
    else:
        assert settings_of(read.as_yaml(settings)) == settings


# -- and back -----------------------------------------------------------------------------


def fractions(least: int, most: int, scale: int) -> st.SearchStrategy[float]:
    return st.integers(least * scale, most * scale).map(lambda number: number / scale)


def network(address: Any, length: int) -> Network:
    block = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    return Network(block.network_address.packed, block.prefixlen)


# Names that YAML takes for something else, or that need quotes.
ODD = ["no", "5", "~", "null", "1e3", "1.5", "*", "&a", "-", "- a", "#", "a #b", "=", "0?"]
ODD += ["010", "<<", "2024-01-01", "'", '"', "\\", "a,b", "[x]*", "é", "%", "@", "!a", "a:b"]
PRINTABLE = st.characters(exclude_categories=("C", "Z"))
TEXTS = st.one_of(st.text(PRINTABLE, min_size=1, max_size=15), st.sampled_from(ODD))
GLOBS = TEXTS.filter(lambda text: not set(text) & set("/: ") and len(text.encode()) <= 15)
KINDS = st.from_regex(r"[A-Za-z0-9_-]{1,15}", fullmatch=True)
PATHS = TEXTS.map(lambda text: "/" + text.replace("/", "_"))
PORTS = TEXTS.filter(lambda text: "/" not in text and text not in (".", "..", "none"))


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=3).map(tuple)


NETWORKS = tuples(st.builds(network, st.ip_addresses(), st.integers(0, 128)))
OCTETS = st.tuples(st.integers(0, 255), st.sampled_from([0, 255]))
PATTERNS = tuples(
    st.lists(OCTETS, min_size=6, max_size=6).map(
        lambda octets: (bytes(bits & mask for bits, mask in octets), bytes(m for _, m in octets))
    )
)
SETTINGS = st.builds(
    Settings,
    interval=fractions(1, 270, 1_000_000),
    interval_with_lease=st.just(270.0),
    jitter=st.integers(0, 50_000).map(lambda number: number / 100_000),
    addresses_per_tick=st.integers(1, 256),
    burst=st.sets(fractions(0, 10, 1_000_000), min_size=1, max_size=10).map(sorted).map(tuple),
    rate_limit=st.builds(RateLimit, fractions(1, 1_000, 1_000), st.integers(2, 1_000)),
    arp=st.sampled_from(tuple(ArpForm)),
    mac_only=st.just(True),
    interfaces=st.builds(
        InterfaceSelection, tuples(GLOBS), tuples(GLOBS), tuples(KINDS), tuples(KINDS)
    ),
    addresses=st.builds(AddressSelection, NETWORKS, NETWORKS),
    conflict=st.builds(
        Conflict, st.sampled_from(tuple(ConflictPolicy)), fractions(1, 3600, 1_000_000), PATTERNS
    ),
    reconcile_interval=fractions(10, 86_400, 1_000_000),
    hint_port=st.one_of(st.just(""), PORTS, PATHS),
    control_socket=st.one_of(st.just(""), PATHS),
)


@property_settings(100)
@given(SETTINGS)
def test_settings_written_as_yaml_are_read_back_the_same(settings: Settings) -> None:
    assert settings_of(read.as_yaml(settings)) == settings


def test_names_that_yaml_takes_for_something_else_are_read_back_the_same() -> None:
    names = tuple(text for text in ODD if not set(text) & set("/: "))
    chosen = Settings(interfaces=InterfaceSelection(include=names))
    assert settings_of(read.as_yaml(chosen)) == chosen
