"""Where learning frames cannot work, or can do harm, for the operator.

A guest that tags its frames by itself is seen only where this host has a bridge in that VLAN too:
that one hears the guest's MAC on its uplink, a VLAN of the guest's bridge.

Sources: Documentation/networking/bonding.rst, option all_slaves_active; net/bridge/br_fdb.c: a
bridge that does not filter VLANs learns a MAC without its tag.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import STATE_FORWARDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from garp_agent.hypervisor.core.learning_memory import LearningMemory
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.topology import Topology


def learning_warnings(table: LinkTable, topology: Topology, memory: LearningMemory) -> list[str]:
    """Return a warning for each link that stops learning frames or makes them dangerous."""
    found = []
    for link in sorted(table.links.values(), key=lambda link: link.name):
        if link.bond is not None and link.bond.hears_all_ports:
            found.append(
                f"{link.name}: all_slaves_active is on: broadcasts of guests come back through its "
                "other port, and the bridge then sends their traffic out; switch it off"
            )
        if link.bond is not None and link.port_kind == "openvswitch":
            found.append(
                f"{link.name}: is in Open vSwitch, which tells nothing of its guests: use a bond "
                "of Open vSwitch, which sends learning frames itself"
            )
        is_uplink = link.port_kind == "bridge" and topology.is_uplink(link)
        if is_uplink and link.has_carrier and link.port_state not in (None, STATE_FORWARDING):
            found.append(
                f"{link.name}: STP of its bridge does not let it forward: nothing is sent for "
                "the guests behind it meanwhile"
            )
    return found + list(_tagging_guests(table, topology, memory))


def _tagging_guests(table: LinkTable, topology: Topology, memory: LearningMemory) -> Iterator[str]:
    for vlan in sorted(table.links.values(), key=lambda link: link.name):
        below = table.links.get(vlan.lower_ifindex)
        if vlan.vlan is None or vlan.port_kind != "bridge" or below is None:
            continue
        if below.bridge is None or below.bridge.filters_vlans:
            continue
        outside = {each[0] for each in memory.outside(vlan.master_ifindex)}
        for port in sorted(table.ports(below.ifindex), key=lambda link: link.name):
            heard = {each[0] for each in memory.heard(port.ifindex)}
            if topology.is_guest_port(port) and heard & outside:
                yield (
                    f"{port.name}: its guest tags frames by itself, with VLAN {vlan.vlan.vlan}: "
                    f"nothing is sent for it in its VLANs, because {below.name} does not filter "
                    "VLANs and cannot tell them; set vlan_filtering 1"
                )
