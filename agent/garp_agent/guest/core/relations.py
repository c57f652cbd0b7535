"""What the links of a guest mean to one another: which of them lead to containers only.

Looks at the whole inventory, and keeps what it found, so that a change costs no more with 2,000
links.  Does not ask the kernel: the default route comes from a function.  Decides nothing else
about a link; policy makes the plan.

Sources: <linux/if_link.h> (kinds of links), docker and Calico for what they make on a host.
"""

from __future__ import annotations

from garp_agent.guest.core.model import RT_SCOPE_LINK
from garp_agent.guest.core.policy import nature_skip
from garp_agent.wire.model import IFF_UP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.guest.core.inventory import Inventory
    from garp_agent.guest.core.model import InterfaceAddress, Link
    from garp_agent.guest.core.shared_addresses import Route

# Pairs of links, of which one end is in a container; and taps, which lead to a nested guest.
_PAIRED_KINDS = ("veth", "netkit")
_CONTAINER_KINDS = (*_PAIRED_KINDS, "tun")

# Addresses on the Internet, to which only a default route leads: those of a.root-servers.net.
_FAR = (bytes((198, 41, 0, 4)), bytes.fromhex("20010503ba3e00000000000000020030"))

_MOST_ASKED = 16  # links that are asked for a default route of their own


class Relations:
    """Which links lead to containers or nested guests only, folded from changes.

    A bridge does whose ports are all veths or taps (docker0), and a veth without any address but
    link-local IPv6 (Calico's cali*) and addresses without a subnet (the CNI plugin ptp).  But the
    only link of a container is a veth, too.  So this counts only where another link is up, which is
    none of these, or has a default route.  One of these kinds is another link if it has an
    address with a subnet and has, or had, a carrier.  A link below a VLAN or macvlan is in use
    itself, and so is the link of a default route, also where the routes of a VPN come before it.

    A veth whose other end is here, too, leads where that end leads: for instance, it joins two
    bridges.
    """

    __slots__ = (
        "_addressed",
        "_below",
        "_candidates",
        "_carried",
        "_defaults",
        "_joined",
        "_others",
        "_paired",
        "_route",
        "_topology",
        "_uses",
    )

    def __init__(self, route: Route) -> None:
        self._route = route
        self._candidates: set[int] = set()  # links that lead to containers if there are others
        self._addressed: set[int] = set()  # those of them by which the default route can go
        self._defaults: set[int] = set()  # the links of the default routes, where that counts
        self._carried: set[int] = set()  # links that have, or had, a carrier
        self._paired: set[int] = set()  # ends of pairs whose other end was here, too
        self._joined: set[int] = set()  # links that lead further by such a pair
        self._others: set[int] = set()  # links by which the guest reaches its own network
        self._topology = -1  # the inventory's at the latest update
        self._below: dict[int, tuple[int, ...]] = {}  # by link: the links that it makes useful
        self._uses: dict[int, int] = {}  # by link: how many links make it useful

    def leads_to_containers(self, ifindex: int) -> bool:
        """Return whether the link leads to containers or nested guests only."""
        if ifindex not in self._candidates or not (self._others or self._defaults):
            return False
        return ifindex not in self._defaults and ifindex not in self._joined

    def depend_on_routes(self) -> bool:
        """Return whether the default route decides about a link."""
        return bool(self._addressed)

    def ask_routes(self) -> set[int]:
        """Ask for the default routes again; return the links for which other answers follow."""
        had_others = bool(self._others or self._defaults)
        before, self._defaults = self._defaults, self._default_links()
        if bool(self._others or self._defaults) != had_others:
            return set(self._candidates)
        return (before ^ self._defaults) & self._candidates

    def update(self, inventory: Inventory, changed: Iterable[int]) -> set[int]:
        """Take in changed links; return them and the links that other answers follow for."""
        had_others = bool(self._others or self._defaults)
        # Pairs are looked at only if they can be others: an address changes more often than a link.
        is_restacked, self._topology = inventory.topology != self._topology, inventory.topology
        affected, used = set(changed), set()
        for ifindex in affected:
            used |= self._count_uses(ifindex, inventory.links.get(ifindex))
        affected |= used
        if is_restacked and self._paired:
            affected |= self._other_ends(inventory, affected)
        is_asked = bool(affected & self._addressed)
        candidates = self._candidates & affected
        for ifindex in affected:
            self._classify(ifindex, inventory)
        if is_restacked or used or candidates != self._candidates & affected:
            joined, self._joined = self._joined, self._join(inventory)
            affected |= (joined ^ self._joined) & self._candidates
        if is_asked or affected & self._addressed:
            affected |= self.ask_routes()
        if bool(self._others or self._defaults) != had_others:
            affected |= self._candidates
        return affected

    def _default_links(self) -> set[int]:
        if not self._addressed:
            return set()
        found = {self._route(each, 0) for each in _FAR} & self._addressed
        # A VPN can have routes before the default route, which is there all the same.
        for ifindex in sorted(self._addressed - found)[:_MOST_ASKED]:
            if any(self._route(each, ifindex) == ifindex for each in _FAR):
                found.add(ifindex)
        return found

    def _other_ends(self, inventory: Inventory, ends: set[int]) -> set[int]:
        known = (inventory.links.get(each) for each in self._paired)
        return {link.ifindex for link in known if link is not None and link.pair_ifindex in ends}

    def _join(self, inventory: Inventory) -> set[int]:
        """Return the links that lead further by pairs: those joined to one that does so itself."""
        neighbors: dict[int, list[int]] = {}
        for ifindex in self._paired:
            link = inventory.links[ifindex]
            other = inventory.other_end(link)
            if other is not None:
                neighbors.setdefault(_bridge_or_self(link), []).append(_bridge_or_self(other))
        ends = self._candidates | self._paired - self._uses.keys()
        found = neighbors.keys() - ends
        rest = list(found)
        while rest:
            more = [each for each in neighbors[rest.pop()] if each not in found]
            found.update(more)
            rest += more
        return found

    def _count_uses(self, ifindex: int, link: Link | None) -> set[int]:
        """Note which links this one makes useful; return those for which that has changed."""
        before = self._below.pop(ifindex, ())
        after = () if link is None else _makes_useful(link)
        if after:
            self._below[ifindex] = after
        for links, step in ((before, -1), (after, 1)):
            for each in links:
                self._uses[each] = self._uses.get(each, 0) + step
                if not self._uses[each]:
                    del self._uses[each]
        return set(before) ^ set(after)

    def _classify(self, ifindex: int, inventory: Inventory) -> None:
        for known in (self._candidates, self._addressed, self._others, self._paired):
            known.discard(ifindex)
        link = inventory.links.get(ifindex)
        if link is None:
            self._carried.discard(ifindex)
            return
        if link.has_carrier:
            self._carried.add(ifindex)
        if link.pair_ifindex:
            self._paired.add(ifindex)
        if nature_skip(link) is not None:
            return
        is_unused = ifindex not in self._uses
        items = [each for each in inventory.addresses(ifindex) if not _is_ipv6_link_local(each)]
        has_subnet = any(each.prefix_length < 8 * len(each.address) for each in items)
        is_pod = link.kind in _PAIRED_KINDS and not has_subnet
        # A bridge without ports reaches nothing, so it is not another link either.
        if is_unused and (link.kind == "bridge" or is_pod):
            self._candidates.add(ifindex)
            if items:
                self._addressed.add(ifindex)
        elif link.kind in _CONTAINER_KINDS:
            is_pair_here = inventory.other_end(link) is not None
            if has_subnet and not is_pair_here and ifindex in self._carried:
                self._others.add(ifindex)
        elif link.flags & IFF_UP or ifindex in self._carried:
            self._others.add(ifindex)


def _makes_useful(link: Link) -> tuple[int, ...]:
    """Return the links that lead further than to containers because of this one."""
    is_uplink = link.port_kind == "bridge" and link.kind not in _CONTAINER_KINDS
    found = {link.parent_ifindex, link.master_ifindex if is_uplink else 0}
    return tuple(found - {0, link.ifindex})


def _bridge_or_self(link: Link) -> int:
    """Return the bridge, bond or switch of which a link is a port; without one, the link."""
    is_port = link.master_ifindex and link.port_kind != "vrf"
    return link.master_ifindex if is_port else link.ifindex


def _is_ipv6_link_local(item: InterfaceAddress) -> bool:
    """Return whether an address is link-local IPv6, which every link has."""
    return len(item.address) == 16 and item.scope == RT_SCOPE_LINK
