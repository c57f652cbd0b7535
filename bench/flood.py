"""Measures a flood of a million hints: memory, frames, and the answers of `status`.

Run by `bench.performance`.  Needs root; everything happens in network namespaces that it makes
and removes.  The peer of each figure is the value before the flood, in the same run.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from statistics import median

from bench.agent import Figure, configured, status_field, watched
from bench.lab import Lab
from garp_agent.config.settings import RateLimit
from garp_agent.runtime import client

LINES = (b"BURST\n", b'{"execute": "burst", "arguments": {"reason": "flood", "count": 10}}\n')
CHUNK = 500  # lines written at once
STATUS_EVERY = 0.05  # seconds


def status_seconds(control: str) -> float:
    begun = time.monotonic()
    client.ask(control, "status")
    return time.monotonic() - begun


def flood(host: socket.socket, hints: int, reads: bool) -> float:
    """Write the hints; return the seconds that it took.  ``reads``: whether to read replies."""
    host.setblocking(False)
    begun = time.monotonic()
    for number in range(0, hints, CHUNK):
        data = LINES[number // CHUNK % 2] * CHUNK
        while data:
            select.select([host] if reads else [], [host], [], 10.0)
            try:
                data = data[host.send(data) :]
            except BlockingIOError:
                pass
            while reads:
                try:
                    host.recv(1 << 16)
                except BlockingIOError:
                    break
    return time.monotonic() - begun


def ask_until(stopped: threading.Event, control: str) -> list[float]:
    waits = []
    while not stopped.is_set():
        waits.append(status_seconds(control))
        stopped.wait(STATUS_EVERY)
    return waits


def measure(lab: Lab, hints: int, reads: bool) -> Iterator[Figure]:
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
            stopped, waits = threading.Event(), []
            asker = threading.Thread(target=lambda: waits.extend(ask_until(stopped, control)))
            asker.start()
            seconds = flood(host, hints, reads)
            stopped.set()
            asker.join()
            host.close()
            frames = wire.drain()
            grown = status_field(agent.pid, "VmRSS")
    limit = RateLimit()
    allowed = limit.depth + seconds * limit.frames_per_second
    yield Figure(f"hints a second, {what}", "/s", hints / seconds, hints, "hints", "")
    yield Figure(f"frames sent, {what}", "", frames, allowed, "bucket allows", "at most 1")
    yield Figure(f"memory, replies {what}", "MB", grown / 1024, size / 1024, "before", "about 1")
    yield Figure(
        f"status at worst, {what}",
        "ms",
        max(waits) * 1e3,
        median(before) * 1e3,
        "median, no flood",
        "under 100 ms",
    )
