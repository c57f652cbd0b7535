"""The alerts and the dashboard: well formed, and about metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.lab import ROOT
from garp_agent.render import hypervisor as hosts_show
from garp_agent.render import prometheus as agents_metrics

CONTRIB = ROOT / "contrib" / "prometheus"
RULES = CONTRIB / "garp-agent.rules.yml"
DASHBOARD = CONTRIB / "garp-agent-dashboard.json"
BY_OTHERS = {"garp_agent_up", "garp_hint_up", "node_textfile_mtime_seconds"}
METRIC = re.compile(r"\b(?:garp_(?:agent|hint)|node_textfile)_[a-z_]+")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return told


def known_metrics() -> set[str]:
    """Every name in the two modules that print metrics."""
    agents = Path(agents_metrics.__file__).read_text()
    hosts = Path(hosts_show.__file__).read_text().partition("def metrics")[2]
    families = re.findall(r'^\s+\(?\s*"([a-z_]+)",\s+"(?:gauge|counter)"', hosts, re.MULTILINE)
    return {*re.findall(r'"(garp_agent_[a-z_]+)"', agents), *(f"garp_hint_{n}" for n in families)}


def test_the_metrics_that_are_known() -> None:
    assert {"garp_agent_info", "garp_hint_info", "garp_hint_guest_lease_seconds"} < known_metrics()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_about_metrics_that_there_are(rule: dict[str, Any]) -> None:
    named = set(METRIC.findall(rule["expr"]))
    assert named
    assert named <= known_metrics() | BY_OTHERS
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("expression", list(expressions(dashboard()["panels"])))
def test_a_panel_is_about_metrics_that_there_are(expression: str) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named <= known_metrics() | BY_OTHERS


def test_the_manual_that_the_unit_names_is_there() -> None:
    unit = (CONTRIB / "garp-agent-textfile.service").read_text()
    named = re.findall(r"^Documentation=man:([a-z.-]+)\((\d)\)$", unit, re.MULTILINE)
    assert named
    assert unit.count("Documentation=") == len(named)
    assert all((ROOT / "docs" / "man" / f"{name}.{part}.md").exists() for name, part in named)


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = dashboard()["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_alert_is_tried(promtool: str) -> None:
    tests = yaml.safe_load((CONTRIB / "garp-agent.rules.test.yml").read_text())["tests"]
    tried = {case["alertname"] for test in tests for case in test["alert_rule_test"]}
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "garp-agent.rules.yml"), ("test", "rules", "garp-agent.rules.test.yml")],
    ids=["check", "test"],
)
def test_what_promtool_says_of_the_rules(promtool: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool, *arguments], cwd=CONTRIB, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
