"""The loop on real sockets, for orders of events that a running daemon would leave to chance."""

from __future__ import annotations

import os
from collections.abc import Callable
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

QUIET = Settings(interval=270.0, interval_with_lease=270.0, jitter=0.0, burst=(0.0,))


class Sender(PacketSender):
    """Keeps the names of the links on which it sent, and calls ``after`` after each frame."""

    def __init__(self, after: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.after = after
        self.links: list[str] = []

    def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
        outcome = super().send(ifindex, name, frame)
        self.links.append(name)
        self.after()
        return outcome


class Pipe:
    """Another source of the loop."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK)

    def fileno(self) -> int:
        return self.read_end


def loop_of(
    lab: TinyLab, sender: PacketSender, after_turn: Callable[[float], float] = lambda now: inf
) -> Loop:
    with lab.entered("guest"):
        engine = Engine(QUIET, lambda: 0.999)
        return Loop(engine, Netlink(300.0, GUEST), sender, Log(LEVEL_ERROR), after_turn)


def test_kernel_is_read_before_a_request_that_came_earlier(tiny_lab: TinyLab) -> None:
    """An address is removed, then a burst is requested; epoll names the request first."""
    frames: list[int] = []

    def ask(now: float) -> None:
        os.read(pipe.fileno(), 1)
        frames.append(loop.act(BurstRequested(Cause.OPERATOR), now))

    def after_turn(now: float) -> float:
        if len(frames) == 2:
            loop.stop()
        elif frames:
            tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        if loop.engine.inventory.complete:
            os.write(pipe.write_end, b"!")
        return inf

    pipe = Pipe()
    with tiny_lab.entered("guest"):
        sender = Sender()
    loop = loop_of(tiny_lab, sender, after_turn)
    loop.watch(pipe, ask)
    loop.run()
    loop.close()
    os.close(pipe.read_end)
    os.close(pipe.write_end)
    assert frames == [1, 0]
    assert sender.links == ["eth0", "eth0"]  # at the start, and for the first request


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

    def after_frame() -> None:
        if len(sender.links) == 1:
            tiny_lab.ip("guest", removal)

    def after_turn(now: float) -> float:
        if loop.engine.inventory.complete:
            loop.stop()
        return inf

    with tiny_lab.entered("guest"):
        sender = Sender(after_frame)
    loop = loop_of(tiny_lab, sender, after_turn)
    loop.run()
    loop.close()
    assert sender.links == ["eth0", "mv1"]


def test_suspension_is_noticed_by_the_boot_time_clock(
    tiny_lab: TinyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can suspend the machine, so the difference of the clocks is made up."""
    suspended = [0.0]
    monkeypatch.setattr(loop_module, "_suspended", lambda now: suspended[0])
    resumes: list[int] = []

    def after_turn(now: float) -> float:
        if loop.engine.inventory.complete:
            resumes.append(loop.engine.resumes)
            suspended[0] = 60.0
        if len(resumes) == 3:
            loop.stop()
        return 0.0

    with tiny_lab.entered("guest"):
        sender = Sender()
    loop = loop_of(tiny_lab, sender, after_turn)
    loop.run()
    loop.close()
    assert resumes == [0, 1, 1]
    assert loop.engine.counters.sent_by_cause[Cause.RESUME] == 1
