"""Work in a forked child."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from garp_agent.runtime import child
from garp_agent.runtime.child import Child, ChildError
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    before = open_descriptors()
    yield
    assert open_descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    "value",
    [None, (True, 1.5, "text", b"bytes", ()), "x" * 5_000_000],
    ids=["none", "tuple", "5MB"],
)
def test_what_the_work_returns_is_handed_over(value: object) -> None:
    assert Child(lambda: value).result() == value


def test_it_is_another_process() -> None:
    assert Child(os.getpid).result() != os.getpid()


def test_the_loop_can_wait_for_it() -> None:
    running = Child(lambda: "x" * 200_000)
    while True:
        assert select.select([running], [], [], LIMIT)[0]
        if running.read():
            break
    assert running.result() == "x" * 200_000


@pytest.mark.parametrize(
    "work",
    [lambda: 1 / 0, object, lambda: os._exit(3), lambda: os.kill(os.getpid(), 9)],
    ids=["raises", "unfit", "exits", "killed"],
)
def test_work_that_fails(work: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildError):
        Child(work).result()


def test_work_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "TIME_LIMIT", 1)
    with pytest.raises(ChildError, match="took more than 1 s"):
        Child(lambda: time.sleep(1000)).result()


def test_work_that_is_told_to_end(tmp_path: Path) -> None:
    """The daemon's own way with SIGTERM is none for a child that hangs."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        running = Child(lambda: [fifo.read_text(), *map(time.sleep, [1000])])
        fifo.write_text("begin")  # it runs, and waits for what is not to come
        os.kill(running._pid, signal.SIGTERM)
        with pytest.raises(ChildError):
            running.result()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_it_has_nothing_open_that_its_parent_has() -> None:
    with socket.socket() as one, socket.socket() as other:
        names = Child(lambda: os.listdir("/proc/self/fd")).result()
        assert {one.fileno(), other.fileno()}.isdisjoint(map(int, names))
        # Standard input, output and error, the way back, and the listing itself.
        assert len(names) <= 5


@pytest.mark.parametrize("left", [0, 1])
def test_there_can_be_none(left: int) -> None:
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        Child(lambda: None)
