"""Classic BPF as a packet socket takes it: instructions and their bytes.

Knows no program: guest.core.bpf and hypervisor.core.path_probes write theirs.

Sources: Documentation/networking/filter.rst, <linux/filter.h> (struct sock_filter, SKF_AD_*).
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # code, jump if true, jump if false, constant
    Instruction = tuple[int, int, int, int]

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
JUMP_IF_EQUAL, RETURN = 0x15, 0x06
PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE: metadata, not a byte of the frame
PASS = (RETURN, 0, 0, 0x40000)
DROP = (RETURN, 0, 0, 0)
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter


def packed(program: Iterable[Instruction]) -> bytes:
    """Return a packed array of struct sock_filter: a part of a filter."""
    return b"".join(_INSTRUCTION.pack(*each) for each in program)


def assembled(program: Iterable[Instruction]) -> bytes:
    """Return a packed array of struct sock_filter that drops what reaches its end."""
    return packed((*program, DROP))
