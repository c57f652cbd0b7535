"""`make demo`: how long a guest is unreachable after a failover, by what runs in it.

Each method gets labs of its own (`bench.lab`), all of them at once: they mostly sleep.
Every cut comes at a random moment of the method's cycle.  Measured is the time between
the last probe that arrived before the cut and the first that arrived after it.
Touches no interface that it did not make, and removes those, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import NamedTuple, Optional

from bench import lab
from bench.lab import GUEST_ADDRESS, FailoverLab, LabError

LIMIT = 12.0
FAILOVERS = 20
QUICK_FAILOVERS = 4
PROBE_INTERVAL = 0.001
# After its start a method sends what it sends at first; only then its cycle counts.
WARM_UP = 1.5
SETTLING = 0.1
PLAIN_PROGRESS_STEP = 10.0

ARPING_LOOP = f"while true; do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep 5; done"


class Method(NamedTuple):
    """Something that runs in the guest, or nothing."""

    key: str
    title: str
    cycle: float  # seconds between two of its announcements, about
    labs: int  # how many at once: a long outage needs more of them
    shell: str = ""
    agent: Optional[tuple[str, ...]] = None  # noqa: UP045 - evaluated by Python 3.9
    hinted: bool = False  # the host hints when its uplink has failed over, as garp-hint does


METHODS = (
    Method("nothing", "nothing", 0.5, 5),
    Method("arping", "arping loop, sleep 5 s", 6.0, 4, shell=ARPING_LOOP),
    Method("agent-5s", "garp-agent, every 5 s", 5.0, 4, agent=("--interval", "5s")),
    Method("agent-1s", "garp-agent, every 1 s", 1.0, 2, agent=("--interval", "1s")),
    Method("agent-hint", "garp-agent, hint from the host", 0.5, 2, agent=(), hinted=True),
)


class Result(NamedTuple):
    """One failover; None is an outage longer than LIMIT."""

    method: str
    outage: Optional[float]  # noqa: UP045 - evaluated by Python 3.9


class Failed(NamedTuple):
    """A lab that failed."""

    method: str
    reason: str


class Demo:
    """Runs the methods in labs, one thread each; results come through a queue."""

    def __init__(self, methods: Sequence[Method], failovers: int, scratch: Path) -> None:
        self.methods = methods
        self.failovers = failovers
        self.scratch = scratch
        self.events: queue.Queue[Result | Failed | None] = queue.Queue()
        self.stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(method, number, waits))
            for method in methods
            for number, waits in enumerate(dealt(moments(failovers, method.cycle), method.labs))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End everything at once and remove the labs."""
        self.stopping.set()
        with lab.undisturbed():
            lab.close_all()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()

    def _work(self, method: Method, number: int, waits: Sequence[float]) -> None:
        try:
            with FailoverLab() as made:
                self._measure(made, method, number, waits)
        except Exception as error:
            # When the demo stops, the closed lab raises anything in its thread.
            if not self.stopping.is_set():
                self.events.put(Failed(method.key, str(error) or repr(error)))

    def _measure(
        self, made: FailoverLab, method: Method, number: int, waits: Sequence[float]
    ) -> None:
        complaints = self.scratch / f"{method.key}-{number}"
        with Host(complaints.with_suffix(".port")) as host, made.prober(PROBE_INTERVAL) as prober:
            guest = start_method(made, method, complaints, host)
            self.stopping.wait(WARM_UP)
            for wait in waits:
                made.speak()
                prober.wait_until_reachable()
                self.stopping.wait(SETTLING + wait)
                if guest and guest.poll() is not None:
                    raise LabError(f"it ended: {last_line(complaints)}")
                cut = made.fail_over()
                if method.hinted:
                    host.hint()
                outage = prober.outage(cut, LIMIT)
                self.events.put(Result(method.key, outage))
                made.restore()


def moments(count: int, cycle: float) -> list[float]:
    """Return random moments of a cycle, one in each of `count` equal parts, in random order.

    Independent moments could all be early in the cycle and make the method look better.
    """
    drawn = [(part + random.random()) * cycle / count for part in range(count)]
    random.shuffle(drawn)
    return drawn


def dealt(moments: Sequence[float], hands: int) -> list[Sequence[float]]:
    """Split the moments evenly; no part is empty."""
    return [moments[hand::hands] for hand in range(min(hands, len(moments)))]


class Host:
    """The hypervisor's end of a guest's hint port."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._guest: socket.socket | None = None

    def __enter__(self) -> Host:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(5.0)
        return self

    def hint(self) -> None:
        """Send the hint in the form that a shell would use."""
        if self._guest is None:
            self._guest = self._listener.accept()[0]
        self._guest.sendall(b"BURST\n")

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()
        if self._guest is not None:
            self._guest.close()


def start_method(
    made: FailoverLab, method: Method, complaints: Path, host: Host
) -> subprocess.Popen[str] | None:
    with complaints.open("w") as stderr:
        if method.shell:
            return made.start("guest", ["sh", "-c", method.shell], stderr=stderr)
        if method.agent is not None:
            # Not this machine's configuration and control socket.
            empty = complaints.with_suffix(".yaml")
            empty.touch()
            own = ["-c", str(empty), "--control-socket", str(complaints.with_suffix(".sock"))]
            own += ["--hint-port", str(host.path) if method.hinted else "none"]
            return made.start_agent("guest", *own, *method.agent, stderr=stderr)
    return None


def last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "no output")


# -- output -----------------------------------------------------------------------------


class Progress:
    """Progress: one line that is rewritten on a terminal, else a line every few seconds."""

    def __init__(self, demo: Demo) -> None:
        self.methods = demo.methods
        self.goal = demo.failovers
        self.began = time.monotonic()
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._next = 0.0

    def show(self, results: Sequence[Result]) -> None:
        now = time.monotonic() - self.began
        if not self.live and now < self._next:
            return
        self._next = now + PLAIN_PROGRESS_STEP
        counts = " · ".join(
            f"{method.key} {sum(each.method == method.key for each in results)}/{self.goal}"
            for method in self.methods
        )
        self._write(f"{now:4.0f} s  failovers: {counts}")

    def _write(self, text: str) -> None:
        if self.live:
            columns = shutil.get_terminal_size().columns
            print(f"\r{text[: columns - 1]}\x1b[K", end="", flush=True)
        else:
            print(text, flush=True)

    def end(self) -> None:
        if self.live:
            print("\r\x1b[K", end="", flush=True)


def seconds(value: float) -> str:
    if value > LIMIT:
        return f"> {LIMIT:g} s"
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def outages(results: Sequence[Result], method: Method) -> list[float]:
    mine = [each.outage for each in results if each.method == method.key]
    return sorted(float("inf") if outage is None else outage for outage in mine)


def table(results: Sequence[Result], methods: Sequence[Method]) -> str:
    rows = [("in the guest", "failovers", "min", "median", "max")]
    for method in methods:
        mine = outages(results, method)
        figures = (min(mine), median(mine), max(mine)) if mine else ()
        texts = [seconds(figure) for figure in figures] or ["-", "-", "-"]
        rows.append((method.title, str(len(mine)), texts[0], texts[1], texts[2]))
    width = max(len(row[0]) for row in rows)
    lines = [f"  {row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows]
    return "\n".join([lines[0], "  " + "-" * (len(lines[0]) - 2), *lines[1:]])


def as_json(results: Sequence[Result], demo: Demo) -> str:
    def entry(method: Method) -> dict[str, object]:
        mine = outages(results, method)
        return {
            "method": method.key,
            "title": method.title,
            "failovers": len(mine),
            # null: longer than the limit
            "outages": [None if outage > LIMIT else round(outage, 6) for outage in mine],
            "median": None if not mine or median(mine) > LIMIT else round(median(mine), 6),
        }

    return json.dumps(
        {
            "limit": LIMIT,
            "probe_interval": PROBE_INTERVAL,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "methods": [entry(method) for method in demo.methods],
        },
        indent=2,
    )


# -- the command ------------------------------------------------------------------------


def follow(demo: Demo) -> tuple[list[Result], list[Failed]]:
    """Show the progress until everything is measured."""
    results: list[Result] = []
    failed: list[Failed] = []
    progress = Progress(demo)
    try:
        while demo.running() or not demo.events.empty():
            progress.show(results)
            try:
                event = demo.events.get(timeout=0.25)
            except queue.Empty:
                continue
            if isinstance(event, Result):
                results.append(event)
            elif event:
                failed.append(event)
    finally:
        progress.end()
    return results, failed


def run(methods: Sequence[Method], failovers: int, file: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="garp-demo-") as scratch:
        demo = Demo(methods, failovers, Path(scratch))
        try:
            demo.start()
            results, failed = follow(demo)
        finally:
            demo.stop()
    print("How long the guest was unreachable after a failover of its hypervisor's uplinks:\n")
    print(table(results, methods))
    for each in dict.fromkeys(failed):
        print(f"\ndemo: {each.method} failed: {each.reason}", file=sys.stderr)
    if file:
        file.write_text(as_json(results, demo) + "\n")
    return 1 if failed else 0


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--failovers", type=int, metavar="N", help=f"of each ({FAILOVERS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FAILOVERS} of each")
    parser.add_argument(
        "--only",
        action="append",
        choices=[method.key for method in METHODS],
        help="this method; may be given again",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    chosen = parser.parse_args(arguments)
    if chosen.failovers is None:
        chosen.failovers = QUICK_FAILOVERS if chosen.quick else FAILOVERS
    if chosen.failovers < 1:
        parser.error(f"argument --failovers: {chosen.failovers} given, at least 1 is needed")
    if chosen.json:
        try:
            chosen.json.open("a").close()
        except OSError as error:
            parser.error(f"argument --json: {error}")
    return chosen


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    # A shell ignores SIGINT for background processes: set the handler anyway.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        reason = lab.why_not()
        if reason:
            print(f"demo: {reason}", file=sys.stderr)
            return 1
        if lab.remove_leftovers():
            print("Removed what a killed run had left.")
        methods = [each for each in METHODS if not chosen.only or each.key in chosen.only]
        if no_arping := lab.why_no_arping():
            print(f"Left out the arping loop: it {no_arping}.")
            methods = [method for method in methods if method.key != "arping"]
        print(f"Private labs of network namespaces; {chosen.failovers} failovers with each of:")
        print("".join(f"  {method.key:<9} {method.title}\n" for method in methods))
        return run(methods, chosen.failovers, chosen.json)
    except KeyboardInterrupt:
        print("demo: interrupted; everything is removed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
