"""Counts the calls of one tick and of one hint: figures that do not depend on the load.

    python -m bench.tick_profile [--names]

Runs the agent with one address in a namespace, first under sys.setprofile(), then under strace(1).
A turn is what the agent does from one wake-up to the next wait.  The figures are medians of some
TURNS turns.  Needs root and strace.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import lab
from bench.agent import PYTHON, spawned
from bench.hints import HINT, listening
from bench.lab import TinyLab
from garp_agent.wire.protocol import encode_request

TURNS = 12
PACE = 0.5  # seconds between two ticks, and between two hints
STARTING = 4.0  # seconds; the first burst is over
# For a minute after its start, the agent sends a probe before each refresh.  A quiet day has none.
PREPARE = "import garp_agent.guest.core.conflicts as c; c.UNSURE = 0.0\n"
RUN = "from garp_agent.__main__ import main; main()\n"
# A call of poll() that takes 50 ms has waited, so a turn is over.
PROFILED = """
import atexit, json, sys, time
turns, calls, begun = [], [], 0.0
def note(frame, event, what):
    global calls, begun
    if event == "call":
        code = frame.f_code
        file = code.co_filename.rpartition("garp_agent/")[2]
        calls.append(f"{{code.co_name}} ({{file}})")
    elif event == "c_call":
        begun = time.monotonic()
        owner = getattr(what, "__self__", None)
        calls.append(f"C: {{type(owner).__name__}}.{{what.__name__}}")
    elif event == "c_return" and what.__name__ == "poll" and time.monotonic() - begun > 0.05:
        turns.append(calls)
        calls = []
def write():
    sys.setprofile(None)
    with open({output!r}, "w") as file:
        json.dump(turns, file)
atexit.register(write)
sys.setprofile(note)
"""
TICK, HINTED = [""], ["answer (guest/requests.py)", "execute"]  # a call of such a turn has it
SENDS = ("C: socket.send", "sendto")  # a frame: what a turn that counts contains
Work = Callable[[list[str]], None]


class Turn(NamedTuple):
    """One turn: the calls up to the first frame, and all of them."""

    before: list[str]
    calls: list[str]


def chosen(turns: list[list[str]], signs: Sequence[str]) -> list[Turn]:
    """Return the turns in which a frame was sent, and a call contains one of ``signs``."""
    found = []
    for calls in turns:
        frames = [index for index, call in enumerate(calls) if call.startswith(SENDS)]
        if frames and any(sign in call for call in calls for sign in signs):
            found.append(Turn(calls[: frames[0] + 1], calls))
    return found


def system_turns(text: str) -> list[list[str]]:
    """Return the system calls of each turn, as strace wrote them."""
    turns: list[list[str]] = [[]]
    for line in text.splitlines():
        turns[-1].append(line.partition(" = ")[0])
        if re.match(r"epoll_wait\(.*, -?[1-9]\d*\) += ", line):  # one with a time-out: it waits
            turns.append([])
    return turns


def ticks(command: list[str]) -> None:
    """Let the agent send refreshes for a while."""
    options = ["--interval", f"{PACE}s", "--hint-port", "none"]
    with TinyLab() as network, spawned(network, [*command, *options]):
        time.sleep(STARTING + TURNS * PACE)


def hints(command: list[str]) -> None:
    """Send hints to the agent, as `garp-hint` writes them."""
    with TinyLab() as network, listening(network, False, agent=command) as port:
        time.sleep(STARTING)
        for number in range(TURNS):
            line = encode_request("burst", {**HINT, "sequence": number + 1}, f"hint-{number}")
            os.write(port, line)
            time.sleep(2 * PACE)  # its burst is over


def measured(
    work: Callable[[list[str]], None], signs: Sequence[str]
) -> tuple[list[Turn], list[Turn]]:
    """Return the turns of the interpreter, and those of the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "turns"
        # Another agent may serve the default socket.
        run = ["run", "--control-socket", f"{folder}/control.sock"]
        work([*PYTHON, PREPARE + PROFILED.format(output=str(output)) + RUN, *run])
        python = chosen(json.loads(output.read_text()), signs)
        # -D: the agent, not strace, is the process that the signal at the end reaches.
        strace = ["strace", "-D", "-o", str(output), "-s", "256"]
        work([*strace, *PYTHON, PREPARE + RUN, *run])
        while "+++ exited" not in output.read_text():
            time.sleep(0.1)
        return python, chosen(system_turns(output.read_text()), signs)


def names(turns: list[Turn]) -> str:
    """Return how often each call is made in a turn, the most frequent one first."""
    usual = min(turns, key=lambda turn: abs(len(turn.calls) - median(len(t.calls) for t in turns)))
    counts = Counter(usual.calls).most_common()
    return "\n".join(f"  {count:3}  {call}" for call, count in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--names", action="store_true", help="also print which calls they are")
    arguments = parser.parse_args()
    if reason := lab.why_not() or (None if shutil.which("strace") else "strace is not installed"):
        sys.exit(f"tick_profile: {reason}")
    print("| what | calls up to the frame | all calls |", "|---|---|---|", sep="\n")
    for work, title, signs in (
        (ticks, "tick", [""]),
        (hints, "hint", ["answer (guest/requests.py)", "execute"]),
    ):
        for kind, turns in zip(("Python and C functions", "system calls"), measured(work, signs)):
            before, calls = (median(map(len, each)) for each in zip(*turns))
            print(f"| {title}: {kind} | {before:g} | {calls:g} |", flush=True)
            if arguments.names:
                print(names(turns))


if __name__ == "__main__":
    main()
