"""Simulates what a fleet of guests costs its network, with the agent's real code.

    python -m bench.fleet [--quick]

Every guest is a real engine.  Every hint is a line that the real watcher writes and the real
decoder reads.  Only the clock is simulated.  Each guest has one address, which is one frame a
refresh.  The arping loop is a model: one frame, 1 s in arping, 5 s of sleep, 2 to 8 ms of fork and
exec.  Writes the tables and plots of docs/scale.md.
"""

from __future__ import annotations

import argparse
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from garp_agent.config.settings import Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import BurstRequested, Cause, LeaseGranted
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher
from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder
from garp_agent.wire.model import LEVEL_ERROR
from tests import world

if TYPE_CHECKING:
    from garp_agent.guest.core.model import EngineEvent

DOCS = Path(__file__).resolve().parents[1] / "docs"
SEED = 6
INSTANT = 0.010  # seconds; the window of a peak
GUESTS_PER_HOST = 50
FAN_OUT = 0.0001  # seconds from one guest's hint to the next one's, as bench.hints measures it
HOSTS_APART = 0.002  # seconds within which many hosts notice the same failover
ARPING = 1.0  # seconds that `arping -U -c1` takes
SLEEP = 5.0
FORK = (0.002, 0.008)  # seconds
START = world.dump(world.link(), world.address("192.0.2.1/24"))

Happening = tuple[float, int, "EngineEvent"]  # when, to which guest, what


class Times:
    """When frames went out, in order (seconds); ranges include their start only."""

    def __init__(self, times: Iterable[float]) -> None:
        self.all = array("d", sorted(times))

    def between(self, start: float, end: float) -> Times:
        return Times(each for each in self.all if start <= each < end)

    def rate(self, start: float, end: float) -> float:
        """Return the average frames a second."""
        return len(self.between(start, end).all) / (end - start)

    def peak(self, window: float) -> int:
        """Return the most frames in any window of that length (seconds)."""
        most = first = 0
        for last, when in enumerate(self.all):
            while self.all[first] <= when - window:
                first += 1
            most = max(most, last - first + 1)
        return most

    def binned(self, start: float, end: float, width: float) -> list[tuple[float, float]]:
        """Return frames a second in bins of ``width`` seconds: (middle, rate)."""
        bins = round((end - start) / width)
        counts = Counter(int((when - start) / width) for when in self.between(start, end).all)
        return [(start + (n + 0.5) * width, counts[n] / width) for n in range(bins)]


# -- guests -----------------------------------------------------------------------------


class Fleet:
    """Guests on one broadcast domain, numbered from 0; ``boots`` says when each agent starts."""

    def __init__(self, settings: Settings, boots: Sequence[float], seed: int = SEED) -> None:
        uniform = random.Random(seed).random
        self._boots = boots
        self._engines = [Engine(settings, uniform, LEVEL_ERROR) for _ in boots]
        self.frames: list[tuple[float, int]] = []  # when, by which guest

    def run(self, until: float, happenings: Iterable[Happening] = ()) -> Times:
        """Simulate until ``until``; return the times of all frames."""
        serial = count()
        # When, in which order, to which guest, what; nothing is a deadline.
        queue: list[tuple[float, int, int, Sequence[EngineEvent]]] = [
            *((boot, next(serial), number, START) for number, boot in enumerate(self._boots)),
            *((when, next(serial), number, (what,)) for when, number, what in happenings),
        ]
        heapify(queue)
        deadlines = [float("inf")] * len(self._engines)
        while queue and queue[0][0] < until:
            now, _, number, events = heappop(queue)
            if not events and deadlines[number] != now:
                continue  # an event has woken the engine before
            engine = self._engines[number]
            for event in events:
                engine.handle(event, now)
            while engine.next_frame(now) is not None:
                self.frames.append((now, number))
            deadlines[number] = max(now, engine.deadline())
            heappush(queue, (deadlines[number], next(serial), number, ()))
        return Times(when for when, _ in self.frames)


def boots(guests: int, spread: float, seed: int = SEED) -> list[float]:
    """Return when each guest starts, spread evenly; 0: all at the same instant."""
    draw = random.Random(seed).random
    return [draw() * spread for _ in range(guests)]


def arping_loops(starts: Sequence[float], until: float, seed: int = SEED) -> Times:
    """Return the frames of `while true; do arping -q -U -c1; sleep 5; done` on every guest."""
    draw = random.Random(seed)
    frames = []
    for start in starts:
        now = start + draw.uniform(*FORK)
        while now < until:
            frames.append(now)
            now += ARPING + SLEEP + draw.uniform(*FORK)
    return Times(frames)


# -- hosts ------------------------------------------------------------------------------


def hints(
    hosts: int, at: float, pace: float, settings: Settings, seed: int = SEED
) -> list[Happening]:
    """Return the hints that the guests of ``hosts`` hosts get at a failover."""
    draw = random.Random(seed).random
    told: list[Happening] = []
    for host in range(hosts):
        noticed = at + draw() * HOSTS_APART
        watcher = Watcher(HintOptions(pace=pace), f"host-{host}", lambda: 0.5)
        watcher.found([Channel(str(n), f"/{n:04}") for n in range(GUESTS_PER_HOST)], 0.0)
        calls = watcher.hint_all("failover", 1.0, 1.0)
        for n, call in enumerate(sorted(calls, key=lambda call: call.path)):
            burst = _read(call.exchange.outgoing, settings)
            told.append((noticed + n * FAN_OUT, host * GUESTS_PER_HOST + n, burst))
    return told


def _read(outgoing: bytes, settings: Settings) -> EngineEvent:
    lines = [line for line in LineDecoder().feed(outgoing) if isinstance(line, bytes)]
    request, *_ = (protocol.parse(line, protocol.PORT_COMMANDS) for line in lines)
    assert isinstance(request, protocol.Burst)
    return BurstRequested(Cause.HINT, request.offsets(settings.burst))


def leases(guests: int, since: float, until: float, seed: int = SEED) -> list[Happening]:
    """Return leases of 6 s, renewed every 4.8 s, each guest in a phase of its own."""
    draw = random.Random(seed).random
    told: list[Happening] = []
    for number in range(guests):
        now = since + draw() * 4.8
        while now < until:
            told.append((now, number, LeaseGranted(6.0)))
            now += 4.8
    return told


# -- the scenarios ----------------------------------------------------------------------


class Scale(NamedTuple):
    """How much is simulated."""

    fleets: tuple[int, ...] = (50, 500, 5000, 50000)
    intervals: tuple[float, ...] = (1.0, 5.0, 15.0, 60.0)
    hosts: tuple[int, ...] = (1, 10, 100)
    paces: tuple[float, ...] = (0.0, 100.0, 20.0, 4.0)
    ports: tuple[int, ...] = (10, 50, 100, 200)


QUICK = Scale((50, 500), (5.0, 60.0), (1, 10), (0.0, 4.0), (10, 50))
LOOP = "arping loop"
AT = 180.0  # seconds: when the failover comes; the leases stretch the intervals by then


def every(interval: float) -> Settings:
    """Return the settings of an agent with this refresh interval."""
    return Settings(interval=interval, interval_with_lease=max(interval, 60.0))


def steady(scale: Scale) -> dict[tuple[int, str], tuple[float, int]]:
    """Frames a second and the peak in 10 ms, long after the start, by guests and interval."""
    found = {}
    for guests in scale.fleets:
        runs = [(LOOP, arping_loops(boots(guests, 6.0), 72.0), 60.0, 72.0)]
        for each in reversed(scale.intervals):
            start, end = 2 * each, 2 * each + max(10.0, 2 * each)
            times = Fleet(every(each), boots(guests, each)).run(end)
            runs.insert(0, (f"every {each:g} s", times, start, end))
        for kind, times, start, end in runs:
            found[guests, kind] = times.rate(start, end), times.between(start, end).peak(INSTANT)
    return found


def steady_table(found: dict[tuple[int, str], tuple[float, int]]) -> str:
    """Guests downwards, intervals across."""
    cells = {key: f"{figure(rate)} ({peak:,})" for key, (rate, peak) in found.items()}
    kinds = list(dict.fromkeys(kind for _, kind in cells))
    sizes = dict.fromkeys(guests for guests, _ in cells)
    return table(("guests", *kinds), [(f"{n:,}", *(cells[n, k] for k in kinds)) for n in sizes])


def boot_table(scale: Scale) -> str:
    """Peaks in 10 ms after a common start: in the first second, and two minutes later."""
    rows = []
    for guests, spread in product(scale.fleets, (0.0, 30.0)):
        starts = boots(guests, spread)
        peaks = [
            f"{times.between(start, end).peak(INSTANT):,}"
            for times in (Fleet(Settings(), starts).run(130.0), arping_loops(starts, 130.0))
            for start, end in ((0.0, spread + 1.0), (120.0, 130.0))
        ]
        rows.append((f"{guests:,}", f"{spread:g} s" if spread else "an instant", *peaks))
    heads = ("agent: first", "agent: 2 min", "loop: first", "loop: 2 min")
    return table(("guests", "started within", *heads), rows)


def failover(guests: int, hosts: int, pace: float, leased: bool) -> tuple[Fleet, Times]:
    """Simulate one failover that concerns the guests of ``hosts`` hosts."""
    happenings = hints(hosts, AT, pace, Settings())
    if leased:
        happenings += leases(guests, 0.0, AT + 20.0)
    fleet = Fleet(Settings(), boots(guests, 30.0))
    return fleet, fleet.run(AT + 20.0, happenings)


def failover_row(guests: int, hosts: int, pace: float, leased: bool) -> tuple[str, ...]:
    """One row: before, peak, one host's switch port, and when the last guest was heard."""
    fleet, times = failover(guests, hosts, pace, leased)
    first: dict[int, float] = {}
    for when, number in fleet.frames:
        if when >= AT and number < hosts * GUESTS_PER_HOST:
            first.setdefault(number, when)
    last = max(first.values()) - AT
    port = Times(when for when, number in fleet.frames if number < GUESTS_PER_HOST)
    return (
        str(hosts),
        "yes" if leased else "no",
        f"{pace:g}" if pace else "-",
        figure(times.rate(AT - 60.0, AT)),
        f"{times.between(AT, AT + 20.0).peak(INSTANT):,}",
        str(port.between(AT, AT + 20.0).peak(1.0)),
        f"{last * 1000:.0f} ms" if last < 1 else f"{last:.1f} s",
    )


def failover_table(scale: Scale) -> str:
    """Hints to the guests of some hosts, in a fleet of all of them."""
    guests = max(scale.hosts) * GUESTS_PER_HOST
    heads = ("frames/s before", "peak in 10 ms", "one port, in 1 s", "last guest after")
    cases = product((False, True), scale.hosts, scale.paces)
    rows = [failover_row(guests, hosts, pace, leased) for leased, hosts, pace in cases]
    return table(("hosts", "lease", "--pace", *heads), rows)


def port_table(scale: Scale) -> str:
    """The most frames in any second of ten minutes on the switch port of one host."""
    intervals = (5.0, 15.0, 60.0)
    rows = []
    for guests in scale.ports:
        fleets = (Fleet(every(each), boots(guests, each)).run(720.0) for each in intervals)
        peaks = (str(times.between(120.0, 720.0).peak(1.0)) for times in fleets)
        rows.append((str(guests), *peaks))
    return table(("guests on the port", *(f"every {each:g} s" for each in intervals)), rows)


def lease_table(scale: Scale) -> str:
    """All watchers stop without taking their leases back."""
    guests = scale.fleets[-2]
    times = Fleet(Settings(), boots(guests, 30.0)).run(360.0, leases(guests, 30.0, 200.0))
    ending = times.between(200.0, 320.0)
    heads = ("frames/s with leases", "frames/s without", "peak in 10 ms", "peak in 1 s")
    rates = (figure(times.rate(140.0, 200.0)), figure(times.rate(320.0, 360.0)))
    peaks = (f"{ending.peak(INSTANT):,}", f"{ending.peak(1.0):,}")
    return table(("guests", *heads), [(f"{guests:,}", *rates, *peaks)])


# -- the page ---------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, figures to the right."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def written(page: str, found: dict[str, str]) -> str:
    """Return the page with its tables replaced.  Raises ValueError where a place is missing."""
    for name, text in found.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, middle, rest = page.partition(begin)
        _, last, tail = rest.partition(end)
        if not middle or not last:
            raise ValueError(f"the page has no place for the table {name}")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def draw(found: dict[tuple[int, str], tuple[float, int]], scale: Scale, folder: Path) -> None:
    """Draw the three plots of the page."""
    from bench.plot import plot  # needs matplotlib, which the tables do not

    title = "Broadcast frames a second, by the size of the fleet"
    labels = {"xlabel": "guests", "ylabel": "frames/s"}
    with plot(folder / "scale-steady.svg", title=title, **labels) as axes:
        for kind in dict.fromkeys(kind for _, kind in found):
            rates = [found[guests, kind][0] for guests in scale.fleets]
            axes.plot(scale.fleets, rates, label=kind)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_major_formatter("{x:,g}")

    starts = boots(scale.fleets[-2], 0.0)
    fleets = {"garp-agent": Fleet(Settings(), starts).run(40.0), LOOP: arping_loops(starts, 40.0)}
    title = f"{len(starts):,} guests started at the same instant"
    _draw_rates(folder / "scale-boot.svg", title, fleets, 0.0, 40.0)

    hosts, fleets = max(scale.hosts), {}
    for pace in (scale.paces[0], scale.paces[len(scale.paces) // 2], scale.paces[-1]):
        times = failover(hosts * GUESTS_PER_HOST, hosts, pace, leased=True)[1]
        name = f"--pace {pace:g}" if pace else "all at once"
        fleets[name] = Times(when - AT for when in times.all)
    title = f"A failover that concerns {hosts * GUESTS_PER_HOST:,} guests on {hosts} hosts"
    _draw_rates(folder / "scale-failover.svg", title, fleets, -1.0, 14.0)


def _draw_rates(
    file: Path, title: str, fleets: Mapping[str, Times], start: float, end: float
) -> None:
    from bench.plot import draw_panels

    curves = {name: [*zip(*times.binned(start, end, 0.1))] for name, times in fleets.items()}
    draw_panels(file, title, {name: (x, y) for name, (x, y) in curves.items()}, "frames/s")


def main() -> None:
    """Simulate, and write the page; --quick only prints small tables."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.fleet")
    parser.add_argument("--quick", action="store_true", help="small fleets; changes no file")
    scale = QUICK if (quick := parser.parse_args().quick) else Scale()
    found = steady(scale)
    parts = {"boot": boot_table, "failover": failover_table, "port": port_table}
    made = {"steady": steady_table(found)}
    made |= {name: part(scale) for name, part in {**parts, "lease": lease_table}.items()}
    for name, text in made.items():
        print(f"{name}\n\n{text}\n")
    if not quick:
        page = DOCS / "scale.md"
        page.write_text(written(page.read_text(), made))
        draw(found, scale, DOCS)


if __name__ == "__main__":
    main()
