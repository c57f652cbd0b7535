"""Coverage-guided fuzzing of everything that reads bytes from outside (atheris, libFuzzer).

    python -m tests.fuzz TARGET [--seconds N | --runs N] [--seed N]

A target fails on any exception but the decoder's declared one, and on what no input may
cause.  A find is printed with its bytes; keep it as a named case beside the decoder's
other tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["garp_agent", "yaml"]):
    from tests.fuzz import targets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60)")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs, instead")
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    arguments = parser.parse_args()
    target = targets.TARGETS[arguments.target]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            Path(corpus, str(number)).write_bytes(seed)
        limit = [f"-runs={arguments.runs}"]
        if arguments.runs < 0:
            limit = [f"-max_total_time={arguments.seconds}"]
        options = [f"-seed={arguments.seed}", "-max_len=4200", "-rss_limit_mb=512", "-timeout=10"]
        where = f"-artifact_prefix={tempfile.gettempdir()}/garp-agent-{arguments.target}-"
        atheris.Setup([sys.argv[0], corpus, where, *options, *limit], target.run)
        atheris.Fuzz()


main()
