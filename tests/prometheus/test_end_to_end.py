"""A running agent, a textfile, node_exporter, Prometheus: what comes out at the other end.

Everything runs inside a namespace of a lab, on its loopback interface.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import lab
from bench.lab import GUEST_ADDRESS, TinyLab
from tests.netns.agent import COMMAND, ENVIRONMENT, Agent, forget_link_local, until
from tests.prometheus.conftest import need
from tests.prometheus.test_rules import CONTRIB, RULES, dashboard, expressions

pytestmark = pytest.mark.netns

TEXTFILE = CONTRIB / "garp-agent-textfile"
HINT = (sys.executable, "-m", "garp_agent.hypervisor")
EXPORTER, SERVER = "127.0.0.1:9100", "127.0.0.1:9090"
# Of a guest that is well.
EMPTY = re.compile(r"frames_dropped_total|garp_agent_up\{.*\} == 0\)$")
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}


class Answering(socketserver.StreamRequestHandler):
    """Says yes to everything, as an agent does to a hint."""

    def handle(self) -> None:
        for line in self.rfile:
            reply = {"return": {}, "id": json.loads(line.lstrip(b"\xff"))["id"]}
            self.wfile.write(json.dumps(reply).encode() + b"\n")


@contextlib.contextmanager
def answering(path: Path) -> Iterator[None]:
    """A guest's channel, with somebody behind it."""
    with socketserver.ThreadingUnixStreamServer(str(path), Answering) as server:
        server.daemon_threads = True  # none is waited for
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            yield
        finally:
            server.shutdown()


class Monitoring:
    """The chain, in the guest's namespace, which is a hypervisor's too: a bridge, a guest."""

    def __init__(self, where: TinyLab, agent: Agent, folder: Path) -> None:
        self.lab, self.agent = where, agent
        self.metrics = folder / "metrics"
        self.metrics.mkdir()
        self.folder = folder
        self.status = folder / "status.sock"
        where.ip(
            "guest",
            "link add dev virbr0 type bridge",
            "link add dev eth1 type veth peer name eth2",
            "link set eth1 master virbr0",
            *(f"link set {name} up" for name in ("eth1", "eth2", "virbr0")),
        )
        found = ("--bond", "virbr0", "--port", "none", "--channel", f"{folder}/*.hint")
        self.watcher = self._start([*HINT, "watch", "--status-socket", str(self.status), *found])
        until(self._has_found, "garp-hint finds its guest")
        self.watcher.send_signal(signal.SIGUSR1)
        until(self._has_hinted, "garp-hint hints")
        self.collect()
        self._start(
            [
                need("prometheus-node-exporter"),
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={self.metrics}",
                f"--web.listen-address={EXPORTER}",
            ]
        )
        self._start(
            [
                need("prometheus"),
                f"--config.file={self._configuration()}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={SERVER}",
            ]
        )

    def _configuration(self) -> Path:
        file = self.folder / "prometheus.yml"
        told = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [EXPORTER]}]}],
        }
        file.write_text(json.dumps(told))  # which is YAML
        return file

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        with open(self.folder / "log", "ab") as log:
            return self.lab.start("guest", command, stdout=log, stderr=log, env=ENVIRONMENT)

    def collect(self) -> str:
        """Run the textfile snippet once; what it says."""
        return self._collect("--control-socket", str(self.agent.control), agent=COMMAND)

    def collect_hint(self) -> str:
        """The same, for the hypervisor's end."""
        return self._collect("--status-socket", str(self.status), agent=HINT, name="garp_hint")

    def _has_found(self) -> bool:
        self.collect_hint()
        text = (self.metrics / "garp-hint.prom").read_text()
        return "garp_hint_guest_lease_seconds{" in text and "garp_hint_link_carrier{" in text

    def _has_hinted(self) -> bool:
        self.collect_hint()
        text = (self.metrics / "garp-hint.prom").read_text()
        return "garp_hint_failovers_total{" in text and "garp_hint_guest_hint_seconds{" in text

    def _collect(self, *options: str, agent: tuple[str, ...], name: str = "garp_agent") -> str:
        done = self.lab.run(
            "guest",
            [str(TEXTFILE), str(self.metrics), *options],
            env={**ENVIRONMENT, "GARP_AGENT": " ".join(agent), "GARP_NAME": name},
        )
        return str(done.stderr)

    def get(self, path: str, **parameters: str) -> Any:
        """What the server answers; None while it does not."""
        with contextlib.closing(http.client.HTTPConnection(SERVER, timeout=10)) as connection:
            with self.lab.entered("guest"):
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return None
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            answer = connection.getresponse()
            text = answer.read()
        # 503 while it starts.
        return None if answer.status == 503 else json.loads(text)

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.get("/api/v1/query", query=expression)
        if answer is None:
            return []
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def alerts(self) -> set[str]:
        answer = self.get("/api/v1/alerts") or {"data": {"alerts": []}}
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"]}


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    for program in ("prometheus", "prometheus-node-exporter"):
        need(program)
    reason = lab.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("monitoring")
    with TinyLab() as where, answering(folder / "vm1.hint"):
        forget_link_local(where)
        with Agent(where, folder, config="") as agent:
            running = Monitoring(where, agent, folder)
            until(lambda: len(running.query("garp_agent_up")) == 1, "the first sample")
            yield running


@pytest.mark.parametrize("file", ["garp-agent.prom", "garp-hint.prom"])
def test_promtool_finds_nothing_to_say(promtool: str, monitoring: Monitoring, file: str) -> None:
    text = (monitoring.metrics / file).read_text()
    assert "_up 1\n" in text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_whole_files_that_everybody_may_read(monitoring: Monitoring) -> None:
    assert sorted(os.listdir(monitoring.metrics)) == ["garp-agent.prom", "garp-hint.prom"]
    for file in monitoring.metrics.iterdir():
        assert file.stat().st_mode & 0o777 == 0o644


def test_the_figures_are_those_of_the_agent(monitoring: Monitoring) -> None:
    (sample,) = monitoring.query(
        f'garp_agent_address_frames_sent_total{{address="{GUEST_ADDRESS}"}}'
    )
    assert sample["metric"]["interface"] == "eth0"
    assert 0 < int(sample["value"][1]) <= monitoring.agent.sent()
    (sample,) = monitoring.query("garp_agent_refresh_interval_seconds")
    assert sample["value"][1] == "5"


def test_the_figures_are_those_of_the_watcher(monitoring: Monitoring) -> None:
    (sample,) = monitoring.query("garp_hint_guest_hints_answered_total")
    assert sample["metric"]["guest"] == "vm1"
    assert sample["value"][1] == "1"
    (sample,) = monitoring.query("garp_hint_link_carrier")
    assert (sample["metric"]["link"], sample["value"][1]) == ("virbr0", "1")


@pytest.mark.parametrize("expression", list(expressions(dashboard()["panels"])))
def test_the_expressions_of_the_dashboard(monitoring: Monitoring, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    if EMPTY.search(expression):
        monitoring.query(expression)
    else:
        until(lambda: monitoring.query(expression), f"{expression} has a value")


def test_the_alerts_are_loaded_and_all_is_well(monitoring: Monitoring) -> None:
    groups = monitoring.get("/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    until(lambda: all(r["health"] == "ok" for r in evaluated(monitoring)), "all are evaluated")
    assert monitoring.alerts() == set()


def evaluated(monitoring: Monitoring) -> list[dict[str, Any]]:
    groups = monitoring.get("/api/v1/rules")["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_an_agent_that_is_gone_leaves_no_old_figures_and_an_alert(monitoring: Monitoring) -> None:
    """The last test of the module: afterwards no agent runs."""
    assert monitoring.agent.stop(signal.SIGTERM) == 0
    assert "is it running?" in monitoring.collect()
    assert (monitoring.metrics / "garp-agent.prom").read_text().splitlines()[
        -1
    ] == "garp_agent_up 0"
    until(lambda: "GarpAgentDown" in monitoring.alerts(), "the alert")
    until(lambda: not monitoring.query("garp_agent_uptime_seconds"), "the old figures go")


def test_a_watcher_that_is_gone_leaves_an_alert(monitoring: Monitoring) -> None:
    """As the one before, of the hypervisor's end."""
    monitoring.lab.stop(monitoring.watcher)
    monitoring.collect_hint()
    until(lambda: "GarpHintDown" in monitoring.alerts(), "the alert")
    until(lambda: not monitoring.query("garp_hint_uptime_seconds"), "the old figures go")
