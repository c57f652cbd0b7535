"""`make bench-late-paths`: paths that work later than their carrier.

In each case the guest's way out has carrier before it carries frames, or fails over while no
watcher runs.  A reply to a hint proves nothing then, and a lease that is still in force would make
the outage longer than without a watcher.  The outage begins when the path works.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import NamedTuple

from bench.demo import moments
from bench.failover_methods import arping_loop
from bench.failover_vm import PAGE, Prober
from bench.fleet import written
from bench.open_vswitch import OpenVswitchTestbed
from tests.vm import fabric, images
from tests.vm.agent import Agent
from tests.vm.receiver import pause, wait_for
from tests.vm.testbed import INTERFACES, HintWatcher, Testbed

WAYS = LOOP, ALONE, WATCHED = "arping loop", "agent alone", "with garp-hint watch"
SAMPLES, QUICK_SAMPLES = 2, 1
INTERVAL = 5.0  # seconds between refreshes without a lease
LATE = 12.0  # seconds until the switch's port forwards
LIMIT = 150.0  # seconds; only a broken program takes longer
RESTART = 0.1  # seconds until systemd restarts a service, by default
OPTIONS = ("--lease", "6", "--lease-after", "60", "--timeout", "1")  # the defaults
PRIMARY = "/sys/class/net/bond0/bonding/primary"
OTHER_BOND = """
link add bond1 up type bond mode active-backup miimon 100
link add port0 type veth peer name peer0
link set port0 master bond1
link set peer0 up
link set port0 up
"""


class Site:
    """The machines, the pings, and the watcher if there is one."""

    def __init__(self, testbed: Testbed, prober: Prober, watcher: HintWatcher | None) -> None:
        self.testbed, self.prober, self.watcher = testbed, prober, watcher

    def outage(self, works: float) -> float:
        """Return the seconds from that moment to the first ping that was answered after it."""
        answered = self.prober.answered(works, LIMIT)
        return min(each for each in answered if each > works) - works


def primary_returns(site: Site) -> float:
    """The bond goes back to its primary port, whose switch port does not forward yet."""
    testbed, first = site.testbed, site.testbed.active
    testbed.fail_over()
    testbed.wait_until_reached()
    testbed.hypervisor.write(PRIMARY, INTERFACES[first])
    testbed.mend(first, forwards=False)
    wait_for(lambda: testbed.active == first, "the way back", step=0.02)
    pause(LATE)
    testbed.fabric.forward(first, True)
    outage = site.outage(time.monotonic())
    testbed.hypervisor.write(PRIMARY, "\n")
    return outage


def host_bridge_listens(site: Site) -> float:
    """The hypervisor's bridge lets its uplink listen and learn, after the carrier came back."""
    testbed, first = site.testbed, site.testbed.active
    testbed.hypervisor.ip("link set br0 type bridge stp_state 1 forward_delay 1500")
    for uplink in INTERFACES:
        testbed.cut(uplink)
    wait_for(lambda: testbed.port_state == "disabled", "the port disabled", step=0.02)
    for uplink in INTERFACES:
        if uplink != first:  # through the switch that has the guest behind the other one
            testbed.mend(uplink)
    wait_for(lambda: testbed.port_state == "forwarding", "the port forwarding", step=0.02)
    outage = site.outage(time.monotonic())
    testbed.hypervisor.ip("link set br0 type bridge stp_state 0")
    testbed.mend(first)
    return outage


def watcher_crashed(site: Site) -> float:
    """The bond fails over while systemd restarts a watcher that has crashed."""
    testbed, first = site.testbed, site.testbed.active
    if site.watcher is not None:
        site.watcher.crash()
    testbed.fail_over()
    failed = time.monotonic()
    if site.watcher is not None:
        pause(RESTART)
        site.watcher = HintWatcher(testbed.hypervisor, *OPTIONS)
    outage = site.outage(failed)
    if site.watcher is not None:
        site.watcher.__enter__()  # not before: asking for its status slows its start
    testbed.mend(first)
    return outage


def watcher_dead(site: Site) -> float:
    """The bond fails over as soon as the watcher was killed; none is started until the repair."""
    testbed, first = site.testbed, site.testbed.active
    if site.watcher is not None:
        site.watcher.crash()
    testbed.fail_over()
    outage = site.outage(time.monotonic())
    testbed.mend(first)
    if site.watcher is not None:
        site.watcher = HintWatcher(testbed.hypervisor, *OPTIONS).__enter__()
    return outage


def path_not_followed(site: Site) -> float:
    """The bond of Open vSwitch fails over, which the watcher does not follow."""
    first = site.testbed.active
    site.testbed.fail_over()
    outage = site.outage(time.monotonic())
    site.testbed.mend(first)
    return outage


def bond_testbed() -> Testbed:
    """Return machines whose bond the watcher follows."""
    return Testbed(miimon=100)


def open_vswitch_testbed() -> Testbed:
    """Return machines with the guest behind Open vSwitch, and another bond to follow."""
    testbed = OpenVswitchTestbed(miimon=100, detect="carrier")
    testbed.hypervisor.insert("bonding", "veth")
    testbed.hypervisor.ip(OTHER_BOND)
    return testbed


class Case(NamedTuple):
    """One row of the table."""

    key: str
    title: str
    outage: Callable[[Site], float]
    leases: bool = True  # the guest has a lease when the fault comes
    testbed: Callable[[], Testbed] = bond_testbed


CASES = (
    Case("primary", f"switch port forwards {LATE:g} s after its carrier", primary_returns),
    Case("stp", "host bridge with STP: uplink listens and learns for 30 s", host_bridge_listens),
    Case("crash", "failover while a crashed watcher is restarted", watcher_crashed),
    Case("dead", "failover right after the watcher was killed for good", watcher_dead),
    Case(
        "unfollowed",
        "guest on Open vSwitch, the watcher follows another bond",
        path_not_followed,
        False,
        open_vswitch_testbed,
    ),
)


@contextmanager
def prepared(testbed: Testbed, way: str) -> Iterator[tuple[Site, Agent | None]]:
    """Run the pings, and what announces the guest; return the agent if there is one."""
    with ExitStack() as stack:
        agent = watcher = None
        if way == LOOP:
            stack.enter_context(arping_loop(testbed))
        else:
            agent = stack.enter_context(Agent(testbed.guest, interval=f"{INTERVAL:g}s"))
        prober = Prober(testbed)
        stack.callback(prober.stop)
        if way == WATCHED:
            watcher = HintWatcher(testbed.hypervisor, *OPTIONS).__enter__()
        site = Site(testbed, prober, watcher)
        yield site, agent
        if site.watcher is not None:
            site.watcher.__exit__()


def measure(testbed: Testbed, case: Case, way: str, samples: int) -> list[float]:
    """Return the outages of one case, with leases in force before each if there is a watcher."""
    outages = []
    with prepared(testbed, way) as (site, agent):
        for wait in moments(samples, INTERVAL):
            testbed.guest_sends()
            if agent is not None and way == WATCHED and case.leases:
                agent.wait_until(lambda status: status["lease"], "the lease")
            pause(wait)
            outages.append(case.outage(site))
            print(f"{case.title}, {way}: {outages[-1]:.1f} s", file=sys.stderr)
    return outages


def table(found: list[tuple[str, list[list[float]]]]) -> str:
    """Return the outages as a Markdown table, shortest first."""
    rows = [f"| case | {' | '.join(WAYS)} |", "|---" * (1 + len(WAYS)) + "|"]
    for title, columns in found:
        shown = (", ".join(f"{each:.1f}" for each in sorted(outages)) for outages in columns)
        rows.append(f"| {title} | {' | '.join(f'{each} s' for each in shown)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print the table, and write it to the page unless told otherwise."""
    parser = argparse.ArgumentParser(prog="bench-late-paths", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SAMPLES}, only printed")
    keys = [case.key for case in CASES]
    parser.add_argument("--only", choices=keys, action="append", help="these, only printed")
    given = parser.parse_args()
    if reason := images.missing_tool() or fabric.missing():
        sys.exit(f"bench-late-paths: {reason}")
    samples = QUICK_SAMPLES if given.quick else SAMPLES
    chosen = [case for case in CASES if not given.only or case.key in given.only]
    found = []
    for make, cases in groupby(chosen, lambda case: case.testbed):
        with make() as testbed:
            for case in cases:
                columns = [measure(testbed, case, way, samples) for way in WAYS]
                found.append((case.title, columns))
    print(table(found))
    if not (given.quick or given.only):
        PAGE.write_text(written(PAGE.read_text(), {"late": table(found)}))


if __name__ == "__main__":
    main()
