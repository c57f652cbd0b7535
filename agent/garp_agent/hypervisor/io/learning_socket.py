"""Sends learning frames on bonds (packet(7)).  Decides nothing about them; never blocks.

A socket is bound to each bond, because binding one again and again would be slower.  A frame goes
to the link that the plan was made for, whatever its name is now.  Needs CAP_NET_RAW.
"""

from __future__ import annotations

import errno
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_GONE = (errno.ENXIO, errno.ENODEV)
_FULL = (errno.EAGAIN, errno.ENOBUFS)


class NoRawFramesError(Exception):
    """The capability CAP_NET_RAW is missing."""


class LearningSocket:
    """Puts frames on bonds.  Raises NoRawFramesError, OSError as socket(2)."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}  # by ifindex of the bond
        self._spare: socket.socket | None = None
        try:
            self._spare = _sending_socket()
        except PermissionError:
            raise NoRawFramesError("learning frames need the capability CAP_NET_RAW") from None

    def send(self, ifindex: int, name: str, frames: Iterable[bytes]) -> tuple[int, int]:
        """Send whole frames until one fails; return how many were sent, and the errno (0: all).

        ``name``: of the link with this ifindex.
        """
        sent = 0
        try:
            bound = self._sockets.get(ifindex)
            if bound is None:
                bound = self._bind(ifindex, name)
            for frame in frames:
                bound.send(frame)
                sent += 1
        except OSError as error:
            number = error.errno or errno.EIO
            if number in _GONE and ifindex in self._sockets:
                self._sockets.pop(ifindex).close()
            return sent, number
        except UnicodeError:  # Python binds to UTF-8 names only; the kernel allows any bytes
            return sent, errno.EILSEQ
        return sent, 0

    def close(self) -> None:
        """Close the sockets."""
        for each in (*self._sockets.values(), self._spare):
            if each is not None:
                each.close()
        self._sockets, self._spare = {}, None

    def _bind(self, ifindex: int, name: str) -> socket.socket:
        gone = [each for each, sock in self._sockets.items() if not sock.getsockname()[0]]
        for each in gone:
            self._sockets.pop(each).close()
        bound, self._spare = self._spare or _sending_socket(), None
        try:
            bound.bind((name, 0))
            if socket.if_nametoindex(name) != ifindex:
                raise OSError(errno.ENODEV, "the name belongs to another link now")
        except BaseException:
            bound.close()
            raise
        self._sockets[ifindex] = bound
        return bound


def is_full(number: int) -> bool:
    """Return whether this errno says that a queue is full: the frame can be sent again later."""
    return number in _FULL


def _sending_socket() -> socket.socket:
    # Protocol 0: the kernel queues no frame for reading.
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_PACKET, kind, 0)
