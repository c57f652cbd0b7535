"""The conflict socket with more addresses than the kernel's filter memory has space for."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether

from bench import lab
from garp_agent.guest.io.conflict_socket import ConflictSocket
from tests.netns.agent import until
from tests.world import ip


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


@pytest.mark.parametrize(
    ("tag", "heard"),
    [("", True), ("81000000", True), ("8100e000", True), ("81000005", False), ("8100e005", False)],
    ids=["untagged", "VLAN 0", "priority only", "VLAN 5", "VLAN 5 with priority"],
)
def test_claim_in_vlan_without_interface_is_not_received(
    tiny_lab: lab.TinyLab, tag: str, heard: bool
) -> None:
    ours, last, ours6 = "192.0.2.10", "192.0.2.11", "2001:db8::10"
    arp = Ether(dst="ff:ff:ff:ff:ff:ff", src=lab.PEER_MAC) / ARP(hwsrc=lab.PEER_MAC, psrc=ours)
    advertisement = (
        Ether(dst="33:33:00:00:00:01", src=lab.PEER_MAC)
        / IPv6(src=ours6, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=ours6, S=0, O=1)
    )
    found: set[bytes] = set()
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        conflicts.listen_for([ip(ours), ip(last), ip(ours6)])
        for frame in map(bytes, (advertisement, arp)):
            wire.send(frame[:12] + bytes.fromhex(tag) + frame[12:])
        # An untagged claim comes last: when it has arrived, those before it have, too.
        arp.psrc = last
        wire.send(bytes(arp))
        while ip(last) not in found:
            found |= {claim.address for claim in until(conflicts.read, "the last claim arrives")}
    assert len(found) == (3 if heard else 1)
