"""For the tests of the ways in: the repository's files, tools that may be missing, commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need(tool: str, package: str) -> str:
    """Where a tool is; without it the test is skipped, and says which package has it."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if not found:
        pytest.skip(f"needs `{tool}` (Debian package {package})")
    return found


def need_root() -> None:
    """Skip where we are not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    accept: Sequence[int] = (0,),
) -> str:
    """What a command prints, both streams together; a status that is not accepted fails."""
    done = subprocess.run(
        [str(word) for word in command],
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shown = " ".join(map(str, command))
    assert done.returncode in accept, f"{shown}: status {done.returncode}\n{done.stdout}"
    return done.stdout
