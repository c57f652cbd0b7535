"""Signals with real signals to this process."""

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
