"""Takes file descriptors away from this process."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def open_descriptors() -> set[int]:
    gc.collect()
    names = os.listdir("/proc/self/fd")
    # The listing's own descriptor is closed by now.
    return {int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")}


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """In the block, this process can open `count` more descriptors."""
    used = open_descriptors()
    free = [number for number in range(max(used) + count + 2) if number not in used]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
