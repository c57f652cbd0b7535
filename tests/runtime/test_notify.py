"""A service manager's socket that is really there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from garp_agent.runtime.notify import Notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@garp-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(variable, raising=False)
        yield sock


@pytest.fixture
def begun() -> Iterator[list[Notify]]:
    """Where a test puts what it made: the daemon keeps its own until it ends."""
    made: list[Notify] = []
    yield made
    for notify in made:
        if notify._socket:
            notify._socket.close()


def begin(begun: list[Notify]) -> Notify:
    begun.append(Notify())
    return begun[-1]


def heard(manager: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(manager.recv(4096).decode())
        except BlockingIOError:
            return said


def test_what_is_said_is_heard(begun: list[Notify], manager: socket.socket) -> None:
    notify = begin(begun)
    notify.say("READY=1")
    notify.say("READY=1\nSTATUS=fine")
    assert heard(manager) == ["READY=1", "READY=1\nSTATUS=fine"]
    assert notify.deadline() == inf
    notify.alive(1000.0)
    assert heard(manager) == []


def test_children_do_not_inherit_the_name(begun: list[Notify], manager: socket.socket) -> None:
    begin(begun)
    assert "NOTIFY_SOCKET" not in os.environ


def test_the_watchdog_hears_twice_in_its_period(
    begun: list[Notify], manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify = begin(begun)
    assert notify.deadline() == -inf
    notify.alive(10.0)
    assert notify.deadline() == 11.5
    notify.alive(11.0)
    assert heard(manager) == ["WATCHDOG=1"]
    notify.alive(11.5)
    assert (heard(manager), notify.deadline()) == (["WATCHDOG=1"], 13.0)


@pytest.mark.parametrize(("period", "pid"), [("0", ""), ("soon", ""), ("-5", ""), ("3000000", "1")])
def test_a_watchdog_that_is_none_or_not_ours(
    begun: list[Notify],
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    period: str,
    pid: str,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", period)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    notify = begin(begun)
    notify.alive(10.0)
    assert (heard(manager), notify.deadline()) == ([], inf)


def test_a_manager_that_does_not_listen_stops_nothing(
    begun: list[Notify], manager: socket.socket
) -> None:
    notify = begin(begun)
    for _ in range(10_000):
        notify.say("STATUS=" + "x" * 1000)
    assert 0 < len(heard(manager)) < 10_000
    notify.say("READY=1")
    assert heard(manager) == ["READY=1"]
    manager.close()
    notify.say("STOPPING=1")


@pytest.mark.parametrize("name", ["", "relative/path", "/nobody/there", "@nobody-is-there"])
def test_without_a_manager_it_is_silent(
    begun: list[Notify], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    notify = begin(begun)
    notify.say("READY=1")
    notify.alive(1.0)
    assert notify.deadline() == inf
