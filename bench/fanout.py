"""A failover on a hypervisor with 1,000 guests: when does the last guest have its hint?

The real `garp-hint watch` runs as a process of its own; in the same run its peer, a script that
goes from guest to guest.  A guest is a Unix socket.  One more process answers for all guests and
notes when each hint arrived, so that part of the measured time is its own.  Ten guests are stuck:
five never accept, five never answer.  The failover is a `burst` on the status socket; the time
runs from the sending of this request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from garp_agent.runtime import client

ROOT = Path(__file__).resolve().parent.parent
PORT = "org.garp_agent.bench"  # the port of no real guest
BOUND = 0.1  # seconds until the last hint has arrived
PATIENCE = 60.0  # seconds
STUCK = 10


def serve(directory: str, guests: int) -> None:
    """Answer for the guests until the standard input ends; then print the arrivals as JSON."""
    listeners: dict[int, socket.socket] = {}
    poller = select.epoll()
    poller.register(0, select.EPOLLIN | select.EPOLLHUP)
    kept = []
    for number in range(guests + STUCK):
        path = f"{directory}/{number}-guest{number}/{PORT}"
        os.makedirs(os.path.dirname(path))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        kept.append(listener)
        if number % 2 or number < guests:
            listeners[listener.fileno()] = listener
            poller.register(listener.fileno(), select.EPOLLIN)
    stuck = {listener.fileno() for listener in kept[guests:]}
    print("ready", flush=True)
    arrivals: list[tuple[str, float]] = []
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                json.dump(arrivals, sys.stdout)
                return
            sock = listeners[descriptor].accept()[0]
            if descriptor in stuck:
                kept.append(sock)
                continue
            with sock:
                _answer(sock, arrivals)


def _answer(sock: socket.socket, arrivals: list[tuple[str, float]]) -> None:
    """Answer one client.  It has sent already or is about to, so that recv() hardly waits."""
    data = sock.recv(4096)
    now = time.monotonic()
    for line in data.splitlines():
        id = line.rpartition(b'"id": "')[2].partition(b'"')[0]
        if b'"execute": "burst"' in line:
            arrivals.append((id.decode(), now))
        value = b'{"seconds": 90, "version": "bench"}'
        with contextlib.suppress(OSError):
            sock.sendall(b'{"id": "%s", "return": %s}\n' % (id, value))


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python module, and kill it at the end."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def one_after_another(directory: str, id: str) -> None:
    """Hint as a script would, with the same timeout of 1 s for a guest."""
    line = f'{{"execute": "burst", "id": "{id}"}}\n'.encode()
    for path in Path(directory).glob(f"*/{PORT}"):
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(1.0)
            sock.connect(str(path))
            sock.sendall(line)
            sock.recv(4096)


def hinted(status_socket: str, guests: int, failovers: int) -> list[float]:
    """Ask the watcher for hints again and again; return when each was asked for."""
    began = []
    _wait(status_socket, lambda status: _answering(status["guests"]) >= guests)
    for number in range(failovers):
        time.sleep(0.2)
        began.append(time.monotonic())
        client.ask(status_socket, "burst")
        _wait(status_socket, lambda status, n=number: status["history"][n]["answered"] >= guests)
    return began


def _answering(guests: list[dict[str, Any]]) -> int:
    return [guest["state"] for guest in guests].count("answered")


def _wait(status_socket: str, condition: Callable[[Any], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(client.ClientError):
            if condition(client.ask(status_socket, "status")):
                return
        time.sleep(0.05)
    raise SystemExit("fanout: the guests did not answer")


def measure(guests: int, failovers: int) -> dict[str, float]:
    """Return seconds until the last hint arrived, for the watcher and for its peer."""
    with tempfile.TemporaryDirectory() as directory:
        status_socket = f"{directory}/status.sock"
        with running("bench.fanout", "--serve", directory, "--guests", str(guests)) as peers:
            assert peers.stdout is not None
            peers.stdout.readline()
            options = ("--port", PORT, "--status-socket", status_socket)
            with running("garp_agent.hypervisor", "watch", *options) as watcher:
                began = hinted(status_socket, guests, failovers)
                pages = int(Path(f"/proc/{watcher.pid}/statm").read_text().split()[1])
            start = time.monotonic()
            one_after_another(directory, "script")
            arrivals = json.loads(peers.communicate("")[0])
    last: dict[str, float] = {}
    for id, when in arrivals:
        last[id.rpartition("-")[2]] = when
    seconds = [last[str(number + 1)] - when for number, when in enumerate(began)]
    return {
        "guests": guests,
        "stuck": STUCK,
        "failovers": failovers,
        "last_hint_median": median(seconds),
        "last_hint_most": max(seconds),
        "script_last_hint": last["script"] - start,
        "resident_megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if the median exceeds the bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.fanout", description=__doc__)
    parser.add_argument("--guests", type=int, default=1000)
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="DIRECTORY", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        serve(chosen.serve, chosen.guests)
        return 0
    found = measure(chosen.guests - STUCK, chosen.failovers)
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{chosen.guests} guests, {STUCK} of them stuck, {chosen.failovers} failovers")
        print(
            f"garp-hint watch      last hint after {found['last_hint_median'] * 1e3:.1f} ms "
            f"(median), {found['last_hint_most'] * 1e3:.1f} ms (most); bound {BOUND * 1e3:g} ms"
        )
        print(f"one after another    last hint after {found['script_last_hint'] * 1e3:.1f} ms")
        print(f"garp-hint watch      {found['resident_megabytes']:.1f} MB resident")
    return 0 if found["last_hint_median"] <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
