"""GARP_AGENT_NO_SKIPS turns each kind of skip into a failure, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "mark": "@pytest.mark.skip(reason='because')\ndef test(): pass\n",
    "call": "def test(): pytest.skip('because')\n",
    "fixture": "@pytest.fixture\ndef f(): pytest.skip('because')\ndef test(f): pass\n",
    "module": "pytest.skip('because', allow_module_level=True)\n",
    "xfail": "@pytest.mark.xfail\ndef test(): assert 0\n",
}


def test_no_skips_turns_each_skip_into_a_failure_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    for name, text in TESTS.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{text}")
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", str(tmp_path)]
    environment = {**os.environ, "GARP_AGENT_NO_SKIPS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert " 1 failed, 1 xfailed, 3 errors in " in done.stdout.splitlines()[-1]
    assert done.stdout.count("because (GARP_AGENT_NO_SKIPS is set: nothing may be skipped)") >= 4
