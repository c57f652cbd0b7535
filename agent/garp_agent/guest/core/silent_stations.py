"""Which stations claim addresses of ours, but answer no probe.

For example those that repeat our own frames under their hardware address: Wi-Fi repeaters, NAT for
hardware addresses.  Their claims withhold nothing.  Does not decide when a station is probed, or
what a claim changes: guest.core.conflicts does.
"""

from __future__ import annotations

from garp_agent.guest.core.memory import remember
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.core.proxy_tests import Station

SILENT_FOR = 3600.0  # seconds for which a station is known to answer no probe
MOST_SILENT = 64  # known ones: a forger must not fill the memory


class SilentStations:
    """The stations that did not answer.  The caller supplies the time."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: dict[Station, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def note(self, station: Station, now: float) -> None:
        """Note that a station has answered none of the probes of a check."""
        remember(self._since, station, now, MOST_SILENT)

    def answered(self, station: Station) -> None:
        """Note that a station has answered a probe."""
        self._since.pop(station, None)

    def is_silent(self, station: Station, now: float) -> bool:
        """Return whether a station is known to answer no probe."""
        return now - self._since.get(station, -inf) <= SILENT_FOR
