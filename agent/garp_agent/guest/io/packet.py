"""Sends frames through one AF_PACKET socket, bound anew where the link changes (packet(7)).

Decides only what an error of the kernel means.  Never blocks, never retries, and
receives nothing.

A socket is bound to a link's index, so a rename between two frames can't send one
out of another link.  One socket for all links, because closing one makes the kernel
wait for a grace period (10 ms in which nothing else is announced); binding one that
receives nothing costs microseconds.  Its send buffer is common too: a link whose driver
keeps frames uses it up, so a link that meets it full gets a socket of its own.
"""

from __future__ import annotations

import errno
import socket
from fcntl import ioctl
from struct import Struct

from garp_agent.guest.core.model import SendOutcome

SET_APART = 64  # links that may have a socket of their own

_SIOCGIFINDEX = 0x8933  # netdevice(7)
_NAME_TO_INDEX = Struct("16si20x")  # struct ifreq

_LINK_DOWN = (errno.ENETDOWN,)
_GONE = (errno.ENXIO, errno.ENODEV)


class PacketSender:
    """Puts frames on links; raises PermissionError where that is not allowed (CAP_NET_RAW)."""

    def __init__(self) -> None:
        self._common = _Outlet()
        self._own: dict[int, _Outlet] = {}  # by ifindex, of the links set apart

    def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
        """Send one whole Ethernet frame; the errno is 0 when it was taken.

        ``name`` is what the link is called now: the kernel binds by name, and what it
        bound is compared with ``ifindex``.
        """
        outlet = self._own.get(ifindex, self._common)
        try:
            outlet.send(ifindex, name, frame)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self._set_apart(ifindex)
            return _outcome(error)
        except UnicodeError:  # Python names links in UTF-8 only; the kernel takes any bytes
            return SendOutcome.DROPPED, errno.EILSEQ
        return SendOutcome.SENT, 0

    def close(self) -> None:
        """Close the sockets."""
        for outlet in (self._common, *self._own.values()):
            outlet.close()

    def _set_apart(self, ifindex: int) -> None:
        if ifindex not in self._own and len(self._own) < SET_APART:
            try:
                self._own[ifindex] = _Outlet()
            except OSError:
                pass  # out of descriptors; there will be another frame


class _Outlet:
    """A socket and the link that it is bound to."""

    def __init__(self) -> None:
        # Protocol 0: nothing is ever queued for reading.
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
        # socket.if_nametoindex() would need a descriptor, and tells no errno.
        request = _NAME_TO_INDEX.pack(self._socket.getsockname()[0].encode(), 0)
        if _NAME_TO_INDEX.unpack(ioctl(self._socket, _SIOCGIFINDEX, request))[1] != ifindex:
            raise OSError(errno.ENODEV, "the name belongs to another link now")
        self._bound_to = ifindex


def _outcome(error: OSError) -> tuple[SendOutcome, int]:
    number = error.errno or errno.EIO
    if number in _LINK_DOWN:
        return SendOutcome.LINK_DOWN, number
    if number in _GONE:
        return SendOutcome.GONE, number
    return SendOutcome.DROPPED, number


class DryRun:
    """Takes frames and sends none."""

    def send(self, ifindex: int, name: str, frame: bytes) -> tuple[SendOutcome, int]:
        """Say that the frame was taken."""
        return SendOutcome.SENT, 0

    def close(self) -> None:
        """Nothing to close."""
