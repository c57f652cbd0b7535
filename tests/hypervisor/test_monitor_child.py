"""`garp-hint watch --connect`: the monitors of libvirt's guests, with libvirt's own library.

Its test driver has one running guest, "test", and passes no command on; tests/cli/test_attach.py
has QEMU itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from garp_agent.hypervisor.monitor_child import MonitorChild
from garp_agent.runtime.log import Log
from garp_agent.runtime.reactor import Reactor
from tests.hypervisor.test_daemon import only
from tests.hypervisor.watching import ENVIRONMENT, eventually, watching

TEST_DRIVER = "test:///default"
LIBRARY = Path("/usr/lib/python3/dist-packages")


@pytest.fixture
def environment(tmp_path: Path) -> tuple[str, ...]:
    """The start of a command that finds libvirt's library, and nothing else of the system's."""
    for file in LIBRARY.glob("libvirt*"):
        (tmp_path / file.name).symlink_to(file)
    found = ("env", f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}:{tmp_path}")
    test = (*found, sys.executable, "-c", "import libvirt_qemu")
    if subprocess.run(test, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs libvirt's Python library (Debian package python3-libvirt)")
    return found


def children(process: int) -> list[int]:
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


def test_monitors_of_libvirt_are_found_asked_and_served_again_by_another_child(
    short_path: Path, environment: tuple[str, ...]
) -> None:
    options = (*only(short_path), "--announce-self", "--connect", TEST_DRIVER)
    folder = short_path / "status.sock.monitors"
    with watching(short_path, *options, prefix=environment) as watcher:
        eventually(lambda: watcher.ask()["monitors"] == 1, "the guest's monitor")
        assert os.listdir(folder) == ["test.qmp"]
        [child] = children(watcher.process.pid)
        assert "libvirt" not in Path(f"/proc/{watcher.process.pid}/maps").read_text()
        os.kill(child, signal.SIGKILL)
        eventually(lambda: children(watcher.process.pid) not in ([child], []), "another child")
        eventually(lambda: watcher.ask()["monitors"] == 1, "the monitor again")
        watcher.ask("burst")
        assert watcher.ask()["history"][-1]["announced_self"] == 1
        status, log = watcher.stop()
    assert status == 0
    assert not folder.exists()
    assert f'no-libvirt uri={TEST_DRIVER} reason="it was killed"' in log
    [failed] = [line for line in log.splitlines() if "monitor-failed" in line]
    assert f"path={folder}/test.qmp outcome=refused" in failed
    assert "virDomainQemuMonitorCommand" in failed


def test_watcher_without_libvirt_says_so_once_and_goes_on(
    short_path: Path, environment: tuple[str, ...]
) -> None:
    options = (*only(short_path), "--announce-self", "--connect", "test:///none")
    with watching(short_path, *options, prefix=environment) as watcher:
        eventually(lambda: not children(watcher.process.pid), "the child has ended")
        assert watcher.ask()["monitors"] == 0
        status, log = watcher.stop()
    assert status == 0
    assert log.count("no-libvirt uri=test:///none reason=") == 1


def test_folder_of_another_program_keeps_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "status.sock.monitors"
    folder.mkdir()
    (folder / "file").touch()
    (folder / "old.qmp").touch()  # of a watcher that was killed
    reactor = Reactor()
    child = MonitorChild(TEST_DRIVER, str(tmp_path / "status.sock"), reactor, Log())
    child.close()
    assert sorted(os.listdir(folder)) == ["file", "old.qmp"]
    child.keep(now=0.0)
    child.close()
    assert os.listdir(folder) == ["file"]
    reactor.close()
