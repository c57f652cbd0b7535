"""The lab has the fault that the project is about, is silent by itself, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab
from bench.lab import GUEST_ADDRESS, PEER_ADDRESS, FailoverLab, TinyLab
from bench.prober import Prober

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds; only a broken lab or demo takes that long
DEMO = [sys.executable, "-m", "bench.demo"]


class Probes:
    """Numbered datagrams from the external host to the guest."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.sender, self.receiver = sender, receiver
        receiver.settimeout(LIMIT)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.sender.send(b"%d" % number)

    def next_arrival(self) -> int:
        return int(self.receiver.recv(64))


@pytest.fixture
def probes(failover_lab: FailoverLab) -> Iterator[Probes]:
    sender, receiver = failover_lab.probe_sockets()
    with sender, receiver:
        yield Probes(sender, receiver)


def test_failover_lab_loses_the_guest_until_it_sends_one_frame(
    failover_lab: FailoverLab, probes: Probes, arping: str
) -> None:
    before = failover_lab.sent_frames("guest", "eth0")
    for role, other in (("external", GUEST_ADDRESS), ("guest", PEER_ADDRESS)):
        assert failover_lab.neighbours(role)[other].states == ("PERMANENT",)
    assert failover_lab.believed_port() == failover_lab.true_port()
    for turn in range(3):
        probes.send(100 * turn)
        assert probes.next_arrival() == 100 * turn
        failover_lab.fail_over()
        probes.send(*range(100 * turn + 1, 100 * turn + 50))
        assert failover_lab.believed_port() not in (None, failover_lab.true_port())
        with pytest.raises(lab.LabError, match="still cut: restore it first"):
            failover_lab.fail_over()
        if turn == 1:  # the uplink alone repairs nothing
            failover_lab.restore()
            probes.send(100 * turn + 60)
        assert failover_lab.sent_frames("guest", "eth0") == before + turn
        announce = [arping, "-q", "-U", "-c1", "-w1", "-I", "eth0", GUEST_ADDRESS]
        failover_lab.run("guest", announce, check=False)
        assert failover_lab.believed_port() == failover_lab.true_port()
        probes.send(100 * turn + 90)
        assert probes.next_arrival() == 100 * turn + 90
        if turn != 1:
            failover_lab.restore()


def test_prober_measures_the_outage(failover_lab: FailoverLab) -> None:
    with Prober(failover_lab, 0.001) as prober:
        prober.wait_until_reachable(LIMIT)
        cut = failover_lab.fail_over()
        assert prober.outage(cut, 0.2) is None
        failover_lab.speak()
        outage = prober.outage(cut, LIMIT)
        # It began with the cut and lasted at least for the 0.2 s of the look at it.
        assert outage is not None
        assert outage >= 0.2 - (cut.done - cut.began)
        failover_lab.restore()
        assert prober.outage(lab.Cut(cut.done + outage, cut.done + outage), LIMIT) == 0.0
    with pytest.raises(lab.LabError, match="the prober has ended"):
        prober.wait_until_reachable()


# -- nothing is left --------------------------------------------------------------------


class Unfinished(TinyLab):
    """Fails when its namespaces and links exist."""

    def build(self) -> None:
        super().build()
        assert len(self.namespaces()) == 2
        self.ip("guest", "link set nonsense up")


def test_lab_whose_construction_fails_leaves_nothing(labs: None) -> None:
    before = lab.namespaces_of(os.getpid())
    with pytest.raises(lab.LabError, match="nonsense"):
        Unfinished()
    assert lab.namespaces_of(os.getpid()) == before


def test_lab_that_ends_removes_its_stray_processes_and_no_other_lab(labs: None) -> None:
    with TinyLab() as other:
        with TinyLab() as made:
            # The shell's child leaves the shell's process group.
            stray = ["sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait"]
            process = made.start("guest", stray, stdout=subprocess.PIPE)
            assert process.stdout
            descriptor = os.pidfd_open(int(process.stdout.readline()))
        assert process.returncode == -signal.SIGKILL
        assert select.select([descriptor], [], [], LIMIT)[0], "the stray child is alive"
        os.close(descriptor)
        assert made.namespaces() == []
        assert len(other.namespaces()) == 2
        assert not set(other.namespaces()) & set(lab.leftovers())


MAKER = """
import sys, time
from bench.lab import FailoverLab
from bench.prober import Prober
lab = FailoverLab()
sleeper = lab.start("guest", ["sleep", "1000"])
with Prober(lab):
    print(sleeper.pid, flush=True)
    sys.stdin.readline()
    {then}
"""


@contextlib.contextmanager
def maker(then: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has made a lab; it goes on with ``then`` after a line on its input."""
    # nohup may have started us: SIGHUP is then ignored.
    command = ["env", "--default-signal=HUP", sys.executable, "-c", MAKER.format(then=then)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            sleeper = os.pidfd_open(int(process.stdout.readline()))
            assert len(lab.namespaces_of(process.pid)) == 6
            yield process
            assert select.select([sleeper], [], [], LIMIT)[0], "the lab's process is alive"
            os.close(sleeper)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_lab_of_a_maker_ended_by_a_signal_is_removed(labs: None, number: signal.Signals) -> None:
    with maker("time.sleep(1000)") as process:
        process.send_signal(number)
        process.wait(LIMIT)
        assert process.returncode == -number
        assert lab.namespaces_of(process.pid) == []


@pytest.mark.parametrize("then", ["sys.exit(0)", "raise ValueError", "pass"])
def test_lab_of_a_maker_that_ends_is_removed(labs: None, then: str) -> None:
    with maker(then) as process:
        process.communicate("go on\n", timeout=LIMIT)
        assert lab.namespaces_of(process.pid) == []


# In the file of the demo's tests: a demo removes leftovers, too.
def test_lab_of_a_killed_maker_is_found_and_removed(labs: None) -> None:
    with maker("time.sleep(1000)") as process:
        process.kill()
        process.wait(LIMIT)
        left = lab.namespaces_of(process.pid)
        assert len(left) == 6
        assert set(left) <= set(lab.leftovers())
        assert set(left) <= set(lab.remove_leftovers())
        assert lab.namespaces_of(process.pid) == []


# -- the demo ---------------------------------------------------------------------------


@contextlib.contextmanager
def demo(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A demo that has made its first labs."""
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            end = time.monotonic() + LIMIT
            while len(lab.namespaces_of(process.pid)) < 12:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
    lab.remove_leftovers()


IGNORED = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *DEMO, "--quick"]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ([*DEMO, "--quick"], signal.SIGTERM),
        (IGNORED, signal.SIGINT),  # as a shell does for what it runs in the background
    ],
)
def test_demo_interrupted_leaves_nothing(
    labs: None, command: list[str], number: signal.Signals
) -> None:
    with demo(command) as running:
        running.send_signal(number)
        while running.poll() is None:  # further signals change nothing
            running.send_signal(number)
            time.sleep(0.02)
        assert lab.namespaces_of(running.pid) == []
        assert running.stderr
        assert running.stderr.read() == "demo: interrupted; everything is removed\n"
        # The last signal may come when the interpreter has already removed its handlers.
        assert running.returncode in (130, -number)


def test_demo_agent_ends_every_outage(labs: None, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [*DEMO, "--only", "agent-1s", "--failovers", "2", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (method,) = json.loads(file.read_text())["methods"]
    assert method["failovers"] == 2
    assert None not in method["outages"]
    assert " ".join(done.stdout.splitlines()[-1].split()).startswith("garp-agent, every 1 s 2 ")


BROKEN = """
import sys
from bench import demo
method = demo.Method("broken", "broken", 0.1, 1, shell="echo it is broken >&2; exit 3")
sys.exit(demo.run([method], 1, None))
"""


def test_demo_method_that_ends_by_itself_is_reported(labs: None) -> None:
    command = [sys.executable, "-c", BROKEN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "\ndemo: broken failed: it ended: it is broken\n"
