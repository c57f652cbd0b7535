"""docs/install: the commands of each page, run as they stand there.

    ```sh           in a Debian chroot with a network of its own, the built files at hand
    ```sh image     the same, where /mnt/image is another system's tree
    ```sh sysv      the same, without systemd (```sh openrc: test_openrc.py)
    ```sh venv, ```sh pipx   on this machine, where /opt, /mnt and /usr/local/bin are empty
    ```sh build     at the top of this tree

In a chroot nothing is booted: systemctl and udevadm are stand-ins there, except for what
works offline.  test_booted.py runs a page against the real ones.  `make test-packages`
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from garp_agent import __version__
from tests.packaging.rootfs import Chroot
from tests.packaging.support import CONTRIB, ROOT, SYSTEM_PATH, need, need_root, run

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
            if each.is_dir():
                shutil.copytree(each, home / each.name)
            else:
                shutil.copy(each, home)
        for tool in ("systemctl", "udevadm"):
            found = next((system.top / "usr/bin").glob(tool), None) or system.top / "bin" / tool
            if found.exists():
                found.rename(f"{found}.real")
                found.write_text(STAND_IN)
                found.chmod(0o755)
        (system.top / "mnt/image/etc").mkdir(parents=True)
        script = "cd /root\n" + "".join(blocks(page(name), "sh", "sh image", f"sh {suite}"))
        printed = system.run("bash", "-exc", script)
        called = home / "called"
        left = [
            str(path.relative_to(system.top))
            for path in system.top.rglob("*garp*")
            if not {"root", "mnt", "proc", "dpkg", "log", "cache"} & {*path.parts}
        ]
        assert left == []
        assert (system.top / "mnt/image/usr/local/sbin/garp-agent").exists() == (
            name in ("zipapp", "systemd")
        )
        return printed, called.read_text() if called.exists() else ""


def test_every_way_in_has_a_page() -> None:
    names = {each.stem for each in PAGES}
    assert names == {"deb", "rpm", "systemd", "rc-local", "cloud-init", "zipapp", "pip"}


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_deb(built: Path, suite: str) -> None:
    files = [*built.glob("garp-*_all.deb")]
    printed, _ = follow("deb", suite, files)
    assert "enabled" in printed
    assert "192.0.2.10" in printed


@pytest.mark.parametrize("name", ["zipapp", "systemd"])
def test_single_file(built: Path, name: str) -> None:
    files = [built / "garp-agent.pyz", CONTRIB / "systemd" / "garp-hint.service"]
    printed, called = follow(name, "bookworm", files)
    assert "192.0.2.10" in printed
    assert "systemctl daemon-reload\n" in called
    assert "systemctl restart garp-agent\n" in called
    assert ("systemctl restart garp-hint\n" in called) == (name == "systemd")


def test_rc_local(built: Path) -> None:
    files = [built / "garp-agent.pyz", CONTRIB / "rc.local" / "garp-start", CONTRIB]
    printed, _ = follow("rc-local", "sysv", files)
    assert "garp-start: started, process" in printed
    assert "garp-start: running, process" in printed
    assert "garp-start: stopped" in printed
    assert re.search(r"^/etc/rc2\.d/S\d\dgarp-agent$", printed, re.MULTILINE)


OF_ITS_OWN = """
for folder in /opt /mnt /usr/local/bin; do mount -t tmpfs tmpfs $folder; done
mkdir -p /mnt/image/etc
"""


@pytest.mark.parametrize("kind", ["venv", "pipx"])
def test_pip(built: Path, kind: str, tmp_path: Path) -> None:
    """The dependencies come from the index."""
    need_root()
    need("pipx", "pipx")
    (wheel,) = built.glob(f"garp_agent-{__version__}-*.whl")
    shutil.copy(wheel, tmp_path)
    script = OF_ITS_OWN + "".join(blocks(page("pip"), f"sh {kind}"))
    environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
    printed = run("unshare", "--mount", "bash", "-exc", script, cwd=tmp_path, env=environment)
    assert re.search(r"^lo ", printed, re.MULTILINE)
    assert f"garp-hint, version {__version__}\n" in printed
    unit = "/mnt/image/etc/systemd/system/garp-agent.service"
    assert (f"wrote {unit}\n" in printed) == (kind == "venv")
    assert not list(Path("/opt").glob("*garp*"))
