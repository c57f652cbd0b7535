"""Captures the frames of links, incoming and outgoing, and sends probes, through scapy's sockets.

The filter passes ARP, RARP and neighbour advertisements.  Does not decide what a frame means.

RFC 5227 section 2.1.1 (ARP probe), RFC 4862 section 5.4.2 (solicitation for duplicate address
detection): neither changes a neighbour cache.  The capture sees an outgoing frame where the driver
takes it, behind queueing disciplines and filters (packet(7)).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from garp_agent.diagnosis.sighting import ICMPV6, VLAN_TAGS, silence

if TYPE_CHECKING:
    from scapy.packet import Packet

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 1 << 22  # bytes

# Classic BPF (operation, jump if true, jump if false, operand), <linux/filter.h>.  Compiling text
# needs libpcap, which guests do not have.  The kernel has usually removed the outer tag.
_HALF, _BYTE, _EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_PASS, _DROP = 17, 18
FILTER = (
    (_HALF, 0, 0, 12),
    (_EQUAL, _PASS - 2, 0, 0x0806),
    (_EQUAL, _PASS - 3, 0, 0x8035),
    (_EQUAL, 2, 0, 0x8100),
    (_EQUAL, 1, 0, 0x88A8),
    (_EQUAL, 7, _DROP - 6, 0x86DD),
    (_HALF, 0, 0, 16),  # behind a tag
    (_EQUAL, _PASS - 8, 0, 0x0806),
    (_EQUAL, _PASS - 9, 0, 0x8035),
    (_EQUAL, _PASS - 10, 0, 0x8100),  # a second tag: for scapy to look into
    (_EQUAL, 0, _DROP - 11, 0x86DD),
    (_BYTE, 0, 0, 24),
    (_EQUAL, _PASS - 13, _DROP - 13, ICMPV6),
    (_BYTE, 0, 0, 20),
    (_EQUAL, 0, _DROP - 15, ICMPV6),
    (_BYTE, 0, 0, 54),
    (_EQUAL, 0, _DROP - 17, 136),
    (_RETURN, 0, 0, 0x40000),
    (_RETURN, 0, 0, 0),
)


class Frame(NamedTuple):
    """One frame as it was seen."""

    interface: str
    when: float  # seconds, wall clock, by the kernel
    data: bytes


class CaptureError(Exception):
    """Scapy does not work on this machine; the text says why."""


class Capture:
    """Listens on links.  Raises PermissionError without CAP_NET_RAW, and CaptureError."""

    def __init__(self, interfaces: Iterable[str], promiscuous: bool = False) -> None:
        conf = configured()
        self._sockets: dict[Any, str] = {}
        self.unheard: dict[str, str] = {}  # links that it cannot listen on, and why
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for interface in interfaces:
                try:
                    listening = conf.L2listen(iface=interface, promisc=promiscuous)
                except PermissionError:
                    raise
                except (OSError, ValueError) as error:  # gone, or a name that is not UTF-8
                    self.unheard[interface] = str(error)
                    continue
                self._sockets[listening] = interface
                _prepare(listening.ins)
            undo.pop_all()

    def frames(self, seconds: float | None, enough: Callable[[], bool]) -> Iterator[Frame]:
        """Yield frames as they arrive, for ``seconds`` (None: no limit), or until ``enough()``."""
        conf = configured()
        end = None if seconds is None else time.monotonic() + seconds
        while self._sockets and not enough():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            for ready in conf.L2listen.select(list(self._sockets), left):
                frame = self._receive(ready)
                if frame:
                    yield frame

    def _receive(self, ready: Any) -> Frame | None:
        interface = self._sockets[ready]
        try:
            _, data, when = ready.recv_raw()
        except OSError as error:  # the kernel says once that the link went down; it may come up
            if interface not in {name for _, name in socket.if_nameindex()}:
                self.unheard[self._sockets.pop(ready)] = str(error.strerror)
                ready.close()
            return None
        return Frame(interface, float(when), data) if data else None

    def close(self) -> None:
        """Close everything."""
        for listening in self._sockets:
            listening.close()
        self._sockets = {}

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def configured() -> Any:
    """Return scapy's configuration, with this system's sockets and Ethernet loaded.

    Raises CaptureError.
    """
    silence()
    try:
        import scapy.arch
        import scapy.layers.l2  # noqa: F401
        from scapy.config import conf
    except UnicodeDecodeError as error:  # it reads all interfaces at once
        raise CaptureError(f"scapy cannot read the name of an interface: {error}") from None

    return conf


def _prepare(listening: socket.socket) -> None:
    program = array("B", b"".join(struct.pack("=HBBI", *each) for each in FILTER))
    fprog = struct.pack("HP", len(FILTER), program.buffer_info()[0])
    listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
    with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN; the default buffer will do
        listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    # Discard frames that arrived before the filter was attached.
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.recv(1, socket.MSG_DONTWAIT)


# -- asking for other claimants -----------------------------------------------------------


def send_probes(interface: str, hardware_address: str, addresses: Collection[str]) -> None:
    """Send one probe for each address.  Raises OSError and UnicodeError."""
    sending = configured().L2socket(iface=interface, promisc=False)
    try:
        for address in addresses:
            sending.send(probe(hardware_address, address))
    finally:
        sending.close()


def probe(hardware_address: str, address: str) -> Packet:
    """Return a frame that asks which station has an address, and claims nothing."""
    silence()
    from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
    from scapy.layers.l2 import ARP, Ether
    from scapy.packet import Padding
    from scapy.utils6 import in6_getnsma, in6_getnsmac

    if ":" not in address:
        broadcast = "ff:ff:ff:ff:ff:ff"
        ask = ARP(
            op=1,
            hwsrc=hardware_address,
            psrc="0.0.0.0",
            hwdst="00:00:00:00:00:00",
            pdst=address,
        )
        return Ether(src=hardware_address, dst=broadcast) / ask / Padding(bytes(18))
    group = in6_getnsma(socket.inet_pton(socket.AF_INET6, address))
    return (
        Ether(src=hardware_address, dst=in6_getnsmac(group))
        / IPv6(src="::", dst=socket.inet_ntop(socket.AF_INET6, group), hlim=255)
        / ICMPv6ND_NS(tgt=address)
    )


def claimant(data: bytes) -> tuple[str, str] | None:
    """Return (address, hardware address) that a frame claims, or None."""
    silence()
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr
    from scapy.layers.l2 import ARP, Ether

    try:
        packet = Ether(data)
        if packet.type in VLAN_TAGS:  # another network
            return None
        if ARP in packet and packet[ARP].op in (1, 2) and packet[ARP].psrc != "0.0.0.0":
            return str(packet[ARP].psrc), str(packet[ARP].hwsrc)
        if ICMPv6ND_NA in packet:
            message = packet[ICMPv6ND_NA]
            named = ICMPv6NDOptDstLLAddr in message and message[ICMPv6NDOptDstLLAddr].lladdr
            return str(message.tgt), str(named or packet.src)
    except Exception:  # scapy raises whatever its fields raise; such a frame claims nothing
        return None
    return None
