"""The loop on real sockets, for orders of events that a running daemon would leave to chance."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, TinyLab
from garp_agent.config.settings import Settings
from garp_agent.guest import loop as loop_module
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import BurstRequested, Cause, SendOutcome
from garp_agent.guest.daemon import AgentDaemon
from garp_agent.guest.io.packet import PacketSender
from garp_agent.guest.loop import Loop, NextTurn
from garp_agent.guest.options import RunOptions
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_ERROR

QUIET = Settings(
    interval=270.0, interval_with_lease=270.0, jitter=0.0, burst=(0.0,), mac_only=False
)


class Guest:
    """A loop in the guest's namespace.  ``sent``: the links of the frames that it sent."""

    def __init__(
        self,
        lab: TinyLab,
        after_frame: Callable[[], object] = lambda: None,
        settings: Settings = QUIET,
    ) -> None:
        self.sent: list[str] = []
        self.call_at = -inf  # what ``after_turn`` asks for: a call in each turn
        sent = self.sent

        class Sender(PacketSender):
            def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
                outcome = super().send(ifindex, name, frame)
                sent.append(name)
                after_frame()
                return outcome

        self.heard: list[set[bytes]] = []  # the addresses at each call of ``listen``
        # The arguments of the calls of ``hear_all``: link and address.
        self.heard_all: list[tuple[str, bytes]] = []
        with lab.entered("guest"):
            self.engine = Engine(settings, lambda: 0.999)
            netlink = Netlink(300.0, GUEST)
            log = Log(LEVEL_ERROR)
            self.loop = Loop(
                self.engine,
                netlink,
                Sender(),
                log,
                self._after_turn,
                self._listen,
                lambda *frame: self.heard_all.append(frame),
            )

    def run(self, after_turn: Callable[[], float]) -> None:
        """Run until stopped; call ``after_turn`` after each turn once the dump is complete."""
        self.after_turn = after_turn
        self.loop.run()
        self.loop.close()

    def _after_turn(self, now: float) -> NextTurn:
        at = self.after_turn() if self.engine.inventory.complete else inf
        return NextTurn(at, self.call_at)

    def _listen(self) -> None:
        self.heard.append({a for plan in self.engine.plans.values() for a in plan.targets})


def test_kernel_is_read_before_a_request_that_came_earlier(tiny_lab: TinyLab) -> None:
    """An address is removed, then a burst is requested; epoll names the request first."""
    frames: list[int] = []
    read_end, write_end = os.pipe2(os.O_NONBLOCK)

    def request(now: float) -> None:
        requests.read(1)
        frames.append(guest.loop.act(BurstRequested(Cause.OPERATOR), now))

    def after_turn() -> float:
        if len(frames) == 2:
            guest.loop.stop()
        elif frames:
            tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        os.write(write_end, b"!")
        return inf

    guest = Guest(tiny_lab)
    with open(read_end, "rb", buffering=0) as requests, open(write_end, "wb"):
        guest.loop.watch(requests, request)
        guest.run(after_turn)
    assert frames == [1, 0]
    assert guest.sent == ["eth0", "eth0"]  # at the start, and for the first request


def test_turn_that_only_sends_a_refresh_does_not_call_after_turn(tiny_lab: TinyLab) -> None:
    """The next call comes with the next thing that is read."""
    turns: list[int] = []
    read_end, write_end = os.pipe2(os.O_NONBLOCK)

    def after_frame() -> None:
        if len(guest.sent) > 5:
            os.write(write_end, b"!")

    def after_turn() -> float:
        turns.append(len(guest.sent))
        if guest.sent:
            guest.call_at = inf
        if len(guest.sent) > 5:
            guest.loop.stop()
        return inf

    guest = Guest(tiny_lab, after_frame, QUIET._replace(interval=0.2, burst=(0.0,)))
    with open(read_end, "rb", buffering=0) as pipe, open(write_end, "wb"):
        guest.loop.watch(pipe, lambda now: pipe.read(1))
        guest.run(after_turn)
    assert 6 in turns
    assert len({2, 3, 4, 5} & set(turns)) <= 1


def test_loop_hears_all_before_its_first_frame_and_listens_after_it(tiny_lab: TinyLab) -> None:
    """And again only when the addresses change."""
    heard: list[tuple[int, int]] = []

    def after_turn() -> float:
        if guest.sent:
            guest.loop.stop()
        return inf

    guest = Guest(tiny_lab, lambda: heard.append((len(guest.heard_all), len(guest.heard))))
    guest.run(after_turn)
    assert heard == [(1, 0)]
    assert guest.heard_all == [("eth0", socket.inet_aton(GUEST_ADDRESS))]
    assert guest.heard == [{socket.inet_aton(GUEST_ADDRESS)}]


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
        if len(guest.sent) == 1:
            tiny_lab.ip("guest", removal)

    def after_turn() -> float:
        if guest.engine.deadline() > time.monotonic():  # a slow machine needs two turns
            guest.loop.stop()
        return inf

    guest = Guest(tiny_lab, after_frame)
    guest.run(after_turn)
    assert guest.sent == ["eth0", "mv1"]


def test_suspension_is_noticed_by_the_boot_time_clock(
    tiny_lab: TinyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can suspend the machine, so the difference of the clocks is made up."""
    suspended = [0.0]
    monkeypatch.setattr(loop_module, "_suspended", lambda now: suspended[0])
    resumes: list[int] = []

    def after_turn() -> float:
        resumes.append(guest.engine.resumes)
        suspended[0] = 60.0
        if len(resumes) == 3:
            guest.loop.stop()
        return 0.0

    guest = Guest(tiny_lab)
    guest.run(after_turn)
    assert resumes == [0, 1, 1]
    assert guest.engine.counters.sent_by_cause[Cause.RESUME] == 1


def test_a_reload_before_the_first_frames_does_not_make_it_ready(
    tiny_lab: TinyLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file and no options: such a reload is over at once."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with tiny_lab.entered("guest"):
            settings = Settings(control_socket="", hint_port="")
            daemon = AgentDaemon(RunOptions(), settings, PacketSender(), Log(LEVEL_ERROR))

        def end_when_reloaded() -> None:
            while not said or "reloaded" not in said[-1]:
                said.append(manager.recv(100).decode())
            os.kill(os.getpid(), signal.SIGTERM)

        ending = threading.Thread(target=end_when_reloaded)
        ending.start()
        os.kill(os.getpid(), signal.SIGHUP)
        daemon.run()
        ending.join()
        assert daemon._notify._socket is not None
        daemon._notify._socket.close()
    assert said == ["READY=1", "RELOADING=1", "READY=1\nSTATUS=configuration reloaded"]
