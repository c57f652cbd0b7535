"""Commands in a running machine, whatever started it.

``guest_control.py`` executes them; it is process 1 of the test images. Every call waits until
the machine answers, so that the first one also waits for the boot.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.vm.receiver import HANG_TIMEOUT, HangError, wait_for
from tests.vm.sockets import LineSocket

T = TypeVar("T")
M = TypeVar("M", bound="Machine")


class MachineError(AssertionError):
    """A command in a machine failed, or the machine does not answer."""


class Machine(ABC):
    """A machine that runs ``guest_control.py``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._control: LineSocket | None = None
        self._numbers = itertools.count(1)
        RUNNING.append(self)

    @property
    @abstractmethod
    def control_path(self) -> Path:
        """The Unix socket of the control port."""

    @property
    @abstractmethod
    def console(self) -> str:
        """What the machine printed on its console."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the process that emulates the machine runs."""

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the machine."""
        self.disconnect()
        if self in RUNNING:
            RUNNING.remove(self)

    def disconnect(self) -> None:
        """Close the control connection; the next command opens another."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def run(
        self, *command: str, stdin: str = "", timeout: float = HANG_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status."""
        ended = self.call("run", timeout, command=list(command), stdin=stdin)
        return subprocess.CompletedProcess(command, *ended)

    def check(self, *command: str, stdin: str = "", timeout: float = HANG_TIMEOUT) -> str:
        """Return what a command prints. Raises MachineError if it fails."""
        done = self.run(*command, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise MachineError(f"{self.name}: {done}")
        return done.stdout

    def shell(self, script: str, timeout: float = HANG_TIMEOUT) -> str:
        """Return what a shell script prints. Raises MachineError if a command in it fails."""
        return self.check("sh", "-ec", script, timeout=timeout)

    def ip(self, batch: str) -> None:
        """Run several lines of ``ip -batch``."""
        self.check("ip", "-batch", "-", stdin=batch)

    def insert(self, *modules: str) -> None:
        """Load kernel modules and their dependencies; no device comes into being."""
        self.shell("".join(f". /modules/{module}.load\n" for module in modules))

    def python(self, source: str, **arguments: object) -> Any:
        """Execute source in the control server; return what it left in ``result``.

        Names that it defines last until the machine ends.
        """
        return self.call("python", source=source, arguments=arguments)

    def spawn(self, *command: str) -> Process:
        """Start a command in the background."""
        output = f"/tmp/output-{next(self._numbers)}"
        return Process(self, self.call("spawn", command=list(command), output=output), output)

    def read(self, path: str) -> str:
        """Return a file's text."""
        source = "with open(path, errors='replace') as file: result = file.read()"
        text: str = self.python(source, path=path)
        return text

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self.python("with open(path, 'w') as file: file.write(text)", path=path, text=text)

    def call(self, operation: str, timeout: float = HANG_TIMEOUT, **arguments: object) -> Any:
        """Execute an operation of the control server and return its result."""
        control = self._control = self._control or self.connect(self.control_path)
        number = next(self._numbers)
        request = {"id": number, "operation": operation, "arguments": arguments}
        try:
            control.send(b"\n")  # ends a line that an earlier connection left incomplete
            control.send_json(request)
            reply = self.wait_until(
                lambda: self._reply(control, number), f"{self.name}: {operation}", timeout
            )
        except BrokenPipeError as error:
            raise self._failure(error) from None
        if "error" in reply:
            raise MachineError(f"{self.name}: {operation} {arguments}: {reply['error']}")
        return reply["result"]

    def connect(self, path: Path) -> LineSocket:
        """Connect to one of the machine's sockets, as soon as something listens there."""
        return self.wait_until(lambda: _try_to_connect(path), f"{self.name}: {path.name}")

    def wait_until(self, condition: Callable[[], T], what: str, timeout: float = HANG_TIMEOUT) -> T:
        """Return the first true value of ``condition``; on failure show the console."""

        def condition_or_end() -> T:
            if not self.alive:
                raise HangError(f"{what}: the machine ended")
            return condition()

        try:
            return wait_for(condition_or_end, what, timeout, step=0.05)
        except HangError as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> MachineError:
        return MachineError(f"{error}\n--- console of {self.name} ---\n{self.console}")

    @staticmethod
    def _reply(control: LineSocket, number: int) -> Any:
        replies = map(json.loads, control.take_lines())
        # Replies of other numbers came too late: those calls have failed.
        return next((reply for reply in replies if reply["id"] == number), None)


RUNNING: list[Machine] = []


def _try_to_connect(path: Path) -> Any:
    try:
        return LineSocket(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


class Process:
    """A background process in a machine."""

    def __init__(self, machine: Machine, pid: int, output: str) -> None:
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
        return bool(self._python("result = process.poll() is None"))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._python(f"process.send_signal({number})")

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        status: int = self._python(f"result = process.wait({HANG_TIMEOUT})")
        return status

    def kill(self) -> None:
        """End it at once."""
        if self.running:
            self.signal(9)
            self.wait()

    def _python(self, source: str) -> Any:
        return self.machine.python(f"process = processes[{self.pid}]\n{source}")
