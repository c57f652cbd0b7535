"""The watcher's link table, fed by the running kernel; tests/runtime/test_netlink.py has more."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from bench import lab
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import DumpComplete, DumpStarted

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkEvent, LinkMessage

PATIENCE = 30.0


class Listener:
    """A table that is kept up to date."""

    def __init__(self, guest: lab.TinyLab) -> None:
        with lab.entered(guest.namespace("guest")):
            self.netlink: Netlink[LinkMessage] = Netlink(300.0, LINKS)
        self.table = LinkTable()
        self.events: list[LinkEvent] = []
        self.take(self.netlink.reconcile(0.0))

    def take(self, events: list[LinkEvent]) -> None:
        self.events += events
        for event in events:
            self.table.apply(event)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert select.select([self.netlink], [], [], PATIENCE)[0], "no message came"
            self.take(self.netlink.read(0.0))

    def names(self) -> set[str]:
        return {link.name for link in self.table.links.values()}

    def carries(self, name: str) -> bool:
        return any(link.name == name and link.has_carrier for link in self.table.links.values())


@pytest.fixture
def listener(tiny_lab: lab.TinyLab) -> Iterator[Listener]:
    found = Listener(tiny_lab)
    yield found
    found.netlink.close()


def test_table_follows_links_that_change_appear_and_go(
    tiny_lab: lab.TinyLab, listener: Listener
) -> None:
    listener.until(lambda: listener.events[-1] == DumpComplete())
    assert listener.names() == {"eth0", "lo"}
    assert listener.carries("eth0")
    tiny_lab.ip("guest", "link add br0 type bridge", "link set eth0 master br0")
    listener.until(
        lambda: any(each.port_kind == "bridge" for each in listener.table.links.values())
    )
    [bridge] = [each for each in listener.table.links.values() if each.kind == "bridge"]
    assert [port.name for port in listener.table.ports(bridge.ifindex)] == ["eth0"]
    tiny_lab.ip("peer", "link set eth0 down")
    listener.until(lambda: not listener.carries("eth0"))
    tiny_lab.ip("guest", "link delete br0")
    listener.until(lambda: listener.names() == {"eth0", "lo"})


def test_table_after_overruns_equals_a_new_table(tiny_lab: lab.TinyLab, listener: Listener) -> None:
    hidden = (
        ("link add one type bridge", "link set eth0 down"),  # in the first dump
        ("link delete one", "link add two type bridge", "link set eth0 up"),
    )
    for changes in hidden:
        tiny_lab.ip("guest", *(f"link set eth0 mtu {1400 + n % 2}" for n in range(4000)), *changes)
        listener.events.clear()
        listener.until(lambda: DumpComplete() in listener.events)
        assert DumpStarted(True) in listener.events
    listener.until(lambda: listener.carries("eth0"))
    fresh = Listener(tiny_lab)
    fresh.until(lambda: DumpComplete() in fresh.events)
    fresh.netlink.close()
    assert listener.table.links == fresh.table.links
    assert listener.names() == {"eth0", "lo", "two"}
    assert listener.netlink.malformed == 0
