"""What the guest has at this moment: links, addresses, IPv6 forwarding.

Folds kernel events.  Does not decide which links or addresses are announced.

Every event is applied at once.  When a dump is complete, what neither the dump nor a live event
named since its start is removed (:mod:`garp_agent.wire.netlink_dump`).
"""

from __future__ import annotations

from garp_agent.guest.core.memory import remember
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.wire.model import DumpComplete, DumpPartial, DumpStarted, LinkGone
from garp_agent.wire.netlink_dump import DumpMarks

# Links that bring the frames of another one to the same wire, untagged.
_SAME_WIRE_KINDS = ("macvlan", "macvtap", "ipvlan", "ipvtap")
FORMER = 64  # hardware addresses of the past, and links that went, that are remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from garp_agent.guest.core.model import KernelEvent

    AddressKey = tuple[bytes, int, bytes]  # by which the kernel tells the addresses of a link apart
    # Ifindexes of a parent and a master, 0: none; and a parent outside, (): none.
    Below = tuple[int, int, tuple[int, ...]]


def _key(address: InterfaceAddress) -> AddressKey:
    # The kernel has an IPv6 address once on a link, whatever its prefix, and can change its peer
    # in place.  It has an IPv4 address once for each prefix length and peer.
    if len(address.address) == 16:
        return (address.address, 0, b"")
    return (address.address, address.prefix_length, address.peer)


def _stacking(link: Link) -> tuple[object, ...]:
    """Return what says where a link stands among the others."""
    return (
        link.master_ifindex,
        link.parent_ifindex,
        link.pair_ifindex,
        link.far_parent,
        link.port_kind,
        link.kind,  # another one has the ifindex of one that went unseen
        link.filters_vlans,
    )


def _below(link: Link) -> Below:
    """Return what a link sends through."""
    master = 0 if link.port_kind == "vrf" else link.master_ifindex
    return link.parent_ifindex, master, link.far_parent


class Inventory:
    """The result of all kernel events so far."""

    __slots__ = (
        "_address_marks",
        "_addresses",
        "_forwarding",
        "_gone",
        "_link_marks",
        "_own",
        "by_name",
        "complete",
        "links",
        "topology",
    )

    def __init__(self) -> None:
        self.complete = False  # a whole dump has been seen
        self.links: dict[int, Link] = {}
        self.by_name: dict[str, int] = {}  # name -> ifindex
        self.topology = 0  # goes up when links come, go, or are stacked otherwise
        self._own: dict[bytes, None] = {}  # hardware addresses of the links, also former ones
        self._addresses: dict[int, dict[AddressKey, InterfaceAddress]] = {}
        self._forwarding: set[int] = set()
        self._gone: dict[bytes, int] = {}  # ifindexes of links that went, by hardware address
        self._link_marks = DumpMarks()  # by ifindex
        self._address_marks = DumpMarks()  # by ifindex and key

    def addresses(self, ifindex: int) -> Collection[InterfaceAddress]:
        """Return the addresses of one link, in the order in which the kernel named them."""
        return self._addresses.get(ifindex, {}).values()

    def forwards(self, ifindex: int) -> bool:
        """Return whether the link forwards IPv6: its neighbour advertisements are a router's."""
        return ifindex in self._forwarding

    def other_end(self, link: Link) -> Link | None:
        """Return the other end of a veth pair, if both ends are here.

        An end that stays is not reported when the other moves to another network namespace.
        """
        other = self.links.get(link.pair_ifindex)
        return other if other is not None and other.pair_ifindex == link.ifindex else None

    def stacked_on(self, ifindex: int) -> set[int]:
        """Return the link and all that send through it: its bridge, bond or VRF, VLANs, ...

        Through a veth pair sends what is at its other end.
        """
        found = {ifindex}
        while True:
            masters = {self.links[each].master_ifindex for each in found if each in self.links}
            children = {
                link.ifindex for link in self.links.values() if link.parent_ifindex in found
            }
            ends = {
                link.pair_ifindex
                for link in self.links.values()
                if link.pair_ifindex and self._sends_through(link, found) and self.other_end(link)
            }
            more = ((masters | children | ends) - found) & self.links.keys()
            if not more:
                return found
            found |= more

    @staticmethod
    def _sends_through(link: Link, found: set[int]) -> bool:
        return link.ifindex in found or (link.port_kind != "vrf" and link.master_ifindex in found)

    def is_own(self, hardware_address: bytes) -> bool:
        """Return whether a link has this hardware address, or had it.

        Late frames and the caches of switches that answer for hosts still name a former one.
        """
        return hardware_address in self._own

    def nics(self) -> dict[int, int]:
        """Return for each ifindex the number of the NIC by which the link leaves.

        Links that are stacked on each other, are ports of one bridge or bond, or are the ends of a
        veth pair have the same, and so have those of a container on one device outside of it.  A
        VRF connects nothing.  A NIC that comes back with another ifindex has its former number.
        """
        return self._join(_below, self._gone)

    def wires(self) -> dict[int, int]:
        """Return for each ifindex the lowest ifindex of the links on the same wire, untagged.

        Those are a macvlan or ipvlan and the link below it, those of a container on one device
        outside of it, a bridge and its ports, and the ends of a veth pair.  The ports of a bridge
        that filters VLANs can be in different ones.
        """
        return self._join(self._below_untagged, {})

    def _below_untagged(self, link: Link) -> Below:
        parent, master, far_parent = _below(link)
        if link.kind not in _SAME_WIRE_KINDS:
            parent, far_parent = 0, ()
        if link.port_kind != "bridge" or (
            master in self.links and self.links[master].filters_vlans
        ):
            master = 0
        return parent, master, far_parent

    def _join(self, below: Callable[[Link], Below], gone: dict[bytes, int]) -> dict[int, int]:
        """Return for each ifindex the lowest of the links that are joined with it."""
        far: dict[tuple[int, ...], int] = {}  # by device outside: one of the links on it
        found: dict[int, int] = {}

        def root(ifindex: int) -> int:
            above = found.setdefault(ifindex, ifindex)
            while above != ifindex:
                found[ifindex] = ifindex = found[above]
                above = found[ifindex]
            return ifindex

        def join(ifindex: int, other: int) -> None:
            one, two = sorted((root(ifindex), root(other)))
            found[two] = one

        for link in self.links.values():
            root(link.ifindex)
            parent, master, far_parent = below(link)
            for other in (
                parent,
                master,
                link.pair_ifindex if self.other_end(link) else 0,
                far.setdefault(far_parent, link.ifindex) if far_parent else 0,
            ):
                if other:  # also if it is not here: it can have moved to another namespace
                    join(link.ifindex, other)
            if link.hardware_address in gone:
                join(link.ifindex, gone[link.hardware_address])
        return {ifindex: root(ifindex) for ifindex in self.links}

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
        if isinstance(event, DumpPartial):  # the next dump starts anew
            self.complete = self.complete or self._link_marks.is_under_way
            return ()
        assert isinstance(event, DumpComplete)
        return self._sweep()

    def _see_link(self, link: Link, dumped: bool) -> Iterable[int]:
        if not self._link_marks.seen(link.ifindex, dumped):
            return ()
        before = self.links.get(link.ifindex)
        if before == link:
            return ()
        if before is not None:
            self._forget_name(before)
        if before is None:
            gone = self._gone.items()
            mac = link.hardware_address
            self._gone = {one: n for one, n in gone if n != link.ifindex or one == mac}
        if before is None or self._moves(before, link):
            self.topology += 1
        self.by_name[link.name] = link.ifindex
        self._remember_own(link.hardware_address, before)
        self.links[link.ifindex] = link  # last: without memory for the others it is not known
        return (link.ifindex,)

    def _moves(self, before: Link, after: Link) -> bool:
        """Return whether a link stands elsewhere among the others, or is a NIC that came back."""
        is_other = before.hardware_address != after.hardware_address
        came_back = is_other and after.hardware_address in self._gone
        return came_back or _stacking(before) != _stacking(after)

    def _remember_own(self, hardware_address: bytes, before: Link | None) -> None:
        if before is not None and before.hardware_address != hardware_address:
            self._forget_virtual(before)
        self._own.pop(hardware_address, None)
        self._own[hardware_address] = None
        if len(self._own) > 2 * (len(self.links) + FORMER):
            current = {link.hardware_address: None for link in self.links.values()}
            former = [each for each in self._own if each not in current][-FORMER:]
            self._own = {**dict.fromkeys(former), **current}

    def _forget_virtual(self, link: Link) -> None:
        """Forget the hardware address of a virtual router: the next master has the same."""
        if link.shares_hardware_address:
            self._own.pop(link.hardware_address, None)

    def _forget_name(self, link: Link) -> None:
        if self.by_name.get(link.name) == link.ifindex:
            del self.by_name[link.name]

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
        if known is None:
            return ()
        self._forget_name(known)
        self._forget_virtual(known)
        if any(known.hardware_address) and not known.shares_hardware_address:
            remember(self._gone, known.hardware_address, ifindex, FORMER)
        self.topology += 1
        return (ifindex,)

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
