"""`make bench-failover`: the outage after a failover, with real kernels and a real bond.

Two virtual machines: a hypervisor with an active-backup bond over two switches, and a silent
guest behind it (`tests.vm.testbed`). One method after the other runs in them. A host outside
pings the guest every 5 ms while the active uplink is cut at a random moment of the method's
cycle. The outage is the longest time between two answered pings: detection by the bond, the
announcement, and all that software emulation adds. Writes the tables of docs/measurements.md
and its plot.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from statistics import median
from typing import NamedTuple

from bench.demo import moments
from bench.fleet import DOCS, written
from tests.vm import debian, fabric, images
from tests.vm.agent import Agent
from tests.vm.fabric import GUEST_ADDRESS
from tests.vm.receiver import HangError, pause, wait_for
from tests.vm.testbed import (
    GUEST_AGENT_PORT,
    GUEST_AGENT_RELAY,
    MONITOR,
    BondTestbed,
    HintWatcher,
    Testbed,
)
from tests.vm.xen import XenTestbed

PAGE, PLOT = DOCS / "measurements.md", DOCS / "measurements-failover.svg"

FAILOVERS = 20
QUICK_FAILOVERS = 4
PING_INTERVAL = 0.005
LIMIT = 8.0  # seconds; a longer outage counts as endless
SETTLING = 0.3  # seconds after the last failover

ARPING_LOOP = f"while true; do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep 5; done"
FIND_PORT = """
node=$(grep -lx {name} /sys/class/virtio-ports/*/name)
node=${{node%/name}}
port=/dev/${{node##*/}}
"""
QEMU_GA = "exec qemu-ga -m virtio-serial -p $port"
# What an operator without this project can do: have qemu-ga run arping at each failover.
FAILOVER_HOOK = f"""
exec 3>$port
ip monitor link | while read -r line; do
    case $line in *"event BONDING FAILOVER"*)
        echo '{{"execute": "guest-exec", "arguments": {{"path": "/usr/bin/arping",
            "arg": ["-U", "-c1", "-I", "eth0", "{GUEST_ADDRESS}"]}}}}' >&3
    esac
done
"""
TALK = """
import threading, time
talking = True
def talk():
    while talking:
        raw.send(frame)
        time.sleep(0.01)
threading.Thread(target=talk).start()
"""


class Method(NamedTuple):
    """Something that runs in the guest or in the hypervisor, or nothing."""

    key: str
    title: str
    cycle: float  # approximate seconds between two of its announcements
    running: Callable[[BondTestbed], AbstractContextManager[object]]


@contextmanager
def arping_loop(testbed: BondTestbed) -> Iterator[None]:
    """What operators put into /etc/rc.local."""
    process = testbed.guest.spawn("sh", "-c", ARPING_LOOP)
    yield
    process.kill()


def announce_self(testbed: BondTestbed) -> HintWatcher:
    """No agent: the hypervisor asks QEMU, and QEMU asks the guest's kernel."""
    options = ("--announce-self", "--monitor", MONITOR)
    return HintWatcher(testbed.hypervisor, *options, timeout="1")


def rewriting(testbed: BondTestbed) -> HintWatcher:
    """No agent: dom0 of a Xen host asks the guest's kernel."""
    return HintWatcher(testbed.hypervisor, "--announce-self", timeout="1")


@contextmanager
def learning_frames(testbed: BondTestbed) -> Iterator[None]:
    """No agent: the hypervisor sends a RARP with the guest's MAC on the bond."""
    with HintWatcher(testbed.hypervisor, "--learn", timeout="1") as watcher:
        wait_for(lambda: watcher.status()["learning"]["remembered"], "the guest's MAC", step=0.2)
        yield


@contextmanager
def guest_exec(testbed: BondTestbed) -> Iterator[None]:
    """No agent of ours: the hypervisor asks qemu-ga to run arping."""
    guest_port = FIND_PORT.format(name=GUEST_AGENT_PORT)
    relay = FIND_PORT.format(name=GUEST_AGENT_RELAY)
    qemu_ga = testbed.guest.spawn("sh", "-c", guest_port + QEMU_GA)
    hook = testbed.hypervisor.spawn("setsid", "/bin/dash", "-c", relay + FAILOVER_HOOK)
    yield
    testbed.hypervisor.shell(f"kill -- -{hook.pid}")
    qemu_ga.kill()


@contextmanager
def agent_with_hints(testbed: BondTestbed) -> Iterator[None]:
    """The agent, and `garp-hint watch` in the hypervisor."""
    with Agent(testbed.guest, interval="5s") as started, HintWatcher(testbed.hypervisor):
        started.wait_until(lambda status: status["lease"], "the lease")
        yield


@contextmanager
def talking(testbed: BondTestbed) -> Iterator[None]:
    """A guest that sends a frame every 10 ms anyway: no method can be faster."""
    testbed.guest.python(TALK)
    yield
    testbed.guest.python("talking = False")


METHODS = (
    Method("nothing", "nothing", 0.5, lambda _: nullcontext()),
    Method("arping", "arping loop, sleep 5 s", 6.0, arping_loop),
    Method("agent", "garp-agent, every 5 s", 5.0, lambda vm: Agent(vm.guest, interval="5s")),
    Method("announce-self", "no agent, QMP announce-self on failover", 0.5, announce_self),
    Method("learning", "no agent, garp-hint watch --learn", 0.5, learning_frames),
    Method("guest-exec", "no agent, qemu-ga guest-exec arping on failover", 0.5, guest_exec),
    Method("hints", "garp-agent with hints (garp-hint watch)", 0.5, agent_with_hints),
    Method("talking", "for comparison: a guest that sends every 10 ms", 0.01, talking),
)
XEN_METHODS = tuple(
    Method("announce-self", "no agent, states of its cards rewritten on failover", 0.5, rewriting)
    if method.key == "announce-self"
    else method
    for method in METHODS
    if method.key != "guest-exec"
)


class Prober:
    """Pings the guest from outside, in a thread."""

    def __init__(self, testbed: BondTestbed) -> None:
        self._testbed = testbed
        self._sent: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Send no more pings."""
        self._stopping.set()
        self._thread.join()

    def answered(self, sent_after: float, timeout: float) -> list[float]:
        """Return when the answered pings were sent, once one was sent after that moment."""

        def look() -> list[float]:
            answered = [self._sent[n] for n in self._testbed.fabric.answered if n in self._sent]
            return answered if max(answered, default=0.0) > sent_after else []

        wait_for(look, "an answer", timeout)
        return sorted(look())

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            self._sent[self._testbed.fabric.ping()] = now
            due = max(due + PING_INTERVAL, now)


def measure(testbed: BondTestbed, method: Method, failovers: int) -> list[float | None]:
    """Return the outages of so many failovers in seconds; None for those longer than LIMIT."""
    outages: list[float | None] = []
    with method.running(testbed), ExitStack() as stack:
        prober = Prober(testbed)
        stack.callback(prober.stop)
        for wait in moments(failovers, method.cycle):
            outages.append(one_failover(testbed, prober, wait))
            print(f"\r{method.title}: {len(outages)}/{failovers}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return outages


def one_failover(testbed: BondTestbed, prober: Prober, wait: float) -> float | None:
    """Cut the active uplink; return the outage once the uplink is connected again."""
    testbed.guest_sends()
    prober.answered(time.monotonic(), timeout=30)
    pause(SETTLING + wait)
    active, began = testbed.active, time.monotonic()
    testbed.cut(active)
    outage: float | None = None
    with suppress(HangError):
        answered = prober.answered(time.monotonic(), timeout=LIMIT)
        outage = max(b - a for a, b in zip(answered, answered[1:]) if b > began)
    testbed.mend(active)
    return outage


def table(results: dict[str, list[float | None]]) -> str:
    """Return the outages of each method as a Markdown table."""
    rows = ["| method | failovers | least | median | 90 % | most |", "|---|---|---|---|---|---|"]
    for title, outages in results.items():
        ordered = sorted(float("inf") if value is None else value for value in outages)
        ninetieth = ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
        shown = map(milliseconds, (ordered[0], median(ordered), ninetieth, ordered[-1]))
        rows.append(f"| {title} | {len(ordered)} | {' | '.join(shown)} |")
    return "\n".join(rows)


def milliseconds(seconds: float) -> str:
    """Format an outage; a dash is one that did not end."""
    return "-" if seconds == float("inf") else f"{seconds * 1000:.0f} ms"


def versions(testbed: BondTestbed) -> str:
    """Return the machine and the versions as a Markdown list."""
    cpu = debian.run("sed", "-n", "s/^model name.*: //p", "/proc/cpuinfo").splitlines()[0]
    emulator = debian.run("qemu-system-x86_64", "--version").splitlines()[0]
    kernel = testbed.guest.check("uname", "-r").strip()
    lines = (
        f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}",
        f"{emulator}, software emulation (TCG), one processor each",
        f"hypervisor and guest: Linux {kernel}, Debian bookworm",
        testbed.guest.check("arping", "-V").splitlines()[0],
        testbed.guest.check("python3", "-m", "garp_agent", "--version").strip().replace(",", ""),
    )
    return "\n".join(f"- {line}" for line in lines)


def draw(results: dict[str, list[float | None]]) -> None:
    """Draw a dot for each outage, in a row for each method."""
    from bench.plot import draw_rows  # needs matplotlib, which the tests do not

    draw_rows(PLOT, "Outage after a failover of the bond, one dot each", results, LIMIT)


def main() -> None:
    """Measure, print the table, and write page and plot unless told otherwise."""
    parser = argparse.ArgumentParser(prog="bench-failover", description=__doc__)
    parser.add_argument("--failovers", type=int, default=FAILOVERS, help="of each method")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FAILOVERS}, only printed")
    parser.add_argument("--miimon", type=int, metavar="MS", help="other than 100; only printed")
    parser.add_argument("--xen", action="store_true", help="behind a Xen host; only printed")
    keys = [method.key for method in METHODS]
    parser.add_argument("--only", choices=keys, action="append", help="these methods, only printed")
    given = parser.parse_args()
    if reason := images.missing_tool() or fabric.missing():
        sys.exit(f"bench-failover: {reason}")
    failovers = QUICK_FAILOVERS if given.quick else given.failovers
    methods = XEN_METHODS if given.xen else METHODS
    chosen = [method for method in methods if not given.only or method.key in given.only]
    miimon = given.miimon or 100
    with XenTestbed(miimon=miimon) if given.xen else Testbed(miimon=miimon, extras=True) as testbed:
        results = {method.title: measure(testbed, method, failovers) for method in chosen}
        print(table(results))
        if not (given.quick or given.only or given.miimon or given.xen):
            found = {"outages": table(results), "versions": versions(testbed)}
            PAGE.write_text(written(PAGE.read_text(), found))
            draw(results)


if __name__ == "__main__":
    main()
