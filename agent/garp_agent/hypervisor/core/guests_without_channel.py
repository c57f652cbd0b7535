"""The guests that the links show and that have no channel: their ports, and what these are behind.

A guest port names no guest.  libvirt does, in its status files; without them the port's own name
stands for its guest.  While the port of a guest with a channel is not known, such a port may be
that one: it is unmatched, so that no guest counts twice.  Only ports count whose frames pass a
followed link: a container behind a bridge without uplink is lost by no failover.  Decides nothing
about hints.
"""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from garp_agent.hypervisor.core.bonds import Follower

NO_CHANNEL = "no-channel"  # the state of such a guest
UNMATCHED = "unmatched"  # the state of a port that may be that of a guest with a channel


class GuestWithoutChannel(NamedTuple):
    """One guest."""

    guest: str  # its name, or that of its port
    state: str
    ports: tuple[str, ...]  # names
    behind: tuple[str, ...]  # names of the followed links of its path

    def values(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "guest": self.guest,
            "state": self.state,
            "ports": list(self.ports),
            "behind": list(self.behind),
        }


def guests_without_channel(
    follower: Follower,
    names: Mapping[str, str],
    guests: Sequence[Mapping[str, Any]],
) -> list[GuestWithoutChannel]:
    """Return the guests without channel, in the order of their names.

    ``names``: of libvirt's guests, by port.  ``guests``: those with a channel, with ``guest``,
    ``ports`` and ``behind`` (None: a port of it is not known), as the status has them.
    """
    ports = {port for guest in guests for port in guest["ports"]}
    with_channel = {guest["guest"] for guest in guests}
    named = {*names.values()}
    is_all_known = all(each["behind"] is not None or each["guest"] in named for each in guests)
    links = follower.table.links
    found: dict[str, tuple[set[str], set[str]]] = {}
    for link in links.values():
        if link.name in ports or not follower.topology.is_guest_port(link):
            continue
        guest = names.get(link.name, "")
        if guest in with_channel:
            continue
        below = follower.topology.path(link.ifindex).links
        behind = {links[each].name for each in below if follower.follows(each)}
        if behind:
            known = found.setdefault(guest or link.name, (set(), set()))
            known[0].add(link.name)
            known[1].update(behind)
    return [
        GuestWithoutChannel(
            guest,
            NO_CHANNEL if is_all_known or guest in named else UNMATCHED,
            tuple(sorted(its_ports)),
            tuple(sorted(behind)),
        )
        for guest, (its_ports, behind) in sorted(found.items())
    ]
