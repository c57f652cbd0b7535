"""Addresses that are on several links of one segment: which link announces each of them.

Two links that announce one address take turns in the neighbour tables of the segment.  So one of
them announces it: the one that the guest's own route to the segment uses.  Links are in one segment
if they have a subnet in common, or if the address is in a subnet of each, whatever the lengths of
the prefixes.  So are links on one wire (Inventory.wires).  An address without a subnet does not
tell (unnumbered links), nor does a link-local subnet, which every link can have.

Does not ask the kernel: the route comes from a function.  Looks at all addresses of a link when its
subnets, its VRF or its wire change, and else at those that can be announced now, or no longer.
"""

from __future__ import annotations

from garp_agent.guest.core.model import RT_SCOPE_HOST, RT_SCOPE_LINK
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.guest.core.inventory import Inventory
    from garp_agent.guest.core.model import InterfaceAddress

    # From an address to reach, and the ifindex of a VRF or of the link to leave by (0: any), to the
    # ifindex of the link that a packet there leaves by; 0: unknown.
    Route = Callable[[bytes, int], int]
    # From an ifindex to the addresses that may be announced there.
    Suitable = Callable[[int], set[bytes]]
    # The links that have an address, and whether it is in a subnet of the link.
    _Holders = tuple[tuple[int, bool], ...]

_IPV4_LINK_LOCAL = b"\xa9\xfe"  # 169.254.0.0/16, RFC 3927


class _Subnet(NamedTuple):
    vrf: int  # ifindex; 0: none
    address_length: int  # bytes
    prefix_length: int
    number: int  # the prefix, without the bits of the host


class _View(NamedTuple):
    """What counts of a link that shares an address."""

    suitable: set[bytes]  # the addresses that may be announced
    subnets: set[_Subnet]
    samples: list[_Subnet]  # the last of each family and length; the longest prefix first
    vrf: int  # ifindex; 0: none
    wire: int  # the lowest ifindex of the links on its wire

    def tells(self, ifindex: int) -> bool:
        """Return whether anything says in which segment the link is."""
        return bool(self.subnets) or self.wire != ifindex

    def subnet(self, address: bytes) -> list[_Subnet]:
        """Return the smallest subnet of the link that an address is in, if any."""
        number, length = int.from_bytes(address, "big"), len(address)
        for vrf, address_length, prefix_length, _ in self.samples:
            if address_length == length:
                bits = 8 * length - prefix_length
                subnet = _Subnet(vrf, length, prefix_length, number >> bits)
                if subnet in self.subnets:
                    return [subnet]
        return []


class SharedAddresses:
    """Which addresses are on several links, and which of these links announce them."""

    __slots__ = (
        "_elsewhere",
        "_holders",
        "_known",
        "_losers",
        "_route",
        "_shared",
        "_topology",
        "_views",
        "_wires",
    )

    def __init__(self, route: Route) -> None:
        self._route = route
        self._known: dict[int, set[bytes]] = {}  # by link: its global addresses
        self._topology = -1  # the inventory's when the wires were looked at
        self._wires: dict[int, int] = {}  # by link: the lowest one on its wire
        self._views: dict[int, _View] = {}  # by link, of those that share an address
        self._holders: dict[bytes, tuple[int, ...]] = {}  # by address: the links that have it
        self._shared: set[bytes] = set()  # addresses with several holders
        self._losers: dict[bytes, set[int]] = {}  # by address: links on which another announces it
        self._elsewhere: dict[int, set[bytes]] = {}  # the same by link

    def elsewhere(self, ifindex: int) -> set[bytes]:
        """Return the addresses of the link that another link of its segment announces."""
        return self._elsewhere.get(ifindex, set())

    def depend_on_routes(self) -> bool:
        """Return whether any address is announced on one link because of a route."""
        return bool(self._losers)

    def look_again(self) -> set[int]:
        """Return the links that share addresses: a changed route can change what they announce.

        At the next update, all their addresses are looked at, and the routes are asked for.
        """
        links = {ifindex for address in self._losers for ifindex in self._holders[address]}
        for ifindex in links:
            self._views.pop(ifindex, None)
        return links

    def update(self, inventory: Inventory, changed: Iterable[int], suitable: Suitable) -> set[int]:
        """Take in changed links; return the links whose announcements change by that."""
        touched: set[bytes] = set()
        stale = set(changed)
        for ifindex in stale:
            before = self._known.pop(ifindex, set())
            after = {each.address for each in _items(inventory, ifindex)}
            if after:
                self._known[ifindex] = after
            touched |= (before - after) & self._shared
            self._hold(ifindex, before, after)
        if (touched or self._shared) and self._topology != inventory.topology:
            self._topology, self._wires = inventory.topology, inventory.wires()
            # A link can come to another wire because another link has changed.
            views = self._views.items()
            stale |= {each for each, view in views if view.wire != self._wires.get(each)}
        for ifindex in stale:
            view, shared = self._views.pop(ifindex, None), self._known.get(ifindex, set())
            shared = shared & self._shared
            if view is not None and shared:
                now = self._views[ifindex] = self._view(inventory, ifindex, suitable)
                if now[1:] == view[1:]:  # the others are decided about as before
                    shared &= now.suitable ^ view.suitable
            touched |= shared
        for ifindex in {each for address in touched for each in self._holders.get(address, ())}:
            if ifindex not in self._views:
                self._views[ifindex] = self._view(inventory, ifindex, suitable)
        routes: dict[_Subnet, int] = {}
        splits: dict[_Holders, list[list[int]]] = {}
        affected: set[int] = set()
        for address in sorted(touched):
            affected |= self._elect(address, routes, splits)
        return affected

    def _view(self, inventory: Inventory, ifindex: int, suitable: Suitable) -> _View:
        vrf = _vrf(inventory, ifindex)
        subnets = set(_subnets(vrf, _items(inventory, ifindex)))
        lengths = {(each.prefix_length, each.address_length): each for each in sorted(subnets)}
        samples = [lengths[each] for each in sorted(lengths, reverse=True)]
        return _View(suitable(ifindex), subnets, samples, vrf, self._wires[ifindex])

    def _hold(self, ifindex: int, before: set[bytes], after: set[bytes]) -> None:
        """Note which addresses the link has."""
        for address in before ^ after:
            holders = self._holders.pop(address, ())
            if address in after:
                holders += (ifindex,)
            else:
                holders = tuple(each for each in holders if each != ifindex)
            if holders:
                self._holders[address] = holders
            (self._shared.add if len(holders) > 1 else self._shared.discard)(address)

    def _elect(
        self,
        address: bytes,
        routes: dict[_Subnet, int],
        splits: dict[_Holders, list[list[int]]],
    ) -> set[int]:
        """Decide which links announce an address; return the links for which that changes.

        ``routes`` and ``splits``: answers so far, since links that share one address often share
        many.
        """
        views = self._views
        # Few links tell their segment: thousands of container links can have one /32 address.
        links = self._holders.get(address, ())
        telling = [each for each in links if views[each].tells(each)]
        for wire in {views[each].wire for each in telling}.difference(telling):
            if wire in links:
                telling.append(wire)
        own = {
            each: views[each].subnet(address) for each in telling if address in views[each].suitable
        }
        holders = tuple((each, bool(subnet)) for each, subnet in own.items())
        if holders not in splits:
            splits[holders] = self._segments(holders) if len(holders) > 1 else []
        after: set[int] = set()
        for members in splits[holders]:
            winner = min(members)
            # By which to reach others of the segment: the subnet of the address, if any.
            subnets = [each for link in members for each in own[link]]
            subnets = subnets or [each for link in members for each in views[link].samples]
            if subnets:
                subnet = max(
                    subnets,
                    key=lambda each: (
                        each.address_length == len(address),
                        each.prefix_length,
                        each,
                    ),
                )
                if subnet not in routes:
                    routes[subnet] = self._ask(subnet, address)
                winner = routes[subnet] if routes[subnet] in members else winner
            after.update(each for each in members if each != winner)
        before = self._losers.pop(address, set())
        if after:
            self._losers[address] = after
        for ifindex in before ^ after:
            known = self._elsewhere.setdefault(ifindex, set())
            known ^= {address}
            if not known:
                del self._elsewhere[ifindex]
        return before ^ after

    def _segments(self, holders: _Holders) -> list[list[int]]:
        """Return the links of each segment, where there are several."""
        names: dict[int, int] = {}  # leads to the first link of the link's segment

        def name(ifindex: int) -> int:
            while ifindex in names:
                ifindex = names[ifindex]
            return ifindex

        firsts: dict[object, int] = {}  # by what the links of a segment have in common
        for ifindex, reaches in holders:
            view = self._views[ifindex]
            common = [*view.subnets, (view.vrf, view.wire), *[view.vrf] * reaches]
            for each in common:
                one, other = name(ifindex), name(firsts.setdefault(each, ifindex))
                if one != other:
                    names[one] = other
        groups: dict[int, list[int]] = {}
        for ifindex, _ in holders:
            groups.setdefault(name(ifindex), []).append(ifindex)
        return [members for members in groups.values() if len(members) > 1]

    def _ask(self, subnet: _Subnet, address: bytes) -> int:
        """Return the link by which the guest reaches others in the subnet; 0: unknown."""
        length = subnet.address_length
        bits = 8 * length - subnet.prefix_length
        first = subnet.number << bits
        own = int.from_bytes(address, "big")
        start = own if own >> bits == subnet.number else first
        # Not the first and last address of a subnet, which IPv4 has for broadcasts.
        edges = () if bits == 1 else (first, first + (1 << bits) - 1)
        for distance in range(1, min(1 << bits, 16)):
            other = (start ^ distance).to_bytes(length, "big")
            if start ^ distance not in edges and other not in self._holders:
                return self._route(other, subnet.vrf)
        return 0


def _items(inventory: Inventory, ifindex: int) -> list[InterfaceAddress]:
    """Return the addresses of a link that others can reach; none if the link is not there.

    Leaves out link-local ones: they are of each link, and so are their subnets.
    """
    items = inventory.addresses(ifindex) if ifindex in inventory.links else ()
    return [each for each in items if each.scope < RT_SCOPE_HOST and not _is_link_local(each)]


def _is_link_local(item: InterfaceAddress) -> bool:
    if len(item.address) == 4:
        return item.address[:2] == _IPV4_LINK_LOCAL
    return item.scope == RT_SCOPE_LINK


def _vrf(inventory: Inventory, ifindex: int) -> int:
    link = inventory.links[ifindex]
    return link.master_ifindex if link.port_kind == "vrf" else 0


def _subnets(vrf: int, addresses: Iterable[InterfaceAddress]) -> Iterable[_Subnet]:
    for each in addresses:
        length = len(each.address)
        bits = 8 * length - each.prefix_length
        if bits > 0:
            number = int.from_bytes(each.peer or each.address, "big") >> bits
            yield _Subnet(vrf, length, each.prefix_length, number)
