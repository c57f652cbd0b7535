"""A running agent and watcher, their textfiles, node_exporter and Prometheus.

Everything runs in a namespace of a lab, on its loopback interface.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import lab
from bench.guests import PORT, Guests, Manner
from bench.lab import GUEST_ADDRESS, TinyLab
from tests.netns.agent import COMMAND, ENVIRONMENT, Agent, forget_link_local, until
from tests.prometheus.conftest import need
from tests.prometheus.test_rules import CONTRIB, PANELS, RULES_FILE, expressions

pytestmark = pytest.mark.netns

HINT = (sys.executable, "-m", "garp_agent.hypervisor")
EXPORTER, SERVER = "127.0.0.1:9100", "127.0.0.1:9090"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# These have no samples while all is well, without leases and without learning frames.
EMPTY = re.compile(
    r"frames_dropped_total|garp_agent_up\{.*\} == 0\)$|guest_lease_seconds > 0|garp_hint_learning_"
)


class Monitoring:
    """The whole chain.  The namespace is a hypervisor's too: it has a bridge and a guest."""

    def __init__(self, where: TinyLab, agent: Agent, folder: Path) -> None:
        self.lab, self.agent, self.folder = where, agent, folder
        self.metrics = folder / "metrics"
        self.metrics.mkdir()
        self.status = folder / "status.sock"
        where.ip(
            "guest",
            "link add dev virbr0 type bridge",
            "link add dev eth1 type veth peer name eth2",
            "link set eth1 master virbr0",
            *(f"link set {name} up" for name in ("eth1", "eth2", "virbr0")),
        )
        found = ("--bond", "virbr0", "--port", "none", "--channel", f"{folder}/0-*/{PORT}")
        self.watcher = self._start(
            *HINT, "watch", "--lease", "0", "--status-socket", str(self.status), *found
        )
        self._wait_for("garp_hint_guest_lease_seconds", "garp_hint_link_carrier")
        self.watcher.send_signal(signal.SIGUSR1)
        self._wait_for("garp_hint_failovers_total", "garp_hint_guest_hint_seconds")
        self.collect()
        self._start(
            need("prometheus-node-exporter"),
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self.metrics}",
            f"--web.listen-address={EXPORTER}",
        )
        configuration = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES_FILE)],
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [EXPORTER]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        self._start(
            need("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={SERVER}",
        )

    def _start(self, *command: str) -> subprocess.Popen[str]:
        with open(self.folder / "log", "ab") as log:
            return self.lab.start("guest", [*command], stdout=log, stderr=log, env=ENVIRONMENT)

    def _wait_for(self, *families: str) -> None:
        def are_there() -> bool:
            self.collect_hint()
            text = (self.metrics / "garp-hint.prom").read_text()
            return all(f"{family}{{" in text for family in families)

        until(are_there, f"garp-hint has {families}")

    def collect(self) -> str:
        """Run the textfile script once for the agent; return what it prints on standard error."""
        return self._collect("garp-agent", COMMAND, "--control-socket", str(self.agent.control))

    def collect_hint(self) -> str:
        return self._collect("garp-hint", HINT, "--status-socket", str(self.status))

    def _collect(self, name: str, program: tuple[str, ...], *options: str) -> str:
        """Run the script under this program's name, as its package installs it."""
        script = self.folder / f"{name}-textfile"
        if not script.exists():
            script.symlink_to(CONTRIB / "garp-agent-textfile")
        environment = {**ENVIRONMENT, "GARP_PROGRAM": " ".join(program)}
        done = self.lab.run("guest", [str(script), str(self.metrics), *options], env=environment)
        return str(done.stderr)

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of the server's answer; None while it starts."""
        url = f"http://{SERVER}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self.lab.entered("guest"), DIRECT.open(url) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code != 503:  # it is still reading its storage
                raise
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
        return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        return (self.get("/api/v1/query", query=expression) or {"result": []})["result"]

    def value(self, expression: str) -> tuple[dict[str, str], float]:
        """Return the labels and the value of the only sample."""
        (sample,) = self.query(expression)
        return sample["metric"], float(sample["value"][1])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> set[str]:
        data = self.get("/api/v1/alerts") or {"alerts": []}
        return {alert["labels"]["alertname"] for alert in data["alerts"]}


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    for program in ("prometheus", "prometheus-node-exporter"):
        need(program)
    reason = lab.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("monitoring")
    with TinyLab() as where, Guests(folder, [Manner.ANSWERS]):
        forget_link_local(where)
        with Agent(where, folder, config="") as agent:
            running = Monitoring(where, agent, folder)
            until(lambda: len(running.query("garp_agent_up")) == 1, "the first sample")
            yield running


@pytest.mark.parametrize("file", ["garp-agent.prom", "garp-hint.prom"])
def test_a_textfile_is_whole_valid_and_readable(monitoring: Monitoring, file: str) -> None:
    assert sorted(os.listdir(monitoring.metrics)) == ["garp-agent.prom", "garp-hint.prom"]
    path = monitoring.metrics / file
    assert path.stat().st_mode & 0o777 == 0o644
    assert "_up 1\n" in path.read_text()
    with path.open() as text:
        subprocess.run([need("promtool"), "check", "metrics"], stdin=text, check=True)


def test_prometheus_has_the_values_of_agent_and_watcher(monitoring: Monitoring) -> None:
    sent = f'garp_agent_address_frames_sent_total{{address="{GUEST_ADDRESS}"}}'
    labels, value = monitoring.value(sent)
    assert labels["interface"] == "eth0"
    assert 0 < value <= monitoring.agent.sent()
    assert monitoring.value("garp_agent_refresh_interval_seconds")[1] == 5
    labels, value = monitoring.value("garp_hint_guest_hints_answered_total")
    assert (labels["guest"], value) == ("guest0", 1)
    labels, value = monitoring.value("garp_hint_link_carrier")
    assert (labels["link"], value) == ("virbr0", 1)


@pytest.mark.parametrize("expression", list(expressions(PANELS)))
def test_an_expression_of_the_dashboard_has_a_value(
    monitoring: Monitoring, expression: str
) -> None:
    expression = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
    assert "$" not in expression
    if EMPTY.search(expression):
        monitoring.query(expression)
    else:
        until(lambda: monitoring.query(expression), f"{expression} has a value")


def test_no_alert_fires_while_all_is_well(monitoring: Monitoring) -> None:
    assert monitoring.rules()
    until(lambda: all(r["health"] == "ok" for r in monitoring.rules()), "all are evaluated")
    assert monitoring.alerts() == set()


# The last tests of the module: agent and watcher do not run afterwards.


def test_an_agent_that_ended_leaves_an_alert_and_no_old_values(monitoring: Monitoring) -> None:
    assert monitoring.agent.stop(signal.SIGTERM) == 0
    assert "is it running?" in monitoring.collect()
    lines = (monitoring.metrics / "garp-agent.prom").read_text().splitlines()
    assert lines[-1] == "garp_agent_up 0"
    until(lambda: "GarpAgentDown" in monitoring.alerts(), "the alert")
    until(lambda: not monitoring.query("garp_agent_uptime_seconds"), "the old values end")


def test_a_watcher_that_ended_leaves_an_alert_and_no_old_values(monitoring: Monitoring) -> None:
    monitoring.lab.stop(monitoring.watcher)
    monitoring.collect_hint()
    until(lambda: "GarpHintDown" in monitoring.alerts(), "the alert")
    until(lambda: not monitoring.query("garp_hint_uptime_seconds"), "the old values end")
