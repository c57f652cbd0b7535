"""The path of each guest, from its MACs: its ports, the followed links, and what is not followed.

Joins hypervisor.core.guest_ports, topology and bonds; decides nothing about hints or leases.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.guest_ports import GuestPorts
from garp_agent.hypervisor.core.lease_paths import LOOKING, NO_FOLLOWED_LINK, GuestPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.hypervisor.core.bonds import Follower
    from garp_agent.hypervisor.core.guests import Guest

PORT_UNKNOWN = "its port is not known"


class GuestPaths:
    """The paths of all guests, worked out again when a link, a port or a guest has changed."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self.ports = GuestPorts(follower.table, follower.topology)
        self._paths: dict[tuple[bool, frozenset[bytes]], GuestPath] = {}
        self._version: tuple[int, int, frozenset[str]] = (-1, -1, frozenset())  # of _paths

    def path_of(self, guest: Guest, followed: frozenset[str]) -> GuestPath:
        """Return the path of a guest.

        ``followed``: names of all followed links.  A guest whose port is not known can be behind
        each of them.
        """
        version = (self._follower.table.places, self.ports.version, followed)
        if self._version != version:
            self._paths.clear()
            self._version = version
        key = (bool(guest.version), guest.macs)
        if key not in self._paths:
            self._paths[key] = self.work_out(*key, followed)
        return self._paths[key]

    def work_out(
        self, has_answered: bool, macs: frozenset[bytes], followed: frozenset[str]
    ) -> GuestPath:
        """Return the path of a guest with these MACs; ``has_answered``: its agent named them."""
        place = self.ports.place(macs)
        names = self._names(place.ports)
        if not has_answered or not place.is_settled:
            return GuestPath(followed, LOOKING, names, is_known=False)
        if not place.ports:
            return GuestPath(followed, PORT_UNKNOWN, is_known=False)
        if place.trouble:
            return GuestPath(followed, place.trouble, names, is_known=False)
        links: set[int] = set()
        reasons: set[str] = set()
        for port in place.ports:
            path = self._follower.topology.path(port)
            links |= path.links
            reasons.update(path.gaps)
            if path.ends and followed.isdisjoint(self._names(path.links)):
                reasons.add(f"{min(self._names(path.ends))} is not followed")
            missed = [each for each in path.switches if not self._follower.follows(each)]
            reasons.update(f"{name} is not followed" for name in self._names(missed))
        on_path = self._names(links) & followed
        if followed and not (on_path or reasons):  # it is in a bridge without uplink, say
            reasons.add(NO_FOLLOWED_LINK)
        return GuestPath(on_path, min(reasons, default=""), names)

    def _names(self, ifindexes: Iterable[int]) -> frozenset[str]:
        links = self._follower.table.links
        return frozenset(links[each].name for each in ifindexes if each in links)
