"""A switch with guest, peer and rival, and stations at the rival's port that no kernel has here.

The peer sends numbered datagrams to the guest's address (`bench.prober`).  It keeps what it has
heard: its kernel does not check its neighbour entries, so only an announcement changes them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench import lab
from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, PEER_MAC, PROBE_PORT
from tests.netns.agent import believed, gratuitous, meanwhile, set_entry

SO_NO_CHECK = 11  # asm-generic/socket.h
RIVAL_MAC = "02:00:5e:00:53:66"


class Segment(lab.Lab):
    """guest, peer and rival, each with its eth0 at a switch; `receiver` gets the datagrams."""

    roles = ("guest", "peer", "rival", "switch")

    def __init__(self, receiver: str = "guest", *, ipv6: bool = False) -> None:
        self.receiver = receiver
        self.address = GUEST_ADDRESS6 if ipv6 else GUEST_ADDRESS
        self.ends: dict[str, socket.socket] = {}
        super().__init__(ipv6=ipv6)

    def build(self) -> None:
        hosts = ("guest", "peer", "rival")
        self.wire(*((role, "eth0", "switch", role) for role in hosts))
        self.ip("switch", *(f"link set {role} up" for role in hosts))
        self.bridge("switch", *hosts)
        self.host("guest", "eth0", GUEST_MAC, f"{GUEST_ADDRESS}/24")
        self.host("peer", "eth0", PEER_MAC, f"{lab.PEER_ADDRESS}/24")
        self.host("rival", "eth0", RIVAL_MAC)
        if self.ipv6:
            self.ip("peer", f"address add {lab.PEER_ADDRESS6}/64 dev eth0 nodad")
            self.ip("guest", f"address add {self.address}/64 dev eth0 nodad preferred_lft 0")
        self.wait_until_up(*self.roles)
        for family in ("ipv4", "ipv6")[: 1 + self.ipv6]:
            never = f"net.{family}.neigh.eth0.delay_first_probe_time=600"
            self.run("peer", ["sysctl", "-qw", never])
        set_entry(self, self.address, RIVAL_MAC if self.receiver == "rival" else GUEST_MAC)

    def probe_sockets(self) -> tuple[socket.socket, socket.socket]:
        """Return a socket of the peer that sends to one of the receiver."""
        # A datagram without a socket would make the sender fail, by ICMP.
        family = socket.AF_INET6 if self.ipv6 else socket.AF_INET
        self.ends = {role: self.open_socket(role, family) for role in ("guest", "rival")}
        for end in self.ends.values():
            end.bind(("", PROBE_PORT))
        sender = self.open_socket("peer", family)
        # A repeater sends a copy; the kernel would have left its checksum to the device.
        sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(not self.ipv6))
        sender.connect((self.address, PROBE_PORT))
        return sender, self.ends.pop(self.receiver)

    def close(self) -> None:
        """Close the other station's socket, too."""
        for end in self.ends.values():
            end.close()
        super().close()

    def claim(self, mac: str) -> None:
        """Let a station claim the address; return when the peer has taken the claim in."""
        self.inject(gratuitous(mac, self.address))
        end = time.monotonic() + 0.5  # the guest may announce at the same moment
        while believed(self, self.address) != mac and time.monotonic() < end:
            time.sleep(0.002)

    def inject(self, frame: Packet) -> None:
        """Send a frame from the rival's port."""
        with self.packet_socket("rival", "eth0", 0) as sock:
            sock.send(bytes(frame))


@contextmanager
def station(made: Segment, react: Callable[[Packet], Packet | None]) -> Iterator[None]:
    """Send from the rival's port what `react` returns for a frame; each frame is seen once."""
    with made.packet_socket("rival", "eth0") as sock:
        sock.settimeout(0.1)

        def step() -> None:
            with suppress(TimeoutError):
                frame, sender = sock.recvfrom(2048)
                if sender[2] != socket.PACKET_OUTGOING and (answer := react(Ether(frame))):
                    sock.send(bytes(answer))

        with meanwhile(step):
            yield


def answer_all(packet: Packet) -> Packet | None:
    if ARP not in packet or packet[ARP].op != 1 or packet[ARP].psrc == packet[ARP].pdst:
        return None
    asked = packet[ARP]
    arp = ARP(op=2, hwsrc=RIVAL_MAC, psrc=asked.pdst, hwdst=asked.hwsrc, pdst=asked.psrc)
    return Ether(src=RIVAL_MAC, dst=packet.src) / arp


def repeat(packet: Packet) -> Packet | None:
    """Return the guest's broadcast, or what the peer sends to the repeater for the guest."""
    if packet.src == GUEST_MAC and packet.dst == "ff:ff:ff:ff:ff:ff":
        if ARP in packet:
            packet[ARP].hwsrc = RIVAL_MAC
    elif packet.dst == RIVAL_MAC:
        packet.dst = GUEST_MAC
    else:
        return None
    packet.src = RIVAL_MAC
    return packet
