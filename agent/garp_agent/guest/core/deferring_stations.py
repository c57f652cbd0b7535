"""Which stations have an address of ours and withhold it, as this guest may do.

Two guests with one address can each wait for the other: both kernels answer the probes of both
agents, so neither announces.  A station that has the address and goes on probing for it, without
a claim, is such a guest.  After a while, its answers no longer count here.  Which of the two that
is first is decided by their patience: that of a guest whose conflict is young is short (it was
restarted, or its link came back), that of one that has withheld the address for long is longer.
The lower hardware address goes first if both are equal.  The other one hears the announcement.

Does not hear probes, and does not decide whether an address is withheld: guest.core.conflicts
does.
"""

from __future__ import annotations

from garp_agent.guest.core.memory import remember
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    Which = tuple[int, bytes, bytes]  # ifindex, address, hardware address of the station

PATIENCE_YOUNG, PATIENCE = 1.0, 6.0  # seconds of probes without a claim
PATIENCE_HIGHER = 1.5  # seconds more for the guest with the higher hardware address
FEWEST = 2  # probes
MOST_BETWEEN = 20.0  # seconds between two probes of a station that withholds the address
MOST_PROBERS = 64  # known ones: a forger must not fill the memory


class DeferringStations:
    """The stations that probe.  The caller supplies the time."""

    __slots__ = ("_probes",)

    def __init__(self) -> None:
        # When a station defers, if it sends FEWEST probes; the latest one; their number.
        self._probes: dict[Which, tuple[float, float, int]] = {}

    def probed(self, which: Which, now: float, patience: float) -> None:
        """Note that a station probes for an address that it has; ``patience`` in seconds."""
        since, latest, count = self._probes.get(which, (now + patience, now, 0))
        if now - latest > MOST_BETWEEN:
            since, count = now + patience, 0
        remember(self._probes, which, (since, now, count + 1), MOST_PROBERS)

    def claimed(self, which: Which) -> None:
        """Note that a station claims an address: it does not withhold it."""
        self._probes.pop(which, None)

    def defers(self, which: Which, now: float) -> bool:
        """Return whether a station leaves an address to this guest."""
        since, latest, count = self._probes.get(which, (inf, -inf, 0))
        return count >= FEWEST and since <= now <= latest + MOST_BETWEEN


def patience(is_young: bool, is_higher: bool) -> float:
    """Return for how many seconds a station has to probe before its answers no longer count.

    ``is_young``: the conflict of this guest began not long ago.  ``is_higher``: its hardware
    address is higher than that of the station.
    """
    return (PATIENCE_YOUNG if is_young else PATIENCE) + (PATIENCE_HIGHER if is_higher else 0.0)
