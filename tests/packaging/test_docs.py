"""docs/install: the commands of each page, run as they stand there.

    ```sh           in a Debian chroot with a network of its own, the built files at hand
    ```sh image     the same, where /mnt/image is another system's tree
    ```sh build     at the top of this tree

In a chroot nothing is booted: systemctl and udevadm are stand-ins there, except for what
works offline.  test_booted.py runs a page against the real ones.  `make test-packages`
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.packaging.rootfs import Chroot
from tests.packaging.support import CONTRIB, ROOT, need, run

PAGES = sorted((ROOT / "docs" / "install").glob("*.md"))
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>/root/called
case $1 in
daemon-reload | start | stop | restart | reload | control | trigger) exit 0 ;;
esac
exec "$(readlink -f "$0").real" "$@"
"""


def blocks(page: Path, *kinds: str) -> list[str]:
    """The page's commands of these kinds, in their order."""
    found = re.findall(r"^```(sh[a-z ]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for kind, text in found if kind in kinds]


def page(name: str) -> Path:
    return ROOT / "docs" / "install" / f"{name}.md"


@pytest.fixture(scope="module")
def built() -> Path:
    """dist/, filled by the pages' own commands."""
    for tool, package in (("make", "make"), ("dh", "debhelper"), ("cloud-init", "cloud-init")):
        need(tool, package)
    for each in PAGES:
        for commands in blocks(each, "sh build"):
            run("sh", "-exc", commands, cwd=ROOT)
    return ROOT / "dist"


def follow(name: str, suite: str, files: list[Path]) -> tuple[str, str]:
    """Do what a page says; what it printed, and which stand-ins were called."""
    with Chroot(suite) as system:
        home = system.top / "root"
        for each in files:
            shutil.copy(each, home)
        for tool in ("systemctl", "udevadm"):
            found = next((system.top / "usr/bin").glob(tool), None) or system.top / "bin" / tool
            if found.exists():
                found.rename(f"{found}.real")
                found.write_text(STAND_IN)
                found.chmod(0o755)
        (system.top / "mnt/image/etc").mkdir(parents=True)
        script = "cd /root\n" + "".join(blocks(page(name), "sh", "sh image"))
        printed = system.run("bash", "-exc", script)
        called = home / "called"
        left = [
            str(path.relative_to(system.top))
            for path in system.top.rglob("*garp*")
            if not {"root", "mnt", "proc", "dpkg", "log", "cache"} & {*path.parts}
        ]
        assert left == []
        assert (system.top / "mnt/image/usr/local/sbin/garp-agent").exists() == (name == "zipapp")
        return printed, called.read_text() if called.exists() else ""


def test_every_way_in_has_a_page() -> None:
    names = {each.stem for each in PAGES}
    assert names == {"deb", "rpm", "systemd", "rc-local", "cloud-init", "zipapp"}


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_deb(built: Path, suite: str) -> None:
    files = [*built.glob("garp-*_all.deb")]
    printed, _ = follow("deb", suite, files)
    assert "enabled" in printed
    assert "192.0.2.10" in printed


@pytest.mark.parametrize("name", ["zipapp", "systemd"])
def test_single_file(built: Path, name: str) -> None:
    printed, called = follow(name, "bookworm", [built / "garp-agent.pyz"])
    assert "192.0.2.10" in printed
    assert "systemctl daemon-reload\n" in called
    assert "systemctl restart garp-agent\n" in called


def test_rc_local(built: Path) -> None:
    files = [built / "garp-agent.pyz", CONTRIB / "rc.local" / "garp-start"]
    printed, _ = follow("rc-local", "sysv", files)
    assert "garp-start: started, process" in printed
    assert "garp-start: running, process" in printed
    assert "garp-start: stopped" in printed
