"""Measures the watcher on a host with 1,000 guest ports, 60 VLANs and 60 bridges.

Run by `bench.performance`.  The links are real, in a namespace; the guests are Unix sockets that
`bench.hints` serves.  The kernel sends the messages: the bench changes the queue length of links,
which concerns no guest, or their carrier and place, which can.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import hints, lab
from bench.agent import ASLEEP, ENVIRONMENT, SO_RCVBUFFORCE, Figure, cpu_seconds, status_field
from bench.lab import ROOT
from garp_agent.runtime import client
from garp_agent.wire import rtnetlink

TAPS, VLANS = 1000, 60  # and as many bridges as VLANs
BATCH = 50  # changes sent at once
PAUSE = 0.02  # seconds between two batches: the socket's buffer holds what they cause
ASKED = "20,000 /s"
FIRST_CONTACTS = 10.0  # seconds until the watcher has met all guests
IFLA_TXQLEN = 13
IFF_UP = 1
_LINK = struct.Struct("=BxHiII")
RECEIVER = """
import select, socket
events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
events.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
events.bind((0, 1))
while True:
    select.select([events], [], [])
    while True:
        try:
            events.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
"""


class Host(lab.Lab):
    """An uplink with VLANs, a bridge on each VLAN, and the guests' taps in turn in the bridges."""

    roles = ("host", "network")

    def __init__(self, taps: int = TAPS, vlans: int = VLANS) -> None:
        self.taps = [f"tap{number}" for number in range(taps)]
        self.vlans = [f"up0.{number + 2}" for number in range(vlans)]
        self.bridges = [f"br{number + 2}" for number in range(vlans)]
        super().__init__()

    def build(self) -> None:
        self.wire(("host", "up0", "network", "up0"))
        self.ip("network", "link set up0 up")
        pairs = list(zip(self.vlans, self.bridges))
        kind = "type vlan id" if self._has_vlans() else "type macvlan mode bridge"
        self.ip(
            "host",
            "link set up0 up",
            *(f"link add link up0 name {vlan} {kind} {_id(vlan, kind)}" for vlan, _ in pairs),
            *(f"link add {bridge} type bridge" for bridge in self.bridges),
            *(f"link set {vlan} master {bridge} up" for vlan, bridge in pairs),
            *(f"link set {bridge} up" for bridge in self.bridges),
            *(f"tuntap add dev {tap} mode tap" for tap in self.taps),
            *(
                f"link set {tap} master {bridge} up"
                for tap, bridge in zip(self.taps, itertools.cycle(self.bridges))
            ),
        )

    def _has_vlans(self) -> bool:
        """Return whether this kernel has VLANs; to the watcher, a macvlan is much the same."""
        try:
            self.ip("host", "link add link up0 name vlan4000 type vlan id 4000")
        except lab.LabError:
            return False
        self.ip("host", "link del vlan4000")
        return True


def _id(vlan: str, kind: str) -> str:
    return vlan.partition(".")[2] if kind.endswith("id") else ""


class Load(NamedTuple):
    """What the watcher and the floor needed for some messages of the kernel."""

    messages: int
    watcher: float  # seconds of processor time
    floor: float


def queue_length(ifindex: int, number: int) -> bytes:
    """Return a request that changes nothing that the watcher looks at."""
    length = rtnetlink.attribute(IFLA_TXQLEN, struct.pack("=I", 1001 - number % 2))
    return _changed(ifindex, 0, 0, length)


def up_or_down(ifindex: int, number: int) -> bytes:
    """Return a request that sets a link down or up."""
    return _changed(ifindex, IFF_UP * (number % 2), IFF_UP)


def _changed(ifindex: int, flags: int, mask: int, attributes: bytes = b"") -> bytes:
    body = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, flags, mask) + attributes
    return rtnetlink.request(rtnetlink.RTM_NEWLINK, 0, body, 0)


class Messages:
    """A netlink socket that changes links, and counts what the kernel says to all listeners."""

    def __init__(self, host: lab.Lab) -> None:
        self._socket = host.open_socket("host", socket.AF_NETLINK, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self._socket.bind((0, 1 << rtnetlink.RTNLGRP_LINK - 1))

    def cause(self, requests: Iterable[bytes], stopped: Sequence[int] = ()) -> int:
        """Send requests in batches; return how many datagrams about links they caused.

        ``stopped``: processes that stop while the messages of a batch collect.
        """
        self._drain()
        waiting = iter(requests)
        while batch := b"".join(itertools.islice(waiting, BATCH)):
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
                _wait_for_state(pid, "T")
            self._socket.send(batch)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
                _wait_for_state(pid, "S")  # it has read them all and waits for more
            time.sleep(PAUSE)
        time.sleep(0.3)  # the kernel acts on a carrier a little later
        return self._drain()

    def _drain(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(65536, socket.MSG_DONTWAIT)
                count += 1
        return count

    def close(self) -> None:
        self._socket.close()


def _wait_for_state(pid: int, state: str) -> None:
    """Wait until a process is in a state of proc(5).  Raises SystemExit after 10 s."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state:
            return
        time.sleep(0.001)
    raise SystemExit(f"host: process {pid} is not in the state {state}")


def load(
    host: lab.Lab,
    watcher: int,
    floor: int,
    status_socket: str,
    requests: Sequence[bytes],
    is_together: bool = False,
) -> Load:
    """Cause messages; return what both processes needed for them.

    ``is_together``: the messages of a batch wait for both processes, which are stopped meanwhile.
    Raises SystemExit if the watcher lost some: it would then have handled fewer.
    """
    lost = client.ask(status_socket, "status")["netlink_overruns"]
    with contextlib.closing(Messages(host)) as messages:
        before = [cpu_seconds(each) for each in (watcher, floor)]
        count = messages.cause(requests, (watcher, floor) if is_together else ())
        ours, least = (cpu_seconds(pid) - cpu for pid, cpu in zip((watcher, floor), before))
    if client.ask(status_socket, "status")["netlink_overruns"] != lost:
        raise SystemExit("host: messages were lost, so the machine is too busy to measure this")
    return Load(count, ours, least)


class Running(NamedTuple):
    """The processes of the bench."""

    watcher: int
    floor: int
    status_socket: str
    memory: float  # MB, of the watcher before anybody asked for its status
    python: float  # MB, of a bare interpreter


@contextlib.contextmanager
def running(host: Host) -> Iterator[Running]:
    """Run the guests, the watcher once it has met them all, and what it is compared with."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    module = (sys.executable, "-m")
    with tempfile.TemporaryDirectory() as folder:
        guests = host.start("host", [*module, "bench.hints", folder], env=environment, **pipes)
        assert guests.stdout is not None
        guests.stdout.readline()
        status_socket = os.path.join(folder, "status.sock")
        options = ("--port", hints.PORT, "--status-socket", status_socket)
        command = [*module, "garp_agent.hypervisor", "watch", *options]
        watcher = host.start("host", command, env=environment, stderr=subprocess.DEVNULL)
        floor = host.start("host", [sys.executable, "-c", RECEIVER])
        bare = host.start("host", [sys.executable, "-c", ASLEEP])
        time.sleep(FIRST_CONTACTS)
        memory, python = (status_field(_last(each.pid), "VmRSS") / 1024 for each in (watcher, bare))
        list(hints.hinted(status_socket, 0))
        yield Running(_last(watcher.pid), _last(floor.pid), status_socket, memory, python)
        for process in (guests, watcher, floor, bare):
            host.stop(process, 9)


def _last(pid: int) -> int:
    """Return the process itself: `ip netns exec` executes, and does not fork."""
    assert "python" in Path(f"/proc/{pid}/exe").resolve().name, pid
    return pid


def measure(quick: bool) -> Iterator[Figure]:
    """Yield the memory, and how many messages one processor can handle in a second."""
    rounds = 2 if quick else 10
    with Host() as host, running(host) as it:
        with host.entered("host"):
            index = socket.if_nametoindex
            taps, vlans, bridges = (
                [index(name) for name in names] for names in (host.taps, host.vlans, host.bridges)
            )
        more = rounds * (TAPS // VLANS)
        of_taps = [queue_length(each, n) for n in range(rounds) for each in taps]
        runs = {
            "taps, one at a time": of_taps,
            "taps that wait together": of_taps,
            "VLANs": [queue_length(each, n) for n in range(more) for each in vlans],
            "bridges": [queue_length(each, n) for n in range(more) for each in bridges],
            "taps, down and up": [up_or_down(each, n) for n in range(rounds) for each in taps],
        }
        for name, requests in runs.items():
            is_together = name.endswith("together")
            found = load(host, it.watcher, it.floor, it.status_socket, requests, is_together)
            ours, floor = (found.messages / cpu for cpu in (found.watcher, found.floor))
            title = f"messages of {name}, a processor second"
            yield Figure(title, "/s", ours, floor, "Python: recv()", ASKED)
        title = "garp-hint watch with these links"
        yield Figure(title, "MB", it.memory, it.python, "python", "at most 20 MB")
