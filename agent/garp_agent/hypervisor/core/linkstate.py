"""rtnetlink messages to what the watcher knows of a link: kind, carrier, place, bond data.

Does not decide whether a change is a failover (hypervisor.core.bonds), keeps no state between
datagrams, and opens no socket.  A team driver does not put the state of its ports into rtnetlink:
of a team only its events and its ports are known.

Numbers: <linux/if_link.h>, <linux/if_bonding.h>, <linux/if_bridge.h>.
"""

from __future__ import annotations

from garp_agent.wire import rtnetlink
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
_IFLA_VXLAN_LINK = 3
_IFLA_BOND_MODE = 1
_IFLA_BOND_ACTIVE_SLAVE = 2
_IFLA_BOND_SLAVE_STATE = 1
_IFLA_BOND_SLAVE_MII_STATUS = 2
_BOND_STATE_ACTIVE = 0


class Bond(NamedTuple):
    """The data of a link of kind "bond"."""

    mode: int
    active_ifindex: int = 0  # 0: no active port now, or the mode has none


class BondPort(NamedTuple):
    """The data of a link whose master is a bond."""

    active: bool  # BOND_STATE_ACTIVE; what that means depends on the mode
    link: int  # LINK_*


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

    @property
    def has_carrier(self) -> bool:
        """Return whether the link is administratively up and has carrier."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


class LinkReport(NamedTuple):
    """One RTM_NEWLINK: a link, and why the kernel sent the message."""

    link: LinkSnapshot
    event: int = EVENT_NONE
    dumped: bool = False  # part of a dump


class PortStateReport(NamedTuple):
    """A message of a bridge about one of its ports: RTM_NEWLINK of family AF_BRIDGE."""

    ifindex: int
    bridge_ifindex: int
    state: int  # STATE_*


if TYPE_CHECKING:
    LinkMessage = Union[LinkReport, PortStateReport, LinkGone]
    LinkEvent = Union[LinkMessage, DumpComplete, DumpPartial, DumpStarted]


def decode(datagram: bytes) -> list[LinkMessage | rtnetlink.ControlMessage]:
    """Return what one datagram says about links, in its order.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode(_READERS, datagram)


def _report(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkMessage, ...]:
    family, _hardware_type, ifindex, flags, found = rtnetlink.link_header(data, start, end)
    if family == rtnetlink.AF_BRIDGE:
        return _port_state(ifindex, found)
    if rtnetlink.is_partial(family, found):
        return ()
    info = rtnetlink.nested(found.get(rtnetlink.IFLA_LINKINFO, b""))
    kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_KIND)
    port_kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_SLAVE_KIND)
    link = LinkSnapshot(
        ifindex,
        rtnetlink.text(found, rtnetlink.IFLA_IFNAME),
        flags,
        rtnetlink.u32(found, rtnetlink.IFLA_MASTER),
        kind,
        port_kind,
        _bond(info) if kind == "bond" else None,
        _bond_port(info) if port_kind == "bond" else None,
        _state_in(info.get(rtnetlink.IFLA_INFO_SLAVE_DATA)) if port_kind == "bridge" else None,
        _lower(kind, found, info),
        found.get(rtnetlink.IFLA_ADDRESS, b""),
        rtnetlink.text(found, rtnetlink.IFLA_PHYS_PORT_NAME),
        rtnetlink.text(found, rtnetlink.IFLA_PARENT_DEV_BUS_NAME),
    )
    return (LinkReport(link, rtnetlink.u32(found, rtnetlink.IFLA_EVENT), dumped),)


def _lower(kind: str, found: dict[int, bytes], info: dict[int, bytes]) -> int:
    if rtnetlink.IFLA_LINK_NETNSID in found:  # the index is one of another namespace
        return 0
    if kind == "vxlan":
        data = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_DATA, b""))
        return rtnetlink.u32(data, _IFLA_VXLAN_LINK)
    return rtnetlink.u32(found, rtnetlink.IFLA_LINK)


def _port_state(ifindex: int, found: dict[int, bytes]) -> tuple[PortStateReport, ...]:
    state = _state_in(found.get(rtnetlink.IFLA_PROTINFO))
    if state is None:  # a message about the bridge itself
        return ()
    return (PortStateReport(ifindex, rtnetlink.u32(found, rtnetlink.IFLA_MASTER), state),)


def _state_in(port: bytes | None) -> int | None:
    found = rtnetlink.nested(port or b"")
    if _IFLA_BRPORT_STATE not in found:
        return None
    return rtnetlink.u8(found, _IFLA_BRPORT_STATE)


def _bond(info: dict[int, bytes]) -> Bond | None:
    found = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_DATA, b""))
    if _IFLA_BOND_MODE not in found:
        return None
    return Bond(
        rtnetlink.u8(found, _IFLA_BOND_MODE),
        rtnetlink.u32(found, _IFLA_BOND_ACTIVE_SLAVE),
    )


def _bond_port(info: dict[int, bytes]) -> BondPort | None:
    found = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_SLAVE_DATA, b""))
    if _IFLA_BOND_SLAVE_STATE not in found:
        return None
    return BondPort(
        rtnetlink.u8(found, _IFLA_BOND_SLAVE_STATE) == _BOND_STATE_ACTIVE,
        rtnetlink.u8(found, _IFLA_BOND_SLAVE_MII_STATUS),
    )


_READERS: dict[int, rtnetlink.Reader[LinkMessage]] = {
    rtnetlink.RTM_NEWLINK: _report,
    rtnetlink.RTM_DELLINK: rtnetlink.link_gone,
}

LINKS: rtnetlink.Subject[LinkMessage] = rtnetlink.Subject(
    (rtnetlink.RTNLGRP_LINK,), (rtnetlink.dump_links,), decode
)
