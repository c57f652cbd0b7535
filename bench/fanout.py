"""A failover on a hypervisor with 1,000 guests: when does the last one have its hint?

The real `garp-hint watch`, as a process of its own, beside its peer in the same run: a
script that goes from guest to guest.  A guest is a Unix socket; a process of its own
answers for all of them and notes when each hint arrived, so some of the time measured is
that process's.  Ten guests are stuck: half never accept, half never answer.  The
failover is an operator's `burst` on the status socket, and time runs from its sending.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
PORT = "org.garp_agent.bench"  # no real guest's
BOUND = 0.1  # seconds until the last hint is there
PATIENCE = 60.0
STUCK = 10


def serve(directory: str, guests: int) -> None:
    """Be the guests: answer, and note when each hint came, until the standard input ends."""
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
    """Whoever connects has sent already, or is just about to; so waiting is short."""
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
    """A Python program that ends with its standard input."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def one_after_another(directory: str, id: str) -> None:
    """The peer: what a script would do, with the same second of patience."""
    line = f'{{"execute": "burst", "id": "{id}"}}\n'.encode()
    for path in Path(directory).glob(f"*/{PORT}"):
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(1.0)
            sock.connect(str(path))
            sock.sendall(line)
            sock.recv(4096)


def hinted(status_socket: str, guests: int, failovers: int) -> list[float]:
    """Ask the watcher for hints; when each was asked for."""
    began = []
    for number in range(failovers):
        time.sleep(0.2)
        began.append(time.monotonic())
        client.ask(status_socket, "burst")
        _wait(functools.partial(_have_answered, status_socket, number, guests))
    return began


def _have_answered(status_socket: str, number: int, guests: int) -> bool:
    history: Any = client.ask(status_socket, "status")["history"]
    return bool(history[number]["answered"] >= guests)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("fanout: the guests did not answer")
        time.sleep(0.05)


def _greeted(status_socket: str, guests: int) -> bool:
    try:
        status = client.ask(status_socket, "status")
    except client.ClientError:
        return False
    known: Any = status["guests"]
    return [guest["state"] for guest in known].count("answered") >= guests


def resident(pid: int) -> float:
    """Resident memory in MB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(guests: int, failovers: int) -> dict[str, float]:
    """Seconds until the last hint was there; of the watcher, and of its peer."""
    with tempfile.TemporaryDirectory() as directory:
        status_socket = f"{directory}/status.sock"
        with running("bench.fanout", "--serve", directory, "--guests", str(guests)) as peers:
            assert peers.stdin is not None
            assert peers.stdout is not None
            peers.stdout.readline()
            options = ("--port", PORT, "--status-socket", status_socket)
            with running("garp_agent.cli.hint_main", "watch", *options) as watcher:
                _wait(lambda: _greeted(status_socket, guests))
                began = hinted(status_socket, guests, failovers)
                megabytes = resident(watcher.pid)
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
        "resident_megabytes": megabytes,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and say; exit status 1 if the bound is not kept."""
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
