"""docs/install: the commands of each page, run as the page gives them.  `make test-packages`

    ```sh           in a Debian chroot with its own network, the built files in the folder
    ```sh image     the same; /mnt/image is the tree of another system
    ```sh sysv, ```sh openrc   the same, without systemd
    ```sh venv, ```sh pipx   on this machine, with empty /opt, /mnt and /usr/local/bin
    ```sh build     at the top of this tree
    ```sh tools     not run: installs what the commands after it need

Nothing is booted in a chroot: systemctl and udevadm are replaced there by programs that record
their call, except for what works offline.  test_packages.py follows the page about the package.
"""

from __future__ import annotations

import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from garp_agent import __version__
from tests.packaging.rootfs import Chroot
from tests.packaging.support import CONTRIB, ROOT, SYSTEM_PATH, need, run

PAGES = sorted((ROOT / "docs" / "install").glob("*.md"))
REPLACEMENT = """#!/bin/sh
echo "$(basename "$0") $*" >>/root/called
case $1 in
daemon-reload | start | stop | restart | reload | control | trigger) exit 0 ;;
esac
exec "$(readlink -f "$0").real" "$@"
"""
PRIVATE_FOLDERS = """
for folder in /opt /mnt /usr/local/bin; do mount -t tmpfs tmpfs $folder; done
mkdir -p /mnt/image/etc
"""


def blocks(page: str, *kinds: str) -> list[str]:
    """Return the commands of these kinds in their order."""
    text = (ROOT / "docs" / "install" / f"{page}.md").read_text()
    found = re.findall(r"^```(sh[a-z ]*)\n(.*?)^```$", text, re.M | re.S)
    return [commands for kind, commands in found if kind in kinds]


@pytest.fixture(scope="module")
def built() -> Path:
    """dist/, filled by the commands of the pages."""
    for program, package in (("make", "make"), ("dh", "debhelper"), ("cloud-init", "cloud-init")):
        need(program, package)
    for page in PAGES:
        for commands in blocks(page.stem, "sh build"):
            run("sh", "-exc", commands, cwd=ROOT)
    return ROOT / "dist"


def replace_programs(system: Chroot) -> None:
    """Let systemctl and udevadm record their calls, where the system has them."""
    for program in ("systemctl", "udevadm"):
        found = next((system.top / "usr/bin").glob(program), system.top / "bin" / program)
        if found.exists():
            found.rename(f"{found}.real")
            found.write_text(REPLACEMENT)
            found.chmod(0o755)


def follow(page: str, suite: str, *files: Path) -> tuple[str, str]:
    """Do what a page says; return what it printed, and the calls of systemctl and udevadm."""
    with Chroot(suite) as system:
        home = system.top / "root"
        for each in files:
            copy = shutil.copytree if each.is_dir() else shutil.copy
            copy(each, home / each.name)
        replace_programs(system)
        (system.top / "mnt/image/etc").mkdir(parents=True)
        (home / "called").touch()
        commands = "".join(blocks(page, "sh", "sh image", f"sh {suite}"))
        printed = system.shell(f"cd /root\n{commands}")
        left = [
            str(path.relative_to(system.top))
            for path in system.top.rglob("*garp*")
            if not {"root", "mnt", "proc", "dpkg", "log", "cache"} & {*path.parts}
        ]
        assert left == []
        in_image = (system.top / "mnt/image/usr/local/sbin/garp-agent").exists()
        assert in_image == (page in ("zipapp", "systemd"))
        return printed, (home / "called").read_text()


@pytest.mark.parametrize("page", ["zipapp", "systemd"])
def test_page_of_the_single_file_can_be_followed(built: Path, page: str) -> None:
    printed, called = follow(page, "bookworm", built / "garp-agent.pyz")
    assert "192.0.2.10" in printed
    assert "systemctl daemon-reload\n" in called
    assert "systemctl restart garp-agent\n" in called
    assert ("systemctl restart garp-hint\n" in called) == (page == "systemd")


def test_page_rc_local_can_be_followed(built: Path) -> None:
    files = (built / "garp-agent.pyz", CONTRIB / "rc.local" / "garp-start", CONTRIB)
    printed, _ = follow("rc-local", "sysv", *files)
    for words in ("started, process", "running the agent, process", "stopped"):
        assert f"garp-start: {words}" in printed
    assert re.search(r"^/etc/rc2\.d/S\d\dgarp-agent$", printed, re.MULTILINE)


CAP_NET_RAW = 1 << 13  # <linux/capability.h>

# The folders that a booted OpenRC has, then the life of its service.
OPENRC = """
for folder in exclusive started starting stopping inactive wasinactive failed daemons options; do
    mkdir -p /run/openrc/$folder
done
touch /run/openrc/softlevel
alone="rc-service --nodeps garp-agent"
agent() { grep -lsz '^python3$' /proc/[0-9]*/cmdline | tr -dc '0-9\\n'; }
$alone start
until garp-agent status; do sleep 0.2; done >/dev/null 2>&1
$alone status
$alone burst
first=$(agent)
grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/$first/status
$alone reload
kill -9 $first
until next=$(agent); [ -n "$next" ] && [ "$next" != "$first" ]; do sleep 0.2; done
$alone stop
while [ -n "$(agent)" ]; do sleep 0.2; done
mkdir -p /etc/garp-agent
echo 'interval: never' >/etc/garp-agent/config.yaml
if $alone start; then exit 1; fi
rm -r /etc/garp-agent
"""


def test_page_openrc_can_be_followed_and_its_service_runs(built: Path) -> None:
    install, remove = blocks("rc-local", "sh openrc")
    with Chroot("openrc") as system:
        (system.top / "usr/sbin/policy-rc.d").unlink()
        shutil.copytree(CONTRIB, system.top / "root/contrib")
        shutil.copy(built / "garp-agent.pyz", system.top / "root")
        with (system.top / "etc/rc.conf").open("a") as settings:
            settings.write('\nrc_sys="docker"\n')  # a container: no hardware services
        printed = system.shell(f"cd /root\n{install}{OPENRC}{remove}")
        assert [*(system.top / "etc").rglob("*garp-agent*")] == []
    for pattern in (r" +garp-agent \| +default", r".*status: started", r"1 frame sent"):
        assert re.search(f"^{pattern}", printed, re.MULTILINE)
    sets = {name: int(bits, 16) for name, bits in re.findall(r"^Cap(\w+):\t(\w+)$", printed, re.M)}
    assert sets.keys() == {"Inh", "Prm", "Eff", "Bnd", "Amb"}
    assert {name for name, bits in sets.items() if bits & ~CAP_NET_RAW} == set()
    assert sets["Eff"] == CAP_NET_RAW


@pytest.mark.parametrize("kind", ["venv", "pipx"])
def test_page_pip_can_be_followed(built: Path, kind: str, tmp_path: Path) -> None:
    """The dependencies come from the package index."""
    need("pipx", "pipx")
    (wheel,) = built.glob(f"garp_agent-{__version__}-*.whl")
    shutil.copy(wheel, tmp_path)
    script = PRIVATE_FOLDERS + "".join(blocks("pip", f"sh {kind}"))
    environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
    printed = run("unshare", "--mount", "bash", "-exc", script, cwd=tmp_path, env=environment)
    assert re.search(r"^lo ", printed, re.MULTILINE)
    assert f"garp-hint, version {__version__}\n" in printed
    unit = "/mnt/image/etc/systemd/system/garp-agent.service"
    assert (f"wrote {unit}\n" in printed) == (kind == "venv")
    assert not list(Path("/opt").glob("*garp*"))


@pytest.mark.parametrize("is_intact", [True, False], ids=["intact", "altered"])
def test_cloud_init_snippet_with_a_url_installs_only_a_file_with_its_checksum(
    pyz: Path, is_intact: bool
) -> None:
    snippet = yaml.safe_load((CONTRIB / "cloud-init" / "from-url.yaml").read_text())
    ((_, _, script),) = snippet["runcmd"]
    checksum = sha256(pyz.read_bytes() if is_intact else b"another file").hexdigest()
    script = re.sub("https://.*", "file:///root/garp-agent.pyz", script).replace("0" * 64, checksum)
    with Chroot("bookworm") as system:
        shutil.copy(pyz, system.top / "root/garp-agent.pyz")
        replace_programs(system)
        system.shell(script, status=0 if is_intact else 1)
        installed = system.top / "etc/systemd/system/garp-agent.service"
        program = system.top / "usr/local/sbin/garp-agent"
        assert installed.exists() == program.exists() == is_intact
        assert [*program.parent.glob("*.new")] == []


def test_cloud_init_snippet_for_packages_has_a_good_configuration(tmp_path: Path) -> None:
    snippet = yaml.safe_load((CONTRIB / "cloud-init" / "packages.yaml").read_text())
    config = tmp_path / "config.yaml"
    config.write_text(snippet["write_files"][0]["content"])
    check = (sys.executable, "-m", "garp_agent", "check", config)
    assert "good" in run(*check, env={"PYTHONPATH": str(ROOT / "agent")})
