"""`make bench-peers`: the agent beside what else announces addresses, in one run.

    python -m bench.peers [--quick] [--page]

keepalived refreshes its gratuitous ARP (`vrrp_garp_master_refresh`); the arping loop is that of the
demo; Open vSwitch runs on the hypervisor in place of the agent in the guest, in user space, and
sends learning packets when its bond fails over.  Needs root; a program that is not installed is
left out.  Outages are those of the demo's namespaces.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import queue
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import demo, lab
from bench.agent import AGENT, child_seconds, cpu_seconds, spawned, status_field, watched
from bench.fleet import figure, table, written
from bench.lab import GUEST_ADDRESS, FailoverLab, Lab, TinyLab
from bench.performance import PAGE, machine
from bench.prober import Prober
from bench.segment import SO_NO_CHECK

VIRTUAL = "192.0.2.100"  # keepalived removes its address at its start: not the guest's own
EVERY = 5  # seconds between two announcements of each program
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
KEEPALIVED = f"""\
global_defs {{
    vrrp_garp_master_refresh {EVERY}
    vrrp_garp_master_refresh_repeat 1
}}
vrrp_instance bench {{
    state MASTER
    interface eth0
    virtual_router_id 51
    priority 255
    advert_int 1
    virtual_ipaddress {{
        {VIRTUAL}/24
    }}
}}
"""
VSWITCHD = """
cd {folder}
export OVS_RUNDIR={folder}
ovsdb-tool create conf.db {schema}
ovsdb-server conf.db --remote=punix:db.sock --unixctl=db.ctl &
while ! [ -S db.sock ]; do sleep 0.05; done
ovs-vsctl --db=unix:db.sock --no-wait init
exec ovs-vswitchd unix:db.sock --unixctl=switch.ctl
"""
VSCTL = (
    "add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 guest "
    "-- add-bond br0 bond0 uplink-a uplink-b bond_mode=active-backup"
)


class Effort(NamedTuple):
    """How much is measured."""

    runs: int = 5  # for the first frame
    settled: float = 65.0  # seconds; until then the agent also sends probes
    seconds: float = 8.0 * EVERY
    failovers: int = 20


QUICK = Effort(1, 15.0, 2.0 * EVERY, 2)


class Cost(NamedTuple):
    """What one program costs; None where it does not apply."""

    minute: float  # ms of processor time in a minute
    announcement: float | None  # us
    memory: float  # MB, of all its processes
    first: float | None  # ms


class OpenVSwitchLab(FailoverLab):
    """The lab of the demo, with Open vSwitch and its bond on the hypervisor."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        super().__init__()

    def bridge(self, role: str, *ports: str) -> None:
        """Start Open vSwitch in place of the hypervisor's bridge."""
        if role != "hypervisor":
            super().bridge(role, *ports)
            return
        script = VSWITCHD.format(folder=self.folder, schema=SCHEMA)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.switch = self.start(role, ["sh", "-c", script], **quiet)
        database = Path(self.folder, "switch.ctl")
        end = time.monotonic() + 20.0
        while not database.exists():
            if time.monotonic() > end:
                raise lab.LabError("ovs-vswitchd did not start")
            time.sleep(0.05)
        vsctl = ["ovs-vsctl", f"--db=unix:{self.folder}/db.sock", "--timeout=20"]
        self.run(role, [*vsctl, *VSCTL.split()])

    def fail_over(self) -> lab.Cut:
        """Cut the active uplink; the bond switches by itself."""
        shown = ["ovs-appctl", "-t", f"{self.folder}/switch.ctl", "bond/show", "bond0"]
        bond = self.run("hypervisor", shown).stdout
        self.active = re.findall(r"^active.*\(uplink-([ab])\)$", bond, re.MULTILINE)[0]
        began = time.monotonic()
        self.ip("hypervisor", f"link set uplink-{self.active} down")
        self._cut = self.active
        return lab.Cut(began, time.monotonic())

    def restore(self) -> None:
        if self._cut:
            self.ip("hypervisor", f"link set uplink-{self._cut} up")
            self.wait_until_up("hypervisor", f"switch-{self._cut}")
            self._cut = None

    def probe_sockets(self) -> tuple[socket.socket, socket.socket]:
        # The kernel leaves checksums to the card, and a veth has none.
        sender, receiver = super().probe_sockets()
        sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        return sender, receiver


# -- processes --------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def resident(pid: int) -> float:
    """Return the resident memory of a process and its descendants in MB."""
    return sum(status_field(each, "VmRSS") for each in family(pid)) / 1024


def running_cost(where: Lab, pid: int, effort: Effort, first: float | None) -> Cost:
    """Measure a program that is running in the guest."""
    with watched(where) as wire:
        time.sleep(effort.settled)
        before = {each: cpu_seconds(each) for each in family(pid)}
        wire.drain()
        time.sleep(effort.seconds)
        cpu = sum(cpu_seconds(each) - at for each, at in before.items())
        frames = wire.drain()
        each = cpu / frames * 1e6 if frames else None
        return Cost(cpu / effort.seconds * 6e4, each, resident(pid), first)


def first_frame(where: Lab, command: list[str], runs: int, address: str) -> float:
    """Return the median milliseconds from exec to the first frame about an address."""
    times = []
    with watched(where) as wire:
        for _ in range(runs):
            wire.drain()
            begun = time.time()
            with spawned(where, command):
                times.append(wire.when(address, 20.0) - begun)
    return median(times) * 1e3


def command_cost(command: list[str], effort: Effort, address: str = GUEST_ADDRESS) -> Cost:
    """Measure a daemon of the guest."""
    with TinyLab() as where:
        first = first_frame(where, command, effort.runs, address)
        with spawned(where, command) as process:
            return running_cost(where, process.pid, effort, first)


def arping_cost(effort: Effort) -> Cost:
    """Measure the loop; its processes end, so the kernel's sum of their times counts."""
    arping = ["arping", "-q", "-U", "-c1", "-I", "eth0", GUEST_ADDRESS]
    rounds = round(effort.seconds / (EVERY + 1))
    loop = f"for i in $(seq {rounds}); do {' '.join(arping)}; sleep {EVERY}; done"
    with TinyLab() as where:
        first = first_frame(where, arping, effort.runs, GUEST_ADDRESS)
        before, begun = child_seconds(), time.monotonic()
        with where.entered("guest"):
            process = subprocess.Popen(["sh", "-c", loop])
        time.sleep(0.5)
        memory = resident(process.pid)  # while arping runs
        process.wait()
        cpu, seconds = child_seconds() - before, time.monotonic() - begun
        return Cost(cpu / seconds * 6e4, cpu / rounds * 1e6, memory, first)


def switch_cost(seconds: float) -> Cost:
    """Measure Open vSwitch with a bond and a silent guest."""
    with tempfile.TemporaryDirectory() as folder, OpenVSwitchLab(folder) as where:
        time.sleep(5.0)
        pids = family(where.switch.pid)
        before = {each: cpu_seconds(each) for each in pids}
        time.sleep(seconds)
        cpu = sum(cpu_seconds(each) - at for each, at in before.items())
        return Cost(cpu / seconds * 6e4, None, resident(where.switch.pid), None)


# -- outages ----------------------------------------------------------------------------


def guest_outages(methods: Sequence[demo.Method], failovers: int) -> dict[str, list[float]]:
    """Return the outages of the demo with these methods, in seconds, by key."""
    results: list[demo.Result] = []
    with tempfile.TemporaryDirectory(prefix="garp-peers-") as scratch:
        running = demo.Demo(methods, failovers, Path(scratch))
        try:
            running.start()
            while any(each.is_alive() for each in running.threads) or not running.events.empty():
                with contextlib.suppress(queue.Empty):
                    results.append(running.events.get(timeout=0.25))
        finally:
            for thread in running.threads:
                thread.join()
    for failed in {each for each in results if each.failure}:
        print(f"peers: {failed.method} failed: {failed.failure}", file=sys.stderr)
    return {each.key: demo.outages(results, each) for each in methods}


def switch_outages(failovers: int) -> list[float]:
    """Return the outages with Open vSwitch on the hypervisor, in seconds."""
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenVSwitchLab(folder) as where,
        Prober(where, demo.PROBE_INTERVAL) as prober,
    ):
        for _ in range(failovers):
            where.speak()
            prober.wait_until_reachable()
            time.sleep(0.5)
            outage = prober.outage(where.fail_over(), demo.LIMIT)
            found.append(float("inf") if outage is None else outage)
            where.restore()
    return found


# -- the table --------------------------------------------------------------------------


def row(name: str, cost: Cost, outages: Sequence[float]) -> tuple[str, ...]:
    """Return one row; a dash is what does not apply."""

    def shown(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{figure(value)} {unit}"

    return (
        name,
        shown(cost.minute, "ms"),
        shown(cost.announcement, "us"),
        shown(cost.memory, "MB"),
        shown(cost.first, "ms"),
        demo.seconds(median(outages)) if outages else "-",
    )


def rows(quick: bool) -> Iterator[tuple[str, ...]]:
    compileall.compile_dir(lab.ROOT / "agent", quiet=1)
    effort = QUICK if quick else Effort()
    with tempfile.TemporaryDirectory() as scratch:
        config, pids = Path(scratch, "keepalived.conf"), f"{scratch}/$$"
        config.write_text(KEEPALIVED)
        keepalived = f"exec keepalived -n -P -f {config} -p {pids}.pid -r {pids}.vrrp"
        methods = [method for method in demo.METHODS if method.key not in ("nothing", "agent-1s")]
        if shutil.which("keepalived"):
            title = f"keepalived, refresh every {EVERY} s"
            methods.append(demo.Method("keepalived", title, 1.0, 4, shell=keepalived))
        outages = guest_outages(methods, effort.failovers)
        agent = [*AGENT, "--interval", f"{EVERY}s"]
        measures: dict[str, Callable[[], Cost]] = {
            "arping": lambda: arping_cost(effort),
            "agent-5s": lambda: command_cost(agent, effort),
            "keepalived": lambda: command_cost(["sh", "-c", keepalived], effort, VIRTUAL),
        }
        costs = {key: measure() for key, measure in measures.items() if key in outages}
        costs["agent-hint"] = costs["agent-5s"]
        for method in methods:
            yield row(method.title, costs[method.key], outages[method.key])
    if shutil.which("ovs-vswitchd"):
        title = "Open vSwitch with a bond, on the hypervisor"
        yield row(title, switch_cost(effort.seconds), switch_outages(effort.failovers))


def versions() -> str:
    """Return the versions of what was measured."""
    found = [machine()]
    for command in (["keepalived", "--version"], ["ovs-vswitchd", "--version"], ["arping", "-V"]):
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found.append((done.stdout + done.stderr).splitlines()[0])
    return "; ".join(found)


def main() -> None:
    """Measure, print the table, and write it into the page with --page."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--page", action="store_true", help=f"write it into {PAGE.name}")
    given = parser.parse_args()
    if reason := lab.why_not() or lab.why_no_arping():
        sys.exit(f"bench-peers: {reason}")
    heads = ("CPU in a minute", "CPU per announcement", "memory", "first frame", "outage, median")
    found = []
    for each in rows(given.quick):
        found.append(each)
        print(each, flush=True)
    text = f"{table(('what', *heads), found)}\n\nMeasured on: {versions()}."
    print(text)
    if given.page:
        PAGE.write_text(written(PAGE.read_text(), {"peers": text}))


if __name__ == "__main__":
    main()
