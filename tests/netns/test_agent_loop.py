"""The loop on real sockets, where a running daemon would leave the order to chance."""

from __future__ import annotations

import os
from math import inf

import pytest

from bench.lab import GUEST_ADDRESS, TinyLab
from garp_agent.core.engine import Engine
from garp_agent.core.model import LEVEL_ERROR, BurstRequested, Cause
from garp_agent.core.settings import Settings
from garp_agent.log import Log
from garp_agent.loop import Loop
from garp_agent.system.netlink import GUEST, Netlink
from garp_agent.system.packet import PacketSender
from tests.netns.agent import Capture


class Pipe:
    """Something else that the loop waits on."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK)

    def fileno(self) -> int:
        return self.read_end

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


QUIET = Settings(interval=270.0, interval_with_lease=270.0, jitter=0.0, burst=(0.0,))


@pytest.fixture
def capture(tiny_lab: TinyLab) -> Capture:
    return Capture(tiny_lab)


def test_the_kernel_is_heard_before_anybody_who_asks(tiny_lab: TinyLab, capture: Capture) -> None:
    """An address is removed, then somebody asks again: epoll names the asker first."""
    engine = Engine(QUIET, lambda: 0.999)
    frames: list[int] = []

    def ask(now: float) -> None:
        os.read(pipe.fileno(), 1)
        frames.append(loop.act(BurstRequested(Cause.OPERATOR), now))

    def after_turn(now: float) -> float:
        if len(frames) == 2:
            loop.stop()
        elif frames:
            tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        if engine.inventory.complete:
            os.write(pipe.write_end, b"!")
        return inf

    pipe = Pipe()
    with tiny_lab.entered("guest"):
        loop = Loop(engine, Netlink(300.0, GUEST), PacketSender(), Log(LEVEL_ERROR), after_turn)
        loop.watch(pipe, ask)
        loop.run()
        loop.close()
    pipe.close()
    assert frames == [1, 0]
    assert len(capture.announcements(GUEST_ADDRESS)) == 2  # at the start, and the first asked for
    capture.socket.close()
