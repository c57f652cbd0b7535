"""libvirt itself: its test driver, and its QEMU driver with real guests; `garp-hint attach`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.hypervisor.watching import PATIENCE, ROOT, run
from tests.vm.libvirt import QEMU_SETTINGS

TEST_DRIVER = "test:///default"  # inside the library; it has one running guest, "test"
COMMAND = f"""
import sys
sys.path[:0] = [{str(ROOT / "agent")!r}]
sys.path.append({str(Path(click.__file__).parents[1])!r})
from garp_agent.cli.garp_hint import cli
"""
# libvirt's QEMU driver, in this process and below one folder.
SCENARIO = (ROOT / "tests" / "cli" / "attach_scenario.py").read_text()
ACCOUNTS = """
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' | cat /etc/passwd - >$0/passwd
printf 'kvm:x:104:\\nlibvirt-qemu:x:64055:\\n' | cat /etc/group - >$0/group
mount --bind $0/passwd /etc/passwd
mount --bind $0/group /etc/group
"$@"
exit 0  # the shell stays, because it reaps what libvirt leaves to the first process
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


def test_attach_of_an_unknown_guest_leaves_the_others_as_they_are(python: str) -> None:
    """As `send` does."""
    found = attach(python, "test", "none", "--config", "--dry-run", "--connect", TEST_DRIVER)
    assert found == (3, "", "garp-hint: none: Domain not found\n")


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


@pytest.fixture(scope="module")
def results(python: str) -> Iterator[dict[str, Any]]:
    """What each step of the scenario printed and left in the guests' XML."""
    if os.geteuid():
        pytest.skip("libvirt's QEMU driver needs root here")
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs `qemu-system-x86_64` (Debian package qemu-system-x86)")
    if not list(Path("/usr").glob("lib*/**/connection-driver/libvirt_driver_qemu.so")):
        pytest.skip("needs libvirt's QEMU driver (Debian package libvirt-daemon-driver-qemu)")
    with tempfile.TemporaryDirectory(prefix="gh-") as folder:
        isolated = ["unshare", "-m", "--pid", "--fork", "--mount-proc", "--kill-child"]
        script = f"{COMMAND}SETTINGS = {QEMU_SETTINGS!r}\n{SCENARIO}"
        command = [*isolated, "sh", "-ec", ACCOUNTS, folder, python, "-c", script]
        done = subprocess.run(
            [*command, folder], check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


ADDED = "{}: added to {}"
NO_CONTROLLER = "its QEMU has no virtio-serial controller, and libvirt adds none while it runs"


def test_attach_dry_run_prints_the_channel_and_changes_nothing(results: dict[str, Any]) -> None:
    step = results["dry run"]
    assert step["status"] == 0
    assert "off: would be added to the configuration:" in step["out"]
    assert '  <target type="virtio" name="org.garp_agent.0" />' in step["out"]
    assert step["channels"] == {key: [False, False] for key in ("off", "on", "other", "bare")}


def test_attach_config_changes_the_next_start_only(results: dict[str, Any]) -> None:
    step = results["config"]
    assert (step["status"], step["out"]) == (0, [ADDED.format("on", "the configuration")])
    assert step["channels"] == {"on": [False, True]}


def test_attach_live_changes_the_running_guest_only(results: dict[str, Any]) -> None:
    step = results["live"]
    assert (step["status"], step["out"]) == (0, [ADDED.format("other", "the running guest")])
    assert step["channels"] == {"other": [True, False]}


def test_attach_all_changes_what_is_missing(results: dict[str, Any]) -> None:
    step = results["all"]
    assert step["status"] == 0
    assert set(step["out"]) == {
        "on: the configuration has the channel",
        ADDED.format("on", "the running guest"),
        ADDED.format("other", "the configuration"),
        "other: the running guest has the channel",
        ADDED.format("off", "the configuration, for its next start"),
        ADDED.format("bare", "the configuration"),
        f"bare: has no channel until it is started anew: {NO_CONTROLLER}",
    }
    assert step["channels"] == {
        "on": [True, True],
        "other": [True, True],
        "off": [True, True],  # of a guest that is off, libvirt shows the configuration
        "bare": [False, True],
    }


def test_attach_live_of_a_guest_without_controller_is_refused(results: dict[str, Any]) -> None:
    step = results["live bare"]
    assert (step["status"], step["out"]) == (1, [])
    assert step["err"] == [f"garp-hint: bare: {NO_CONTROLLER}; use --config, and start it anew"]


def test_attach_live_of_a_guest_that_is_off_is_refused(results: dict[str, Any]) -> None:
    step = results["live off"]
    assert (step["status"], step["err"]) == (
        1,
        ["garp-hint: off: it does not run; use --config"],
    )


def test_libvirt_itself_refuses_the_channel_without_controller(results: dict[str, Any]) -> None:
    """If a version of libvirt can do it, `attach` need not refuse it any more."""
    assert "controller" in results["libvirt without controller"]["err"][0]


def test_announce_self_goes_through_libvirts_monitor_and_nothing_else(
    results: dict[str, Any],
) -> None:
    assert results["monitor"] == [
        ["answered", {"qmp_capabilities": "", "announce-self": ""}],
        ["refused", {"1": "only announce-self is passed on"}],
    ]
