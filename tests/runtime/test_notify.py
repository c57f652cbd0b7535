"""Notify with a real socket in the place of the service manager's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from garp_agent.runtime.notify import Notify


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@garp-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


@pytest.fixture
def begun(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notify]:
    """One with a watchdog of 3 s."""
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify = Notify()
    yield notify
    assert notify._socket is not None
    notify._socket.close()


def received(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_the_manager_receives_what_is_said(begun: Notify, manager: socket.socket) -> None:
    begun.say("READY=1")
    begun.say("READY=1\nSTATUS=fine")
    assert received(manager) == ["READY=1", "READY=1\nSTATUS=fine"]
    assert "NOTIFY_SOCKET" not in os.environ  # a child would speak for the daemon


def test_the_watchdog_is_told_twice_in_its_period(begun: Notify, manager: socket.socket) -> None:
    assert begun.deadline() == -inf
    begun.alive(10.0)
    assert begun.deadline() == 11.5
    begun.alive(11.0)
    assert received(manager) == ["WATCHDOG=1"]
    begun.alive(11.5)
    assert (received(manager), begun.deadline()) == (["WATCHDOG=1"], 13.0)


@pytest.mark.parametrize(("period", "pid"), [("0", ""), ("soon", ""), ("-5", ""), ("3000000", "1")])
def test_a_watchdog_that_is_invalid_or_another_process_is_not_told(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, period: str, pid: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", period)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    notify = Notify()
    notify.alive(10.0)
    assert (received(manager), notify.deadline()) == ([], inf)
    assert notify._socket is not None
    notify._socket.close()


def test_a_manager_that_does_not_read_blocks_nothing(begun: Notify, manager: socket.socket) -> None:
    for _ in range(10_000):
        begun.say("STATUS=" + "x" * 1000)
    assert 0 < len(received(manager)) < 10_000
    begun.say("READY=1")
    assert received(manager) == ["READY=1"]
    manager.close()
    begun.say("STOPPING=1")


@pytest.mark.parametrize("name", ["", "relative/path", "/does/not/exist", "@garp-test-none"])
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    notify = Notify()
    notify.say("READY=1")
    notify.alive(1.0)
    assert notify.deadline() == inf
