"""What the bridges' tables have said so far: which MAC was heard behind which guest port, and when.

A bridge forgets a silent address after its ageing time (300 s by default).  The memory keeps it for
as long as the port exists and has carrier.  It also keeps which addresses were seen on uplinks
lately: such an address belongs to another host, or a guest has forged it.

Does not read the tables and decides nothing: hypervisor.core.learning_plan does.

The addresses of a port or bridge are kept as one bytes object, 16 bytes for each: a dict would take
three times as much, and 1,000 dicts of one address 300 KiB.
"""

from __future__ import annotations

from itertools import starmap
from math import inf
from struct import Struct

from garp_agent.hypervisor.core.bridge_tables import PortAddresses, address_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from garp_agent.hypervisor.core.bridge_tables import TableEntry
    from garp_agent.hypervisor.core.link_counters import LinkCounters
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot
    from garp_agent.hypervisor.core.topology import Topology

    HeardAddress = tuple[bytes, int, float]  # MAC; VLAN, as TableEntry.vlan; when it was heard

PORT_MOST = 64  # addresses of one port, besides its own guest's: it can make up any number
OUTSIDE_MOST = 16384  # addresses of one bridge that were seen on its uplinks
OUTSIDE_LATELY = 600.0  # seconds for which an address that was seen on an uplink is kept
SNAPSHOT_MOST = 150.0  # seconds between two snapshots; half the default ageing time
# During a topology change STP makes the ageing time twice the forward delay, which is 2 s at least.
SNAPSHOT_LEAST = 2.0

# The same 16 bytes: address_number(), or MAC and VLAN (as TableEntry.vlan); when a bridge received
# a frame from it.
_ADDRESS = Struct("=Qd")
_HEARD = Struct("=6sHd")
_NUMBER = Struct("=Q")


class LearningMemory:
    """The addresses behind all guest ports.  The caller supplies the time."""

    def __init__(self) -> None:
        self._heard: dict[int, bytes] = {}  # by port whose guest has sent a frame
        self._outside: dict[int, bytes] = {}  # by bridge: on ports that are no guest's
        # By port that has lost its carrier: packets received and sent before.
        self._before: dict[int, tuple[int, int]] = {}
        self._untrusted: dict[int, int] = {}  # by port: entries of the latest tables
        self.dropped: dict[int, int] = {}  # by port: addresses over PORT_MOST

    def take(
        self,
        entries: Iterable[PortAddresses | TableEntry],
        counters: Iterable[LinkCounters],
        table: LinkTable,
        topology: Topology,
        now: float,
    ) -> None:
        """Take in one dump of all tables, and one of the counters of all links."""
        self._forget(table)
        guest_ports = {
            link.ifindex: link for link in table.links.values() if topology.is_guest_port(link)
        }
        for each in counters:
            port = guest_ports.get(each.ifindex)
            if port is None or not port.has_carrier:
                continue
            if _has_sent(port, each, self._before.get(port.ifindex, (0, 0))):
                self._heard.setdefault(port.ifindex, b"")
        heard: dict[int, dict[int, float]] = {}
        outside: dict[int, dict[int, float]] = {bridge: {} for bridge in self._outside}
        self._untrusted = {}
        for entry in entries:
            port = guest_ports.get(entry.port_ifindex)
            if port is None:
                known = outside.setdefault(entry.bridge_ifindex, {})
            elif port.ifindex not in self._heard:
                continue  # made by hand, or its counters could not be read
            elif not entry.is_trusted:
                self._untrusted[port.ifindex] = self._untrusted.get(port.ifindex, 0) + 1
                continue
            else:
                known = heard.setdefault(port.ifindex, {})
            if isinstance(entry, PortAddresses):
                known.update({number: now - age for number, age in entry.ages.items()})
            else:
                known[address_number(entry.hardware_address, entry.vlan)] = now - entry.age
        self._keep_heard(heard, guest_ports)
        self._keep_outside(outside, table, now)

    def forget_port(self, ifindex: int, packets: tuple[int, int] = (0, 0)) -> None:
        """Forget what was behind a port: it is gone, or lost its carrier with its guest.

        ``packets``: received and sent by the port so far; the next guest has not sent them.
        """
        self._heard.pop(ifindex, None)
        if any(packets):
            self._before[ifindex] = packets

    def ports(self) -> list[int]:
        """Return the ports whose guest has sent a frame."""
        return list(self._heard)

    def has_sent(self, ifindex: int) -> bool:
        """Return whether the guest behind a port has sent a frame."""
        return ifindex in self._heard

    def heard(self, ifindex: int) -> Iterator[HeardAddress]:
        """Return the addresses behind a guest port."""
        return _HEARD.iter_unpack(self._heard.get(ifindex, b""))

    def heard_by_bridge(self, table: LinkTable) -> dict[int, bytes]:
        """Return the addresses behind all guest ports of each bridge, for the functions below."""
        kept: dict[int, list[bytes]] = {}
        for ifindex, addresses in self._heard.items():
            if ifindex in table.links:
                kept.setdefault(table.links[ifindex].master_ifindex, []).append(addresses)
        return {bridge: b"".join(each) for bridge, each in kept.items()}

    def outside(self, bridge: int) -> Iterator[HeardAddress]:
        """Return the addresses that were seen lately on ports of a bridge that are no guest's."""
        return _HEARD.iter_unpack(self._outside.get(bridge, b""))

    def untrusted(self, ifindex: int) -> int:
        """Return how many addresses a locked port does not trust."""
        return self._untrusted.get(ifindex, 0)

    def _forget(self, table: LinkTable) -> None:
        links = table.links
        self._before = {port: each for port, each in self._before.items() if port in links}
        for port in [
            port for port in self._heard if port not in links or not links[port].has_carrier
        ]:
            self.forget_port(port)
        for bridge in [bridge for bridge in self._outside if bridge not in links]:
            del self._outside[bridge]

    def _keep_heard(
        self, heard: dict[int, dict[int, float]], guest_ports: dict[int, LinkSnapshot]
    ) -> None:
        self.dropped = {}
        for ifindex, new in heard.items():
            known = {**dict(_ADDRESS.iter_unpack(self._heard.get(ifindex, b""))), **new}
            port = guest_ports[ifindex]
            kept = _latest(known, PORT_MOST, port.hardware_address[1:])
            self._heard[port.ifindex] = _joined_addresses(kept)
            if len(kept) < len(known):
                self.dropped[ifindex] = len(known) - len(kept)

    def _keep_outside(
        self, outside: dict[int, dict[int, float]], table: LinkTable, now: float
    ) -> None:
        """Keep what was seen lately, and what has left: it counts for as long as it was heard."""
        known = {
            bridge: {**dict(_ADDRESS.iter_unpack(self._outside.get(bridge, b""))), **new}
            for bridge, new in outside.items()
        }
        heard_at = self._heard_at(known, table)
        for bridge, seen in known.items():
            kept = {
                key: at
                for key, at in seen.items()
                if at >= now - OUTSIDE_LATELY or at >= heard_at.get((bridge, key), inf)
            }
            self._outside[bridge] = _joined_addresses(_latest(kept, OUTSIDE_MOST))

    def _heard_at(
        self, wanted: dict[int, dict[int, float]], table: LinkTable
    ) -> dict[tuple[int, int], float]:
        """Return when each of these was heard last on a guest port, by bridge and address."""
        latest: dict[tuple[int, int], float] = {}
        for ifindex, kept in self._heard.items():
            bridge = table.links[ifindex].master_ifindex
            addresses = wanted.get(bridge)
            if not addresses:
                continue
            for key, at in _ADDRESS.iter_unpack(kept):
                if key in addresses:
                    latest[bridge, key] = max(at, latest.get((bridge, key), at))
        return latest


def has_repeated(addresses: bytes) -> bool:
    """Return whether an address of a bridge is behind several of its ports."""
    return len(dict(_ADDRESS.iter_unpack(addresses))) * _ADDRESS.size < len(addresses)


def latest_times(addresses: bytes) -> dict[tuple[bytes, int], float]:
    """Return when each address of a bridge was heard last, by MAC and VLAN."""
    latest: dict[tuple[bytes, int], float] = {}
    for mac, vlan, heard_at in _HEARD.iter_unpack(addresses):
        key = mac, vlan
        if heard_at > latest.get(key, -inf):
            latest[key] = heard_at
    return latest


def snapshot_interval(table: LinkTable) -> float:
    """Return after how many seconds the tables must be read again, so that no address is missed."""
    bridges = (link.bridge for link in table.links.values() if link.bridge is not None)
    least = min((each.ageing for each in bridges if each.ageing > 0), default=inf)
    return max(SNAPSHOT_LEAST, min(least / 2, SNAPSHOT_MOST))


def _has_sent(port: LinkSnapshot, counters: LinkCounters, before: tuple[int, int]) -> bool:
    # A macvtap counts as a link of the host: what its guest sends, it sends.
    if port.kind in ("macvtap", "ipvtap"):
        return counters.sent > before[1]
    return counters.received > before[0]


def _latest(known: dict[int, float], most: int, own: bytes = b"") -> dict[int, float]:
    """Return the addresses heard last; all that end with the five octets ``own`` come first."""
    if len(known) <= most:
        return known
    order = sorted(known, key=lambda key: (_NUMBER.pack(key)[1:6] == own, known[key]), reverse=True)
    return {key: known[key] for key in order[:most]}


def _joined_addresses(known: dict[int, float]) -> bytes:
    return b"".join(starmap(_ADDRESS.pack, known.items()))
