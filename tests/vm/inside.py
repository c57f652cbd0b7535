"""Commands inside a guest, through the control server that is its process 1."""

from __future__ import annotations

import itertools
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.vm.lines import LineSocket
from tests.vm.pump import PATIENCE, PUMP, TookTooLongError

GRACE = 10.0  # seconds for the guest to say that a command took too long


class Completed(NamedTuple):
    """How a command inside a guest ended."""

    status: int
    stdout: str
    stderr: str


class GuestError(AssertionError):
    """A guest, or a command inside it, did something else than it was told."""


class Inside(ABC):
    """A guest as seen from inside, however it was started."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._control: LineSocket | None = None
        self._numbers = itertools.count(1)
        self._replies: dict[int, dict[str, Any]] = {}

    @property
    @abstractmethod
    def control_path(self) -> Path:
        """The socket of the control port."""

    @property
    @abstractmethod
    def console(self) -> str:
        """What the guest's console said."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it still runs."""

    def let_go(self) -> None:
        """Closes the control connection; the next command makes another."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def run(self, *command: str, stdin: str = "", patience: float = PATIENCE) -> Completed:
        """A command inside the guest to its end, whatever its status."""
        reply = self._ask(
            "run", patience + GRACE, command=list(command), timeout=patience, stdin=stdin
        )
        return Completed(reply["status"], reply["stdout"], reply["stderr"])

    def check(self, *command: str, stdin: str = "", patience: float = PATIENCE) -> str:
        """What a command inside the guest prints; it must succeed."""
        done = self.run(*command, stdin=stdin, patience=patience)
        if done.status:
            raise GuestError(f"{self.name}: {shlex.join(command)}: {done}")
        return done.stdout

    def shell(self, script: str, patience: float = PATIENCE) -> str:
        """What a shell script inside the guest prints; each of its commands must succeed."""
        return self.check("sh", "-ec", script, patience=patience)

    def ip(self, batch: str) -> None:
        """Several lines for ``ip -batch``."""
        self.check("ip", "-batch", "-", stdin=batch)

    def python(self, source: str, patience: float = PATIENCE, **arguments: object) -> Any:
        """Runs source in the control server, where it lasts; what it left in ``result``."""
        return self._ask("python", patience, source=source, arguments=arguments)

    def spawn(self, *command: str) -> Background:
        """A command in the background."""
        output = f"/tmp/output-{next(self._numbers)}"
        return Background(self, self._ask("spawn", command=list(command), output=output), output)

    def read(self, path: str) -> str:
        """A file's text."""
        text: str = self._ask("read", path=path)
        return text

    def write(self, path: str, text: str) -> None:
        """A file with this text."""
        self._ask("write", path=path, text=text)

    def wait_until(
        self, condition: Callable[[], Any], what: str, patience: float = PATIENCE
    ) -> Any:
        """The first true value of a condition that asks the guest itself."""
        try:
            return PUMP.wait_for(condition, what, patience)
        except TookTooLongError as error:
            raise self.failure(error) from None

    def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation of the control server."""
        return self._ask(operation, **arguments)

    def _ask(self, operation: str, patience: float = PATIENCE, **arguments: object) -> Any:
        if self._control is None:
            self._control = self.connected(lambda: LineSocket(self.control_path))
        control, number = self._control, next(self._numbers)
        try:
            control.send(b"\n")  # ends what a host before us may have left unfinished
            control.send_json({"id": number, "operation": operation, "arguments": arguments})
            reply = PUMP.wait_for(
                lambda: self._reply(control, number), f"{self.name}: {operation}", patience
            )
        except (TookTooLongError, BrokenPipeError) as error:
            raise self.failure(error) from None
        assert reply is not None
        if "error" in reply:
            raise GuestError(f"{self.name}: {operation} {arguments}: {reply['error']}")
        return reply["result"]

    def _reply(self, control: LineSocket, number: int) -> dict[str, Any] | None:
        if not self.alive:
            raise self.failure(TookTooLongError("it ended"))
        *lines, control.received = control.received.split(b"\n")
        for line in filter(None, lines):
            reply = json.loads(line)
            self._replies[reply["id"]] = reply
        return self._replies.pop(number, None)

    def failure(self, error: Exception) -> GuestError:
        """The same, with the console."""
        return GuestError(f"{error}\n--- console of {self.name} ---\n{self.console}")

    def connected(self, connect: Callable[[], Any]) -> Any:
        """What ``connect`` gives, as soon as somebody listens."""

        def attempt() -> Any:
            if not self.alive:
                raise self.failure(TookTooLongError("it ended"))
            try:
                return connect()
            except (FileNotFoundError, ConnectionRefusedError):
                return None

        return PUMP.wait_for(attempt, f"{self.name}", step=0.02)


class Background:
    """A process inside a guest."""

    def __init__(self, machine: Inside, pid: int, output: str) -> None:
        self.machine = machine
        self.pid = pid
        self._output = output

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.machine.read(self._output)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return bool(self.machine.ask("running", pid=self.pid))

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self.machine.ask("signal", pid=self.pid, number=number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit status once it has ended."""
        status: int = self.machine.ask("wait", pid=self.pid, timeout=patience)
        return status

    def kill(self) -> None:
        """Ends it at once."""
        if self.running:
            self.signal(9)
            self.wait()
