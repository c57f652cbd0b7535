"""Socket filters (classic BPF): which received frames wake the agent.

A frame that claims one of our addresses passes.  The kernel drops all other ARP and neighbour
discovery frames before they cost anything.  Does not validate a frame: ``frames.decode`` does.
Does not tell our own frames from those of others: the engine does.

Source: Documentation/networking/filter.rst.
"""

from __future__ import annotations

from itertools import islice

from garp_agent.wire.bpf import (
    DROP,
    JUMP_IF_EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    PACKET_TYPE,
    PASS,
    assembled,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKET_OTHERHOST = 3  # <linux/if_packet.h>
# The kernel accepts 4,096 instructions (BPF_MAXINSNS).  Addresses beyond these numbers are not
# listened for: 2 instructions for an IPv4 address, 5 for an IPv6 address.
MOST_IPV4 = 2000
MOST_IPV6 = 800

# Drop frames for other hosts, as the kernel's own ARP does (arp_rcv).  Among them are the frames
# of VLANs that have no interface here: the kernel marks them so, and removes their tag before the
# filter sees them (__netif_receive_skb_core).  VLAN 0 is only a priority (IEEE 802.1Q) and passes.
_FOR_THIS_HOST = (
    (LOAD_BYTE, 0, 0, PACKET_TYPE),
    (JUMP_IF_EQUAL, 0, 1, _PACKET_OTHERHOST),
    DROP,
)
_ADVERTISEMENT = (
    (LOAD_HALF, 0, 0, 20),  # next header and hop limit
    (JUMP_IF_EQUAL, 1, 0, 58 << 8 | 255),
    DROP,
    (LOAD_BYTE, 0, 0, 54),  # ICMPv6 type
    (JUMP_IF_EQUAL, 1, 0, 136),
    DROP,
)


def arp_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes ARP frames whose sender protocol address is one of these.

    A packed array of struct sock_filter.  Only the first 2,000 addresses.
    """
    program = [*_FOR_THIS_HOST, (LOAD_WORD, 0, 0, 28)]
    for address in islice(addresses, MOST_IPV4):
        program += ((JUMP_IF_EQUAL, 0, 1, int.from_bytes(address, "big")), PASS)
    return assembled(program)


def advertisement_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes neighbour advertisements whose target ends like one of these.

    A packed array of struct sock_filter.  Only the first 800 addresses, and only their last 8
    bytes are compared, to save instructions; the engine compares the rest.
    """
    program = [*_FOR_THIS_HOST, *_ADVERTISEMENT]
    for address in islice(addresses, MOST_IPV6):
        program += (
            (LOAD_WORD, 0, 0, 74),
            (JUMP_IF_EQUAL, 0, 3, int.from_bytes(address[12:], "big")),
            (LOAD_WORD, 0, 0, 70),
            (JUMP_IF_EQUAL, 0, 1, int.from_bytes(address[8:12], "big")),
            PASS,
        )
    return assembled(program)
