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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from statistics import median

from bench import learning_lab
from bench.demo import moments
from bench.failover_methods import METHODS, OPEN_VSWITCH_METHODS, PLOTTED, XEN_METHODS, Method
from bench.fleet import DOCS, written
from bench.open_vswitch import OpenVswitchTestbed
from tests.vm import debian, fabric, images
from tests.vm.receiver import HangError, pause, wait_for
from tests.vm.testbed import BondTestbed, Testbed
from tests.vm.xen import XenTestbed

PAGE, PLOT = DOCS / "measurements.md", DOCS / "measurements-failover.svg"

FAILOVERS = 20
QUICK_FAILOVERS = 4
PING_INTERVAL = 0.005
LIMIT = 8.0  # seconds; a longer outage counts as endless
SETTLING = 0.3  # seconds after the last failover


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
    failovers = min(failovers, method.most)
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


def xen_versions(testbed: BondTestbed) -> str:
    """Return the versions of a Xen host and its guest as an item of a Markdown list."""
    xen = testbed.hypervisor.check("xl", "info", "xen_version").strip()
    dom0, guest = (
        machine.check("uname", "-r").strip() for machine in (testbed.hypervisor, testbed.guest)
    )
    return f"- Xen {xen}, Linux {dom0} in dom0, Linux {guest} in a PV guest, Debian bookworm"


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
    parser.add_argument("--xen", action="store_true", help="behind a Xen host")
    keys = [method.key for method in (*METHODS, *OPEN_VSWITCH_METHODS.values())]
    parser.add_argument("--only", choices=keys, action="append", help="these methods, only printed")
    given = parser.parse_args()
    if reason := images.missing_tool() or fabric.missing():
        sys.exit(f"bench-failover: {reason}")
    given.failovers = QUICK_FAILOVERS if given.quick else given.failovers
    given.miimon, miimon = given.miimon or 100, given.miimon
    results, lines = measure_all(given)
    print(table(results))
    lab_table = "" if given.only or given.xen else learning_lab.table()
    print(lab_table)
    if given.quick or given.only or miimon:
        return
    if given.xen:
        found = {"xen": table(results), "xen-versions": lines}
        PAGE.write_text(written(PAGE.read_text(), found))
    else:
        found = {"outages": table(results), "learning": lab_table, "versions": lines}
        PAGE.write_text(written(PAGE.read_text(), found))
        shown = [method.title for method in METHODS if method.key in PLOTTED]
        draw({title: results[title] for title in shown if title in results})


@contextmanager
def going_on(method: Method) -> Iterator[None]:
    """Print what ends a method, and go on without its row: the others take a quarter of an hour."""
    try:
        yield
    except (AssertionError, OSError) as error:
        print(f"\n{method.title}: no row: {error}", file=sys.stderr)


def measure_all(given: argparse.Namespace) -> tuple[dict[str, list[float | None]], str]:
    """Return the outages of the chosen methods by their titles, and the versions."""
    results, lines = {}, ""
    methods = XEN_METHODS if given.xen else METHODS
    chosen = [method for method in methods if not given.only or method.key in given.only]
    if chosen:
        testbed: BondTestbed
        testbed = (
            XenTestbed(miimon=given.miimon)
            if given.xen
            else Testbed(miimon=given.miimon, extras=True)
        )
        with testbed:
            for method in chosen:
                with going_on(method):
                    results[method.title] = measure(testbed, method, given.failovers)
            lines = xen_versions(testbed) if given.xen else versions(testbed)
    for detect, method in () if given.xen else OPEN_VSWITCH_METHODS.items():
        if not given.only or method.key in given.only:
            with going_on(method), OpenVswitchTestbed(miimon=given.miimon, detect=detect) as ovs:
                results[method.title] = measure(ovs, method, given.failovers)
    return results, lines


if __name__ == "__main__":
    main()
