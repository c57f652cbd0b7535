"""`make bench`: every figure beside its peer, as a table, and in docs/performance.md.

    python -m bench.performance [--quick] [--page]

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
from collections.abc import Iterator
from pathlib import Path

from bench import agent, hints, host, lab
from bench.agent import Figure
from bench.fleet import written
from bench.lab import ROOT, TinyLab

PAGE = ROOT / "docs/performance.md"
HEAD = ("| what | garp-agent | beside | ratio | asked for |", "|---|---|---|---|---|")


def of_floods(quick: bool) -> Iterator[Figure]:
    for reads in (True, False):
        with TinyLab() as lab:
            yield from hints.flood(lab, 100_000 if quick else 1_000_000, reads)


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
    yield from hints.latency(quick)
    yield from hints.fanout(5 if quick else 20)
    yield from host.measure(quick)
    yield from of_floods(quick)
    yield from of_demo(quick)


def machine() -> str:
    return f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs"


def as_row(figure: Figure) -> str:
    ours = f"{figure.ours:.4g} {figure.unit}".strip()
    peer = f"{figure.peer:.4g} {figure.unit} ({figure.peer_name})".replace("  ", " ")
    return f"| {figure.name} | {ours} | {peer} | {figure.ratio:.3g} | {figure.bound} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--page", action="store_true", help=f"write them into {PAGE.name}")
    arguments = parser.parse_args()
    if reason := lab.why_not() or lab.why_no_arping():
        sys.exit(f"performance: {reason}")
    lines = [*HEAD]
    print(*lines, sep="\n")
    for figure in measured(arguments.quick):
        lines.append(as_row(figure))
        print(lines[-1], flush=True)
    lines += ["", f"Measured on: {machine()}."]
    print(*lines[-2:], sep="\n")
    if arguments.page:
        PAGE.write_text(written(PAGE.read_text(), {"measured": "\n".join(lines)}))


if __name__ == "__main__":
    main()
