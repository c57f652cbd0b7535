"""What the guest owns at this moment: links, addresses, IPv6 forwarding.

Folds kernel events; never decides what any of it is good for.

A dump and the live events arrive on one netlink socket.  Everything seen is applied at
once and marked; :class:`DumpComplete` removes what was not marked since
:class:`DumpStarted`.  A dump that is never completed therefore removes nothing.  Recent
kernels dump without holding changes up, so a dump may name what a live event has already
taken away: of what was told live since its start, a dump has nothing to say.
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.guest.core.model import KernelEvent

    AddressKey = tuple[bytes, int, bytes]  # what the kernel tells two addresses of a link apart by


def _key(address: InterfaceAddress) -> AddressKey:
    if len(address.address) == 16:  # there once, whatever its prefix; its peer can be changed
        return (address.address, 0, b"")
    return (address.address, address.prefix_length, address.peer)


class Inventory:
    """The fold of all kernel events so far."""

    __slots__ = ("_addresses", "_forwarding", "_live", "_marks", "complete", "links")

    def __init__(self) -> None:
        self.complete = False  # a whole dump has been seen at least once
        self.links: dict[int, Link] = {}
        self._addresses: dict[int, dict[AddressKey, InterfaceAddress]] = {}
        self._forwarding: set[int] = set()
        self._marks: set[object] | None = None  # None: no dump under way
        self._live: set[object] = set()  # told by live events during the dump under way

    def addresses(self, ifindex: int) -> Iterable[InterfaceAddress]:
        """The addresses of one link, in the order in which the kernel named them."""
        return self._addresses.get(ifindex, {}).values()

    def forwards(self, ifindex: int) -> bool:
        """Whether the link forwards IPv6, which makes its neighbour advertisements a router's."""
        return ifindex in self._forwarding

    def stacked_on(self, ifindex: int) -> set[int]:
        """The link and all that sends through it: its bridge, bond or VRF, VLANs, macvlans, ..."""
        found = {ifindex}
        while True:
            more = {
                link.master_ifindex for i in found if (link := self.links.get(i)) is not None
            } | {link.ifindex for link in self.links.values() if link.parent_ifindex in found}
            more = (more - found) & self.links.keys()
            if not more:
                return found
            found |= more

    def apply(self, event: KernelEvent) -> Iterable[int]:
        """Fold one event in; the result names the links whose picture changed."""
        if isinstance(event, LinkSeen):
            return self._see_link(event.link, event.dumped)
        if isinstance(event, AddressSeen):
            return self._see_address(event.address, event.dumped)
        if isinstance(event, LinkGone):
            self._is_stale(event.ifindex, False)
            return self._forget_link(event.ifindex)
        if isinstance(event, AddressGone):
            ifindex, key = event.address.ifindex, _key(event.address)
            self._is_stale((ifindex, key), False)
            return self._forget_address(ifindex, key)
        if isinstance(event, ForwardingSeen):
            return self._see_forwarding(event)
        if isinstance(event, DumpStarted):
            self._marks = set()
            self._live.clear()
            return ()
        assert isinstance(event, DumpComplete)
        return self._sweep()

    def _mark(self, key: object) -> None:
        if self._marks is not None:
            self._marks.add(key)

    def _is_stale(self, key: object, dumped: bool) -> bool:
        """Whether a dump says it after a live event said otherwise."""
        if self._marks is None:
            return False
        if dumped:
            return key in self._live
        self._live.add(key)
        return False

    def _see_link(self, link: Link, dumped: bool) -> Iterable[int]:
        if self._is_stale(link.ifindex, dumped):
            return ()
        self._mark(link.ifindex)
        if self.links.get(link.ifindex) == link:
            return ()
        self.links[link.ifindex] = link
        return (link.ifindex,)

    def _see_address(self, address: InterfaceAddress, dumped: bool) -> Iterable[int]:
        key = _key(address)
        ifindex = address.ifindex
        left = dumped and ifindex in self._live and ifindex not in self.links
        if left or self._is_stale((ifindex, key), dumped):
            return ()
        self._mark((ifindex, key))
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
        # Addresses of a deleted link are not reported one by one on every path.
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
        if self._marks is None:
            return set()
        marks, self._marks = self._marks, None
        self._live.clear()
        gone = [ifindex for ifindex in self.links if ifindex not in marks]
        changed = {ifindex for each in gone for ifindex in self._forget_link(each)}
        stale = [
            (ifindex, key)
            for ifindex, known in self._addresses.items()
            for key in known
            if (ifindex, key) not in marks
        ]
        for ifindex, key in stale:
            changed.update(self._forget_address(ifindex, key))
        self.complete = True
        return changed
