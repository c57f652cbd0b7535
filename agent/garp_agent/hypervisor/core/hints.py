"""The hints of one run of the watcher: their numbers, their pace, and the lines that are sent.

Does not decide who gets a hint and when (hypervisor.core.hint_rounds and contacts).

A hint ends the lease of its guest.  Agents before that rule keep the lease; therefore a guest
that may have one gets a revocation behind the hint, in the same connection.

Format: docs/protocol.md, commands ``burst`` and ``lease``.
"""

from __future__ import annotations

from itertools import count
from math import inf

from garp_agent.wire.protocol import BURST_DELAY, REASON_LIMIT, encode_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garp_agent.hypervisor.core.guests import Guest


class HintWriter:
    """Writes the hints of one run.  ``boot``: a name for the run, unique.

    ``pace``: guests of this host a second that begin their burst; 0: all at once.
    """

    def __init__(self, boot: str, pace: float) -> None:
        self.boot = boot
        self.free_at = -inf  # when the burst of one more guest can begin, at this pace
        self._pace = pace
        self._numbers = count(1)
        # The latest lines: all guests of a round get the same bytes, and JSON is slow to write.
        self._hint: tuple[object, ...] = ()  # what the lines are for
        self._lines: dict[str, bytes] = {}  # by id
        self._revocation: tuple[int, dict[str, bytes]] = (0, {})  # number, line
        self._lines_and_revocation: dict[str, bytes] = {}

    def number(self) -> int:
        """Return the number of the next hint, or of the next hints that mean the same."""
        return next(self._numbers)

    def delays(self, guests: Sequence[Guest], now: float, spread: float = 0.0) -> list[float]:
        """Return the seconds until the burst of each guest; those that may be silent come last.

        ``spread``: seconds for all of them, if the operator set no pace.  The last guest cannot
        wait longer than the protocol allows: then more bursts begin at once.
        """
        if not guests:
            return []
        most, gaps = BURST_DELAY.most, len(guests) - 1
        step = 1 / self._pace if self._pace else spread / len(guests)
        step = min(step, most / max(1, gaps))
        start = min(max(0.0, self.free_at - now), most - gaps * step)
        if self._pace:
            # Guests without an agent must not hold up the others.
            expected = sum(not guest.is_silent for guest in guests)
            self.free_at = max(self.free_at, now + start + expected * step)
        return [start + index * step for index in range(len(guests))]

    def requests(
        self, guest: Guest, number: int, reason: str, delay: float, now: float, rounds: int = 0
    ) -> Mapping[str, bytes]:
        """Return the lines of a hint to one guest, by id, and count its lease as ended.

        ``delay``: seconds before the burst.  ``rounds``: 0 as configured in the guest.
        """
        wanted = (number, reason, delay, rounds)
        if self._hint != wanted:
            self._write(number, reason, delay, rounds)
            self._hint = wanted
        must_revoke = guest.lease.void(now) or not guest.is_met
        return self._lines_and_revocation if must_revoke else self._lines

    def _write(self, number: int, reason: str, delay: float, rounds: int) -> None:
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
        self._lines = {id: encode_request("burst", arguments, id)}
        if number != self._revocation[0]:
            id = f"bye-{self.boot}-{number}"
            line = encode_request("lease", {"seconds": 0}, id, delimited=False)
            self._revocation = number, {id: line}
        self._lines_and_revocation = {**self._lines, **self._revocation[1]}
