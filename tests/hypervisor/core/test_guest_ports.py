"""Guests found behind ports: by the ports' addresses and by what the bridges have learnt."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core import bridge_tables
from garp_agent.hypervisor.core.bridge_tables import LearntAddress
from garp_agent.hypervisor.core.guest_ports import LEARNT_MOST, SETTLE, GuestPlace, GuestPorts
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LinkReport, LinkSnapshot
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, LinkGone
from garp_agent.wire.rtnetlink import DecodeError
from tests import golden
from tests.world import mac, property_settings

UP = IFF_UP | IFF_LOWER_UP
BR0 = LinkSnapshot(10, "br0", UP, 0, "bridge")
BOND0 = LinkSnapshot(3, "bond0", UP, 10, "bond", "bridge")
GUEST, OTHER = mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02")
TAP = LinkSnapshot(20, "vnet0", UP, 10, "tun", "bridge", hardware_address=b"\xfe" + GUEST[1:])
PLAIN = TAP._replace(ifindex=21, name="tap0", hardware_address=mac("4a:00:00:00:00:01"))
MACVTAP = LinkSnapshot(22, "macvtap0", UP, 0, "macvtap", hardware_address=GUEST, lower_ifindex=3)


class Ports:
    """The ports of a host with these links."""

    def __init__(self, *links: LinkSnapshot) -> None:
        self.table = LinkTable()
        for link in links:
            self.table.apply(LinkReport(link))
        self.found = GuestPorts(self.table, Topology(self.table))

    def learn(self, hardware_address: bytes, *ports: int) -> None:
        for port in ports:
            self.found.learn(LearntAddress(hardware_address, port))

    def of(self, *macs: bytes) -> list[int]:
        return sorted(self.found.place(macs).ports)


@pytest.mark.skipif(sys.byteorder == "big", reason="the golden datagrams are little-endian")
def test_decode_recorded_table_gives_what_was_learnt() -> None:
    found = bridge_tables.decode(golden.read("topology/bridge-table"))
    assert found == [LearntAddress(mac("52:54:00:00:00:60"), 38)]


@pytest.mark.skipif(sys.byteorder == "big", reason="the golden datagrams are little-endian")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0700000026000000 0200 0000", "0200000026000000 0200 0000"),  # an ARP entry
        ("0700000026000000 0200 0000", "0700000026000000 8000 0000"),  # permanent
        ("0700000026000000 0200 0000", "0700000026000000 0200 0200"),  # of a vxlan itself
        ("0700000026000000 0200 0000", "0700000026000000 0200 1000"),  # by a control plane
        ("0a000200 525400000060", "0a000300 525400000060"),  # without address
        ("08000900 25000000", "08000a00 25000000"),  # in no bridge
    ],
)
def test_decode_skips_entries_that_no_bridge_has_learnt(old: str, new: str) -> None:
    table = golden.read("topology/bridge-table")
    changed = table.replace(bytes.fromhex(old), bytes.fromhex(new))
    assert changed != table
    assert bridge_tables.decode(changed) == []


def test_decode_entry_that_is_cut_short_is_refused() -> None:
    with pytest.raises(DecodeError, match="body has 0 bytes"):
        bridge_tables.decode(bytes.fromhex("10000000 1c00 0000 00000000 00000000"))


@pytest.mark.parametrize(
    ("links", "learnt", "ports"),
    [
        ((BR0, TAP, PLAIN), {}, [20]),
        ((BR0, MACVTAP), {}, [22]),
        ((BR0, TAP, MACVTAP), {}, [20, 22]),
        ((BR0, TAP._replace(kind="veth")), {}, []),  # fe there is by chance
        ((BR0, PLAIN), {GUEST: 21}, [21]),
        ((BR0, PLAIN), {OTHER: 21}, []),
        ((BR0, PLAIN, BOND0), {GUEST: 3}, []),  # on an uplink: the guest of another host
        ((BR0, PLAIN), {GUEST: 99}, []),
        ((BR0, TAP, PLAIN), {GUEST: 21}, [20, 21]),  # a forged frame removes no port
        ((TAP._replace(master_ifindex=0, port_kind=""),), {}, []),
    ],
)
def test_guest_is_found_by_its_mac(
    links: tuple[LinkSnapshot, ...], learnt: dict[bytes, int], ports: list[int]
) -> None:
    host = Ports(*links)
    host.found.look_for([GUEST], 0.0)
    for address, port in learnt.items():
        host.learn(address, port)
    host.found.has_read(0.0)
    assert host.of(GUEST) == ports
    assert host.found.place([GUEST]).is_settled is bool(ports)


def test_port_that_libvirt_states_is_known_while_it_does() -> None:
    """Also if somebody else has made the tap, with an address of its own."""
    host = Ports(BR0, PLAIN, MACVTAP._replace(hardware_address=OTHER))
    host.found.look_for([GUEST], 0.0)
    host.found.state([(GUEST, "tap0"), (OTHER, "vnet9"), (GUEST, "br0")])
    assert host.found.place([GUEST]) == GuestPlace(frozenset({21}), "", True)
    host.table.apply(LinkReport(PLAIN._replace(name="tap1")))
    assert host.of(GUEST) == []
    host.found.state([(GUEST, "tap1"), (GUEST, "macvtap0")])
    assert host.of(GUEST) == [21, 22]
    version = host.found.version
    host.found.state([(GUEST, "macvtap0"), (GUEST, "tap1")])
    assert host.found.version == version
    host.found.state([])
    assert host.of(GUEST) == []


def test_learnt_port_is_known_until_it_is_gone() -> None:
    """Also while it is in no bridge: a network restart."""
    host = Ports(BR0, PLAIN)
    host.learn(GUEST, 21)
    host.table.apply(LinkReport(PLAIN._replace(master_ifindex=0, port_kind="")))
    assert host.of(GUEST) == [21]
    host.table.apply(LinkGone(21))
    assert host.of(GUEST) == []
    host.table.apply(LinkReport(PLAIN))
    assert host.of(GUEST) == []


def test_addresses_that_one_port_makes_up_are_limited() -> None:
    host = Ports(BR0, TAP, PLAIN)
    for n in range(1000):
        host.learn(bytes((2, 0, 0, 0, *n.to_bytes(2, "big"))), 21)
    found = [n for n in range(1000) if host.of(bytes((2, 0, 0, 0, *n.to_bytes(2, "big"))))]
    assert found == list(range(LEARNT_MOST))
    host.learn(OTHER, 20)
    assert host.of(OTHER) == [20]


def test_mac_that_stays_unknown_is_missing_and_not_looked_for_any_longer() -> None:
    host = Ports(BR0, TAP)
    ports, missing = frozenset({20}), "52:54:00:00:00:02 is behind no known port"
    assert not host.found.is_looking
    assert host.found.place([GUEST, OTHER]) == GuestPlace(ports, missing, False)
    host.found.look_for([GUEST, OTHER], 100.0)
    for read_at, settled in ((100.0, False), (100.0 + SETTLE - 1, False), (100.0 + SETTLE, True)):
        host.found.look_for([GUEST, OTHER], read_at)
        assert host.found.is_looking
        host.found.has_read(read_at)
        assert host.found.is_looking is not settled
        assert host.found.place([GUEST, OTHER]) == GuestPlace(ports, missing, settled)
    assert host.found.place([OTHER]) == GuestPlace(frozenset(), missing, True)


def test_mac_that_is_found_or_of_no_guest_is_not_looked_for() -> None:
    host = Ports(BR0, PLAIN)
    host.found.look_for([GUEST, OTHER], 100.0)
    host.learn(GUEST, 21)
    host.found.has_read(100.5)
    host.found.look_for([GUEST], 101.0)
    assert not host.found.is_looking
    host.found.look_for([OTHER], 102.0)
    assert host.found.is_looking
    host.found.look_for([], 103.0)
    assert not host.found.is_looking


def test_mac_that_was_learnt_before_its_guest_named_it_is_looked_for_again() -> None:
    """The port of a card can serve another guest now, and the guest be behind another port."""
    host = Ports(BR0, PLAIN, PLAIN._replace(ifindex=23, name="tap1"))
    host.learn(GUEST, 21)
    host.found.has_read(10.0)
    for since in (20.0, 40.0):
        assert host.found.place([GUEST]) == GuestPlace(frozenset({21}), "", False)
        host.found.look_for([GUEST], since)
        assert host.found.is_looking
        host.found.has_read(since + 1)
        assert not host.found.is_looking
        assert host.found.place([GUEST]) == GuestPlace(frozenset({21}), "", True)
        host.found.look_for([], since + 2)  # the guest was started anew


@pytest.mark.parametrize("guest_port", [TAP, PLAIN])
def test_mac_that_the_bridge_of_its_port_learnt_on_an_uplink_is_outside_until_a_dump_ends_that(
    guest_port: LinkSnapshot,
) -> None:
    """Another bridge on the same segment learns each of its broadcasts on an uplink."""
    other = [
        BR0._replace(ifindex=11, name="br1"),
        BOND0._replace(ifindex=4, name="bond1", master_ifindex=11),
    ]
    host = Ports(BR0, BOND0, guest_port, *other)
    host.found.look_for([GUEST], 0.0)
    if guest_port is PLAIN:
        host.learn(GUEST, 21)
    for n, (learnt, trouble) in enumerate(
        [(4, ""), (3, "br0 receives frames of 52:54:00:00:00:01 from outside"), (4, "")]
    ):
        host.learn(GUEST, learnt)
        host.found.has_read(float(n))
        assert host.found.place([GUEST]).trouble == trouble


@given(st.integers(0, 1 << 32))
@property_settings(60)
def test_any_order_of_links_gives_the_same_ports(seed: int) -> None:
    """What the tables say comes after the links that it names, as in the daemon."""
    rng = random.Random(seed)
    links = [BR0, BOND0, TAP, PLAIN, MACVTAP, PLAIN._replace(ifindex=23, name="tap1")]
    learnt = [(GUEST, 21), (OTHER, 23), (OTHER, 21), (OTHER, 3)]
    first, second = Ports(*links), Ports()
    for entry in learnt:
        first.learn(*entry)
    rng.shuffle(links)
    rng.shuffle(learnt)
    for link in links:
        second.table.apply(LinkReport(link._replace(kind="", master_ifindex=rng.choice([0, 10]))))
        second.of(GUEST)
    for link in rng.sample(links, len(links)):
        second.table.apply(LinkReport(link))
        second.of(GUEST)
    for entry in learnt:
        second.learn(*entry)
    assert (second.of(GUEST), second.of(OTHER)) == (first.of(GUEST), first.of(OTHER))
    assert first.of(GUEST) == [20, 21, 22]
    assert first.of(OTHER) == [21, 23]
