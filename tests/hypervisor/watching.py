"""Runs `garp-hint`: single commands, and the watcher as a process of its own."""

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
PATIENCE = 30.0  # seconds; only a broken program takes as long
COMMAND = (sys.executable, "-m", "garp_agent.hypervisor")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` is true; another process gives no event to wait for."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.005)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run one command; return its exit status, standard output and standard error."""
    options: Any = {"capture_output": True, "text": True, "timeout": PATIENCE, "env": ENVIRONMENT}
    done = subprocess.run([*COMMAND, *arguments], check=False, **options)
    return done.returncode, done.stdout, done.stderr


class Watcher:
    """A running `garp-hint watch`."""

    def __init__(self, process: subprocess.Popen[str], status_socket: str) -> None:
        self.process = process
        self.status_socket = status_socket

    def ask(self, command: str = "status") -> dict[str, Any]:
        return client.ask(self.status_socket, command)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        with contextlib.suppress(client.ClientError):
            return bool(self.ask()["ready"])
        return False

    def guests(self) -> dict[str, dict[str, Any]]:
        return {guest["guest"]: guest for guest in self.ask()["guests"]}

    def states(self) -> dict[str, str]:
        return {name: guest["state"] for name, guest in self.guests().items()}

    def last(self) -> dict[str, Any]:
        """Return the last failover, when each of its hints has an outcome."""
        eventually(lambda: not self.ask()["history"][-1]["awaited"], "every hint has its outcome")
        return dict(self.ask()["history"][-1])

    def new_log(self) -> str:
        """Return the log lines that came since the last call; :meth:`stop` returns the rest."""
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self.process.stderr.fileno(), 1 << 16).decode()
        return ""

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it; return its exit status and its log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log


@contextlib.contextmanager
def watching(directory: Path, *options: str, prefix: tuple[str, ...] = ()) -> Iterator[Watcher]:
    """Run a watcher that knows its links and has searched for guests once."""
    path = str(directory / "status.sock")
    command = [*prefix, *COMMAND, "watch", "--status-socket", path, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            watcher = Watcher(process, path)
            eventually(watcher.is_ready, "it is ready")
            yield watcher
        finally:
            process.kill()
