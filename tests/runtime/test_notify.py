"""Notify with a real socket in the place of the service manager's."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from typing import Any

import pytest

from garp_agent.runtime.notify import Notify

NAME = f"@garp-test-{os.getpid()}"
Begin = Callable[..., Notify]


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """An abstract socket; tests/hypervisor/test_daemon.py has one with a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(NAME.replace("@", "\0"))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    with ExitStack() as stack:

        def begin(period: str = "3000000", pid: int = os.getpid(), name: str = NAME) -> Notify:
            monkeypatch.setenv("NOTIFY_SOCKET", name)
            monkeypatch.setenv("WATCHDOG_USEC", period)
            monkeypatch.setenv("WATCHDOG_PID", str(pid))
            notify = Notify()
            if notify._socket is not None:
                stack.callback(notify._socket.close)
            return notify

        yield begin


def received(manager: socket.socket) -> list[str]:
    messages = []
    while select.select([manager], [], [], 0)[0]:
        messages.append(manager.recv(4096).decode())
    return messages


def test_manager_receives_what_is_said(begin: Begin, manager: socket.socket) -> None:
    notify = begin()
    notify.say("READY=1")
    notify.say("READY=1\nSTATUS=fine")
    assert received(manager) == ["READY=1", "READY=1\nSTATUS=fine"]
    assert "NOTIFY_SOCKET" not in os.environ  # a child would speak for the daemon


def test_watchdog_is_told_twice_in_its_period(begin: Begin, manager: socket.socket) -> None:
    notify = begin()
    assert notify.deadline() == -inf
    notify.alive(10.0)
    assert notify.deadline() == 11.5
    notify.alive(11.0)
    assert received(manager) == ["WATCHDOG=1"]
    notify.alive(11.5)
    assert (received(manager), notify.deadline()) == (["WATCHDOG=1"], 13.0)


@pytest.mark.parametrize("watchdog", [("0",), ("soon",), ("-5",), ("3000000", 1)])
def test_watchdog_that_is_invalid_or_another_process_is_not_told(
    begin: Begin, manager: socket.socket, watchdog: tuple[Any, ...]
) -> None:
    notify = begin(*watchdog)
    notify.alive(10.0)
    assert (received(manager), notify.deadline()) == ([], inf)


def test_manager_that_does_not_read_blocks_nothing(begin: Begin, manager: socket.socket) -> None:
    notify = begin()
    for _ in range(10_000):
        notify.say("STATUS=" + "x" * 1000)
    assert 0 < len(received(manager)) < 10_000
    notify.say("READY=1")
    assert received(manager) == ["READY=1"]
    manager.close()
    notify.say("STOPPING=1")


@pytest.mark.parametrize("name", ["", "relative/path", "/does/not/exist", "@garp-test-none"])
def test_without_a_manager_nothing_happens(begin: Begin, name: str) -> None:
    notify = begin(name=name)
    notify.say("READY=1")
    notify.alive(1.0)
    assert notify.deadline() == inf
