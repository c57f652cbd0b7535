"""A host for the tests of learning frames: links by name, tables, and what is planned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from garp_agent.hypervisor.core import learning_plan
from garp_agent.hypervisor.core.bridge_tables import TableEntry
from garp_agent.hypervisor.core.bridge_vlans import PortVlans, VlanRange
from garp_agent.hypervisor.core.learning_memory import LearningMemory
from garp_agent.hypervisor.core.learning_plan import LearningPlan, Moment
from garp_agent.hypervisor.core.learning_rules import LearningRules
from garp_agent.hypervisor.core.link_counters import LinkCounters
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    Bond,
    BridgeOptions,
    LinkReport,
    LinkSnapshot,
    VlanTag,
)
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, LinkGone
from tests.world import mac

UP = IFF_UP | IFF_LOWER_UP
FILTERS = BridgeOptions(filters_vlans=True)


def guest(number: int) -> bytes:
    """The MAC of a guest."""
    return bytes((0x52, 0x54, 0, 0, *number.to_bytes(2, "big")))


def bond(ifindex: int, name: str, master: int = 0, mode: int = 1) -> LinkSnapshot:
    own = mac("02:00:00:00:01:00")
    kind = "bridge" if master else ""
    return LinkSnapshot(
        ifindex, name, UP, master, "bond", kind, Bond(mode, 90), hardware_address=own
    )


def bridge(ifindex: int, name: str, options: BridgeOptions | None = None) -> LinkSnapshot:
    own = bytes((2, 0, 0, 0, 2, ifindex))
    shown = options or BridgeOptions()
    return LinkSnapshot(ifindex, name, UP, 0, "bridge", hardware_address=own, bridge=shown)


def vlan(ifindex: int, name: str, below: int, tag: int, master: int = 0) -> LinkSnapshot:
    """``tag``: the VLAN, or 0x10000 * the protocol + the VLAN."""
    link = LinkSnapshot(ifindex, name, UP, master, "vlan", "bridge" if master else "")
    own = bytes((2, 0, 0, 0, 3, ifindex))
    read = VlanTag(tag >> 16 or 0x8100, tag & 0xFFF)
    return link._replace(lower_ifindex=below, vlan=read, hardware_address=own)


def port(ifindex: int, name: str, master: int, kind: str = "veth", **more: Any) -> LinkSnapshot:
    return LinkSnapshot(ifindex, name, UP, master, kind, "bridge")._replace(**more)


def libvirts(ifindex: int, name: str, master: int, number: int, **more: Any) -> LinkSnapshot:
    """A tun device that libvirt made for guest(number)."""
    address = b"\xfe" + guest(number)[1:]
    return port(ifindex, name, master, "tun", hardware_address=address, **more)


class Host:
    """Links, VLAN tables and memory.  Each port with an entry has received a frame."""

    def __init__(self, *links: LinkSnapshot) -> None:
        self.table = LinkTable()
        self.topology = Topology(self.table)
        self.memory = LearningMemory()
        self.vlans: dict[int, PortVlans] = {}
        self.change(*links)

    def change(self, *links: LinkSnapshot) -> None:
        for link in links:
            self.table.apply(LinkReport(link))

    def remove(self, ifindex: int) -> None:
        self.table.apply(LinkGone(ifindex))

    def allow(self, ifindex: int, *ranges: VlanRange, pvid: int = 0) -> None:
        master = self.table.links[ifindex].master_ifindex
        self.vlans[ifindex] = PortVlans(ifindex, master or ifindex, ranges, pvid)

    def hear(self, now: float, *entries: TableEntry, sent: Iterable[int] = ()) -> None:
        """Take in a dump of the tables."""
        ports = {entry.port_ifindex for entry in entries} | set(sent)
        counters = [LinkCounters(each, 1, 1) for each in ports]
        self.memory.take(entries, counters, self.table, self.topology, now)

    def plan(
        self, now: float = 100.0, rules: LearningRules | None = None, **moment: Any
    ) -> LearningPlan:
        return learning_plan.plan_learning(
            self.table,
            self.topology,
            self.vlans,
            self.memory,
            rules or LearningRules(),
            Moment(now, **moment),
        )

    def guests(self, now: float = 100.0, **moment: Any) -> list[tuple[str, str, str]]:
        """Return MAC, tags and bond of each frame for a guest, in their order."""
        entries = self.plan(now, **moment).entries
        return [shown(entry) for entry in entries if entry.kind != learning_plan.HOST]

    def reasons(self, now: float = 100.0, **moment: Any) -> list[tuple[str, str, str]]:
        """Return MAC, port and reason of each address that is left out."""
        left_out = self.plan(now, **moment).left_out
        return [(each.hardware_address.hex(":"), each.port, each.reason) for each in left_out]


def shown(entry: learning_plan.LearningEntry) -> tuple[str, str, str]:
    """Return MAC, tags and bond as text; a tag of another protocol than 802.1Q with it."""
    tags = [
        f"{'' if tag.protocol == 0x8100 else f'{tag.protocol:x}:'}{tag.vlan}" for tag in entry.tags
    ]
    return entry.hardware_address.hex(":"), " ".join(tags), entry.bond
