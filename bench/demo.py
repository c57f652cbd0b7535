"""`make demo`: measures how long a guest is unreachable after a failover, by method.

Each method has labs of its own (`bench.lab`).  All run at once, because they mostly sleep.  Each
cut comes at a random moment of the method's cycle.  An outage is the time between the last probe
that arrived before the cut and the first that arrived after it.  The demo uses only interfaces that
it made, and removes them, also on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import platform
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import FrameType
from typing import NamedTuple

import click

from bench import lab
from bench.lab import GUEST_ADDRESS, FailoverLab, Lab, LabError
from bench.prober import Prober

LIMIT = 12.0  # seconds; a longer outage is not waited for
FAILOVERS = 20
QUICK_FAILOVERS = 4
PROBE_INTERVAL = 0.001  # seconds
WARM_UP = 1.5  # seconds; the burst at a method's start is over by then
SETTLING = 0.1  # seconds

ARPING_LOOP = f"while true; do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep 5; done"


class Method(NamedTuple):
    """What runs in the guest."""

    key: str
    title: str
    cycle: float  # seconds between two of its announcements, about
    labs: int  # how many at once; methods with long outages need more
    shell: str = ""
    agent: str = ""  # the interval of the agent
    hinted: bool = False  # the host hints after the failover, as garp-hint does


METHODS = (
    Method("nothing", "nothing", 0.5, 5),
    Method("arping", "arping loop, sleep 5 s", 6.0, 4, shell=ARPING_LOOP),
    Method("agent-5s", "garp-agent, every 5 s", 5.0, 4, agent="5s"),
    Method("agent-1s", "garp-agent, every 1 s", 1.0, 2, agent="1s"),
    Method("agent-hint", "garp-agent, hint from the host", 0.5, 2, agent="5s", hinted=True),
)


class Result(NamedTuple):
    """One failover, or a lab that failed; without an outage it was longer than LIMIT."""

    method: str
    outage: float | None = None
    failure: str = ""


class Demo:
    """Runs the methods in labs, one thread each; results come through a queue."""

    def __init__(self, methods: Sequence[Method], failovers: int, scratch: Path) -> None:
        self.scratch = scratch
        self.events: queue.Queue[Result] = queue.Queue()
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self._work, args=(method, number, waits))
            for method in methods
            for number, waits in enumerate(dealt(moments(failovers, method.cycle), method.labs))
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End everything at once and remove the labs."""
        self.stopping.set()
        with lab.undisturbed():
            lab.close_all()
            for thread in self.threads:
                if thread.ident is not None:
                    thread.join()

    def _work(self, method: Method, number: int, waits: Sequence[float]) -> None:
        try:
            with FailoverLab() as made:
                self._measure(made, method, self.scratch / f"{method.key}-{number}", waits)
        except Exception as error:
            if not self.stopping.is_set():  # then the closed lab raises anything in its thread
                self.events.put(Result(method.key, failure=str(error) or repr(error)))

    def _measure(
        self, made: FailoverLab, method: Method, files: Path, waits: Sequence[float]
    ) -> None:
        with (
            socket.socket(socket.AF_UNIX) as listener,
            Prober(made, PROBE_INTERVAL) as prober,
            files.open("w") as stderr,
        ):
            listener.bind(str(files.with_suffix(".port")))
            listener.listen()
            listener.settimeout(30.0)
            guest = start_method(made, method, files, stderr)
            host = listener.accept()[0] if method.hinted else None
            self.stopping.wait(WARM_UP)
            for wait in waits:
                made.speak()
                prober.wait_until_reachable()
                self.stopping.wait(SETTLING + wait)
                if guest and guest.poll() is not None:
                    raise LabError(f"it ended: {last_line(files)}")
                cut = made.fail_over()
                if host:
                    host.sendall(b"BURST\n")  # the hint in the form that a shell would use
                self.events.put(Result(method.key, prober.outage(cut, LIMIT)))
                made.restore()
            if host:
                host.close()


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


def start_method(
    made: Lab, method: Method, files: Path, stderr: object
) -> subprocess.Popen[str] | None:
    if method.shell:
        return made.start("guest", ["sh", "-c", method.shell], stderr=stderr)
    if not method.agent:
        return None
    # Not this machine's configuration and control socket.
    empty = files.with_suffix(".yaml")
    empty.touch()
    own = ["-c", str(empty), "--control-socket", str(files.with_suffix(".sock"))]
    own += ["--hint-port", str(files.with_suffix(".port")) if method.hinted else "none"]
    return made.start_agent("guest", *own, "--interval", method.agent, stderr=stderr)


def last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n")
    return ([line for line in lines if line.strip()] or ["no output"])[-1]


# -- output -----------------------------------------------------------------------------


def seconds(value: float) -> str:
    if value > LIMIT:
        return f"> {LIMIT:g} s"
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def outages(results: Sequence[Result], method: Method) -> list[float]:
    mine = [it.outage for it in results if it.method == method.key and not it.failure]
    return sorted(float("inf") if outage is None else outage for outage in mine)


def table(results: Sequence[Result], methods: Sequence[Method]) -> str:
    width = max(len("in the guest"), *(len(method.title) for method in methods))
    lines = [f"  {'in the guest':<{width}}  failovers        min     median        max"]
    lines.append("  " + "-" * (len(lines[0]) - 2))
    for method in methods:
        mine = outages(results, method)
        figures = map(seconds, (mine[0], median(mine), mine[-1])) if mine else "---"
        cells = (str(len(mine)), *figures)
        lines.append(f"  {method.title:<{width}}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def as_json(results: Sequence[Result], methods: Sequence[Method]) -> str:
    """Return the figures; null is an outage longer than the limit."""

    def known(outage: float) -> float | None:
        return None if outage > LIMIT else round(outage, 6)

    rows: list[dict[str, object]] = []
    for method in methods:
        mine = outages(results, method)
        rows.append({"method": method.key, "title": method.title, "failovers": len(mine)})
        rows[-1]["outages"] = list(map(known, mine))
        rows[-1]["median"] = known(median(mine or [float("inf")]))
    machine = {"kernel": platform.release(), "python": platform.python_version()}
    figures = {"limit": LIMIT, "probe_interval": PROBE_INTERVAL, **machine, "methods": rows}
    return json.dumps(figures, indent=2)


# -- the command ------------------------------------------------------------------------


def follow(demo: Demo, total: int) -> list[Result]:
    """Show the progress until everything is measured."""
    results: list[Result] = []
    with click.progressbar(length=total, label="failovers", show_eta=False) as bar:
        while any(thread.is_alive() for thread in demo.threads) or not demo.events.empty():
            with contextlib.suppress(queue.Empty):
                results.append(demo.events.get(timeout=0.25))
                bar.update(not results[-1].failure)
    return results


def run(methods: Sequence[Method], failovers: int, file: Path | None) -> int:
    """Measure and print; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="garp-demo-") as scratch:
        demo = Demo(methods, failovers, Path(scratch))
        try:
            demo.start()
            results = follow(demo, failovers * len(methods))
        finally:
            demo.stop()
    print("How long the guest was unreachable after a failover of its hypervisor's uplinks:\n")
    print(table(results, methods))
    failed = dict.fromkeys(each for each in results if each.failure)
    for each in failed:
        print(f"\ndemo: {each.method} failed: {each.failure}", file=sys.stderr)
    if file:
        file.write_text(as_json(results, methods) + "\n")
    return 1 if failed else 0


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@click.command()
@click.option("--failovers", type=click.IntRange(1), metavar="N", help="With each method.")
@click.option("--quick", is_flag=True, help=f"{QUICK_FAILOVERS} failovers with each method.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([method.key for method in METHODS]),
    help="Only this method; may be given more than once.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the figures there, too.",
)
def main(failovers: int | None, quick: bool, only: tuple[str, ...], file: Path | None) -> None:
    """Measure how long a guest is unreachable after a failover, with each method."""
    count = failovers or (QUICK_FAILOVERS if quick else FAILOVERS)
    # A shell ignores SIGINT for background processes: set the handler anyway.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        if reason := lab.why_not():
            sys.exit(f"demo: {reason}")
        if file:
            file.open("a").close()  # an error now, not after a minute
        if lab.remove_leftovers():
            print("Removed what a killed run had left.")
        methods = [each for each in METHODS if not only or each.key in only]
        if no_arping := lab.why_no_arping():
            print(f"Left out the arping loop: it {no_arping}.")
            methods = [method for method in methods if method.key != "arping"]
        print(f"Private labs of network namespaces; {count} failovers with each of:")
        print("".join(f"  {method.key:<9} {method.title}\n" for method in methods))
        sys.exit(run(methods, count, file))
    except KeyboardInterrupt:
        print("demo: interrupted; everything is removed", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
