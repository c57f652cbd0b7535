"""Which guest is behind which port: the MACs that an agent names, against the ports of the host.

A MAC is behind a port if one of these holds:

  - the port is a tun device of libvirt: its address is the guest's with fe as the first byte
  - the port is a macvtap: its address is the guest's
  - libvirt says so in its status files (hypervisor.io.libvirt_cards)
  - the bridge has learnt the MAC on the port; that is kept for as long as the port exists,
    because the bridge forgets a silent guest after 300 s.  When a guest names the MAC anew, the
    tables are read again: the port of a card (a representor) outlives its guests.

A guest can forge frames with the MAC of another guest.  Therefore a MAC can be behind several
ports: the forged entry adds a port and removes none.

A MAC that the bridge of its port has learnt on an uplink is outside this host as well: a card that
is passed through can have the MAC of the port (net_failover), or the guest has moved.

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
    trouble: str  # why its frames can take another path, for the operator; "": they cannot
    is_settled: bool  # no further port is looked for


class GuestPorts:
    """The ports of all guests.  The caller supplies the time."""

    def __init__(self, table: LinkTable, topology: Topology) -> None:
        self._table = table
        self._topology = topology
        self._learnt: dict[int, set[bytes]] = {}  # MACs by port
        self._learnt_on: dict[bytes, set[int]] = {}  # ports by MAC
        self._told: dict[bytes, set[int]] = {}  # by MAC, or by its last five bytes (of libvirt)
        self._stated: frozenset[tuple[bytes, str]] = frozenset()  # MACs and ports of libvirt
        self._places = -1  # of the table, for which these hold
        self._named: frozenset[bytes] = frozenset()  # the MACs of all guests
        self._awaited: dict[bytes, float] = {}  # those that are looked for, since when
        self._confirmed: set[bytes] = set()  # those that a dump since then has found
        self._outside: dict[bytes, set[int]] = {}  # bridges that learnt a MAC on an uplink
        self._read_outside: dict[bytes, set[int]] = {}  # the same, of the dump under way
        self._read_at = -inf  # when a dump of the tables ended
        self.version = 0  # grows with everything that :meth:`place` depends on, besides the links

    def state(self, cards: Iterable[tuple[bytes, str]]) -> None:
        """Take in the MACs of guests' cards, and the names of their ports, as libvirt says."""
        stated = frozenset(cards)
        if stated != self._stated:
            self._stated = stated
            self._places = -1
            self.version += 1

    def look_for(self, macs: Iterable[bytes], now: float) -> None:
        """Take in the MACs of all guests."""
        self._refresh()
        self._named = frozenset(macs)
        self._confirmed &= self._named
        sought = [mac for mac in self._named if not self._is_found(mac)]
        awaited = {mac: self._awaited.get(mac, now) for mac in sought}
        self.version += awaited != self._awaited
        self._awaited = awaited

    def learn(self, entry: LearntAddress) -> None:
        """Take in one entry of a bridge's table."""
        self._refresh()
        mac, port = entry.hardware_address, self._table.links.get(entry.port_ifindex)
        if port is None:
            return
        if not self._topology.is_guest_port(port):
            if mac in self._named and self._topology.is_uplink(port):
                self._read_outside.setdefault(mac, set()).add(port.master_ifindex)
            return
        known = self._learnt.setdefault(port.ifindex, set())
        if mac not in known and len(known) < LEARNT_MOST:
            known.add(mac)
            self.version += 1
            self._learnt_on.setdefault(mac, set()).add(port.ifindex)

    def has_read(self, now: float) -> None:
        """Note that a dump of the tables has ended, and that :meth:`learn` has all of it."""
        self._refresh()
        self._read_at = now
        self._outside, self._read_outside = self._read_outside, {}
        self._confirmed |= {mac for mac in self._awaited if mac in self._learnt_on}
        for mac in [mac for mac in self._awaited if self._is_found(mac)]:
            del self._awaited[mac]
        self.version += 1

    @property
    def is_looking(self) -> bool:
        """Return whether the tables should be read again, to find the MAC of a guest."""
        return any(self._read_at < since + SETTLE for since in self._awaited.values())

    def place(self, macs: Iterable[bytes]) -> GuestPlace:
        """Return where the guest with these MACs is."""
        self._refresh()
        found = {mac: self._told_on(mac) | self._learnt_on.get(mac, set()) for mac in macs}
        troubles = (self._trouble(mac, found[mac]) for mac in sorted(found))
        is_settled = all(
            self._is_found(mac) or self._read_at >= self._awaited.get(mac, inf) + SETTLE
            for mac in found
        )
        ports = frozenset(port for each in found.values() for port in each)
        return GuestPlace(ports, next(filter(None, troubles), ""), is_settled)

    def _is_found(self, mac: bytes) -> bool:
        return bool(self._told_on(mac)) or (mac in self._confirmed and mac in self._learnt_on)

    def _told_on(self, mac: bytes) -> set[int]:
        return self._told.get(mac, set()) | self._told.get(mac[1:], set())

    def _trouble(self, mac: bytes, ports: set[int]) -> str:
        if not ports:
            return f"{mac.hex(':')} is behind no known port"
        bridges = {self._table.links[port].master_ifindex for port in ports}
        for bridge in bridges & self._outside.get(mac, set()):
            if bridge in self._table.links:
                name = self._table.links[bridge].name
                return f"{name} receives frames of {mac.hex(':')} from outside"
        return ""

    def _refresh(self) -> None:
        if self._places == self._table.places:
            return
        self._places = self._table.places
        links = self._table.links
        self._learnt = {port: macs for port, macs in self._learnt.items() if port in links}
        self._learnt_on, self._told = {}, {}
        for port, macs in self._learnt.items():
            for mac in macs:
                self._learnt_on.setdefault(mac, set()).add(port)
        stated: dict[str, list[bytes]] = {}
        for mac, name in self._stated:
            stated.setdefault(name, []).append(mac)
        for link in links.values():
            told = [*filter(None, [_told_by_address(link)]), *stated.get(link.name, ())]
            if told and self._topology.is_guest_port(link):
                for mac in told:
                    self._told.setdefault(mac, set()).add(link.ifindex)


def _told_by_address(port: LinkSnapshot) -> bytes:
    """Return the MAC of the guest behind a port, or its last five bytes; b"" if unknown."""
    if port.kind in ("macvtap", "ipvtap"):
        return port.hardware_address
    if port.kind == "tun" and port.hardware_address[:1] == b"\xfe":
        return port.hardware_address[1:]
    return b""
