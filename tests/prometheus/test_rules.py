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
from garp_agent.render import hypervisor, learning, prometheus
from tests.prometheus.conftest import need

CONTRIB = ROOT / "contrib" / "prometheus"
RULES_FILE = CONTRIB / "garp-agent.rules.yml"
RULES = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]
PANELS = json.loads((CONTRIB / "garp-agent-dashboard.json").read_text())["panels"]
# Written by the textfile script and by node_exporter.
BY_OTHERS = {"garp_agent_up", "garp_hint_up", "node_textfile_mtime_seconds"}
METRIC = re.compile(r"\b(?:garp_(?:agent|hint)|node_textfile)_[a-z_]+")


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def known_metrics() -> set[str]:
    """Return every name in the three modules that print metrics."""
    known = set(BY_OTHERS)
    for prefix, module in (("garp_agent", prometheus), ("garp_hint", hypervisor)):
        source = Path(str(module.__file__)).read_text()
        named = re.findall(r'(?:yield|\()\s*"([a-z_]+)",', source.rpartition("metrics(values")[2])
        assert "info" in named
        known |= {f"{prefix}_{name}" for name in named}
    own = re.findall(r'"(learning_[a-z_]+)"', Path(str(learning.__file__)).read_text())
    return known | {f"garp_hint_{name}" for name in own}


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *expressions(PANELS)])
def test_an_alert_or_panel_is_about_metrics_that_exist(expression: str) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named <= known_metrics()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for expression in expressions(PANELS) for name in METRIC.findall(expression)}
    assert known_metrics() - shown == set()


def test_every_alert_has_a_severity_a_summary_and_a_case_in_which_it_fires() -> None:
    tests = yaml.safe_load((CONTRIB / "garp-agent.rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {
        rule["alert"]
        for rule in RULES
        if rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"]
    }


def test_panels_do_not_overlap_and_have_distinct_numbers() -> None:
    taken: list[tuple[int, int]] = []
    for panel in PANELS:
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        assert x + width <= 24, panel["title"]
        taken += [(column, row) for column in range(x, x + width) for row in range(y, y + height)]
    assert len(taken) == len(set(taken))
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize(
    "arguments", ["check rules garp-agent.rules.yml", "test rules garp-agent.rules.test.yml"]
)
def test_promtool_accepts_the_rules(arguments: str) -> None:
    subprocess.run([need("promtool"), *arguments.split()], cwd=CONTRIB, check=True)
