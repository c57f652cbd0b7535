"""The format of rtnetlink: splits datagrams into messages and attributes, builds dump requests.

Does not know what a program makes of a message: each brings readers for the message types that it
needs (guest.core.kernel, hypervisor.core.linkstate).  Keeps no state between datagrams.  Message
types and attributes of newer kernels are skipped; inconsistent bytes raise :class:`DecodeError`.

Sources: RFC 3549, netlink(7), rtnetlink(7); numbers from <linux/netlink.h>, <linux/rtnetlink.h>,
<linux/if_link.h>, <linux/if_addr.h>, <linux/netconf.h>.  All fields are in host byte order.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire.model import LinkGone
from garp_agent.wire.record import Generic, NamedTuple, T

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Callable, Union

    from garp_agent.wire.attribute_layouts import ChosenAttributes

    # From the datagram, the start and end of one message's body, and whether it is part of a
    # dump, to the events in the message.
    Reader = Callable[[bytes, int, int, bool], tuple[T, ...]]

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWNEIGH = 28
RTM_GETNEIGH = 30
RTM_NEWNETCONF = 80
RTM_GETNETCONF = 82
RTM_NEWSTATS = 92
RTM_GETSTATS = 94

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9
RTNLGRP_IPV6_NETCONF = 25

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_WIRELESS = 11
IFLA_PROTINFO = 12
IFLA_OPERSTATE = 16
IFLA_LINKINFO = 18
IFLA_STATS64 = 23
IFLA_AF_SPEC = 26
IFLA_EXT_MASK = 29
IFLA_LINK_NETNSID = 37
IFLA_PHYS_PORT_NAME = 38
IFLA_PROTO_DOWN = 39
IFLA_EVENT = 44
IFLA_PROP_LIST = 52
IFLA_ALT_IFNAME = 53
IFLA_PARENT_DEV_BUS_NAME = 57

IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5

IFLA_EVENT_NOTIFY_PEERS = 4

NLM_F_DUMP = 0x300

_NLM_F_REQUEST = 0x001
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_MULTI = 0x002
_NLM_F_ACK = 0x004
_NLM_F_DUMP_INTR = 0x010
NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RTEXT_FILTER_BRVLAN_COMPRESSED = 1 << 2
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_STATS_FILTER_LINK_64 = 1 << 0

AF_UNSPEC = 0
AF_BRIDGE = 7
AF_INET6 = 10

_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # nlattr: length, type
_LINK = Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change mask
ADDRESS_HEADER = Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
NEIGHBOR_HEADER = Struct("=BxxxIHBB")  # ndmsg: family, index, state, flags, type
NETCONF_HEADER = Struct("=B3x")  # netconfmsg: family, and its padding
STATS_HEADER = Struct("=B3xII")  # if_stats_msg: family, index, filter mask
_ERROR = Struct("=i")
_U16 = Struct("=H")
_U32 = Struct("=I")
_ETHERTYPE = Struct("!H")


class DecodeError(ValueError):
    """Bytes that are not rtnetlink; the text says where."""


class DumpDone(NamedTuple):
    """The dump with this sequence number has ended; ``errno`` is not 0 if it ended early."""

    sequence: int
    errno: int = 0


class RequestFailed(NamedTuple):
    """The kernel refused the request with this sequence number."""

    sequence: int
    errno: int


class DumpInterrupted(NamedTuple):
    """Something changed during the dump, so that it can be incomplete (NLM_F_DUMP_INTR)."""

    sequence: int


if TYPE_CHECKING:
    ControlMessage = Union[DumpDone, RequestFailed, DumpInterrupted]


class Subject(NamedTuple, Generic[T]):
    """What a program wants to know: its multicast groups, its dumps, and how it decodes them."""

    groups: tuple[int, ...]  # RTNLGRP_*
    steps: tuple[Callable[[int], bytes], ...]  # dumps, in order: sequence number -> request
    decode: Callable[[bytes], list[T | ControlMessage]]  # raises DecodeError


# -- requests ---------------------------------------------------------------------------


def dump_links(sequence: int) -> bytes:
    """Return the request for all links, without their IPv6 statistics."""
    return _dump_links_of(AF_UNSPEC, _RTEXT_FILTER_SKIP_STATS, sequence)


def dump_bridge_vlans(sequence: int) -> bytes:
    """Return the request for the VLAN tables of all bridges and their ports, as ranges."""
    return _dump_links_of(AF_BRIDGE, _RTEXT_FILTER_BRVLAN_COMPRESSED, sequence)


def dump_link_counters(sequence: int) -> bytes:
    """Return the request for the packet counters of all links (Linux 4.7)."""
    return request(RTM_GETSTATS, sequence, STATS_HEADER.pack(AF_UNSPEC, 0, _STATS_FILTER_LINK_64))


def _dump_links_of(family: int, extended: int, sequence: int) -> bytes:
    mask = _ATTRIBUTE.pack(8, IFLA_EXT_MASK) + _U32.pack(extended)
    return request(RTM_GETLINK, sequence, _LINK.pack(family, 0, 0, 0, 0) + mask)


def dump_addresses(sequence: int) -> bytes:
    """Return the request for all addresses of all families."""
    return request(RTM_GETADDR, sequence, ADDRESS_HEADER.pack(AF_UNSPEC, 0, 0, 0, 0))


def dump_forwarding(sequence: int) -> bytes:
    """Return the request for the IPv6 forwarding setting of all links."""
    return request(RTM_GETNETCONF, sequence, NETCONF_HEADER.pack(AF_INET6))


def dump_bridge_tables(sequence: int) -> bytes:
    """Return the request for the forwarding tables of all bridges."""
    return request(RTM_GETNEIGH, sequence, NEIGHBOR_HEADER.pack(AF_BRIDGE, 0, 0, 0, 0))


def change_link(sequence: int, ifindex: int, wanted: bytes) -> bytes:
    """Return the request to change a link; ``wanted``: attributes.  The kernel acknowledges it."""
    body = _LINK.pack(AF_UNSPEC, 0, ifindex, 0, 0) + wanted
    return request(RTM_NEWLINK, sequence, body, _NLM_F_ACK)


def attribute(attribute_type: int, value: bytes) -> bytes:
    """Return an attribute, padded to a multiple of 4 bytes."""
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, attribute_type) + value).ljust(length + 3 & ~3, b"\0")


def request(message_type: int, sequence: int, body: bytes, flags: int = NLM_F_DUMP) -> bytes:
    """Return a request of one message; ``flags``: besides NLM_F_REQUEST."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, message_type, _NLM_F_REQUEST | flags, sequence, 0) + body


# -- datagrams --------------------------------------------------------------------------


def decode(readers: Mapping[int, Reader[T]], datagram: bytes) -> list[T | ControlMessage]:
    """Return the events and control messages of one datagram, in its order.

    ``readers``: by message type; other types are skipped.  Raises DecodeError.
    """
    found: list[T | ControlMessage] = []
    interrupted = False
    end = len(datagram)
    offset = 0
    while offset < end:
        if end - offset < _HEADER.size:
            raise DecodeError(
                f"message header at byte {offset} is cut short after {end - offset} bytes"
            )
        length, message_type, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        body = offset + _HEADER.size
        stop = offset + length
        if not body <= stop <= end:
            raise DecodeError(
                f"message at byte {offset} gives its length as {length} of {end - offset} bytes"
            )
        if flags & _NLM_F_DUMP_INTR and not interrupted:
            interrupted = True
            found.append(DumpInterrupted(sequence))
        reader = readers.get(message_type)
        try:
            if reader:
                found += reader(datagram, body, stop, bool(flags & _NLM_F_MULTI))
            else:
                found += _control(message_type, sequence, datagram, body, stop)
        except DecodeError as error:
            raise DecodeError(
                f"message of type {message_type} at byte {offset} of {end}: {error}"
            ) from None
        offset = stop + 3 & ~3
    return found


def _control(
    message_type: int, sequence: int, data: bytes, start: int, end: int
) -> tuple[ControlMessage, ...]:
    if message_type not in (_NLMSG_ERROR, _NLMSG_DONE):
        return ()
    errno = -fixed(_ERROR, data, start, end)[0]
    if message_type == _NLMSG_DONE:
        return (DumpDone(sequence, errno),)
    return (RequestFailed(sequence, errno),) if errno else ()


# -- the parts of a message -------------------------------------------------------------


def attribute_headers(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield offset, length and type of each attribute; the type with its flags.

    Raises DecodeError.
    """
    offset = start
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise DecodeError(f"attribute at byte {offset} is cut short by the end at {end}")
        length, attribute_type = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > end:
            raise DecodeError(
                f"attribute {attribute_type & NLA_TYPE_MASK} at byte {offset} gives its length "
                f"as {length} of {end - offset} bytes"
            )
        yield offset, length, attribute_type
        offset += length + 3 & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute; ``dict()`` keeps the last, as nla_parse() does.

    Raises DecodeError.
    """
    for offset, length, attribute_type in attribute_headers(data, start, end):
        yield attribute_type & NLA_TYPE_MASK, data[offset + 4 : offset + length]


def nested(value: bytes, wanted: ChosenAttributes | None = None) -> dict[int, bytes]:
    """Return the attributes inside an attribute's value, by type.

    ``wanted``: reads some of them; None for all.  Raises DecodeError.
    """
    if wanted is not None:
        return wanted.read(value, 0, len(value))
    return dict(attributes(value, 0, len(value)))


def link_header(
    data: bytes, start: int, end: int, wanted: ChosenAttributes | None = None
) -> tuple[int, int, int, int, dict[int, bytes]]:
    """Return family, hardware type, index, flags and attributes of RTM_NEWLINK or RTM_DELLINK.

    ``wanted``: reads some attributes; None for all.  Raises DecodeError.
    """
    family, hardware_type, ifindex, flags, _change = fixed(_LINK, data, start, end)
    first = start + _LINK.size
    if wanted is not None:
        return family, hardware_type, ifindex, flags, wanted.read(data, first, end)
    return family, hardware_type, ifindex, flags, dict(attributes(data, first, end))


def u32(found: Mapping[int, bytes], attribute_type: int, default: int = 0) -> int:
    """Return a 32-bit attribute, or ``default`` if it is absent.  Raises DecodeError."""
    value = found.get(attribute_type)
    if value is None:
        return default
    return int(integer(_U32, attribute_type, value))


def u16(found: Mapping[int, bytes], attribute_type: int, default: int = 0) -> int:
    """Return a 16-bit attribute, or ``default`` if it is absent.  Raises DecodeError."""
    value = found.get(attribute_type)
    return default if value is None else integer(_U16, attribute_type, value)


def ethertype(found: Mapping[int, bytes], attribute_type: int, default: int = 0) -> int:
    """Return a 16-bit attribute in network byte order.  Raises DecodeError."""
    value = found.get(attribute_type)
    return default if value is None else integer(_ETHERTYPE, attribute_type, value)


def u8(found: Mapping[int, bytes], attribute_type: int, default: int = 0) -> int:
    """Return an 8-bit attribute, or ``default`` if it is absent.  Raises DecodeError."""
    value = found.get(attribute_type)
    if value is None:
        return default
    if not value:
        raise DecodeError(f"attribute {attribute_type} is empty; must have 1 byte")
    return value[0]


def text(found: Mapping[int, bytes], attribute_type: int) -> str:
    """Return a NUL-terminated string; "" if it is absent.  Names need not be UTF-8."""
    value = found.get(attribute_type, b"")
    return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def integer(layout: Struct, attribute_type: int, value: bytes) -> int:
    """Return the integer at the start of an attribute's value.  Raises DecodeError."""
    if len(value) < layout.size:
        raise DecodeError(
            f"attribute {attribute_type} has {len(value)} bytes; must have {layout.size}"
        )
    return int(layout.unpack_from(value)[0])


def fixed(layout: Struct, data: bytes, start: int, end: int) -> tuple[int, ...]:
    """Return the fields of the header that a body begins with.  Raises DecodeError."""
    if end - start < layout.size:
        raise DecodeError(f"body has {end - start} bytes; must have at least {layout.size}")
    return layout.unpack_from(data, start)


def is_partial(family: int, found: Mapping[int, bytes]) -> bool:
    """Return whether RTM_NEWLINK describes one aspect only: bridge port, IPv6, wireless event."""
    return family != AF_UNSPEC or IFLA_WIRELESS in found


def link_gone(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkGone, ...]:
    """Read RTM_DELLINK.  With family AF_BRIDGE it only says that a port left its bridge."""
    family, _hardware_type, ifindex, _flags, _change = fixed(_LINK, data, start, end)
    return (LinkGone(ifindex),) if family == AF_UNSPEC else ()
