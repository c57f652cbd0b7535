"""Two real switches and an outside host, for a hypervisor with a bond to plug into.

The switches are Linux bridges in a network namespace, joined by a link. The hypervisor's
uplinks are tap devices on them; so is the outside host, whose frames the test writes and
reads itself. Everything ends with its descriptors.

    outside host -- switch A ==(inter-switch link)== switch B
                       |                                |
                    uplink a                         uplink b

While the guest is behind uplink a, switch B has it behind the inter-switch link. When
uplink a dies, switch A forgets the guest but B does not: B returns what A floods, and the
guest is lost until it sends a frame through uplink b.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from tests.vm import receiver
from tests.vm.frames import Frame, checksum

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000  # <linux/if_tun.h>
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)

OUTSIDE_MAC = bytes.fromhex("020000000099")
OUTSIDE_ADDRESS = "192.0.2.99"
PING_IDENTIFIER = 0x6A72

SWITCHES = """
link add swA up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add swB up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add islA type veth peer name islB
link set islA master swA up
link set islB master swB up
link set upa master swA up
link set upb master swB up
link set outside master swA up
"""

T = TypeVar("T")


def missing() -> str:
    """Return why this machine cannot have switches; an empty text if it can."""
    if os.geteuid():
        return "not root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    try:
        Fabric().close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no bridges in a network namespace: {error}"
    return ""


class Fabric:
    """The switches, the uplinks' taps, and the outside host."""

    def __init__(self) -> None:
        # One thread lives in the namespace; what has to happen there is done by it.
        self._inside = ThreadPoolExecutor(1, initializer=_enter_new_namespace)
        self.uplinks = {name: self._call(_open_tap, f"up{name}") for name in "ab"}
        self._outside = self._call(_open_tap, "outside")
        os.set_blocking(self._outside, False)
        self._call(_make_switches)
        self.heard: list[Frame] = []
        receiver.add(self._outside, self._read)

    def close(self) -> None:
        """End all of it."""
        receiver.remove(self._outside)
        for descriptor in (*self.uplinks.values(), self._outside):
            os.close(descriptor)
        self._inside.shutdown()

    def plug(self, uplink: str, *, into_switch: bool) -> None:
        """Connect or cut an uplink at the switch, which then forgets what it learned there."""
        self._call(_set_up, f"up{uplink}", into_switch)

    def ping(self, mac: bytes, address: str, number: int) -> None:
        """Send an echo request from the outside host, without ARP before it."""
        os.write(self._outside, echo_request(mac, address, number))

    def clear(self) -> None:
        """Forget the frames heard so far."""
        self._read()
        self.heard.clear()

    def answered(self) -> set[int]:
        """Return the numbers of the echo requests that were answered."""
        return {echo_reply_number(frame.data) for frame in self.heard} - {0}

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return self._inside.submit(function, *arguments).result()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._outside, 65536)
            except BlockingIOError:
                return
            self.heard.append(Frame(data))


def _enter_new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as setting:
        setting.write("1")  # router solicitations would teach the switches by chance


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def _make_switches() -> None:
    subprocess.run(
        ["ip", "-batch", "-"], input=SWITCHES, capture_output=True, text=True, check=True
    )


def _set_up(name: str, up: bool) -> None:
    """Change IFF_UP without a process, whose start would delay the cut on a busy machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", name.encode(), 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))


def echo_request(mac: bytes, address: str, number: int) -> bytes:
    """Build an Ethernet frame with an ICMP echo request (RFC 792) from the outside host."""

    def message(total: int) -> bytes:
        return struct.pack("!BBHHHI", 8, 0, total, PING_IDENTIFIER, number & 0xFFFF, number)

    def header(total: int) -> bytes:
        fields = (0x45, 0, 20 + len(message(0)), 0, 0, 64, 1, total)
        addresses = IPv4Address(OUTSIDE_ADDRESS).packed + IPv4Address(address).packed
        return struct.pack("!BBHHHBBH", *fields) + addresses

    ethernet = mac + OUTSIDE_MAC + b"\x08\x00"
    return ethernet + header(checksum(header(0))) + message(checksum(message(0)))


def echo_reply_number(frame: bytes) -> int:
    """Return which of our echo requests a frame answers; 0 if it answers none."""
    if frame[:6] != OUTSIDE_MAC or frame[12:14] != b"\x08\x00" or frame[23] != 1:
        return 0
    kind, identifier, number = struct.unpack_from("!BxxxH2xI", frame, 34)
    return int(number) if (kind, identifier) == (0, PING_IDENTIFIER) else 0
