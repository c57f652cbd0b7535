"""Which learning frames to send for this host and its guests after a failover, and which not.

A pure function of the links, the bridges' VLAN tables and what their forwarding tables have said
(hypervisor.core.learning_memory).  Sends nothing and knows no socket: the caller builds each frame
with learning_frame(entry.hardware_address, entry.tags) and sends it on entry.bond_ifindex, on the
bond itself.  So no guest sees it, and no bridge of this host learns from it.

Three kinds of addresses, in the order of the plan; within one, the longest silent first, because
one that talks heals itself:

  HOST     of the bridges and of the VLANs on them: the bond announces only its own addresses
  OWN      of the guest that a port was made for: as libvirt says; a macvtap's; that of a tun device
           of libvirt, whose address is the guest's with fe as the first byte
  FURTHER  all others: of containers, of guests inside guests, of guests that only the tables know

Path probes, which are sent through the standby port and expected on the active one, take their
targets from here as well: `plan_learning(...).entries` has the MAC of each guest behind a bond, and
the tags that frames for it have there.  An entry with a small `silent` has just sent.

What is left out, and why, is in `left_out`; each reason guards against a harm that was seen.
"""

from __future__ import annotations

from math import inf
from operator import itemgetter

from garp_agent.hypervisor.core.learning_memory import PORT_MOST, has_repeated, latest_times
from garp_agent.hypervisor.core.linkstate import (
    MODE_8023AD,
    MODE_ACTIVE_BACKUP,
    MODE_ALB,
    MODE_TLB,
    STATE_FORWARDING,
)
from garp_agent.hypervisor.core.tagged_paths import TaggedPaths
from garp_agent.wire.model import IFF_UP
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from garp_agent.hypervisor.core.bridge_vlans import PortVlans
    from garp_agent.hypervisor.core.learning_memory import HeardAddress, LearningMemory
    from garp_agent.hypervisor.core.learning_rules import LearningRules
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot, VlanTag
    from garp_agent.hypervisor.core.tagged_paths import BondExit, VlanTags
    from garp_agent.hypervisor.core.topology import Topology

    Refusal = tuple[str, str]  # as LeftOut.reason and LeftOut.detail; "": there is none

# LearningEntry.kind
HOST = "host"
OWN = "own"
FURTHER = "further"
_KINDS = (HOST, OWN, FURTHER)

# LeftOut.reason
BOND_MODE = "bond-mode"  # the bond uses several ports at once
LEFT_OUT = "left-out"  # by an option
LIMIT = "limit"  # more than PORT_MOST addresses on one port
LOCKED = "locked"
MOVED = "moved"  # a bridge has heard it on another port of a guest since
NEVER_SENT = "never-sent"  # the guest; it can be one that has not arrived yet
NO_CARRIER = "no-carrier"
NO_PATH = "no-path"  # VLANs, isolation, STP, or no bond
NOT_LEARNING = "not-learning"  # nothing is derived there
SEEN_OUTSIDE = "seen-outside"
SHARED_ADDRESS = "shared-address"  # VRRP, HSRP, GLBP, CARP, ...
SPOKE = "spoke"  # after the failover
UNHEARD = "unheard"  # since all carriers were lost
UNKNOWN_ADDRESS = "unknown-address"

LOST_FOR = 1.0  # seconds without any carrier, after which others may have taken addresses over

_MACVTAPS = ("macvtap", "ipvtap")
_NO_REFUSAL = ("", "")
_SINGLE_PORT_MODES = (MODE_ACTIVE_BACKUP, MODE_TLB, MODE_ALB)  # broadcasts leave through one port


class LearningEntry(NamedTuple):
    """One learning frame to send."""

    bond_ifindex: int
    bond: str  # its name
    hardware_address: bytes
    tags: tuple[VlanTag, ...]  # on the bond, the outer one first
    port_ifindex: int  # of the guest port; of HOST the link that has the address
    port: str  # its name
    kind: str  # HOST, OWN or FURTHER
    silent: float  # seconds since it was heard; inf: not known


_SILENT = itemgetter(LearningEntry._fields.index("silent"))


class LeftOut(NamedTuple):
    """An address without a learning frame."""

    hardware_address: bytes  # b"": not known
    port: str
    reason: str
    detail: str = ""
    addresses: int = 1  # how many


class LearningPlan(NamedTuple):
    """What to send, in this order, and what not."""

    entries: tuple[LearningEntry, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


class Moment(NamedTuple):
    """When and for what a plan is made; times in seconds of the caller's clock."""

    now: float
    bonds: frozenset[int] | None = None  # ifindexes of those that failed over; None: all
    spoke_after: float = inf  # leave out addresses heard later than this: they healed themselves
    lost: Mapping[int, float] = {}  # by bond that had no carrier for LOST_FOR: since when
    aggregators: frozenset[int] = frozenset()  # bonds of mode 802.3ad that changed the aggregator
    named: Mapping[str, bytes] = {}  # by port: the MAC that libvirt has given to its guest


def plan_learning(
    table: LinkTable,
    topology: Topology,
    vlans: Mapping[int, PortVlans],
    memory: LearningMemory,
    rules: LearningRules,
    moment: Moment,
) -> LearningPlan:
    """Return the learning frames for a moment; ``vlans``: as TaggedPaths takes them."""
    planner = _Planner(table, topology, vlans, memory, rules, moment)
    links = sorted(table.links.values(), key=lambda link: link.ifindex)
    for link in links:
        planner.add_host(link)
    ports = [link for link in links if topology.is_guest_port(link)]
    for port in ports:
        planner.add_port(port)
    return planner.result()


class _Exit:
    """A bond, and the tags that frames have there: what is the same for all that leave there."""

    def __init__(
        self, bond: LinkSnapshot, tags: VlanTags, refusal: Refusal, lost_at: float
    ) -> None:
        self.ifindex = bond.ifindex
        self.name = bond.name
        self.tags = tags
        self.refusal = refusal
        self.lost_at = lost_at  # since when all carriers were lost; inf: never
        self.planned: set[bytes] = set()  # the MACs that have a frame there


class _Place(NamedTuple):
    """A port, or a link of the host: what is the same for all addresses of one kind there."""

    link: LinkSnapshot
    kind: str
    bridge: int  # its ifindex
    refusal: Refusal  # of all of them
    outside: Mapping[tuple[bytes, int], float]  # by address: when it was heard last outside


class _Planner:
    """Collects the entries of one plan."""

    def __init__(
        self,
        table: LinkTable,
        topology: Topology,
        vlans: Mapping[int, PortVlans],
        memory: LearningMemory,
        rules: LearningRules,
        moment: Moment,
    ) -> None:
        self._table = table
        self._topology = topology
        self._vlans = vlans
        self._memory = memory
        self._rules = rules
        self._moment = moment
        self._paths = TaggedPaths(table, topology, vlans)
        self._heard = memory.heard_by_bridge(table)
        self._repeating = {each for each, heard in self._heard.items() if has_repeated(heard)}
        self._latest: dict[int, dict[tuple[bytes, int], float]] = {}  # by bridge
        self._outside: dict[int, dict[tuple[bytes, int], float]] = {}  # by bridge
        self._exits: dict[BondExit, _Exit] = {}
        self._entries: dict[str, list[LearningEntry]] = {kind: [] for kind in _KINDS}
        self._left_out: list[LeftOut] = []

    def result(self) -> LearningPlan:
        for each in self._entries.values():
            each.sort(key=_SILENT, reverse=True)
        ordered = (each for kind in _KINDS for each in self._entries[kind])
        return LearningPlan(tuple(ordered), tuple(self._left_out))

    # -- the host -----------------------------------------------------------------------

    def add_host(self, link: LinkSnapshot) -> None:
        """Add the address of a bridge, or of a VLAN on one, in each VLAN that it sends in."""
        if not link.flags & IFF_UP or not self._is_of_host(link):
            return
        if link.hardware_address:
            self._add(link, HOST, [(link.hardware_address, 0, -inf)])

    def _is_of_host(self, link: LinkSnapshot) -> bool:
        if link.kind == "bridge":
            return True
        while link.kind == "vlan" and not link.master_ifindex:
            below = self._table.links.get(link.lower_ifindex)
            if below is None or below.kind == "bridge":
                return below is not None
            link = below
        return False

    # -- guests -------------------------------------------------------------------------

    def add_port(self, port: LinkSnapshot) -> None:
        """Add what is behind a guest port."""
        own, further = self._behind(port)
        reason, detail = self._port_refusal(port)
        if reason:
            for mac, _vlan, _heard_at in own + further or [(b"", 0, -inf)]:
                self._left_out.append(LeftOut(mac, port.name, reason, detail))
            return
        dropped = self._memory.dropped.get(port.ifindex, 0)
        over = dropped + max(0, len(own) + len(further) - PORT_MOST)
        if over:
            self._left_out.append(LeftOut(b"", port.name, LIMIT, f"{over} more addresses", over))
        self._add(port, OWN, own[:PORT_MOST])
        self._add(port, FURTHER, further[: max(0, PORT_MOST - len(own))])

    def _behind(self, port: LinkSnapshot) -> tuple[list[HeardAddress], list[HeardAddress]]:
        """Return the addresses of the guest that a port was made for, and all others behind it."""
        if port.kind in _MACVTAPS:
            return [(port.hardware_address, 0, -inf)], []
        filters = self._paths.filters_vlans(port.master_ifindex)
        # An entry with a VLAN and a bridge without them: made by hand, the bridge does not use it.
        further = [each for each in self._memory.heard(port.ifindex) if filters == bool(each[1])]
        octets = self._moment.named.get(port.name, b"") or _own_octets(port)
        if not octets:
            return [], further
        own = [each for each in further if each[0].endswith(octets)]
        further = [each for each in further if not each[0].endswith(octets)]
        if not own:
            vlan = self._paths.pvid(port.ifindex) if filters else 0
            own.append((octets if len(octets) == 6 else b"", vlan, -inf))
        return own, further

    def _port_refusal(self, port: LinkSnapshot) -> Refusal:
        if not self._rules.is_port_wanted(port.name):
            return LEFT_OUT, "by --learn-port"
        if not port.has_carrier:
            return NO_CARRIER, f"{port.name} has no carrier"
        if port.kind in _MACVTAPS:
            if port.lower_ifindex not in self._table.links:
                return NO_PATH, "what is below is in another namespace"
            return "", ""
        if port.port_options.locked or self._memory.untrusted(port.ifindex):
            return LOCKED, f"{port.name} is locked"
        if port.port_state not in (None, STATE_FORWARDING):
            return NO_PATH, f"{port.name} does not forward (STP)"
        return "", ""

    # -- addresses ----------------------------------------------------------------------

    def _add(self, link: LinkSnapshot, kind: str, addresses: list[HeardAddress]) -> None:
        """Add the frames for addresses, one for each bond that their frames leave through."""
        place = self._place(link, kind)
        ifindex, name, now = link.ifindex, link.name, self._moment.now
        entries = self._entries[kind]
        by_vlan: dict[int, tuple[list[_Exit], str]] = {}
        for address in addresses:
            mac, vlan, heard_at = address
            reason, detail = place.refusal if place.refusal[0] else self._refusal(place, address)
            if not reason:
                if vlan not in by_vlan:
                    by_vlan[vlan] = self._ways_out(place, vlan)
                exits, detail = by_vlan[vlan]
                reason = NO_PATH if detail else ""
            if reason:
                self._left_out.append(LeftOut(mac, name, reason, detail))
                continue
            for out in exits:
                reason, detail = out.refusal
                if not reason and kind == FURTHER and heard_at <= out.lost_at < inf:
                    reason, detail = UNHEARD, f"not heard since {out.name} lost all carriers"
                if reason:
                    self._left_out.append(LeftOut(mac, name, reason, detail))
                elif mac not in out.planned:
                    out.planned.add(mac)
                    silent = now - heard_at
                    where = (out.ifindex, out.name, mac, out.tags)
                    entries.append(LearningEntry(*where, ifindex, name, kind, silent))

    def _place(self, link: LinkSnapshot, kind: str) -> _Place:
        refusal = _NO_REFUSAL
        if kind != HOST and not self._memory.has_sent(link.ifindex):
            refusal = NEVER_SENT, "its guest has not sent a frame yet"
        bridge = link.ifindex if link.kind == "bridge" else link.master_ifindex
        outside = self._outside.get(bridge)
        if outside is None:
            heard = self._memory.outside(bridge)
            outside = self._outside[bridge] = {each[:2]: each[2] for each in heard}
        return _Place(link, kind, bridge, refusal, outside)

    def _refusal(self, place: _Place, address: HeardAddress) -> Refusal:
        """Return why an address gets no frame, whatever bonds are below."""
        mac, vlan, heard_at = address
        link, kind, bridge, _refusal, outside = place
        if kind == OWN and heard_at == -inf and not link.port_options.learning:
            return NOT_LEARNING, f"{link.name} learns no addresses"
        if not mac:
            return UNKNOWN_ADDRESS, "no table and no libvirt names its first octet"
        shared = self._rules.refusal(mac)
        if shared:
            return SHARED_ADDRESS, shared
        outside_at = outside.get((mac, vlan), -inf)
        if outside_at > -inf and (outside_at >= heard_at or kind == FURTHER):
            ago = self._moment.now - outside_at
            return SEEN_OUTSIDE, f"seen on an uplink {ago:.0f} s ago"
        may_have_moved = kind != HOST and (heard_at == -inf or bridge in self._repeating)
        if may_have_moved and self._latest_times(bridge).get((mac, vlan), heard_at) > heard_at:
            return MOVED, "heard on another port since"
        if heard_at > self._moment.spoke_after:
            return SPOKE, "heard after the failover"
        return _NO_REFUSAL

    def _latest_times(self, bridge: int) -> dict[tuple[bytes, int], float]:
        if bridge not in self._latest:
            self._latest[bridge] = latest_times(self._heard.get(bridge, b""))
        return self._latest[bridge]

    def _ways_out(self, place: _Place, vlan: int) -> tuple[list[_Exit], str]:
        """Return the exits of frames in a VLAN to the bonds of this plan; if none, why."""
        link = place.link
        if place.kind == HOST:
            found = self._paths.from_link(link)
        elif link.kind in _MACVTAPS:
            found = self._paths.from_link(self._table.links[link.lower_ifindex])
        else:
            found = self._paths.from_port(link, vlan)
        bonds = self._moment.bonds
        wanted = [each for each in found.bonds if bonds is None or each.bond_ifindex in bonds]
        return [self._exit(each) for each in wanted], found.refusal

    def _exit(self, place: BondExit) -> _Exit:
        if place not in self._exits:
            bond = self._table.links[place.bond_ifindex]
            refusal = self._bond_refusal(bond, place.tags)
            lost_at = self._moment.lost.get(bond.ifindex, inf)
            self._exits[place] = _Exit(bond, place.tags, refusal, lost_at)
        return self._exits[place]

    def _bond_refusal(self, bond: LinkSnapshot, tags: VlanTags) -> Refusal:
        outer = tags[0].vlan if tags else 0
        if self._rules.vlans and outer not in self._rules.vlans:
            return LEFT_OUT, "by --learn-vlans"
        mode = bond.bond.mode if bond.bond is not None else -1
        changed = mode == MODE_8023AD and bond.ifindex in self._moment.aggregators
        if mode not in _SINGLE_PORT_MODES and not changed:
            return BOND_MODE, f"{bond.name} sends through several ports at once"
        if not bond.has_carrier:
            return NO_CARRIER, f"{bond.name} has no carrier"
        return "", ""


def _own_octets(port: LinkSnapshot) -> bytes:
    """Return the last five octets of the guest that a tun device was made for; b"": not known."""
    is_libvirts = port.kind == "tun" and port.hardware_address[:1] == b"\xfe"
    return port.hardware_address[1:] if is_libvirts else b""
