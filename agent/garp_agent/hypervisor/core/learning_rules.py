"""Which MACs never get a learning frame, and what the operator has left out.

An address that several hosts share moves between them without a failover of this host.  Its owner
announces it itself, every few seconds.  A frame from here could steal it.

Sources: RFC 9568 section 7.3 (VRRP; CARP uses the same); Cisco, "HSRP Version 2" and "GLBP";
Microsoft, Network Load Balancing in unicast mode (02:bf), which wants switches to learn nothing.
"""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PACE = 16  # learning frames in a millisecond, for the storm control of switches
VLAN_MOST = 4094  # IEEE 802.1Q
_BITS = 48


class MacPrefix(NamedTuple):
    """All MACs that begin with the same bits."""

    value: int
    bits: int  # 0 to 48
    what: str = "left out by the operator"

    def covers(self, hardware_address: int) -> bool:
        """Return whether a MAC, as an integer, is one of them."""
        return (hardware_address ^ self.value) >> (_BITS - self.bits) == 0


def _prefix(text: str, bits: int, what: str) -> MacPrefix:
    octets = bytes.fromhex(text.replace(":", "")).ljust(6, b"\0")
    return MacPrefix(int.from_bytes(octets, "big"), bits, what)


SHARED = (
    _prefix("00:00:5e:00:01", 40, "VRRP or CARP"),
    _prefix("00:00:5e:00:02", 40, "VRRP for IPv6"),
    _prefix("00:00:0c:07:ac", 40, "HSRP"),
    _prefix("00:00:0c:9f:f0", 36, "HSRP version 2"),
    _prefix("00:05:73:a0:00", 36, "HSRP for IPv6"),
    _prefix("00:07:b4:00", 30, "GLBP"),
    _prefix("02:bf", 16, "Network Load Balancing"),
)


# The first two octets.  00:00 is one of them, so an address of zeros is looked at as well.
_SHARED_BEGINNINGS = {(prefix.value >> 32).to_bytes(2, "big") for prefix in SHARED}


def _every_port(_name: str) -> bool:
    return True


class LearningRules(NamedTuple):
    """What the operator wants."""

    never: tuple[MacPrefix, ...] = ()
    is_port_wanted: Callable[[str], bool] = _every_port  # by its name
    vlans: frozenset[int] = frozenset()  # outer VLANs on the bond; 0: untagged; empty: all

    def refusal(self, hardware_address: bytes) -> str:
        """Return why a MAC never gets a frame; "" if it may."""
        is_group = hardware_address[0] & 1
        if not (is_group or self.never or hardware_address[:2] in _SHARED_BEGINNINGS):
            return ""  # as a rule, and thousands are asked for
        number = int.from_bytes(hardware_address, "big")
        if is_group or not number:
            return "no address of one host"
        for prefix in self.never + SHARED:
            if prefix.covers(number):
                return prefix.what
        return ""


def parse_mac_prefix(text: str) -> MacPrefix:
    """Return the prefix "MAC" or "MAC/BITS".  Raises ValueError, which says what is allowed."""
    address, slash, length = text.partition("/")
    octets = address.split(":")
    digits = "0123456789abcdefABCDEF"
    is_mac = len(octets) == 6 and all(len(o) == 2 and not o.strip(digits) for o in octets)
    if not is_mac or (slash and not (length.isdigit() and int(length) <= _BITS)):
        raise ValueError(f"{text!r} is no MAC or MAC/BITS, as 52:54:00:00:00:00/24")
    return MacPrefix(int("".join(octets), 16), int(length) if slash else _BITS)


def parse_vlans(text: str) -> frozenset[int]:
    """Return the VLANs of a list as "0,100,200-299".

    Raises ValueError, which says what is allowed.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [int(each) if each.isdigit() else -1 for each in (first, last if dash else first)]
        if not 0 <= ends[0] <= ends[1] <= VLAN_MOST:
            raise ValueError(f"{part!r} is no VLAN or range; allowed: 0 to {VLAN_MOST}, as 200-299")
        found.update(range(ends[0], ends[1] + 1))
    return frozenset(found)
