"""The forwarding tables of the bridges: which MAC address is behind which port.

Reads the kernel's answer to a dump; keeps nothing.  The messages that the kernel sends by itself
(RTNLGRP_NEIGH) are not asked for: a guest can cause any number of them, and every entry of every
ARP table is in them as well.

Numbers: <linux/neighbour.h>.
"""

from __future__ import annotations

from garp_agent.wire import rtnetlink
from garp_agent.wire.record import NamedTuple

_NDA_LLADDR = 2
_NDA_MASTER = 9
_NUD_PERMANENT = 0x80  # of the host itself, or added by hand
_NTF_SELF = 0x02  # the filter of a card or the table of a vxlan, not that of a bridge
_NTF_EXT_LEARNED = 0x10  # told by a control plane, not learnt from a frame


class LearntAddress(NamedTuple):
    """A bridge has received a frame with this source on one of its ports."""

    hardware_address: bytes
    port_ifindex: int


def decode(datagram: bytes) -> list[LearntAddress | rtnetlink.ControlMessage]:
    """Return the learnt entries in one datagram.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode({rtnetlink.RTM_NEWNEIGH: _entry}, datagram)


def _entry(data: bytes, start: int, end: int, dumped: bool) -> tuple[LearntAddress, ...]:
    header = rtnetlink.NEIGHBOR_HEADER
    family, ifindex, state, flags, _type = rtnetlink.fixed(header, data, start, end)
    skipped = state & _NUD_PERMANENT or flags & (_NTF_SELF | _NTF_EXT_LEARNED)
    if family != rtnetlink.AF_BRIDGE or skipped:
        return ()
    found = dict(rtnetlink.attributes(data, start + header.size, end))
    address = found.get(_NDA_LLADDR, b"")
    if _NDA_MASTER not in found or len(address) != 6:
        return ()
    return (LearntAddress(address, ifindex),)


BRIDGE_TABLES: rtnetlink.Subject[LearntAddress] = rtnetlink.Subject(
    (), (rtnetlink.dump_bridge_tables,), decode
)
