"""The segment of `bench.outages` loses the guest by a claim, and gets it back by a frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from bench.outages import FORGED_MAC
from bench.segment import RIVAL_MAC, Segment, repeat, station
from tests.netns.agent import LIMIT, believed, gratuitous, wait_until_believed


@pytest.fixture
def segment(labs: None) -> Iterator[Segment]:
    with Segment() as made:
        yield made


def announce(segment: Segment) -> None:
    with segment.packet_socket("guest", "eth0", 0) as sock:
        sock.send(bytes(gratuitous(GUEST_MAC)))


def test_claim_takes_the_traffic_until_the_guest_announces(segment: Segment) -> None:
    sender, receiver = segment.probe_sockets()
    receiver.settimeout(LIMIT)
    with sender, receiver:
        sender.send(b"before")
        assert receiver.recv(64) == b"before"
        segment.claim(FORGED_MAC)
        assert believed(segment, GUEST_ADDRESS) == FORGED_MAC
        sender.send(b"lost")
        announce(segment)
        wait_until_believed(segment, GUEST_ADDRESS)
        sender.send(b"after")
        assert receiver.recv(64) == b"after"


def test_repeater_gets_the_traffic_and_forwards_it(segment: Segment) -> None:
    sender, receiver = segment.probe_sockets()
    receiver.settimeout(LIMIT)
    with sender, receiver, station(segment, repeat):
        announce(segment)
        wait_until_believed(segment, GUEST_ADDRESS, RIVAL_MAC)
        sender.send(b"repeated")
        assert receiver.recv(64) == b"repeated"
