"""Measures rounds of hints to many guests, in a process that holds nothing else.

Run by `bench.growth`: python -m bench.hint_rounds FOLDER GUESTS ROUNDS, where each guest is a Unix
socket in the folder, named by its number.
"""

from __future__ import annotations

import os
import select
import sys
import time

from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.watcher import HintOptions, Watcher
from garp_agent.hypervisor.io.fanout import Fanout


def spent(watcher: Watcher, fanout: Fanout, number: int) -> float:
    """Hint all guests and read their replies; return the processor time in seconds."""
    before = time.process_time()
    now = time.monotonic()
    results = fanout.start(watcher.hint_all(f"failover {number}", now, now), now)
    while len(fanout) or results:
        for result in results:
            watcher.finished(result, now)
        select.select([fanout], [], [], 0.1)
        now = time.monotonic()
        results = fanout.read(now) + fanout.advance(now)
    watcher.take_notices()
    return time.process_time() - before


def main() -> None:
    """Print the processor time of a round (ms), the median, and the memory (MB)."""
    folder, guests, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    watcher = Watcher(HintOptions(), "0123456789ab", lambda: 0.5)
    names = [str(number) for number in range(guests)]
    watcher.found([Channel(name, os.path.join(folder, name)) for name in names], 0.0)
    fanout = Fanout(60.0)
    spent(watcher, fanout, 0)  # the first contact
    times = sorted(spent(watcher, fanout, number + 1) for number in range(rounds))
    with open("/proc/self/status") as status:
        size = next(line.split()[1] for line in status if line.startswith("VmRSS"))
    print(times[len(times) // 2] * 1e3, int(size) / 1024)


if __name__ == "__main__":
    main()
