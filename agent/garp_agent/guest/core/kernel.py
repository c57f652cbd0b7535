"""Turns rtnetlink messages into the guest's events: links, addresses, IPv6 forwarding.

Does not decide what follows from an event, keeps no state between datagrams, opens no socket.

Sources: rtnetlink(7), <linux/if_link.h>, <linux/if_addr.h>, <linux/netconf.h>.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.wire import rtnetlink
from garp_agent.wire.model import IFF_LOWER_UP
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    from garp_agent.guest.core.model import KernelChange

    KernelMessage = Union[KernelChange, rtnetlink.ControlMessage]

GROUPS = (
    rtnetlink.RTNLGRP_LINK,
    rtnetlink.RTNLGRP_IPV4_IFADDR,
    rtnetlink.RTNLGRP_IPV6_IFADDR,
    rtnetlink.RTNLGRP_IPV6_NETCONF,
)

_AF_INET = 2
_ADDRESS_LENGTH = {_AF_INET: 4, rtnetlink.AF_INET6: 16}

_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_LABEL = 3
_IFA_FLAGS = 8

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_VIA = 18

_NETCONFA_IFINDEX = 1
_NETCONFA_FORWARDING = 2

_IFLA_MACVLAN_MODE = 1
_MACVLAN_MODE_PRIVATE = 1
_IFLA_BR_VLAN_FILTERING = 7

# For these kinds, IFLA_LINK is the other end of a pair, not a device below.
_PAIRED_KINDS = ("veth", "netkit", "vxcan")

_S32 = Struct("=i")
_U32_ATTRIBUTE = Struct("=HHI")  # length, type, value
_ATTRIBUTE = Struct("=HH")
# rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags
_ROUTE = Struct("=8BI")


def decode(datagram: bytes) -> list[KernelMessage]:
    """Return the events and control messages of one datagram, in its order.

    Raises rtnetlink.DecodeError.
    """
    return rtnetlink.decode(_READERS, datagram)


# -- links ------------------------------------------------------------------------------


def _link_seen(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkSeen, ...]:
    family, hardware_type, ifindex, flags, found = rtnetlink.link_header(data, start, end)
    if rtnetlink.is_partial(family, found):
        return ()
    info = rtnetlink.nested(found.get(rtnetlink.IFLA_LINKINFO, b""))
    kind = rtnetlink.text(info, rtnetlink.IFLA_INFO_KIND)
    parent, pair, far_parent = _links_beside(ifindex, kind, found)
    if rtnetlink.u8(found, rtnetlink.IFLA_PROTO_DOWN):
        # A protocol holds the link down, for example VRRP of FRR on a backup.  The kernel gives a
        # macvlan its carrier back with that of the link below (macvlan_device_event).
        flags &= ~IFF_LOWER_UP
    link = Link(
        ifindex,
        rtnetlink.text(found, rtnetlink.IFLA_IFNAME),
        found.get(rtnetlink.IFLA_ADDRESS, b""),
        hardware_type,
        flags,
        rtnetlink.u8(found, rtnetlink.IFLA_OPERSTATE),
        rtnetlink.u32(found, rtnetlink.IFLA_MASTER),
        kind,
        rtnetlink.text(info, rtnetlink.IFLA_INFO_SLAVE_KIND),
        parent,
        _altnames(found.get(rtnetlink.IFLA_PROP_LIST, b"")),
        kind == "macvlan" and _is_private(info),
        pair,
        far_parent,
        kind == "bridge" and _filters_vlans(info),
    )
    return (
        LinkSeen(
            link,
            rtnetlink.u32(found, rtnetlink.IFLA_EVENT) == rtnetlink.IFLA_EVENT_NOTIFY_PEERS,
            dumped,
        ),
    )


def _links_beside(
    ifindex: int, kind: str, found: Mapping[int, bytes]
) -> tuple[int, int, tuple[int, ...]]:
    """Return parent, other end of a pair, and parent in another namespace, as in Link."""
    if rtnetlink.IFLA_LINK not in found:
        return 0, 0, ()
    other = rtnetlink.u32(found, rtnetlink.IFLA_LINK)
    is_paired = kind in _PAIRED_KINDS
    # With IFLA_LINK_NETNSID, the index belongs to another network namespace.
    if rtnetlink.IFLA_LINK_NETNSID in found:
        if is_paired or not other:
            return 0, 0, ()
        return 0, 0, (rtnetlink.u32(found, rtnetlink.IFLA_LINK_NETNSID), other)
    if other == ifindex:
        return 0, 0, ()
    return (0, other, ()) if is_paired else (other, 0, ())


def _is_private(info: Mapping[int, bytes]) -> bool:
    data = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_DATA, b""))
    return rtnetlink.u32(data, _IFLA_MACVLAN_MODE) == _MACVLAN_MODE_PRIVATE


def _filters_vlans(info: Mapping[int, bytes]) -> bool:
    data = rtnetlink.nested(info.get(rtnetlink.IFLA_INFO_DATA, b""))
    return bool(rtnetlink.u8(data, _IFLA_BR_VLAN_FILTERING))


def _altnames(properties: bytes) -> tuple[str, ...]:
    # One attribute for each name, so not a dictionary (rtnl_fill_prop_list).
    return tuple(
        rtnetlink.text({attribute: value}, attribute)
        for attribute, value in rtnetlink.attributes(properties, 0, len(properties))
        if attribute == rtnetlink.IFLA_ALT_IFNAME
    )


# -- addresses and forwarding -----------------------------------------------------------


def _address(data: bytes, start: int, end: int) -> InterfaceAddress | None:
    family, prefix_length, flags, scope, ifindex = rtnetlink.fixed(
        rtnetlink.ADDRESS_HEADER, data, start, end
    )
    length = _ADDRESS_LENGTH.get(family)
    if length is None:
        return None
    found = dict(rtnetlink.attributes(data, start + rtnetlink.ADDRESS_HEADER.size, end))
    peer = found.get(_IFA_ADDRESS, b"")
    # IPv6 sends IFA_LOCAL only beside a peer.  IPv4 omits it only if it is 0.0.0.0: IFA_ADDRESS
    # is the peer's then (inet6_fill_ifaddr, inet_fill_ifaddr).
    address = found.get(_IFA_LOCAL, peer if family == rtnetlink.AF_INET6 else b"")
    if not address:
        return None
    if peer == address:
        peer = b""
    if len(address) != length or len(peer) not in (0, length):
        raise rtnetlink.DecodeError(
            f"address of family {family} has {len(address)} bytes, its peer {len(peer)}; "
            f"must have {length}"
        )
    flags = rtnetlink.u32(found, _IFA_FLAGS, flags)
    # Without a label of its own, it has the name that the link had when it was added.
    label = rtnetlink.text(found, _IFA_LABEL)
    label = label if ":" in label else ""
    return InterfaceAddress(ifindex, address, prefix_length, scope, flags, peer, label)


def _address_seen(data: bytes, start: int, end: int, dumped: bool) -> tuple[AddressSeen, ...]:
    address = _address(data, start, end)
    return (AddressSeen(address, dumped),) if address else ()


def _address_gone(data: bytes, start: int, end: int, dumped: bool) -> tuple[AddressGone, ...]:
    address = _address(data, start, end)
    # A label does not tell addresses apart.
    return (AddressGone(address._replace(label="")),) if address else ()


def _forwarding(data: bytes, start: int, end: int, dumped: bool) -> tuple[ForwardingSeen, ...]:
    (family,) = rtnetlink.fixed(rtnetlink.NETCONF_HEADER, data, start, end)
    if family != rtnetlink.AF_INET6:
        return ()
    found = dict(rtnetlink.attributes(data, start + rtnetlink.NETCONF_HEADER.size, end))
    if _NETCONFA_IFINDEX not in found or _NETCONFA_FORWARDING not in found:
        return ()
    ifindex = rtnetlink.integer(_S32, _NETCONFA_IFINDEX, found[_NETCONFA_IFINDEX])
    if ifindex <= 0:  # NETCONFA_IFINDEX_ALL and _DEFAULT
        return ()
    forwarding = rtnetlink.integer(_S32, _NETCONFA_FORWARDING, found[_NETCONFA_FORWARDING])
    return (ForwardingSeen(ifindex, forwarding != 0),)


# -- routes -----------------------------------------------------------------------------


class _Route(NamedTuple):
    ifindex: int
    has_gateway: bool


def route_request(destination: bytes, vrf: int = 0) -> bytes:
    """Return the request for the route to one address.

    ``vrf``: the ifindex of a VRF, or of the link to leave by; 0: any.
    """
    length = len(destination)
    family = _AF_INET if length == 4 else rtnetlink.AF_INET6
    body = _ROUTE.pack(family, 8 * length, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + length, _RTA_DST) + destination
    if vrf:
        body += _U32_ATTRIBUTE.pack(_U32_ATTRIBUTE.size, _RTA_OIF, vrf)
    return rtnetlink.request(_RTM_GETROUTE, 1, body, 0)


def route_link(datagram: bytes, asked: int = 0) -> int:
    """Return the ifindex in the reply to :func:`route_request`; 0 if there is no route.

    ``asked``: the ifindex in the request.  A link that it names may have no route: the kernel takes
    the destination to be on the link then, without a gateway (ip_route_output_key_hash_rcu).
    Raises rtnetlink.DecodeError.
    """
    readers: dict[int, rtnetlink.Reader[_Route]] = {_RTM_NEWROUTE: _route}
    routes = rtnetlink.decode(readers, datagram)
    found = next((each for each in routes if isinstance(each, _Route)), _Route(0, False))
    return found.ifindex if found.has_gateway or found.ifindex != asked else 0


def _route(data: bytes, start: int, end: int, dumped: bool) -> tuple[_Route, ...]:
    rtnetlink.fixed(_ROUTE, data, start, end)
    found = dict(rtnetlink.attributes(data, start + _ROUTE.size, end))
    has_gateway = _RTA_GATEWAY in found or _RTA_VIA in found
    return (_Route(rtnetlink.u32(found, _RTA_OIF), has_gateway),)


_READERS: dict[int, rtnetlink.Reader[KernelChange]] = {
    rtnetlink.RTM_NEWLINK: _link_seen,
    rtnetlink.RTM_DELLINK: rtnetlink.link_gone,
    rtnetlink.RTM_NEWADDR: _address_seen,
    rtnetlink.RTM_DELADDR: _address_gone,
    rtnetlink.RTM_NEWNETCONF: _forwarding,
}

# Forwarding is dumped first, because the R flag of the first advertisements depends on it.
GUEST: rtnetlink.Subject[KernelChange] = rtnetlink.Subject(
    GROUPS,
    (rtnetlink.dump_forwarding, rtnetlink.dump_links, rtnetlink.dump_addresses),
    decode,
)
