"""The units, the udev rule and the sysusers file, judged by systemd's own tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from garp_agent.config.settings import Settings
from garp_agent.guest import daemon
from tests.packaging.support import CONTRIB, need, run

SYSTEMD = CONTRIB / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
DAEMONS = ["garp-agent.service", "garp-hint.service"]
MOST_EXPOSURE = 16  # tenths


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that exist, so that `verify` has nothing else to say."""
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/usr/sbin/garp-\w+", "/bin/true", text))
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_to_say(units: Path, name: str) -> None:
    analyze = need("systemd-analyze", "systemd")
    said = run(analyze, "verify", "--man=no", units / name)
    # `verify` loads units of the machine too; only lines on ours count.
    assert [line for line in said.splitlines() if "garp" in line] == []


@pytest.mark.parametrize("name", UNITS)
def test_whichever_directive_were_misspelt_it_would_be_seen(units: Path, name: str) -> None:
    """systemd passes over what it does not know, and hardens so much the less."""
    analyze = need("systemd-analyze", "systemd")
    unit = units / name
    text, many = re.subn(r"^([A-Z]\w+)=", r"\1x=", unit.read_text(), flags=re.MULTILINE)
    unit.write_text(text)
    said = run(analyze, "verify", "--man=no", unit, accept=(0, 1))
    assert many > 4
    assert len(re.findall(rf"{name}:\d+: Unknown key (?:name )?'\w+x' in section", said)) == many


@pytest.mark.parametrize("name", DAEMONS)
def test_every_directive_stands_below_a_reason(name: str) -> None:
    """In [Service]; a heading is none."""
    text = (SYSTEMD / name).read_text()
    lines = re.findall(r"\[Service\]\n(.*?)\n\[Install\]", text, re.DOTALL)[0].splitlines()
    above, without = "", []
    for line in lines:
        if re.match(r"[A-Z]\w+=", line):
            if not above.startswith("# ") or above.startswith("# --"):
                without.append(line)
        else:
            above = line
    assert without == []


@pytest.mark.parametrize("name", DAEMONS)
def test_exposure(name: str) -> None:
    analyze = need("systemd-analyze", "systemd")
    run(
        *(analyze, "security", "--offline=true", "--no-pager"),
        *(f"--threshold={MOST_EXPOSURE}", SYSTEMD / name),
    )


def test_statuses_that_a_restart_does_not_heal() -> None:
    text = (SYSTEMD / "garp-agent.service").read_text()
    statuses = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)[0].split()
    assert set(map(int, statuses)) == {2, daemon.EXIT_NO_PERMISSION, daemon.EXIT_CONFIG}


def test_the_rule_names_the_port_that_the_agent_opens() -> None:
    rule = (CONTRIB / "udev" / "80-garp-agent.rules").read_text()
    assert f'ATTR{{name}}=="{Settings().hint_port}"' in rule


def test_one_group_throughout() -> None:
    rule = (CONTRIB / "udev" / "80-garp-agent.rules").read_text()
    unit = (SYSTEMD / "garp-agent.service").read_text()
    users = (SYSTEMD / "garp-agent.sysusers").read_text()
    groups = {
        *re.findall(r'GROUP="(\w+)"', rule),
        *re.findall(r"^SupplementaryGroups=(\w+)$", unit, re.MULTILINE),
        *re.findall(r"^g (\w+)", users, re.MULTILINE),
    }
    assert groups == {"garp"}


def test_the_control_socket_is_in_the_runtime_directory() -> None:
    assert Settings().control_socket.startswith("/run/garp-agent/")
    assert "RuntimeDirectory=garp-agent\n" in (SYSTEMD / "garp-agent.service").read_text()


def test_sysusers_makes_the_group(tmp_path: Path) -> None:
    sysusers = need("systemd-sysusers", "systemd")
    (tmp_path / "etc").mkdir()
    for _ in range(2):  # a second run changes nothing
        run(sysusers, f"--root={tmp_path}", SYSTEMD / "garp-agent.sysusers")
    groups = (tmp_path / "etc" / "group").read_text().splitlines()
    assert [line.split(":")[0] for line in groups] == ["garp"]
