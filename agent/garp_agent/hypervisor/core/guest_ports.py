"""Which guest is behind which port: the MACs that an agent names, against the ports of the host.

A MAC is behind a port if one of these holds:

  - the port is a tun device of libvirt: its address is the guest's with fe as the first byte
  - the port is a macvtap: its address is the guest's
  - the bridge has learnt the MAC on the port; that is kept for as long as the port exists,
    because the bridge forgets a silent guest after 300 s

A guest can forge frames with the MAC of another guest.  Therefore a MAC can be behind several
ports: the forged entry adds a port and removes none.

A MAC that stays unknown for SETTLE seconds is behind no port: the agent announces each address at
least once a minute, and then the bridge knows it.  It is the MAC of a card that is passed through,
for example.  Agents name no link that leads to containers only.

Sources: libvirt, src/util/virnetdevtap.c; net/bridge/br_fdb.c.
"""

from __future__ import annotations

from math import inf

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.hypervisor.core.bridge_tables import LearntAddress
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot
    from garp_agent.hypervisor.core.topology import Topology

SETTLE = 75.0  # seconds
LEARNT_MOST = 64  # MACs kept for one port, of any number that a guest can make up


class GuestPlace(NamedTuple):
    """Where one guest is."""

    ports: frozenset[int]  # ifindexes
    missing: frozenset[bytes]  # its MACs that are behind no known port
    is_settled: bool  # no further port is looked for


class GuestPorts:
    """The ports of all guests.  The caller supplies the time."""

    def __init__(self, table: LinkTable, topology: Topology) -> None:
        self._table = table
        self._topology = topology
        self._learnt: dict[int, set[bytes]] = {}  # MACs by port
        self._ports: dict[bytes, set[int]] = {}  # by MAC, or by its last five bytes (of libvirt)
        self._places = -1  # of the table, for which _ports holds
        self._unknown: dict[bytes, float] = {}  # MACs of guests, since when
        self._read_at = -inf  # when a dump of the tables ended
        self.version = 0  # grows with everything that :meth:`place` depends on, besides the links

    def look_for(self, macs: Iterable[bytes], now: float) -> None:
        """Take in the MACs of all guests."""
        self._refresh()
        unknown = {mac: self._unknown.get(mac, now) for mac in macs if not self._ports_of(mac)}
        self.version += unknown != self._unknown
        self._unknown = unknown

    def learn(self, entry: LearntAddress) -> None:
        """Take in one entry of a bridge's table."""
        self._refresh()
        port = self._table.links.get(entry.port_ifindex)
        if port is None or not self._topology.is_guest_port(port):
            return
        known = self._learnt.setdefault(port.ifindex, set())
        if entry.hardware_address not in known and len(known) < LEARNT_MOST:
            known.add(entry.hardware_address)
            self.version += 1
            self._ports.setdefault(entry.hardware_address, set()).add(port.ifindex)

    def has_read(self, now: float) -> None:
        """Note that a dump of the tables has ended, and that :meth:`learn` has all of it."""
        self._read_at = now
        self.version += 1

    @property
    def is_looking(self) -> bool:
        """Return whether the tables should be read again, to find the MAC of a guest."""
        return any(self._read_at < since + SETTLE for since in self._unknown.values())

    def place(self, macs: Iterable[bytes]) -> GuestPlace:
        """Return where the guest with these MACs is."""
        self._refresh()
        ports: set[int] = set()
        missing: set[bytes] = set()
        for mac in macs:
            found = self._ports_of(mac)
            ports |= found
            if not found:
                missing.add(mac)
        is_settled = all(self._read_at >= self._unknown.get(mac, inf) + SETTLE for mac in missing)
        return GuestPlace(frozenset(ports), frozenset(missing), is_settled)

    def _ports_of(self, mac: bytes) -> set[int]:
        return self._ports.get(mac, set()) | self._ports.get(mac[1:], set())

    def _refresh(self) -> None:
        if self._places == self._table.places:
            return
        self._places = self._table.places
        links = self._table.links
        self._learnt = {port: macs for port, macs in self._learnt.items() if port in links}
        self._ports = {}
        for port, macs in self._learnt.items():
            for mac in macs:
                self._ports.setdefault(mac, set()).add(port)
        for link in links.values():
            own = _told_by_address(link)
            if own and self._topology.is_guest_port(link):
                self._ports.setdefault(own, set()).add(link.ifindex)


def _told_by_address(port: LinkSnapshot) -> bytes:
    """Return the MAC of the guest behind a port, or its last five bytes; b"" if unknown."""
    if port.kind in ("macvtap", "ipvtap"):
        return port.hardware_address
    if port.kind == "tun" and port.hardware_address[:1] == b"\xfe":
        return port.hardware_address[1:]
    return b""
