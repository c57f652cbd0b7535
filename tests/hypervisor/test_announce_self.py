"""`announce-self` asked of a real QEMU; tests/vm/test_hypervisor.py has the watcher that asks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.hypervisor.converse import converse
from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import Call, Outcome
from tests.hypervisor.watching import PATIENCE, eventually


def outcome(monitor: str) -> Outcome:
    [result] = converse([Call(monitor, announce_self())], PATIENCE)
    return result.outcome


@pytest.fixture
def monitor(short_path: Path) -> Iterator[str]:
    """Run a QEMU without a machine; yield the path of its QMP socket, where it has answered."""
    binary, path = shutil.which("qemu-system-x86_64"), str(short_path / "qmp")
    if not binary:
        pytest.skip("needs `qemu-system-x86_64` (Debian package qemu-system-x86)")
    options = "-nodefaults -no-user-config -machine none -nographic -S -qmp"
    with subprocess.Popen([binary, *options.split(), f"unix:{path},server=on,wait=off"]) as process:
        try:
            eventually(lambda: outcome(path) is Outcome.ANSWERED, "QEMU answers")
            yield path
        finally:
            process.kill()


def test_real_qemu_accepts_announce_self_again_and_again(monitor: str) -> None:
    assert [outcome(monitor) for _ in range(3)] == [Outcome.ANSWERED] * 3
