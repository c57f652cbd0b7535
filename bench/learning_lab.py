"""How soon learning frames leave, in a namespace: part of `make bench-failover`.

The kernel has bridges, guest ports and their forwarding tables, but no bond: not every kernel that
runs this has the driver.  The uplink is a veth, and the watcher's part for learning frames (tables,
plan, pace, socket) is told that it is a bond.  A failover is reported, and a socket behind the
uplink counts the frames.  `tests.vm.test_learning` shows them on a real bond.
"""

from __future__ import annotations

import gc
import socket
import time
import tracemalloc
from contextlib import closing
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import lab
from bench.prober import SO_RCVBUFFORCE
from garp_agent.hypervisor.core.bonds import BondFailover, Follower
from garp_agent.hypervisor.core.learning_rules import PACE, LearningRules
from garp_agent.hypervisor.core.linkstate import LINKS, MODE_ACTIVE_BACKUP, Bond, LinkReport
from garp_agent.hypervisor.guest_path_lookup import dumped
from garp_agent.hypervisor.learning import Learning
from garp_agent.runtime.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.hypervisor.core.linkstate import LinkEvent

MACS_PER_PORT = 50  # 64 of a port get a frame
BRIDGE_MAC = "02:00:00:00:02:00"
UPLINK = "bond0"
RARP = 0x8035
RECEIVE_BUFFER = 64 << 20
FAILOVERS = 5
IDLE = 0.2  # seconds; all frames of a round have left if nothing is due for so long
LIMIT = 20.0  # seconds; only a broken program takes longer


class Result(NamedTuple):
    """What failovers took."""

    entries: int
    pace: int  # frames in a millisecond; 0: no limit
    first: float  # seconds from the event to the first frame
    last: float  # to the last one
    kib: float  # memory, KiB


class ManyGuests(lab.Lab):
    """A bridge with an uplink and so many MACs behind guest ports."""

    roles = ("host",)

    def __init__(self, entries: int) -> None:
        self.entries = entries
        super().__init__()

    def build(self) -> None:
        ports = range(ceil(self.entries / MACS_PER_PORT))
        self.ip(
            "host",
            f"link add br0 address {BRIDGE_MAC} up type bridge forward_delay 0 mcast_snooping 0",
            f"link add {UPLINK} up type veth peer name far",
            f"link set {UPLINK} master br0",
            "link set far up",
            *(f"link add p{n} up master br0 type veth peer name g{n}" for n in ports),
            *(f"link set g{n} up" for n in ports),
        )
        self.wait_until_up("host")
        destination = bytes.fromhex(BRIDGE_MAC.replace(":", ""))
        for port in ports:
            with closing(self.packet_socket("host", f"g{port}", 0)) as sender:
                first = port * MACS_PER_PORT
                for number in range(first, min(first + MACS_PER_PORT, self.entries)):
                    source = bytes((0x52, 0x54)) + number.to_bytes(4, "big")
                    sender.send(destination + source + bytes.fromhex("88b5") + bytes(46))


class LearningWatcher:
    """The watcher's part for learning frames, in the namespace of the calling thread."""

    def __init__(self, pace: int) -> None:
        self._follower = Follower()
        for event in dumped(LINKS, LIMIT):
            self._follower.handle(_with_bond(event), 0.0)
        self._learning = Learning(self._follower, LearningRules(), pace, time.monotonic)
        self._reactor = Reactor()
        self._reactor.watch(self._learning, self._learning.read)

    def close(self) -> None:
        """Close its sockets."""
        self._learning.close()
        self._reactor.close()

    def remember(self, entries: int) -> None:
        """Read the tables until it knows so many MACs."""
        self.run_until(lambda status: status["learning"]["remembered"] >= entries)

    def run_until(self, condition: Callable[[dict[str, Any]], object], wall: float = 0.0) -> None:
        """Run until a condition on the status holds.  ``wall``: of the failover in its history."""
        while not condition(self.status(wall)):
            self._turn()

    def report_failover(self, wall: float) -> None:
        """Report a failover, and do no more.  ``wall``: seconds since 1970."""
        failover = BondFailover(UPLINK, ("a",), ("b",), frozenset((UPLINK,)))
        self._learning.failover(failover, time.monotonic(), wall)

    def fail_over(self) -> tuple[float, float]:
        """Report a failover; return the seconds until the first and last frame of round one."""
        wall = time.time()
        self.report_failover(wall)
        while True:
            self._turn()
            if self._learning.deadline() < time.monotonic() + IDLE:
                continue  # do not delay it by questions
            status = self.status(wall)
            record = status["history"][0]["learning"]
            if record["rounds"] and not status["learning"]["queued"]:
                assert not record["failed"], record
                return record["first_seconds"], record["last_seconds"]

    def _turn(self) -> None:
        now = time.monotonic()
        self._learning.advance(now)
        wake_at = min(self._learning.deadline(), now + 1.0)
        self._reactor.call(self._reactor.wait(wake_at), time.monotonic())

    def status(self, wall: float) -> dict[str, Any]:
        """Return the status, with the failover of this time in its history."""
        status: dict[str, Any] = {"history": [{"time": wall}], "guests": [], "without_channel": []}
        self._learning.add_to(status, time.monotonic())
        return status


def measure(entries: int, pace: int) -> Result:
    """Measure failovers with so many MACs.  Raises AssertionError if a frame is missing."""
    with ManyGuests(entries) as made, made.entered("host"):
        kib = _memory(entries)
        with closing(LearningWatcher(pace)) as watcher:
            watcher.remember(entries)
            with closing(made.packet_socket("host", "far", RARP)) as far:
                far.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
                far.setblocking(False)
                found = []
                for _failover in range(FAILOVERS):
                    found.append(watcher.fail_over())
                    assert _received(far) == entries + 1, "the host's own and one for each MAC"
    first, last = (median(each) for each in zip(*found))
    return Result(entries, pace, first, last, kib)


def _with_bond(event: LinkEvent) -> LinkEvent:
    """Return the kernel's event; of the uplink, as that of a bond."""
    if not isinstance(event, LinkReport) or event.link.name != UPLINK:
        return event
    link = event.link._replace(kind="bond", bond=Bond(MODE_ACTIVE_BACKUP, 1), lower_ifindex=0)
    return event._replace(link=link)


def _memory(entries: int) -> float:
    """Return what remembering so many MACs takes, in KiB."""
    with closing(LearningWatcher(0)) as watcher:
        gc.collect()
        tracemalloc.start()
        watcher.remember(entries)
        gc.collect()
        taken, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return taken / 1024


def _received(far: socket.socket) -> int:
    sources = set()
    try:
        while True:
            sources.add(far.recv(2048)[6:12])
    except BlockingIOError:
        return len(sources)


def table() -> str:
    """Measure; return the results as a Markdown table."""
    rows = ["| MACs | pace | first frame after | last frame after | memory |"]
    rows.append("|---|---|---|---|---|")
    for entries, pace in ((1, PACE), (1000, PACE), (1000, 0), (10000, 0)):
        found = measure(entries, pace)
        shown = f"{pace} in 1 ms" if pace else "no limit"
        times = f"{found.first * 1000:.1f} ms | {found.last * 1000:.1f} ms"
        rows.append(f"| {entries:,} | {shown} | {times} | {found.kib:.0f} KiB |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
