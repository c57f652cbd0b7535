"""Output that cannot be written gives one line and exit status 1, never a traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.render import hypervisor as render
from tests import golden

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # buffers fail later; -u below is the other case
FULL = "the output could not be written: No space left on device\n"
NO_GUEST = render.no_channel("org.garp_agent.none", (), "") + "\n"
AGENT, HINT = "garp_agent", "garp_agent.hypervisor"
# click prints the help by itself, most commands print what they return, and doctor (which sends
# nothing here) and watch print by themselves.
PLAIN = "from garp_agent.render.output_errors import guarded; guarded(lambda: print(1), 'p')"
COMMANDS = [
    (f'-c "{PLAIN}"', f"p: {FULL}"),  # without click, of which some versions handle EPIPE
    (f"-m {AGENT} --help", f"garp-agent: {FULL}"),
    (f"-m {AGENT} list --json", f"garp-agent: {FULL}"),
    (f"-u -m {AGENT} list", f"garp-agent: {FULL}"),
    (f"-m {AGENT} doctor --no-send", f"garp-agent: {FULL}"),
    (f"-m {HINT} --help", f"garp-hint: {FULL}"),
    (f"-m {HINT} list --json --port org.garp_agent.none", f"{NO_GUEST}garp-hint: {FULL}"),
]


def run(command: str, stdout: int) -> tuple[int, str]:
    """Return the exit status and what standard error says."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
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


@pytest.mark.parametrize(("command", "line"), COMMANDS)
def test_a_full_disk_is_reported_and_a_closed_pipe_is_not(
    command: str, line: str, full: int, closed_pipe: int
) -> None:
    assert run(command, full) == (1, line)
    assert run(command, closed_pipe) == (1, line.replace(line.splitlines()[-1] + "\n", ""))


@pytest.mark.parametrize("options", ["", "--json"])
def test_watch_reports_a_full_disk(
    tmp_path: Path, options: str, full: int, closed_pipe: int
) -> None:
    frame = golden.read("frames/arp-announcement")
    words = (0xA1B2C3D4, 2 | 4 << 16, 0, 0, 65535, 1, 0, 0, len(frame), len(frame))
    capture = tmp_path / "one.pcap"
    capture.write_bytes(b"".join(word.to_bytes(4, sys.byteorder) for word in words) + frame)
    command = f"-m garp_agent watch -r {capture} {options}"
    assert run(command, full) == (1, f"garp-agent watch: {FULL}")
    assert run(command, closed_pipe) == (0, "")
    why = "/dev/full: could not be written: No space left on device\n"
    assert run(f"{command} -w /dev/full", subprocess.DEVNULL) == (1, f"garp-agent watch: {why}")


def test_a_closed_output_is_no_error() -> None:
    command = f'exec "{sys.executable}" -m garp_agent list >&-'
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_character_that_the_encoding_lacks_is_escaped() -> None:
    plain = PLAIN.replace("print(1)", "print('w\\N{LATIN SMALL LETTER A WITH DIAERESIS}n')")
    done = subprocess.run(
        [sys.executable, "-c", plain],
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"w\\xe4n\n", b"")
