"""Output that cannot be written: one line, an exit status, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import golden

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
COMMANDS = ["--help", "--version", "run --help", "list", "list --json", "check", "config"]
SLOW = ["doctor --no-send", "doctor --no-send --json"]  # they send nothing on this machine
FULL = "the output could not be written: No space left on device\n"


def run(
    *arguments: str, stdout: int, python: tuple[str, ...] = (), module: str = "garp_agent"
) -> tuple[int, str]:
    """The exit status, and what stderr says."""
    done = subprocess.run(
        [sys.executable, *python, "-m", module, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def full() -> Iterator[int]:
    with open("/dev/full", "wb") as file:
        yield file.fileno()


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def capture(tmp_path: Path) -> str:
    """One announcement, in a file for `watch -r`."""
    frame = golden.read("frames/arp-announcement")
    words = (0xA1B2C3D4, 2 | 4 << 16, 0, 0, 65535, 1, 0, 0, len(frame), len(frame))
    file = tmp_path / "one.pcap"
    file.write_bytes(b"".join(word.to_bytes(4, sys.byteorder) for word in words) + frame)
    return str(file)


@pytest.mark.parametrize("python", [(), ("-u",)], ids=["at the end", "at once"])
@pytest.mark.parametrize("command", [*COMMANDS, *SLOW])
def test_a_full_disk(command: str, python: tuple[str, ...], full: int) -> None:
    assert run(*command.split(), stdout=full, python=python) == (1, f"garp-agent: {FULL}")


@pytest.mark.parametrize("command", [*COMMANDS, *SLOW])
def test_a_reader_that_is_gone(command: str, closed_pipe: int) -> None:
    assert run(*command.split(), stdout=closed_pipe) == (1, "")


@pytest.mark.parametrize("command", ["--help", "list --json --port org.garp_agent.none"])
def test_the_hypervisors_end(command: str, full: int, closed_pipe: int) -> None:
    module = "garp_agent.hypervisor"
    status, said = run(*command.split(), stdout=full, module=module)
    assert (status, said.splitlines()[-1]) == (1, f"garp-hint: {FULL}".rstrip())
    assert "Traceback" not in said
    assert run(*command.split(), stdout=closed_pipe, module=module)[0] == 1


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_watch(capture: str, options: tuple[str, ...], full: int, closed_pipe: int) -> None:
    arguments = ("watch", "-r", capture, *options)
    assert run(*arguments, stdout=full) == (1, f"garp-agent watch: {FULL}")
    assert run(*arguments, stdout=closed_pipe) == (0, "")


def test_a_capture_that_cannot_be_written(capture: str) -> None:
    said = run("watch", "-r", capture, "-w", "/dev/full", stdout=subprocess.DEVNULL)
    why = "could not be written: No space left on device"
    assert said == (1, f"garp-agent watch: /dev/full: {why}\n")


def test_output_that_is_closed() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m garp_agent list >&-', sys.executable],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
