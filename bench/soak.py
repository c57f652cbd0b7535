"""Long runs: a simulated year of the engine, and real hours of the daemon, under churn.

    python -m bench.soak year [--days N] [--seed N]
    python -m bench.soak real [--minutes N] [--seed N]      (root)

Both check as they go, and end with status 1 at the first thing that does not hold:
never an address that is not ours at that moment, never more than the bucket allows,
every address announced within its time, no growth.  The real hours are in soak_real.py.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import sys
from math import ceil

from bench.soak_real import BrokenError, Judge, real
from garp_agent.config.settings import Settings
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


# -- a simulated year ----------------------------------------------------------------------


class Witness:
    """What must hold, kept apart from the engine: it knows only what the world did."""

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
        self.judges.setdefault(frame.ifindex, Judge(self.settings.bucket)).saw(now)
        self.last[frame.ifindex, frame.address] = now
        ticks = self.ticks.get(frame.ifindex)
        if ticks is not None and frame.cause is Cause.REFRESH and ticks[-1:] != [now]:
            ticks.append(now)

    def forget_waiting(self, ifindex: int, now: float) -> None:
        """What the link has now has its time from now on."""
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
    """Links and addresses that come and go, and hosts that hint and promise."""

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

    def promise(self) -> None:
        self.engine.handle(LeaseGranted(self.random.uniform(10, 600)), self.now)

    def suspend(self) -> None:
        self.engine.handle(Resumed(30.0), self.now)

    def something(self) -> None:
        choices = (
            (self.add_address, 8),
            (self.remove_address, 8),
            (self.flap, 6),
            (self.hint, 6),
            (self.promise, 4),
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
        self.engine.take_notices()

    def run(self, until: float, churn: float) -> None:
        """Live until then, with something happening every ``churn`` seconds or so."""
        change = self.now + self.random.expovariate(1 / churn)
        while self.now < until:
            due = self.engine.deadline()
            if due <= self.now:
                raise BrokenError(f"it wants to run again at once, at {self.now}")
            self.now = min(due, change)
            if self.now == change:
                self.something()
                change += self.random.expovariate(1 / churn)
            self.send()
        self.witness.check_gaps(self.now, self.settings.interval_with_lease)

    def check_drift(self) -> None:
        """A day in which nothing happens: as many ticks on every link as it has intervals."""
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
