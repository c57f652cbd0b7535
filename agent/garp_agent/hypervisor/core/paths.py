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
    from garp_agent.hypervisor.core.guests import Channel

    PathOf = Callable[["Channel", frozenset[str]], "GuestPath"]

LEASE_AFTER = 60.0  # seconds without a change of the path, before a lease is promised


class GuestPath(NamedTuple):
    """How the traffic of one guest leaves this host."""

    links: frozenset[str]  # the followed links that it takes
    unfollowed: str = ""  # why a failover of this guest can be missed; "": it cannot


def behind_every_link(channel: Channel, followed: frozenset[str]) -> GuestPath:
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
        if set(self._links) - set(there):  # guests that used a link use another one now, or none
            self._changed = dict.fromkeys(there, now)
        for name, link in there.items():
            if link != self._links.get(name):
                self._changed[name] = now
        self._links, self._names = there, frozenset(there)
        return True

    def change(self, link: str | None, now: float) -> None:
        """Take in that the traffic of ``link`` may take another path; None: of all links."""
        for name in self._links if link is None else (link,):
            self._changed[name] = now

    def of(self, channel: Channel) -> GuestPath:
        """Return the path of a guest."""
        return self._path_of(channel, self._names)

    def lease_at(self, channel: Channel) -> float:
        """Return when the guest may get a lease; ``math.inf``: not while the path is like this."""
        path = self.of(channel)
        if path.unfollowed or not path.links:
            return inf
        if not all(self._links[name].carrier for name in path.links):
            return inf
        return max(self._changed[name] for name in path.links) + self._lease_after

    def refusal(self, channel: Channel, now: float) -> str:
        """Return why a guest may get no lease now, for the operator; "" if it may."""
        path = self.of(channel)
        if path.unfollowed:
            return path.unfollowed
        if not path.links:
            return "no link of its path is followed"
        for name in sorted(path.links):
            if not self._links[name].carrier:
                return f"{name} has no carrier"
        latest = max(sorted(path.links), key=self._changed.__getitem__)
        if now < self._changed[latest] + self._lease_after:
            return f"{latest} changed {now - self._changed[latest]:.0f} s ago"
        return ""
