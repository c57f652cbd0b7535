"""The forwarding tables of the bridges: which MAC address is behind which port.

Reads the kernel's answer to a dump; keeps nothing.  The messages that the kernel sends by itself
(RTNLGRP_NEIGH) are not asked for: a guest can cause any number of them, and every entry of every
ARP table is in them as well.

Numbers: <linux/neighbour.h>.  What the kernel fills in: net/bridge/br_fdb.c, fdb_fill_info().
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink
from garp_agent.wire.record import NamedTuple

_NDA_LLADDR = 2
_NDA_CACHEINFO = 3
_NDA_VLAN = 5
_NDA_MASTER = 9
_NDA_FLAGS_EXT = 15
_NUD_PERMANENT = 0x80  # of the host itself, or added by hand
_NTF_SELF = 0x02  # the filter of a card or the table of a vxlan, not that of a bridge
_NTF_EXT_LEARNED = 0x10  # told by a control plane, not learnt from a frame
_NTF_EXT_LOCKED = 0x02  # seen on a locked port, and not trusted yet
# A whole message of a dump as Linux 6 writes it: nlmsghdr, of which length, type and flags are one
# field; ndmsg; NDA_LLADDR, NDA_MASTER, NDA_FLAGS_EXT and NDA_CACHEINFO, each with its header in one
# field; and, where the bridge filters, NDA_VLAN.  The MAC and the zeros after it are one number.
_OF_DUMP = (rtnetlink.RTM_NEWNEIGH, 2)  # nlmsg_type and nlmsg_flags; 2: NLM_F_MULTI alone
_USUAL = "=8s8x BxxxIHBx 4sQ 4sI 4sI 4s8xI4x"
_HEADER = Struct("=HH")  # of an attribute: length and type
_HEADERS = [
    _HEADER.pack(*each)
    for each in ((10, _NDA_LLADDR), (8, _NDA_MASTER), (8, _NDA_FLAGS_EXT), (20, _NDA_CACHEINFO))
]
_LAYOUTS = [  # without and with a VLAN, and what the constant fields of a message are
    (layout, (Struct("=IHH").pack(layout.size, *_OF_DUMP), rtnetlink.AF_BRIDGE, *_HEADERS, last))
    for layout, last in (
        (Struct(_USUAL + "0s0s"), b""),
        (Struct(_USUAL + "4s2sxx"), _HEADER.pack(6, _NDA_VLAN)),
    )
]
_BEGINNING = Struct("=IHH8x BxxxIHB")  # of any message: up to ndm_flags
_MAC_AND_VLAN = Struct("=6sH")
_NUMBER = Struct("=Q")
_MAC_BITS = _NUMBER.unpack(b"\xff" * 6 + bytes(2))[0]
_UPDATED = Struct("=8xI")  # struct nda_cacheinfo: ndm_updated
_TICK = 0.01  # seconds; USER_HZ is 100 on all that Linux runs on but alpha and ia64


class LearntAddress(NamedTuple):
    """A bridge has received a frame with this source on one of its ports."""

    hardware_address: bytes
    port_ifindex: int


class TableEntry(NamedTuple):
    """A learnt or static entry of a bridge's table, with all that the kernel says of it."""

    hardware_address: bytes
    port_ifindex: int
    bridge_ifindex: int
    vlan: int = 0  # 0: the bridge does not filter VLANs, or the entry is for no VLAN
    age: float = 0.0  # seconds since the bridge received a frame from it, rounded to 0.01
    is_trusted: bool = True  # False: on a locked port, which drops its frames


class PortAddresses(NamedTuple):
    """Entries of a bridge's table for one of its ports."""

    port_ifindex: int
    bridge_ifindex: int
    ages: dict[int, float]  # as TableEntry.age, by address_number()
    is_trusted: bool = True  # as TableEntry.is_trusted


def address_number(hardware_address: bytes, vlan: int) -> int:
    """Return MAC and VLAN as one number: their 6 and 2 bytes in the machine's order."""
    number: int = _NUMBER.unpack(_MAC_AND_VLAN.pack(hardware_address, vlan))[0]
    return number


def read_usual(datagram: bytes) -> tuple[list[PortAddresses], int]:
    """Read the entries of the usual form that a datagram of a dump begins with.

    Return them, and the offset of the first message of another form.  A dump has thousands, so all
    of one length are unpacked together, and nothing is made for each.
    """
    found: list[PortAddresses] = []
    offset, before = 0, -1
    while offset != before:
        before = offset
        offset = _skip(datagram, offset)
        for layout, constants in _LAYOUTS:
            offset = _read_run(datagram, offset, layout, constants, found)
    return found, offset


def _skip(datagram: bytes, offset: int) -> int:
    """Return the offset of the next message that is not skipped, as read_entry() would."""
    end = len(datagram)
    while offset + _BEGINNING.size <= end:
        length, *of_dump, family, _port, state, flags = _BEGINNING.unpack_from(datagram, offset)
        skipped = state & _NUD_PERMANENT or flags & (_NTF_SELF | _NTF_EXT_LEARNED)
        if (*of_dump, family) != (*_OF_DUMP, rtnetlink.AF_BRIDGE) or not skipped:
            break
        if not _BEGINNING.size < length <= end - offset:
            break
        offset += length + 3 & ~3
    return offset


def _read_run(
    datagram: bytes,
    offset: int,
    layout: Struct,
    constants: tuple[object, ...],
    found: list[PortAddresses],
) -> int:
    """Read messages of one layout into ``found``; return the offset of the first other one."""
    known = found[-1] if found else PortAddresses(0, 0, {})
    end = len(datagram) - (len(datagram) - offset) % layout.size
    for fields in layout.iter_unpack(memoryview(datagram)[offset:end]):
        head, family, port, state, flags, h1, mac, h2, bridge, h3, ext, h4, age, h5, vlan = fields
        if (head, family, h1, h2, h3, h4, h5) != constants or ext & _NTF_EXT_LOCKED:
            break
        offset += layout.size
        if state & _NUD_PERMANENT or flags & (_NTF_SELF | _NTF_EXT_LEARNED):
            continue
        if (port, bridge) != known[:2]:
            known = PortAddresses(port, bridge, {})
            found.append(known)
        number = mac & _MAC_BITS
        if vlan:
            number |= _NUMBER.unpack(bytes(6) + vlan)[0]
        known.ages[number] = age * _TICK
    return offset


def decode(datagram: bytes) -> list[LearntAddress | rtnetlink.ControlMessage]:
    """Return the learnt addresses in one datagram.  Raises rtnetlink.DecodeError."""
    ports, offset = read_usual(datagram)
    found: list[LearntAddress | rtnetlink.ControlMessage] = [
        LearntAddress(_NUMBER.pack(number)[:6], port.port_ifindex)
        for port in ports
        for number in port.ages
    ]
    if offset < len(datagram):
        found += rtnetlink.decode({rtnetlink.RTM_NEWNEIGH: _learnt_address}, datagram[offset:])
    return found


def read_entry(data: bytes, start: int, end: int, dumped: bool) -> tuple[TableEntry, ...]:
    """Read one RTM_NEWNEIGH; nothing, if no frame of another host or guest made the entry."""
    header = rtnetlink.NEIGHBOR_HEADER
    family, ifindex, state, flags, _type = rtnetlink.fixed(header, data, start, end)
    skipped = state & _NUD_PERMANENT or flags & (_NTF_SELF | _NTF_EXT_LEARNED)
    if family != rtnetlink.AF_BRIDGE or skipped:
        return ()
    found = dict(rtnetlink.attributes(data, start + header.size, end))
    address = found.get(_NDA_LLADDR, b"")
    if _NDA_MASTER not in found or len(address) != 6:
        return ()
    times = found.get(_NDA_CACHEINFO)
    entry = TableEntry(
        address,
        ifindex,
        rtnetlink.u32(found, _NDA_MASTER),
        rtnetlink.u16(found, _NDA_VLAN),
        0.0 if times is None else rtnetlink.integer(_UPDATED, _NDA_CACHEINFO, times) * _TICK,
        not rtnetlink.u32(found, _NDA_FLAGS_EXT) & _NTF_EXT_LOCKED,
    )
    return (entry,)


def _learnt_address(data: bytes, start: int, end: int, dumped: bool) -> tuple[LearntAddress, ...]:
    return tuple(LearntAddress(*entry[:2]) for entry in read_entry(data, start, end, dumped))


BRIDGE_TABLES: rtnetlink.Subject[LearntAddress] = rtnetlink.Subject(
    (), (rtnetlink.dump_bridge_tables,), decode
)
