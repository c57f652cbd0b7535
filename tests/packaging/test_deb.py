"""The Debian packages, judged by lintian and by systemd, through their life in a chroot.

test_booted.py has what needs a running system: start, upgrade, reboot.  `make test-packages`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.rootfs import Chroot
from tests.packaging.support import need, run, tool
from tests.packaging.test_systemd import MAX_EXPOSURE

# apt and dpkg keep the previous version of these files.
BACKUPS = {"etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/subgid-"}


@pytest.fixture(params=["bookworm", "trixie"])
def system(request: pytest.FixtureRequest) -> Iterator[Chroot]:
    with Chroot(request.param) as chroot:
        yield chroot


def test_packages_satisfy_lintian(debs: dict[str, Path]) -> None:
    lintian = need("lintian", "lintian")
    options = ("--allow-root", "--fail-on=error,warning")
    said = run(lintian, *options, debs["garp-agent"], debs["garp-hint"])
    assert re.findall("^[EW]:.*", said, re.MULTILINE) == []


def test_packages_work_once_installed_and_leave_nothing_when_purged(
    system: Chroot, debs: dict[str, Path]
) -> None:
    before = system.files()
    system.install(debs["garp-agent"], debs["garp-hint"])
    programs_work(system)
    system.run("dpkg", "--remove", "garp-agent", "garp-hint")
    assert (system.top / "etc/garp-agent/config.yaml").exists()
    assert not (system.top / "usr/sbin/garp-agent").exists()
    assert not (system.top / "usr/share/garp-agent").exists()
    system.install(debs["garp-agent"])  # again, over the configuration that was kept
    assert system.run("systemctl", "is-enabled", "garp-agent").strip() == "enabled"
    system.run("dpkg", "--purge", "garp-agent", "garp-hint")
    after = system.files()
    assert before.keys() ^ after.keys() <= BACKUPS
    changed = {path for path in before if after.get(path) != before[path]} - BACKUPS
    assert changed <= {"etc/ld.so.cache"}


def programs_work(system: Chroot) -> None:
    version = tool("build_deb").VERSION
    assert system.run("garp-agent", "--version").endswith(f" {version}\n")
    assert "Usage: garp-hint" in system.run("garp-hint", "--help")
    assert "good" in system.run("garp-agent", "check")
    assert "192.0.2.10" in json.dumps(json.loads(system.run("garp-agent", "list", "--json")))
    # As the unit starts it: not as root, with one capability.  eth0 may have no carrier yet.
    user = "setpriv --reuid 4242 --regid 4242 --clear-groups"
    able = f"{user} --inh-caps -all,+net_raw --ambient-caps +net_raw garp-agent announce eth0"
    assert "1 frames sent, 0 dropped" in system.shell(f"until {able}; do sleep 0.1; done")
    assert "CAP_NET_RAW is missing" in system.shell(f"{user} garp-agent announce eth0", status=77)
    assert system.run("getent", "group", "garp").startswith("garp:")
    for name in ("garp-agent", "garp-hint"):
        assert system.run("systemctl", "is-enabled", name).strip() == "enabled"
    words = "_GARP_AGENT_COMPLETE=bash_complete COMP_WORDS='garp-agent st' COMP_CWORD=1"
    assert "status" in system.shell(f"{words} garp-agent")
    system.run("bash", "-n", "/usr/share/bash-completion/completions/garp-agent")


def test_units_satisfy_the_systemd_of_each_release(system: Chroot, debs: dict[str, Path]) -> None:
    system.install(debs["garp-agent"], debs["garp-hint"])
    units = ["garp-agent.service", "garp-agent-port.service", "garp-hint.service"]
    said = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "garp" in line] == []
    for unit in ("garp-agent.service", "garp-hint.service"):
        judge = ("systemd-analyze", "security", "--offline=true", "--no-pager")
        system.run(*judge, f"--threshold={MAX_EXPOSURE}", f"/lib/systemd/system/{unit}")
    if "trixie" in (system.top / "etc/os-release").read_text():  # bookworm's cannot verify
        rules = "/usr/lib/udev/rules.d/80-garp-agent.rules"
        assert "Success: 1" in system.run("udevadm", "verify", rules)
