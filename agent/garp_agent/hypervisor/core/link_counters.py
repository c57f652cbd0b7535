"""The packet counters of links: whether a guest has ever sent a frame through its port.

Reads the kernel's answer to a dump (RTM_GETSTATS); keeps nothing.

Numbers: <linux/if_link.h>, struct if_stats_msg and struct rtnl_link_stats64.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink
from garp_agent.wire.record import NamedTuple

_IFLA_STATS_LINK_64 = 1
_PACKETS = Struct("=QQ")  # rx_packets, tx_packets


class LinkCounters(NamedTuple):
    """What a link has received and sent since it was made, in packets."""

    ifindex: int
    received: int
    sent: int


def read_counters(data: bytes, start: int, end: int, dumped: bool) -> tuple[LinkCounters, ...]:
    """Read one RTM_NEWSTATS."""
    header = rtnetlink.STATS_HEADER
    _family, ifindex, _mask = rtnetlink.fixed(header, data, start, end)
    found = dict(rtnetlink.attributes(data, start + header.size, end))
    value = found.get(_IFLA_STATS_LINK_64)
    if value is None:
        return ()
    received, sent = rtnetlink.fixed(_PACKETS, value, 0, len(value))
    return (LinkCounters(ifindex, received, sent),)
