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

from bench.agent import AGENT, Figure, Wire, row, spawned, watched
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

Write = Callable[[bytes], object]


@contextlib.contextmanager
def compiled() -> Iterator[str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("bench: no C compiler to build the peer with: apt-get install gcc")
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "hint_peer")
        subprocess.run([compiler, "-O2", "-Wall", "-o", program, SOURCE], check=True)
        yield program


class UnixPort:
    """A Unix socket for one listener."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "port")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._host: socket.socket | None = None

    def connected(self) -> Write:
        self._host = self._listener.accept()[0]
        return self._host.send

    def drain(self) -> None:
        assert self._host is not None
        with contextlib.suppress(BlockingIOError):
            self._host.recv(1 << 16, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._listener.close()
        if self._host is not None:
            self._host.close()


class TerminalPort:
    """A pseudo-terminal, like a Xen channel."""

    def __init__(self, folder: str) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)

    def connected(self) -> Write:
        time.sleep(1.0)  # there is no event when it is opened
        return lambda data: os.write(self._master, data)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._master, 1 << 16)

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


@contextlib.contextmanager
def listening(
    lab: Lab, kind: type[UnixPort | TerminalPort], command: Callable[[str], list[str]]
) -> Iterator[tuple[UnixPort | TerminalPort, Write]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(kind(folder)) as port,
        spawned(lab, command(port.path)),
    ):
        yield port, port.connected()


def sampled(lab: Lab, kind: type[UnixPort | TerminalPort], rounds: int) -> dict[str, list[float]]:
    """Return the seconds from each hint to its first frame, by announced address."""
    waits: dict[str, list[float]] = {GUEST_ADDRESS: [], PEER_SAYS: [], FLOOR_SAYS: []}
    with (
        compiled() as program,
        listening(lab, kind, lambda path: [*AGENT, "--interval", "270s", "--hint-port", path]) as a,
        listening(lab, kind, lambda path: [program, path, "eth0", _frame(PEER_SAYS)]) as b,
        listening(
            lab, kind, lambda path: [sys.executable, "-c", FLOOR, path, _frame(FLOOR_SAYS)]
        ) as c,
        watched(lab) as wire,
    ):
        time.sleep(1.5)  # until the agent's first burst is over
        for number in range(rounds):
            for (port, write), address in zip((a, b, c), waits):
                waits[address].append(_once(wire, write, address, number))
                port.drain()
                time.sleep(TURN / len(waits))
    return waits


def _frame(address: str) -> str:
    mac = bytes.fromhex(GUEST_MAC.replace(":", ""))
    packed = socket.inet_aton(address)
    return encode(Announcement(0, Kind.ARP_REQUEST, mac, packed, Cause.HINT)).hex()


def _once(wire: Wire, write: Write, address: str, number: int) -> float:
    line = encode_request("burst", {**HINT, "sequence": number + 1}, f"hint-{number}")
    wire.drain()
    begun = time.time()
    write(line)
    return wire.when(address) - begun


def measure(quick: bool) -> Iterator[Figure]:
    kinds = (("Unix socket", UnixPort), ("terminal", TerminalPort))
    for name, kind in kinds:
        with TinyLab() as lab:
            waits = sampled(lab, kind, 20 if quick else 200)
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
