"""Measures the time from the host's hint to the first frame, beside a minimal C program.

Run by `bench.performance`.  The agent, the C program and a minimal Python process (wait, read, json
and send) listen in one namespace on ports of the same kind.  They are hinted in turn, with the
line that `garp-hint` writes.  A frame's time is the kernel's receive timestamp at the other end
of a veth pair.
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
import tty
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from bench.agent import AGENT, Figure, spawned, watched
from bench.lab import GUEST_ADDRESS, GUEST_MAC, Lab, TinyLab
from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Announcement, Cause, Kind
from garp_agent.wire.protocol import encode_request

SOURCE = Path(__file__).with_name("hint_peer.c")
PEER_SAYS, FLOOR_SAYS = "192.0.2.99", "192.0.2.98"  # what the peers announce
FLOOR = """
import json, os, select, socket, sys
frame = bytes.fromhex(sys.argv[2])
link, waiting = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), select.epoll()
link.bind((sys.argv[1], 0))
waiting.register(0, select.EPOLLIN)
while waiting.poll():
    line = os.read(0, 4096).lstrip(b"\\xff")
    if not line:
        break
    if json.loads(line)["execute"] == "burst":
        link.send(frame)
"""
TURN = 0.5  # seconds between two hints of one listener: its burst is over, its bucket full
HINT = {"reason": "failover of bond0", "boot": "0123456789ab", "sequence": 1}


@contextlib.contextmanager
def compiled() -> Iterator[str]:
    if not shutil.which("cc"):
        raise SystemExit("bench: no C compiler to build the peer with: apt-get install gcc")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-O2", "-Wall", "-o", f"{folder}/peer", SOURCE], check=True)
        yield f"{folder}/peer"


@contextlib.contextmanager
def listening(lab: Lab, terminal: bool, *command: str) -> Iterator[int]:
    """Run a command with a port as its standard input, or the agent; give the host's end.

    The port is a Unix socket, or a pseudo-terminal like a Xen channel.
    """
    with contextlib.ExitStack() as stack:
        path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "port")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        if terminal:
            host, guest = os.openpty()
            tty.setraw(guest)
            path = os.ttyname(guest)
        elif command:
            host, guest = (end.detach() for end in socket.socketpair())
        else:
            listener.bind(path)
            listener.listen()
            host, guest = -1, os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, guest)
        agent = [*AGENT, "--interval", "270s", "--hint-port", path]
        stack.enter_context(spawned(lab, list(command) or agent, stdin=guest))
        if host < 0:
            host = listener.accept()[0].detach()
        stack.callback(os.close, host)
        os.set_blocking(host, False)
        yield host


def sampled(lab: Lab, terminal: bool, rounds: int) -> dict[str, list[float]]:
    """Return the seconds from each hint to its first frame, by announced address."""
    waits: dict[str, list[float]] = {GUEST_ADDRESS: [], PEER_SAYS: [], FLOOR_SAYS: []}
    floor = (sys.executable, "-c", FLOOR, "eth0", _frame(FLOOR_SAYS))
    with (
        compiled() as program,
        listening(lab, terminal) as a,
        listening(lab, terminal, program, "eth0", _frame(PEER_SAYS)) as b,
        listening(lab, terminal, *floor) as c,
        watched(lab) as wire,
    ):
        time.sleep(2.5)  # until all listen and the agent's first burst is over
        for number in range(rounds):
            for port, address in zip((a, b, c), waits):
                line = encode_request("burst", {**HINT, "sequence": number + 1}, f"hint-{number}")
                wire.drain()
                begun = time.time()
                os.write(port, line)
                waits[address].append(wire.when(address) - begun)
                with contextlib.suppress(BlockingIOError):
                    os.read(port, 1 << 16)
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
