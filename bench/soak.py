"""Soak tests: a simulated year of the engine, and real hours of the daemon, with random changes.

    python -m bench.soak year [--days N] [--seed N]
    python -m bench.soak real [--minutes N] [--seed N]      (root)

Exit status 1 at the first check that fails.  The year checks what the property tests check after
every event and frame, and that the engine neither grows nor drifts.  The real hours check that
memory and descriptors do not grow and that the agent knows the kernel's addresses; what reaches
the wire is tested in tests/netns/test_agent_faults.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import signal
import socket
import tempfile
import time
from pathlib import Path

from bench.lab import TinyLab
from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    LeaseGranted,
    LinkSeen,
    Resumed,
)
from garp_agent.wire.model import LinkGone
from tests.guest.core.test_properties import Guest
from tests.netns.agent import Agent, until
from tests.world import NO_CARRIER, RUNNING, address, link

DAY = 86400.0
CHURN = 120.0  # seconds between two changes, on average
DRIFT = 0.01  # of a day's ticks: with 17,280 of them, jitter makes a tenth of that


# -- a simulated year -------------------------------------------------------------------


def begun(seed: int) -> Guest:
    """Return a guest with one address and the default settings."""
    guest = Guest()
    guest.start(Settings(), seed, [address("10.0.0.1/16")], bridged=False)
    return guest


def change(guest: Guest, chance: random.Random) -> None:
    """Let one thing happen."""
    ifindex = chance.randint(2, 4)
    known = guest.owned.links.get(ifindex)
    owned = [item for item in guest.owned.items.values() if item.ifindex == ifindex]
    number = chance.randrange(1 << 16)
    text = chance.choice((f"10.{ifindex}.{number >> 8}.{number & 255}/16", f"fd00::{number:x}/64"))
    choices: list[tuple[object, float]] = [
        (BurstRequested(Cause.HINT), 6),
        (LeaseGranted(chance.uniform(10, 600)), 4),
        (Resumed(30.0), 1),
        (LinkGone(ifindex) if known else LinkSeen(link(ifindex)), 2),
    ]
    if known and len(owned) < 40:
        choices.append((AddressSeen(address(text, ifindex)), 8))
    if owned:
        choices.append((AddressGone(chance.choice(owned)), 8))
    if known:
        flags = NO_CARRIER if known.flags == RUNNING else RUNNING
        choices.append((LinkSeen(known._replace(flags=flags)), 6))
    if chance.random() < 0.02:
        guest.a_dump_leaves_out_one_thing(overrun=True, left_out=chance.randrange(1000))
    guest.happen(chance.choices(*zip(*choices)))
    guest.memory_is_bounded_by_what_there_is()


def check_drift(guest: Guest, wanted: float) -> None:
    """Check that a quiet day has as many ticks on every link as wanted."""
    guest.happen([LeaseGranted(0.0)])
    ticks: dict[int, set[float]] = {ifindex: set() for ifindex, _ in guest.allowed}
    for frame in guest.agent.wait(DAY):
        if frame.announcement.cause is Cause.REFRESH:
            ticks[frame.announcement.ifindex].add(frame.at)
    for ifindex, times in ticks.items():
        assert abs(len(times) / wanted - 1) < DRIFT, f"link {ifindex} had {len(times)} ticks a day"


def year(days: int, seed: int) -> None:
    """Simulate days with a change every two minutes.  Raises AssertionError."""
    guest, chance = begun(seed), random.Random(seed)
    sizes = []
    for day in range(1, days + 1):
        while guest.agent.now < 1000.0 + day * DAY:
            guest.wait(chance.expovariate(1 / CHURN))
            change(guest, chance)
        if day % 30 == 0 or day == days:
            gc.collect()
            sizes.append(len(gc.get_objects()))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"day {day:4}: {sizes[-1]} objects, {memory} MB", flush=True)
    check_drift(guest, DAY / guest.settings.interval)
    assert len(sizes) < 3 or sizes[-1] < sizes[1] * 1.2, f"objects grew: {sizes}"


# -- real hours -------------------------------------------------------------------------


class Surroundings:
    """What changes around the agent."""

    def __init__(self, lab: TinyLab, agent: Agent, host: socket.socket, seed: int) -> None:
        self.lab, self.agent, self.host = lab, agent, host
        self.random = random.Random(seed)

    def addresses(self) -> set[str]:
        """Return the kernel's addresses."""
        shown = json.loads(self.lab.run("guest", ["ip", "-j", "address", "show", "eth0"]).stdout)
        return {each["local"] for each in shown[0]["addr_info"]}

    def change_address(self) -> None:
        address = f"192.0.2.{self.random.randint(100, 140)}"
        verb = "del" if address in self.addresses() else "add"
        self.lab.ip("guest", f"address {verb} {address}/24 dev eth0")

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
        with self.agent.stopped():
            time.sleep(0.3)

    def reload(self) -> None:
        self.agent.kill(signal.SIGHUP)

    def check(self) -> tuple[int, int]:
        """Return resident KiB and open files, once the agent knows the kernel's addresses."""
        true = self.addresses()
        until(lambda: self.agent.addresses().keys() == true, f"the agent knows {true}")
        return self.agent.resident(), self.agent.open_files()


def real(minutes: float, seed: int) -> None:
    """Run the daemon for ``minutes`` under random changes.  Raises AssertionError."""
    with (
        TinyLab() as lab,
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as host,
    ):
        host.bind(f"{folder}/port")
        host.listen()
        with Agent(lab, Path(folder), "--hint-port", f"{folder}/port", config="") as agent:
            around = Surroundings(lab, agent, host, seed)
            time.sleep(2.0)
            around.hint()
            first = size, files = around.check()
            actions = (around.flap, around.recreate, around.hint, around.pause, around.reload)
            begun = shown = time.monotonic()
            while (now := time.monotonic()) < begun + 60 * minutes:
                around.random.choice((*actions, around.change_address, around.change_address))()
                time.sleep(around.random.uniform(0.0, 0.5))
                if now - shown >= 60:
                    shown = now
                    size, files = around.check()
                    print(f"{(now - begun) / 60:5.1f} min: {size} KiB, {files} files", flush=True)
            size, files = around.check()
            print(f"at first {first[0]} KiB, {first[1]} files; at last {size} KiB, {files} files")
            assert size < first[0] * 1.15 + 512, "memory grew"
            assert files <= first[1] + 2, "open files grew"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=("year", "real"))
    parser.add_argument("--days", type=int, default=365, help="of the simulated year")
    parser.add_argument("--minutes", type=float, default=60, help="of the real run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kind == "year":
        year(arguments.days, arguments.seed)
    else:
        real(arguments.minutes, arguments.seed)
    print("everything held")


if __name__ == "__main__":
    main()
