"""The paths of guests without a daemon, for ``garp-hint list``: reads links and tables once."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from math import inf
from typing import Any

from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.bridge_tables import BRIDGE_TABLES
from garp_agent.hypervisor.core.guest_paths import GuestPaths
from garp_agent.hypervisor.core.guests import macs_in
from garp_agent.hypervisor.core.guests_without_channel import guests_without_channel
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.hypervisor.io.libvirt_cards import LibvirtCards
from garp_agent.runtime.netlink import Netlink
from garp_agent.runtime.reactor import Reactor
from garp_agent.wire.model import DumpComplete, DumpStarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.rtnetlink import Subject


def add_paths(
    guests: list[dict[str, Any]], timeout: float, status_directory: str
) -> list[dict[str, Any]]:
    """Add to guests what the watcher's status says of their paths: ``ports`` and ``behind``.

    Return the guests without channel, with the same and ``guest`` and ``state``.

    ``guests``: with their replies to ``info``.  ``timeout``: seconds for each of two dumps.
    ``status_directory``: of libvirt.  Without netlink, no path is known.
    """
    follower = Follower()
    paths = GuestPaths(follower)
    cards = LibvirtCards(status_directory).read()
    paths.ports.state((mac, port) for _, port, mac in cards)
    with suppress(OSError):  # a sandbox can forbid it
        for event in dumped(LINKS, timeout):
            follower.handle(event, 0.0)
        for event in dumped(BRIDGE_TABLES, timeout):
            if not isinstance(event, (DumpStarted, DumpComplete)):
                paths.ports.learn(event)
    macs = [macs_in(guest.get("reply", {})) for guest in guests]
    paths.ports.look_for([mac for each in macs for mac in each], -inf)
    paths.ports.has_read(0.0)  # no MAC is looked for any longer
    followed = frozenset(link.link for link in follower.followed())
    for guest, each in zip(guests, macs):
        path = paths.work_out(True, each, followed)
        guest["ports"] = sorted(path.ports)
        guest["behind"] = sorted(path.links) if path.is_known else None
    names = {card.port: card.guest for card in cards}
    return [each.values() for each in guests_without_channel(follower, names, guests)]


def dumped(subject: Subject[Any], timeout: float) -> list[Any]:
    """Return the events of one dump; those that came, if it does not end within ``timeout``."""
    end = time.monotonic() + timeout
    with closing(Netlink(inf, subject)) as netlink, closing(Reactor()) as reactor:
        events: list[Any] = netlink.reconcile(time.monotonic())
        reactor.watch(netlink, lambda now: events.extend(netlink.read(now)))
        while DumpComplete() not in events and time.monotonic() < end:
            reactor.call(reactor.wait(end), time.monotonic())
        return events
