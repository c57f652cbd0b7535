"""How fast this machine's time stamp counter runs, for its guests to be told.

An emulated guest reads the host's counter, and finds out its rate when it boots by
comparing it with an emulated timer.  On a busy machine it now and then gets this wrong
by a factor: all its time-outs and intervals are wrong then.  Told the rate, it does not try.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time
from collections.abc import Callable

READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
ATTEMPTS = 200
SPAN = 0.2  # seconds


@functools.cache
def counter_khz() -> int:
    """Thousands of ticks in a second; 0 where there is no such counter."""
    if platform.machine() != "x86_64":
        return 0
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as at:
        at.write(READ_COUNTER)
        code = ctypes.c_char.from_buffer(at)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
        first_ticks, first_moment = _simultaneous(read)
        time.sleep(SPAN)
        last_ticks, last_moment = _simultaneous(read)
        del code, read
    return round((last_ticks - first_ticks) * 1e6 / (last_moment - first_moment))


def _simultaneous(read: Callable[[], int]) -> tuple[int, float]:
    """The counter, and the moment in nanoseconds: the closest pair of many attempts."""
    closest, found = float("inf"), (0, 0.0)
    for _ in range(ATTEMPTS):
        before = time.monotonic_ns()
        ticks = read()
        after = time.monotonic_ns()
        if after - before < closest:
            closest, found = after - before, (ticks, (before + after) / 2)
    return found
