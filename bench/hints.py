"""Measures hints: from the hint to the frame, a flood of a million, and a host with 1,000 guests.

Run by `bench.performance`; `python -m bench.hints FOLDER` answers for the 1,000 guests.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.agent import (
    AGENT,
    ASLEEP,
    ENVIRONMENT,
    Figure,
    configured,
    spawned,
    status_field,
    watched,
)
from bench.lab import GUEST_ADDRESS, GUEST_MAC, ROOT, Lab, TinyLab
from garp_agent.config.settings import RateLimit
from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Announcement, Cause, Kind
from garp_agent.runtime import client
from garp_agent.wire.protocol import encode_request

# -- from the hint to the frame ---------------------------------------------------------
# The agent, a C program and a minimal Python process (wait, read, json and send) listen in one
# namespace on ports of the same kind.  They are hinted in turn, with the line that `garp-hint`
# writes.  A frame's time is the kernel's receive timestamp at the other end of a veth pair.

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
def listening(
    lab: Lab, terminal: bool, *command: str, agent: Sequence[str] = AGENT
) -> Iterator[int]:
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
        ours = [*agent, "--interval", "270s", "--hint-port", path]
        stack.enter_context(spawned(lab, list(command) or ours, stdin=guest))
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


def latency(quick: bool) -> Iterator[Figure]:
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


# -- a flood ----------------------------------------------------------------------------
# The peer of each figure is the value before the flood, in the same run.

LINES = (b"BURST\n", b'{"execute": "burst", "arguments": {"reason": "flood", "count": 10}}\n')
CHUNK = 500  # lines written at once
STATUS_EVERY = 0.05  # seconds


def status_seconds(control: str) -> float:
    begun = time.monotonic()
    client.ask(control, "status")
    return time.monotonic() - begun


def poured(host: socket.socket, hints: int, reads: bool) -> float:
    """Write the hints; return the seconds that it took.  ``reads``: whether to read replies."""
    host.setblocking(False)
    begun = time.monotonic()
    for number in range(0, hints, CHUNK):
        data = LINES[number // CHUNK % 2] * CHUNK
        while data:
            select.select([host] if reads else [], [host], [], 10.0)
            with contextlib.suppress(BlockingIOError):
                data = data[host.send(data) :]
            with contextlib.suppress(BlockingIOError):
                while reads:
                    host.recv(1 << 16)
    return time.monotonic() - begun


def flood(lab: Lab, hints: int, reads: bool) -> Iterator[Figure]:
    what = "read" if reads else "unread"
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        control, port = os.path.join(folder, "control"), os.path.join(folder, "port")
        listener.bind(port)
        listener.listen()
        text = f"control_socket: {control}\nhint_port: {port}\n"
        with configured(lab, text) as agent, watched(lab) as wire:
            host = listener.accept()[0]
            host.sendall(b'{"execute": "info"}\n')
            host.recv(1 << 16)
            before = [status_seconds(control) for _ in range(50)]
            size = status_field(agent.pid, "VmRSS")
            wire.drain()
            with ThreadPoolExecutor(1) as pool:
                flooding = pool.submit(poured, host, hints, reads)
                waits = [status_seconds(control)]
                while not wait([flooding], STATUS_EVERY).done:
                    waits.append(status_seconds(control))
                seconds = flooding.result()
            host.close()
            frames = wire.drain()
            grown = status_field(agent.pid, "VmRSS")
    limit = RateLimit()
    allowed = limit.depth + seconds * limit.frames_per_second
    yield Figure(f"hints a second, {what}", "/s", hints / seconds, hints, "hints", "")
    yield Figure(f"frames sent, {what}", "", frames, allowed, "bucket allows", "at most 1")
    yield Figure(f"memory, replies {what}", "MB", grown / 1024, size / 1024, "before", "about 1")
    worst, usual = max(waits) * 1e3, median(before) * 1e3
    yield Figure(f"status at worst, {what}", "ms", worst, usual, "median, no flood", "under 100 ms")


# -- a host with 1,000 guests -----------------------------------------------------------
# When does the last guest have its hint after a failover?  A guest is a Unix socket.  The real
# `garp-hint watch` runs as a process of its own; in the same run its peer, a script that goes from
# guest to guest.  One more process answers for all guests and notes when each hint arrived, so that
# part of the measured time is its own.  Ten guests are stuck: five never accept, five never answer.
# The failover is a `burst` on the status socket; the time runs from the sending of this request.

PORT = "org.garp_agent.bench"  # the port of no real guest
PATIENCE = 60.0  # seconds
GUESTS, STUCK = 1000, 10


def serve(folder: Path) -> None:
    """Answer for the guests until the standard input ends; then print the arrivals as JSON."""
    poller = select.epoll()
    poller.register(0, select.EPOLLIN | select.EPOLLHUP)
    listeners: dict[int, tuple[int, socket.socket]] = {}
    for number in range(GUESTS):
        path = folder / f"{number}-guest{number}" / PORT
        path.parent.mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listeners[listener.fileno()] = number, listener
        if number % 2 or number < GUESTS - STUCK:
            poller.register(listener.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    held: list[socket.socket] = []
    arrivals: dict[str, dict[int, float]] = {}  # by reason and guest; the first of each
    while True:
        # Real guests run at once, and this is one process: it reads first and answers then.
        read: list[tuple[int, socket.socket, bytes, float]] = []
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                json.dump(arrivals, sys.stdout)
                return
            number, listener = listeners[descriptor]
            sock = listener.accept()[0]
            if number < GUESTS - STUCK:
                # The client has sent already or is about to: recv() hardly waits.
                read.append((number, sock, sock.recv(4096), time.monotonic()))
            else:
                held.append(sock)
        for number, sock, data, now in read:
            with sock:
                for reason in answered(sock, data):
                    arrivals.setdefault(reason, {}).setdefault(number, now)


def answered(sock: socket.socket, data: bytes) -> Iterator[str]:
    """Answer one client, and yield the reasons of its hints."""
    for line in data.splitlines():
        id = line.rpartition(b'"id": "')[2].partition(b'"')[0]
        if b'"execute": "burst"' in line:
            yield line.rpartition(b'"reason": "')[2].partition(b'"')[0].decode()
        value = b'{"seconds": 90, "version": "bench"}'
        with contextlib.suppress(OSError):
            sock.sendall(b'{"id": "%s", "return": %s}\n' % (id, value))


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and kill it at the end."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def one_after_another(folder: str) -> float:
    """Hint as a script would, with the same timeout of 1 s for a guest; return when it began."""
    began = time.monotonic()
    for path in Path(folder).glob(f"*/{PORT}"):
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(1.0)
            sock.connect(str(path))
            sock.sendall(
                b'{"execute": "burst", "arguments": {"reason": "script"}, "id": "script"}\n'
            )
            sock.recv(4096)
    return began


def at_once(folder: str, reason: str) -> float:
    """Send all guests a line as fast as Python can, and wait for no reply; return when it began."""
    line = b'{"execute": "burst", "arguments": {"reason": "%s"}, "id": "x"}\n' % reason.encode()
    paths = [str(path) for path in Path(folder).glob(f"*/{PORT}")]
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        for path in paths:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # a stuck one
                sock.connect(path)
                sock.send(line)
        time.sleep(0.2)
    return began


def hinted(status_socket: str, failovers: int) -> Iterator[float]:
    """Ask the watcher for hints again and again; yield when each was asked for."""
    most = GUESTS - STUCK
    _wait(status_socket, lambda it: sum(g["state"] == "answered" for g in it["guests"]) >= most)
    for number in range(failovers):
        time.sleep(0.2)
        yield time.monotonic()
        reason = _reason(number)
        client.ask(status_socket, "burst", {"reason": reason})
        _wait(status_socket, lambda it, reason=reason: _answers(it, reason) >= most)


def _reason(number: int) -> str:
    return f"failover-{number}"


def _answers(status: dict[str, Any], reason: str) -> int:
    return sum(each["answered"] for each in status["history"] if each["reason"] == reason)


def _wait(status_socket: str, condition: Callable[[Any], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(client.ClientError):
            if condition(client.ask(status_socket, "status")):
                return
        time.sleep(0.05)
    raise SystemExit("fanout: the guests did not answer")


def fanout(failovers: int) -> Iterator[Figure]:
    """Measure the seconds until the last hint arrived, and the memory of the watcher."""
    module = (sys.executable, "-m")
    with (
        tempfile.TemporaryDirectory() as folder,
        running(*module, "bench.hints", folder) as guests,
        running(sys.executable, "-c", ASLEEP) as bare,
    ):
        assert guests.stdout is not None
        guests.stdout.readline()
        options = ("--port", PORT, "--status-socket", f"{folder}/status.sock")
        with running(*module, "garp_agent.hypervisor", "watch", *options) as watcher:
            began = list(hinted(f"{folder}/status.sock", failovers))
            resident, python = (status_field(it.pid, "VmRSS") / 1024 for it in (watcher, bare))
        floors = {f"floor-{number}": 0.0 for number in range(failovers)}
        for reason in floors:
            floors[reason] = at_once(folder, reason)
        start = one_after_another(folder)
        # The first contact with a guest is a hint, too, and each hint is repeated.
        arrivals = json.loads(guests.communicate("")[0])
        last = {reason: max(times.values()) for reason, times in arrivals.items()}
    ours = median(last[_reason(number)] - at for number, at in enumerate(began)) * 1e3
    peer = (last["script"] - start) * 1e3
    name = f"last of {GUESTS:,} guests hinted"
    floor = median(last[reason] - at for reason, at in floors.items()) * 1e3
    yield Figure(name, "ms", ours, peer, "one after another", "at most 25 ms")
    yield Figure(name, "ms", ours, floor, "Python: connect(), send()", "the floor")
    yield Figure("garp-hint watch with them", "MB", resident, python, "python", "")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
