"""What the links of a guest mean to one another: which of them lead to containers only.

Looks at the whole inventory, and keeps what it found, so that a change costs no more with 2,000
links.  Decides nothing else about a link; policy makes the plan.

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

# Pairs of links, of which one end is in a container; and taps, which lead to a nested guest.
_PAIRED_KINDS = ("veth", "netkit")
_CONTAINER_KINDS = (*_PAIRED_KINDS, "tun")


class Relations:
    """Which links lead to containers or nested guests only, folded from changes.

    A bridge does whose ports are all veths or taps (docker0), and a veth without any address
    but link-local IPv6 (Calico's cali*).  But the only link of a container is a veth, too.  So this
    counts only where another link is up, which is none of these.  A link below a VLAN or macvlan
    is in use itself.
    """

    __slots__ = ("_below", "_candidates", "_others", "_uses")

    def __init__(self) -> None:
        self._candidates: set[int] = set()  # links that lead to containers if there are others
        self._others: set[int] = set()  # links by which the guest reaches its own network
        self._below: dict[int, tuple[int, ...]] = {}  # by link: the links that it makes useful
        self._uses: dict[int, int] = {}  # by link: how many links make it useful

    def leads_to_containers(self, ifindex: int) -> bool:
        """Return whether the link leads to containers or nested guests only."""
        return ifindex in self._candidates and bool(self._others)

    def update(self, inventory: Inventory, changed: Iterable[int]) -> set[int]:
        """Take in changed links; return them and the links that other answers follow for."""
        had_others = bool(self._others)
        affected = set(changed)
        for ifindex in tuple(affected):
            affected |= self._count_uses(ifindex, inventory.links.get(ifindex))
        for ifindex in affected:
            self._classify(ifindex, inventory)
        if bool(self._others) != had_others:
            affected |= self._candidates
        return affected

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
        self._candidates.discard(ifindex)
        self._others.discard(ifindex)
        link = inventory.links.get(ifindex)
        if link is None or nature_skip(link) is not None:
            return
        is_unused = ifindex not in self._uses
        # A bridge without ports reaches nothing, so it is not another link either.
        if is_unused and (link.kind == "bridge" or _is_pod(link, inventory.addresses(ifindex))):
            self._candidates.add(ifindex)
        elif link.flags & IFF_UP:
            self._others.add(ifindex)


def _makes_useful(link: Link) -> tuple[int, ...]:
    """Return the links that lead further than to containers because of this one."""
    is_uplink = link.port_kind == "bridge" and link.kind not in _CONTAINER_KINDS
    found = {link.parent_ifindex, link.master_ifindex if is_uplink else 0}
    return tuple(found - {0, link.ifindex})


def _is_pod(link: Link, addresses: Iterable[InterfaceAddress]) -> bool:
    """Return whether the link looks like the host's end of a container's link."""
    return link.kind in _PAIRED_KINDS and all(
        len(each.address) == 16 and each.scope == RT_SCOPE_LINK for each in addresses
    )
