"""The test's ends of a machine's Unix sockets: lines of text, and QMP on top of them."""

from __future__ import annotations

import itertools
import json
import socket
from pathlib import Path
from typing import Any

from tests.vm import receiver
from tests.vm.receiver import wait_for


class QmpError(AssertionError):
    """QEMU refused a command."""


class LineSocket:
    """A connected Unix socket. Keeps what was received until it is taken."""

    def __init__(self, path: Path) -> None:
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        receiver.add(self._socket.fileno(), self._read)

    def __enter__(self) -> LineSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def send_json(self, message: dict[str, Any]) -> None:
        """Send one line of JSON."""
        self.send(json.dumps(message).encode() + b"\n")

    def half_close(self) -> None:
        """Shut down the direction to the machine, as ``socat -u`` does."""
        self._socket.shutdown(socket.SHUT_WR)

    def stop_reading(self) -> None:
        """Leave what the machine sends from now on in the socket."""
        receiver.remove(self._socket.fileno())

    def take_lines(self) -> list[bytes]:
        """Return the complete lines since the last call."""
        *lines, self._received = self._received.split(b"\n")
        return lines

    def next_reply(self) -> dict[str, Any]:
        """Wait for one line, the only one that is outstanding, and decode its JSON."""
        (line,) = wait_for(self.take_lines, "a reply")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request; return the ``return`` member of its reply."""
        self.send_json(request)
        value: dict[str, Any] = self.next_reply()["return"]
        return value

    def close(self) -> None:
        """Close the connection. Harmless if repeated."""
        if self._socket.fileno() >= 0:
            receiver.remove(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        self._received += data
        if not data:
            self.stop_reading()


class Qmp:
    """QEMU's monitor: commands, and the events that came (docs/interop/qmp-spec)."""

    def __init__(self, path: Path) -> None:
        self._socket = LineSocket(path)
        self._numbers = itertools.count(1)
        self._replies: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: object) -> Any:
        """Run a command and return its result. Raises QmpError if QEMU refuses it."""
        number = next(self._numbers)
        self._socket.send_json({"execute": command, "arguments": arguments, "id": number})
        reply = wait_for(lambda: self._reply(number), f"the reply to {command}")
        if "error" in reply:
            raise QmpError(f"{command} {arguments}: {reply['error']['desc']}")
        return reply["return"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the data of all events of this name, oldest first."""
        self._sort()
        return [event.get("data", {}) for event in self._events if event["event"] == name]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _reply(self, number: int) -> dict[str, Any]:
        self._sort()
        return self._replies.pop(number, {})

    def _sort(self) -> None:
        for message in map(json.loads, self._socket.take_lines()):
            if "event" in message:
                self._events.append(message)
            elif "id" in message:  # the greeting has none
                self._replies[message["id"]] = message
