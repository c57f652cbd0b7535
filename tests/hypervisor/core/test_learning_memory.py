"""What is remembered of the bridges' tables, for how long, and how much memory that takes."""

from __future__ import annotations

import gc
import sys
import tracemalloc

import pytest

from garp_agent.hypervisor.core import learning_memory
from garp_agent.hypervisor.core.bridge_tables import TableEntry
from garp_agent.hypervisor.core.learning_memory import OUTSIDE_LATELY, snapshot_interval
from garp_agent.hypervisor.core.link_counters import LinkCounters
from garp_agent.hypervisor.core.linkstate import BridgeOptions
from garp_agent.wire.model import IFF_UP
from tests.hypervisor.core.learning import Host, bond, bridge, guest, libvirts, port


def host_of(ports: int) -> Host:
    made = [port(20 + n, f"p{n}", 10) for n in range(ports)]
    return Host(bond(3, "bond0", 10), bridge(10, "br0"), *made)


def outside(host: Host) -> list[tuple[bytes, int, float]]:
    return [tuple(each) for each in host.memory.outside(10)]


def test_heard_address_has_the_time_of_its_last_frame() -> None:
    host = host_of(1)
    host.hear(100.0, TableEntry(guest(1), 20, 10, 4094, 7.5))
    assert list(host.memory.heard(20)) == [(guest(1), 4094, 92.5)]
    host.hear(200.0, TableEntry(guest(1), 20, 10, 4094, 1.0))
    assert list(host.memory.heard(20)) == [(guest(1), 4094, 199.0)]


def test_address_outside_is_forgotten_after_a_while() -> None:
    host = host_of(1)
    host.hear(100.0, TableEntry(guest(1), 3, 10, 5))
    host.hear(100.0 + OUTSIDE_LATELY)
    assert outside(host) == [(guest(1), 5, 100.0)]
    host.hear(101.0 + OUTSIDE_LATELY)
    assert outside(host) == []


def test_address_that_has_left_its_port_counts_as_outside_for_as_long_as_it_was_heard() -> None:
    """Where it is now, only this bridge's broadcasts would show it again."""
    host = host_of(2)
    host.hear(100.0, TableEntry(guest(1), 20, 10, 5), TableEntry(guest(2), 20, 10, 5))
    host.hear(200.0, TableEntry(guest(1), 3, 10, 5), TableEntry(guest(2), 3, 10, 6))
    host.hear(201.0 + OUTSIDE_LATELY)
    assert outside(host) == [(guest(1), 5, 200.0)]
    back = 300.0 + OUTSIDE_LATELY
    host.hear(back, TableEntry(guest(1), 21, 10, 5))
    assert outside(host) == []
    host.hear(back + 100.0, TableEntry(guest(1), 3, 10, 5))
    host.remove(21)
    host.hear(back + 101.0 + OUTSIDE_LATELY)
    assert outside(host) == [(guest(1), 5, back + 100.0)]
    host.hear(2000.0, TableEntry(guest(3), 20, 10, 5), TableEntry(guest(3), 3, 10, 5))
    host.hear(2001.0 + OUTSIDE_LATELY)
    assert (guest(3), 5, 2000.0) in outside(host)
    host.remove(20)
    host.hear(2002.0 + OUTSIDE_LATELY)
    assert outside(host) == []


def test_addresses_outside_are_limited_to_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_memory, "OUTSIDE_MOST", 2)
    host = host_of(1)
    host.hear(100.0, *(TableEntry(guest(n), 3, 10, 0, n) for n in range(4)))
    assert [each[2] for each in outside(host)] == [100.0, 99.0]


def test_bridge_or_port_that_is_gone_is_forgotten() -> None:
    host = host_of(1)
    host.hear(100.0, TableEntry(guest(1), 20, 10), TableEntry(guest(2), 3, 10))
    host.remove(20)
    host.remove(10)
    host.hear(101.0)
    assert host.memory.ports() == []
    assert outside(host) == []


def test_guest_behind_a_port_without_carrier_has_not_sent() -> None:
    """The counters of a persistent tun device stay when its QEMU ends."""
    host = Host(bridge(10, "br0"), libvirts(21, "vnet0", 10, 9)._replace(flags=IFF_UP))
    host.hear(100.0, TableEntry(guest(9), 21, 10), sent=[21])
    assert host.memory.ports() == []


@pytest.mark.parametrize(("kind", "received", "sent"), [("tun", 1, 0), ("macvtap", 0, 1)])
def test_next_guest_behind_a_port_has_not_sent_what_the_one_before_did(
    kind: str, received: int, sent: int
) -> None:
    """It can be one that arrives by migration, and still runs elsewhere."""
    host = Host(bridge(10, "br0"), port(20, "p0", 10, kind))
    memory = host.memory

    def read(received: int, sent: int) -> bool:
        memory.take([], [LinkCounters(20, received, sent)], host.table, host.topology, 100.0)
        return memory.has_sent(20)

    assert read(received, sent)
    memory.forget_port(20, (received, sent))
    assert not read(received, sent)
    assert not read(received + sent, received + sent)  # what the host has sent to the guest
    assert read(2 * received, 2 * sent)


@pytest.mark.parametrize(
    ("ageings", "seconds"),
    [((), 150), ((300,), 150), ((20, 300), 10), ((4,), 2), ((0, 300), 150), ((86400,), 150)],
)
def test_tables_are_read_before_a_bridge_forgets(ageings: tuple[int, ...], seconds: int) -> None:
    bridges = [bridge(10 + n, f"br{n}", BridgeOptions(ageing=a)) for n, a in enumerate(ageings)]
    assert snapshot_interval(Host(*bridges).table) == seconds


@pytest.mark.parametrize("ports", [1, 20, 1000])
def test_memory_of_1000_entries_is_as_small_as_the_docs_say(ports: int) -> None:
    """On one port too many: they are seen outside."""
    where = [3] if ports == 1 else range(20, 20 + ports)
    # The first host warms up the interpreter.
    for host in (host_of(ports), host_of(ports)):
        entries = [TableEntry(guest(n), where[n % len(where)], 10, 0, n / 7) for n in range(1000)]
        host.plan()  # the caches of the topology
        gc.collect()  # what was freed before must not be used again without being counted
        tracemalloc.start()
        host.hear(100.0, *entries)
        entries.clear()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    heard = sum(len(list(host.memory.heard(20 + n))) for n in range(ports))
    assert heard + len(outside(host)) == 1000
    assert taken <= (100 if sys.version_info >= (3, 11) else 106) * 1024
