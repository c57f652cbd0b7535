"""The lab's prober: a process that sends probes to the guest and measures gaps.

Usage: prober.py SENDER RECEIVER INTERVAL; the first two are inherited sockets.  A question is a
line `ID BEGAN DONE`.  The answer comes when a probe sent after DONE has arrived: `ID SECONDS`, the
longest time since BEGAN between two arrivals with lost probes in between, or 0.  Only the last
question is answered.  The prober ends with its standard input.
"""

from __future__ import annotations

import collections
import os
import select
import socket
import struct
import sys
import time

PROBE = struct.Struct("!Qd")
# The default buffer holds the probes of 0.25 s, but a busy machine can stall longer.
RECEIVE_BUFFER = 4 << 20
SO_RCVBUFFORCE = 33


class Arrivals:
    """Turns arrivals into gaps.  Reads no clock."""

    def __init__(self) -> None:
        self.last: tuple[int, float] | None = None
        self.gaps: collections.deque[tuple[float, float]] = collections.deque(maxlen=256)

    def add(self, number: int, sent: float) -> None:
        if self.last and number > self.last[0] + 1:
            self.gaps.append((self.last[1], sent))
        self.last = (number, sent)

    def longest(self, began: float) -> float:
        return max((end - start for start, end in self.gaps if end >= began), default=0.0)


def receive(receiver: socket.socket, arrivals: Arrivals) -> None:
    while True:
        try:
            arrivals.add(*PROBE.unpack(receiver.recv(64)))
        except BlockingIOError:
            return


def probe(sender: socket.socket, receiver: socket.socket, interval: float) -> None:
    arrivals = Arrivals()
    question: tuple[str, float, float] | None = None
    number, due = 0, time.monotonic()
    while True:
        patience = max(0.0, due - time.monotonic())
        ready = select.select([receiver.fileno(), 0], [], [], patience)[0]
        receive(receiver, arrivals)
        if 0 in ready:
            text = os.read(0, 4096).decode()
            if not text:
                return
            name, began, done = text.splitlines()[-1].split()
            question = (name, float(began), float(done))
        now = time.monotonic()
        if now >= due:
            sender.send(PROBE.pack(number, now))
            number += 1
            due = max(due + interval, now)
            receive(receiver, arrivals)
        if question and arrivals.last and arrivals.last[1] >= question[2]:
            print(question[0], arrivals.longest(question[1]), flush=True)
            question = None


def main() -> None:
    sender, receiver = (socket.socket(fileno=int(each)) for each in sys.argv[1:3])
    receiver.setblocking(False)
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    probe(sender, receiver, float(sys.argv[3]))


if __name__ == "__main__":
    main()
