"""rtnetlink messages to what the watcher knows of a link: kind, carrier, master, bond data.

Does not decide whether a change is a failover (hypervisor.core.bonds), keeps no state between
datagrams, and opens no socket.  A team driver does not put the state of its ports into rtnetlink:
of a team only its events and its ports are known.

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

    @property
    def has_carrier(self) -> bool:
        """Return whether the link is administratively up and has carrier."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


class LinkReport(NamedTuple):
    """One RTM_NEWLINK: a link, and why the kernel sent the message."""

    link: LinkSnapshot
    event: int = EVENT_NONE
    dumped: bool = False  # part of a dump


if TYPE_CHECKING:
    LinkMessage = Union[LinkReport, LinkGone]
    LinkEvent = Union[LinkMessage, DumpComplete, DumpStarted]


def decode(datagram: bytes) -> list[LinkMessage | rtnetlink.ControlMessage]:
    """Return what one datagram says about links, in its order.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode(_READERS, datagram)


def _report(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkReport, ...]:
    family, _hardware_type, ifindex, flags, found = rtnetlink.link_header(data, start, end)
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
    )
    return (LinkReport(link, rtnetlink.u32(found, rtnetlink.IFLA_EVENT), dumped),)


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
