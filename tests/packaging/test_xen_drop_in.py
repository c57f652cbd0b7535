"""The drop-in of docs/install/xen.md under a real systemd, in namespaces: it lets xenbus in.

The devices are stand-ins without Xen, which open anywhere else, and the watcher is a script that
tries to open them.  What Xen itself does is tested in tests/vm.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.packaging.container import Container
from tests.packaging.support import CONTRIB, ROOT

pytestmark = pytest.mark.netns

UNIT = "/etc/systemd/system/garp-hint.service"
SEEN = "/run/garp-hint/seen"
# tun and FUSE: root can open both on nearly each kernel.
DEVICES = """
mkdir /dev/xen
mknod -m 600 /dev/xen/xenbus c 10 200
mknod -m 600 /dev/xen/other c 10 229
for each in xenbus other; do : <>/dev/xen/$each; done
"""
WATCHER = f"""#!/bin/sh
echo "$*" >{SEEN}
for each in xenbus other; do
    (: <>/dev/xen/$each) && echo "$each opened" || echo "$each refused"
done >>{SEEN} 2>/dev/null
"""
# The script ends, and cannot say that it is ready.
SIMPLE = "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nRuntimeDirectoryPreserve=yes\n"


def test_drop_in_of_the_page_opens_xenbus_and_no_other_device(tmp_path: Path) -> None:
    page = (ROOT / "docs/install/xen.md").read_text()
    (drop_in,) = re.findall(r"```ini\n(.*?)```", page, re.S)
    for name, text in {"drop-in": drop_in, "simple": SIMPLE, "watcher": WATCHER}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "watcher").chmod(0o755)
    files = {
        UNIT: CONTRIB / "systemd/garp-hint.service",
        f"{UNIT}.d/a.conf": tmp_path / "simple",
        "/drop-in": tmp_path / "drop-in",
        "/usr/sbin/garp-hint": tmp_path / "watcher",
    }
    with Container("booted-bookworm", files) as system:
        system.run("groupadd", "garp")
        system.run("sh", "-ec", DEVICES)
        system.run("systemctl", "start", "garp-hint")
        assert system.run("cat", SEEN) == "watch\nxenbus refused\nother refused\n"
        system.run("cp", "/drop-in", f"{UNIT}.d/b.conf")
        system.run("systemctl", "daemon-reload")
        system.run("systemctl", "start", "garp-hint")
        seen = "watch --announce-self\nxenbus opened\nother refused\n"
        assert system.run("cat", SEEN) == seen
