"""Carries out a drill: switches a bond to its standby port and back, and probes its guests.

The bond is put back as it was, whatever happens, except for SIGKILL.  Does not measure
(hypervisor.core.drill), and does not decide whether a drill may begin (cli.drill).
"""

from __future__ import annotations

import time
from contextlib import suppress
from math import inf

from garp_agent.hypervisor.core.drill import (
    Direction,
    healed,
    is_settled,
    outages,
    reversed_path,
)
from garp_agent.hypervisor.core.linkstate import LINKS, LinkReport
from garp_agent.hypervisor.core.probe_series import Pace, ProbeSeries
from garp_agent.hypervisor.guest_path_lookup import dumped
from garp_agent.hypervisor.io.bond_switch import activate_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeTarget
    from garp_agent.hypervisor.probe_driver import ProbeDriver

# 2,000 probes in any second at most: those of one second, and those that may catch up.
CATCH_UP = 0.01
PACE = Pace((1.0 + CATCH_UP) / 1999, 0.01, CATCH_UP)
TARGETS_MOST = 20  # each is probed 100 times a second
WATCHED_MOST = 10.0  # seconds after a switch, or twice the limit if that is more
TIMEOUT = 5.0  # seconds for a dump of all links
LOOK = 0.1  # seconds between two looks at what has arrived


class DrillError(Exception):
    """The drill ended early; the text says why."""


class Drill:
    """A drill with one bond, which begins on the port ``path.active``."""

    def __init__(
        self,
        driver: ProbeDriver,
        path: ProbePath,
        targets: Sequence[ProbeTarget],
        limit: float,
        progress: Callable[[int], object] = lambda _healed: None,
    ) -> None:
        """``targets``: as they are probed before the drill.  ``limit``: seconds.

        ``progress``: is told how many targets have been reached again.
        """
        self._driver = driver
        self._path = path
        self._targets = targets
        self._watched_most = max(WATCHED_MOST, 2 * limit)
        self._progress = progress

    def run(self, count: int) -> Generator[Direction, None, None]:
        """Switch there and back ``count`` times; yield each direction when it is over.

        Raises DrillError if something else switches the bond too; OSError if the kernel refuses.
        Close the iterator, or let it end, to put the bond back.
        """
        self._check(self._path.active)
        path = self._path
        try:
            for _ in range(2 * count):
                # What went out of the standby port will go out of the active one, and the
                # other way round.
                path = reversed_path(path)
                yield self._direction(path)
                self._check(path.active)
        finally:
            try:
                self._put_back()
            except KeyboardInterrupt:  # the only one: cli.drill ignores all signals after it
                self._put_back()
                raise

    def _direction(self, path: ProbePath) -> Direction:
        targets = [target._replace(path=path) for target in self._targets]
        series = ProbeSeries(targets, PACE)
        activate_port(path.bond, path.active)
        switched_at = time.monotonic()
        look_at = -inf

        def is_over(now: float) -> bool:
            nonlocal look_at
            if now < look_at:
                return False
            look_at = now + LOOK
            self._progress(healed(series))
            return now > switched_at + self._watched_most or is_settled(series, now)

        self._driver.run(series, is_over)
        now = time.monotonic()
        self._progress(len(targets))
        return Direction(path, now - switched_at, tuple(outages(series, switched_at, now)))

    def _check(self, port: int) -> None:
        active = active_port(self._path.bond)
        if active != port:
            raise DrillError("the bond was switched by something else, or has lost the port")

    def _put_back(self) -> None:
        with suppress(OSError):  # it has no carrier any more: the bond is where it can be
            if active_port(self._path.bond) != self._path.active:
                activate_port(self._path.bond, self._path.active)


def wall_time() -> float:
    """Return the time in seconds since 1970, for the reader of a report."""
    return round(time.time(), 3)


def active_port(bond: int) -> int:
    """Return the ifindex of the active port of a bond; 0: it has none."""
    for event in dumped(LINKS, TIMEOUT):
        if isinstance(event, LinkReport) and event.link.ifindex == bond and event.link.bond:
            return event.link.bond.active_ifindex
    return 0
