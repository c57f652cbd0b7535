"""The hypervisor's stream of links as the running kernel gives it, overruns included."""

from __future__ import annotations

import select
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

import pytest

from bench import lab
from garp_agent.hypervisor.core.linkstate import LINKS, LinkSnapshot
from garp_agent.hypervisor.daemon import RECONCILE
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import Event, Observation

PATIENCE = 30.0


@pytest.fixture
def links(tiny_lab: lab.TinyLab) -> Iterator[Netlink[Observation]]:
    with lab.entered(tiny_lab.namespace("guest")):
        events = Netlink(RECONCILE, LINKS)
    yield events
    events.close()


def until(links: Netlink[Observation], wanted: type, now: float = 0.0) -> list[Event]:
    """What arrives, up to the first of the wanted kind and what came along with it."""
    found: list[Event] = []
    while not any(isinstance(event, wanted) for event in found):
        assert select.select([links], [], [], PATIENCE)[0], f"no {wanted.__name__} came"
        found += links.read(now)
    return found


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, LinkSnapshot)]


def test_the_stream_begins_with_all_there_are(links: Netlink[Observation]) -> None:
    assert links.deadline() == -inf
    assert links.reconcile(100.0) == [DumpStarted(False)]
    found = until(links, DumpComplete)
    assert sorted(names(found)) == ["eth0", "lo"]
    assert found[-1] == DumpComplete()
    assert links.deadline() == 100.0 + RECONCILE
    assert links.reconcile(100.0 + RECONCILE - 1) == []
    assert links.reconcile(100.0 + RECONCILE) == [DumpStarted(False)]
    assert sorted(names(until(links, DumpComplete))) == ["eth0", "lo"]


def test_links_change_come_and_go(tiny_lab: lab.TinyLab, links: Netlink[Observation]) -> None:
    links.reconcile(0.0)
    until(links, DumpComplete)
    tiny_lab.ip("guest", "link add br0 type bridge", "link set eth0 master br0")
    found: list[Event] = []
    while not any(isinstance(each, LinkSnapshot) and each.port_kind == "bridge" for each in found):
        found += until(links, LinkSnapshot)
    [bridge, *_] = [each for each in found if isinstance(each, LinkSnapshot)]
    assert (bridge.name, bridge.kind) == ("br0", "bridge")
    tiny_lab.ip("peer", "link set eth0 down")
    while not any(isinstance(each, LinkSnapshot) and not each.has_carrier for each in found[-1:]):
        found += until(links, LinkSnapshot)
    tiny_lab.ip("guest", "link delete br0")
    assert LinkGone(bridge.ifindex) in until(links, LinkGone)


def test_after_an_overrun_everything_is_told_anew(
    tiny_lab: lab.TinyLab, links: Netlink[Observation]
) -> None:
    links.reconcile(0.0)
    until(links, DumpComplete)
    tiny_lab.ip("guest", *(f"link set eth0 mtu {1400 + n % 2}" for n in range(4000)))
    tiny_lab.ip("guest", "link add late type bridge")
    found = until(links, DumpComplete)
    start = max(n for n, event in enumerate(found) if isinstance(event, DumpStarted))
    assert found[start] == DumpStarted(True)
    assert {"eth0", "lo", "late"} <= set(names(found[start:]))
    assert links.malformed == 0


def test_an_overrun_during_a_dump_makes_another_one(
    tiny_lab: lab.TinyLab, links: Netlink[Observation]
) -> None:
    links.reconcile(0.0)
    tiny_lab.ip("guest", *(f"link set eth0 mtu {1400 + n % 2}" for n in range(4000)))
    found = until(links, DumpComplete)
    assert found.count(DumpComplete()) == 1
    assert DumpStarted(True) in found
