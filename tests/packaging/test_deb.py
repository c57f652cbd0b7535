"""The Debian packages: built, judged by lintian, and taken through their life in a chroot.

Run by `make test-packages`: they need debhelper, lintian and mmdebstrap, and some minutes the
first time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import tool
from tests.packaging.rootfs import Chroot
from tests.packaging.support import need, run

build_deb = tool("build_deb")
OLDER = f"{build_deb.version()}~earlier"


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of this tree by their names, and the agent's of an earlier version."""
    need("dh", "debhelper")
    need("dh_python3", "dh-python")
    folder = tmp_path_factory.mktemp("debs")
    made = build_deb.build(folder, build_deb.version())
    earlier = build_deb.build(folder / "earlier", OLDER)
    return {
        **{path.name.partition("_")[0]: path for path in made},
        "earlier": next(path for path in earlier if path.name.startswith("garp-agent_")),
    }


@pytest.fixture(params=["bookworm", "trixie"])
def system(request: pytest.FixtureRequest) -> Iterator[Chroot]:
    with Chroot(request.param) as chroot:
        yield chroot


def install(system: Chroot, *packages: Path) -> str:
    """As a user would: by apt, from files."""
    names = [system.put(package, f"/tmp/{package.name}") for package in packages]
    return system.run("apt-get", "install", "-y", "--no-install-recommends", *names)


def test_lintian_has_nothing_to_say(debs: dict[str, Path]) -> None:
    lintian = need("lintian", "lintian")
    packages = [debs["garp-agent"], debs["garp-hint"]]
    said = run(lintian, "--allow-root", "--fail-on=error,warning", *packages)
    assert re.findall("^[EW]:.*", said, re.MULTILINE) == []


def test_what_is_installed_works(system: Chroot, debs: dict[str, Path]) -> None:
    install(system, debs["garp-agent"], debs["garp-hint"])
    assert system.run("garp-agent", "--version").endswith(f"{build_deb.version()}\n")
    assert "Usage: garp-hint" in system.run("garp-hint", "--help")
    assert "good" in system.run("garp-agent", "check")
    links = json.loads(system.run("garp-agent", "list", "--json"))
    assert "192.0.2.10" in json.dumps(links)
    # Wait for the carrier of eth0, then announce for real, into the chroot's own network.
    announce = "until garp-agent announce eth0; do sleep 0.1; done"
    assert "1 frames sent, 0 dropped" in system.shell(announce)
    # Its own user, as the unit has it: no root, one capability.
    setpriv = "setpriv --reuid 4242 --regid 4242 --clear-groups --inh-caps -all,+net_raw"
    script = f"until {setpriv} --ambient-caps +net_raw garp-agent announce eth0; do sleep 0.1; done"
    assert "1 frames sent" in system.shell(script)
    without = "setpriv --reuid 4242 --regid 4242 --clear-groups garp-agent announce eth0"
    assert "CAP_NET_RAW is missing" in system.shell(without, status=77)
    assert system.run("getent", "group", "garp").startswith("garp:")
    assert system.run("systemctl", "is-enabled", "garp-agent").strip() == "enabled"
    assert system.run("systemctl", "is-enabled", "garp-hint").strip() == "enabled"
    completion = "_GARP_AGENT_COMPLETE=bash_complete COMP_WORDS='garp-agent st' COMP_CWORD=1 "
    assert "status" in system.shell(completion + "garp-agent")
    system.run("bash", "-n", "/usr/share/bash-completion/completions/garp-agent")


def test_systemd_is_content_with_the_units(system: Chroot, debs: dict[str, Path]) -> None:
    install(system, debs["garp-agent"], debs["garp-hint"])
    units = ["garp-agent.service", "garp-agent-port.service", "garp-hint.service"]
    said = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "garp" in line] == []
    for unit in ("garp-agent.service", "garp-hint.service"):
        judge = ("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=16")
        shown = system.run(*judge, f"/lib/systemd/system/{unit}")
        assert "exposure level" in shown
    if "trixie" in (system.top / "etc/os-release").read_text():
        rules = "/usr/lib/udev/rules.d/80-garp-agent.rules"
        assert "Success: 1" in system.run("udevadm", "verify", rules)


def test_upgrade_keeps_what_was_edited(system: Chroot, debs: dict[str, Path]) -> None:
    install(system, debs["earlier"])
    config = system.top / "etc/garp-agent/config.yaml"
    config.write_text("interval: 1s\n")
    install(system, debs["garp-agent"])
    assert system.run("dpkg-query", "-Wf", "${Version}", "garp-agent") == build_deb.version()
    assert config.read_text() == "interval: 1s\n"
    assert list(config.parent.glob("*.dpkg-*")) == []
    assert "interval: 1s" in system.run("garp-agent", "config")


def test_remove_keeps_the_configuration_and_purge_leaves_nothing(
    system: Chroot, debs: dict[str, Path]
) -> None:
    before = system.files()
    install(system, debs["garp-agent"], debs["garp-hint"])
    system.run("garp-agent", "list")
    system.run("dpkg", "--remove", "garp-agent", "garp-hint")
    assert (system.top / "etc/garp-agent/config.yaml").exists()
    assert not (system.top / "usr/sbin/garp-agent").exists()
    assert not (system.top / "usr/share/garp-agent").exists()
    system.run("dpkg", "--purge", "garp-agent", "garp-hint")
    after = system.files()
    backups = {"etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/subgid-"}
    assert {path for path in after.keys() ^ before.keys() if path not in backups} == set()
    changed = {path for path in before if after.get(path) != before[path]} - backups
    assert changed <= {"etc/ld.so.cache"}


def test_a_second_removal_and_a_reinstall(system: Chroot, debs: dict[str, Path]) -> None:
    install(system, debs["garp-agent"])
    for _ in range(2):
        system.run("dpkg", "--remove", "garp-agent")
        install(system, debs["garp-agent"])
    assert system.run("systemctl", "is-enabled", "garp-agent").strip() == "enabled"
