"""A failover on a hypervisor with 1,000 guests: when does the last guest have its hint?

Run by `bench.performance`; `python -m bench.fanout FOLDER` answers for the guests.  A guest is a
Unix socket.  The real `garp-hint watch` runs as a process of its own; in the same run its peer, a
script that goes from guest to guest.  One more process answers for all guests and notes when each
hint arrived, so that part of the measured time is its own.  Ten guests are stuck: five never
accept, five never answer.  The failover is a `burst` on the status socket; the time runs from the
sending of this request.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.agent import BARE_ASLEEP, ENVIRONMENT, Figure, status_field
from bench.lab import ROOT
from garp_agent.runtime import client

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
    arrivals: list[tuple[str, float]] = []
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                json.dump(arrivals, sys.stdout)
                return
            number, listener = listeners[descriptor]
            sock = listener.accept()[0]
            if number < GUESTS - STUCK:
                with sock:
                    arrivals += _answered(sock)
            else:
                held.append(sock)


def _answered(sock: socket.socket) -> Iterator[tuple[str, float]]:
    """Answer one client.  It has sent already or is about to, so that recv() hardly waits."""
    data = sock.recv(4096)
    now = time.monotonic()
    for line in data.splitlines():
        id = line.rpartition(b'"id": "')[2].partition(b'"')[0]
        if b'"execute": "burst"' in line:
            yield id.decode(), now
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
            sock.sendall(b'{"execute": "burst", "id": "script"}\n')
            sock.recv(4096)
    return began


def hinted(status_socket: str, failovers: int) -> Iterator[float]:
    """Ask the watcher for hints again and again; yield when each was asked for."""
    answering = GUESTS - STUCK

    def count(status: Any) -> int:
        return [guest["state"] for guest in status["guests"]].count("answered")

    _wait(status_socket, lambda status: count(status) >= answering)
    for number in range(failovers):
        time.sleep(0.2)
        yield time.monotonic()
        client.ask(status_socket, "burst")
        _wait(status_socket, lambda it, n=number: it["history"][n]["answered"] >= answering)


def _wait(status_socket: str, condition: Callable[[Any], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(client.ClientError):
            if condition(client.ask(status_socket, "status")):
                return
        time.sleep(0.05)
    raise SystemExit("fanout: the guests did not answer")


def measure(failovers: int) -> Iterator[Figure]:
    """Measure the seconds until the last hint arrived, and the memory of the watcher."""
    module = (sys.executable, "-m")
    with (
        tempfile.TemporaryDirectory() as folder,
        running(*module, "bench.fanout", folder) as guests,
        running(*BARE_ASLEEP) as bare,
    ):
        assert guests.stdout is not None
        guests.stdout.readline()
        options = ("--port", PORT, "--status-socket", f"{folder}/status.sock")
        with running(*module, "garp_agent.hypervisor", "watch", *options) as watcher:
            began = list(hinted(f"{folder}/status.sock", failovers))
            resident, python = (status_field(it.pid, "VmRSS") / 1024 for it in (watcher, bare))
        start = one_after_another(folder)
        # The id of a hint ends with the number of its failover.
        last = {id.rpartition("-")[2]: at for id, at in json.loads(guests.communicate("")[0])}
    ours = median(last[str(number + 1)] - at for number, at in enumerate(began)) * 1e3
    peer = (last["script"] - start) * 1e3
    name = f"last of {GUESTS:,} guests hinted"
    yield Figure(name, "ms", ours, peer, "one after another", "under 100 ms")
    yield Figure(f"memory with {GUESTS:,} guests", "MB", resident, python, "python", "")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
