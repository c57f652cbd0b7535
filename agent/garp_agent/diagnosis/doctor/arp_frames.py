"""The two ARP frames of a peer that asks for an address: its question, and the kernel's answer.

Rules for ARP are tried on them (``nftables``, ``arptables``).  What depends on the peer is unknown,
so a comparison has three results: True, False, and None for unknown.

Source: RFC 826.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

ETHERTYPE = b"\x08\x06"
SENDER_HARDWARE = slice(8, 14)
SENDER, TARGET = slice(14, 18), slice(24, 28)  # the IPv4 addresses of an ARP frame


class Hook(Enum):
    """Where the kernel applies rules to ARP frames."""

    INGRESS = "ingress"
    BRIDGE_PREROUTING = "bridge prerouting"
    BRIDGE_INPUT = "bridge input"
    INPUT = "input"
    OUTPUT = "output"
    EGRESS = "egress"
    BRIDGE_OUTPUT = "bridge output"
    BRIDGE_POSTROUTING = "bridge postrouting"


class RuleVerdict(Enum):
    """What rules do with a frame in the end."""

    ACCEPT = "accept"
    DROP = "drop"


ANY = frozenset(RuleVerdict)  # what cannot be evaluated may do either


class ArpFrame(NamedTuple):
    """An ARP frame at a hook; None for bytes that are not known."""

    interface: str
    ifindex: int
    ethernet: list[int | None]
    arp: list[int | None]  # rules can change it

    def is_from(self, address: bytes) -> bool:
        """Return whether its sender has this address, IPv4 or hardware."""
        return self.arp[SENDER if len(address) == 4 else SENDER_HARDWARE] == list(address)


def question(interface: str, ifindex: int, address: bytes) -> ArpFrame:
    """Return the broadcast with which a peer asks for an IPv4 address."""
    ethernet = [0xFF] * 6 + [None] * 6 + list(ETHERTYPE)
    arp = [*_head(1), *[None] * 16, *address]
    return ArpFrame(interface, ifindex, ethernet, arp)


def answer(interface: str, ifindex: int, address: bytes, hardware_address: bytes) -> ArpFrame:
    """Return the kernel's reply for an IPv4 address."""
    arp = [*_head(2), *hardware_address, *address, *[None] * 10]
    ethernet = [None] * 6 + [*hardware_address, *ETHERTYPE]
    return ArpFrame(interface, ifindex, ethernet, arp)


def _head(operation: int) -> list[int]:
    return [0, 1, 8, 0, 6, 4, 0, operation]  # Ethernet, IPv4, and the lengths of their addresses


def equal(seen: Sequence[int | None], wanted: bytes, mask: bytes = b"") -> bool | None:
    """Return whether bytes are the wanted ones, in the bits of the mask (b"": in all)."""
    pairs = zip(seen, wanted, mask or b"\xff" * len(wanted))
    return every(
        None if one is None and bits else ((one or 0) ^ other) & bits == 0
        for one, other, bits in pairs
    )


def every(results: Iterable[bool | None]) -> bool | None:
    """Return whether all are True; False if one is, whatever is unknown."""
    found = set(results)
    if False in found:
        return False
    return None if None in found else True


def inverted(result: bool | None, is_inverted: object = True) -> bool | None:
    """Return the opposite, if that is asked for."""
    return result if result is None else result ^ bool(is_inverted)
