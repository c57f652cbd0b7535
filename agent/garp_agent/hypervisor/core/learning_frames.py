"""The bytes of a learning frame: a RARP request for the MAC of another host.

Decides nothing: hypervisor.core.learning_plan does.  The frame is the one that QEMU sends after a
migration: switches learn its source, and no host takes it for more (Linux drops RARP, RFC 903 asks
only RARP servers to answer).  A sender of broadcasts that is not heard on its old port any more is
moved by each switch on the way.

Sources: RFC 903; IEEE 802.1Q clause 9.6; QEMU, net/announce.c, announce_self_create().
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from garp_agent.hypervisor.core.linkstate import VlanTag

LEAST = 60  # bytes of an Ethernet frame without tag and check sequence, IEEE 802.3

_TAG = Struct("!HH")  # TPID, and priority 0 with the VLAN
_BROADCAST = b"\xff" * 6
_RARP = bytes.fromhex("8035000108000604 0003")  # opcode 3: request reverse
_NO_ADDRESS = bytes(4)
_REST = bytes(LEAST - 38)  # after the second MAC: no IP address, and padding


def learning_frame(hardware_address: bytes, tags: Sequence[VlanTag]) -> bytes:
    """Return the frame for a MAC; ``tags``: the outer one first.

    It has 60 bytes and 4 for each tag, so that it is long enough after switches removed all tags.
    Raises ValueError if the MAC has not 6 bytes.
    """
    if len(hardware_address) != 6:
        raise ValueError(f"hardware address has {len(hardware_address)} bytes; must have 6")
    address = hardware_address
    tagged = b"".join([_TAG.pack(tag.protocol, tag.vlan) for tag in tags]) if tags else b""
    return b"".join((_BROADCAST, address, tagged, _RARP, address, _NO_ADDRESS, address, _REST))
