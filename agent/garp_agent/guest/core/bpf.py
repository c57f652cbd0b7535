"""Socket filters (classic BPF): which received frames wake the agent.

A frame that claims one of our addresses passes, and so does an ARP probe for one.  The kernel
drops all other ARP and neighbour discovery frames before they cost anything.  Does not validate a
frame: ``frames.decode`` does.  Does not tell our own frames from those of others: the engine does.

Source: Documentation/networking/filter.rst.
"""

from __future__ import annotations

from struct import Struct, unpack

from garp_agent.wire.bpf import (
    DROP,
    JUMP_IF_EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    PACKET_TYPE,
    PASS,
    packed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PACKET_OTHERHOST = 3  # <linux/if_packet.h>
# The kernel accepts 4,096 instructions (BPF_MAXINSNS).  Addresses beyond these numbers are not
# listened for: 2 instructions for an IPv4 address, 5 for an IPv6 address.
MOST_IPV4 = 2000
MOST_IPV6 = 800

# Drop frames for other hosts, as the kernel's own ARP does (arp_rcv).  Among them are the frames
# of VLANs that have no interface here: the kernel marks them so, and removes their tag before the
# filter sees them (__netif_receive_skb_core).  VLAN 0 is only a priority (IEEE 802.1Q) and passes.
_FOR_THIS_HOST = (
    (LOAD_BYTE, 0, 0, PACKET_TYPE),
    (JUMP_IF_EQUAL, 0, 1, PACKET_OTHERHOST),
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


# What is the same for each address is packed once: a guest can have thousands of addresses.
_ARP_HEAD = packed(
    (
        *_FOR_THIS_HOST,
        (LOAD_WORD, 0, 0, 28),  # sender protocol address
        (JUMP_IF_EQUAL, 0, 1, 0),  # a probe: RFC 5227 section 1.1
        (LOAD_WORD, 0, 0, 38),  # target protocol address
    )
)
_ADVERTISEMENT_HEAD = packed((*_FOR_THIS_HOST, *_ADVERTISEMENT))
_END = packed((DROP,))
# These pass what the filters below pass for any address.
ALL_ARP = packed((*_FOR_THIS_HOST, PASS))
ALL_ADVERTISEMENTS = packed((*_FOR_THIS_HOST, *_ADVERTISEMENT, PASS))
_PASS = packed((PASS,))
_IS_IPV4 = packed(((JUMP_IF_EQUAL, 0, 1, 0),))[:4]  # without its constant
_IS_LAST_WORD = packed(((LOAD_WORD, 0, 0, 74), (JUMP_IF_EQUAL, 0, 3, 0)))[:12]
_IS_WORD_BEFORE = packed(((LOAD_WORD, 0, 0, 70), (JUMP_IF_EQUAL, 0, 1, 0)))[:12]
_FOR_IPV4 = Struct("=4sI8s").pack
_FOR_IPV6 = Struct("=12sI12sI8s").pack


def arp_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes ARP frames whose sender protocol address is one of these.

    Of a frame whose sender protocol address is 0.0.0.0, the target protocol address counts.
    A packed array of struct sock_filter.  Only the first 2,000 addresses.
    """
    words = _words(addresses, MOST_IPV4)
    return b"".join((_ARP_HEAD, *(_FOR_IPV4(_IS_IPV4, each, _PASS) for each in words), _END))


def advertisement_filter(addresses: Iterable[bytes]) -> bytes:
    """Return a filter that passes neighbour advertisements whose target ends like one of these.

    A packed array of struct sock_filter.  Only the first 800 addresses, and only their last 8
    bytes are compared, to save instructions; the engine compares the rest.
    """
    words = _words((each[8:] for each in addresses), MOST_IPV6)
    parts = (
        _FOR_IPV6(_IS_LAST_WORD, last, _IS_WORD_BEFORE, before, _PASS)
        for before, last in zip(words[::2], words[1::2])
    )
    return b"".join((_ADVERTISEMENT_HEAD, *parts, _END))


def _words(addresses: Iterable[bytes], most: int) -> tuple[int, ...]:
    """Return the first ``most`` addresses as numbers of 32 bits."""
    joined = b"".join(list(addresses)[:most])
    return unpack(f"!{len(joined) // 4}I", joined)
