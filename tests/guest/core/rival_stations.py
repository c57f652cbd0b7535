"""A small network of other stations around an agent, in virtual time.

Says what reaches whom and when.  Does not know what the agent promises: the test does.
"""

from __future__ import annotations

from _heapq import heapify, heappop, heappush
from collections.abc import Callable
from typing import Any

from garp_agent.guest.core.model import (
    ALL_NODES_ETHERNET,
    PROBE_KINDS,
    Cause,
    ClaimSeen,
    Kind,
    Resumed,
)
from garp_agent.wire.record import inf
from tests.guest.core.conflict_world import CLAIMS, ETH0, ETH1, MINE
from tests.world import Agent, Frame

NAMES = {ETH0.ifindex: ETH0.name, ETH1.ifindex: ETH1.name}


class Station:
    """Another machine.  What it sends arrives after its ``latency``, in seconds."""

    def __init__(self, number: int, kind: str, latency: float) -> None:
        self.hardware_address = bytes((2, 0, 0, 0, 9, number))
        # "owner", "crowd" (an owner that also has half of the IPv4 network), "forger",
        # "proxy" or "repeater"
        self.kind = kind
        self.latency = latency
        self.has: set[bytes] = set()  # an owner answers probes for these
        self.answered: dict[bytes, float] = {}  # its first answers, while it has the addresses
        self.is_mute = False  # its answers are lost
        self.loses = 0  # so many of its next answers are lost
        self.was_silent = False  # the agent may have taken it for a station that never answers

    def __repr__(self) -> str:
        return f"{self.kind} {self.hardware_address.hex()}"

    def answers(self, frame: Frame) -> bool:
        """Return whether it answers a probe."""
        if frame.announcement.asked not in (b"", self.hardware_address):
            return False
        one = frame.announcement.address
        has_half = self.kind == "crowd" and one[:3] == MINE.address[:3] and one[3] % 2
        if frame.announcement.cause is Cause.PROXY_TEST and has_half:
            return True
        return self.kind == "proxy" or one in self.has


class Network:
    """One segment to which both links of the guest lead.

    ``lost`` is called with the address of a probe that no station gets, or whose answer is lost,
    and with the reason: "path", "mute", or "once" for a single answer.
    ``heard`` is called before the guest reads what a station sent; ``looked`` after each turn.
    """

    def __init__(
        self,
        agent: Agent,
        lost: Callable[[bytes, str], object],
        heard: Callable[[Station, ClaimSeen, bool], object],
        looked: Callable[[], object],
    ) -> None:
        self.agent = agent
        self.stations: list[Station] = []
        self.down: set[int] = set()  # links without a carrier
        self.blocked: dict[int, int] = {}  # how many delays hold back the port of a link
        self.told = 0  # turns in which the guest was told something
        self._lost, self._heard, self._looked = lost, heard, looked
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0
        self._backlog: list[tuple[Station | None, Any, bool]] | None = None  # of a stopped guest
        self._is_asleep = False

    @property
    def is_stopped(self) -> bool:
        return self._backlog is not None

    def carries(self, ifindex: int) -> bool:
        return ifindex not in self.down and not self.blocked.get(ifindex)

    # -- time -----------------------------------------------------------------------------

    def after(self, delay: float, action: Callable[[], object]) -> None:
        self._serial += 1
        heappush(self._queue, (self.agent.now + delay, self._serial, action))

    def wait(self, seconds: float) -> None:
        """Let time pass: what was heard is read before frames are sent."""
        end = self.agent.now + seconds
        while True:
            at, deadline = self._queue[0][0] if self._queue else inf, self.agent.engine.deadline()
            if min(at, deadline) > end:
                break
            if at <= deadline:
                self._act(at)
            else:
                self.agent.until(deadline)
                self._looked()
        self.agent.now = end
        self._looked()

    def stop(self, seconds: float) -> None:
        """Stop the guest's process for so long.  Then it reads at once what has come meanwhile."""
        end, self._backlog = self.agent.now + seconds, []
        while self._queue and self._queue[0][0] <= end:
            self._act(self._queue[0][0])
        self.agent.now = end
        self._read_backlog()

    def suspend(self, seconds: float) -> None:
        """Suspend the guest: it hears nothing, and its clock stands."""
        end = self.agent.now + seconds
        self._backlog, self._is_asleep = [], True
        due = sorted(each for each in self._queue if each[0] <= end)
        self._queue = [(at - seconds, n, what) for at, n, what in self._queue if at > end]
        heapify(self._queue)
        for _, _, action in due:
            action()
        self._is_asleep = False
        self._read_backlog(Resumed(seconds))

    def _act(self, at: float) -> None:
        _, _, action = heappop(self._queue)
        self.agent.now = max(self.agent.now, at)
        action()

    def _read_backlog(self, *more: Any) -> None:
        backlog, self._backlog = self._backlog or [], None
        for station, event, is_answer in backlog:
            if station:
                self._heard(station, event, is_answer)
        self.tell(*more, *(event for _, event, _ in backlog))

    # -- frames and events ------------------------------------------------------------------

    def tell(self, *events: Any) -> None:
        """Tell the guest something; a stopped one reads it later."""
        if self._backlog is not None:
            self._backlog += [(None, event, False) for event in events]
            return
        self.told += 1
        self.agent.tell(*events)
        self._looked()

    def sent(self, frame: Frame) -> None:
        """Carry a frame of the guest to the stations; their answers come later."""
        sent = frame.announcement
        is_probe = sent.kind in PROBE_KINDS
        if not self.carries(sent.ifindex):
            if is_probe:
                self._lost(sent.address, "path")
            return
        for each in self.stations:
            if is_probe and each.answers(frame):
                if each.is_mute:
                    if sent.cause is not Cause.PROXY_TEST:
                        self._lost(sent.address, "mute")
                elif each.loses:
                    each.loses -= 1
                    self._lost(sent.address, "once")
                else:
                    is_dad = sent.kind is Kind.DAD_PROBE
                    asker = ALL_NODES_ETHERNET if is_dad else sent.hardware_address
                    self._send(each, sent.address, [sent.ifindex], True, each.latency, asker)
            elif each.kind == "repeater" and sent.kind in CLAIMS:
                self._send(each, sent.address, list(NAMES), False, each.latency)

    def claim(self, station: Station, address: bytes, form: bool = False) -> None:
        """Let a station claim an address; ``form``: in the form of an answer."""
        asker = ETH0.hardware_address if form else b""
        self._send(station, address, list(NAMES), False, station.latency, asker)

    def _send(
        self,
        station: Station,
        address: bytes,
        to: list[int],
        is_answer: bool,
        latency: float,
        asker: bytes = b"",
    ) -> None:
        if self._is_asleep:
            return
        if not asker and len(address) == 16:
            asker = ALL_NODES_ETHERNET
        for ifindex in to:
            event = ClaimSeen(NAMES[ifindex], address, station.hardware_address, asker)
            self.after(latency, lambda i=ifindex, e=event: self._arrive(i, station, e, is_answer))

    def _arrive(self, ifindex: int, station: Station, event: ClaimSeen, is_answer: bool) -> None:
        if not self.carries(ifindex) or self._is_asleep:
            if is_answer:
                self._lost(event.address, "path")
        elif self._backlog is not None:
            self._backlog.append((station, event, is_answer))
        else:
            self._heard(station, event, is_answer)
            self.tell(event)
