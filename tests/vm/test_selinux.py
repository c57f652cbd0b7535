"""`garp-agent install` where SELinux is on: the labels of what it writes, with Debian's policy."""

from __future__ import annotations

from pathlib import Path

import build_pyz
from tests.vm import selinux

LABELS = """
import os
result = {path: os.getxattr(path, "security.selinux").decode().split(":")[2] for path in paths}
"""
WANTED = {
    "/usr/local/sbin/garp-agent": "bin_t",
    "/etc/systemd/system/garp-agent.service": "systemd_unit_t",
    "/etc/systemd/system/garp-agent-port.service": "systemd_unit_t",
    "/etc/udev/rules.d/80-garp-agent.rules": "udev_rules_t",
    "/etc/sysusers.d/garp-agent.conf": "etc_t",
    "/etc/garp-agent/config.yaml": "etc_t",
}


def test_restorecon_of_install_gives_the_labels_of_the_policy(tmp_path: Path) -> None:
    program = tmp_path / "garp-agent.pyz"
    build_pyz.build(program, [])
    with selinux.machine(tmp_path, program) as guest:
        said = guest.shell("sh /root/garp-agent.pyz install")
        label, command, _ = said.partition("now: ")[2].partition("; ")
        assert label.startswith("restorecon -RF ")
        assert command
        before = guest.python(LABELS, paths=list(WANTED))
        assert before != WANTED
        guest.shell(label)
        assert guest.python(LABELS, paths=list(WANTED)) == WANTED
