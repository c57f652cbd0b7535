"""GARP_AGENT_NO_SKIPS turns each kind of skip into a failure, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = Path(__file__).with_name("conftest.py")
SKIPS = {
    "mark": "import pytest\n@pytest.mark.skip(reason='because')\ndef test(): pass\n",
    "call": "import pytest\ndef test(): pytest.skip('because')\n",
    "fixture": (
        "import pytest\n@pytest.fixture\ndef f(): pytest.skip('because')\ndef test(f): pass\n"
    ),
    "module": "import pytest\npytest.skip('because', allow_module_level=True)\n",
}
EXPECTED = "import pytest\n@pytest.mark.xfail\ndef test(): assert 0\n"


def run(folder: Path, no_skips: str) -> str:
    """The report of pytest on one file for each kind of skip, and an expected failure."""
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    for name, test in {**SKIPS, "xfail": EXPECTED}.items():
        (folder / f"test_{name}.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", str(folder)]
    environment = {**os.environ, "GARP_AGENT_NO_SKIPS": no_skips, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout


def test_each_skip_fails_and_keeps_its_reason(tmp_path: Path) -> None:
    report = run(tmp_path, "1")
    reason = "because (GARP_AGENT_NO_SKIPS is set: nothing may be skipped)"
    # pytest shows the reasons of three tests and of a module that was not collected.
    assert report.count(reason) >= len(SKIPS)
    last = report.splitlines()[-1]
    assert "1 failed, 1 xfailed, 3 errors" in last
    assert "skipped" not in last


@pytest.mark.parametrize("value", ["", "0"])
def test_without_it_a_skip_is_a_skip(tmp_path: Path, value: str) -> None:
    assert "4 skipped, 1 xfailed" in run(tmp_path, value).splitlines()[-1]
