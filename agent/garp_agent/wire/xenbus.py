"""Messages to xenstore, the small database of a Xen host, as /dev/xen/xenbus carries them.

Encodes requests and decodes replies; opens no device.  A path or a value ends a message, and so
needs no length of its own.

Source: xen/include/public/io/xs_wire.h; docs/misc/xenstore.txt.
"""

from __future__ import annotations

import struct

from garp_agent.wire.record import NamedTuple

DEVICE = "/dev/xen/xenbus"
DIRECTORY, READ, TRANSACTION_START, TRANSACTION_END, WRITE, ERROR = 1, 2, 6, 7, 11, 16
COMMIT = b"T\0"  # payload of TRANSACTION_END
PAYLOAD_MOST = 4096  # bytes, XENSTORE_PAYLOAD_MAX
_HEADER = struct.Struct("=IIII")  # struct xsd_sockmsg, in the byte order of the machine


class XenbusReply(NamedTuple):
    """A reply to one request."""

    kind: int  # that of the request, or ERROR
    request: int  # number of the request
    payload: bytes

    @property
    def error(self) -> str:
        """The name of an error number, such as "ENOENT"; "" for success."""
        name = self.payload.rstrip(b"\0") if self.kind == ERROR else b""
        return name.decode("ascii", "replace")


def encode_xenbus(kind: int, request: int, payload: bytes, transaction: int = 0) -> bytes:
    """Return a request.  ``request``: a number for its reply; ``transaction``: 0 for none."""
    return _HEADER.pack(kind, request, transaction, len(payload)) + payload


def path_payload(path: str) -> bytes:
    """Return the payload of DIRECTORY and READ."""
    return path.encode() + b"\0"


def decode_xenbus(data: bytes) -> tuple[XenbusReply | None, bytes]:
    """Return the first reply in ``data``, None if it is not complete, and the bytes behind it.

    Raises ValueError for a length that the protocol does not allow.
    """
    if len(data) < _HEADER.size:
        return None, data
    kind, request, _, length = _HEADER.unpack_from(data)
    if length > PAYLOAD_MOST:
        raise ValueError(f"a reply of {length} bytes; allowed: {PAYLOAD_MOST}")
    end = _HEADER.size + length
    if len(data) < end:
        return None, data
    return XenbusReply(kind, request, data[_HEADER.size : end]), data[end:]
