"""Unix sockets on which lines are spoken: a hint port's host, a control server, QMP."""

from __future__ import annotations

import itertools
import json
import socket
from pathlib import Path
from typing import Any

from tests.vm.pump import PATIENCE, PUMP


class MonitorError(AssertionError):
    """QEMU refused a command."""


class LineSocket:
    """A Unix socket on which both sides speak lines; whatever arrives is kept."""

    def __init__(self, path: Path) -> None:
        self.received = b""
        self.ended = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        PUMP.add(self._socket.fileno(), self._arrived)

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def send_json(self, message: dict[str, Any]) -> None:
        """One line."""
        self.send(json.dumps(message).encode() + b"\n")

    def half_close(self) -> None:
        """Says that nothing more will be sent, as ``socat -u`` does."""
        self._socket.shutdown(socket.SHUT_WR)

    def lines(self) -> list[bytes]:
        """The complete lines so far."""
        return self.received.split(b"\n")[:-1]

    def wait_for_line(self, number: int = 1, patience: float = PATIENCE) -> bytes:
        """The line of that number, counted from 1."""
        lines = PUMP.wait_for(
            lambda: self.lines() if len(self.lines()) >= number else None,
            f"line {number} of the answer",
            patience,
        )
        assert lines is not None
        return lines[number - 1]

    def close(self) -> None:
        """Hangs up; twice does no harm."""
        if self._socket.fileno() >= 0:
            PUMP.remove(self._socket.fileno())
            self._socket.close()

    def _arrived(self) -> None:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        self.received += data
        if not data:
            self.ended = True
            PUMP.remove(self._socket.fileno())


class Monitor:
    """QMP: commands, and the events that came."""

    def __init__(self, path: Path) -> None:
        self._lines = LineSocket(path)
        self._numbers = itertools.count(1)
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: object) -> Any:
        """Runs a command; what it returns."""
        number = next(self._numbers)
        self._lines.send_json({"execute": command, "arguments": arguments, "id": number})
        reply = PUMP.wait_for(
            lambda: next((m for m in self._messages() if m.get("id") == number), None),
            f"the reply to {command}",
        )
        assert reply is not None
        if "error" in reply:
            raise MonitorError(f"{command} {arguments}: {reply['error']['desc']}")
        return reply["return"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The data of all events of this name, oldest first."""
        return [m.get("data", {}) for m in self._messages() if m.get("event") == name]

    def wait_for_event(self, name: str, since: int = 0) -> dict[str, Any]:
        """The first event of this name after the first ``since`` of them."""
        return PUMP.wait_for(lambda: self.events(name)[since:], f"QMP event {name}")[0]

    def close(self) -> None:
        """Leaves the machine running."""
        self._lines.close()

    def _messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines.lines()]
