"""Where learning frames cannot work, or can do harm, for the operator.

Sources: Documentation/networking/bonding.rst, option all_slaves_active; net/bridge/br_fdb.c: a
bridge that does not filter VLANs learns a MAC without its tag.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import STATE_FORWARDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.topology import Topology


def learning_warnings(table: LinkTable, topology: Topology) -> list[str]:
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
    return found
