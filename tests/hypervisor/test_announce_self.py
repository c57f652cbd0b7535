"""`announce-self` asked of a real QEMU, and the watcher's use of it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.hypervisor.converse import converse
from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import Call, Outcome
from tests.hypervisor.watching import PATIENCE, eventually, watching

BINARY = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="needs `qemu-system-x86_64` (Debian package qemu-system-x86)"
)


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[None]:
    """Run a QEMU without a machine."""
    arguments = (
        f"-nodefaults -no-user-config -machine none -nographic -S -qmp unix:{path},server=on"
    )
    with subprocess.Popen([str(BINARY), *f"{arguments},wait=off".split()]) as process:
        try:
            eventually(lambda: is_listening(path) or process.poll() is not None, "QEMU listens")
            yield
        finally:
            process.kill()


def is_listening(path: Path) -> bool:
    """Connect: for a moment the path exists and a connection is refused."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_real_qemu_accepts_announce_self_again_and_again(short_path: Path) -> None:
    with monitor(short_path / "qmp"):
        for _ in range(3):
            [result] = converse([Call(str(short_path / "qmp"), announce_self())], PATIENCE)
            assert result.outcome is Outcome.ANSWERED


def test_watcher_asks_qemu_for_a_guest_without_agent(short_path: Path) -> None:
    options = ("--port", PORT, "--announce-self", "--monitor", f"{short_path}/*.qmp")
    guests = Guests(short_path, [Manner.ANSWERS, Manner.NO_AGENT])
    qemu = monitor(short_path / "guest1.qmp")
    with qemu, guests, watching(short_path, *options) as watcher:
        eventually(lambda: watcher.states().get("guest0") == "answered", "guest0 was contacted")
        watcher.ask("burst")
        assert watcher.last()["announced_self"] == 1
        assert watcher.ask()["monitors"] == 1
        assert "monitor-failed" not in watcher.stop()[1]
