"""From a guest port or a link of the host to the bonds below: with which VLAN tags a frame leaves.

Follows bridges (with and without VLAN filtering), veths that join two bridges, and VLANs, stacked
or on a bridge.  Tells where frames cannot pass, and why.  Does not follow Open vSwitch, teams,
tunnels, macvlans as uplinks, or the priority bits of tags.

A bridge that filters VLANs knows a frame by VLAN and content: it takes one tag of its own protocol
off when the frame comes in, or else the VLAN is the PVID of the port.  It writes the tag again
where the port does not have the VLAN untagged.

Sources: net/bridge/br_vlan.c, __allowed_ingress() and br_handle_vlan(); net/bridge/br_forward.c,
should_deliver(); net/bridge/br_device.c, br_dev_xmit().
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import STATE_FORWARDING, VlanTag
from garp_agent.wire.model import IFF_UP
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.hypervisor.core.bridge_vlans import PortVlans
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot
    from garp_agent.hypervisor.core.topology import Topology

    VlanTags = tuple[VlanTag, ...]

NO_UPLINK = "its bridge has no uplink"


class BondExit(NamedTuple):
    """Where frames leave: the bond, and the tags on them, the outer one first."""

    bond_ifindex: int
    tags: VlanTags = ()


class Exits(NamedTuple):
    """All bonds that frames from one place leave through; if there is none, why."""

    bonds: tuple[BondExit, ...]
    refusal: str = ""


class TaggedPaths:
    """The exits, worked out on demand.  For one state of links and VLAN tables."""

    def __init__(
        self, table: LinkTable, topology: Topology, vlans: Mapping[int, PortVlans]
    ) -> None:
        """``vlans``: by ifindex, of the ports and of the bridges themselves."""
        self._links = table.links
        self._table = table
        self._topology = topology
        self._vlans = vlans
        self._known: dict[tuple[int, int, bool], Exits] = {}

    def filters_vlans(self, bridge_ifindex: int) -> bool:
        """Return whether a bridge knows frames by their VLAN."""
        bridge = self._links.get(bridge_ifindex)
        return bridge is not None and bridge.bridge is not None and bridge.bridge.filters_vlans

    def pvid(self, ifindex: int) -> int:
        """Return the VLAN of untagged frames that come in through a port; 0: they are dropped."""
        vlans = self._vlans.get(ifindex)
        return vlans.pvid if vlans is not None else 0

    def from_port(self, port: LinkSnapshot, vlan: int) -> Exits:
        """Return the exits of frames that a bridge has received on a guest port.

        ``vlan``: that of the frames inside the bridge; it counts only if the bridge filters.
        """
        bridge = port.master_ifindex
        vlan = vlan if self.filters_vlans(bridge) else 0
        key = (bridge, vlan, port.port_options.isolated)
        if key not in self._known:
            walk = _Walk(self)
            walk.through(*key, (), frozenset())
            self._known[key] = walk.exits
        return self._known[key]

    def from_link(self, link: LinkSnapshot, vlan: int = 0) -> Exits:
        """Return the exits of frames that the host, or a macvtap on it, sends on a link.

        ``vlan``: of a bridge that filters, that of the frames inside it; 0: they are untagged.
        """
        walk = _Walk(self)
        if vlan and self.filters_vlans(link.ifindex):
            walk.through(link.ifindex, vlan, False, (), frozenset())
        else:
            walk.down(link.ifindex, (), frozenset())
        return walk.exits

    # -- what a bridge does with a frame ------------------------------------------------

    def enter(self, bridge: int, port: int, tags: VlanTags) -> tuple[int, VlanTags, str]:
        """Return VLAN and remaining tags of a frame from a port, and why it is dropped."""
        if not self.filters_vlans(bridge):
            return 0, tags, ""
        options = self._links[bridge].bridge
        assert options is not None
        vlan = 0
        if tags and tags[0].protocol == options.vlan_protocol:
            vlan, tags = tags[0].vlan, tags[1:]
        vlan = vlan or self.pvid(port)
        vlans = self._vlans.get(port)
        if not vlan or vlans is None or vlans.range_of(vlan) is None:
            return 0, tags, f"{self.name(port)} does not let VLAN {vlan or 'none'} in"
        return vlan, tags, ""

    def leave(self, bridge: int, port: int, vlan: int, tags: VlanTags) -> tuple[VlanTags, str]:
        """Return the tags of a frame that leaves a bridge through a port, and why it does not."""
        if not self.filters_vlans(bridge):
            return tags, ""
        options = self._links[bridge].bridge
        assert options is not None
        vlans = self._vlans.get(port)
        passing = vlans.range_of(vlan) if vlans is not None else None
        if passing is None:
            return tags, f"{self.name(port)} does not let VLAN {vlan} out"
        if passing.untagged:
            return tags, ""
        return (VlanTag(options.vlan_protocol, vlan), *tags), ""

    def ports_out(self, bridge: int) -> list[tuple[LinkSnapshot, LinkSnapshot | None]]:
        """Return the uplinks of a bridge, and the veths to other bridges with their ends there."""
        ports = sorted(self._table.ports(bridge), key=lambda port: port.ifindex)
        pairs = [(port, self._topology.joined(port)) for port in ports]
        return [pair for pair in pairs if pair[1] or self._topology.is_uplink(pair[0])]

    def link(self, ifindex: int) -> LinkSnapshot | None:
        """Return a link, if it is there."""
        return self._links.get(ifindex)

    def name(self, ifindex: int) -> str:
        """Return the name of a link, for a message."""
        link = self._links.get(ifindex)
        return link.name if link is not None else f"#{ifindex}"


class _Walk:
    """One search for the bonds below a place."""

    def __init__(self, paths: TaggedPaths) -> None:
        self._paths = paths
        self._bonds: dict[BondExit, None] = {}
        self._refusals: list[str] = []

    @property
    def exits(self) -> Exits:
        refusal = "" if self._bonds else min(self._refusals, default=NO_UPLINK)
        return Exits(tuple(self._bonds), refusal)

    def down(self, ifindex: int, tags: VlanTags, seen: frozenset[int]) -> None:
        """Follow a frame that is sent on a link."""
        link = self._paths.link(ifindex)
        if link is None or ifindex in seen:
            self._refusals.append(f"{self._paths.name(ifindex)} is not known or in a circle")
        elif not link.flags & IFF_UP:  # its carrier can come later than that of the bond below
            self._refusals.append(f"{link.name} is down")
        elif link.kind == "bond":
            self._bonds[BondExit(ifindex, tags)] = None
        elif link.kind == "vlan" and link.vlan is not None and link.lower_ifindex:
            self.down(link.lower_ifindex, (link.vlan, *tags), seen | {ifindex})
        elif link.kind == "bridge":
            vlan, rest, refusal = self._paths.enter(ifindex, ifindex, tags)
            if refusal:
                self._refusals.append(refusal)
            else:
                self.through(ifindex, vlan, False, rest, seen)
        else:
            self._refusals.append(f"{link.name} is no bond")

    def through(
        self, bridge: int, vlan: int, isolated: bool, tags: VlanTags, seen: frozenset[int]
    ) -> None:
        """Follow a frame inside a bridge; ``isolated``: it came from an isolated port."""
        if bridge in seen:
            return
        for port, other in self._paths.ports_out(bridge):
            written, refusal = self._paths.leave(bridge, port.ifindex, vlan, tags)
            if port.port_state not in (None, STATE_FORWARDING):
                refusal = f"{port.name} does not forward (STP)"
            elif isolated and port.port_options.isolated:
                refusal = f"{port.name} is isolated from it"
            if refusal:
                self._refusals.append(refusal)
            elif other is None:
                self.down(port.ifindex, written, seen | {bridge})
            else:
                self._join(other, written, seen | {bridge})

    def _join(self, port: LinkSnapshot, tags: VlanTags, seen: frozenset[int]) -> None:
        """Follow a frame through a veth into another bridge, of which ``port`` is a port."""
        bridge = port.master_ifindex
        vlan, rest, refusal = self._paths.enter(bridge, port.ifindex, tags)
        if port.port_state not in (None, STATE_FORWARDING):
            refusal = f"{port.name} does not forward (STP)"
        if refusal:
            self._refusals.append(refusal)
        else:
            self.through(bridge, vlan, port.port_options.isolated, rest, seen)
