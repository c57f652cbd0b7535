"""Checks the network after a failover: does the path forward, and does it reach each address?

Two phases, both with path probes between the two ports of a bond:

  path       the active port sends to an address of the host's own that only the standby port
             accepts, every 0.1 s, until one arrives: now the switch port of the active port
             forwards.  A carrier does not say so (STP, 30 s).
  addresses  the standby port sends to each address behind the bond, until one arrives on the
             active port.  The gaps grow, because the guest may be one that is not announced.

Pull: the caller asks for the next frame, sends it, and reports what arrives.  Does not hint anyone
(hypervisor.core.hint_rounds).  The frames are those of hypervisor.core.path_probes.
"""

from __future__ import annotations

from _heapq import heappop, heappush
from math import inf

from garp_agent.hypervisor.core.path_probes import encode_probe
from garp_agent.wire.record import NamedTuple, deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeSeen, ProbeTarget, Tags

PATH_INTERVAL = 0.1  # seconds between two probes of the path
PATH_MOST = 120.0  # seconds after which the path is given up
TEACH_EVERY = 10  # probes of the path for one frame that teaches the switches its address
VLANS_MOST = 8  # in which the path is probed
GAP = 0.001  # seconds between two probes to addresses
# Seconds since the path forwards, and until then the time between two probes to one address.
_INTERVALS = ((0.5, 0.02), (5.0, 0.1), (60.0, 1.0))
_OF_PATH = 1 << 31  # in a sequence number: a probe of the path
_TEACHING = _OF_PATH | _OF_PATH >> 1  # a frame that only teaches
_INDEX_BITS = 20
ADDRESSES_MOST = 1 << _INDEX_BITS


class FrameOut(NamedTuple):
    """A frame to be sent."""

    port: int  # ifindex
    frame: bytes


class PathCheck:
    """The check after one failover.  The caller supplies the time."""

    def __init__(
        self,
        path: ProbePath,
        targets: Sequence[ProbeTarget],
        run: bytes,
        sources: tuple[bytes, bytes],
        now: float,
        path_most: float = PATH_MOST,
    ) -> None:
        """``targets``: all of this path.  ``run``: as encode_probe() takes it, of this check.

        ``sources``: of the standby port, which has to accept frames to it, and of the active one.
        ``path_most``: seconds after which the path is given up.
        """
        self.path = path
        self.targets = targets[:ADDRESSES_MOST]
        self.is_open = False  # the path forwards
        self.delivered: dict[int, float] = {}  # when, by index of the target
        self._run = run
        self._standby, self._active = sources
        self._vlans = list(dict.fromkeys(target.tags for target in targets))[:VLANS_MOST]
        self._give_up_at = now + path_most
        self.opened_at = inf
        self._queue: deque[FrameOut] = deque()
        self._rounds = 0  # of probes of the path
        self._next_path = now
        self._next_address = -inf
        self._due: list[tuple[float, int, int]] = []  # heap: when, index, probes before

    @property
    def is_over(self) -> bool:
        """Return whether nothing is left to be sent."""
        return not self._queue and self.deadline() == inf

    def deadline(self) -> float:
        """Return when the next frame is due; inf: none is."""
        if self._queue:
            return -inf
        if not self.is_open:
            return self._next_path
        return max(self._next_address, self._due[0][0]) if self._due else inf

    def next_frame(self, now: float) -> FrameOut | None:
        """Return the frame to be sent now, or None."""
        if not self._queue and now >= self.deadline():
            if self.is_open:
                self._probe_address(now)
            else:
                self._probe_path(now)
        return self._queue.popleft() if self._queue else None

    def seen(self, port: int, probe: ProbeSeen, now: float) -> bool:
        """Take in a probe that arrived on a port; return whether it says anything new."""
        if probe.sequence & _OF_PATH:
            is_news = port == self.path.standby and probe.sequence != _TEACHING
            if not is_news or self.is_open:
                return False
            self._open(now)
            return True
        index = probe.sequence & (ADDRESSES_MOST - 1)
        if port != self.path.active or index >= len(self.targets) or index in self.delivered:
            return False
        if probe.tags != self.targets[index].tags:
            return False
        self.delivered[index] = now
        return True

    def _probe_path(self, now: float) -> None:
        if now >= self._give_up_at:
            self._next_path = inf
            return
        for tags in self._vlans:
            if self._rounds % TEACH_EVERY == 0:
                self._put(self.path.standby, self._active, self._standby, tags, _TEACHING)
            sequence = _OF_PATH | self._rounds
            self._put(self.path.active, self._standby, self._active, tags, sequence)
        self._rounds += 1
        self._next_path = now + PATH_INTERVAL

    def _probe_address(self, now: float) -> None:
        while self._due and self._due[0][1] in self.delivered:
            heappop(self._due)
        if not self._due or self._due[0][0] > now:
            return
        _due, index, count = heappop(self._due)
        address, tags = self.targets[index].address, self.targets[index].tags
        attempt = count % (_OF_PATH >> _INDEX_BITS)
        sequence = attempt << _INDEX_BITS | index
        self._put(self.path.standby, address, self._standby, tags, sequence)
        self._next_address = now + GAP
        for until, interval in _INTERVALS:
            if now < self.opened_at + until:
                heappush(self._due, (now + interval, index, count + 1))
                break

    def _put(self, port: int, destination: bytes, source: bytes, tags: Tags, sequence: int) -> None:
        frame = encode_probe(destination, source, tags, self._run, sequence)
        self._queue.append(FrameOut(port, frame))

    def _open(self, now: float) -> None:
        self.is_open = True
        self.opened_at = now
        self._queue.clear()
        self._due = [(now, index, 0) for index in range(len(self.targets))]
