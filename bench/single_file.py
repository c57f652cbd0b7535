"""What the single file costs on each Python of this machine, beside that Python alone.

    python -m bench.single_file [--quick] [--page]

Needs root.  Prints a table; --page writes it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import agent, lab
from bench.fleet import written
from bench.lab import ROOT
from bench.performance import PAGE, machine

HEAD = """\
| Python | exec to first frame | python -IS -c pass | resident memory | python -IS |
|---|---|---|---|---|"""


def interpreters() -> dict[str, str]:
    """Return the path of each Python of this machine, by its version."""
    command = [str(ROOT / "tools" / "setup.sh"), "pythons", "6"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in printed.splitlines())


def row(version: str, program: agent.Program, quick: bool) -> str:
    """Measure on one interpreter, and return a row of the table."""
    times, runs = (1, 5) if quick else (3, 21)
    start = agent.repeated(1, lambda where: agent.first_frame(where, runs, program))
    size = agent.repeated(times, lambda where: agent.resident(where, program))
    return (
        f"| {version} | {start.ours:.1f} ms | {start.peer:.1f} ms "
        f"| {size.ours:.1f} MB | {size.peer:.1f} MB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--page", action="store_true", help=f"write it into {PAGE.name}")
    arguments = parser.parse_args()
    if reason := lab.why_not():
        sys.exit(f"single_file: {reason}")
    lines = [HEAD]
    print(HEAD)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "garp-agent.pyz"
        build = [sys.executable, str(ROOT / "tools" / "build_pyz.py"), "-o", str(file)]
        subprocess.run(build, stdout=subprocess.DEVNULL, check=True)
        for version, python in interpreters().items():
            environment = {**agent.ENVIRONMENT, "GARP_PYTHON": python}
            program = agent.Program([str(file), "run"], (python, "-IS"), environment)
            lines.append(row(version, program, arguments.quick))
            print(lines[-1], flush=True)
    lines += ["", f"Measured on: {machine().partition(', ')[2]}."]
    if arguments.page:
        PAGE.write_text(written(PAGE.read_text(), {"single file": "\n".join(lines)}))


if __name__ == "__main__":
    main()
