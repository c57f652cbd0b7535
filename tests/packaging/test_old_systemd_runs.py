"""Old systemds of Ubuntu start the services with the drop-in of `garp-agent install` only.

tests/cli/test_old_systemd.py has the versions that cannot be had.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.cli import old_systemd
from tests.netns.agent import until
from tests.packaging.old_root import OldSystem, fill
from tests.packaging.support import run

pytestmark = pytest.mark.netns

CAP_DAC_OVERRIDE = 1 << 1
CAP_NET_RAW = 1 << 13
# Python 3.5 cannot run the agent: this does what the unit has to allow, and what it forbids.
STAND_IN = """#!/usr/bin/python3
import os, socket, time
for family in (socket.AF_PACKET, socket.AF_NETLINK):
    socket.socket(family, socket.SOCK_RAW)
open("/run/garp-agent/file", "w")
for forbidden in ("/usr/file", "/etc/file"):
    try:
        open(forbidden, "w")
    except OSError:
        continue
    raise SystemExit(forbidden + " can be written")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\\0"))
time.sleep(100000)
"""


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path, pyz: Path) -> Iterator[OldSystem]:
    """A system of a suite in which both programs are installed; it has not read their units."""
    top = tmp_path / "top"
    top.mkdir()
    fill(request.param, top)
    for name in ("garp-agent", "garp-hint"):
        program = top / "usr/local/sbin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pyz, program)
        run(program, "install", "--root", top, "--program", f"/usr/local/sbin/{name}")
    with OldSystem(top) as system:
        yield system


def result(system: OldSystem, unit: str) -> str:
    """Start a unit; return its state."""
    system.systemctl("daemon-reload")
    system.systemctl("start", unit)
    return system.systemctl("show", "-p", "ActiveState", unit).strip().partition("=")[2]


def starts_with_the_drop_in_only(system: OldSystem, unit: str) -> None:
    drop_in = system.top / f"etc/systemd/system/{unit}.d" / old_systemd.NAME
    text = drop_in.read_text()
    drop_in.unlink()
    assert result(system, unit) != "active"
    system.systemctl("stop", unit)
    drop_in.write_text(text)
    assert result(system, unit) == "active", system.systemctl("status", unit)


def capabilities(system: OldSystem, unit: str) -> int:
    process = system.systemctl("show", "-p", "MainPID", unit).strip().partition("=")[2]
    status = system.run("/bin/cat", f"/proc/{process}/status").splitlines()
    lines = dict(line.split(":", 1) for line in status)
    assert lines["CapEff"] == lines["CapBnd"]
    return int(lines["CapEff"], 16)


@pytest.mark.parametrize("old", ["bionic"], indirect=True)
def test_agent_and_watcher_start_under_systemd_237(old: OldSystem) -> None:
    old.network("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
    for command in ("address add 192.0.2.10/24 dev eth0", "link set eth0 up", "link set far0 up"):
        old.network("ip", *command.split())
    starts_with_the_drop_in_only(old, "garp-agent.service")
    assert capabilities(old, "garp-agent.service") == CAP_NET_RAW

    def announced() -> bool:
        status = json.loads(old.run("/usr/local/sbin/garp-agent", "status", "--json"))
        return bool(status["frames"]["sent"])

    until(announced, "the agent announces")
    old.systemctl("start", "garp-agent-port.service")
    shown = old.systemctl("show", "-p", "Result", "garp-agent-port.service")
    assert shown.strip() == "Result=success"
    starts_with_the_drop_in_only(old, "garp-hint.service")
    assert capabilities(old, "garp-hint.service") == CAP_DAC_OVERRIDE


@pytest.mark.parametrize("old", ["xenial"], indirect=True)
def test_service_starts_under_systemd_229(old: OldSystem) -> None:
    (old.top / "usr/local/sbin/garp-agent").write_text(STAND_IN)
    starts_with_the_drop_in_only(old, "garp-agent.service")
    assert capabilities(old, "garp-agent.service") == CAP_NET_RAW
    shown = old.systemctl("show", "-p", "StartLimitInterval", "garp-agent.service")
    assert shown.strip() == "StartLimitInterval=0"
