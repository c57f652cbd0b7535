"""Netlink datagrams to what the hypervisor's end wants to know of its links.

Decides how RTM_NEWLINK reads where a bond is concerned: its mode and active port, the
state of each port, and the event that made the kernel tell.  Never decides whether
that is a failover, keeps no state between datagrams, and knows no socket.  Ask with
:func:`garp_agent.wire.rtnetlink.dump_links`; what is no bond has no bond data, and a
team driver keeps its ports' state out of rtnetlink, so of a team only events and
ports are known.

Numbers: <linux/if_link.h>, <linux/if_bonding.h>.
"""

from __future__ import annotations

from garp_agent.wire import rtnetlink
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, LinkGone
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.wire.model import DumpComplete, DumpStarted

# LinkSnapshot.event: why the kernel tells, IFLA_EVENT_*.
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

# BondPort.link: BOND_LINK_*, what the bond's monitoring thinks of the port.
LINK_UP = 0
LINK_FAIL = 1  # down, but within the down delay
LINK_DOWN = 2
LINK_BACK = 3  # up, but within the up delay

_IFLA_BOND_MODE = 1
_IFLA_BOND_ACTIVE_SLAVE = 2
_IFLA_BOND_SLAVE_STATE = 1
_IFLA_BOND_SLAVE_MII_STATUS = 2
_BOND_STATE_ACTIVE = 0


class Bond(NamedTuple):
    """What only a bond has."""

    mode: int
    active_ifindex: int = 0  # of the active port; 0: none now, or none in this mode


class BondPort(NamedTuple):
    """What only a port of a bond has."""

    active: bool  # carries traffic, as far as the mode has a notion of it
    link: int


class LinkSnapshot(NamedTuple):
    """One link as one RTM_NEWLINK describes it."""

    ifindex: int
    name: str
    flags: int  # IFF_*, 32 bits
    master_ifindex: int = 0  # 0: none
    kind: str = ""  # "bond", "team", "bridge", ...; "" for hardware
    port_kind: str = ""  # what the master is: "bond", "team", "bridge", ...
    event: int = EVENT_NONE
    bond: Bond | None = None
    bond_port: BondPort | None = None

    @property
    def has_carrier(self) -> bool:
        """Administratively up, with carrier."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


if TYPE_CHECKING:
    Observation = Union[LinkSnapshot, LinkGone]
    Message = Union[Observation, rtnetlink.ControlMessage]
    Event = Union[Observation, DumpComplete, DumpStarted]


def decode(datagram: bytes) -> list[Message]:
    """What one datagram says about links, in its order."""
    return rtnetlink.decode(_READERS, datagram)


def _snapshot(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkSnapshot, ...]:
    family, _hardware_type, ifindex, flags, found = rtnetlink.link_header(data, start, end)
    if rtnetlink.is_partial(family, found):
        return ()
    info = rtnetlink.nested(found.get(rtnetlink.IFLA_LINKINFO, b""))
    kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_KIND)
    port_kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_SLAVE_KIND)
    snapshot = LinkSnapshot(
        ifindex,
        rtnetlink.text(found, rtnetlink.IFLA_IFNAME),
        flags,
        rtnetlink.u32(found, rtnetlink.IFLA_MASTER),
        kind,
        port_kind,
        rtnetlink.u32(found, rtnetlink.IFLA_EVENT),
        _bond(info) if kind == "bond" else None,
        _bond_port(info) if port_kind == "bond" else None,
    )
    return (snapshot,)


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


_READERS: dict[int, rtnetlink.Reader[Observation]] = {
    rtnetlink.RTM_NEWLINK: _snapshot,
    rtnetlink.RTM_DELLINK: rtnetlink.link_gone,
}

LINKS: rtnetlink.Subject[Observation] = rtnetlink.Subject(
    (rtnetlink.RTNLGRP_LINK,), (rtnetlink.dump_links,), decode
)
