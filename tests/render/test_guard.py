"""Output that cannot be written gives one line and exit status 1, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import golden

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
# click prints the first by itself, the second comes from the guarded commands, and the last has
# its own output; it sends nothing.
COMMANDS = ["--help", "list --json", "doctor --no-send"]
FULL = "the output could not be written: No space left on device\n"


def run(arguments: str, stdout: int, module: str = "garp_agent") -> tuple[int, str]:
    """Return the exit status and what standard error says."""
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *arguments.split()],
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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_reported(command: str, full: int) -> None:
    assert run(command, full) == (1, f"garp-agent: {FULL}")


def test_a_full_disk_is_reported_by_an_unbuffered_interpreter(
    full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONUNBUFFERED", "1")
    assert run("list", full) == (1, f"garp-agent: {FULL}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_without_a_reader_is_not_reported(command: str, closed_pipe: int) -> None:
    assert run(command, closed_pipe) == (1, "")


def test_garp_hint_reports_a_full_disk(full: int, closed_pipe: int) -> None:
    module = "garp_agent.hypervisor"
    status, said = run("list --json --port org.garp_agent.none", full, module)
    assert (status, said.splitlines()[-1]) == (1, f"garp-hint: {FULL}".rstrip())
    assert "Traceback" not in said
    assert run("--help", closed_pipe, module) == (1, "")


@pytest.mark.parametrize("options", ["", "--json"])
def test_watch_reports_a_full_disk(capture: str, options: str, full: int, closed_pipe: int) -> None:
    command = f"watch -r {capture} {options}"
    assert run(command, full) == (1, f"garp-agent watch: {FULL}")
    assert run(command, closed_pipe) == (0, "")


def test_watch_reports_a_capture_that_cannot_be_written(capture: str) -> None:
    said = run(f"watch -r {capture} -w /dev/full", subprocess.DEVNULL)
    why = "could not be written: No space left on device"
    assert said == (1, f"garp-agent watch: /dev/full: {why}\n")


def test_a_closed_output_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m garp_agent list >&-', sys.executable],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
