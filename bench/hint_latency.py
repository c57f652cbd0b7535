"""Measures the time from the host's hint to the first frame, beside a minimal C program.

Run by `bench.performance`, or alone: `python -m bench.hint_latency`.  Needs root and a C
compiler; everything happens in network namespaces that it makes and removes.  The agent, the
C program and a minimal Python process (wait, read, json, send) listen in one namespace on ports of
the same kind.  They are hinted in turn, with the line that `garp-hint` writes.  A frame's time is
the kernel's receive timestamp at the other end of a veth pair.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles

from bench.agent import AGENT, Figure, row, spawned, watched
from bench.lab import GUEST_ADDRESS, GUEST_MAC, Lab, TinyLab
from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Announcement, Cause, Kind
from garp_agent.wire.protocol import encode_request

SOURCE = Path(__file__).with_name("hint_peer.c")
PEER_SAYS, FLOOR_SAYS = "192.0.2.99", "192.0.2.98"  # what the peers announce
FLOOR = """
import json, os, select, socket, stat, sys, tty
path, frame = sys.argv[1], bytes.fromhex(sys.argv[2])
link, waiting = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), select.epoll()
link.bind(("eth0", 0))
if stat.S_ISSOCK(os.stat(path).st_mode):
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(path)
    port = unix.fileno()
else:
    port = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
waiting.register(port, select.EPOLLIN)
while waiting.poll():
    line = os.read(port, 4096).lstrip(b"\\xff")
    if not line:
        break
    if json.loads(line)["execute"] == "burst":
        link.send(frame)
"""
TURN = 0.5  # seconds between two hints of one listener: its burst is over, its bucket full
HINT = {"reason": "failover of bond0", "boot": "0123456789ab", "sequence": 1}

LAZY = ("--interval", "270s", "--hint-port")


@contextlib.contextmanager
def compiled() -> Iterator[str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("bench: no C compiler to build the peer with: apt-get install gcc")
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "hint_peer")
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, SOURCE], check=True)
        yield program


class HostEnd:
    """The host's end of a port: a Unix socket, or a pseudo-terminal like a Xen channel."""

    def __init__(self, folder: str, terminal: bool) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        if terminal:
            self._host, self._guest = os.openpty()
            os.set_blocking(self._host, False)
            self.path = os.ttyname(self._guest)
            return
        self._host = self._guest = -1
        self.path = os.path.join(folder, "port")
        self._listener.bind(self.path)
        self._listener.listen()

    def connect(self) -> None:
        if self._guest < 0:
            self._host = self._listener.accept()[0].detach()
            os.set_blocking(self._host, False)
        else:
            time.sleep(1.0)  # there is no event when the guest opens it

    def write(self, data: bytes) -> None:
        os.write(self._host, data)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._host, 1 << 16)

    def close(self) -> None:
        self._listener.close()
        for descriptor in {self._host, self._guest} - {-1}:
            os.close(descriptor)


@contextlib.contextmanager
def listening(lab: Lab, terminal: bool, command: Callable[[str], list[str]]) -> Iterator[HostEnd]:
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(HostEnd(folder, terminal)) as port,
        spawned(lab, command(port.path)),
    ):
        port.connect()
        yield port


def sampled(lab: Lab, terminal: bool, rounds: int) -> dict[str, list[float]]:
    """Return the seconds from each hint to its first frame, by announced address."""
    waits: dict[str, list[float]] = {GUEST_ADDRESS: [], PEER_SAYS: [], FLOOR_SAYS: []}
    floor = [sys.executable, "-c", FLOOR]
    with (
        compiled() as program,
        listening(lab, terminal, lambda path: [*AGENT, *LAZY, path]) as a,
        listening(lab, terminal, lambda path: [program, path, "eth0", _frame(PEER_SAYS)]) as b,
        listening(lab, terminal, lambda path: [*floor, path, _frame(FLOOR_SAYS)]) as c,
        watched(lab) as wire,
    ):
        time.sleep(1.5)  # until the agent's first burst is over
        for number in range(rounds):
            for port, address in zip((a, b, c), waits):
                line = encode_request("burst", {**HINT, "sequence": number + 1}, f"hint-{number}")
                wire.drain()
                begun = time.time()
                port.write(line)
                waits[address].append(wire.when(address) - begun)
                port.drain()
                time.sleep(TURN / len(waits))
    return waits


def _frame(address: str) -> str:
    mac = bytes.fromhex(GUEST_MAC.replace(":", ""))
    packed = socket.inet_aton(address)
    return encode(Announcement(0, Kind.ARP_REQUEST, mac, packed, Cause.HINT)).hex()


def measure(quick: bool) -> Iterator[Figure]:
    for name, terminal in (("Unix socket", False), ("terminal", True)):
        with TinyLab() as lab:
            waits = sampled(lab, terminal, 20 if quick else 200)
        ours, peer, floor = (waits[each] for each in (GUEST_ADDRESS, PEER_SAYS, FLOOR_SAYS))
        rows = (
            ("median", median, peer, "C program", "at most 3"),
            ("median", median, floor, "Python: wait, read, json, send()", "the floor"),
            ("p99", _p99, peer, "C program", "under 2 ms"),
        )
        for which, of, other, whose, bound in rows:
            title = f"hint to frame, {name}, {which}"
            yield Figure(title, "ms", of(ours) * 1e3, of(other) * 1e3, whose, bound)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1]


if __name__ == "__main__":
    for figure in measure(quick=False):
        print(row(figure), flush=True)
