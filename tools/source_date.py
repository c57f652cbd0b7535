"""The date of everything that is built, so that two builds of one commit give the same bytes.

https://reproducible-builds.org/specs/source-date-epoch/
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def source_date() -> int:
    """Return SOURCE_DATE_EPOCH, else the date of the commit, in seconds since 1970."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(epoch)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return int(done.stdout)
    except FileNotFoundError:
        pass  # no git
    return int(Path(__file__).stat().st_mtime)  # an unpacked archive keeps the times of its files
