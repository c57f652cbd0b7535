"""Captures the frames of links, incoming and outgoing, and sends probes, through packet sockets.

The filter passes ARP, RARP and neighbour advertisements.  Does not decide what a frame means.

RFC 5227 section 2.1.1 (ARP probe), RFC 4862 section 5.4.2 (solicitation for duplicate address
detection): neither changes a neighbour cache.  The capture sees an outgoing frame where the driver
takes it, behind queueing disciplines and filters.

Sources: packet(7), socket(7), <linux/if_packet.h>.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from types import TracebackType
from typing import NamedTuple

from garp_agent.diagnosis.sighting import ICMPV6, advertisement, arp_packet, ethernet
from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import Announcement, Cause, Kind
from garp_agent.runtime.socket_filter import attach_filter
from garp_agent.wire.bpf import JUMP_IF_EQUAL, LOAD_BYTE, LOAD_HALF, PASS, assembled

SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
SO_TIMESTAMPNS = 35
RECEIVE_BUFFER = 1 << 22  # bytes
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_AUXDATA = 1, 8
FRAME_MOST = 1 << 18  # bytes; segmentation by the card makes frames longer than the MTU
_PROMISCUOUS = Struct("iHH8x")  # struct packet_mreq: ifindex, PACKET_MR_PROMISC (1), length
_AUXDATA = Struct("=IIIHHHH")  # struct tpacket_auxdata
_HAS_TAG, _HAS_TAG_TYPE = 1 << 4, 1 << 6  # TP_STATUS_VLAN_VALID, _VLAN_TPID_VALID
_TIME = Struct("@ll")  # struct timespec
_VLAN_TAG = Struct("!HH")

# (operation, jump if true, jump if false, operand); the kernel has usually removed the outer tag.
_LAST = 17
_OUT = _LAST + 1
FILTER = (
    (LOAD_HALF, 0, 0, 12),
    (JUMP_IF_EQUAL, _LAST - 2, 0, 0x0806),
    (JUMP_IF_EQUAL, _LAST - 3, 0, 0x8035),
    (JUMP_IF_EQUAL, 2, 0, 0x8100),
    (JUMP_IF_EQUAL, 1, 0, 0x88A8),
    (JUMP_IF_EQUAL, 7, _OUT - 6, 0x86DD),
    (LOAD_HALF, 0, 0, 16),  # behind a tag
    (JUMP_IF_EQUAL, _LAST - 8, 0, 0x0806),
    (JUMP_IF_EQUAL, _LAST - 9, 0, 0x8035),
    (JUMP_IF_EQUAL, _LAST - 10, 0, 0x8100),  # a second tag: for the reader to look into
    (JUMP_IF_EQUAL, 0, _OUT - 11, 0x86DD),
    (LOAD_BYTE, 0, 0, 24),
    (JUMP_IF_EQUAL, _LAST - 13, _OUT - 13, ICMPV6),
    (LOAD_BYTE, 0, 0, 20),
    (JUMP_IF_EQUAL, 0, _OUT - 15, ICMPV6),
    (LOAD_BYTE, 0, 0, 54),
    (JUMP_IF_EQUAL, 0, _OUT - 17, 136),
    PASS,
)  # what reaches its end is dropped


class Frame(NamedTuple):
    """One frame as it was seen."""

    interface: str
    when: float  # seconds, wall clock, by the kernel
    data: bytes


class Capture:
    """Listens on links.  Raises PermissionError without CAP_NET_RAW."""

    def __init__(self, interfaces: Iterable[str], promiscuous: bool = False) -> None:
        self._sockets: dict[socket.socket, str] = {}
        self.unheard: dict[str, str] = {}  # links that it cannot listen on, and why
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for interface in interfaces:
                try:
                    self._sockets[_listening_on(interface, promiscuous)] = interface
                except PermissionError:
                    raise
                except (OSError, ValueError) as error:  # gone, or a name that is not UTF-8
                    self.unheard[interface] = str(error)
            undo.pop_all()

    def frames(self, seconds: float | None, enough: Callable[[], bool]) -> Iterator[Frame]:
        """Yield frames as they arrive, for ``seconds`` (None: no limit), or until ``enough()``."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._sockets and not enough():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            for ready in select.select(list(self._sockets), [], [], left)[0]:
                frame = self._receive(ready)
                if frame:
                    yield frame

    def _receive(self, ready: socket.socket) -> Frame | None:
        interface = self._sockets[ready]
        try:
            data, notes, _flags, _source = ready.recvmsg(FRAME_MOST, 256, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:  # the kernel says once that the link went down; it may come up
            if interface not in {name for _, name in socket.if_nameindex()}:
                self.unheard[self._sockets.pop(ready)] = str(error.strerror)
                ready.close()
            return None
        told = {(level, kind): value for level, kind, value in notes}
        return Frame(interface, _time_in(told), _with_tag(data, told)) if data else None

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


def _listening_on(interface: str, promiscuous: bool) -> socket.socket:
    """Return a socket for the frames of a link; none arrives before the filter is attached."""
    listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        attach_filter(listening, assembled(FILTER))
        listening.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN; the default buffer will do
            listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        if promiscuous:
            membership = _PROMISCUOUS.pack(socket.if_nametoindex(interface), 1, 0)
            listening.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        listening.bind((interface, ETH_P_ALL))
    except BaseException:
        listening.close()
        raise
    return listening


def _time_in(told: dict[tuple[int, int], bytes]) -> float:
    try:
        seconds, nanoseconds = _TIME.unpack(told.get((socket.SOL_SOCKET, SO_TIMESTAMPNS), b""))
    except struct.error:
        return time.time()
    return float(seconds + nanoseconds / 1e9)


def _with_tag(data: bytes, told: dict[tuple[int, int], bytes]) -> bytes:
    """Return a frame with the tag that the kernel has taken out of it."""
    try:
        status, *_, control, kind = _AUXDATA.unpack(told.get((SOL_PACKET, PACKET_AUXDATA), b""))
    except struct.error:
        return data
    if not status & _HAS_TAG:
        return data
    tag = _VLAN_TAG.pack(kind if status & _HAS_TAG_TYPE else 0x8100, control)
    return data[:12] + tag + data[12:]


# -- asking for other claimants -----------------------------------------------------------


def send_probe(interface: str, hardware_address: str, address: str) -> bytes:
    """Send a probe for an address; return its frame.  Raises OSError and UnicodeError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sending:
        sending.bind((interface, 0))
        frame = probe(hardware_address, address)
        sending.send(frame)
    return frame


def probe(hardware_address: str, address: str) -> bytes:
    """Return a frame that asks which station has an address, and claims nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = Kind.DAD_PROBE if family == socket.AF_INET6 else Kind.ARP_PROBE
    mac = bytes.fromhex(hardware_address.replace(":", ""))
    return encode(Announcement(0, kind, mac, socket.inet_pton(family, address), Cause.OPERATOR))


def claimant(data: bytes) -> tuple[str, str] | None:
    """Return (address, hardware address) that a frame claims, or None."""
    frame = ethernet(data)
    if frame is None or data[12:14] in (b"\x81\x00", b"\x88\xa8"):
        return None  # another network
    arp = arp_packet(frame)
    if arp and arp.opcode in (1, 2) and arp.sender_address != "0.0.0.0":
        return arp.sender_address, arp.sender
    message = advertisement(frame)
    if message is None:
        return None
    target = socket.inet_ntop(socket.AF_INET6, message.target)
    return target, message.option or frame.source
