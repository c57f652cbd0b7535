"""A `garp-hint` to run: its commands, and its watcher as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from garp_agent.runtime import client

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds; nothing takes as long unless it is broken
COMMAND = (sys.executable, "-m", "garp_agent.cli.hint_main")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until it is so: what happens in another process has no event to wait for."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.005)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=ENVIRONMENT,
        check=False,
    )


class Watcher:
    """`garp-hint watch` under way."""

    def __init__(self, process: subprocess.Popen[str], status_socket: Path) -> None:
        self.process = process
        self.status_socket = str(status_socket)

    def ask(self, command: str = "status") -> dict[str, Any]:
        return client.ask(self.status_socket, command)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        try:
            return bool(self.ask()["ready"])
        except client.ClientError:
            return False

    def guests(self) -> dict[str, dict[str, Any]]:
        return {guest["guest"]: guest for guest in self.ask()["guests"]}

    def states(self) -> dict[str, str]:
        return {name: guest["state"] for name, guest in self.guests().items()}

    def last(self) -> dict[str, Any]:
        """The last failover, once nothing of it is waited for."""
        eventually(lambda: not self.ask()["history"][-1]["awaited"], "every hint has its outcome")
        entry: dict[str, Any] = self.ask()["history"][-1]
        return entry

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it; its exit status and what it logged."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log


@contextlib.contextmanager
def watching(
    directory: Path, *options: str, prefix: tuple[str, ...] = (), **environment: str
) -> Iterator[Watcher]:
    """A watcher that knows its links, and has looked for guests once."""
    status_socket = directory / "status.sock"
    arguments = [*COMMAND, "watch", "--status-socket", str(status_socket), *options]
    with subprocess.Popen(
        [*prefix, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    ) as process:
        try:
            watcher = Watcher(process, status_socket)
            eventually(watcher.is_ready, "it is ready")
            yield watcher
        finally:
            process.kill()
