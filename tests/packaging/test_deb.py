"""The Debian packages: judged by lintian and systemd, and used in a chroot as docs/install says.

test_booted.py has what needs a running system.  `make test-packages`
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import build_pyz
from tests.packaging.rootfs import Chroot
from tests.packaging.support import need, run
from tests.packaging.test_docs import blocks
from tests.packaging.test_systemd import MAX_EXPOSURE

# apt and dpkg keep the previous version of these files.
BACKUPS = {f"etc/{name}-" for name in ("group", "gshadow", "passwd", "shadow", "subgid")}


def test_packages_satisfy_lintian(debs: dict[str, Path]) -> None:
    options = ("--allow-root", "--fail-on=error,warning")
    said = run(need("lintian", "lintian"), *options, debs["garp-agent"], debs["garp-hint"])
    assert re.findall("^[EW]:.*", said, re.MULTILINE) == []


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_packages_work_once_installed_and_leave_nothing_when_purged(
    debs: dict[str, Path], suite: str
) -> None:
    install_agent, look, install_hint, purge = blocks("deb", "sh")
    with Chroot(suite) as system:
        before = system.files()
        for package in (debs["garp-agent"], debs["garp-hint"]):
            shutil.copy(package, system.top / "root")
        system.shell(f"cd /root; {install_agent}")
        printed = system.shell(look)
        assert "enabled\n" in printed
        assert "192.0.2.10" in printed
        system.shell(f"cd /root; {install_hint}")
        programs_work(system)
        units_satisfy_systemd(system, suite)
        system.shell("apt-get remove -y garp-agent garp-hint")
        assert (system.top / "etc/garp-agent/config.yaml").exists()
        assert not (system.top / "usr/sbin/garp-agent").exists()
        assert not (system.top / "usr/share/garp-agent").exists()
        assert "enabled\n" in system.shell(f"cd /root; {install_agent} {look}")
        system.shell(f"{purge} rm /root/*")
        after = system.files()
    assert before.keys() ^ after.keys() <= BACKUPS
    changed = {path for path in before if after.get(path) != before[path]} - BACKUPS
    assert changed <= {"etc/ld.so.cache"}


def programs_work(system: Chroot) -> None:
    assert system.run("garp-agent", "--version").endswith(f" {build_pyz.VERSION}\n")
    assert "192.0.2.10" in json.dumps(json.loads(system.run("garp-agent", "list", "--json")))
    # As the unit starts it: not as root, with one capability.  eth0 may have no carrier yet.
    user = "setpriv --reuid 4242 --regid 4242 --clear-groups"
    able = f"{user} --inh-caps -all,+net_raw --ambient-caps +net_raw garp-agent announce eth0"
    assert "1 frames sent, 0 dropped" in system.shell(f"until {able}; do sleep 0.1; done")
    assert "CAP_NET_RAW is missing" in system.shell(f"{user} garp-agent announce eth0", status=77)
    assert system.run("getent", "group", "garp").startswith("garp:")
    assert system.run("systemctl", "is-enabled", "garp-hint").strip() == "enabled"
    words = "_GARP_AGENT_COMPLETE=bash_complete COMP_WORDS='garp-agent st' COMP_CWORD=1"
    assert "status" in system.shell(f"{words} garp-agent 2>&1")
    system.run("bash", "-n", "/usr/share/bash-completion/completions/garp-agent")


def units_satisfy_systemd(system: Chroot, suite: str) -> None:
    units = ["garp-agent.service", "garp-agent-port.service", "garp-hint.service"]
    said = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "garp" in line] == []
    for unit in ("garp-agent.service", "garp-hint.service"):
        judge = ("systemd-analyze", "security", "--offline=true", "--no-pager")
        system.run(*judge, f"--threshold={MAX_EXPOSURE}", f"/lib/systemd/system/{unit}")
    if suite == "trixie":  # the udevadm of bookworm cannot verify
        rules = "/usr/lib/udev/rules.d/80-garp-agent.rules"
        assert "Success: 1" in system.run("udevadm", "verify", rules)
