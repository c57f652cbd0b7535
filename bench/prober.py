"""Measures outages: numbered probes from the external host, and the gaps in what arrives.

Probes carry the time when they were sent, so that scheduling of the reader is no part of an
outage.  A process of its own sends them, so that no other thread delays one.  An outage is exact to
one interval.
"""

from __future__ import annotations

import collections
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

from bench.lab import Cut, LabError

PROBE = struct.Struct("!Qd")
# For a minute of probes that nothing reads; the default buffer holds those of 0.25 s.
RECEIVE_BUFFER = 64 << 20
SO_RCVBUFFORCE = 33
# Ends with its standard input.
SENDER = """
import itertools, select, socket, struct, sys, time
sender, interval, due = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), 0.0
for number in itertools.count():
    if select.select([0], [], [], max(0.0, due - time.monotonic()))[0]:
        break
    now = time.monotonic()
    sender.send(struct.pack("!Qd", number, now))
    due = max(due + interval, now)
"""


class ProbedLab(Protocol):
    """What a prober needs of its lab."""

    def probe_sockets(self) -> tuple[socket.socket, socket.socket]: ...
    def spawn(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]: ...
    def stop(self, process: subprocess.Popen[str], number: int = ...) -> int: ...


class Arrivals:
    """Turns arrivals into gaps.  Reads no clock."""

    def __init__(self) -> None:
        self.last: tuple[int, float] = (-1, 0.0)
        self.gaps: collections.deque[tuple[float, float]] = collections.deque(maxlen=256)

    def add(self, number: int, sent: float) -> None:
        if self.last[0] not in (-1, number - 1):
            self.gaps.append((self.last[1], sent))
        self.last = (number, sent)

    def longest(self, began: float) -> float:
        return max((end - start for start, end in self.gaps if end >= began), default=0.0)

    def lost(self, began: float) -> float:
        """Return the length of all gaps since then, without the parts before."""
        return sum(end - max(start, began) for start, end in self.gaps if end > began)


class Prober:
    """Probes the guest of a lab until its block ends."""

    def __init__(self, lab: ProbedLab, interval: float = 0.005) -> None:
        self._lab = lab
        self._arrivals = Arrivals()
        sender, self._receiver = lab.probe_sockets()
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._receiver.setblocking(False)
        with sender:
            self.process = lab.spawn(
                [sys.executable, "-ISc", SENDER, str(sender.fileno()), str(interval)],
                pass_fds=[sender.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

    def outage(self, cut: Cut, limit: float) -> float | None:
        """Return the longest time without an arrival since the cut, once probes arrive again.

        None if no probe sent after the cut arrived within ``limit`` seconds.  Raises LabError.
        """
        end: Any = self.process.stdout
        try:
            while True:
                self._read()
                if self._arrivals.last[1] >= cut.done:
                    return self._arrivals.longest(cut.began)
                patience = max(0.0, cut.began + limit - time.monotonic())
                ready = select.select([self._receiver, end], [], [], patience)[0]
                if end in ready:  # it prints nothing, so this is its end
                    raise LabError("the prober has ended")
                if not ready:
                    return None
        except (OSError, ValueError) as error:
            raise LabError(f"the prober has ended: {error}") from None

    def lost(self, began: float) -> float:
        """Return how long no probe arrived since then, until the latest arrival."""
        self._read()
        return self._arrivals.lost(began)

    def wait_until_reachable(self, limit: float = 5.0) -> None:
        """Wait until a probe sent from now on has arrived.  Raises LabError after ``limit`` s."""
        now = time.monotonic()
        if self.outage(Cut(now, now), limit) is None:
            raise LabError(f"the guest was not reachable within {limit:g} s")

    def _read(self) -> None:
        try:
            while True:
                self._arrivals.add(*PROBE.unpack(self._receiver.recv(64)))
        except BlockingIOError:
            pass

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._lab.stop(self.process, signal.SIGKILL)
        self._receiver.close()
