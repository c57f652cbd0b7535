"""`garp-hint doctor` on this host and in a network namespace with a bridge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.guests import PORT, Guests, Manner
from tests.hypervisor.test_bridge_failovers import WITH_UPLINK, run_in
from tests.hypervisor.test_daemon import only
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, Watcher, eventually, run, watching

# Python starts with neither package, as where python3-scapy and python3-netifaces are missing.
WITHOUT_PACKAGES = """
import sys
sys.modules["scapy"] = sys.modules["netifaces"] = None
from garp_agent.hypervisor.__main__ import main
main()
"""


def in_namespace(watcher: Watcher, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Run doctor beside a watcher; return its findings by check."""
    where = ["--status-socket", watcher.status_socket]
    command = ["env", f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}", *COMMAND, "doctor", "--json"]
    told = json.loads(run_in(watcher, *command, *where, *arguments))
    assert told["good"] is True
    found: dict[str, list[dict[str, Any]]] = {}
    for each in told["findings"]:
        found.setdefault(each["check"], []).append(each)
    return found


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_doctor_sees_bridge_watcher_and_guests(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS, Manner.NO_AGENT])
    finding = ("--timeout", "5", "--port", "none", "--channel", f"{short_path}/*/{PORT}")
    with guests, watching(short_path, *only(short_path, "1"), prefix=WITH_UPLINK) as watcher:
        run_in(watcher, "ip", "link", "set", "uplink", "up")
        eventually(lambda: watcher.states().get("0-guest0") == "answered", "the first contact")
        stp = ("stp_state", "1", "forward_delay", "200")
        run_in(watcher, "ip", "link", "set", "br0", "type", "bridge", *stp)
        found = in_namespace(watcher, *finding)
    [bridge] = [each for each in found["bridge br0"] if "STP" in each["found"]]
    assert bridge["level"] == "warn"
    assert "4.0 s (twice the forward delay)" in bridge["found"]
    assert found["bonds"][0]["found"] == "this host has none"
    assert f"pid {watcher.process.pid}," in found["watcher"][0]["found"]
    assert found["capabilities"][0]["level"] == "ok"
    assert found["following"][0]["found"] == "br0 (bridge)"
    texts = [each["found"] for each in found["guests"]]
    assert "1 guest answers: 0-guest0" in texts
    assert any(text.startswith("no-agent: 1-guest1: no reply") for text in texts)
    no_path = "not checked: no guest is behind a bond with a standby port"
    assert found["paths"][0]["found"] == no_path


def test_doctor_without_watcher_fails_and_says_how_to_start_it(short_path: Path) -> None:
    missing = str(short_path / "none.sock")
    arguments = ("doctor", "--port", PORT, "--status-socket", missing, "--no-send")
    status, out, err = run(*arguments)
    assert (status, err) == (1, "")
    lines = [line.strip() for line in out.splitlines()]
    assert any(line.startswith("fail  watcher ") for line in lines)
    assert "systemctl start garp-hint" in out
    assert "not checked: --no-send was given" in out
    told = json.loads(run(*arguments, "--json")[1])
    assert (told["good"], {*told}) == (False, {"version", "good", "findings"})


def test_doctor_works_without_scapy_and_netifaces(short_path: Path) -> None:
    doctor = ("doctor", "--json", "--no-send", "--port", PORT, "--status-socket")
    with watching(short_path, "--port", PORT) as watcher:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PACKAGES, *doctor, watcher.status_socket],
            check=False,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
    assert done.stderr == ""
    assert "watcher" in {each["check"] for each in json.loads(done.stdout)["findings"]}
