"""The shell loop of garp-start at a real virtio-serial port, asked by the real garp-hint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.lab import ROOT
from tests.netns.agent import ENVIRONMENT
from tests.vm.conftest import ADDRESS, ANNOUNCED
from tests.vm.qemu import HINT_PORT, QemuMachine
from tests.vm.receiver import wait_for

# The shell of busybox has each program that garp-start needs; its arping sends unpadded frames.
SETTINGS = "export GARP_AGENT=loop GARP_SHELL='busybox sh' GARP_INTERVAL=1000"
FIND_PORT = """
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" != NAME ] || export GARP_PORT=/dev/${port##*/}
done
"""
SCRIPT = "/tmp/garp-start"


@pytest.fixture
def loop(guest: QemuMachine) -> Iterator[QemuMachine]:
    """A guest in which garp-start runs the loop; the first announcements are over."""
    guest.write(SCRIPT, (ROOT / "contrib/rc.local/garp-start").read_text())
    cable = guest.cables["net0"]
    cable.clear()
    find = FIND_PORT.replace("NAME", HINT_PORT)
    guest.shell(f"{SETTINGS}\n{find}\nbusybox sh {SCRIPT} start")
    wait_for(lambda: len(cable.announcements(padded=False)) >= 2, "both announcements of a start")
    cable.clear()
    yield guest
    guest.shell(f"{SETTINGS}\nbusybox sh {SCRIPT} stop")


def garp_hint(guest: QemuMachine, *command: str) -> str:
    """Return what garp-hint prints about the one channel of this guest."""
    words = [sys.executable, "-m", "garp_agent.hypervisor", *command, "--timeout", "30"]
    words += ["--channel", str(guest.hint_path)]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_loop_answers_garp_hint_at_a_real_port(loop: QemuMachine) -> None:
    shown = garp_hint(loop, "list")
    assert "answered" in shown
    assert "garp-start (shell)" in shown
    assert ADDRESS in shown
    assert "answered in" in garp_hint(loop, "send", "--all")
    cable = loop.cables["net0"]
    wait_for(lambda: ANNOUNCED in cable.announcements(padded=False), "the frame of the hint")
    # The port is still open: the next host is heard.
    assert "answered in" in garp_hint(loop, "send", "--all")
