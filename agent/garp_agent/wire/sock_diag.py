"""The format of sock_diag for Unix sockets: builds requests, decodes the kernel's answers.

Does not decide which sockets are asked for, or what an answer means.  Framing and errors are
those of every netlink family (wire.rtnetlink).  Names are raw bytes: a user may bind any name,
with line breaks in it.  A file is given as the kernel knows it: the device of its file system,
and the lower 32 bits of its inode number.

Sources: sock_diag(7), unix(7); <linux/sock_diag.h>, <linux/unix_diag.h>; net/unix/diag.c.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.rtnetlink import ControlMessage

NETLINK_SOCK_DIAG = 4  # the netlink family
SOCK_DIAG_BY_FAMILY = 20  # the only message type, of requests and of answers

UNIX_DIAG_NAME = 0
UNIX_DIAG_VFS = 1
UNIX_DIAG_PEER = 2

STREAM = 1  # SOCK_STREAM
TCP_LISTEN = 10  # Unix sockets use the states of TCP

_SHOW_NAME = 0x01
_SHOW_VFS = 0x02
_SHOW_PEER = 0x04
_SHOW_LISTENER = _SHOW_NAME | _SHOW_VFS
_ANY = 0xFFFFFFFF  # all states
_NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE, twice

_AF_UNIX = 1
_REQUEST = Struct("=BBHIII8s")  # unix_diag_req: family, protocol, pad, states, inode, show, cookie
_SOCKET = Struct("=BBBBI8s")  # unix_diag_msg: family, type, state, pad, inode, cookie
_FILE = Struct("=II")  # unix_diag_vfs: inode, device
_U32 = Struct("=I")


class SocketFile(NamedTuple):
    """The file that a socket is bound to."""

    major: int  # of the device of its file system
    minor: int
    inode: int  # the lower 32 bits


class UnixSocket(NamedTuple):
    """One socket of this network namespace."""

    inode: int  # of the socket itself; fstat(2) gives it for a descriptor
    cookie: bytes  # no other socket has ever had it
    kind: int  # SOCK_*
    state: int  # TCP_*
    name: bytes = b""  # as it was bound; an abstract name begins with a zero byte; b"": none
    file: SocketFile | None = None
    peer: int | None = None  # inode of the other end, 0: not accepted yet; None: not connected


def dump_listening(sequence: int) -> bytes:
    """Return the request for all listening sockets: their names and files."""
    return _request(sequence, 1 << TCP_LISTEN, 0, _SHOW_LISTENER, _NO_COOKIE, rtnetlink.NLM_F_DUMP)


def ask_listener(sequence: int, inode: int, cookie: bytes) -> bytes:
    """Return the request for one socket, as a dump shows it; ENOENT or ESTALE: it is closed."""
    return _request(sequence, _ANY, inode, _SHOW_LISTENER, cookie)


def ask_peer(sequence: int, inode: int) -> bytes:
    """Return the request for the other end of one socket."""
    return _request(sequence, _ANY, inode, _SHOW_PEER, _NO_COOKIE)


def decode(datagram: bytes) -> list[UnixSocket | ControlMessage]:
    """Return the sockets and control messages of one datagram.  Raises rtnetlink.DecodeError."""
    return rtnetlink.decode({SOCK_DIAG_BY_FAMILY: _socket_in}, datagram)


def _request(
    sequence: int, states: int, inode: int, show: int, cookie: bytes, flags: int = 0
) -> bytes:
    body = _REQUEST.pack(_AF_UNIX, 0, 0, states, inode, show, cookie)
    return rtnetlink.request(SOCK_DIAG_BY_FAMILY, sequence, body, flags)


def _socket_in(data: bytes, start: int, end: int, dumped: bool) -> tuple[UnixSocket, ...]:
    if end - start < _SOCKET.size:
        raise rtnetlink.DecodeError(f"body has {end - start} bytes; must have {_SOCKET.size}")
    family, kind, state, _pad, inode, cookie = _SOCKET.unpack_from(data, start)
    if family != _AF_UNIX:
        return ()
    name, file, peer = b"", None, None
    for number, value in rtnetlink.attributes(data, start + _SOCKET.size, end):
        if number == UNIX_DIAG_NAME:
            name = value
        elif number == UNIX_DIAG_VFS:
            file = _file(value)
        elif number == UNIX_DIAG_PEER:
            peer = rtnetlink.u32({number: value}, number)
    return (UnixSocket(inode, cookie, kind, state, name, file, peer),)


def _file(value: bytes) -> SocketFile:
    rtnetlink.integer(_FILE, UNIX_DIAG_VFS, value)  # raises if it is too short
    inode, device = _FILE.unpack_from(value)
    # The kernel's own form of a device number, MKDEV(): 12 bits for the major, 20 for the minor.
    return SocketFile(device >> 20, device & 0xFFFFF, inode)
