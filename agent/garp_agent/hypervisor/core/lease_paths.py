"""The path of each guest out of this host, and since when nothing on it has changed.

Decides whether a guest may get a lease: only if each part of its path is followed, has carrier
and has been quiet for a while.  Until then, the path may not work: the port of a switch can
forward as late as 30 s after its carrier came (STP without PortFast).  Does not find out which
guest is behind which link: its caller does.  Knows no socket and no clock.
"""

from __future__ import annotations

from math import inf

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from garp_agent.hypervisor.core.bonds import FollowedLink
    from garp_agent.hypervisor.core.guests import Guest

    PathOf = Callable[["Guest", frozenset[str]], "GuestPath"]

LEASE_AFTER = 60.0  # seconds without a change of the path, before a lease is promised
NO_FOLLOWED_LINK = "no link of its path is followed"
LOOKING = "its port is looked for"  # GuestPath.unfollowed of a guest that has just been found


class GuestPath(NamedTuple):
    """How the traffic of one guest leaves this host."""

    links: frozenset[str]  # the followed links that it takes
    unfollowed: str = ""  # why a failover of this guest can be missed; "": it cannot
    ports: frozenset[str] = frozenset()  # the guest's, on this host
    is_known: bool = True  # False: it can also be behind other ports and links

    def is_behind(self, names: frozenset[str]) -> bool:
        """Return whether one of these links and ports is a part of it, or can be."""
        is_part = not (names.isdisjoint(self.links) and names.isdisjoint(self.ports))
        return is_part or not self.is_known


def behind_every_link(guest: Guest, followed: frozenset[str]) -> GuestPath:
    """Return the path of a guest whose port is not known: each followed link can be part of it."""
    return GuestPath(followed)


class Paths:
    """The followed links, and the guests behind each.  The caller supplies the time."""

    def __init__(self, lease_after: float, path_of: PathOf) -> None:
        """``lease_after``: seconds without a change, before a guest may get a lease.

        ``path_of``: takes a guest and the names of all followed links.
        """
        self._lease_after = lease_after
        self._path_of = path_of
        self._links: dict[str, FollowedLink] = {}
        self._names: frozenset[str] = frozenset()
        self._changed: dict[str, float] = {}  # when each link changed last
        self._latest: object = None  # what was given to follow() last

    @property
    def is_following(self) -> bool:
        """Return whether there is a followed link."""
        return bool(self._links)

    def follow(self, links: Iterable[FollowedLink], now: float) -> bool:
        """Take in the state of all followed links; return whether it has changed."""
        if links is self._latest:
            return False
        self._latest = links
        there = {link.link: link for link in links}
        if there == self._links:
            return False
        changed = [name for name, link in there.items() if link != self._links.get(name)]
        self._links, self._names = there, frozenset(there)
        self.change(changed, now)
        return True

    def change(self, names: Iterable[str] | None, now: float) -> None:
        """Take in that the traffic of these links and ports may take another path; None: of all."""
        recent = now - self._lease_after
        self._changed = {
            name: at for name, at in self._changed.items() if name in self._links or at > recent
        }
        self._changed.update(dict.fromkeys(self._links if names is None else names, now))

    def of(self, guest: Guest) -> GuestPath:
        """Return the path of a guest."""
        return self._path_of(guest, self._names)

    def lease_at(self, guest: Guest) -> float:
        """Return when the guest may get a lease; ``math.inf``: not while the path is like this."""
        path = self.of(guest)
        if path.unfollowed or not path.links:
            return inf
        if not all(self._links[name].carrier for name in path.links):
            return inf
        return self._changed_at(path) + self._lease_after

    def refusal(self, guest: Guest, now: float) -> str:
        """Return why a guest may get no lease now, for the operator; "" if it may."""
        path = self.of(guest)
        if path.unfollowed and self._links:
            return path.unfollowed
        if not path.links:
            return NO_FOLLOWED_LINK
        for name in sorted(path.links):
            if not self._links[name].carrier:
                return f"{name} has no carrier"
        since = now - self._changed_at(path)
        if since < self._lease_after:
            names = sorted(path.links | path.ports)
            latest = max(names, key=lambda name: self._changed.get(name, -inf))
            return f"{latest} changed {since:.0f} s ago"
        return ""

    def _changed_at(self, path: GuestPath) -> float:
        return max(self._changed.get(name, -inf) for name in path.links | path.ports)
