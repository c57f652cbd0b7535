"""The agent's metrics: well-formed text, names by the conventions, values as in the status."""

from __future__ import annotations

import math
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.settings import Settings
from garp_agent.guest import status
from garp_agent.guest.core.model import BurstRequested, Cause, ClaimSeen, LeaseGranted, SendOutcome
from garp_agent.render.prometheus import agent_metrics, metric
from tests.world import Agent, address, dump, link, property_settings

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([0-9.e+-]+)")
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\.)*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def read_metrics(text: str) -> dict[str, tuple[str, list[Any]]]:
    """Return kind and samples of each family, by name; any line of another form is an error."""
    families: dict[str, tuple[str, list[Any]]] = {}
    lines = iter(text.split("\n"))
    name = ""
    for line in lines:
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert help_text.endswith(".")
            assert name not in families, "a family stands twice"
            kind_line = next(lines)
            assert kind_line.startswith(f"# TYPE {name} ")
            families[name] = (kind_line.rpartition(" ")[2], [])
        elif line:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == name, "a sample of another family"
            assert LABEL.sub("", match[2] or "") == ""
            labels = [
                (label, re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], value))
                for label, value in LABEL.findall(match[2] or "")
            ]
            families[name][1].append((tuple(labels), float(match[3])))
    return families


def metrics_of(
    *things: Any,
    outcome: tuple[SendOutcome, int] = (SendOutcome.SENT, 0),
    rival: ClaimSeen | None = None,
    mac_only: bool = False,
    lease: float = 30.0,
) -> dict[str, Any]:
    """Return the samples of each family, without the prefix, of an agent that saw these things."""
    guest = Agent(Settings(interval=10.0, mac_only=mac_only))
    guest.outcome = outcome
    guest.tell(*dump(*things))
    guest.wait(1.0)
    guest.tell(LeaseGranted(lease), BurstRequested(Cause.HINT), *([rival] if rival else []))
    values: dict[str, Any] = status.status(guest.engine, guest.now, started=995.5)
    values["hint_port"] = {"state": "open, host connected", "requests": 7, "errors": 2}
    families = read_metrics(agent_metrics(values))
    for name, (kind, samples) in families.items():
        assert kind == ("counter" if name.endswith("_total") else "gauge")
        assert len(dict(samples)) == len(samples), "a series stands twice"
        assert all(math.isfinite(value) for _, value in samples)
    return {name.removeprefix("garp_agent_"): dict(each) for name, (_, each) in families.items()}


THINGS = (link(2), link(3), address("10.0.0.1/24"), address("fd00::1/64"))
LABELS = [(("interface", "eth2"), ("address", each)) for each in ("10.0.0.1", "fd00::1")]


def test_the_metrics_have_the_values_of_the_status() -> None:
    metrics = metrics_of(*THINGS)
    ((info, one),) = metrics.pop("info").items()
    assert (info[0][0], one) == ("version", 1.0)
    assert metrics == {
        "frames_sent_total": {(("cause", "start"),): 6.0, (("cause", "hint"),): 2.0},
        "uptime_seconds": {(): 5.5},
        "refresh_interval_seconds": {(): 60.0},
        "lease_seconds": {(): 30.0},
        "netlink_overruns_total": {(): 0.0},
        "conflicts_total": {(): 0.0},
        "resumes_total": {(): 0.0},
        "hint_port_connected": {(): 1.0},
        "hint_requests_total": {(): 7.0},
        "hint_errors_total": {(): 2.0},
        "address_frames_sent_total": dict(zip(LABELS, (4.0, 4.0))),
        "address_last_sent_seconds": dict.fromkeys(LABELS, 0.0),
        "address_withheld": dict.fromkeys(LABELS, 0.0),
        "frames_held_total": {(("interface", "eth2"),): 0.0},
    }


def test_a_withheld_address_and_its_conflict_are_counted() -> None:
    rival = ClaimSeen("eth2", address("10.0.0.1/24").address, b"\2\0\0\0\0\x66")
    metrics = metrics_of(*THINGS, rival=rival)
    assert metrics["address_withheld"] == dict(zip(LABELS, (1.0, 0.0)))
    assert metrics["conflicts_total"] == {(): 1.0}


def test_without_a_lease_and_without_an_address_there_are_metrics_too() -> None:
    metrics = metrics_of(link(2), mac_only=True, lease=0.0)
    assert metrics["lease_seconds"] == {(): 0.0}
    assert metrics["address_frames_sent_total"] == {(("interface", "eth2"), ("address", "")): 4.0}


def test_dropped_frames_are_counted_by_errno() -> None:
    metrics = metrics_of(*THINGS, outcome=(SendOutcome.DROPPED, 105))
    # The link rests after a frame that the kernel refused.
    assert metrics["frames_dropped_total"] == {(("errno", "ENOBUFS"),): 6.0}


def test_an_agent_with_nothing_to_announce_has_no_metrics_of_addresses() -> None:
    assert [name for name in metrics_of(link(2)) if name.startswith("address")] == []


def test_an_interface_name_that_is_not_utf_8_is_escaped() -> None:
    metrics = metrics_of(link(2, "a\udcff"), address("10.0.0.1/24"))
    (labels,) = metrics["address_frames_sent_total"]
    assert dict(labels)["interface"] == "a\\udcff"


@property_settings(200)
@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_label_and_number_are_read_back(value: str, number: float) -> None:
    families = read_metrics(metric("x", "gauge", "Help.", [({"label": value}, number)]))
    assert families == {"x": ("gauge", [((("label", value),), number)])}
