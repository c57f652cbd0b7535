"""prometheus: text that a scraper reads, and that keeps to the conventions."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.settings import Settings
from garp_agent.guest import status as report
from garp_agent.guest.core.model import (
    BurstRequested,
    Cause,
    ClaimSeen,
    LeaseGranted,
    SendOutcome,
)
from garp_agent.render.prometheus import agent as exposition
from garp_agent.render.prometheus import metric
from tests.world import Agent, address, dump, link, property_settings

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.e+-]+)"
)
LABEL = re.compile(r'(?P<name>[a-zA-Z_]\w*)="(?P<value>(?:[^"\\\n]|\\.)*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Sample = tuple[tuple[tuple[str, str], ...], float]


def read(text: str) -> dict[str, tuple[str, list[Sample]]]:
    """Families by name: kind and samples.  Strict: any other line is an error."""
    families: dict[str, tuple[str, list[Sample]]] = {}
    lines = iter(text.split("\n"))
    name = ""
    for line in lines:
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert help_text.endswith((".", ")"))
            assert name not in families, "a family told twice"
            kind_line = next(lines)
            assert kind_line.startswith(f"# TYPE {name} ")
            families[name] = (kind_line.rpartition(" ")[2], [])
        elif line:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == name, "a sample of another family"
            families[name][1].append((labels(match["labels"] or ""), float(match["value"])))
    return families


def labels(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    while text:
        match = LABEL.match(text)
        assert match, text
        value = re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], match["value"])
        found.append((match["name"], value))
        text = text[match.end() :]
    return tuple(found)


def status_of(
    *things: Any,
    outcome: tuple[SendOutcome, int] = (SendOutcome.SENT, 0),
    rival: ClaimSeen | None = None,
    mac_only: bool = False,
    lease: float = 30.0,
) -> Any:
    guest = Agent(Settings(interval=10.0, mac_only=mac_only))
    guest.outcome = outcome
    guest.tell(*dump(*things))
    guest.wait(1.0)
    guest.tell(LeaseGranted(lease), BurstRequested(Cause.HINT), *([rival] if rival else []))
    values = report.status(guest.engine, guest.now, started=995.5)
    values["hint_port"] = {
        "name": "x",
        "state": "open, host connected",
        "requests": 7,
        "errors": 2,
    }
    return values


THINGS = (link(2), link(3), address("10.0.0.1/24"), address("fd00::1/64"))


def test_every_family_keeps_to_the_conventions() -> None:
    families = read(exposition(status_of(*THINGS)))
    assert len(families) > 10
    for name, (kind, samples) in families.items():
        assert name.startswith("garp_agent_")
        assert kind in ("counter", "gauge")
        assert name.endswith("_total") == (kind == "counter")
        assert samples
        assert len({labels for labels, _ in samples}) == len(samples), "a series told twice"
        assert all(math.isfinite(value) for _, value in samples)


def test_the_values_are_those_of_the_status() -> None:
    families = read(exposition(status_of(*THINGS)))
    values = {name: dict(samples) for name, (_, samples) in families.items()}
    assert values["garp_agent_uptime_seconds"] == {(): 5.5}
    assert values["garp_agent_refresh_interval_seconds"] == {(): 60.0}
    assert values["garp_agent_lease_seconds"] == {(): 30.0}
    assert values["garp_agent_frames_sent_total"] == {
        (("cause", "start"),): 6.0,
        (("cause", "hint"),): 2.0,
    }
    assert values["garp_agent_address_frames_sent_total"] == {
        (("interface", "eth2"), ("address", "10.0.0.1")): 4.0,
        (("interface", "eth2"), ("address", "fd00::1")): 4.0,
    }
    assert values["garp_agent_hint_port_connected"] == {(): 1.0}
    assert values["garp_agent_hint_requests_total"] == {(): 7.0}
    assert values["garp_agent_hint_errors_total"] == {(): 2.0}


def test_the_families_are_these() -> None:
    families = read(exposition(status_of(*THINGS)))
    assert {name.removeprefix("garp_agent_") for name in families} >= {
        "info",
        "uptime_seconds",
        "refresh_interval_seconds",
        "lease_seconds",
        "frames_sent_total",
        "frames_held_total",
        "netlink_overruns_total",
        "resumes_total",
        "hint_port_connected",
        "hint_requests_total",
        "hint_errors_total",
        "address_frames_sent_total",
        "address_last_sent_seconds",
        "address_withheld",
    }
    assert dict(families["garp_agent_frames_held_total"][1]) == {(("interface", "eth2"),): 0.0}
    ages = dict(families["garp_agent_address_last_sent_seconds"][1])
    assert set(ages.values()) == {0.0}


def test_an_address_that_is_yielded_is_told() -> None:
    rival = ClaimSeen("eth2", address("10.0.0.1/24").address, b"\2\0\0\0\0\x66")
    families = read(exposition(status_of(*THINGS, rival=rival)))
    assert [value for _, value in families["garp_agent_address_withheld"][1]] == [1.0, 0.0]


def test_without_a_promise_and_without_an_address() -> None:
    families = read(exposition(status_of(link(2), mac_only=True, lease=0.0)))
    assert families["garp_agent_lease_seconds"][1] == [((), 0.0)]
    ((labels, sent),) = families["garp_agent_address_frames_sent_total"][1]
    assert (dict(labels), sent) == ({"interface": "eth2", "address": ""}, 4.0)


def test_what_was_dropped_is_told_by_errno() -> None:
    values = status_of(*THINGS, outcome=(SendOutcome.DROPPED, 105))
    families = read(exposition(values))
    assert families["garp_agent_frames_dropped_total"] == (
        "counter",
        [((("errno", "ENOBUFS"),), 8)],
    )


def test_an_agent_with_nothing_to_announce_has_metrics_too() -> None:
    families = read(exposition(status_of(link(2))))
    assert families["garp_agent_info"][1][0][1] == 1
    assert "garp_agent_address_frames_sent_total" not in families


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a,b={}", "\x1b", "\u2603"])
def test_an_interface_may_have_any_name(name: str) -> None:
    families = read(exposition(status_of(link(2, name), address("10.0.0.1/24"))))
    ((labels, _),) = families["garp_agent_address_frames_sent_total"][1]
    assert dict(labels)["interface"] == name


def test_a_name_that_is_not_utf_8_is_told_in_utf_8() -> None:
    text = exposition(status_of(link(2, "a\udcff"), address("10.0.0.1/24")))
    assert text.encode("utf-8")
    assert read(text)


@property_settings(200)
@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_label_and_number_are_read_back(value: str, number: float) -> None:
    families = read(metric("x", "gauge", "Help.", [({"label": value}, number)]))
    assert families == {"x": ("gauge", [((("label", value),), number)])}
