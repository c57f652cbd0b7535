"""Which stations have an address of ours and withhold it, as this guest may do.

Two guests with one address can each wait for the other: both kernels answer the probes of both
agents, so neither announces.  A station that has the address and goes on probing for it, without
a claim, is such a guest.  After PATIENCE, its answers no longer count here, if the conflict of
this guest is young: it was restarted, say, or its link came back.  A guest that has withheld the
address for long goes on withholding it.  If both conflicts are young, the guest with the lower
hardware address is first, and the other one hears the announcement.

Does not hear probes, and does not decide which conflict is young or which address is withheld:
guest.core.conflicts does.
"""

from __future__ import annotations

from garp_agent.guest.core.memory import remember
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    Which = tuple[int, bytes, bytes]  # ifindex, address, hardware address of the station

PATIENCE = 1.0  # seconds of probes without a claim
PATIENCE_HIGHER = 2.5  # the same for the guest with the higher hardware address
FEWEST = 2  # probes
MOST_BETWEEN = 20.0  # seconds between two probes of a station that withholds the address
MOST_PROBERS = 64  # known ones: a forger must not fill the memory


class DeferringStations:
    """The stations that probe.  The caller supplies the time."""

    __slots__ = ("_probes",)

    def __init__(self) -> None:
        # When a station defers, if it sends FEWEST probes; the latest one; their number.
        self._probes: dict[Which, tuple[float, float, int]] = {}

    def probed(self, which: Which, now: float, is_higher: bool) -> None:
        """Note that a station probes for an address that it has.

        ``is_higher``: the hardware address of this guest is higher than that of the station.
        """
        patience = PATIENCE_HIGHER if is_higher else PATIENCE
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
