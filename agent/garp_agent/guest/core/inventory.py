"""What the guest has at this moment: links, addresses, IPv6 forwarding.

Folds kernel events.  Does not decide which links or addresses are announced.

Every event is applied at once.  When a dump is complete, what neither the dump nor a live event
named since its start is removed (:mod:`garp_agent.wire.netlink_dump`).
"""

from __future__ import annotations

from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone
from garp_agent.wire.netlink_dump import DumpMarks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from garp_agent.guest.core.model import KernelEvent

    AddressKey = tuple[bytes, int, bytes]  # by which the kernel tells the addresses of a link apart


def _key(address: InterfaceAddress) -> AddressKey:
    # The kernel has an IPv6 address once on a link, whatever its prefix, and can change its peer
    # in place.  It has an IPv4 address once for each prefix length and peer.
    if len(address.address) == 16:
        return (address.address, 0, b"")
    return (address.address, address.prefix_length, address.peer)


class Inventory:
    """The result of all kernel events so far."""

    __slots__ = (
        "_address_marks",
        "_addresses",
        "_forwarding",
        "_link_marks",
        "complete",
        "links",
    )

    def __init__(self) -> None:
        self.complete = False  # a whole dump has been seen
        self.links: dict[int, Link] = {}
        self._addresses: dict[int, dict[AddressKey, InterfaceAddress]] = {}
        self._forwarding: set[int] = set()
        self._link_marks = DumpMarks()  # by ifindex
        self._address_marks = DumpMarks()  # by ifindex and key

    def addresses(self, ifindex: int) -> Collection[InterfaceAddress]:
        """Return the addresses of one link, in the order in which the kernel named them."""
        return self._addresses.get(ifindex, {}).values()

    def forwards(self, ifindex: int) -> bool:
        """Return whether the link forwards IPv6: its neighbour advertisements are a router's."""
        return ifindex in self._forwarding

    def stacked_on(self, ifindex: int) -> set[int]:
        """Return the link and all that send through it: its bridge, bond or VRF, VLANs, ..."""
        found = {ifindex}
        while True:
            masters = {self.links[each].master_ifindex for each in found if each in self.links}
            children = {
                link.ifindex for link in self.links.values() if link.parent_ifindex in found
            }
            more = ((masters | children) - found) & self.links.keys()
            if not more:
                return found
            found |= more

    def apply(self, event: KernelEvent) -> Iterable[int]:
        """Take in one event; return the ifindexes of the links that it changed."""
        if isinstance(event, LinkSeen):
            return self._see_link(event.link, event.dumped)
        if isinstance(event, AddressSeen):
            return self._see_address(event.address, event.dumped)
        if isinstance(event, LinkGone):
            self._link_marks.removed(event.ifindex)
            return self._forget_link(event.ifindex)
        if isinstance(event, AddressGone):
            ifindex, key = event.address.ifindex, _key(event.address)
            self._address_marks.removed((ifindex, key))
            return self._forget_address(ifindex, key)
        if isinstance(event, ForwardingSeen):
            return self._see_forwarding(event)
        if isinstance(event, DumpStarted):
            self._link_marks.start()
            self._address_marks.start()
            return ()
        assert isinstance(event, DumpComplete)
        return self._sweep()

    def _see_link(self, link: Link, dumped: bool) -> Iterable[int]:
        if not self._link_marks.seen(link.ifindex, dumped):
            return ()
        if self.links.get(link.ifindex) == link:
            return ()
        self.links[link.ifindex] = link
        return (link.ifindex,)

    def _see_address(self, address: InterfaceAddress, dumped: bool) -> Iterable[int]:
        ifindex, key = address.ifindex, _key(address)
        # A deleted link takes its addresses along, but the dump can still name them.
        if dumped and self._link_marks.is_live(ifindex) and ifindex not in self.links:
            return ()
        if not self._address_marks.seen((ifindex, key), dumped):
            return ()
        known = self._addresses.setdefault(ifindex, {})
        if known.get(key) == address:
            return ()
        known[key] = address
        return (ifindex,)

    def _see_forwarding(self, event: ForwardingSeen) -> Iterable[int]:
        if event.forwarding == (event.ifindex in self._forwarding):
            return ()
        self._forwarding ^= {event.ifindex}
        return (event.ifindex,)

    def _forget_link(self, ifindex: int) -> Iterable[int]:
        # The kernel does not always report the addresses of a deleted link one by one.
        known = self.links.pop(ifindex, None)
        self._addresses.pop(ifindex, None)
        self._forwarding.discard(ifindex)
        return () if known is None else (ifindex,)

    def _forget_address(self, ifindex: int, key: AddressKey) -> Iterable[int]:
        known = self._addresses.get(ifindex, {})
        if known.pop(key, None) is None:
            return ()
        if not known:
            del self._addresses[ifindex]
        return (ifindex,)

    def _sweep(self) -> set[int]:
        if not self._link_marks.is_under_way:
            return set()
        changed: set[int] = set()
        for ifindex in self._link_marks.sweep(self.links):
            changed.update(self._forget_link(ifindex))
        there = [(ifindex, key) for ifindex, known in self._addresses.items() for key in known]
        for ifindex, key in self._address_marks.sweep(there):
            changed.update(self._forget_address(ifindex, key))
        self.complete = True
        return changed
