"""Reads the bridges' forwarding tables when the port of a guest is not known, and each minute.

One dump costs 5 ms for 1,000 entries.  It is read in parts, so that it delays no hint.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.bridge_tables import BRIDGE_TABLES, LearntAddress
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import DumpStarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.guest_ports import GuestPorts
    from garp_agent.runtime.netlink import Events

READ_AGAIN = 5.0  # seconds between two dumps while a guest is looked for
READ_ALWAYS = 60.0  # seconds between two dumps, even if no guest is looked for
PART = 8  # datagrams in one turn; each has about 500 entries


class BridgeTableReader:
    """The socket for the tables.  The caller supplies the time."""

    def __init__(self, ports: GuestPorts) -> None:
        """Raises OSError if there can be no socket."""
        self._netlink: Netlink[LearntAddress] = Netlink(READ_ALWAYS, BRIDGE_TABLES)
        self._ports = ports
        self._asked_at = -inf

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def read(self, now: float) -> None:
        """Read a part of the answer."""
        self._take(self._netlink.read(now, PART), now)

    def advance(self, now: float) -> None:
        """Ask for the tables if it is time to."""
        if self._ports.is_looking:
            self._netlink.ask_again(self._asked_at + READ_AGAIN)
        self._take(self._netlink.reconcile(now), now)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        return self._netlink.deadline()

    def _take(self, events: Events[LearntAddress], now: float) -> None:
        for event in events:
            if isinstance(event, LearntAddress):
                self._ports.learn(event)
            elif isinstance(event, DumpStarted):
                self._asked_at = now
            else:
                self._ports.has_read(now)
