"""`garp-agent install` and `uninstall`: into a tree, twice, and out again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from garp_agent.cli import install
from tests.packaging.support import CONTRIB, need, run

PROGRAM = "/opt/garp/bin/garp-agent"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As much of a system as matters."""
    root = tmp_path / "image"
    for folder in ("etc", "opt/garp/bin"):
        (root / folder).mkdir(parents=True)
    (root / PROGRAM.lstrip("/")).write_text("#!/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nusers:x:999:\n")
    (root / "etc/gshadow").write_text("root:*::\nusers:!::\n")
    (root / "etc/gshadow").chmod(0o640)
    return root


def listing(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode and content."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_what_is_in_the_tree(tree: Path) -> None:
    before = set(listing(tree))
    said = install.install(str(tree), PROGRAM)
    after = listing(tree)
    assert set(after) - before == {
        "etc/garp-agent/config.yaml",
        "etc/sysusers.d/garp-agent.conf",
        "etc/systemd/system/garp-agent-port.service",
        "etc/systemd/system/garp-agent.service",
        "etc/systemd/system/multi-user.target.wants/garp-agent.service",
        "etc/udev/rules.d/80-garp-agent.rules",
    }
    assert after["etc/garp-agent/config.yaml"][1] == (CONTRIB / "garp-agent.yaml").read_bytes()
    unit = after["etc/systemd/system/garp-agent.service"][1].decode()
    assert f"\nExecStart={PROGRAM} run\n" in unit
    assert (tree / "etc/group").read_text().splitlines()[-1] == "garp:x:998:"
    assert (tree / "etc/gshadow").read_text().splitlines()[-1] == "garp:!*::"
    assert (tree / "etc/gshadow").stat().st_mode & 0o777 == 0o640
    # It says so of every file.
    assert [line.split()[0] for line in said] == [*["wrote"] * 5, "enabled", "added"]


def test_a_second_time_changes_nothing(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    once = listing(tree)
    said = install.install(str(tree), PROGRAM)
    assert listing(tree) == once
    assert {line.split()[0] for line in said} == {"unchanged", "kept"}


def test_uninstall_leaves_nothing(tree: Path) -> None:
    before = listing(tree)
    install.install(str(tree), PROGRAM)
    install.uninstall(str(tree))
    assert listing(tree) == before
    assert {line.split()[0] for line in install.uninstall(str(tree))} == {"absent"}


def test_an_edited_configuration_stays(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    config = tree / install.CONFIG
    config.write_text("interval: 1s\n")
    assert f"kept {config}" in install.install(str(tree), PROGRAM)
    assert f"kept, as it was edited, {config}" in install.uninstall(str(tree))
    assert config.read_text() == "interval: 1s\n"


def test_a_changed_unit_is_replaced(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    unit = tree / "etc/systemd/system/garp-agent.service"
    unit.write_text("[Unit]\n")
    assert f"replaced {unit}" in install.install(str(tree), PROGRAM)
    assert "ExecStart=" in unit.read_text()


def test_a_group_with_members_stays(tree: Path) -> None:
    install.install(str(tree), PROGRAM)
    group = tree / "etc/group"
    group.write_text(group.read_text().replace("garp:x:998:", "garp:x:998:alice"))
    assert any("it has members" in line for line in install.uninstall(str(tree)))
    assert "garp:x:998:alice" in group.read_text()


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
def test_a_program_that_would_not_start_is_refused(tree: Path, program: str, words: str) -> None:
    before = listing(tree)
    with pytest.raises(install.InstallError, match=words):
        install.install(str(tree), program)
    assert listing(tree) == before


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match="no etc in it"):
        install.install(str(tmp_path / "nowhere"), PROGRAM)


def test_a_tree_that_leads_out_of_itself_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tree / "etc/systemd").symlink_to(tmp_path / "host")
    with pytest.raises(install.InstallError, match="leads out of the tree"):
        install.install(str(tree), PROGRAM)
    assert list((tmp_path / "host").iterdir()) == []


def test_nothing_is_left_to_do_for_an_image(tree: Path) -> None:
    assert install.next_steps(str(tree)) == ""
    assert "systemctl daemon-reload" in install.next_steps("/")


def test_the_single_file_installs_itself(pyz: Path, tree: Path) -> None:
    before = listing(tree)
    done = subprocess.run(
        [pyz, "install", "--root", tree], capture_output=True, text=True, check=True
    )
    copied = tree / "usr/local/sbin/garp-agent"
    assert f"wrote {copied}\n" in done.stdout
    assert copied.read_bytes() == pyz.read_bytes()
    assert copied.stat().st_mode & 0o777 == 0o755
    unit = (tree / "etc/systemd/system/garp-agent.service").read_text()
    assert "\nExecStart=/usr/local/sbin/garp-agent run\n" in unit
    run(copied, "uninstall", "--root", tree)
    assert listing(tree) == before


def test_what_is_installed_satisfies_systemd(pyz: Path, tree: Path) -> None:
    analyze = need("systemd-analyze", "systemd")
    run(pyz, "install", "--root", tree)
    unit = tree / "etc/systemd/system/garp-agent.service"
    unit.write_text(unit.read_text().replace("/usr/local/sbin/garp-agent", str(pyz)))
    said = run(analyze, "verify", "--man=no", unit)
    assert [line for line in said.splitlines() if "garp" in line] == []
