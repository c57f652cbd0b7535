"""Real signals to this process."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from garp_agent.runtime.signals import WATCHED, Signals
from tests.runtime.descriptors import open_descriptors


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in WATCHED}
    made = Signals()
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def is_ready(signals: Signals) -> bool:
    return bool(select.select([signals], [], [], 0)[0])


@pytest.mark.parametrize("number", WATCHED)
def test_a_signal_can_be_waited_for(signals: Signals, number: signal.Signals) -> None:
    assert not is_ready(signals)
    os.kill(os.getpid(), number)
    assert is_ready(signals)
    assert signals.read() == {number}
    assert not is_ready(signals)
    assert signals.read() == set()


def test_many_are_one(signals: Signals) -> None:
    for _ in range(100_000 // len(WATCHED)):  # more than the pipe holds
        for number in WATCHED:
            os.kill(os.getpid(), number)
    seen = set()
    while is_ready(signals):
        seen |= signals.read()
    assert seen == set(WATCHED)


def test_others_are_none_of_its_business(signals: Signals) -> None:
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert signals.read() == set()
    signal.signal(signal.SIGUSR2, before)


def test_a_wait_ends_at_once(signals: Signals) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    pid = os.fork()
    if pid == 0:
        os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(0)
    assert select.select([signals], [], [], 30.0)[0]
    assert signals.read() == {signal.SIGUSR1}
    os.waitpid(pid, 0)


def test_closing_gives_them_back() -> None:
    kept = {number: signal.getsignal(number) for number in WATCHED}
    before = open_descriptors()
    Signals().close()
    assert open_descriptors() == before
    assert {signal.getsignal(number) for number in WATCHED} == {signal.SIG_DFL}
    assert signal.set_wakeup_fd(-1) == -1
    for number, handler in kept.items():
        signal.signal(number, handler)
