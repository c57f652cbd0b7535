"""Two guests with an agent each that have one address: one of them announces, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import AddressGone, AddressProbed, ClaimSeen, Kind, Resumed
from tests.guest.core.conflict_world import ETH0, MINE
from tests.world import NO_CARRIER, Agent, dump, mac, seen

STEP = 0.005  # seconds; a frame arrives in the next one
MACS = [mac("02:00:00:00:00:02"), mac("02:00:00:00:00:08")]


class Node:
    """A guest: its agent, and its kernel, which answers for the address while it has it."""

    def __init__(self, hardware_address: bytes, now: float) -> None:
        self.link = ETH0._replace(hardware_address=hardware_address)
        self.claims: list[float] = []
        self.hears_probes = True
        self.start(now)

    def start(self, now: float) -> None:
        self.agent = Agent(Settings(mac_only=False), now=now)
        self.has_it = True
        self.coming: list[Any] = list(dump(self.link, MINE))

    def last_claim(self) -> float:
        return max(self.claims, default=0.0)

    def gets(self, *events: Any) -> None:
        self.coming += events

    def flap(self) -> None:
        self.gets(*seen(self.link._replace(flags=NO_CARRIER), self.link))


class Segment:
    """Both nodes on one network, in virtual time."""

    def __init__(self, macs: list[bytes]) -> None:
        self.now = 0.0
        self.nodes = [Node(each, 0.0) for each in macs]

    def until(self, then: float) -> None:
        while self.now < then:
            self.now += STEP
            for node in self.nodes:
                events, node.coming = node.coming, []
                frames = node.agent.until(self.now)
                frames += node.agent.tell(*events) if events else []
                claims = [each.at for each in frames if each.announcement.kind is Kind.ARP_REQUEST]
                node.claims += claims
                for frame, other in product(frames, self.nodes):
                    if other is not node:
                        self._carry(frame.announcement, node, other)

    def _carry(self, frame: Any, node: Node, other: Node) -> None:
        ours, theirs = node.link.hardware_address, other.link.hardware_address
        if frame.kind is Kind.ARP_REQUEST:
            other.gets(ClaimSeen("eth0", MINE.address, ours))
        elif other.has_it and frame.asked in (b"", theirs):
            if other.hears_probes:
                other.gets(AddressProbed("eth0", MINE.address, ours))
            node.gets(ClaimSeen("eth0", MINE.address, theirs, ours))


def restart(segment: Segment, owner: Node, clone: Node) -> None:
    owner.start(segment.now)


def restart_of_the_clone(segment: Segment, owner: Node, clone: Node) -> None:
    clone.start(segment.now)


def cable(segment: Segment, owner: Node, clone: Node) -> None:
    owner.flap()


def switch(segment: Segment, owner: Node, clone: Node) -> None:
    owner.flap()
    clone.flap()


def stop(segment: Segment, owner: Node, clone: Node) -> None:
    owner.gets(Resumed(12.0))


def both_stop(segment: Segment, owner: Node, clone: Node) -> None:
    owner.gets(Resumed(12.0))
    clone.gets(Resumed(12.0))


def clone_asks_for_its_gateway(segment: Segment, owner: Node, clone: Node) -> None:
    owner.gets(ClaimSeen("eth0", MINE.address, clone.link.hardware_address))


def address_moves_and_comes_back(segment: Segment, owner: Node, clone: Node) -> None:
    owner.has_it = False
    owner.gets(AddressGone(MINE))
    segment.until(segment.now + 20.0)
    assert clone.last_claim() > segment.now - 6.0
    owner.has_it = True
    owner.gets(*seen(MINE))


@pytest.mark.parametrize("macs", [MACS, MACS[::-1]], ids=["lower", "higher"])
@pytest.mark.parametrize("settled", [20.0, 200.0])
@pytest.mark.parametrize(
    "happens",
    [
        restart,
        restart_of_the_clone,
        cable,
        switch,
        stop,
        both_stop,
        clone_asks_for_its_gateway,
        address_moves_and_comes_back,
    ],
)
def test_one_of_two_guests_that_wait_for_each_other_announces(
    happens: Callable[[Segment, Node, Node], None], settled: float, macs: list[bytes]
) -> None:
    segment = Segment(macs[:1])
    segment.until(70.0)
    segment.nodes.append(Node(macs[1], segment.now))
    owner, clone = segment.nodes
    segment.until(70.0 + settled)
    assert owner.last_claim() > segment.now - 6.0
    assert clone.claims == []
    happens(segment, owner, clone)
    since = segment.now
    segment.until(since + 120.0)
    claims = [since, *sorted(at for at in owner.claims + clone.claims if at > since), segment.now]
    assert max(after - before for before, after in zip(claims, claims[1:])) <= 6.0
    late = [any(at > since + 20.0 for at in node.claims) for node in segment.nodes]
    assert sorted(late) == [False, True]


@pytest.mark.parametrize("first", range(3))
def test_one_of_three_guests_that_start_together_announces(first: int) -> None:
    macs = [*MACS, mac("02:00:00:00:00:05")]
    segment = Segment(macs[first:] + macs[:first])
    segment.until(120.0)
    claims = [0.0, *sorted(at for node in segment.nodes for at in node.claims), segment.now]
    assert max(after - before for before, after in zip(claims, claims[1:])) <= 10.0
    assert sum(node.last_claim() > 60.0 for node in segment.nodes) == 1


@pytest.mark.parametrize("macs", [MACS, MACS[::-1]], ids=["lower", "higher"])
def test_guest_that_has_withheld_an_address_for_long_does_not_take_it(macs: list[bytes]) -> None:
    """The owner is restarted, and its agent is an older one, which hears no probes."""
    segment = Segment(macs[:1])
    segment.until(70.0)
    segment.nodes.append(Node(macs[1], segment.now))
    owner, clone = segment.nodes
    segment.until(300.0)
    owner.start(segment.now)
    owner.hears_probes = False
    segment.until(500.0)
    assert clone.claims == []


def test_probes_of_a_station_whose_address_it_is_leave_it_to_that_station() -> None:
    """A guest that starts beside the owner, which has no agent, and beside another clone."""
    segment = Segment(MACS)
    owner = mac("02:00:00:00:00:01")
    for node in segment.nodes:
        node.agent.after_frame = lambda frame, node=node: (
            [ClaimSeen("eth0", MINE.address, owner, node.link.hardware_address)]
            if frame.announcement.kind is Kind.ARP_PROBE
            and frame.announcement.asked in (b"", owner)
            else []
        )
    segment.until(200.0)
    assert [node.claims for node in segment.nodes] == [[], []]


@pytest.mark.parametrize("probes", [1, 2, 30])
def test_station_that_probes_and_then_claims_keeps_the_address(probes: int) -> None:
    segment = Segment(MACS[:1])
    (node,) = segment.nodes
    segment.until(100.0)
    rival = MACS[1]
    node.agent.after_frame = lambda frame: (
        [ClaimSeen("eth0", MINE.address, rival, node.link.hardware_address)]
        if frame.announcement.kind is Kind.ARP_PROBE
        else []
    )
    node.gets(ClaimSeen("eth0", MINE.address, rival))
    for _ in range(probes):
        segment.until(segment.now + 1.0)
        node.gets(AddressProbed("eth0", MINE.address, rival))
    node.gets(ClaimSeen("eth0", MINE.address, rival))
    segment.until(segment.now + 0.1)
    since = segment.now
    segment.until(since + 100.0)
    assert not [at for at in node.claims if at > since]
