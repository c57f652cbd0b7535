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
    highest = max(open_descriptors()) + count + 1
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] < highest:
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
    os.close(fillers.pop())  # this one is beyond the limit
    for _ in range(count):
        os.close(fillers.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for filler in fillers:
            os.close(filler)
