"""The hints of one run of the watcher: their numbers, their pace, and the lines that are sent.

Does not decide who gets a hint and when (hypervisor.core.hint_rounds and contacts).

A hint ends the lease of its guest.  Agents before that rule keep the lease; therefore a guest
that may have one gets a revocation behind the hint, in the same connection.

Format: docs/protocol.md, commands ``burst`` and ``lease``.
"""

from __future__ import annotations

from itertools import count

from garp_agent.wire.protocol import BURST_DELAY, REASON_LIMIT, encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.guests import Guest


class HintWriter:
    """Writes the hints of one run.  ``boot``: a name for the run, unique.

    ``pace``: guests a second that begin their burst; 0: all at once.
    """

    def __init__(self, boot: str, pace: float) -> None:
        self.boot = boot
        self._pace = pace
        self._numbers = count(1)

    def number(self) -> int:
        """Return the number of the next hint, or of the next hints that mean the same."""
        return next(self._numbers)

    def step(self, guests: int, spread: float = 0.0) -> float:
        """Return the seconds between the bursts of two of ``guests`` guests.

        ``spread``: seconds for all of them, if the operator set no pace.  The last guest cannot
        wait longer than the protocol allows.
        """
        if guests < 2 or not (self._pace or spread):
            return 0.0
        step = 1 / self._pace if self._pace else spread / guests
        return min(step, BURST_DELAY.most / (guests - 1))

    def requests(
        self, guest: Guest, number: int, reason: str, delay: float, now: float, rounds: int = 0
    ) -> dict[str, bytes]:
        """Return the lines of a hint to one guest, by id, and count its lease as ended.

        ``delay``: seconds before the burst.  ``rounds``: 0 as configured in the guest.
        """
        arguments: dict[str, object] = {
            "reason": reason[:REASON_LIMIT],
            "boot": self.boot,
            "sequence": number,
        }
        if delay:
            arguments["delay"] = round(delay, 3)
        if rounds:
            arguments["count"] = rounds
        id = f"hint-{self.boot}-{number}"
        lines = {id: encode_request("burst", arguments, id)}
        if guest.lease.void(now) or not guest.is_met:
            id = f"bye-{self.boot}-{number}"
            lines[id] = encode_request("lease", {"seconds": 0}, id, delimited=False)
        return lines
