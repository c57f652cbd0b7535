"""Tells the service manager the daemon's state (sd_notify(3)); does nothing without a manager.

Decides only when the watchdog is due: twice in its period.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import os

from garp_agent.wire.record import inf


class Notify:
    """The manager's socket and watchdog, from NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._half_period = inf  # seconds
        self._next = inf
        # Removed, so that a child does not speak for the daemon.
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
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if period.isdecimal() and int(period) > 0 and is_ours:
            self._half_period = int(period) / 2e6
            self._next = -inf

    def deadline(self) -> float:
        """Return when to call :meth:`alive` at the latest; ``math.inf`` without a watchdog."""
        return self._next

    def alive(self, now: float) -> None:
        """Tell the watchdog that the daemon works, if it is due."""
        if now >= self._next:
            self._next = now + self._half_period
            self.say("WATCHDOG=1")

    def say(self, state: str) -> None:
        """Send assignments, one a line: ``READY=1``, ``RELOADING=1``, ``STATUS=...``."""
        if self._socket is not None:
            try:
                self._socket.send(state.encode())
            except OSError:
                pass  # the manager does not read now; the next message may reach it
