"""Keeps the child process that serves the monitors of libvirt's guests.

Does not talk to libvirt: hypervisor.io.libvirt_monitors does, in the child.  The child ends when
libvirt cannot be reached, and is started again.
"""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from math import inf

from garp_agent.runtime.child import Child, ChildError
from garp_agent.wire.model import LEVEL_WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.runtime.log import Log
    from garp_agent.runtime.reactor import Reactor

RESTART = 5.0  # seconds from the end of the child to the next one
SUFFIX = ".monitors"  # of the folder, after the path of the status socket


class MonitorChild:
    """The child, and the folder of its sockets.  The caller supplies the time."""

    def __init__(self, uri: str, status_socket: str, reactor: Reactor, log: Log) -> None:
        """``uri``: of libvirt."""
        self._uri = uri
        self._folder = status_socket + SUFFIX
        self._reactor = reactor
        self._log = log
        self._child: Child | None = None
        self._start_at = -inf
        self._reason = ""  # why the last one has ended, as logged
        self._has_folder = False

    @property
    def pattern(self) -> str:
        """Return the glob that matches the sockets."""
        return f"{glob.escape(self._folder)}/*.qmp"

    def keep(self, now: float) -> None:
        """Start the child if none runs."""
        if self._child is not None or now < self._start_at:
            return
        uri, folder = self._uri, self._folder
        try:
            self._clear()
            os.mkdir(folder, 0o700)
            self._has_folder = True
            self._child = Child(lambda: _serve(uri, folder), time_limit=0)
        except OSError as error:
            self._ended(str(error), now)
            return
        self._reactor.watch(self._child, self._read)

    def close(self) -> None:
        """End the child, and remove its sockets and the folder, if this made them."""
        if self._child is not None:
            self._child.end()
        if self._has_folder:
            with suppress(OSError):
                self._clear()

    def _read(self, now: float) -> None:
        assert self._child is not None
        if not self._child.read():
            return
        self._reactor.unwatch(self._child)
        child, self._child = self._child, None
        try:
            child.result()
        except ChildError as error:
            self._ended(str(error), now)

    def _ended(self, reason: str, now: float) -> None:
        self._start_at = now + RESTART
        if reason != self._reason:
            self._reason = reason
            self._log.say(LEVEL_WARNING, "no-libvirt", uri=self._uri, reason=reason)

    def _clear(self) -> None:
        """Remove the folder of an earlier child.  Raises OSError if it has files of others."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                if name.endswith(".qmp"):
                    os.unlink(f"{self._folder}/{name}")
            os.rmdir(self._folder)


def _serve(uri: str, folder: str) -> None:
    # Only the child loads it: threads, json and libvirt's library.
    from garp_agent.hypervisor.io.libvirt_monitors import serve

    serve(uri, folder)
