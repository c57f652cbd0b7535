"""`make bench-growth`: how the cost grows with addresses, links, claims and guests.

    python -m bench.growth [--quick] [--page]

The agent and the links are real, in network namespaces.  Of the watcher, its core and its sockets
run in a process of their own, with guests that only answer.  Each series has a plot and a slope:
the least-squares line through its points.  Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from math import log
from operator import mul
from pathlib import Path
from typing import NamedTuple

from scapy.layers.l2 import ARP, Ether

from bench import lab
from bench.agent import ENVIRONMENT, configured, cpu_seconds, status_field, watched
from bench.fleet import DOCS, figure, table, written
from bench.hints import answered
from bench.lab import GUEST_ADDRESS, ROOT, TinyLab
from bench.performance import machine

PAGE = DOCS / "growth.md"
FRAMES = 8  # a second, of all links
BURSTS_OVER = 12.0  # seconds after the start
ROUNDS = 5  # hint rounds; the figure is their median
FORGED = 64  # hardware addresses that claim the agent's address in turn


class Point(NamedTuple):
    """What one size costs."""

    size: int
    cpu: float  # in the unit of its series
    memory: float  # MB


class Series(NamedTuple):
    """One kind of growth: what is measured, and how its plot and page call it."""

    key: str  # of the plot's file and of the place in the page
    what: str  # one of what there are many
    many: str
    unit: str  # of the processor time
    each: str  # what the processor time is for
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    measure: Callable[[int, bool], Point]
    straight: int = 0  # the largest size through which the line goes; 0: all


class Line(NamedTuple):
    """A straight line through some points."""

    start: float
    slope: float  # for one more

    def at(self, size: float) -> float:
        return self.start + self.slope * size


def fitted(sizes: Sequence[float], values: Sequence[float], relative: bool = False) -> Line:
    """Return the least-squares line; at least two sizes differ.

    ``relative``: of the distances as parts of the values, so that small sizes count as much.
    """
    weights = [value**-2 if relative else 1.0 for value in values]
    total = sum(weights)
    middle = sum(map(mul, weights, sizes)) / total
    level = sum(map(mul, weights, values)) / total
    above = sum(w * (size - middle) * (v - level) for w, size, v in zip(weights, sizes, values))
    slope = above / sum(w * (size - middle) ** 2 for w, size in zip(weights, sizes))
    return Line(level - slope * middle, slope)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope in a plot with two logarithmic axes: 0 constant, 1 proportional."""
    pairs = [(log(size), log(value)) for size, value in zip(sizes, values) if size and value > 0]
    return fitted([size for size, _ in pairs], [value for _, value in pairs]).slope


# -- the agent --------------------------------------------------------------------------


def settings(links: int) -> str:
    """Return settings with which FRAMES frames a second are sent, once the first burst is over.

    A refresh of a link announces one address; the next one continues with the others.  With this
    policy, no refresh of the first minute is a probe.
    """
    interval = min(270.0, links / FRAMES)
    lines = (
        f"interval: {interval:.3f}s",
        "interval_with_lease: 270s",
        "jitter: 0%",
        "addresses_per_tick: 1",
        "burst: [0s]",
        "conflict: {policy: warn}",
        "rate_limit: {frames_per_second: 1000, depth: 1000}",
    )
    return "\n".join(lines)


def of_addresses(addresses: int, quick: bool) -> Point:
    """Measure the agent with so many addresses on one link."""
    with TinyLab() as where:
        more = (f"address add {_address(n)}/32 dev eth0" for n in range(1, addresses))
        where.ip("guest", *more)
        return _announcing(where, addresses, 1, quick)


def of_links(links: int, quick: bool) -> Point:
    """Measure the agent with so many links: eth0 and veth pairs, with an address each."""
    with TinyLab() as where:
        names = [f"{end}{n}" for n in range(links // 2) for end in "ab"][: links - 1]
        pairs = sorted({name[1:] for name in names})
        where.ip("guest", *(f"link add a{n} type veth peer name b{n}" for n in pairs))
        both = [f"{end}{n}" for n in pairs for end in "ab"]
        where.ip("guest", *(f"address add {_address(n)}/31 dev {x}" for n, x in enumerate(names)))
        where.ip("guest", *(f"link set {name} up" for name in both))
        return _announcing(where, links, links, quick)


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def _announcing(where: TinyLab, size: int, links: int, quick: bool) -> Point:
    with configured(where, settings(links)) as agent, watched(where) as wire:
        wire.when(patience=30.0)
        time.sleep(3.0 if quick else BURSTS_OVER)
        before, frames = cpu_seconds(agent.pid), _sent(where)
        time.sleep(3.0 if quick else 10.0)
        cpu, frames = cpu_seconds(agent.pid) - before, _sent(where) - frames
        return Point(size, cpu / frames * 1e6, status_field(agent.pid, "VmRSS") / 1024)


def _sent(where: TinyLab) -> int:
    """Return how many frames all links of the guest have sent; only the agent sends."""
    shown = where.run("guest", ["ip", "-s", "-json", "link", "show"]).stdout
    return sum(link["stats64"]["tx"]["packets"] for link in json.loads(shown))


def of_claims(rate: int, quick: bool) -> Point:
    """Measure the agent while others claim its address so many times a second."""
    seconds = 1.0 if quick else 4.0
    with TinyLab() as where, configured(where, "") as agent, watched(where) as wire:
        wire.when()
        time.sleep(2.0)
        with where.packet_socket("peer", "eth0", 0) as claims:
            _claim(claims, rate, 0.5)  # until the conflict is known
            before = cpu_seconds(agent.pid)
            sent, taken = _claim(claims, rate, seconds)
            cpu = cpu_seconds(agent.pid) - before
        # The sender may be slower than asked: the size is what it sent.
        return Point(
            round(sent / taken), cpu / taken * 1e3, status_field(agent.pid, "VmRSS") / 1024
        )


def _claim(claims: socket.socket, rate: int, seconds: float) -> tuple[int, float]:
    """Send claims at a rate; return their number, and the seconds that it took."""
    frames = cycle(
        bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=GUEST_ADDRESS))
        for mac in (f"02:00:5e:00:54:{number:02x}" for number in range(FORGED))
    )
    begun, sent = time.monotonic(), 0
    while (now := time.monotonic()) < begun + seconds:
        due = round((now - begun) * rate) - sent
        for frame in islice(frames, due):
            claims.send(frame)
        sent += due
        time.sleep(0.002)
    return sent, now - begun


# -- the watcher ------------------------------------------------------------------------


def of_guests(guests: int, quick: bool) -> Point:
    """Measure rounds of hints to so many guests, in a new process."""
    rounds = 1 if quick else ROUNDS
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"}
    with tempfile.TemporaryDirectory() as folder:
        stop, alive = os.pipe()
        ready, said = os.pipe()
        if not os.fork():
            os.close(alive)
            serve([os.path.join(folder, str(number)) for number in range(guests)], said, stop)
            os._exit(0)
        os.read(ready, 1)
        command = [sys.executable, "-m", "bench.hint_rounds", folder, str(guests), str(rounds)]
        printed = subprocess.check_output(command, env=environment, text=True)
        for end in (alive, stop, ready, said):
            os.close(end)
        os.wait()
    cpu, memory = map(float, printed.split())
    return Point(guests, cpu, memory)


def serve(paths: Sequence[str], said: int, stop: int) -> None:
    """Answer as the agents of guests do, until the other end of ``stop`` is closed."""
    poller = select.epoll()
    poller.register(stop, select.EPOLLHUP)
    listeners = {}
    for path in paths:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listeners[listener.fileno()] = listener
        poller.register(listener)
    os.write(said, b"!")
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == stop:
                return
            with listeners[descriptor].accept()[0] as sock:
                list(answered(sock, sock.recv(4096)))


SERIES = (
    Series(
        "addresses",
        "address",
        "addresses on one link",
        "us",
        "a frame",
        (1, 10, 100, 1000, 5000),
        (1, 20),
        of_addresses,
    ),
    Series(
        "links",
        "link",
        "links with an address each",
        "us",
        "a frame",
        (1, 10, 100, 500, 2000),
        (1, 20),
        of_links,
    ),
    Series(
        "guests",
        "guest",
        "guests of the watcher",
        "ms",
        "a round of hints",
        (1, 10, 100, 1000, 10000),
        (1, 20),
        of_guests,
    ),
    Series(
        "claims",
        "claim a second",
        "claims a second",
        "ms",
        "a second",
        (0, 50, 500, 5000, 20000, 50000),
        (0, 50, 500),
        of_claims,
        500,
    ),
)


# -- the page ---------------------------------------------------------------------------


def lines(series: Series, points: Sequence[Point]) -> tuple[Line, Line]:
    """Return the lines through processor time and memory."""
    most = 1.1 * series.straight or max(each.size for each in points)  # sizes are measured, too
    few = [each for each in points if each.size <= most]
    sizes, cpu, memory = zip(*few)
    relative = min(cpu) > 0  # nothing can cost nothing, as no claim does
    return fitted(sizes, cpu, relative), fitted(sizes, memory, relative=True)


def slopes(series: Series, points: Sequence[Point]) -> tuple[str, str]:
    """Return the slope of processor time and of memory, in words."""
    cpu, memory = lines(series, points)
    scale, unit = (1e3, "us") if series.unit == "ms" else (1.0, "us")
    limit = f", up to {series.straight:,}" if series.straight else ""
    time_slope = f"{_signed(cpu.slope * scale)} {unit} for each {series.what}{limit}"
    return f"CPU {time_slope}", f"memory {_signed(memory.slope * 1024)} kB for each {series.what}"


def _signed(value: float) -> str:
    if abs(value) < 0.001:
        return "+0"  # what the memory of a claim comes to
    return f"{'-' if value < 0 else '+'}{figure(abs(value))}"


def section(series: Series, points: Sequence[Point]) -> str:
    """Return the table of a series and its slopes, for the page."""
    heads = (series.many, f"CPU for {series.each}", "resident memory")
    rows = [
        (f"{each.size:,}", f"{figure(each.cpu)} {series.unit}", f"{each.memory:.1f} MB")
        for each in points
    ]
    time_slope, memory_slope = slopes(series, points)
    power = exponent([each.size for each in points], [each.cpu for each in points])
    return "\n".join(
        [
            table(heads, rows),
            "",
            f"Slopes: {time_slope} (log-log: {power:.2f}); {memory_slope}.",
        ]
    )


def spread(least: float, most: float) -> list[float]:
    """Return 101 sizes of equal ratios; from 1 on if the least is 0."""
    least = max(1.0, least)
    return [least * (most / least) ** (step / 100) for step in range(101)]


def draw(series: Series, points: Sequence[Point], file: Path) -> None:
    """Draw processor time and memory side by side, with their lines and slopes."""
    from matplotlib import pyplot, rc_context

    from bench.plot import BAD, FAINT, GOOD, INK, STYLE, save

    sizes = [each.size for each in points]
    values = ([each.cpu for each in points], [each.memory for each in points])
    titles = [slope.replace("memory", "Memory") for slope in slopes(series, points)]
    labels = (f"CPU for {series.each}, in {series.unit}", "resident memory, in MB")
    with contextlib.ExitStack() as stack:
        stack.enter_context(rc_context(STYLE))
        picture, panels = pyplot.subplots(1, 2, figsize=(9.6, 3.6))
        for axes, all_values, line, title, label, colour in zip(
            panels, values, lines(series, points), titles, labels, (GOOD, BAD)
        ):
            axes.plot(sizes, all_values, "o", color=colour)
            path = spread(min(sizes), series.straight or max(sizes))
            axes.plot(path, list(map(line.at, path)), "--", color=FAINT, zorder=0)
            axes.set_xscale("symlog", linthresh=min(filter(None, sizes)))
            axes.set_title(title, color=INK, loc="left", size=11)
            axes.set_xlabel(series.many)
            axes.set_ylabel(label)
            if not series.straight and max(all_values) > 50 * min(all_values):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
                axes.set_ylim(min(all_values) / 3, 5 * max(all_values))
            else:
                axes.set_ylim(0, 1.25 * max(all_values))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            for size, value in zip(sizes, all_values):
                axes.annotate(
                    figure(value),
                    (size, value),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    color=INK,
                    size=9,
                )
            axes.spines[["top", "right"]].set_visible(False)
        save(picture, file)


def measured(quick: bool, only: Sequence[str]) -> Iterator[tuple[Series, list[Point]]]:
    for series in SERIES:
        if only and series.key not in only:
            continue
        found = []
        for size in series.quick if quick else series.sizes:
            found.append(series.measure(size, quick))
            print(f"{series.key} {size}: {found[-1]}", file=sys.stderr, flush=True)
        yield series, found


def main() -> None:
    """Measure and print; with --page, write the page and its plots."""
    parser = argparse.ArgumentParser(prog="bench-growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name} and its plots")
    keys = [series.key for series in SERIES]
    parser.add_argument("--only", choices=keys, action="append", default=[])
    given = parser.parse_args()
    if reason := lab.why_not():
        sys.exit(f"bench-growth: {reason}")
    made = {}
    for series, points in measured(given.quick, given.only):
        made[series.key] = section(series, points)
        print(f"{series.key}\n\n{made[series.key]}\n", flush=True)
        if given.page:
            draw(series, points, DOCS / f"growth-{series.key}.svg")
    if given.page:
        made["machine"] = f"Measured on: {machine()}."
        PAGE.write_text(written(PAGE.read_text(), made))


if __name__ == "__main__":
    main()
