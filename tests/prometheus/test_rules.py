"""The alerts and the dashboard: well formed, and about metrics that exist."""

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
from garp_agent.render import hypervisor, prometheus

CONTRIB = ROOT / "contrib" / "prometheus"
RULES = CONTRIB / "garp-agent.rules.yml"
# Written by the textfile script and by node_exporter.
BY_OTHERS = {"garp_agent_up", "garp_hint_up", "node_textfile_mtime_seconds"}
METRIC = re.compile(r"\b(?:garp_(?:agent|hint)|node_textfile)_[a-z_]+")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> list[dict[str, Any]]:
    """Return the panels of the dashboard."""
    panels: list[dict[str, Any]] = json.loads((CONTRIB / "garp-agent-dashboard.json").read_text())[
        "panels"
    ]
    return panels


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def known_metrics() -> set[str]:
    """Return every name in the two modules that print metrics."""
    known = set(BY_OTHERS)
    for prefix, module in (("garp_agent", prometheus), ("garp_hint", hypervisor)):
        source = Path(str(module.__file__)).read_text()
        named = re.findall(r'(?:yield|\()\s*"([a-z_]+)",', source.rpartition("metrics(values")[2])
        known |= {f"{prefix}_{name}" for name in named}
    return known


def test_the_known_metrics_are_found_in_the_source() -> None:
    assert {"garp_agent_info", "garp_agent_resumes_total", "garp_hint_info"} < known_metrics()


@pytest.mark.parametrize(
    "expression",
    [*(rule["expr"] for rule in rules()), *expressions(dashboard())],
)
def test_an_alert_or_panel_is_about_metrics_that_exist(expression: str) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named <= known_metrics()


def test_every_alert_has_a_severity_and_a_summary() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap_and_have_distinct_numbers() -> None:
    taken: list[tuple[int, int]] = []
    for panel in dashboard():
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        assert x + width <= 24, panel["title"]
        taken += [(column, row) for column in range(x, x + width) for row in range(y, y + height)]
    assert len(taken) == len(set(taken))
    assert len({panel["id"] for panel in dashboard()}) == len(dashboard())


def test_the_manual_pages_that_the_unit_names_exist() -> None:
    unit = (CONTRIB / "garp-agent-textfile.service").read_text()
    named = re.findall(r"^Documentation=man:([a-z.-]+)\((\d)\)$", unit, re.MULTILINE)
    assert named
    assert unit.count("Documentation=") == len(named)
    assert all((ROOT / "docs" / "man" / f"{name}.{part}.md").exists() for name, part in named)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    tests = yaml.safe_load((CONTRIB / "garp-agent.rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    "arguments", ["check rules garp-agent.rules.yml", "test rules garp-agent.rules.test.yml"]
)
def test_promtool_accepts_the_rules(promtool: str, arguments: str) -> None:
    done = subprocess.run(
        [promtool, *arguments.split()], cwd=CONTRIB, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
