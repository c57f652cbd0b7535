"""Child: work in a forked process."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from garp_agent.runtime import child
from garp_agent.runtime.child import Child, ChildError
from tests.runtime.descriptors import descriptors_left, open_descriptors

LIMIT = 30.0


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("value", [None, (True, 1.5, "text", b"bytes", ()), "x" * 5_000_000])
def test_result_can_be_waited_for_and_is_handed_over(value: object) -> None:
    running = Child(lambda: value)
    while select.select([running], [], [], LIMIT)[0] and not running.read():
        pass
    assert running.result() == value


def test_work_that_raises_is_an_error_with_its_reason() -> None:
    with pytest.raises(ChildError, match=r"^ZeroDivisionError: division by zero$"):
        Child(lambda: 1 / 0).result()


@pytest.mark.parametrize(
    "work",
    [object, lambda: os._exit(3), lambda: os.kill(os.getpid(), 9)],
    ids=["cannot be marshalled", "exits", "killed"],
)
def test_failing_work_is_an_error(work: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildError):
        Child(work).result()  # without a wait


def test_work_beyond_the_time_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "TIME_LIMIT", 1)
    with pytest.raises(ChildError, match="took more than 1 s"):
        Child(lambda: time.sleep(1000)).result()


def test_work_without_a_time_limit_is_killed_or_ended_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "TIME_LIMIT", 1)
    Child(lambda: time.sleep(1000), time_limit=0).end()
    assert Child(lambda: signal.alarm(0), time_limit=0).result() == 0  # no alarm was set
    with pytest.raises(ChildError, match=r"^it was killed$"):
        Child(lambda: os.kill(os.getpid(), 9), time_limit=0).result()


def test_sigterm_ends_the_child_whatever_the_daemon_does_with_it(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        running = Child(lambda: [fifo.read_text(), *map(time.sleep, [1000])])
        fifo.write_text("begin")  # returns when the work has begun
        os.kill(running._pid, signal.SIGTERM)
        with pytest.raises(ChildError):
            running.result()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_child_is_another_process_without_the_descriptors_of_its_parent() -> None:
    with socket.socket() as one, socket.socket() as other:
        pid, names = Child(lambda: (os.getpid(), os.listdir("/proc/self/fd"))).result()
        assert pid != os.getpid()
        assert {one.fileno(), other.fileno()}.isdisjoint(map(int, names))
        assert len(names) <= 5  # standard ones, the pipe, and the listing's own


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_there_is_no_child(left: int) -> None:
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        Child(lambda: None)


@pytest.fixture
def _sigchld_is_ignored() -> Iterator[None]:
    """As a parent can leave it to a daemon: it stays so over exec (signal(7))."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_sigchld_is_ignored")
def test_result_is_handed_over_where_the_kernel_keeps_no_exit_status() -> None:
    assert Child(lambda: 7).result() == 7
    with pytest.raises(ChildError, match="division by zero"):
        Child(lambda: 1 / 0).result()
    with pytest.raises(ChildError, match="it was killed"):
        Child(lambda: os.kill(os.getpid(), 9)).result()
    Child(lambda: time.sleep(1000)).end()
    part = Child(lambda: "x" * 5_000_000)
    part.read()
    os.kill(part._pid, 9)
    with pytest.raises(ChildError, match="it was killed"):
        part.result()


@pytest.mark.parametrize(
    ("error", "may_pass"), [(MemoryError(), True), (OSError(24, "x"), True), (ImportError(), False)]
)
def test_lack_of_memory_or_of_a_file_may_pass(error: Exception, may_pass: bool) -> None:
    def work() -> None:
        raise error

    with pytest.raises(ChildError) as caught:
        Child(work).result()
    assert caught.value.may_pass is may_pass
