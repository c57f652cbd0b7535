"""rtnetlink messages to what the watcher knows of a link: kind, carrier, place, bond, VLAN, bridge.

Does not decide whether a change is a failover (hypervisor.core.bonds), keeps no state between
datagrams, and opens no socket.  A team driver does not put the state of its ports into rtnetlink:
of a team only its events and its ports are known.

Numbers: <linux/if_link.h>, <linux/if_bonding.h>, <linux/if_bridge.h>.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink
from garp_agent.wire.attribute_layouts import ChosenAttributes
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, LinkGone
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.wire.model import DumpComplete, DumpPartial, DumpStarted

# LinkReport.event: why the kernel sent the message, IFLA_EVENT_*.
EVENT_NONE = 0
EVENT_BONDING_FAILOVER = 3
EVENT_NOTIFY_PEERS = rtnetlink.IFLA_EVENT_NOTIFY_PEERS
EVENT_IGMP_RESEND = 5
EVENT_BONDING_OPTIONS = 6

# Bond.mode: BOND_MODE_*.
MODE_ROUND_ROBIN = 0
MODE_ACTIVE_BACKUP = 1
MODE_XOR = 2
MODE_BROADCAST = 3
MODE_8023AD = 4
MODE_TLB = 5
MODE_ALB = 6

# BondPort.link: BOND_LINK_*, the result of the bond's own link monitoring.
LINK_UP = 0
LINK_FAIL = 1  # down, but within the down delay
LINK_DOWN = 2
LINK_BACK = 3  # up, but within the up delay

# LinkSnapshot.port_state: BR_STATE_*; a bridge without STP knows DISABLED and FORWARDING.
STATE_DISABLED = 0
STATE_LISTENING = 1
STATE_LEARNING = 2
STATE_FORWARDING = 3
STATE_BLOCKING = 4

_IFLA_BRPORT_STATE = 1
_IFLA_BRPORT_LEARNING = 8
_IFLA_BRPORT_ISOLATED = 33
_IFLA_BRPORT_LOCKED = 39
_IFLA_BR_AGEING_TIME = 4
_IFLA_BR_VLAN_FILTERING = 7
_IFLA_BR_VLAN_PROTOCOL = 8
_IFLA_VLAN_ID = 1
_IFLA_VLAN_PROTOCOL = 5
_IFLA_VXLAN_LINK = 3
_IFLA_BOND_MODE = 1
_IFLA_BOND_ACTIVE_SLAVE = 2
_IFLA_BOND_ALL_SLAVES_ACTIVE = 17
_IFLA_BOND_SLAVE_STATE = 1
_IFLA_BOND_SLAVE_MII_STATUS = 2
_BOND_STATE_ACTIVE = 0
_PACKETS = Struct("=QQ")  # struct rtnl_link_stats64: rx_packets, tx_packets
_TICK = 0.01  # seconds; USER_HZ is 100 on all that Linux runs on but alpha and ia64

# What is read of a message.  It has four times as many attributes.
_READ = ChosenAttributes(
    rtnetlink.IFLA_ADDRESS,
    rtnetlink.IFLA_IFNAME,
    rtnetlink.IFLA_LINK,
    rtnetlink.IFLA_MASTER,
    rtnetlink.IFLA_WIRELESS,
    rtnetlink.IFLA_PROTINFO,
    rtnetlink.IFLA_LINKINFO,
    rtnetlink.IFLA_STATS64,
    rtnetlink.IFLA_LINK_NETNSID,
    rtnetlink.IFLA_PHYS_PORT_NAME,
    rtnetlink.IFLA_EVENT,
    rtnetlink.IFLA_PARENT_DEV_BUS_NAME,
)
_READ_OF_INFO = ChosenAttributes(
    rtnetlink.IFLA_INFO_KIND,
    rtnetlink.IFLA_INFO_DATA,
    rtnetlink.IFLA_INFO_SLAVE_KIND,
    rtnetlink.IFLA_INFO_SLAVE_DATA,
)
# One string for all links of a kind: a host can have thousands of links.
_KINDS = {each: each for each in ("bond", "bridge", "macvtap", "tun", "veth", "vlan")}
_READ_OF_KINDS = {  # in IFLA_INFO_DATA
    "bond": ChosenAttributes(
        _IFLA_BOND_MODE, _IFLA_BOND_ACTIVE_SLAVE, _IFLA_BOND_ALL_SLAVES_ACTIVE
    ),
    "bridge": ChosenAttributes(
        _IFLA_BR_AGEING_TIME, _IFLA_BR_VLAN_FILTERING, _IFLA_BR_VLAN_PROTOCOL
    ),
    "vlan": ChosenAttributes(_IFLA_VLAN_ID, _IFLA_VLAN_PROTOCOL),
    "vxlan": ChosenAttributes(_IFLA_VXLAN_LINK),
}
_READ_OF_PORTS = {  # in IFLA_INFO_SLAVE_DATA, by the kind of the master
    "bond": ChosenAttributes(_IFLA_BOND_SLAVE_STATE, _IFLA_BOND_SLAVE_MII_STATUS),
    "bridge": ChosenAttributes(
        _IFLA_BRPORT_STATE, _IFLA_BRPORT_LEARNING, _IFLA_BRPORT_ISOLATED, _IFLA_BRPORT_LOCKED
    ),
}

ETH_P_8021Q = 0x8100


class Bond(NamedTuple):
    """The data of a link of kind "bond"."""

    mode: int
    active_ifindex: int = 0  # 0: no active port now, or the mode has none
    hears_all_ports: bool = False  # option all_slaves_active: it takes what its other ports receive


class BondPort(NamedTuple):
    """The data of a link whose master is a bond."""

    active: bool  # BOND_STATE_ACTIVE; what that means depends on the mode
    link: int  # LINK_*


class VlanTag(NamedTuple):
    """One VLAN tag."""

    protocol: int  # the ethertype (TPID), as 0x8100 or 0x88a8
    vlan: int  # 0 to 4095


class BridgeOptions(NamedTuple):
    """The data of a link of kind "bridge"."""

    filters_vlans: bool = False
    vlan_protocol: int = ETH_P_8021Q  # of the tags that it reads and writes
    ageing: float = 300.0  # seconds after which it forgets a silent address


class PortOptions(NamedTuple):
    """The options of a bridge's port."""

    learning: bool = True
    locked: bool = False  # frames of addresses that it has not been told to trust are dropped
    isolated: bool = False  # it exchanges no frames with other isolated ports


_USUAL_OPTIONS = PortOptions()


class LinkSnapshot(NamedTuple):
    """The state of one link."""

    ifindex: int
    name: str
    flags: int  # IFF_*, 32 bits
    master_ifindex: int = 0  # 0: none
    kind: str = ""  # "bond", "team", "bridge", ...; "" for hardware
    port_kind: str = ""  # the kind of the master: "bond", "team", "bridge", ...
    bond: Bond | None = None
    bond_port: BondPort | None = None
    port_state: int | None = None  # of a bridge's port, STATE_*; None: not known
    lower_ifindex: int = 0  # IFLA_LINK: of a VLAN, a macvlan, ...; of a veth its other end
    hardware_address: bytes = b""
    port_name: str = ""  # the card's name for it: "p0", "pf0vf3" for a representor
    bus: str = ""  # of its device: "pci", "xen-backend", ...; "" for others and before Linux 5.14
    vlan: VlanTag | None = None  # of a link of kind "vlan"
    bridge: BridgeOptions | None = None  # of a link of kind "bridge"
    port_options: PortOptions = _USUAL_OPTIONS  # of a bridge's port

    @property
    def has_carrier(self) -> bool:
        """Return whether the link is administratively up and has carrier."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


class LinkReport(NamedTuple):
    """One RTM_NEWLINK: a link, and why the kernel sent the message."""

    link: LinkSnapshot
    event: int = EVENT_NONE
    dumped: bool = False  # part of a dump
    packets: tuple[int, int] = (0, 0)  # received and sent so far, of a link without carrier


class PortStateReport(NamedTuple):
    """A message of a bridge about one of its ports: RTM_NEWLINK of family AF_BRIDGE."""

    ifindex: int
    bridge_ifindex: int
    state: int  # STATE_*
    options: PortOptions = PortOptions()


if TYPE_CHECKING:
    LinkMessage = Union[LinkReport, PortStateReport, LinkGone]
    LinkEvent = Union[LinkMessage, DumpComplete, DumpPartial, DumpStarted]


def decode(datagram: bytes) -> list[LinkMessage | rtnetlink.ControlMessage]:
    """Return what one datagram says about links, in its order.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode(_READERS, datagram)


def _report(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkMessage, ...]:
    family, _hardware_type, ifindex, flags, found = rtnetlink.link_header(data, start, end, _READ)
    if family == rtnetlink.AF_BRIDGE:
        return _port_state(ifindex, found)
    if rtnetlink.is_partial(family, found):
        return ()
    info = rtnetlink.nested(found.get(rtnetlink.IFLA_LINKINFO, b""), _READ_OF_INFO)
    kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_KIND)
    port_kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_SLAVE_KIND)
    kind, port_kind = _KINDS.get(kind, kind), _KINDS.get(port_kind, port_kind)
    own = _chosen_of(_READ_OF_KINDS, kind, info, rtnetlink.IFLA_INFO_DATA)
    port = _chosen_of(_READ_OF_PORTS, port_kind, info, rtnetlink.IFLA_INFO_SLAVE_DATA)
    link = LinkSnapshot(
        ifindex,
        rtnetlink.text(found, rtnetlink.IFLA_IFNAME),
        flags,
        rtnetlink.u32(found, rtnetlink.IFLA_MASTER),
        kind,
        port_kind,
        _bond(own) if kind == "bond" else None,
        _bond_port(port) if port_kind == "bond" else None,
        _state_in(port) if port_kind == "bridge" else None,
        _lower(kind, found, own),
        found.get(rtnetlink.IFLA_ADDRESS, b""),
        rtnetlink.text(found, rtnetlink.IFLA_PHYS_PORT_NAME),
        rtnetlink.text(found, rtnetlink.IFLA_PARENT_DEV_BUS_NAME),
        _vlan(own) if kind == "vlan" else None,
        _bridge(own) if kind == "bridge" else None,
        _port_options(port) if port_kind == "bridge" else _USUAL_OPTIONS,
    )
    packets = (0, 0)
    if rtnetlink.IFLA_STATS64 in found and not link.has_carrier:
        value = found[rtnetlink.IFLA_STATS64]
        received, sent = rtnetlink.fixed(_PACKETS, value, 0, len(value))
        packets = (received, sent)
    return (LinkReport(link, rtnetlink.u32(found, rtnetlink.IFLA_EVENT), dumped, packets),)


def _chosen_of(
    wanted: dict[str, ChosenAttributes], kind: str, info: dict[int, bytes], attribute_type: int
) -> dict[int, bytes]:
    if kind not in wanted or attribute_type not in info:
        return {}
    return rtnetlink.nested(info[attribute_type], wanted[kind])


def _lower(kind: str, found: dict[int, bytes], data: dict[int, bytes]) -> int:
    if rtnetlink.IFLA_LINK_NETNSID in found:  # the index is one of another namespace
        return 0
    if kind == "vxlan":
        return rtnetlink.u32(data, _IFLA_VXLAN_LINK)
    return rtnetlink.u32(found, rtnetlink.IFLA_LINK)


def _port_state(ifindex: int, found: dict[int, bytes]) -> tuple[PortStateReport, ...]:
    port = _chosen_of(_READ_OF_PORTS, "bridge", found, rtnetlink.IFLA_PROTINFO)
    state = _state_in(port)
    if state is None:  # a message about the bridge itself
        return ()
    bridge = rtnetlink.u32(found, rtnetlink.IFLA_MASTER)
    return (PortStateReport(ifindex, bridge, state, _port_options(port)),)


def _state_in(port: dict[int, bytes]) -> int | None:
    if _IFLA_BRPORT_STATE not in port:
        return None
    return rtnetlink.u8(port, _IFLA_BRPORT_STATE)


def _port_options(port: dict[int, bytes]) -> PortOptions:
    options = PortOptions(
        bool(rtnetlink.u8(port, _IFLA_BRPORT_LEARNING, 1)),
        bool(rtnetlink.u8(port, _IFLA_BRPORT_LOCKED)),
        bool(rtnetlink.u8(port, _IFLA_BRPORT_ISOLATED)),
    )
    return _USUAL_OPTIONS if options == _USUAL_OPTIONS else options


def _bridge(data: dict[int, bytes]) -> BridgeOptions:
    default = BridgeOptions()
    ageing = rtnetlink.u32(data, _IFLA_BR_AGEING_TIME, round(default.ageing / _TICK))
    return BridgeOptions(
        bool(rtnetlink.u8(data, _IFLA_BR_VLAN_FILTERING)),
        rtnetlink.ethertype(data, _IFLA_BR_VLAN_PROTOCOL, default.vlan_protocol),
        ageing * _TICK,
    )


def _vlan(data: dict[int, bytes]) -> VlanTag | None:
    if _IFLA_VLAN_ID not in data:
        return None
    protocol = rtnetlink.ethertype(data, _IFLA_VLAN_PROTOCOL, ETH_P_8021Q)
    return VlanTag(protocol, rtnetlink.u16(data, _IFLA_VLAN_ID))


def _bond(data: dict[int, bytes]) -> Bond | None:
    if _IFLA_BOND_MODE not in data:
        return None
    return Bond(
        rtnetlink.u8(data, _IFLA_BOND_MODE),
        rtnetlink.u32(data, _IFLA_BOND_ACTIVE_SLAVE),
        bool(rtnetlink.u8(data, _IFLA_BOND_ALL_SLAVES_ACTIVE)),
    )


def _bond_port(port: dict[int, bytes]) -> BondPort | None:
    if _IFLA_BOND_SLAVE_STATE not in port:
        return None
    return BondPort(
        rtnetlink.u8(port, _IFLA_BOND_SLAVE_STATE) == _BOND_STATE_ACTIVE,
        rtnetlink.u8(port, _IFLA_BOND_SLAVE_MII_STATUS),
    )


_READERS: dict[int, rtnetlink.Reader[LinkMessage]] = {
    rtnetlink.RTM_NEWLINK: _report,
    rtnetlink.RTM_DELLINK: rtnetlink.link_gone,
}

LINKS: rtnetlink.Subject[LinkMessage] = rtnetlink.Subject(
    (rtnetlink.RTNLGRP_LINK,), (rtnetlink.dump_links,), decode
)
