"""`make bench-failover`: the outage after a failover, with real kernels and a real bond.

Two virtual machines: a hypervisor with an active-backup bond over two switches, and a
silent guest behind it (`tests.vm.hypervisor` has the picture).  One method after the
other runs in them; a host outside pings the guest every 5 ms while the active uplink
is cut at a random moment of the method's cycle.  Measured is the longest time between
two pings that were answered with lost ones in between: detection by the bond, the
announcement, and all that software emulation adds.  Writes docs/measurements.md and its plot.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, Optional

from bench.demo import moments
from tests.vm import fabric, images
from tests.vm.agent import Agent
from tests.vm.hypervisor import (
    GUEST_ADDRESS,
    GUEST_AGENT_PORT,
    GUEST_AGENT_RELAY,
    MONITOR,
    Site,
    Watcher,
)
from tests.vm.machine import stop_all
from tests.vm.pump import PUMP, TookTooLongError

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PLOT = DOCS / "measurements.md", DOCS / "measurements-failover.svg"

FAILOVERS = 20
QUICK_FAILOVERS = 4
PING_INTERVAL = 0.005
LIMIT = 8.0  # seconds: an outage that lasts longer counts as endless
SETTLING = 0.3

ARPING_LOOP = f"while true; do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep 5; done"
FIND_PORT = """
import glob
for path in glob.glob("/sys/class/virtio-ports/*/name"):
    with open(path) as file:
        if file.read().strip() == name:
            result = "/dev/" + path.split("/")[-2]
"""
TALK = "while True:\n    raw.send(frame)\n    time.sleep(0.01)\n"


class Method(NamedTuple):
    """Something that runs in the guest or in the hypervisor, or nothing."""

    key: str
    title: str
    cycle: float  # seconds between two of its announcements, about
    running: Callable[[Site], AbstractContextManager[None]]


@contextmanager
def nothing(site: Site) -> Iterator[None]:
    """A silent guest."""
    yield


@contextmanager
def arping_loop(site: Site) -> Iterator[None]:
    """What people put into /etc/rc.local."""
    process = site.guest.spawn("sh", "-c", ARPING_LOOP)
    yield
    process.kill()


@contextmanager
def announce_self(site: Site) -> Iterator[None]:
    """No agent: the hypervisor asks QEMU, QEMU asks the guest's kernel."""
    watcher = Watcher(site.hypervisor, "--announce-self", "--monitor", MONITOR)
    watcher.wait_for_guest()
    yield
    watcher.stop()


@contextmanager
def guest_exec(site: Site) -> Iterator[None]:
    """No agent of ours: the hypervisor asks qemu-ga to run arping."""
    port = site.guest.python(FIND_PORT, name=GUEST_AGENT_PORT)
    qemu_ga = site.guest.spawn("qemu-ga", "-m", "virtio-serial", "-p", port)
    command = ("python3", "-S", "/opt/garp/guest_bond_hook.py")
    hook = site.hypervisor.spawn(*command, GUEST_AGENT_RELAY, "eth0", GUEST_ADDRESS)
    PUMP.wait_for(lambda: "watching" in hook.output, "the hook", step=0.1)
    yield
    hook.kill()
    qemu_ga.kill()


@contextmanager
def agent(site: Site) -> Iterator[None]:
    """The agent on its own."""
    started = Agent(site.guest, interval="5s").ready()
    yield
    started.stop()


@contextmanager
def agent_with_hints(site: Site) -> Iterator[None]:
    """The agent, and `garp-hint watch` in the hypervisor."""
    started = Agent(site.guest, interval="5s").ready()
    watcher = Watcher(site.hypervisor)
    watcher.wait_for_guest()
    started.wait_until(lambda status: status["lease"], "the promise of hints")
    yield
    watcher.stop()
    started.stop()


@contextmanager
def talking(site: Site) -> Iterator[None]:
    """A guest that sends a frame every 10 ms anyway: what no method can be faster than."""
    site.guest.python("import threading, time\ntalking = True")
    loop = TALK.replace("True", "talking", 1).replace("\n", "\n    ")
    site.guest.python(f"def talk():\n    {loop}\nthreading.Thread(target=talk).start()")
    yield
    site.guest.python("talking = False")


METHODS = (
    Method("nothing", "nothing", 0.5, nothing),
    Method("arping", "arping loop, sleep 5 s", 6.0, arping_loop),
    Method("agent", "garp-agent, every 5 s", 5.0, agent),
    Method("announce-self", "no agent, QMP announce-self on failover", 0.5, announce_self),
    Method("guest-exec", "no agent, qemu-ga guest-exec arping on failover", 0.5, guest_exec),
    Method("hints", "garp-agent with hints (garp-hint watch)", 0.5, agent_with_hints),
    Method("talking", "for comparison: a guest that sends every 10 ms", 0.01, talking),
)


class Result(NamedTuple):
    """A method's outages in seconds; None for those that were longer than LIMIT."""

    method: Method
    outages: Sequence[Optional[float]]  # noqa: UP045 - evaluated by Python 3.9


class Prober:
    """Pings the guest from outside, all the time, in a thread."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._sent: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """No more pings."""
        self._stopping.set()
        self._thread.join()

    def wait_for_answer(self, sent_after: float, patience: float) -> None:
        """Returns when a ping that was sent after that moment has been answered."""
        PUMP.wait_for(
            lambda: any(self._sent[number] > sent_after for number in self._answered()),
            "an answer",
            patience,
        )

    def longest_gap(self, began: float) -> float:
        """The longest time since then between two answered pings."""
        moments = sorted(self._sent[number] for number in self._answered())
        gaps = [(after - before, after) for before, after in zip(moments, moments[1:])]
        return max(gap for gap, ended in gaps if ended >= began)

    def forget(self) -> None:
        """Forgets the past."""
        self._site.fabric.heard.clear()

    def _answered(self) -> list[int]:
        return [number for number in self._site.fabric.answered() if number in self._sent]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            self._sent[self._site.ping()] = now
            due = max(due + PING_INTERVAL, now)


def measure(site: Site, method: Method, failovers: int) -> Result:
    """As many failovers with this method."""
    outages = []
    with method.running(site):
        prober = Prober(site)
        try:
            for wait in moments(failovers, method.cycle):
                outages.append(one_failover(site, prober, wait))
                show(f"\r{method.title}: {len(outages)}/{failovers}")
        finally:
            prober.stop()
    show("\n")
    return Result(method, outages)


def one_failover(site: Site, prober: Prober, wait: float) -> float | None:
    """Cuts the active uplink; the outage, and everything as before."""
    site.guest_sends()
    prober.forget()
    prober.wait_for_answer(time.monotonic(), patience=30)
    time.sleep(SETTLING + wait)
    active, began = site.active, time.monotonic()
    site.cut(active)
    outage: float | None = None
    with contextlib.suppress(TookTooLongError):
        prober.wait_for_answer(time.monotonic(), patience=LIMIT)
        outage = prober.longest_gap(began)
    site.mend(active)
    return outage


def show(text: str) -> None:
    """Progress, at once."""
    print(text, end="", file=sys.stderr, flush=True)


# -- what is written -------------------------------------------------------------------------


def page(results: Sequence[Result], miimon: int, site: Site) -> str:
    """docs/measurements.md."""
    versions = "\n".join(f"- {line}" for line in described(site))
    return f"""# Measurements

The outage of a silent guest after a failover of its hypervisor's bond. `make bench-failover`
measures it and writes this page. The numbers are those of the machine named below, under software
emulation: read them side by side, not as what hardware would do.

{table(results)}

"-" is an outage that had not ended after {LIMIT:g} s, when it was ended by hand.

![Cumulative distributions of the outages]({PLOT.name})

## What is measured

A hypervisor with a real bond (active-backup, miimon {miimon} ms) over two switches that are joined
by a link, a bridge, and a guest behind it that has nothing to say. The active uplink is cut at a
random moment of the method's cycle; a host outside pings the guest every {PING_INTERVAL * 1000:g}
ms. The outage is the time between two answered pings with lost ones in between. It begins with
the cut, so that up to {miimon} ms of each are the bond's own detection: the last row shows how fast
it can be at all. One method after the other on the same machines, the cuts alternating between the
uplinks.

- *nothing*: the guest stays silent, and stays lost; unless an answer to an earlier ping was late
  enough to take the new way.
- *arping loop*: `while true; do arping -q -U -c1 -I eth0 ADDRESS; sleep 5; done` in the guest.
- *garp-agent, every 5 s*: the agent as it is installed, without hints.
- *announce-self*: nothing in the guest; `garp-hint watch --announce-self` in the hypervisor asks
  QEMU's monitor. It covers addresses which the guest's kernel has directly on a virtio card, as
  here, and no others.
- *guest-exec*: `qemu-ga` in the guest; a program in the hypervisor asks it to run `arping -U -c1`
  for the one address it was told. Distributions of the RHEL family block `guest-exec`.
- *garp-agent with hints*: `garp-hint watch` in the hypervisor hints the agent over the guest's
  virtio-serial port.
- *a guest that sends every 10 ms*: needs no help; its outage is what detection alone makes.

## Where

{versions}
"""


def table(results: Sequence[Result]) -> str:
    """Rows of Markdown, in milliseconds."""
    rows = [
        "| method | failovers | least | median | 90 % | most |",
        "|---|---|---|---|---|---|",
    ]
    for method, outages in results:
        ordered = sorted(value if value is not None else float("inf") for value in outages)
        ninetieth = ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
        shown = (ordered[0], median(ordered), ninetieth, ordered[-1])
        cells = " | ".join(map(milliseconds, shown))
        rows.append(f"| {method.title} | {len(ordered)} | {cells} |")
    return "\n".join(rows)


def milliseconds(seconds: float) -> str:
    """A whole number of them, or a dash for what never ended."""
    return "-" if seconds == float("inf") else f"{seconds * 1000:.0f} ms"


def described(site: Site) -> Iterator[str]:
    """The machine and the versions."""
    yield f"{cpu()}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    emulator = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    )
    yield f"{emulator.stdout.splitlines()[0]}, software emulation (TCG), one processor each"
    yield f"hypervisor and guest: Linux {site.guest.check('uname', '-r').strip()}, Debian bookworm"
    yield site.guest.check("arping", "-V").splitlines()[0]
    yield site.guest.check("python3", "-m", "garp_agent", "--version").strip().replace(",", "")


def cpu() -> str:
    """What /proc/cpuinfo calls the processor, and how many there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def main() -> None:
    """Measures, prints the table, and writes page and plot unless told otherwise."""
    given = arguments()
    if reason := images.missing_tool() or fabric.missing():
        sys.exit(f"bench-failover: {reason}")
    failovers = QUICK_FAILOVERS if given.quick else given.failovers
    chosen = [method for method in METHODS if not given.only or method.key in given.only]
    site = Site(miimon=given.miimon, extras=True)
    try:
        results = [measure(site, method, failovers) for method in chosen]
        print(table(results))
        if not (given.quick or given.only or given.print_only):
            PAGE.write_text(page(results, given.miimon, site))
            from bench import plot  # needs matplotlib, which the tests do not

            curves = {method.title: outages for method, outages in results}
            plot.outages(PLOT, "Outage after a failover of the bond", curves, LIMIT)
    finally:
        site.close()
        stop_all()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench-failover", description=__doc__)
    parser.add_argument("--failovers", type=int, default=FAILOVERS, help="of each method")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FAILOVERS}, only printed")
    parser.add_argument("--print-only", action="store_true", help="leave the page as it is")
    parser.add_argument("--miimon", type=int, default=100, help="milliseconds (default: 100)")
    keys = [method.key for method in METHODS]
    parser.add_argument("--only", choices=keys, action="append", help="these methods, printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
