"""`garp-agent install` and `uninstall` on a tree; the units, the udev rule, the sysusers file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from garp_agent.cli import install
from garp_agent.config.settings import Settings
from garp_agent.runtime.exits import EXIT_CONFIG, EXIT_NO_PERMISSION
from tests.packaging.support import CONTRIB, ROOT, listing, need, run

PROGRAM = "/opt/garp/bin/garp-agent"
UNIT = "etc/systemd/system/garp-agent.service"
SYSTEMD = CONTRIB / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
SERVICES = [*sorted(SYSTEMD.glob("*.service")), *(CONTRIB / "prometheus").glob("*.service")]
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "agent")}
MAX_EXPOSURE = 16  # `systemd-analyze security --threshold`, in tenths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of a system that matter here."""
    root = tmp_path / "image"
    for folder in ("etc", "opt/garp/bin"):
        (root / folder).mkdir(parents=True)
    (root / PROGRAM.lstrip("/")).write_text("#!/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nusers:x:999:\n")
    (root / "etc/gshadow").write_text("root:*::\nusers:!::\n")
    (root / "etc/gshadow").chmod(0o640)
    return root


def test_install_adds_these_files_once_and_uninstall_removes_them(tree: Path) -> None:
    before = listing(tree, folders=False)
    said = install.install(str(tree), PROGRAM)
    after = listing(tree, folders=False)
    assert after.keys() - before.keys() == {
        "etc/garp-agent/config.yaml",
        "etc/sysusers.d/garp-agent.conf",
        "etc/systemd/system/garp-agent-port.service",
        "etc/systemd/system/multi-user.target.wants/garp-agent.service",
        "etc/udev/rules.d/80-garp-agent.rules",
        UNIT,
    }
    assert (tree / install.CONFIG).read_bytes() == (CONTRIB / "garp-agent.yaml").read_bytes()
    assert f"\nExecStart={PROGRAM} run\n" in (tree / UNIT).read_text()
    assert (tree / "etc/group").read_text().splitlines()[-1] == "garp:x:998:"
    assert (tree / "etc/gshadow").read_text().splitlines()[-1] == "garp:!*::"
    assert (tree / "etc/gshadow").stat().st_mode & 0o777 == 0o640
    assert [line.split()[0] for line in said] == [*["wrote"] * 5, "enabled", "added"]

    said = install.install(str(tree), PROGRAM)
    assert listing(tree, folders=False) == after
    assert {line.split()[0] for line in said} == {"unchanged", "kept"}

    install.uninstall(str(tree))
    assert listing(tree, folders=False) == before
    assert {line.split()[0] for line in install.uninstall(str(tree))} == {"absent"}


def test_install_of_the_watcher_adds_its_unit_once_and_uninstall_removes_it(tree: Path) -> None:
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/bin/garp-hint").write_text("#!/bin/sh\n")
    before = listing(tree, folders=False)
    unit = "etc/systemd/system/garp-hint.service"
    enabled = "etc/systemd/system/multi-user.target.wants/garp-hint.service"
    at = ("--root", str(tree))
    command = (sys.executable, "-m", "garp_agent.hypervisor")
    for verbs in (["wrote", "wrote", "enabled", "added"], ["unchanged"] * 4):
        said = run(
            *command, "install", *at, "--program", "/usr/local/bin/garp-hint", env=ENVIRONMENT
        )
        assert [line.split()[0] for line in said.splitlines()] == verbs
    users = "etc/sysusers.d/garp-hint.conf"
    assert listing(tree, folders=False).keys() - before.keys() == {unit, enabled, users}
    assert (tree / enabled).readlink() == Path("/") / unit
    wanted = (SYSTEMD / "garp-hint.service").read_text()
    wanted = wanted.replace("=/usr/sbin/garp-hint ", "=/usr/local/bin/garp-hint ")
    assert (tree / unit).read_text() == wanted
    run(*command, "uninstall", *at, env=ENVIRONMENT)
    assert listing(tree, folders=False) == before
    refused = run(*command, "install", *at, "--program", "/x", env=ENVIRONMENT, accept=[1])
    assert refused.startswith("garp-hint: ")
    assert "there is no such program in the tree" in refused


def test_install_with_learn_adds_the_drop_in_and_beside_a_package_nothing_else(tree: Path) -> None:
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/bin/garp-hint").write_text("#!/bin/sh\n")
    before = listing(tree, folders=False)
    drop_ins = (install.LEARN,)
    install.install(str(tree), "/usr/local/bin/garp-hint", install.WATCHER, drop_ins)
    text = (tree / install.LEARN).read_text()
    assert "\nExecStart=\nExecStart=/usr/local/bin/garp-hint watch --learn\n" in text
    install.uninstall(str(tree), install.WATCHER)
    assert listing(tree, folders=False) == before
    package = tree / "usr/lib/systemd/system/garp-hint.service"
    package.parent.mkdir(parents=True)
    package.write_text("")
    [said] = install.install(str(tree), None, install.WATCHER, drop_ins)
    assert said == f"wrote {tree / install.LEARN}"
    assert "ExecStart=/usr/sbin/garp-hint watch --learn" in (tree / install.LEARN).read_text()
    assert install.uninstall(str(tree), install.WATCHER) == [f"removed {tree / install.LEARN}"]
    with pytest.raises(install.InstallError, match="a package of the distribution"):
        install.uninstall(str(tree), install.WATCHER)


def test_single_file_named_garp_hint_installs_the_watcher(pyz: Path, tree: Path) -> None:
    before = listing(tree, folders=False)
    program = tree.parent / "garp-hint.pyz"
    program.write_bytes(pyz.read_bytes())
    program.chmod(0o755)
    run(program, "install", "--root", tree)
    copied = tree / "usr/local/sbin/garp-hint"
    assert copied.read_bytes() == pyz.read_bytes()
    unit = tree / "etc/systemd/system/garp-hint.service"
    assert "\nExecStart=/usr/local/sbin/garp-hint watch\n" in unit.read_text()
    run(copied, "uninstall", "--root", tree)
    assert listing(tree, folders=False) == before


def test_install_keeps_an_edited_configuration_and_replaces_an_edited_unit(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    config, unit = tree / install.CONFIG, tree / UNIT
    config.write_text("interval: 1s\n")
    unit.write_text("[Unit]\n")
    said = install.install(str(tree), PROGRAM)
    assert f"kept {config}" in said
    assert f"replaced {unit}" in said
    assert "ExecStart=" in unit.read_text()
    assert f"kept, because it was edited, {config}" in install.uninstall(str(tree))
    assert config.read_text() == "interval: 1s\n"


def test_uninstall_keeps_a_group_with_members(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    group = tree / "etc/group"
    group.write_text(group.read_text().replace("garp:x:998:", "garp:x:998:alice"))
    assert any("it has members" in line for line in install.uninstall(str(tree)))
    assert "garp:x:998:alice" in group.read_text()


def test_group_of_both_programs_is_removed_with_the_second(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    install.install(str(tree), PROGRAM, install.WATCHER)
    assert "garp-hint.conf" in install.uninstall(str(tree))[-1]
    assert "\ngarp:" in (tree / "etc/group").read_text()
    install.uninstall(str(tree), install.WATCHER)
    assert "\ngarp:" not in (tree / "etc/group").read_text()


@pytest.mark.parametrize("kit", [install.AGENT, install.WATCHER], ids=lambda kit: kit.name)
@pytest.mark.parametrize("folder", ["lib", "usr/lib"])
def test_install_and_uninstall_beside_a_package_are_refused_and_change_nothing(
    tree: Path, kit: install.Kit, folder: str
) -> None:
    install.install(str(tree), PROGRAM, kit)
    packaged = tree / folder / "systemd/system" / f"{kit.name}.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("[Service]\n")
    before = listing(tree)
    for work in (install.install, install.uninstall):
        with pytest.raises(install.InstallError, match=f"apt-get purge {kit.name}"):
            work(str(tree), kit=kit)
    assert listing(tree) == before


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("bin/garp-agent", "allowed an absolute path"),
        ("/opt/my agent", "without spaces"),
        ("/opt/%n", "percent"),
        ("/home/alice/.local/bin/garp-agent", "ProtectHome="),
        ("/usr/bin/garp-agent", "no such program in the tree"),
    ],
)
def test_install_of_a_program_that_cannot_start_is_refused(
    tree: Path, program: str, words: str
) -> None:
    before = listing(tree, folders=False)
    with pytest.raises(install.InstallError, match=words):
        install.install(str(tree), program)
    assert listing(tree, folders=False) == before


def test_install_outside_of_a_tree_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match="no etc in it"):
        install.install(str(tmp_path / "nowhere"), PROGRAM)
    (tmp_path / "host").mkdir()
    (tree / "etc/systemd").symlink_to(tmp_path / "host")
    with pytest.raises(install.InstallError, match="leads out of the tree"):
        install.install(str(tree), PROGRAM)
    assert list((tmp_path / "host").iterdir()) == []


def test_next_steps_are_given_for_the_running_system_only(tree: Path) -> None:
    assert install.next_steps(str(tree)) == ""
    assert "systemctl daemon-reload && udevadm" in install.next_steps("/")
    assert install.next_steps("/", install.WATCHER).endswith(
        "daemon-reload && systemctl restart garp-hint"
    )


def test_next_steps_restore_the_labels_where_selinux_is_on(tmp_path: Path) -> None:
    assert "restorecon" not in install.next_steps("/", selinux=str(tmp_path / "absent"))
    said = install.next_steps("/", selinux=str(tmp_path))
    assert said.startswith("now: restorecon -RF /etc/systemd/system/garp-agent.service ")
    assert " /usr/local/sbin/garp-agent; systemctl daemon-reload && " in said


def test_single_file_installs_itself(pyz: Path, tree: Path) -> None:
    before = listing(tree, folders=False)
    copied = tree / "usr/local/sbin/garp-agent"
    assert f"wrote {copied}\n" in run(pyz, "install", "--root", tree)
    assert copied.read_bytes() == pyz.read_bytes()
    assert copied.stat().st_mode & 0o777 == 0o755
    assert "\nExecStart=/usr/local/sbin/garp-agent run\n" in (tree / UNIT).read_text()
    run(copied, "uninstall", "--root", tree)
    assert listing(tree, folders=False) == before


@pytest.mark.parametrize("name", UNITS)
def test_units_satisfy_systemd(name: str, tmp_path: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    # The program must exist.
    unit = re.sub(r"/usr/sbin/garp-\w+", "/bin/true", (SYSTEMD / name).read_text())
    (tmp_path / name).write_text(unit)
    said = run(analyze, "verify", "--man=no", tmp_path / name)
    # `verify` loads units of the machine too.
    assert [line for line in said.splitlines() if "garp" in line] == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_units_stay_hardened(unit: Path) -> None:
    options = ("security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}")
    run(need("systemd-analyze", "systemd"), *options, unit)


def not_restarted_after(unit: str) -> set[int]:
    found = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    return set(map(int, found[0].split()))


def test_unit_and_rule_agree_with_the_program() -> None:
    unit = (SYSTEMD / "garp-agent.service").read_text()
    rule = (CONTRIB / "udev" / "80-garp-agent.rules").read_text()
    users = (SYSTEMD / "garp-agent.sysusers").read_text()
    no_python = 127  # of the single file; test_pyz.py
    assert not_restarted_after(unit) == {2, EXIT_NO_PERMISSION, EXIT_CONFIG, no_python}
    watcher = (SYSTEMD / "garp-hint.service").read_text()
    assert not_restarted_after(watcher) == {2, no_python}
    assert f'ATTR{{name}}=="{Settings().hint_port}"' in rule
    assert Settings().control_socket.startswith("/run/garp-agent/")
    assert "RuntimeDirectory=garp-agent\n" in unit
    assert 'GROUP="garp"' in rule
    assert "\nGroup=garp\n" in unit
    for kernel_name in ("virtio-portsdev", "hvc"):  # in /proc/devices
        assert f"\nDeviceAllow=char-{kernel_name} rw\n" in unit
    assert re.search(r"^g garp ", users, re.MULTILINE)
