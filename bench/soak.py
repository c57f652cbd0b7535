"""Soak tests: a simulated year of the engine, and real hours of the daemon, under churn.

    python -m bench.soak year [--days N] [--seed N]
    python -m bench.soak real [--minutes N] [--seed N]      (root)

Exit status 1 at the first check that fails.  The year checks that every frame is for an address of
that moment, that the rate limit holds, that every address is announced in time and that nothing
grows.  The real hours check that memory and descriptors do not grow and that the agent knows the
kernel's addresses; what reaches the wire is tested in tests/netns/test_agent_faults.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from math import ceil
from pathlib import Path
from typing import Any

from bench.lab import ROOT, TinyLab
from garp_agent.config.settings import RateLimit, Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    Announcement,
    BurstRequested,
    Cause,
    InterfaceAddress,
    LeaseGranted,
    Link,
    LinkSeen,
    Resumed,
    SendOutcome,
    Sent,
)
from garp_agent.guest.core.schedule import ROUNDING
from garp_agent.runtime import client
from garp_agent.wire.model import (
    IFF_LOWER_UP,
    IFF_UP,
    DumpComplete,
    DumpStarted,
    LinkGone,
)

DAY = 86400.0
DRIFT = 0.01  # of a day's ticks: with 17,280 of them, jitter makes a tenth of that
UP = IFF_UP | IFF_LOWER_UP


class BrokenError(Exception):
    """A check of the soak failed."""


class Judge:
    """A plain token bucket, and a limit for each second, to check the schedule against."""

    def __init__(self, limit: RateLimit, slack: float = 0.0) -> None:
        self._limit = limit
        self._slack = slack  # seconds by which a frame may seem too early
        self._level = float(limit.depth)
        self._since = 0.0
        self._recent: deque[float] = deque()

    def saw(self, now: float) -> None:
        """Count a frame at ``now``.  Raises BrokenError where it is too early."""
        rate, depth = self._limit
        self._level = min(depth, self._level + (now - self._since) * rate) - 1
        self._since = now
        if self._level < -(self._slack + 2 * ROUNDING) * rate:
            raise BrokenError(f"{-self._level:.6f} more than the bucket allows at {now:.3f}")
        self._recent.append(now)
        while self._recent[0] < now - 1.0 + self._slack:
            self._recent.popleft()
        if len(self._recent) > self._limit.in_a_second:
            raise BrokenError(f"{len(self._recent)} frames within a second at {now:.3f}")


# -- a simulated year -------------------------------------------------------------------


class Witness:
    """Checks every frame.  Knows only what the world did, not what the engine thinks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.owned: dict[int, set[bytes]] = {}
        self.up: set[int] = set()
        self.judges: dict[int, Judge] = {}  # of each link's rate
        self.last: dict[tuple[int, bytes], float] = {}
        self.frames = 0
        self.longest_gap = 0.0
        self.ticks: dict[int, list[float]] = {}  # of the links that are looked at

    def may_speak(self, ifindex: int) -> bool:
        return ifindex in self.up and bool(self.owned.get(ifindex))

    def saw(self, frame: Announcement, now: float) -> None:
        self.frames += 1
        where = f"{frame} at {now}"
        if frame.ifindex not in self.up or frame.address not in self.owned[frame.ifindex]:
            raise BrokenError(f"not ours: {where}")
        self.judges.setdefault(frame.ifindex, Judge(self.settings.rate_limit)).saw(now)
        self.last[frame.ifindex, frame.address] = now
        ticks = self.ticks.get(frame.ifindex)
        if ticks is not None and frame.cause is Cause.REFRESH and ticks[-1:] != [now]:
            ticks.append(now)

    def forget_waiting(self, ifindex: int, now: float) -> None:
        """Count the silence of the link's addresses from now on."""
        for address in self.owned.get(ifindex, ()):
            self.last[ifindex, address] = now

    def check_gaps(self, now: float, interval: float) -> None:
        for ifindex in self.up:
            addresses = self.owned.get(ifindex, set())
            ticks = ceil(len(addresses) / self.settings.addresses_per_tick)
            allowed = (ticks + 1) * interval * (1 + self.settings.jitter) + 1.0
            for address in addresses:
                gap = now - self.last.get((ifindex, address), now)
                self.longest_gap = max(self.longest_gap, gap)
                if gap > allowed:
                    raise BrokenError(f"{address.hex()} was silent for {gap:.1f} s at {now}")


class World:
    """Links and addresses that come and go; hints, leases and suspensions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.settings = Settings()
        self.engine = Engine(self.settings, self.random.random)
        self.witness = Witness(self.settings)
        self.links: dict[int, Link] = {}
        self.next_ifindex = 2
        self.now = 0.0
        self.engine.handle(DumpStarted(), 0.0)
        for _ in range(2):
            self.add_link()
        self.engine.handle(DumpComplete(), 0.0)
        self.send()

    def add_link(self) -> None:
        if len(self.links) >= 6:
            return
        mac = b"\2" + self.next_ifindex.to_bytes(5, "big")
        link = Link(self.next_ifindex, f"eth{self.next_ifindex}", mac, 1, UP)
        self.next_ifindex += 1
        self.links[link.ifindex] = link
        self.witness.up.add(link.ifindex)
        self.engine.handle(LinkSeen(link), self.now)
        for _ in range(self.random.randint(1, 6)):
            self.add_address(link.ifindex)

    def remove_link(self) -> None:
        if len(self.links) > 1:
            ifindex = self.random.choice(list(self.links))
            del self.links[ifindex]
            self.witness.up.discard(ifindex)
            self.witness.owned.pop(ifindex, None)
            self.witness.judges.pop(ifindex, None)
            self.engine.handle(LinkGone(ifindex), self.now)

    def flap(self) -> None:
        ifindex = self.random.choice(list(self.links))
        up = ifindex in self.witness.up
        self.links[ifindex] = self.links[ifindex]._replace(flags=IFF_UP if up else UP)
        if up:
            self.witness.up.discard(ifindex)
        else:
            self.witness.up.add(ifindex)
            self.witness.forget_waiting(ifindex, self.now)
        self.engine.handle(LinkSeen(self.links[ifindex]), self.now)

    def add_address(self, ifindex: int = 0) -> None:
        ifindex = ifindex or self.random.choice(list(self.links))
        size = self.random.choice((4, 16))
        address = b"\x0a" + self.random.getrandbits(8 * (size - 1)).to_bytes(size - 1, "big")
        owned = self.witness.owned.setdefault(ifindex, set())
        if len(owned) < 40:
            owned.add(address)
            self.witness.last[ifindex, address] = self.now
            seen = AddressSeen(InterfaceAddress(ifindex, address, 24))
            self.engine.handle(seen, self.now)

    def remove_address(self) -> None:
        ifindex = self.random.choice(list(self.links))
        owned = self.witness.owned.get(ifindex, set())
        if owned:
            address = self.random.choice(sorted(owned))
            owned.discard(address)
            self.witness.last.pop((ifindex, address), None)
            gone = AddressGone(InterfaceAddress(ifindex, address, 24))
            self.engine.handle(gone, self.now)

    def hint(self) -> None:
        self.engine.handle(BurstRequested(Cause.HINT), self.now)

    def lease(self) -> None:
        self.engine.handle(LeaseGranted(self.random.uniform(10, 600)), self.now)

    def suspend(self) -> None:
        self.engine.handle(Resumed(30.0), self.now)

    def change(self) -> None:
        choices = (
            (self.add_address, 8),
            (self.remove_address, 8),
            (self.flap, 6),
            (self.hint, 6),
            (self.lease, 4),
            (self.add_link, 1),
            (self.remove_link, 1),
            (self.suspend, 1),
        )
        actions, weights = zip(*choices)
        self.random.choices(actions, weights)[0]()

    def send(self) -> None:
        while (frame := self.engine.next_frame(self.now)) is not None:
            self.witness.saw(frame, self.now)
            self.engine.handle(Sent(frame, SendOutcome.SENT), self.now)
        self.engine.notices.take()

    def run(self, until: float, churn: float) -> None:
        """Simulate until ``until``, with a change every ``churn`` seconds on average."""
        next_change = self.now + self.random.expovariate(1 / churn)
        while self.now < until:
            due = self.engine.deadline()
            if due <= self.now:
                raise BrokenError(f"the engine wants to run again at once, at {self.now}")
            self.now = min(due, next_change)
            if self.now == next_change:
                self.change()
                next_change += self.random.expovariate(1 / churn)
            self.send()
        self.witness.check_gaps(self.now, self.settings.interval_with_lease)

    def check_drift(self) -> None:
        """Check that a quiet day has as many ticks on every link as intervals."""
        self.engine.handle(LeaseGranted(0.0), self.now)
        self.witness.ticks = {
            ifindex: [] for ifindex in self.links if self.witness.may_speak(ifindex)
        }
        self.run(self.now + DAY, churn=1000 * DAY)
        wanted = DAY / self.settings.interval
        for ifindex, ticks in self.witness.ticks.items():
            if abs(len(ticks) / wanted - 1) > DRIFT:
                raise BrokenError(
                    f"{len(ticks)} ticks in a day on link {ifindex}, not {wanted:.0f}"
                )


def year(days: int, seed: int) -> None:
    world = World(seed)
    sizes = []
    for day in range(days):
        world.run((day + 1) * DAY, churn=120.0)
        if day % 30 == 29 or day == days - 1:
            gc.collect()
            sizes.append(len(gc.get_objects()))
            print(
                f"day {day + 1:4}: {world.witness.frames:9} frames, longest silence "
                f"{world.witness.longest_gap:5.1f} s, {sizes[-1]} objects, "
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB",
                flush=True,
            )
    world.check_drift()
    if len(sizes) > 2 and sizes[-1] > sizes[1] * 1.2:
        raise BrokenError(f"objects grew from {sizes[1]} to {sizes[-1]}")


# -- real hours -------------------------------------------------------------------------


class Daemon:
    """The agent in a namespace, and changes to its world."""

    def __init__(self, lab: TinyLab, folder: str, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.control = os.path.join(folder, "control.sock")
        port = os.path.join(folder, "port")
        self.host = socket.socket(socket.AF_UNIX)
        self.host.bind(port)
        self.host.listen()
        self.extra: set[int] = set()
        config = Path(folder, "config.yaml")
        config.write_text(f"control_socket: {self.control}\nhint_port: {port}\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
        command = [sys.executable, "-m", "garp_agent", "run", "-c", str(config)]
        self.agent = lab.start("guest", command, env=environment, stderr=subprocess.DEVNULL)

    def change_address(self) -> None:
        number = self.random.randint(100, 140)
        verb = "del" if number in self.extra else "add"
        self.lab.ip("guest", f"address {verb} 192.0.2.{number}/24 dev eth0")
        self.extra ^= {number}

    def flap(self) -> None:
        self.lab.ip("peer", "link set eth0 down", "link set eth0 up")

    def recreate(self) -> None:
        self.lab.ip("guest", "link add extra0 type veth peer name extra1", "link del extra0")

    def hint(self) -> None:
        self.host.settimeout(30.0)  # the agent connects again at a tick
        with self.host.accept()[0] as connection:
            connection.settimeout(5.0)
            connection.sendall(self.random.choice((b"BURST\n", b'{"execute":"info"}\n', b"{]\n")))
            connection.recv(8192)

    def pause(self) -> None:
        os.kill(self.agent.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(self.agent.pid, signal.SIGCONT)

    def reload(self) -> None:
        os.kill(self.agent.pid, signal.SIGHUP)

    def check(self) -> tuple[int, int]:
        """Return resident kilobytes and open files.  Raises BrokenError for a wrong inventory."""
        if self.agent.poll() is not None:
            raise BrokenError(f"the daemon ended with status {self.agent.returncode}")
        shown = json.loads(self.lab.run("guest", ["ip", "-j", "address", "show", "eth0"]).stdout)
        true = {each["local"] for each in shown[0]["addr_info"]}
        for _ in range(100):
            links: Any = client.ask(self.control, "status")["links"]
            (link,) = [each for each in links if each["interface"] == "eth0"]
            if (known := {each["address"] for each in link["addresses"]}) == true:
                break
            time.sleep(0.05)
        else:
            raise BrokenError(f"the agent knows {known}, the kernel {true}")
        statm = Path(f"/proc/{self.agent.pid}/statm").read_text().split()
        return int(statm[1]) * 4, len(os.listdir(f"/proc/{self.agent.pid}/fd"))


def real(minutes: float, seed: int) -> None:
    """Run the daemon for ``minutes`` under random changes.  Raises BrokenError."""
    with TinyLab() as lab, tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(lab, folder, seed)
        time.sleep(2.0)
        daemon.hint()
        first = size, files = daemon.check()
        actions = (daemon.flap, daemon.recreate, daemon.hint, daemon.pause, daemon.reload)
        begun = shown = time.monotonic()
        while (now := time.monotonic()) < begun + 60 * minutes:
            daemon.random.choice((*actions, daemon.change_address, daemon.change_address))()
            time.sleep(daemon.random.uniform(0.0, 0.5))
            if now - shown >= 60:
                shown = now
                size, files = daemon.check()
                print(f"{(now - begun) / 60:5.1f} min: {size} kB, {files} files", flush=True)
        size, files = daemon.check()
        print(f"at first {first[0]} kB, {first[1]} files; at last {size} kB, {files} files")
        if size > first[0] * 1.15 + 512 or files > first[1] + 2:
            raise BrokenError("memory or open files grew")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=("year", "real"))
    parser.add_argument("--days", type=int, default=365, help="of the simulated year")
    parser.add_argument("--minutes", type=float, default=60, help="of the real run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        if arguments.kind == "year":
            year(arguments.days, arguments.seed)
        else:
            real(arguments.minutes, arguments.seed)
    except BrokenError as broken:
        sys.exit(f"broken: {broken}")
    print("everything held")


if __name__ == "__main__":
    main()
