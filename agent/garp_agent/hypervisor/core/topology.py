"""How the links of this host are stacked: through which links the frames of a guest port leave.

Knows no guest (hypervisor.core.guest_ports), no failover (bonds) and no clock.  Two kinds of ports
of a bridge are told apart:

  guest port   a tun device, a veth into another namespace, a netkit, an SR-IOV representor, a
               Xen vif; and, in no bridge, a macvtap or ipvtap
  uplink       the others: hardware, a bond, a team, a VLAN, a macvlan, a tunnel, ...

A veth pair with both ends in bridges of this namespace joins the two (Proxmox, OpenStack).  VLAN
filtering and port isolation are not looked at: a path can have more links than the frames use.

Sources: drivers/net/xen-netback/interface.c; Documentation/networking/representors.rst.
"""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot

# A tun device of a VPN is taken for a guest's: the kernel does not tell them apart.
_GUEST_KINDS = ("tun", "netkit", "macvtap", "ipvtap", "dummy")
_TAPS_OF_A_LINK = ("macvtap", "ipvtap")
_NO_UPLINKS = frozenset((*_GUEST_KINDS, "veth"))
_STACKED = ("vlan", "macvlan", "macsec", *_TAPS_OF_A_LINK)
TUNNELS = ("vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan")
_SWITCHES = ("bridge", "openvswitch")
_OVS = "openvswitch"


class Path(NamedTuple):
    """The links that frames from one place can pass, as sets of ifindexes."""

    links: frozenset[int]  # all
    switches: frozenset[int]  # bonds, teams and bridges with an uplink: what can fail over
    ends: frozenset[int]  # the lowest ones known: bonds, teams, hardware, routed tunnels
    gaps: tuple[str, ...] = ()  # why a failover can go unseen; empty: none can


class Topology:
    """The paths, worked out again when a link has changed its place."""

    def __init__(self, table: LinkTable) -> None:
        self._table = table
        self._paths: dict[int, Path] = {}
        self._uplinks: dict[int, list[int]] = {}  # by bridge
        self._places = -1  # of the table, for which these hold

    def uplinks(self, bridge: int) -> list[LinkSnapshot]:
        """Return the uplinks of a bridge, without the veths that join it to others."""
        self._forget_old()
        found = self._uplinks.get(bridge)
        if found is None:
            ports = self._table.ports(bridge)
            found = [port.ifindex for port in ports if self.is_uplink(port)]
            self._uplinks[bridge] = found
        return [self._table.links[ifindex] for ifindex in found]

    def is_uplink(self, port: LinkSnapshot) -> bool:
        """Return whether a link is an uplink of the bridge that it is in."""
        if port.port_kind not in _SWITCHES or port.kind in _NO_UPLINKS:
            return False
        return bool(port.kind) or not _serves_a_guest(port)

    def is_guest_port(self, port: LinkSnapshot) -> bool:
        """Return whether a guest can be behind a link."""
        if port.kind in _TAPS_OF_A_LINK:
            return True
        is_port = port.port_kind in _SWITCHES and port.kind != _OVS
        return is_port and not self.is_uplink(port) and self.joined(port) is None

    def joined(self, port: LinkSnapshot) -> LinkSnapshot | None:
        """Return the other end of a veth, if both are ports."""
        if port.kind != "veth" or not port.master_ifindex:
            return None
        other = self._table.links.get(port.lower_ifindex)
        is_port = other is not None and other.kind == "veth" and other.port_kind in _SWITCHES
        return other if is_port else None

    def path(self, ifindex: int) -> Path:
        """Return what is below a guest port, a bridge, a bond or any other link."""
        self._forget_old()
        link = self._table.links.get(ifindex)
        start = link.master_ifindex if link is not None and self._is_in_switch(link) else ifindex
        found = self._paths.get(start)
        return found if found is not None else self._explore(start)

    def _forget_old(self) -> None:
        if self._places != self._table.places:
            self._paths.clear()
            self._uplinks.clear()
            self._places = self._table.places

    def _is_in_switch(self, link: LinkSnapshot) -> bool:
        return link.port_kind in _SWITCHES and not self.is_uplink(link)

    def _explore(self, start: int) -> Path:
        links: set[int] = set()
        switches: set[int] = set()
        ends: set[int] = set()
        gaps: list[str] = []
        joined = {start}  # all bridges that share the path
        todo = [start]
        while todo:
            ifindex = todo.pop()
            link = self._table.links.get(ifindex)
            if ifindex in links or link is None:
                continue
            links.add(ifindex)
            below, others = self._below(link), self._others(link)
            todo += [*below, *others]
            if ifindex in joined:
                joined.update(others)
            if link.kind in ("bond", "team") or (link.kind == "bridge" and below):
                switches.add(ifindex)
            if not below and link.kind not in _SWITCHES:
                ends.add(ifindex)
            gaps += _gap(link)
        path = Path(frozenset(links), frozenset(switches), frozenset(ends), tuple(sorted(gaps)))
        self._paths.update(dict.fromkeys(joined, path))
        return path

    def _below(self, link: LinkSnapshot) -> Iterable[int]:
        if link.kind in _SWITCHES:
            return [port.ifindex for port in self.uplinks(link.ifindex)]
        if link.kind in (*_STACKED, *TUNNELS) and link.lower_ifindex:
            return [link.lower_ifindex]
        return []

    def _others(self, link: LinkSnapshot) -> list[int]:
        """Return the bridges that a bridge is joined to."""
        if link.kind not in _SWITCHES:
            return []
        others = map(self.joined, self._table.ports(link.ifindex))
        return [other.master_ifindex for other in others if other is not None]


def _serves_a_guest(port: LinkSnapshot) -> bool:
    """Return whether a link without kind is a guest's: a Xen vif, or the representor of a function.

    The kernel calls a physical port p0, and a function behind it pf0, pf0vf3, pf0sf88 or c1pf0vf3.
    """
    if port.bus == "xen-backend":
        return True
    name = port.port_name.lstrip("c0123456789")
    if name.startswith("pf") and name[2:3].isdigit():
        return True
    # Before Linux 5.14 the bus is not told; a vif of domain 3 has the name vif3.0.
    domain, dot, device = port.name.partition(".")
    return domain.startswith("vif") and bool(dot) and (domain[3:] + device).isdigit()


def _gap(link: LinkSnapshot) -> list[str]:
    if link.kind == _OVS:
        return [f"{link.name}: Open vSwitch is not followed"]
    if link.kind in TUNNELS and not link.lower_ifindex:
        return [f"{link.name}: the way of a routed {link.kind} tunnel is not followed"]
    if link.kind in _STACKED and not link.lower_ifindex:
        return [f"{link.name}: what is below is in another namespace"]
    known = ("", "bond", "team", "bridge", "veth", *_STACKED, *TUNNELS)
    if link.kind in known:
        return []
    if link.kind in _GUEST_KINDS:
        return [f"{link.name}: in no bridge"]
    return [f"{link.name}: links of kind {link.kind} are not followed"]
