"""Tells the service manager how we are (sd_notify(3)); silent where there is none.

Decides only when the watchdog wants to hear from us: half way through its period.
"""

from __future__ import annotations

import os
import socket
from math import inf


class Notify:
    """The service manager's socket, from NOTIFY_SOCKET and WATCHDOG_USEC."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._half_period = inf
        self._next = inf
        path = os.environ.pop("NOTIFY_SOCKET", "")
        if path[:1] in ("/", "@"):
            self._open(path)

    def _open(self, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            sock.connect("\0" + path[1:] if path[0] == "@" else path)
        except OSError:
            sock.close()
            return
        self._socket = sock
        period = os.environ.get("WATCHDOG_USEC", "")
        for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if period.isdecimal() and int(period) > 0 and for_us:
            self._half_period = int(period) / 2e6
            self._next = -inf

    def deadline(self) -> float:
        """When the watchdog wants its next sign of life."""
        return self._next

    def alive(self, now: float) -> None:
        """A turn of the loop was completed: tell the watchdog if it is time to."""
        if now >= self._next:
            self._next = now + self._half_period
            self.say("WATCHDOG=1")

    def say(self, state: str) -> None:
        """Send assignments, one a line: ``READY=1``, ``RELOADING=1``, ``STATUS=...``."""
        if self._socket is not None:
            try:
                self._socket.send(state.encode())
            except OSError:
                pass  # the manager is not reading; it will hear the next one
