"""Sends frames through one AF_PACKET socket, bound again when the link changes (packet(7)).

Decides only what an error of the kernel means.  Never blocks, retries or receives.

The socket is bound to a link's index, so a rename between two frames cannot send one out of
another link.  All links share it, because closing a packet socket makes the kernel wait for an RCU
grace period: about 10 ms, in which nothing is announced.  Binding one that receives nothing costs
microseconds.  The links share its send buffer too.  A driver that keeps frames fills it up, so a
link that finds it full (EAGAIN) gets its own socket.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno
from fcntl import ioctl
from struct import Struct

from garp_agent.guest.core.model import SendOutcome

OWN_SOCKETS = 64  # links that may have their own socket

_SIOCGIFINDEX = 0x8933  # netdevice(7)
_SOCK_PACKET = 10  # <linux/net.h>
_NAME_TO_INDEX = Struct("16si20x")  # struct ifreq

_LINK_DOWN = (errno.ENETDOWN,)
_GONE = (errno.ENXIO, errno.ENODEV)


class PacketSender:
    """Puts frames on links.  Raises PermissionError without CAP_NET_RAW, OSError as socket(2)."""

    def __init__(self) -> None:
        self._shared = _Outlet()
        self._own: dict[int, _Outlet] = {}  # by ifindex
        self._by_bytes: _BytesOutlet | None = None  # for names that are no UTF-8

    def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
        """Send one whole Ethernet frame; return the outcome and the errno (0: none).

        ``name``: the current name of the link, because the kernel binds by name.  The frame is
        sent only if that name still belongs to ``ifindex``.
        """
        outlet = self._own.get(ifindex, self._shared)
        try:
            outlet.send(ifindex, name, frame)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self._give_own_socket(ifindex)
            return _outcome(error)
        except UnicodeError:  # Python can bind to UTF-8 names only; the kernel allows any bytes
            return self._send_to_bytes(ifindex, name.encode("utf-8", "surrogateescape"), frame)
        return SendOutcome.SENT, 0

    def _send_to_bytes(self, ifindex: int, name: bytes, frame: bytes) -> tuple[SendOutcome, int]:
        try:
            if self._by_bytes is None:
                self._by_bytes = _BytesOutlet()
            self._by_bytes.send(ifindex, name, frame)
        except OSError as error:
            return _outcome(error)
        return SendOutcome.SENT, 0

    def close(self) -> None:
        """Close the sockets."""
        for outlet in (self._shared, *self._own.values()):
            outlet.close()
        if self._by_bytes is not None:
            self._by_bytes.close()

    def _give_own_socket(self, ifindex: int) -> None:
        if ifindex not in self._own and len(self._own) < OWN_SOCKETS:
            try:
                self._own[ifindex] = _Outlet()
            except OSError:
                pass  # no descriptor is left; the next frame that finds EAGAIN tries again


class _Outlet:
    """A packet socket and the link that it is bound to."""

    def __init__(self) -> None:
        # Protocol 0: the kernel queues no frame for reading.
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
        self._bound_to = 0  # the ifindex; 0: none

    def send(self, ifindex: int, name: str, frame: bytes) -> None:
        try:
            if self._bound_to != ifindex:
                self._bind(ifindex, name)
            self._socket.send(frame)
        except OSError as error:
            if error.errno in _GONE:
                self._bound_to = 0
            raise

    def close(self) -> None:
        self._socket.close()

    def _bind(self, ifindex: int, name: str) -> None:
        self._bound_to = 0
        self._socket.bind((name, 0))
        # socket.if_nametoindex() would need a descriptor, and reports no errno.
        request = _NAME_TO_INDEX.pack(self._socket.getsockname()[0].encode(), 0)
        if _NAME_TO_INDEX.unpack(ioctl(self._socket, _SIOCGIFINDEX, request))[1] != ifindex:
            raise OSError(errno.ENODEV, "the name belongs to another link now")
        self._bound_to = ifindex


class _BytesOutlet:
    """Sends on links whose names are any bytes, at most MOST of them.

    A socket of type SOCK_PACKET takes the link's name with each frame, in a struct sockaddr.  The
    kernel does not look at its family (packet_sendmsg_spkt() in net/packet/af_packet.c).  Python
    writes the bytes of a name into such a struct if it takes the socket for one of AF_UNIX.
    """

    MOST = 13  # bytes of a name, without the NUL at its end
    SA_DATA = 14  # bytes of struct sockaddr behind the family; the kernel refuses fewer

    def __init__(self) -> None:
        kind = _SOCK_PACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        packet = socket.socket(socket.AF_PACKET, kind, 0)
        self._socket = socket.socket(socket.AF_UNIX, _SOCK_PACKET, fileno=packet.detach())

    def send(self, ifindex: int, name: bytes, frame: bytes) -> None:
        if len(name) > self.MOST:
            raise OSError(errno.EILSEQ, "no socket takes this name")
        request = _NAME_TO_INDEX.pack(name, 0)
        if _NAME_TO_INDEX.unpack(ioctl(self._socket, _SIOCGIFINDEX, request))[1] != ifindex:
            raise OSError(errno.ENODEV, "the name belongs to another link now")
        # Python adds a NUL, but Python 3.6 does not.
        self._socket.sendto(frame, socket.MSG_DONTWAIT, name.ljust(self.SA_DATA, b"\0"))

    def close(self) -> None:
        self._socket.close()


def _outcome(error: OSError) -> tuple[SendOutcome, int]:
    number = error.errno or errno.EIO
    if number in _LINK_DOWN:
        return SendOutcome.LINK_DOWN, number
    if number in _GONE:
        return SendOutcome.GONE, number
    return SendOutcome.DROPPED, number


class DryRun:
    """Stands in for :class:`PacketSender`; sends nothing."""

    def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
        """Report the frame as sent."""
        return SendOutcome.SENT, 0

    def close(self) -> None:
        """Do nothing."""
