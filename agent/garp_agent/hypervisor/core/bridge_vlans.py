"""The VLAN tables of the bridges: which VLANs pass a port, tagged or untagged.

Reads the kernel's answer to a dump (RTM_GETLINK of family AF_BRIDGE, with
RTEXT_FILTER_BRVLAN_COMPRESSED); keeps nothing.  A bridge that does not filter VLANs has such
tables too, and does not obey them.

Numbers: <linux/if_bridge.h>.  What the kernel fills in: net/bridge/br_netlink.c,
br_fill_ifvlaninfo_compressed().
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink
from garp_agent.wire.record import NamedTuple

_IFLA_BRIDGE_VLAN_INFO = 2
_VLAN_INFO = Struct("=HH")  # struct bridge_vlan_info: flags, VLAN
_PVID = 0x02
_UNTAGGED = 0x04
_RANGE_BEGIN = 0x08
_RANGE_END = 0x10
_MOST = 4094  # the highest VLAN, IEEE 802.1Q


class VlanRange(NamedTuple):
    """VLANs that pass a port in the same manner."""

    first: int
    last: int
    untagged: bool = False  # frames leave without a tag


class PortVlans(NamedTuple):
    """The VLANs of a port, or of the bridge itself as a port of its host."""

    ifindex: int
    bridge_ifindex: int  # the same, if it is the bridge itself
    ranges: tuple[VlanRange, ...] = ()
    pvid: int = 0  # the VLAN of frames that come without a tag; 0: they are dropped

    def range_of(self, vlan: int) -> VlanRange | None:
        """Return how a VLAN passes the port; None if it does not."""
        for each in self.ranges:
            if each.first <= vlan <= each.last:
                return each
        return None


def read_vlans(data: bytes, start: int, end: int, dumped: bool) -> tuple[PortVlans, ...]:
    """Read one RTM_NEWLINK of family AF_BRIDGE."""
    family, _hardware_type, ifindex, _flags, found = rtnetlink.link_header(data, start, end)
    if family != rtnetlink.AF_BRIDGE:
        return ()
    ranges: list[VlanRange] = []
    pvid = first = 0
    told = found.get(rtnetlink.IFLA_AF_SPEC, b"")
    for attribute_type, value in rtnetlink.attributes(told, 0, len(told)):
        if attribute_type != _IFLA_BRIDGE_VLAN_INFO:
            continue
        flags, vlan = rtnetlink.fixed(_VLAN_INFO, value, 0, len(value))
        if flags & _PVID:
            pvid = vlan
        if flags & _RANGE_BEGIN:
            first = vlan
            continue
        start_at = first if flags & _RANGE_END and first else vlan
        first = 0
        if start_at <= vlan <= _MOST:
            ranges.append(VlanRange(start_at, vlan, bool(flags & _UNTAGGED)))
    bridge = rtnetlink.u32(found, rtnetlink.IFLA_MASTER, ifindex)
    return (PortVlans(ifindex, bridge, tuple(ranges), pvid),)
