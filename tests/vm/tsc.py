"""Measures the rate of this machine's time stamp counter, for its guests to be told.

An emulated guest reads the host's counter. If it is not told the rate, it measures it at boot. On a
busy machine the result can be wrong by a factor, and so is every timeout in the guest.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import time
from collections.abc import Callable

READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
SPAN = 0.2  # seconds


@functools.cache
def tsc_khz() -> int:
    """Return the rate in kHz, measured against the monotonic clock."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as at:
        at.write(READ_COUNTER)
        code = ctypes.c_char.from_buffer(at)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
        first_ticks, first_moment = _sample(read)
        time.sleep(SPAN)
        last_ticks, last_moment = _sample(read)
        del code, read
    return round((last_ticks - first_ticks) * 1e6 / (last_moment - first_moment))


def _sample(read: Callable[[], int]) -> tuple[int, float]:
    """Return the counter and its moment in ns: the closest pair of many, against preemption."""

    def attempt() -> tuple[int, int, float]:
        before, ticks, after = time.monotonic_ns(), read(), time.monotonic_ns()
        return after - before, ticks, (before + after) / 2

    return min(attempt() for _ in range(200))[1:]
