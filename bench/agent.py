"""Measures what the agent costs and how soon it sends, each figure beside its peer.

Run by `bench.performance`.  Needs root; everything happens in network namespaces that it makes
and removes.  Times of frames are the kernel's receive timestamps at the other end of a veth pair.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.lab import GUEST_ADDRESS, ROOT, Lab, TinyLab

SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
SO_RCVBUFFORCE = 33
ETH_P_ARP = 0x0806
MANY_LINKS = 2000
PLAIN_LISTENER = "Python: read, send()"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPATH": str(ROOT / "agent"),
}
PYTHON = [sys.executable, "-c"]
ASLEEP = "import time; time.sleep(60)"
LEAST = """
import select, socket
waiting, link = select.epoll(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
link.bind(("eth0", 0))
while True:
    waiting.poll(1.2)
    link.send(b"\\xff" * 6 + bytes(54))
"""
LISTENER_MAC = "02:00:5e:00:53:99"
LISTENER = f"""
import select, socket
events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
events.bind((0, 1 << 4))  # RTNLGRP_IPV4_IFADDR
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
link.bind(("eth0", 0))
head = bytes.fromhex("ffffffffffff{LISTENER_MAC.replace(":", "")}08060001080006040001") + bytes(6)
while True:
    link.send(head + events.recv(4096)[28:32] + bytes(28))
"""
# As the script of the Debian package does (contrib/debian/bin/garp-agent).
PACKAGED = f"""
import sys
sys.path.insert(0, {str(ROOT / "agent")!r})
sys.path.append({sysconfig.get_path("purelib")!r})
from garp_agent.__main__ import main
main()
"""
AGENT = [sys.executable, "-ISc", PACKAGED, "run"]


class Figure(NamedTuple):
    """One measured value and its peer."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    bound: str  # what was asked for, in words

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.peer else float("inf")


# -- the wire ---------------------------------------------------------------------------


class Wire:
    """Frames at the peer's end of a link, with the kernel's timestamps."""

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.packet_socket("peer", "eth0", ETH_P_ARP)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)  # all of a long run

    def drain(self) -> int:
        """Discard what has arrived; return the number of frames."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(2048, socket.MSG_DONTWAIT)
                count += 1
        return count

    def when(self, address: str = GUEST_ADDRESS, patience: float = 5.0) -> float:
        """Return when the next announcement of, or probe for, an address arrived (wall clock)."""
        return next(iter(self.whens(address, 1, patience).values()))

    def whens(self, address: str, senders: int, patience: float = 5.0) -> dict[str, float]:
        """Return the same for the first ``senders`` senders, by hardware address."""
        wanted = socket.inet_aton(address)
        found: dict[str, float] = {}
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            frame, ancillary, _, _ = self._socket.recvmsg(2048, 64)
            # A start begins with a probe: sender 0.0.0.0, target our address.
            if wanted in (frame[28:32], frame[28:32] == bytes(4) and frame[38:42]):
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                found.setdefault(frame[6:12].hex(":"), seconds + nanoseconds / 1e9)
                if len(found) == senders:
                    return found
        raise TimeoutError(f"no announcement of {address} by {senders} within {patience} s")

    def close(self) -> None:
        self._socket.close()


def watched(lab: Lab) -> contextlib.closing[Wire]:
    return contextlib.closing(Wire(lab))


@contextlib.contextmanager
def spawned(
    lab: Lab,
    command: list[str],
    stdin: int = subprocess.DEVNULL,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in the guest's namespace, entered before the fork: only exec is timed."""
    with lab.entered("guest"):
        process = subprocess.Popen(command, env=environment, stdin=stdin, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def configured(lab: Lab, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent with this configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        with spawned(lab, [*AGENT, "-c", file.name]) as process:
            yield process


class Program(NamedTuple):
    """How the agent is started, and the bare interpreter that it is compared with."""

    command: list[str]
    python: tuple[str, ...] = (sys.executable,)
    environment: Mapping[str, str] = ENVIRONMENT

    def started(self, lab: Lab) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        return spawned(lab, self.command, environment=self.environment)


AGENT_HERE = Program(AGENT)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process in seconds (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def status_field(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"\n{name}:")[2].split()[0])


# -- the figures ------------------------------------------------------------------------


def cpu_per_announcement(lab: Lab, rounds: int, settling: float) -> Iterator[Figure]:
    """Measure agent, a minimal Python process and the loop side by side, with one address.

    arping takes 1 s for each call, so the pace is a round every 1.2 s.  ``settling``: seconds from
    the start.  In the first minute each refresh begins with a probe.
    """
    loop = f"for i in $(seq {rounds}); do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep .2; done"
    settings = "interval: 1200ms\njitter: 0%\n"
    with configured(lab, settings) as agent, spawned(lab, [*PYTHON, LEAST]) as least:
        time.sleep(settling)
        before = {each.pid: (cpu_seconds(each.pid), wakes(each.pid)) for each in (agent, least)}
        arping = child_seconds()
        with lab.entered("guest"):
            subprocess.run(["sh", "-c", loop], check=True, stdin=subprocess.DEVNULL)
        arping = (child_seconds() - arping) / rounds
        spent = [
            (cpu_seconds(pid) - cpu, wakes(pid) - woken) for pid, (cpu, woken) in before.items()
        ]
    ours, floor = (cpu / ticks for cpu, ticks in spent)
    name, unit = "CPU per announcement", "us"
    yield Figure(name, unit, ours * 1e6, arping * 1e6, "arping loop", "at most 1/50")
    yield Figure(name, unit, ours * 1e6, floor * 1e6, "Python: wait, send()", "the floor")
    woken = (float(spent[0][1]), float(spent[1][1]))
    yield Figure("wake-ups", "", *woken, "Python: wait, send()", "equal, within the edges")


def child_seconds() -> float:
    """Return the processor time of all children that have been waited for."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def wakes(pid: int) -> int:
    return status_field(pid, "voluntary_ctxt_switches")


def resident(lab: Lab, program: Program = AGENT_HERE) -> Figure:
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(spawned(lab, [*program.python, "-c", ASLEEP]))
        wire = stack.enter_context(watched(lab))
        agent = stack.enter_context(program.started(lab))
        wire.when()
        time.sleep(1.5)
        ours, peer = (status_field(each.pid, "VmRSS") / 1024 for each in (agent, bare))
    return Figure("resident memory", "MB", ours, peer, "python", "at most 1.25")


def first_frame(lab: Lab, runs: int, program: Program = AGENT_HERE) -> Figure:
    ours, peer = [], []
    with watched(lab) as wire:
        for _ in range(runs):
            wire.drain()
            begun = time.time()
            with program.started(lab):
                ours.append(wire.when() - begun)
            begun = time.time()
            with spawned(lab, [*program.python, "-c", "pass"]) as bare:
                bare.wait()
                peer.append(time.time() - begun)
    medians = (median(ours) * 1e3, median(peer) * 1e3)
    return Figure("exec to first frame", "ms", *medians, "python -c pass", "at most 2")


def added_address(lab: Lab, runs: int) -> tuple[float, float]:
    """Return the median milliseconds from adding an address to its first announcement.

    First the agent's, then that of a minimal Python process that runs at the same time.
    """
    ours: list[float] = []
    floor: list[float] = []
    with watched(lab) as wire, spawned(lab, [*PYTHON, LISTENER]):
        time.sleep(1.0)
        for number in range(runs):
            address = f"198.51.100.{number + 1}"
            change = add_address_message(lab, address)
            with lab.open_socket("guest", socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
                wire.drain()
                begun = time.time()
                netlink.send(change)
                whens = wire.whens(address, 2)
            floor.append(whens.pop(LISTENER_MAC) - begun)
            ours.append(*(when - begun for when in whens.values()))
            time.sleep(0.3)  # so that the rate limit delays no frame
    return median(ours) * 1e3, median(floor) * 1e3


def add_address_message(lab: Lab, address: str) -> bytes:
    with lab.entered("guest"):
        ifindex = socket.if_nametoindex("eth0")
    packed = socket.inet_aton(address)
    body = struct.pack("=BBBBi", socket.AF_INET, 24, 0, 0, ifindex)
    body += b"".join(struct.pack("=HH4s", 8, kind, packed) for kind in (1, 2))  # ADDRESS, LOCAL
    return struct.pack("=IHHII", 16 + len(body), 20, 0x601, 1, 0) + body  # RTM_NEWADDR


def ordinary_latency(lab: Lab, runs: int) -> Figure:
    with spawned(lab, AGENT), watched(lab) as wire:
        wire.when()
        ours, floor = added_address(lab, runs)
    return Figure("address added to frame", "ms", ours, floor, PLAIN_LISTENER, "under 10 ms")


def many_links(lab: Lab) -> Iterator[Figure]:
    """Measure the inventory of 2,000 links with two addresses each, and one more address."""
    names = [f"{end}{n}" for n in range(MANY_LINKS // 2) for end in "ab"]
    addresses = [(f"10.{n >> 8}.{n & 255}", name) for n, name in enumerate(names)]
    lab.ip("guest", *(f"link add {a} type veth peer name b{a[1:]}" for a in names[::2]))
    lab.ip("guest", *(f"address add {net}.1/32 dev {name}" for net, name in addresses))
    lab.ip("guest", *(f"address add {net}.2/32 dev {name}" for net, name in addresses))
    lab.ip("guest", *(f"link set {name} up" for name in names))
    with lab.entered("guest"):
        inventory = median(timed(INVENTORY) for _ in range(5))
        netifaces = median(timed(NETIFACES) for _ in range(3))
    with configured(lab, "interval: 270s\ninterval_with_lease: 270s\n"):
        time.sleep(12.0)  # until the bursts of 2,000 links are over
        ours, floor = added_address(lab, 10)
    name, peer = f"inventory of {MANY_LINKS} links", f"netifaces, first {NETIFACES_NAMES} links"
    yield Figure(name, "s", inventory, netifaces, peer, "under 1 s")
    name = "address added among them"
    yield Figure(name, "ms", ours, floor, PLAIN_LISTENER, "under 50 ms")


NETIFACES_NAMES = 100
INVENTORY = """
import select, time
from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.kernel import GUEST
from garp_agent.runtime.netlink import Netlink
netlink, inventory = Netlink(3600.0, GUEST), Inventory()
begun = time.monotonic()
events = netlink.reconcile(begun)
while not inventory.complete:
    for event in events:
        inventory.apply(event)
    select.select([netlink], [], [], 0.1)
    events = netlink.read(begun)
print(time.monotonic() - begun, len(inventory.links))
"""
NETIFACES = f"""
import time, netifaces
begun = time.monotonic()
for name in netifaces.interfaces()[:{NETIFACES_NAMES}]:
    netifaces.ifaddresses(name)
print(time.monotonic() - begun)
"""


def timed(program: str) -> float:
    command = [*PYTHON, program]
    return float(subprocess.check_output(command, env=ENVIRONMENT, text=True).split()[0])


# -- the report -------------------------------------------------------------------------


def repeated(times: int, step: Callable[[Lab], Figure]) -> Figure:
    """Measure several times, each time in a new lab; return the medians."""
    figures = []
    for _ in range(times):
        with TinyLab() as lab:
            figures.append(step(lab))
    ours, peer = (median(values) for values in zip(*((each.ours, each.peer) for each in figures)))
    return figures[0]._replace(ours=ours, peer=peer)


def measure(quick: bool) -> Iterator[Figure]:
    compileall.compile_dir(ROOT / "agent", quiet=1)
    times, runs = (1, 5) if quick else (3, 21)
    with TinyLab() as lab:
        yield from cpu_per_announcement(lab, 8 if quick else 40, 3.0 if quick else 65.0)
    yield repeated(times, resident)
    yield repeated(1, lambda lab: first_frame(lab, runs))
    yield repeated(1, lambda lab: ordinary_latency(lab, runs))
    with TinyLab() as lab:
        yield from many_links(lab)
