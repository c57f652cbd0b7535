"""The claim sockets with more addresses than the kernel has room for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.layers.l2 import ARP, Ether

from bench import lab
from garp_agent.guest.io.conflict_socket import ConflictSocket
from tests.netns.agent import until


@pytest.fixture
def claims(tiny_lab: lab.TinyLab) -> Iterator[ConflictSocket]:
    with tiny_lab.entered("guest"):
        made = ConflictSocket()
    yield made
    made.close()


@pytest.mark.parametrize("count", [1, 500, 5000])
def test_the_first_addresses_are_watched_however_many_there_are(
    tiny_lab: lab.TinyLab, claims: ConflictSocket, count: int
) -> None:
    addresses = [bytes([10, number >> 8, number & 255, 1]) for number in range(count)]
    addresses6 = [b"\xfe\x80" + number.to_bytes(14, "big") for number in range(count)]
    for _ in range(3):  # the last filter never stands in the way of the next
        claims.listen_for([*addresses, *addresses6])
    wire = tiny_lab.packet_socket("peer", "eth0")
    for address in ("192.0.2.99", socket.inet_ntoa(addresses[0])):
        frame = Ether(dst="ff:ff:ff:ff:ff:ff", src=lab.PEER_MAC)
        wire.send(bytes(frame / ARP(op=1, hwsrc=lab.PEER_MAC, psrc=address, pdst=address)))
    wire.close()
    (claim,) = until(claims.read, "the claim is heard")
    assert (claim.interface, claim.address) == ("eth0", addresses[0])
