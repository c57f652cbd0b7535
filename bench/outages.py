"""`make bench-outages`: outages with nothing, the arping loop and the agent, by situation.

    python -m bench.outages [--quick] [--page] [--only KEY]

A peer sends numbered datagrams to the address; a lost one is an outage (`bench.segment`).
Needs root; everything happens in network namespaces that it makes and removes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf
from pathlib import Path
from statistics import median
from typing import NamedTuple

from scapy.layers.l2 import ARP, Dot1Q, Ether

from bench import lab
from bench.demo import METHODS, Method, moments, start_method
from bench.fleet import written
from bench.lab import GUEST_ADDRESS, GUEST_MAC, Cut
from bench.performance import machine
from bench.prober import Prober
from bench.segment import RIVAL_MAC, Segment, answer_all, repeat, station
from tests.netns.agent import NEW_MAC, gratuitous, meanwhile, set_entry

PAGE = lab.ROOT / "docs/reliability.md"
REPETITIONS = 9
AT_ONCE = 10  # trials; they mostly sleep
LIMIT = 20.0  # seconds; a longer outage is not waited for
INTERVAL = 0.01  # seconds between two datagrams
WARM_UP = 5.0  # seconds; the bursts of the start, and what they cause, are over by then
STOPPED = 12.0  # seconds for which the process is stopped
SPLIT = 10.0  # seconds for which two stations have the address, and up to a hold-off more
HOLD_OFF = 2.0  # seconds between two probes of the agent for a withheld address
FORGED_MAC = "02:00:5e:00:53:99"  # of no station


class Trial:
    """One method in one situation, once.  ``phase``: 0 to 1, where in the method's cycle."""

    def __init__(self, made: Segment, method: Method, phase: float, files: Path) -> None:
        self.lab, self.method, self.phase, self.files = made, method, phase, files
        self.pid: int | None = None

    def start(self) -> None:
        with self.files.open("w") as stderr:
            process = start_method(self.lab, self.method, self.files, stderr)
        self.pid = process.pid if process else None

    def settle(self) -> None:
        """Start the method, and wait for a moment of its cycle after its bursts."""
        self.start()
        self.wait(WARM_UP)

    def wait(self, seconds: float) -> None:
        if self.pid:
            time.sleep(seconds + self.phase * self.method.cycle)

    def signal(self, number: int) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def until_reached(
        self, event: Callable[[], object], before: Callable[[], object] = lambda: None
    ) -> float:
        """Return the time lost from the event until the guest is reached; inf for over LIMIT."""
        with Prober(self.lab, INTERVAL) as prober:
            prober.wait_until_reachable(STOPPED)
            before()
            return reached(prober, event)

    def lost_by_owner(self, event: Callable[[], object]) -> float:
        """Return the owner's lost time within LIMIT of the event; inf if it goes on."""
        with Prober(self.lab, INTERVAL) as prober:
            time.sleep(0.5)  # with the loop, the owner may be unreachable already
            began = time.monotonic()
            event()
            time.sleep(LIMIT)
            now = time.monotonic()
            return inf if prober.outage(Cut(now, now), 0.5) is None else prober.lost(began)


def reached(prober: Prober, event: Callable[[], object]) -> float:
    began = time.monotonic()
    event()
    cut = Cut(began, time.monotonic())
    return inf if prober.outage(cut, LIMIT) is None else prober.lost(began)


# -- situations -------------------------------------------------------------------------


def failover(method: Method, phase: float, files: Path) -> float:
    with lab.FailoverLab() as made, files.open("w") as stderr, Prober(made, INTERVAL) as prober:
        if start_method(made, method, files, stderr):
            time.sleep(WARM_UP + phase * method.cycle)
        made.speak()
        prober.wait_until_reachable()
        return reached(prober, made.fail_over)


def forged_claim(trial: Trial) -> float:
    trial.settle()
    return trial.until_reached(lambda: trial.lab.claim(FORGED_MAC))


def wrong_entry(trial: Trial) -> float:
    """The peer has a wrong entry, and the guest has not heard why."""
    trial.settle()
    return trial.until_reached(lambda: set_entry(trial.lab, trial.lab.address, FORGED_MAC))


def split_brain(trial: Trial) -> float:
    trial.settle()

    def split() -> None:
        own(trial)
        time.sleep(SPLIT + trial.phase * HOLD_OFF)

    heal = f"address del {GUEST_ADDRESS}/24 dev eth0"
    return trial.until_reached(lambda: trial.lab.ip("rival", heal), before=split)


def proxy(trial: Trial) -> float:
    with station(trial.lab, answer_all):
        return forged_claim(trial)


def repeater(trial: Trial) -> float:
    with station(trial.lab, repeat):
        return wrong_entry(trial)


def former_mac(trial: Trial) -> float:
    trial.start()
    time.sleep(2.0 if trial.pid else 0.0)
    trial.lab.ip("guest", f"link set eth0 address {NEW_MAC}")
    set_entry(trial.lab, GUEST_ADDRESS, NEW_MAC)
    trial.wait(WARM_UP)
    return trial.until_reached(lambda: trial.lab.claim(GUEST_MAC))


def foreign_vlan(trial: Trial) -> float:
    claim = gratuitous(FORGED_MAC)
    tagged = Ether(src=claim.src, dst=claim.dst) / Dot1Q(vlan=7) / claim[ARP]

    def repeated() -> None:
        trial.lab.inject(tagged)
        time.sleep(0.5)

    with meanwhile(repeated):
        return wrong_entry(trial)


def stopped(trial: Trial) -> float:
    trial.settle()
    continuing = threading.Timer(STOPPED, trial.signal, [signal.SIGCONT])

    def event() -> None:
        set_entry(trial.lab, GUEST_ADDRESS, FORGED_MAC)

    def stop() -> None:
        trial.signal(signal.SIGSTOP)
        continuing.start()
        time.sleep(trial.phase * STOPPED)

    return trial.until_reached(event, before=stop)


def own(trial: Trial) -> None:
    """Let the rival take the address over, as its owner from now on."""
    trial.lab.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
    trial.lab.claim(RIVAL_MAC)


def started_stale(trial: Trial) -> float:
    own(trial)
    return trial.lost_by_owner(trial.start)


def replugged(trial: Trial) -> float:
    trial.settle()
    trial.lab.ip("switch", "link set guest down")
    own(trial)
    trial.wait(0.0)
    return trial.lost_by_owner(lambda: trial.lab.ip("switch", "link set guest up"))


def added_again(trial: Trial) -> float:
    trial.settle()
    own(trial)
    trial.wait(0.0)
    twice = (f"address {verb} {GUEST_ADDRESS}/24 dev eth0" for verb in ("del", "add"))
    return trial.lost_by_owner(lambda: trial.lab.ip("guest", *twice))


class Situation(NamedTuple):
    """One row of the table."""

    key: str
    title: str
    measure: Callable[[Trial], float] | None = None  # None: a failover, in a lab of its own
    receiver: str = "guest"
    ipv6: bool = False


SITUATIONS = (
    Situation("failover", "failover: a switch has the guest behind its old port"),
    Situation("forged", "one forged claim, no station has the address", forged_claim),
    Situation("split", "a rival has the address for 10 to 12 s: from then on", split_brain),
    Situation("proxy", "one forged claim, and a proxy answers every probe", proxy),
    Situation("repeater", "a repeater returns the guest's broadcasts; wrong entry", repeater),
    Situation("former", "a claim of the guest's former hardware address", former_mac),
    Situation("vlan", "claims from a foreign VLAN all the time; wrong entry", foreign_vlan),
    Situation("ipv6", "IPv6 address with `preferred_lft 0`; wrong entry", wrong_entry, ipv6=True),
    Situation("stopped", "its process is stopped for 12 s; wrong entry meanwhile", stopped),
    Situation(
        "started", "started while another has the address: the owner", started_stale, "rival"
    ),
    Situation("cable", "cable replugged, another has the address: the owner", replugged, "rival"),
    Situation("again", "address deleted and added again: the owner", added_again, "rival"),
)
WAYS = METHODS[:3]  # nothing, the loop, the agent


class Outage(NamedTuple):
    """One trial's result."""

    situation: Situation
    method: Method
    seconds: float


def measured(situation: Situation, method: Method, phase: float, files: Path) -> Outage:
    """Measure one trial in a lab of its own."""
    if situation.measure is None:
        return Outage(situation, method, failover(method, phase, files))
    with Segment(situation.receiver, ipv6=situation.ipv6) as made:
        trial = Trial(made, method, phase, files)
        return Outage(situation, method, situation.measure(trial))


def trials(chosen: list[Situation], repetitions: int) -> Iterator[tuple[Situation, Method, float]]:
    """Return all trials; the loop and the agent have the same random phases."""
    for situation in chosen:
        drawn = moments(repetitions, 1.0)
        for method in WAYS:
            phases = drawn if method.shell or method.agent else drawn[:1]  # nothing has no cycle
            if not (situation.ipv6 and method.shell):  # arping has no IPv6
                yield from ((situation, method, phase) for phase in phases)


def cell(outages: list[float]) -> str:
    if not outages:
        return "as with nothing: arping has no IPv6"
    middle, most = (
        f"over {LIMIT:g} s" if each == inf else f"{each:.1f} s"
        for each in (median(outages), max(outages))
    )
    return middle if middle == most else f"{middle}, at most {most}"


def table(found: list[Outage], chosen: list[Situation]) -> str:
    """Return the outages as a Markdown table."""
    rows = ["| situation | nothing | arping loop | garp-agent |", "|---|---|---|---|"]
    for situation in chosen:
        mine = [each for each in found if each.situation.key == situation.key]
        cells = (cell([it.seconds for it in mine if it.method.key == way.key]) for way in WAYS)
        rows.append(f"| {situation.title} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"Measured on: {machine()}."])


def run(chosen: list[Situation], repetitions: int) -> list[Outage]:
    """Measure all trials, a few at once; show each on stderr."""
    found = []
    scratch = tempfile.TemporaryDirectory(prefix="garp-outages-")
    with scratch as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(measured, *trial, Path(folder, f"{number}.log"))
            for number, trial in enumerate(trials(chosen, repetitions))
        ]
        for future in futures:
            found.append(outage := future.result())
            what = f"{outage.situation.key}, {outage.method.title}"
            print(f"{what}: {outage.seconds:.2f} s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="each once")
    parser.add_argument("--page", action="store_true", help=f"write them into {PAGE.name}")
    keys = [each.key for each in SITUATIONS]
    parser.add_argument("--only", choices=keys, action="append", help="these, only printed")
    given = parser.parse_args()
    if reason := lab.why_not() or lab.why_no_arping():
        sys.exit(f"outages: {reason}")
    chosen = [each for each in SITUATIONS if not given.only or each.key in given.only]
    text = table(run(chosen, 1 if given.quick else REPETITIONS), chosen)
    print(text)
    if given.page and not given.only:
        PAGE.write_text(written(PAGE.read_text(), {"outages": text}))


if __name__ == "__main__":
    main()
