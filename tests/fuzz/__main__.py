"""Coverage-guided fuzzing of everything that reads bytes from outside (atheris, libFuzzer).

    python -m tests.fuzz TARGET [OPTION]...

Options are libFuzzer's, for example -max_total_time=60, -runs=1000, -seed=1.  Keep the bytes of a
failure as a case in the decoder's own tests.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["garp_agent", "yaml"]):
    from tests.fuzz import targets


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    if name not in targets.TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {'|'.join(targets.TARGETS)} [OPTION]...")
    run, seeds = targets.TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        prefix = f"-artifact_prefix={tempfile.gettempdir()}/garp-agent-{name}-"
        limits = ["-max_len=4200", "-rss_limit_mb=512", "-timeout=10"]
        atheris.Setup([sys.argv[0], corpus, prefix, *limits, *options], run)
        atheris.Fuzz()


main()
