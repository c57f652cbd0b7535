"""`announce-self` asked of a real QEMU, and the watcher's fallback to it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import Call, Outcome
from garp_agent.hypervisor.daemon import converse
from tests.hypervisor.watching import PATIENCE, eventually, watching

BINARY = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="needs `qemu-system-x86_64` (Debian package qemu-system-x86)"
)


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[None]:
    """A QEMU with no machine to speak of."""
    assert BINARY is not None
    arguments = [BINARY, "-nodefaults", "-no-user-config", "-machine", "none", "-nographic", "-S"]
    arguments += ["-qmp", f"unix:{path},server=on,wait=off"]
    with subprocess.Popen(arguments) as process:
        try:
            eventually(lambda: is_listening(path) or process.poll() is not None, "QEMU listens")
            yield
        finally:
            process.kill()


def is_listening(path: Path) -> bool:
    """Between the path and this is a moment in which a connection is refused."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_a_real_qemu_takes_it_again_and_again(short_path: Path) -> None:
    with monitor(short_path / "qmp"):
        for _ in range(3):
            [result] = converse([Call(str(short_path / "qmp"), announce_self())], PATIENCE)
            assert result.outcome is Outcome.ANSWERED


def test_the_watcher_falls_back_to_it(short_path: Path) -> None:
    options = ("--port", PORT, "--announce-self", "--monitor", f"{short_path}/*.qmp")
    guests = Guests(short_path, [Manner.ANSWERS, Manner.MUTE])
    with (
        monitor(short_path / "guest1.qmp"),
        guests,
        watching(short_path, *options) as watcher,
    ):
        eventually(lambda: watcher.states().get("guest0") == "answered", "it was met")
        watcher.ask("burst")
        assert watcher.last()["announced_self"] == 1
        eventually(lambda: watcher.ask()["monitors"] == 1, "the monitor is known")
        log = watcher.stop()[1]
    assert "monitor-failed" not in log
