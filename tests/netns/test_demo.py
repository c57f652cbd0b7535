"""The demo measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab
from tests.netns.test_lab import maker

ROOT = Path(__file__).resolve().parents[2]
# Only a broken demo ever takes that long.
LIMIT = 60.0
DEMO = [sys.executable, "-m", "bench.demo"]


@pytest.fixture
def running_demo(labs: None, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Just now making its labs, or in the middle of its first failovers."""
    with subprocess.Popen(
        request.param, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for_namespaces(process)
            yield process
        finally:
            process.kill()
    lab.remove_leftovers()


def wait_for_namespaces(process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while len(lab.namespaces_of(process.pid)) < 12:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("running_demo", [[*DEMO, "--quick"]], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("into", [0.0, 3.0], ids=["while building", "while measuring"])
def test_an_interrupted_demo_leaves_nothing(
    running_demo: subprocess.Popen[str], number: signal.Signals, into: float
) -> None:
    time.sleep(into)
    running_demo.send_signal(number)
    _, errors = running_demo.communicate(timeout=LIMIT)
    assert lab.namespaces_of(running_demo.pid) == []
    assert errors == "demo: interrupted; everything is removed\n"
    assert running_demo.returncode == 130


BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *DEMO, "--quick"]


@pytest.mark.parametrize("running_demo", [BACKGROUND], indirect=True)
def test_sigint_counts_even_where_a_shell_had_it_ignored(
    running_demo: subprocess.Popen[str],
) -> None:
    running_demo.send_signal(signal.SIGINT)
    running_demo.communicate(timeout=LIMIT)
    assert lab.namespaces_of(running_demo.pid) == []
    assert running_demo.returncode == 130


# Here, because a demo removes what it finds: two at once would each miss what the other took.
def test_what_a_killed_maker_left_is_found_and_removed(labs: None) -> None:
    with maker("time.sleep(1000)") as (process, watch):
        process.kill()
        process.wait(LIMIT)
        left = lab.namespaces_of(process.pid)
        assert len(left) == 6
        assert not select.select([watch], [], [], 0)[0]
        assert set(left) <= set(lab.leftovers())
        assert set(left) <= set(lab.remove_leftovers())
        assert lab.namespaces_of(process.pid) == []


@pytest.mark.parametrize("running_demo", [[*DEMO, "--quick"]], indirect=True)
def test_impatience_changes_nothing(running_demo: subprocess.Popen[str]) -> None:
    while running_demo.poll() is None:
        running_demo.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert lab.namespaces_of(running_demo.pid) == []


def test_the_agent_ends_the_outage(labs: None, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [*DEMO, "--only", "agent-1s", "--failovers", "2", "--json", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    (method,) = json.loads(file.read_text())["methods"]
    assert method["failovers"] == 2
    assert None not in method["outages"]
    last = " ".join(done.stdout.splitlines()[-1].split())
    assert last.startswith("garp-agent, every 1 s 2 ")


BROKEN = """
import sys
from bench import demo
method = demo.Method("broken", "broken", 0.1, 1, shell="echo it is broken >&2; exit 3")
sys.exit(demo.run([method], 1, None))
"""


def test_a_method_that_ends_by_itself_is_reported(labs: None) -> None:
    command = [sys.executable, "-c", BROKEN]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "\ndemo: broken failed: it ended: it is broken\n"
