#!/usr/bin/env python3
"""Run the tests of the agent's core and of the formats on Python 3.6 to 3.8, in the single file.

    tools/old_tests.py INTERPRETER FILE.pyz

The tests are rewritten as the package is, by old_python.py, and run with the last pytest and
hypothesis for Python 3.6.  What they test is the copy for Python 3.6 in the file.  Those that need
scapy are left out.  Properties are tried with a few examples, always the same ones: this is about
what Python 3.6 cannot do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import build_pyz
import old_python

ROOT = build_pyz.ROOT
NEEDED = ROOT / "tools" / "old-tests.txt"
TESTS = ("tests/guest/core", "tests/wire", "tests/golden", "tests/world.py")
EXAMPLES = "3"
ANY_PYTHON = ("--python-version", "3.6", "--implementation", "py", "--abi", "none")


def libraries() -> Path:
    """Return the folder of pytest and hypothesis; install them once."""
    folder = ROOT / ".cache" / f"old-tests-{hashlib.sha256(NEEDED.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
            only = ("--no-deps", "--only-binary", ":all:", "--require-hashes", *ANY_PYTHON)
            where = ("--platform", "any", "--target", unfinished, "-r", NEEDED)
            build_pyz.run(*pip, *only, *where)
            unfinished.rename(folder)
    return folder


def rewrite(to: Path) -> None:
    """Put the tests for Python 3.6 into a folder."""
    for source in TESTS:
        paths = [ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*.*")
        for path in paths:
            text = path.read_bytes()
            if path.suffix == ".pyc" or b"\nfrom scapy" in text:
                continue
            target = to / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".py":
                text = old_python.rewritten(text.decode()).encode()
            target.write_bytes(text)


def main() -> int:
    """Return the exit status of pytest."""
    interpreter, file = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        rewrite(Path(scratch))
        path = (libraries(), f"{Path(file).resolve()}/{build_pyz.OLD_SOURCE}", scratch)
        changes = {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GARP_AGENT_EXAMPLES": EXAMPLES,
        }
        options = ("-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "tests")
        command = (interpreter, "-m", "pytest", *options)
        return subprocess.run(
            command, cwd=scratch, env={**os.environ, **changes}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
