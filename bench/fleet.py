"""What a fleet of guests costs its network: the agent's real code, thousands of times over.

    python -m bench.fleet [--quick] [--json FILE]

Every guest is a real `core.engine`, every hint a line that the real watcher of the
hypervisor writes and the real decoder reads; only the clock is literal, so an hour of
50,000 guests takes a minute.  Guests have one address, which is one frame a refresh.  The
arping loop is a model: one frame, a second in which arping waits, five of sleep, and some
milliseconds of fork and exec.  Writes the tables and plots of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from array import array
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.plot import Curve, Plot

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "agent"))

from garp_agent.config.settings import Settings  # noqa: E402
from garp_agent.guest.core.engine import Engine  # noqa: E402
from garp_agent.guest.core.model import (  # noqa: E402
    ARPHRD_ETHER,
    AddressSeen,
    BurstRequested,
    Cause,
    InterfaceAddress,
    LeaseGranted,
    Link,
    LinkSeen,
)
from garp_agent.hypervisor.core.guests import Channel  # noqa: E402
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher  # noqa: E402
from garp_agent.wire import protocol  # noqa: E402
from garp_agent.wire.lines import LineDecoder  # noqa: E402
from garp_agent.wire.model import (  # noqa: E402
    IFF_LOWER_UP,
    IFF_UP,
    LEVEL_ERROR,
    DumpComplete,
    DumpStarted,
)

if TYPE_CHECKING:
    from garp_agent.guest.core.model import Event

DOCS = ROOT / "docs"
SEED = 6
INSTANT = 0.010  # seconds: the window of a peak
GUESTS_PER_HOST = 50
FAN_OUT = 0.0001  # seconds from one guest's hint to the next one's, as bench.fanout measures it
HOSTS_APART = 0.002  # seconds within which many hosts notice the same failover
ARPING = 1.0  # seconds that `arping -U -c1` takes
SLEEP = 5.0
FORK = (0.002, 0.008)  # seconds
INSPECTION = 15  # ARP frames a second at which Cisco's inspection shuts a port

Happening = tuple[float, int, "Event"]  # when, to which guest, what


class Times:
    """When frames went out, in order."""

    def __init__(self, times: Iterable[float]) -> None:
        self.all = array("d", sorted(times))

    def between(self, start: float, end: float) -> Times:
        """Those in a span of time."""
        return Times(each for each in self.all if start <= each < end)

    def rate(self, start: float, end: float) -> float:
        """Frames a second, on average."""
        return len(self.between(start, end).all) / (end - start)

    def peak(self, window: float) -> int:
        """The most in any window of that length."""
        most = first = 0
        for last, when in enumerate(self.all):
            while self.all[first] <= when - window:
                first += 1
            most = max(most, last - first + 1)
        return most

    def binned(self, start: float, end: float, width: float) -> list[tuple[float, float]]:
        """Frames a second, bin by bin."""
        counts = [0] * round((end - start) / width)
        for when in self.all:
            index = int((when - start) / width)
            if when >= start and index < len(counts):
                counts[index] += 1
        return [(start + (n + 0.5) * width, count / width) for n, count in enumerate(counts)]


# -- guests -------------------------------------------------------------------------------


class Fleet:
    """Guests on one broadcast domain, numbered from 0; ``boots`` says when each agent starts."""

    def __init__(self, settings: Settings, boots: Sequence[float], seed: int = SEED) -> None:
        self._uniform = random.Random(seed).random
        self._boots = boots
        self._settings = settings
        self._engines = [Engine(settings, self._uniform, LEVEL_ERROR) for _ in boots]
        self.frames: list[tuple[float, int]] = []  # when, by which guest

    def run(self, until: float, happenings: Iterable[Happening] = ()) -> Times:
        """Let time pass; the frames of all."""
        queue: list[tuple[float, int, int, Event | None]] = []
        for number, boot in enumerate(self._boots):
            queue.append((boot, len(queue), number, DumpStarted()))
        for when, number, happening in happenings:
            queue.append((when, len(queue), number, happening))
        heapify(queue)
        serial = len(queue)
        deadlines = [float("inf")] * len(self._engines)
        while queue and queue[0][0] < until:
            now, _, number, event = heappop(queue)
            if event is None and deadlines[number] != now:
                continue  # it was woken by something else meanwhile
            engine = self._engines[number]
            self._tell(engine, event, now)
            while engine.next_frame(now) is not None:
                self.frames.append((now, number))
            deadlines[number] = max(now, engine.deadline())
            serial += 1
            heappush(queue, (deadlines[number], serial, number, None))
        return Times(when for when, _ in self.frames)

    def _tell(self, engine: Engine, event: Event | None, now: float) -> None:
        if isinstance(event, DumpStarted):  # its start
            link = Link(2, "eth0", b"\2\0\0\0\0\1", ARPHRD_ETHER, IFF_UP | IFF_LOWER_UP)
            address = InterfaceAddress(2, b"\xc0\0\2\1", 24)
            for each in (event, LinkSeen(link), AddressSeen(address), DumpComplete()):
                engine.handle(each, now)
        elif event is not None:
            engine.handle(event, now)


def boots(guests: int, spread: float, seed: int = SEED) -> list[float]:
    """When each guest starts: anywhere within the spread; 0: all at the same instant."""
    draw = random.Random(seed).random
    return [draw() * spread for _ in range(guests)]


def arping_loops(starts: Sequence[float], until: float, seed: int = SEED) -> Times:
    """`while true; do arping -q -U -c1; sleep 5; done` on every guest."""
    draw = random.Random(seed)
    frames = []
    for start in starts:
        now = start + draw.uniform(*FORK)
        while now < until:
            frames.append(now)
            now += ARPING + SLEEP + draw.uniform(*FORK)
    return Times(frames)


# -- hosts --------------------------------------------------------------------------------


def hints(
    hosts: int, at: float, pace: float, settings: Settings, seed: int = SEED
) -> list[Happening]:
    """What the guests of so many hosts are told when these notice a failover."""
    draw = random.Random(seed).random
    told: list[Happening] = []
    for host in range(hosts):
        noticed = at + draw() * HOSTS_APART
        for index, event in enumerate(_lines_of(host, pace, settings)):
            told.append((noticed + index * FAN_OUT, host * GUESTS_PER_HOST + index, event))
    return told


def _lines_of(host: int, pace: float, settings: Settings) -> list[Event]:
    watcher = Watcher(HintOptions(pace=pace), f"host-{host}", lambda: 0.5)
    watcher.found([Channel(str(n), f"/{n:04}") for n in range(GUESTS_PER_HOST)], 0.0)
    calls = sorted(watcher.failover("bond0", "failover", 1.0, 1.0), key=lambda call: call.path)
    return [_read(call.exchange.outgoing, settings) for call in calls]


def _read(outgoing: bytes, settings: Settings) -> Event:
    for line in LineDecoder().feed(outgoing):
        assert isinstance(line, bytes)
        request = protocol.parse(line, protocol.PORT_COMMANDS)
        if isinstance(request, protocol.Burst):
            return BurstRequested(Cause.HINT, request.offsets(settings.burst))
    raise AssertionError("the watcher asked for no burst")


def leases(guests: int, since: float, until: float, seed: int = SEED) -> list[Happening]:
    """Promises of 90 s, renewed every 30 s, each guest at a moment of its own."""
    draw = random.Random(seed).random
    told: list[Happening] = []
    for number in range(guests):
        now = since + draw() * 30.0
        while now < until:
            told.append((now, number, LeaseGranted(90.0)))
            now += 30.0
    return told


# -- the scenarios ------------------------------------------------------------------------


class Scale(NamedTuple):
    """How much is simulated."""

    fleets: tuple[int, ...] = (50, 500, 5000, 50000)
    intervals: tuple[float, ...] = (1.0, 5.0, 15.0, 60.0)
    hosts: tuple[int, ...] = (1, 10, 100)
    paces: tuple[float, ...] = (0.0, 100.0, 20.0, 4.0)
    ports: tuple[int, ...] = (10, 50, 100, 200)


QUICK = Scale((50, 500), (5.0, 60.0), (1, 10), (0.0, 4.0), (10, 50))


def steady(scale: Scale) -> list[dict[str, Any]]:
    """Long after the start: frames a second and peaks."""
    rows = []
    for guests in scale.fleets:
        for interval in scale.intervals:
            settings = Settings(interval=interval, interval_with_lease=max(interval, 60.0))
            start, end = 2 * interval, 2 * interval + max(10.0, 2 * interval)
            times = Fleet(settings, boots(guests, interval)).run(end).between(start, end)
            rows.append(_row(times, start, end, guests=guests, interval=interval))
        times = arping_loops(boots(guests, 6.0), 72.0).between(60.0, 72.0)
        rows.append(_row(times, 60.0, 72.0, guests=guests, interval="arping loop"))
    return rows


def _row(times: Times, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {**more, "rate": times.rate(start, end), "peak": times.peak(INSTANT)}


def booted(scale: Scale) -> list[dict[str, Any]]:
    """All guests start within a spread of time: the first seconds, and minutes later."""
    rows = []
    for guests in scale.fleets:
        for spread in (0.0, 30.0):
            starts = boots(guests, spread)
            ours = Fleet(Settings(), starts).run(130.0)
            loop = arping_loops(starts, 130.0)
            rows.append(
                {
                    "guests": guests,
                    "spread": spread,
                    "first": ours.between(0.0, spread + 1.0).peak(INSTANT),
                    "later": ours.between(120.0, 130.0).peak(INSTANT),
                    "loop_first": loop.between(0.0, spread + 1.0).peak(INSTANT),
                    "loop_later": loop.between(120.0, 130.0).peak(INSTANT),
                }
            )
    return rows


def failed_over(scale: Scale) -> list[dict[str, Any]]:
    """Hints to the guests of some hosts, in a fleet of all of them."""
    rows = []
    guests = max(scale.hosts) * GUESTS_PER_HOST
    for leased in (False, True):
        for hosts in scale.hosts:
            for pace in scale.paces:
                rows.append(_failover(guests, hosts, pace, leased))
    return rows


AT = 100.0  # seconds: when the failover comes


def failover(guests: int, hosts: int, pace: float, leased: bool) -> tuple[Fleet, Times]:
    """One failover; everything that all guests sent."""
    settings = Settings()
    happenings = hints(hosts, AT, pace, settings)
    if leased:
        happenings += leases(guests, 0.0, AT + 20.0)
    fleet = Fleet(settings, boots(guests, 30.0))
    return fleet, fleet.run(AT + 20.0, happenings)


def _failover(guests: int, hosts: int, pace: float, leased: bool) -> dict[str, Any]:
    fleet, times = failover(guests, hosts, pace, leased)
    first: dict[int, float] = {}
    for when, number in fleet.frames:
        if when >= AT and number < hosts * GUESTS_PER_HOST:
            first.setdefault(number, when)
    port = Times(when for when, number in fleet.frames if number < GUESTS_PER_HOST)
    return {
        "lease": leased,
        "hosts": hosts,
        "pace": pace,
        "before": times.rate(AT - 20.0, AT),
        "peak": times.between(AT, AT + 20.0).peak(INSTANT),
        "port": port.between(AT, AT + 20.0).peak(1.0),
        "last": max(first.values()) - AT,
    }


def one_port(scale: Scale) -> list[dict[str, Any]]:
    """The guests of one host share a switch port: the most in any second of ten minutes."""
    rows = []
    for guests in scale.ports:
        row: dict[str, Any] = {"guests": guests}
        for interval in (5.0, 15.0, 60.0):
            settings = Settings(interval=interval, interval_with_lease=max(interval, 60.0))
            times = Fleet(settings, boots(guests, interval)).run(720.0)
            row[f"{interval:g}"] = times.between(120.0, 720.0).peak(1.0)
        rows.append(row)
    return rows


def lease_lost(scale: Scale) -> dict[str, Any]:
    """The hypervisors' ends stop: the promises run out."""
    guests = scale.fleets[-2] if len(scale.fleets) > 1 else scale.fleets[0]
    times = Fleet(Settings(), boots(guests, 30.0)).run(360.0, leases(guests, 30.0, 200.0))
    return {
        "guests": guests,
        "with": times.rate(140.0, 200.0),
        "after": times.rate(320.0, 360.0),
        "peak": times.between(200.0, 320.0).peak(INSTANT),
        "second": times.between(200.0, 320.0).peak(1.0),
    }


# -- the page -----------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, figures to the right."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def figure(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def tables(found: dict[str, Any]) -> dict[str, str]:
    """All tables, by the names of their places in the page."""
    return {
        "steady": _steady_table(found["steady"]),
        "boot": table(
            (
                "guests",
                "started within",
                "agent: first",
                "agent: 2 min",
                "loop: first",
                "loop: 2 min",
            ),
            [
                (
                    f"{row['guests']:,}",
                    f"{row['spread']:g} s" if row["spread"] else "an instant",
                    *(f"{row[key]:,}" for key in ("first", "later", "loop_first", "loop_later")),
                )
                for row in found["boot"]
            ],
        ),
        "failover": table(
            (
                "hosts",
                "lease",
                "--pace",
                "frames/s before",
                "peak in 10 ms",
                "one port, in 1 s",
                "last guest after",
            ),
            [
                (
                    str(row["hosts"]),
                    "yes" if row["lease"] else "no",
                    f"{row['pace']:g}" if row["pace"] else "-",
                    figure(row["before"]),
                    f"{row['peak']:,}",
                    str(row["port"]),
                    f"{row['last'] * 1000:.0f} ms" if row["last"] < 1 else f"{row['last']:.1f} s",
                )
                for row in found["failover"]
            ],
        ),
        "port": table(
            ("guests on the port", "every 5 s", "every 15 s", "every 60 s"),
            [
                (str(row["guests"]), *(str(row[key]) for key in ("5", "15", "60")))
                for row in found["port"]
            ],
        ),
        "lease": table(
            ("guests", "frames/s with leases", "frames/s without", "peak in 10 ms", "peak in 1 s"),
            [
                (
                    f"{found['lease']['guests']:,}",
                    figure(found["lease"]["with"]),
                    figure(found["lease"]["after"]),
                    f"{found['lease']['peak']:,}",
                    f"{found['lease']['second']:,}",
                )
            ],
        ),
    }


def _steady_table(rows: list[dict[str, Any]]) -> str:
    kinds = list(dict.fromkeys(row["interval"] for row in rows))
    heads = [kind if isinstance(kind, str) else f"every {kind:g} s" for kind in kinds]
    cells = {
        (row["guests"], row["interval"]): f"{figure(row['rate'])} ({row['peak']:,})" for row in rows
    }
    sizes = dict.fromkeys(row["guests"] for row in rows)
    return table(
        ("guests", *heads), [(f"{n:,}", *(cells[n, kind] for kind in kinds)) for n in sizes]
    )


def written(page: str, found: dict[str, str]) -> str:
    """The page with its tables replaced; raises ValueError where a place is missing."""
    for name, text in found.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, middle, rest = page.partition(begin)
        _, last, tail = rest.partition(end)
        if not middle or not last:
            raise ValueError(f"docs/scale.md has no place for the table {name}")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def plots(found: dict[str, Any], scale: Scale) -> dict[str, str]:
    """The drawings, by file name."""
    guests = scale.fleets[min(2, len(scale.fleets) - 1)]
    return {
        "scale-steady.svg": _plot_steady(found["steady"]),
        "scale-boot.svg": _plot_boot(guests),
        "scale-failover.svg": _plot_failover(max(scale.hosts), scale.paces),
    }


def _plot_steady(rows: list[dict[str, Any]]) -> str:
    kinds = list(dict.fromkeys(row["interval"] for row in rows))
    curves = []
    for kind in kinds:
        name = kind if isinstance(kind, str) else f"every {kind:g} s"
        points = [(row["guests"], row["rate"]) for row in rows if row["interval"] == kind]
        curves.append(Curve(name, points, marks=True))
    title = "Broadcast frames a second, by the size of the fleet"
    return Plot(title, "guests", "frames/s", log_x=True, log_y=True).draw(curves)


def _plot_boot(guests: int) -> str:
    starts = boots(guests, 0.0)
    ours = Fleet(Settings(), starts).run(40.0).binned(0.0, 40.0, 0.1)
    loop = arping_loops(starts, 40.0).binned(0.0, 40.0, 0.1)
    title = f"{guests:,} guests started at the same instant"
    return Plot(title, "seconds since the start", "frames/s", log_y=True).draw(
        [Curve("garp-agent", ours, steps=True), Curve("arping loop", loop, steps=True)]
    )


def _plot_failover(hosts: int, paces: Sequence[float]) -> str:
    curves = []
    for pace in (paces[0], paces[len(paces) // 2], paces[-1]):
        _, times = failover(hosts * GUESTS_PER_HOST, hosts, pace, leased=True)
        points = [(when - AT, rate) for when, rate in times.binned(AT - 1.0, AT + 14.0, 0.1)]
        curves.append(Curve(f"--pace {pace:g}" if pace else "all at once", points, steps=True))
    title = f"A failover that concerns {hosts * GUESTS_PER_HOST:,} guests on {hosts} hosts"
    return Plot(title, "seconds since the failover", "frames/s", log_y=True).draw(curves)


def simulate(scale: Scale) -> dict[str, Any]:
    """Everything; says on standard error how far it is."""
    parts = {
        "steady": steady,
        "boot": booted,
        "failover": failed_over,
        "port": one_port,
        "lease": lease_lost,
    }
    found = {}
    for name, part in parts.items():
        began = time.monotonic()
        found[name] = part(scale)
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return found


def main() -> None:
    """Simulate, and write the page; --quick only shows a small one."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.fleet")
    parser.add_argument("--quick", action="store_true", help="small fleets; changes no file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    scale = QUICK if given.quick else Scale()
    found = simulate(scale)
    made = tables(found)
    for name, text in made.items():
        print(f"{name}\n\n{text}\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    if not given.quick:
        page = DOCS / "scale.md"
        page.write_text(written(page.read_text(), made))
        for name, drawing in plots(found, scale).items():
            (DOCS / name).write_text(drawing)


if __name__ == "__main__":
    main()
