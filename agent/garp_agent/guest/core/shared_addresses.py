"""Addresses that are on several links of one segment: which link announces each of them.

Two links that announce one address take turns in the neighbour tables of the segment.  So one of
them announces it: the one that the guest's own route to the segment uses.  Links are in one segment
if they have a subnet in common, or if the address is in a subnet of each, whatever the lengths of
the prefixes.  So are a macvlan or ipvlan and the link below it.  An address without a subnet does
not tell (unnumbered links), nor does a link-local subnet, which every link can have.

Does not ask the kernel: the route comes from a function.  Looks at all addresses of a link when the
link changes, and at other links only for the addresses that they share.
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

# Links that bring the frames of another one to the same wire, untagged.
_SAME_WIRE_KINDS = ("macvlan", "macvtap", "ipvlan", "ipvtap")
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
    vrf: int  # ifindex; 0: none
    wire: int  # ifindex of the link that is the lowest of its wire: itself, or the one below it

    def tells(self, ifindex: int) -> bool:
        """Return whether anything says in which segment the link is."""
        return bool(self.subnets) or self.wire != ifindex

    def reaches(self, address: bytes) -> bool:
        """Return whether an address is in a subnet of the link."""
        number, length = int.from_bytes(address, "big"), len(address)
        return any(
            each.address_length == length
            and number >> 8 * length - each.prefix_length == each.number
            for each in self.subnets
        )


class SharedAddresses:
    """Which addresses are on several links, and which of these links announce them."""

    __slots__ = ("_elsewhere", "_holders", "_known", "_losers", "_route", "_shared", "_views")

    def __init__(self, route: Route) -> None:
        self._route = route
        self._known: dict[int, set[bytes]] = {}  # by link: its global addresses
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

    def links(self) -> set[int]:
        """Return the links that share addresses: a changed route can change what they announce."""
        return {ifindex for address in self._losers for ifindex in self._holders[address]}

    def update(self, inventory: Inventory, changed: Iterable[int], suitable: Suitable) -> set[int]:
        """Take in changed links; return the links whose announcements change by that."""
        touched: set[bytes] = set()
        for ifindex in changed:
            self._views.pop(ifindex, None)
            before = self._known.pop(ifindex, set())
            after = {each.address for each in _items(inventory, ifindex)}
            if after:
                self._known[ifindex] = after
            touched |= before & self._shared
            self._hold(ifindex, before, after)
            touched |= after & self._shared
        for ifindex in {each for address in touched for each in self._holders.get(address, ())}:
            if ifindex not in self._views:
                vrf, items = _vrf(inventory, ifindex), _items(inventory, ifindex)
                self._views[ifindex] = _View(
                    suitable(ifindex), set(_subnets(vrf, items)), vrf, _wire(inventory, ifindex)
                )
        routes: dict[_Subnet, int] = {}
        splits: dict[_Holders, list[list[int]]] = {}
        affected: set[int] = set()
        for address in sorted(touched):
            affected |= self._elect(address, routes, splits)
        return affected

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
        holders = tuple(
            (each, views[each].reaches(address))
            for each in telling
            if address in views[each].suitable
        )
        if holders not in splits:
            splits[holders] = self._segments(holders) if len(holders) > 1 else []
        after: set[int] = set()
        for members in splits[holders]:
            winner = min(members)
            subnets = {each for link in members for each in views[link].subnets}
            if subnets:
                subnet = _subnet(subnets, address)
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


def _wire(inventory: Inventory, ifindex: int) -> int:
    # The kernel puts a macvlan of a macvlan on the link below both (macvlan_common_newlink).
    link = inventory.links[ifindex]
    return link.parent_ifindex or ifindex if link.kind in _SAME_WIRE_KINDS else ifindex


def _subnets(vrf: int, addresses: Iterable[InterfaceAddress]) -> Iterable[_Subnet]:
    for each in addresses:
        length = len(each.address)
        bits = 8 * length - each.prefix_length
        if bits > 0:
            number = int.from_bytes(each.peer or each.address, "big") >> bits
            yield _Subnet(vrf, length, each.prefix_length, number)


def _subnet(subnets: Iterable[_Subnet], address: bytes) -> _Subnet:
    """Return the subnet by which to reach others of a segment: that of the address, if any."""
    number, length = int.from_bytes(address, "big"), len(address)

    def rank(subnet: _Subnet) -> tuple[bool, bool, int, _Subnet]:
        is_family = subnet.address_length == length
        bits = 8 * length - subnet.prefix_length if is_family else 0
        is_own = is_family and number >> bits == subnet.number
        return is_own, is_family, subnet.prefix_length, subnet

    return max(subnets, key=rank)
