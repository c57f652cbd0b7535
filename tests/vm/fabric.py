"""Two real switches and an outside host, for a hypervisor with a bond to plug into.

Switches and host are network namespaces of a lab. The hypervisor's uplinks are tap devices
in the switches.

    outside host -- switch a ==(inter-switch link, "isl")== switch b
                       |                                      |
                    uplink a                               uplink b

While the guest is behind uplink a, switch b has it behind the inter-switch link. When
uplink a dies, switch a forgets the guest but b does not: b returns what a floods, and the
guest is lost until it sends a frame through uplink b.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

from bench import lab
from tests.vm import receiver

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000  # <linux/if_tun.h>
RARP = 0x8035
GUEST_MAC, GUEST_ADDRESS = "52:54:00:00:00:01", "192.0.2.1"
OUTSIDE_MAC, OUTSIDE_ADDRESS = "02:00:00:00:00:99", "192.0.2.99"


def missing() -> str:
    """Return why this machine cannot have switches; an empty text if it can."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    return lab.why_not() or ""


class Fabric(lab.Lab):
    """The switches, the uplinks' taps, and the outside host, which pings the guest."""

    roles = ("outside", "switch-a", "switch-b")

    def __init__(self) -> None:
        self.uplinks: dict[str, int] = {}  # the taps' descriptors
        self.answered: set[int] = set()  # the numbers of the pings
        self.heard_rarp = False  # since it was last set to False
        self.pinged = GUEST_ADDRESS
        self._latest = 0
        self._sockets: list[socket.socket] = []
        super().__init__()

    def build(self) -> None:
        self.wire(
            ("outside", "eth0", "switch-a", "outside"),
            ("switch-a", "isl", "switch-b", "isl"),
        )
        for key, ports in (("a", ("isl", "outside")), ("b", ("isl",))):
            role = f"switch-{key}"
            with self.entered(role):
                self.uplinks[key] = _open_tap("uplink")
            self.bridge(role, "uplink", *ports)
            self.ip(role, *(f"link set {port} up" for port in ("uplink", *ports)))
        self.host("outside", "eth0", OUTSIDE_MAC, f"{OUTSIDE_ADDRESS}/24")
        self.know(GUEST_ADDRESS, GUEST_MAC)
        with self.entered("outside"):
            # All may ping without being root, icmp(7); the kernel then fills in the checksum.
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        icmp = self.open_socket("outside", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        rarp = self.packet_socket("outside", "eth0", RARP)
        self._sockets = [icmp, rarp]
        receiver.add(icmp.fileno(), self._read_reply)
        receiver.add(rarp.fileno(), self._read_rarp)

    def close(self) -> None:
        for each in self._sockets:
            receiver.remove(each.fileno())
            each.close()
        for descriptor in self.uplinks.values():
            os.close(descriptor)
        self._sockets, self.uplinks = [], {}
        super().close()

    def know(self, address: str, mac: str) -> None:
        """Let the outside host ask nobody for the MAC of an address."""
        self.ip("outside", f"neigh replace {address} lladdr {mac} dev eth0 nud permanent")

    def plug(self, uplink: str, *, into_switch: bool) -> None:
        """Connect or cut an uplink at the switch, which then forgets what it learned there."""
        self.ip(f"switch-{uplink}", f"link set uplink {'up' if into_switch else 'down'}")

    def forward(self, uplink: str, forwards: bool) -> None:
        """Let the switch's port of an uplink forward, or only listen, as STP does at first."""
        state = 3 if forwards else 1  # BR_STATE_FORWARDING, BR_STATE_LISTENING
        self.ip(f"switch-{uplink}", f"link set uplink type bridge_slave state {state}")

    def ping(self) -> int:
        """Send an echo request (RFC 792) from the outside host to `pinged`; return its number."""
        self._latest += 1
        request = struct.pack("!BBHHHI", 8, 0, 0, 0, self._latest & 0xFFFF, self._latest)
        self._sockets[0].sendto(request, (self.pinged, 0))
        return self._latest

    def _read_reply(self) -> None:
        (number,) = struct.unpack_from("!8xI", self._sockets[0].recv(2048))
        self.answered.add(number)

    def _read_rarp(self) -> None:
        self._sockets[1].recv(2048)
        self.heard_rarp = True


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor
