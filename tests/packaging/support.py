"""Shared by the tests of installation: paths, commands, tools that may be missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need(program: str, package: str) -> str:
    """Return the path of a program; skip and name its Debian package where it is missing."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if not found:
        pytest.skip(f"needs `{program}` (Debian package {package})")
    return found


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] = (0,),
) -> str:
    """Return what a command prints on both streams; fail on a status that is not accepted."""
    done = subprocess.run(
        [str(word) for word in command],
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shown = " ".join(map(str, command))
    assert done.returncode in accept, f"{shown}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def listing(top: Path, *, folders: bool = True) -> dict[str, str]:
    """Return each path in a tree with its mode, and the content of a file or target of a link."""
    found = {}
    for path in top.rglob("*"):
        what = f"{path.lstat().st_mode:o}"
        if path.is_symlink():
            what = f"-> {path.readlink()}"
        elif path.is_file():
            what += sha256(path.read_bytes()).hexdigest()
        if folders or not path.is_dir():
            found[str(path.relative_to(top))] = what
    return found
