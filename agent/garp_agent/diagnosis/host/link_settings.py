"""rtnetlink messages to the options of bonds and bridges that only the doctor looks at.

Does not decide whether an option is good.  hypervisor.core.linkstate and bridge_vlans read what
the watcher needs.

Numbers: <linux/if_link.h>.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from garp_agent.hypervisor.core.bridge_vlans import PortVlans, read_vlans
from garp_agent.wire import rtnetlink

_TICKS = 100  # a second: USER_HZ, in which bridges have their times


class BondSettings(NamedTuple):
    """The options of a bond, as Documentation/networking/bonding.rst calls them; times in ms."""

    mode: int
    miimon: int = 0
    updelay: int = 0
    downdelay: int = 0
    arp_interval: int = 0
    arp_missed_max: int = 2
    primary: int = 0  # ifindex; 0: none
    primary_reselect: int = 0  # 0: always
    fail_over_mac: int = 0
    all_slaves_active: int = 0


class BridgeSettings(NamedTuple):
    """The options of a bridge."""

    stp: bool
    forward_delay: float  # seconds


class LinkSettings(NamedTuple):
    """The options of one link."""

    ifindex: int
    settings: BondSettings | BridgeSettings


Told = Union[LinkSettings, PortVlans]


def decode(datagram: bytes) -> list[Told | rtnetlink.ControlMessage]:
    """Return what one datagram says, in its order.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode({rtnetlink.RTM_NEWLINK: _told}, datagram)


LINK_SETTINGS: rtnetlink.Subject[Told] = rtnetlink.Subject(
    (), (rtnetlink.dump_links, rtnetlink.dump_bridge_vlans), decode
)


def _told(data: bytes, start: int, end: int, dumped: bool) -> tuple[Told, ...]:
    family, _hardware_type, ifindex, _flags, found = rtnetlink.link_header(data, start, end)
    if family == rtnetlink.AF_BRIDGE:
        return read_vlans(data, start, end, dumped)
    info = rtnetlink.nested(found.get(rtnetlink.IFLA_LINKINFO, b""))
    options = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_DATA, b""))
    kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_KIND)
    if kind == "bond" and options:
        return (LinkSettings(ifindex, _bond_settings(options)),)
    if kind == "bridge" and options:
        return (LinkSettings(ifindex, _bridge_settings(options)),)
    return ()


def _bond_settings(found: dict[int, bytes]) -> BondSettings:
    return BondSettings(
        rtnetlink.u8(found, 1),  # IFLA_BOND_MODE
        rtnetlink.u32(found, 3),  # IFLA_BOND_MIIMON
        rtnetlink.u32(found, 4),  # IFLA_BOND_UPDELAY
        rtnetlink.u32(found, 5),  # IFLA_BOND_DOWNDELAY
        rtnetlink.u32(found, 7),  # IFLA_BOND_ARP_INTERVAL
        rtnetlink.u8(found, 30, 2),  # IFLA_BOND_MISSED_MAX; 2 before Linux 5.17
        rtnetlink.u32(found, 11),  # IFLA_BOND_PRIMARY
        rtnetlink.u8(found, 12),  # IFLA_BOND_PRIMARY_RESELECT
        rtnetlink.u8(found, 13),  # IFLA_BOND_FAIL_OVER_MAC
        rtnetlink.u8(found, 17),  # IFLA_BOND_ALL_SLAVES_ACTIVE
    )


def _bridge_settings(found: dict[int, bytes]) -> BridgeSettings:
    return BridgeSettings(
        rtnetlink.u32(found, 5) != 0,  # IFLA_BR_STP_STATE: 1 the kernel's, 2 a daemon's
        rtnetlink.u32(found, 1) / _TICKS,  # IFLA_BR_FORWARD_DELAY
    )
