"""`garp-hint attach` with libvirt itself: its test driver, which needs no daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.hypervisor.watching import PATIENCE, ROOT, run

TEST_DRIVER = "test:///default"  # inside the library; it has one running guest, "test"
COMMAND = f"""
import sys
sys.path[:0] = [{str(ROOT / "agent")!r}]
sys.path.append({str(Path(click.__file__).parents[1])!r})
from garp_agent.cli.garp_hint import cli
"""


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that has libvirt's library."""
    for each in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([each, "-c", "import libvirt"], check=False, stderr=-3).returncode == 0:
            return each
    pytest.skip("needs libvirt's Python library (Debian package python3-libvirt)")


def attach(python: str, *arguments: str, before: str = "") -> tuple[int, str, str]:
    """Run the command; return its exit status, standard output and standard error."""
    code = f"{COMMAND}{before}\ncli(prog_name='garp-hint')"
    done = subprocess.run(
        [python, "-c", code, "attach", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "name the guests: GUEST... or --all"),
        ("--all web1", "--all and names of guests exclude each other"),
        ("--print qemu", "name the guests: GUEST..."),
        ("--print qemu --all", "name the guests: GUEST..."),
        ("--print qemu a/b", "a/b: not a name for these lines; allowed: letters"),
        ("--print proxmox web1", "web1: not a guest of Proxmox VE; allowed: a number"),
    ],
)
def test_attach_wrong_arguments_are_refused(arguments: str, text: str) -> None:
    status, out, err = run("attach", *arguments.split())
    assert (status, out) == (2, "")
    assert text in err


def test_attach_without_the_library_names_its_package() -> None:
    missing = "sys.modules['libvirt'] = None"
    status, out, err = attach(sys.executable, "web1", before=missing)
    assert (status, out) == (1, "")
    assert "install the package python3-libvirt" in err


def test_attach_of_an_unknown_guest_has_its_exit_status(python: str) -> None:
    found = attach(python, "no\x1bne", "--connect", TEST_DRIVER)
    assert found == (3, "", "garp-hint: no\\x1bne: Domain not found\n")


def test_attach_without_libvirt_names_the_option(python: str) -> None:
    status, _, err = attach(python, "web1", "--connect", "qemu+unix:///system?socket=/none/x")
    assert status == 1
    assert "/none/x" in err
    assert "--connect URI" in err


def test_attach_that_libvirt_refuses_has_failed(python: str) -> None:
    """The test driver cannot attach; the library's own print of the error is left out."""
    status, _, err = attach(python, "test", "--config", "--connect", TEST_DRIVER)
    assert status == 1
    assert err.startswith("garp-hint: test: ")
    assert err.count("\n") == 1


def test_attach_dry_run_prints_the_channel_and_changes_nothing(python: str) -> None:
    command = (python, "--all", "--config", "--dry-run", "--connect", TEST_DRIVER)
    status, out, err = attach(*command)
    assert (status, err) == (0, "")
    assert out.startswith("test: would be added to the configuration:\n<channel ")


def test_attach_live_without_controller_is_refused(python: str) -> None:
    status, out, err = attach(python, "test", "--live", "--connect", TEST_DRIVER)
    assert (status, out) == (1, "")
    assert "no virtio-serial controller" in err
    assert "use --config, and start it anew" in err
