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
# A whole message as Linux 6 writes it: ndmsg, then NDA_LLADDR, NDA_MASTER, NDA_FLAGS_EXT,
# NDA_CACHEINFO and, where the bridge filters, NDA_VLAN.  Others are read attribute by attribute.
_USUAL = Struct("=BxxxIHBx 4s6sxx 4sI 4sI 4s8xI4x")
_USUAL_HEADERS = tuple(  # of these attributes: length and type
    Struct("=HH").pack(*each)
    for each in ((10, _NDA_LLADDR), (8, _NDA_MASTER), (8, _NDA_FLAGS_EXT), (20, _NDA_CACHEINFO))
)
_USUAL_VLAN = Struct("=HHHxx")
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


def decode(datagram: bytes) -> list[LearntAddress | rtnetlink.ControlMessage]:
    """Return the learnt addresses in one datagram.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode({rtnetlink.RTM_NEWNEIGH: _learnt_address}, datagram)


def read_entry(data: bytes, start: int, end: int, dumped: bool) -> tuple[TableEntry, ...]:
    """Read one RTM_NEWNEIGH; nothing, if no frame of another host or guest made the entry."""
    usual = _read_usual(data, start, end)
    if usual is not None:
        return usual
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


def _read_usual(data: bytes, start: int, end: int) -> tuple[TableEntry, ...] | None:
    """Read a message of the usual form, in a fourth of the time; None if it has another."""
    vlan = 0
    if end - start == _USUAL.size + _USUAL_VLAN.size:
        length, attribute_type, vlan = _USUAL_VLAN.unpack_from(data, start + _USUAL.size)
        if (length, attribute_type) != (6, _NDA_VLAN):
            return None
    elif end - start != _USUAL.size:
        return None
    family, ifindex, state, flags, head1, address, head2, bridge, head3, extended, head4, age = (
        _USUAL.unpack_from(data, start)
    )
    if family != rtnetlink.AF_BRIDGE or (head1, head2, head3, head4) != _USUAL_HEADERS:
        return None
    if state & _NUD_PERMANENT or flags & (_NTF_SELF | _NTF_EXT_LEARNED):
        return ()
    trusted = not extended & _NTF_EXT_LOCKED
    return (TableEntry(address, ifindex, bridge, vlan, age * _TICK, trusted),)


def _learnt_address(data: bytes, start: int, end: int, dumped: bool) -> tuple[LearntAddress, ...]:
    return tuple(LearntAddress(*entry[:2]) for entry in read_entry(data, start, end, dumped))


BRIDGE_TABLES: rtnetlink.Subject[LearntAddress] = rtnetlink.Subject(
    (), (rtnetlink.dump_bridge_tables,), decode
)
