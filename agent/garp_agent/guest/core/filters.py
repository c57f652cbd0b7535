"""Which received frames may wake the agent: classic BPF for the kernel to run.

Decides by addresses alone: a frame that claims one of them for somebody passes, all other
ARP and neighbour discovery is dropped before it costs anything.  What a frame really says,
and whether it is our own come back, is for ``frames.decode`` and the engine.

Documentation/networking/filter.rst; struct sock_filter in <linux/filter.h>.
"""

from __future__ import annotations

from itertools import islice
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Instruction = tuple[int, int, int, int]

# Offsets beyond 0xfffff000 are what the kernel knows of a frame besides its bytes.
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_VLAN_TAG, _VLAN_TAG_PRESENT = 0xFFFFF000 + 44, 0xFFFFF000 + 48
_PASS = (_RETURN, 0, 0, 0x40000)
_DROP = (_RETURN, 0, 0, 0)
# The kernel takes 4,096 instructions (BPF_MAXINSNS): of more addresses the first are watched.
_MOST_IPV4 = 2000
_MOST_IPV6 = 800
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter

# A frame whose tag nobody took belongs to a VLAN that we are not in; tag 0 is a priority.
_UNTAGGED = (
    (_LOAD_BYTE, 0, 0, _VLAN_TAG_PRESENT),
    (_JUMP_IF_EQUAL, 3, 0, 0),
    (_LOAD_HALF, 0, 0, _VLAN_TAG),
    (_JUMP_IF_ANY_BIT, 0, 1, 0x0FFF),
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
    """Passes ARP frames whose sender protocol address is one of these; a sock_filter array."""
    program = [*_UNTAGGED, (_LOAD_WORD, 0, 0, 28)]
    for address in islice(addresses, _MOST_IPV4):
        program += ((_JUMP_IF_EQUAL, 0, 1, int.from_bytes(address, "big")), _PASS)
    return _assembled(program)


def advertisement_filter(addresses: Iterable[bytes]) -> bytes:
    """Passes neighbour advertisements whose target ends like one of these; a sock_filter array.

    The last 8 bytes are compared: what else they let through is seen to by the agent.
    """
    program = [*_UNTAGGED, *_ADVERTISEMENT]
    for address in islice(addresses, _MOST_IPV6):
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
