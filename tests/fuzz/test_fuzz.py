"""A short run of every fuzz target, always the same; `python -m tests.fuzz` makes long ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.fuzz import targets

RUNS = 8_000
SLOW_RUNS = {"configuration": 1_500}  # PyYAML reads one character at a time


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_input_breaks_the_decoder(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no atheris for this interpreter and machine")
    runs = SLOW_RUNS.get(name, RUNS)
    path = os.pathsep.join((str(targets.ROOT / "agent"), str(targets.ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, f"-runs={runs}", "-seed=1"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=targets.ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {runs} runs" in done.stderr
