"""The host's end of a hint port: a Unix socket or a terminal line, as lines out and lines in."""

from __future__ import annotations

import json
import os
import select
import socket
import termios
import time
from pathlib import Path
from typing import Any, Union

from tests.netns.agent import LIMIT, until


class Line:
    """An open connection to the agent."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._unread = b""

    def send(self, *lines: bytes) -> None:
        os.write(self.descriptor, b"".join(line + b"\n" for line in lines))

    def exchange(self, data: bytes) -> None:
        """Write all of `data`, and drop replies meanwhile: the agent may wait for that."""
        os.set_blocking(self.descriptor, False)
        end = time.monotonic() + LIMIT
        while data:
            readable, writable, _ = select.select([self.descriptor], [self.descriptor], [], 1.0)
            if readable:
                read = os.read(self.descriptor, 1 << 16)
                assert read, "the agent hung up"
                self._unread = (self._unread + read).rpartition(b"\n")[2]
            if writable:
                data = data[os.write(self.descriptor, data) :]
            assert time.monotonic() < end, "it reads no more"

    def reply(self) -> dict[str, Any]:
        """Return the next line, without the 0xFF that ends a line begun before."""
        end = time.monotonic() + LIMIT
        while b"\n" not in self._unread:
            left = max(0.0, end - time.monotonic())
            assert select.select([self.descriptor], [], [], left)[0], "no reply"
            data = os.read(self.descriptor, 1 << 16)
            assert data, "the agent hung up"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        assert not line.endswith(b"\r"), "the line is not raw"
        return dict(json.loads(line.rpartition(b"\xff")[2]))

    def wait_until_heard(self) -> None:
        """Wait until the agent listens: it discards what comes soon after it opened a terminal."""
        for number in range(int(LIMIT / 0.05)):
            self.send(b'{"execute": "sync", "id": %d}' % number)
            if select.select([self.descriptor], [], [], 0.05)[0]:
                break
        os.read(self.descriptor, 1)  # the agent ends what it did not write: its first byte is LF
        while self.reply()["id"] != number:
            pass

    def ask(self, *lines: bytes) -> list[dict[str, Any]]:
        self.send(*lines)
        return [self.reply() for _ in lines]

    def close(self) -> None:
        os.close(self.descriptor)


class SocketHost:
    """A listening socket, to which the agent connects."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hint"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(LIMIT)
        self._listener.bind(str(self.path))
        self._listener.listen()

    def connected(self) -> Line:
        """Wait for the agent and return the connection to it."""
        return Line(self._listener.accept()[0].detach())

    def close(self) -> None:
        self._listener.close()


class TerminalHost:
    """A pseudoterminal; the agent opens its slave, as it opens /dev/hvc1 in a Xen guest.

    Each slave stays open here until the agent has another path: its number is not free before, so
    an agent that tries to open it again does not get the terminal of another test.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hint"
        self._slave = -1

    def connected(self) -> Line:
        """Make a terminal, wait for the agent and return the line to it."""
        master, slave = os.openpty()
        new = self.path.with_suffix(".new")
        new.symlink_to(os.ttyname(slave))
        new.rename(self.path)
        # Until the agent has made the line raw, the terminal echoes and edits what it receives.
        until(lambda: not termios.tcgetattr(slave)[3] & termios.ECHO, "the agent opens the line")
        self.close()
        self._slave = slave
        line = Line(master)
        line.wait_until_heard()
        return line

    def close(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1


Host = Union[SocketHost, TerminalHost]
HOSTS: dict[str, type[SocketHost] | type[TerminalHost]] = {
    "socket": SocketHost,
    "terminal": TerminalHost,
}
