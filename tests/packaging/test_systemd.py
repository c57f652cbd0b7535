"""The units, the udev rule and the sysusers file: good for systemd, and as the program is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from garp_agent.config.settings import Settings
from garp_agent.runtime.exits import EXIT_CONFIG, EXIT_NO_PERMISSION
from tests.packaging.support import CONTRIB, need, run

SYSTEMD = CONTRIB / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
MAX_EXPOSURE = 16  # `systemd-analyze security --threshold`, in tenths


@pytest.mark.parametrize("name", UNITS)
def test_units_satisfy_systemd(name: str, tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    # The program must exist.
    unit = re.sub(r"/usr/sbin/garp-\w+", "/bin/true", (SYSTEMD / name).read_text())
    (tmp_path / name).write_text(unit)
    said = run(analyze, "verify", "--man=no", tmp_path / name)
    # `verify` loads units of the machine too.
    assert [line for line in said.splitlines() if "garp" in line] == []


@pytest.mark.parametrize("name", ["garp-agent.service", "garp-hint.service"])
def test_units_stay_hardened(name: str) -> None:
    options = ("security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}")
    run(need("systemd-analyze", "systemd"), *options, SYSTEMD / name)


def test_unit_and_rule_agree_with_the_program() -> None:
    unit = (SYSTEMD / "garp-agent.service").read_text()
    rule = (CONTRIB / "udev" / "80-garp-agent.rules").read_text()
    users = (SYSTEMD / "garp-agent.sysusers").read_text()
    statuses = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)[0].split()
    assert set(map(int, statuses)) == {2, EXIT_NO_PERMISSION, EXIT_CONFIG}
    assert f'ATTR{{name}}=="{Settings().hint_port}"' in rule
    assert Settings().control_socket.startswith("/run/garp-agent/")
    assert "RuntimeDirectory=garp-agent\n" in unit
    assert 'GROUP="garp"' in rule
    assert "\nSupplementaryGroups=garp\n" in unit
    assert re.search(r"^g garp ", users, re.MULTILINE)
