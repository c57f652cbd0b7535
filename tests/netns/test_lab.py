"""The lab has the fault that the project is about, is silent by itself, and leaves nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import lab
from bench.lab import GUEST_ADDRESS, PEER_ADDRESS
from tests.netns.agent import LIMIT


@pytest.mark.parametrize("wiring", lab.Wiring)
def test_failover_lab_loses_the_guest_until_it_sends_one_frame(
    labs: None, wiring: lab.Wiring
) -> None:
    if reason := lab.why_no_arping():
        pytest.skip(reason)
    with lab.FailoverLab(wiring) as failover_lab:
        assert_only_a_frame_ends_the_outage(failover_lab)


def assert_only_a_frame_ends_the_outage(failover_lab: lab.FailoverLab) -> None:
    before = failover_lab.sent_frames("guest", "eth0")
    for role, other in (("external", GUEST_ADDRESS), ("guest", PEER_ADDRESS)):
        assert failover_lab.neighbours(role)[other].states == ("PERMANENT",)
    assert failover_lab.believed_port() == failover_lab.true_port()
    sender, receiver = failover_lab.probe_sockets()
    receiver.settimeout(LIMIT)
    with sender, receiver:
        for turn in range(3):
            sender.send(b"before %d" % turn)
            assert receiver.recv(64) == b"before %d" % turn
            failover_lab.fail_over()
            for _ in range(50):
                sender.send(b"lost")
            assert failover_lab.believed_port() not in (None, failover_lab.true_port())
            with pytest.raises(lab.LabError, match="still cut: restore it first"):
                failover_lab.fail_over()
            if turn == 1:  # the uplink alone repairs nothing
                failover_lab.restore()
                sender.send(b"lost")
            assert failover_lab.sent_frames("guest", "eth0") == before + turn
            announce = ["arping", "-q", "-U", "-c1", "-w1", "-I", "eth0", GUEST_ADDRESS]
            failover_lab.run("guest", announce, check=False)
            assert failover_lab.believed_port() == failover_lab.true_port()
            sender.send(b"after %d" % turn)
            assert receiver.recv(64) == b"after %d" % turn
            if turn != 1:
                failover_lab.restore()


# -- nothing is left --------------------------------------------------------------------


MAKER = """
import sys
from bench.lab import FailoverLab
from bench.prober import Prober
lab = FailoverLab()
sleeper = lab.start("guest", ["sleep", "1000"])
with Prober(lab):
    print(sleeper.pid, flush=True)
    sys.stdin.readline()
    {then}
"""


# In the file of the demo's test: a demo removes leftovers, too.
@pytest.mark.parametrize(
    ("then", "number"),
    [
        *(("", each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)),
        *((then, None) for then in ("sys.exit(0)", "raise ValueError", "")),
    ],
)
def test_lab_of_a_maker_that_ends_is_removed(
    labs: None, then: str, number: signal.Signals | None
) -> None:
    # nohup may have started us: SIGHUP is then ignored.
    command = ["env", "--default-signal=HUP", sys.executable, "-c", MAKER.format(then=then)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=lab.ROOT, text=True, **pipes) as maker:  # type: ignore[call-overload]
        sleeper = os.pidfd_open(int(maker.stdout.readline()))
        assert len(lab.namespaces_of(maker.pid)) == 6
        if number:
            maker.send_signal(number)
            assert maker.wait(LIMIT) == -number
        else:
            maker.communicate("go on\n", timeout=LIMIT)
        if number == signal.SIGKILL:
            left = set(lab.namespaces_of(maker.pid))
            assert len(left) == 6
            assert left <= set(lab.leftovers())
            assert left <= set(lab.remove_leftovers())
        assert lab.namespaces_of(maker.pid) == []
        assert select.select([sleeper], [], [], LIMIT)[0], "the lab's process is alive"
        os.close(sleeper)


# -- the demo ---------------------------------------------------------------------------


def test_demo_agent_ends_every_outage(labs: None, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = ["-m", "bench.demo", "--only", "agent-1s", "--failovers", "2", "--json"]
    command = [sys.executable, *words, str(file)]
    done = subprocess.run(command, cwd=lab.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (method,) = json.loads(file.read_text())["methods"]
    assert method["failovers"] == 2
    assert None not in method["outages"]
    assert " ".join(done.stdout.splitlines()[-1].split()).startswith("garp-agent, every 1 s 2 ")
