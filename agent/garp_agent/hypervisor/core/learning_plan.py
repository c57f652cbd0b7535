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

from garp_agent.hypervisor.core.learning_memory import PORT_MOST
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
    from collections.abc import Iterator, Mapping

    from garp_agent.hypervisor.core.bridge_vlans import PortVlans
    from garp_agent.hypervisor.core.learning_memory import LearningMemory
    from garp_agent.hypervisor.core.learning_rules import LearningRules
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot, VlanTag
    from garp_agent.hypervisor.core.tagged_paths import BondExit, Exits
    from garp_agent.hypervisor.core.topology import Topology

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


class _Candidate(NamedTuple):
    hardware_address: bytes
    vlan: int
    heard_at: float  # -inf: never, as far as is known
    kind: str


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
        self._heard = {port: list(memory.heard(port)) for port in memory.ports()}
        self._latest = self._latest_ports()
        self._outside: dict[int, dict[tuple[bytes, int], float]] = {}  # by bridge
        self._bonds: dict[BondExit, tuple[str, str, str, float]] = {}  # as _bond() returns them
        self._entries: dict[tuple[int, bytes, tuple[VlanTag, ...]], LearningEntry] = {}
        self._left_out: list[LeftOut] = []

    def result(self) -> LearningPlan:
        entries = sorted(self._entries.values(), key=lambda each: each.silent, reverse=True)
        ordered = [each for kind in _KINDS for each in entries if each.kind == kind]
        return LearningPlan(tuple(ordered), tuple(self._left_out))

    # -- the host -----------------------------------------------------------------------

    def add_host(self, link: LinkSnapshot) -> None:
        """Add the address of a bridge, or of a VLAN on one, in each VLAN that it sends in."""
        if not link.flags & IFF_UP or not self._is_of_host(link):
            return
        found = _Candidate(link.hardware_address, 0, -inf, HOST)
        if not link.hardware_address or not self._may_send(link, found):
            return
        self._send(link, found, self._paths.from_link(link))

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
        candidates = sorted(self._candidates(port), key=lambda each: each.kind == FURTHER)
        reason, detail = self._port_refusal(port)
        if reason:
            for each in candidates or [_Candidate(b"", 0, -inf, OWN)]:
                self._left_out.append(LeftOut(each.hardware_address, port.name, reason, detail))
            return
        over = self._memory.dropped.get(port.ifindex, 0) + max(0, len(candidates) - PORT_MOST)
        if over:
            self._left_out.append(LeftOut(b"", port.name, LIMIT, f"{over} more addresses", over))
        exits: dict[int, Exits] = {}  # by VLAN
        for each in candidates[:PORT_MOST]:
            if not self._may_send(port, each):
                continue
            if each.vlan not in exits:
                exits[each.vlan] = self._exits(port, each.vlan)
            self._send(port, each, exits[each.vlan])

    def _exits(self, port: LinkSnapshot, vlan: int) -> Exits:
        if port.kind in _MACVTAPS:
            return self._paths.from_link(self._table.links[port.lower_ifindex])
        return self._paths.from_port(port, vlan)

    def _candidates(self, port: LinkSnapshot) -> Iterator[_Candidate]:
        if port.kind in _MACVTAPS:
            yield _Candidate(port.hardware_address, 0, -inf, OWN)
            return
        filters = self._paths.filters_vlans(port.master_ifindex)
        own = self._moment.named.get(port.name, b"") or _own_octets(port)
        is_heard = False
        for mac, vlan, heard_at in self._heard.get(port.ifindex, ()):
            if filters != bool(vlan):
                continue  # an entry made by hand, which such a bridge does not use
            kind = OWN if own and mac.endswith(own) else FURTHER
            is_heard = is_heard or kind == OWN
            yield _Candidate(mac, vlan, heard_at, kind)
        if own and not is_heard:
            vlan = self._paths.pvid(port.ifindex) if filters else 0
            yield _Candidate(own if len(own) == 6 else b"", vlan, -inf, OWN)

    def _port_refusal(self, port: LinkSnapshot) -> tuple[str, str]:
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

    # -- one address --------------------------------------------------------------------

    def _may_send(self, port: LinkSnapshot, found: _Candidate) -> bool:
        reason, detail = self._refusal(port, found)
        if reason:
            self._left_out.append(LeftOut(found.hardware_address, port.name, reason, detail))
        return not reason

    def _refusal(self, port: LinkSnapshot, found: _Candidate) -> tuple[str, str]:
        """Return why an address gets no frame, whatever bonds are below."""
        mac, vlan, heard_at, kind = found
        if kind != HOST and not self._memory.has_sent(port.ifindex):
            return NEVER_SENT, "its guest has not sent a frame yet"
        if kind == OWN and heard_at == -inf and not port.port_options.learning:
            return NOT_LEARNING, f"{port.name} learns no addresses"
        if not mac:
            return UNKNOWN_ADDRESS, "no table and no libvirt names its first octet"
        shared = self._rules.refusal(mac)
        if shared:
            return SHARED_ADDRESS, shared
        bridge = port.ifindex if port.kind == "bridge" else port.master_ifindex
        outside = self._outside.get(bridge)
        if outside is None:
            outside = self._outside[bridge] = self._seen_outside(bridge)
        outside_at = outside.get((mac, vlan), -inf)
        if outside_at > -inf and (outside_at >= heard_at or kind == FURTHER):
            ago = self._moment.now - outside_at
            return SEEN_OUTSIDE, f"seen on an uplink {ago:.0f} s ago"
        if kind != HOST and self._latest.get((bridge, mac, vlan), heard_at) > heard_at:
            return MOVED, "heard on another port since"
        if heard_at > self._moment.spoke_after:
            return SPOKE, "heard after the failover"
        return "", ""

    def _seen_outside(self, bridge: int) -> dict[tuple[bytes, int], float]:
        return {(each[0], each.vlan): each.heard_at for each in self._memory.outside(bridge)}

    def _send(self, port: LinkSnapshot, found: _Candidate, exits: Exits) -> None:
        """Add the frames for an address, one for each bond that its frames leave through."""
        if exits.refusal:
            self._leave_out(port, found, NO_PATH, exits.refusal)
        mac, _vlan, heard_at, kind = found
        for each in exits.bonds:
            ifindex, tags = each
            if self._moment.bonds is not None and ifindex not in self._moment.bonds:
                continue
            known = self._bonds.get(each)
            if known is None:
                known = self._bonds[each] = self._bond(self._table.links[ifindex], tags)
            bond, reason, detail, lost_at = known
            if not reason and kind == FURTHER and heard_at <= lost_at < inf:
                reason, detail = UNHEARD, f"not heard since {bond} lost all carriers"
            if reason:
                self._leave_out(port, found, reason, detail)
                continue
            silent = self._moment.now - heard_at
            entry = LearningEntry(ifindex, bond, mac, tags, port.ifindex, port.name, kind, silent)
            self._entries.setdefault((ifindex, mac, tags), entry)

    def _bond(self, bond: LinkSnapshot, tags: tuple[VlanTag, ...]) -> tuple[str, str, str, float]:
        """Return name, refusal, and since when all carriers were lost (inf: never), of a bond."""
        reason, detail = self._bond_refusal(bond, tags)
        return bond.name, reason, detail, self._moment.lost.get(bond.ifindex, inf)

    def _bond_refusal(self, bond: LinkSnapshot, tags: tuple[VlanTag, ...]) -> tuple[str, str]:
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

    def _leave_out(self, port: LinkSnapshot, found: _Candidate, reason: str, detail: str) -> None:
        self._left_out.append(LeftOut(found.hardware_address, port.name, reason, detail))

    def _latest_ports(self) -> dict[tuple[int, bytes, int], float]:
        """Return when each address was heard last on any guest port of its bridge."""
        latest: dict[tuple[int, bytes, int], float] = {}
        for port, heard in self._heard.items():
            link = self._table.links.get(port)
            if link is None:
                continue
            for mac, vlan, heard_at in heard:
                key = (link.master_ifindex, mac, vlan)
                if heard_at > latest.get(key, -inf):
                    latest[key] = heard_at
        return latest


def _own_octets(port: LinkSnapshot) -> bytes:
    """Return the last five octets of the guest that a tun device was made for; b"": not known."""
    is_libvirts = port.kind == "tun" and port.hardware_address[:1] == b"\xfe"
    return port.hardware_address[1:] if is_libvirts else b""
