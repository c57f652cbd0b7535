"""Socket filters (classic BPF): which received frames wake the agent.

A frame that claims one of our addresses passes.  The kernel drops all other ARP and neighbour
discovery frames before they cost anything.  Does not validate a frame: ``frames.decode`` does.
Does not tell our own frames from those of others: the engine does.

Sources: Documentation/networking/filter.rst, <linux/filter.h> (struct sock_filter, SKF_AD_*).
"""

from __future__ import annotations

from itertools import islice
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Instruction = tuple[int, int, int, int]

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE: metadata, not a byte of the frame
_PACKET_OTHERHOST = 3  # <linux/if_packet.h>
_PASS = (_RETURN, 0, 0, 0x40000)
_DROP = (_RETURN, 0, 0, 0)
# The kernel accepts 4,096 instructions (BPF_MAXINSNS).  Addresses beyond these numbers are not
# listened for: 2 instructions for an IPv4 address, 5 for an IPv6 address.
MOST_IPV4 = 2000
MOST_IPV6 = 800
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter

# Drop frames for other hosts, as the kernel's own ARP does (arp_rcv).  Among them are the frames
# of VLANs that have no interface here: the kernel marks them so, and removes their tag before the
# filter sees them (__netif_receive_skb_core).  VLAN 0 is only a priority (IEEE 802.1Q) and passes.
_FOR_THIS_HOST = (
    (_LOAD_BYTE, 0, 0, _PACKET_TYPE),
    (_JUMP_IF_EQUAL, 0, 1, _PACKET_OTHERHOST),
    _DROP,
)
_ADVERTISEMENT = (
    (_LOAD_HALF, 0, 0, 20),  # next header and hop limit
    (_JUMP_IF_EQUAL, 1, 0, 58 << 8 | 255),
    _DROP,
    (_LOAD_BYTE, 0, 0, 54),  # ICMPv6 type
    (_JUMP_IF_EQUAL, 1, 0, 136),
    _DROP,
)


def arp_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes ARP frames whose sender protocol address is one of these.

    A packed array of struct sock_filter.  Only the first 2,000 addresses.
    """
    program = [*_FOR_THIS_HOST, (_LOAD_WORD, 0, 0, 28)]
    for address in islice(addresses, MOST_IPV4):
        program += ((_JUMP_IF_EQUAL, 0, 1, int.from_bytes(address, "big")), _PASS)
    return _assembled(program)


def advertisement_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes neighbour advertisements whose target ends like one of these.

    A packed array of struct sock_filter.  Only the first 800 addresses, and only their last 8
    bytes are compared, to save instructions; the engine compares the rest.
    """
    program = [*_FOR_THIS_HOST, *_ADVERTISEMENT]
    for address in islice(addresses, MOST_IPV6):
        program += (
            (_LOAD_WORD, 0, 0, 74),
            (_JUMP_IF_EQUAL, 0, 3, int.from_bytes(address[12:], "big")),
            (_LOAD_WORD, 0, 0, 70),
            (_JUMP_IF_EQUAL, 0, 1, int.from_bytes(address[8:12], "big")),
            _PASS,
        )
    return _assembled(program)


def _assembled(program: list[Instruction]) -> bytes:
    return b"".join(_INSTRUCTION.pack(*each) for each in (*program, _DROP))
