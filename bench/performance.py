"""`make bench`: every figure beside its peer, as a table, JSON, and docs/performance.md.

    python -m bench.performance [--quick] [--json FILE] [--page]

Needs root; everything happens in network namespaces that it makes and removes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import agent, fanout, flood, hint_latency, lab
from bench.agent import Figure
from bench.lab import ROOT, TinyLab

PAGE = ROOT / "docs/performance.md"
# What is between these lines of the page is measured.
BEGIN, END = "<!-- measured -->\n", "<!-- end of what is measured -->\n"
HEAD = "| what | garp-agent | beside | ratio | asked for |\n|---|---|---|---|---|\n"


def of_floods(quick: bool) -> Iterator[Figure]:
    for reads in (True, False):
        with TinyLab() as lab:
            yield from flood.measure(lab, 100_000 if quick else 1_000_000, reads)


def of_demo(quick: bool) -> Iterator[Figure]:
    """The demo's medians, each beside the arping loop's."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "bench.demo", "--json", file.name]
        subprocess.run(
            command + ["--quick"] * quick, check=True, stdout=subprocess.DEVNULL, cwd=ROOT
        )
        methods = json.loads(Path(file.name).read_text())["methods"]
    medians = {method["method"]: method["median"] for method in methods}
    asked = {"agent-5s": "", "agent-1s": "", "agent-hint": "under 5 ms"}
    for method in methods:
        if (key := method["method"]) in asked:
            name, ours = f"outage: {method['title']}", method["median"] * 1e3
            peer = medians["arping"] * 1e3
            yield Figure(name, "ms", ours, peer, "arping loop, sleep 5 s", asked[key])


def measured(quick: bool) -> Iterator[Figure]:
    yield from agent.measure(quick)
    yield from hint_latency.measure(quick)
    yield from fanout.measure(5 if quick else 20)
    yield from of_floods(quick)
    yield from of_demo(quick)


def machine() -> str:
    return f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs"


def as_row(figure: Figure) -> str:
    ours = f"{figure.ours:.4g} {figure.unit}".strip()
    peer = f"{figure.peer:.4g} {figure.unit} ({figure.peer_name})".replace("  ", " ")
    return f"| {figure.name} | {ours} | {peer} | {figure.ratio:.3g} | {figure.bound} |"


def write_page(figures: Sequence[Figure]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    rows = "".join(as_row(each) + "\n" for each in figures)
    PAGE.write_text(f"{before}{BEGIN}{HEAD}{rows}\nMeasured on: {machine()}.\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--page", action="store_true", help=f"write them into {PAGE.name}")
    arguments = parser.parse_args()
    if reason := lab.why_not() or lab.why_no_arping():
        sys.exit(f"performance: {reason}")
    print(machine())
    print(HEAD, end="")
    figures: list[Figure] = []
    for figure in measured(arguments.quick):
        print(as_row(figure), flush=True)
        figures.append(figure)
    if arguments.json:
        rows: list[dict[str, Any]] = [{**each._asdict(), "ratio": each.ratio} for each in figures]
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.page:
        write_page(figures)


if __name__ == "__main__":
    main()
