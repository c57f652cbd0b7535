"""Two real switches and a host outside, for a hypervisor with a bond to plug into.

The switches are Linux bridges in a network namespace of their own, joined by a link;
the hypervisor's uplinks are tap devices on them, the outside host is a third, whose
frames the test writes and reads itself.  Everything ends with the descriptors.

    outside host -- switch A ==(inter-switch link)== switch B
                       |                                |
                    uplink a                         uplink b

With the guest learned behind uplink a, switch B has it behind the inter-switch link.
When uplink a dies, switch A forgets the guest but B does not: what A floods, B sends
back where it came from, and the guest is lost until it sends a frame through b.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from tests.vm.pump import PUMP
from tests.vm.wire import Frame

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
IFF_TAP = 0x2
IFF_NO_PI = 0x1000

OUTSIDE_MAC = bytes.fromhex("020000000099")
OUTSIDE_ADDRESS = "192.0.2.99"

SWITCHES = """
link add swA type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add swB type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add islA type veth peer name islB
link set islA master swA up
link set islB master swB up
link set upa master swA up
link set upb master swB up
link set outside master swA up
link set swA up
link set swB up
"""

_Result = TypeVar("_Result")


def missing() -> str:
    """Why this machine cannot have switches; empty if it can."""
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
    """The switches, the taps of the uplinks, and the host outside."""

    def __init__(self) -> None:
        self._inside = ThreadPoolExecutor(1, initializer=_enter_new_namespace)
        self.uplinks = {name: self._call(_open_tap, f"up{name}") for name in "ab"}
        self._outside = self._call(_open_tap, "outside")
        os.set_blocking(self._outside, False)
        self._call(_command, "ip", "-batch", "-", stdin=SWITCHES)
        self.heard: list[Frame] = []
        PUMP.add(self._outside, self._arrived)

    def close(self) -> None:
        """Ends all of it."""
        PUMP.remove(self._outside)
        for descriptor in (*self.uplinks.values(), self._outside):
            os.close(descriptor)
        self._inside.shutdown()

    def plug(self, uplink: str, *, into_switch: bool) -> None:
        """The switch's end of an uplink; with no carrier a switch forgets what it learned there."""
        self._call(_set_up if into_switch else _set_down, f"up{uplink}")

    def learned(self, switch: str, mac: str) -> str:
        """The port behind which a switch believes this address: a diagnosis for failures."""
        table = self._call(_command, "bridge", "fdb", "show")
        for line in table.splitlines():
            if line.startswith(mac) and f"master {switch}" in line:
                return line.split()[2]
        return ""

    def send(self, frame: bytes) -> None:
        """A frame from the outside host."""
        os.write(self._outside, frame)

    def ping(self, mac: bytes, address: str, number: int) -> None:
        """An echo request from the outside host, with no ARP before it."""
        self.send(echo_request(mac, address, number))

    def answered(self) -> dict[int, float]:
        """The numbers of the echo requests that were answered, and when the answers came."""
        replies: dict[int, float] = {}
        for frame in self.heard:
            number = echo_reply_number(frame.data)
            if number is not None:
                replies.setdefault(number, frame.at)
        return replies

    def _call(self, function: Callable[..., _Result], *arguments: str, **more: object) -> _Result:
        return self._inside.submit(function, *arguments, **more).result()

    def _arrived(self) -> None:
        while True:
            try:
                data = os.read(self._outside, 65536)
            except BlockingIOError:
                return
            self.heard.append(Frame(time.monotonic(), data))


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


def _set_up(name: str) -> None:
    _change_flags(name, lambda flags: flags | IFF_UP)


def _set_down(name: str) -> None:
    _change_flags(name, lambda flags: flags & ~IFF_UP)


def _change_flags(name: str, change: Callable[[int], int]) -> None:
    """Without a process for it, which a busy machine takes its time to start (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack_from("16sH", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), change(flags)))


def _command(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


def echo_request(mac: bytes, address: str, number: int) -> bytes:
    """An Ethernet frame with an ICMP echo request (RFC 792) from the outside host."""
    message = struct.pack("!BBHHH", 8, 0, 0, 0x6A72, number & 0xFFFF) + struct.pack("!I", number)
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(message), 0, 0, 64, 1, 0),
        IPv4Address(OUTSIDE_ADDRESS).packed,
        IPv4Address(address).packed,
    )
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return mac + OUTSIDE_MAC + b"\x08\x00" + header + message


def echo_reply_number(frame: bytes) -> int | None:
    """Which of our echo requests a frame answers."""
    if frame[:6] != OUTSIDE_MAC or frame[12:14] != b"\x08\x00" or frame[23] != 1:
        return None
    message = frame[34:]
    if message[0] != 0 or message[4:6] != b"\x6a\x72":
        return None
    number: int = struct.unpack_from("!I", message, 8)[0]
    return number


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
