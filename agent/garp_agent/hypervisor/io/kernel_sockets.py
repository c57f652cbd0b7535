"""Asks the kernel for Unix sockets: which ones listen, and whether a connection was accepted.

Owns one netlink socket, which stays open: later there may be no descriptor for it.  Does not
decide which socket belongs to a guest.  The kernel answers each request during the call, so
nothing is waited for.  It shows only the sockets of the network namespace of this process.

A dump of more than one datagram can miss a socket: the kernel counts on in a list from which
another one was removed meanwhile (unix_diag_dump()).  It does not set NLM_F_DUMP_INTR then.

Sources: sock_diag(7), netlink(7); net/unix/diag.c, net/netlink/af_netlink.c.
"""

from __future__ import annotations

import errno
import os
import socket

from garp_agent.wire import rtnetlink, sock_diag
from garp_agent.wire.sock_diag import UnixSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The kernel or the sandbox of this process has no sock_diag, or none for Unix sockets.
UNAVAILABLE = (
    errno.EPROTONOSUPPORT,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
    errno.ENOENT,
    errno.EPERM,
    errno.EACCES,
)
DATAGRAM = 1 << 16  # bytes; the kernel limits a datagram of a dump to half of that
RECEIVE_BUFFER = 1 << 20  # bytes asked for; the kernel caps it at net.core.rmem_max
DATAGRAMS = 1 << 16  # after which an answer is given up


class KernelSockets:
    """The netlink socket.  Every method but :meth:`close` raises OSError if it gets no answer."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        try:
            self._open()
        except OSError:
            pass  # the first question tries again, and reports it

    def listening(self, twice: bool = False) -> list[UnixSocket]:
        """Return the listening sockets.  Raises OSError if the kernel reports only a part.

        ``twice``: ask again if one was perhaps missed.
        """
        found, datagrams = self._ask(sock_diag.dump_listening, is_dump=True)
        if twice and datagrams > 2:  # the last one ends the dump
            again, _ = self._ask(sock_diag.dump_listening, is_dump=True)
            known = {each.cookie for each in again}
            found = again + [each for each in found if each.cookie not in known]
        return found

    def is_listening(self, known: UnixSocket) -> bool:
        """Return whether a socket that listened still does."""
        try:
            found, _ = self._ask(
                lambda number: sock_diag.ask_listener(number, known.inode, known.cookie)
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return any(each.state == sock_diag.TCP_LISTEN for each in found)

    def is_accepted(self, connected: socket.SocketType) -> bool:
        """Return whether the listening process has accepted this connection."""
        inode = os.fstat(connected.fileno()).st_ino
        found, _ = self._ask(lambda number: sock_diag.ask_peer(number, inode))
        return all(each.peer != 0 for each in found)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_NETLINK, kind, sock_diag.NETLINK_SOCK_DIAG)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return self._socket

    def _ask(
        self, request: Callable[[int], bytes], is_dump: bool = False
    ) -> tuple[list[UnixSocket], int]:
        """Return the sockets in the answer, and the number of its datagrams."""
        netlink = self._open()
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        netlink.send(request(self._sequence))
        sockets: list[UnixSocket] = []
        failure = datagrams = 0
        is_complete = False
        while not is_complete:
            try:
                datagram, sender = netlink.recvfrom(DATAGRAM)
            except OSError as error:
                # EAGAIN: no more will come.  ENOBUFS, ENOMEM: a part was lost, the rest follows.
                failure = failure or error.errno or errno.EIO
                datagrams += 1
                if isinstance(error, BlockingIOError) or datagrams > DATAGRAMS:
                    break
                continue
            if sender[0] == 0:  # the port number of the kernel; others are processes
                datagrams += 1
                is_complete, number = _take(datagram, sockets)
                is_complete = is_complete or bool(sockets and not is_dump)
                failure = failure or number
        if not is_complete:
            self.close()  # what is left of this answer must not become part of the next one
        if failure:
            raise OSError(failure, os.strerror(failure))
        return sockets, datagrams


def _take(datagram: bytes, sockets: list[UnixSocket]) -> tuple[bool, int]:
    """Add the sockets of a datagram; return whether it ends the answer, and an error number."""
    try:
        messages = sock_diag.decode(datagram)
    except rtnetlink.DecodeError:
        return False, errno.EBADMSG
    is_complete, failure = False, 0
    for message in messages:
        if isinstance(message, UnixSocket):
            sockets.append(message)
        elif isinstance(message, rtnetlink.DumpInterrupted):
            failure = errno.EINTR
        else:
            is_complete, failure = True, failure or message.errno
    return is_complete, failure
