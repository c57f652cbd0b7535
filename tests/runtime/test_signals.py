"""Signals with real signals to this process."""

from __future__ import annotations

import os
import pty
import select
import signal
import termios
from collections.abc import Iterator

import pytest

from garp_agent.runtime.signals import WATCHED, Signals
from tests.runtime.descriptors import open_descriptors


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Close them too, and check that each signal has its default action again."""
    before = {number: signal.getsignal(number) for number in WATCHED}
    descriptors = open_descriptors()
    made = Signals()
    yield made
    made.close()
    try:
        assert open_descriptors() == descriptors
        assert {signal.getsignal(number) for number in WATCHED} == {signal.SIG_DFL}
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_that_a_parent_left_blocked_are_read() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    made = Signals()
    try:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        made.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_ready(signals: Signals) -> bool:
    return bool(select.select([signals], [], [], 0)[0])


@pytest.mark.parametrize("number", WATCHED)
def test_watched_signal_is_read_once(signals: Signals, number: signal.Signals) -> None:
    assert not is_ready(signals)
    os.kill(os.getpid(), number)
    assert is_ready(signals)
    assert signals.read() == {number}
    assert not is_ready(signals)
    assert signals.read() == set()


def test_more_signals_than_the_pipe_holds_are_each_reported(signals: Signals) -> None:
    for _ in range(100_000 // len(WATCHED)):
        for number in WATCHED:
            os.kill(os.getpid(), number)
    seen = set()
    while is_ready(signals):
        seen |= signals.read()
    assert seen == set(WATCHED)


def test_other_signal_is_not_reported(signals: Signals) -> None:
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signals.read() == set()
    signal.signal(signal.SIGUSR2, before)


def test_terminal_that_stops_writers_in_the_background_does_not_stop_the_process() -> None:
    """`stty tostop`: the terminal sends SIGTTOU, which would stop the daemon at a log line."""
    pid, leader = pty.fork()
    if pid == 0:
        status = 1
        try:
            settings = termios.tcgetattr(0)
            settings[3] |= termios.TOSTOP
            termios.tcsetattr(0, termios.TCSANOW, settings)
            writer = os.fork()
            if writer == 0:
                os.setpgid(0, 0)  # in the background
                Signals()
                os.write(2, b"written")
                os._exit(7)
            _, ended = os.waitpid(writer, os.WUNTRACED)
            if os.WIFSTOPPED(ended):
                os.kill(writer, signal.SIGKILL)
            status = os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else 1
        finally:
            os._exit(status)
    assert os.read(leader, 100) == b"written"
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7
    os.close(leader)
