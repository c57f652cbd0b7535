"""The loop on real sockets, where a running daemon would leave the order to chance."""

from __future__ import annotations

import os
from math import inf

import pytest

from bench.lab import GUEST_ADDRESS, TinyLab
from garp_agent.config.settings import Settings
from garp_agent.guest import loop as loop_module
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import BurstRequested, Cause, SendOutcome
from garp_agent.guest.io.packet import PacketSender
from garp_agent.guest.loop import Loop
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_ERROR
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


@pytest.mark.parametrize("removal", ["address del 192.0.2.12/24 dev mv2", "link del mv2"])
def test_link_or_address_removed_after_first_frame_is_not_announced(
    tiny_lab: TinyLab, removal: str
) -> None:
    """Three links are due at once.  The third goes while the first one's frame is sent."""
    for number in (1, 2):
        tiny_lab.ip(
            "guest",
            f"link add link eth0 name mv{number} index {900 + number} type macvlan mode bridge",
            f"address add 192.0.2.1{number}/24 dev mv{number}",
            f"link set mv{number} up",
        )
    sent: list[str] = []

    class Remover(PacketSender):
        def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
            outcome = super().send(ifindex, name, frame)
            sent.append(name)
            if len(sent) == 1:
                tiny_lab.ip("guest", removal)
            return outcome

    def after_turn(now: float) -> float:
        if engine.inventory.complete:
            loop.stop()
        return inf

    engine = Engine(QUIET, lambda: 0.999)
    with tiny_lab.entered("guest"):
        loop = Loop(engine, Netlink(300.0, GUEST), Remover(), Log(LEVEL_ERROR), after_turn)
        loop.run()
        loop.close()
    assert sent == ["eth0", "mv1"]


def test_a_suspension_is_noticed_by_the_boot_time_clock(
    tiny_lab: TinyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can suspend the machine, so the clocks' difference is made up."""
    suspended = [0.0]
    monkeypatch.setattr(loop_module, "_suspended", lambda now: suspended[0])
    resumes: list[int] = []

    def after_turn(now: float) -> float:
        if engine.inventory.complete:
            resumes.append(engine.resumes)
            suspended[0] = 60.0
        if len(resumes) == 3:
            loop.stop()
        return 0.0

    engine = Engine(QUIET, lambda: 0.999)
    with tiny_lab.entered("guest"):
        loop = Loop(engine, Netlink(300.0, GUEST), PacketSender(), Log(LEVEL_ERROR), after_turn)
        loop.run()
        loop.close()
    assert resumes == [0, 1, 1]
    assert engine.counters.sent_by_cause[Cause.RESUME] == 1
