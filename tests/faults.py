"""Takes away from a running daemon what it has loaded from, or could open."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import lab

# A daemon that is started with this has a mount namespace of its own.
OWN_MOUNTS = ("unshare", "--mount")
# A daemon that is started with this has no megabyte of free memory in reserve.
NO_ARENAS = ("env", "PYTHONMALLOC=malloc", "MALLOC_TRIM_THRESHOLD_=0", "MALLOC_TOP_PAD_=0")


def in_mounts_of(pid: int, *command: str) -> None:
    """Run a command with the mounts of another process."""
    subprocess.run(["nsenter", f"--mount=/proc/{pid}/ns/mnt", *command], check=True)


def take_away_library(pid: int) -> None:
    """Hide the standard library and the package from a process that has its own mounts."""
    for directory in (sysconfig.get_path("stdlib"), lab.ROOT / "agent"):
        in_mounts_of(pid, "mount", "-t", "tmpfs", "none", str(directory))
        assert not any((Path(f"/proc/{pid}/root") / str(directory)[1:]).iterdir())


def take_away_descriptors(pid: int) -> None:
    """Let a process open no more descriptors."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    first_free = min(set(range(len(used) + 1)) - used)
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, most))


@contextlib.contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """Let a process get no more memory from the kernel during the block."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS, (size, -1))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))


LOSSES: dict[str, tuple[Callable[[int], None], ...]] = {
    "library": (take_away_library,),
    "descriptors": (take_away_descriptors,),
    "both": (take_away_library, take_away_descriptors),
}
