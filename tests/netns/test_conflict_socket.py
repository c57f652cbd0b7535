"""The conflict socket with more addresses than the kernel's filter memory has space for."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from scapy.layers.l2 import ARP, Ether

from bench import lab
from garp_agent.guest.io.conflict_socket import ConflictSocket
from tests.netns.agent import until


@pytest.mark.parametrize("count", [1, 500, 5000])
def test_conflict_socket_with_many_addresses_hears_claims_of_the_first(
    tiny_lab: lab.TinyLab, count: int
) -> None:
    addresses = [bytes([10, number >> 8, number & 255, 1]) for number in range(count)]
    addresses6 = [b"\xfe\x80" + number.to_bytes(14, "big") for number in range(count)]
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        for _ in range(3):  # the old filter's memory is free for the next
            conflicts.listen_for([*addresses, *addresses6])
        for address in ("192.0.2.99", socket.inet_ntoa(addresses[0])):
            arp = ARP(op=1, hwsrc=lab.PEER_MAC, psrc=address, pdst=address)
            wire.send(bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=lab.PEER_MAC) / arp))
        (claim,) = until(conflicts.read, "the claim is heard")
    assert (claim.interface, claim.address) == ("eth0", addresses[0])
