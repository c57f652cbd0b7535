"""Attaches a filter (wire.bpf) to a socket, or detaches it.

Source: SO_ATTACH_FILTER and SO_DETACH_FILTER, socket(7).
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno
from struct import Struct

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
SO_DETACH_FILTER = 27
_PROGRAM = Struct("HP")  # struct sock_fprog


def attach_filter(sock: socket.socket, instructions: bytes) -> None:
    """Let a socket receive only what these instructions pass; replaces its filter.

    Raises OSError as setsockopt(2) does: ENOMEM beyond net.core.optmem_max.
    """
    # In CPython, the bytes are the last member of their object: <cpython/bytesobject.h>.  The
    # module array would tell their address as well, but it loads collections: 0.4 MB.
    address = id(instructions) + bytes.__basicsize__ - 1
    program = _PROGRAM.pack(len(instructions) // 8, address)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def detach_filter(sock: socket.socket) -> None:
    """Let a socket receive all frames of its protocol.  Raises OSError as setsockopt(2) does."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # there is none
            raise
