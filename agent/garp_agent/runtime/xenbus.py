"""Asks xenstore through /dev/xen/xenbus, in a guest or in dom0.

Waits for each reply, for a limited time: xenstored answers within a millisecond or not at all.
Does not know what a path means.

Source: drivers/xen/xenbus/xenbus_dev_frontend.c: one open file has its own transactions, which
end with it; what is written may be any part of a request; a read returns what is there.
"""

from __future__ import annotations

import errno
import os
import select
import time

from garp_agent.wire.xenbus import (
    DEVICE,
    DIRECTORY,
    PAYLOAD_MOST,
    READ,
    decode_xenbus,
    encode_xenbus,
    path_payload,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.xenbus import XenbusReply

TIMEOUT = 0.2  # seconds for one reply
PATIENCE = 0.5  # seconds for all replies while the device is open: guests can keep xenstored busy


class Xenbus:
    """One open /dev/xen/xenbus.  All methods raise OSError; after TimeoutError it is of no use."""

    def __init__(self, path: str = DEVICE) -> None:
        """Raises FileNotFoundError where there is no Xen."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._received = b""
        self._request = 0
        self._end = time.monotonic() + PATIENCE

    def __enter__(self) -> Xenbus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the device; this ends transactions without effect."""
        os.close(self._descriptor)

    def read(self, path: str, transaction: int = 0) -> str:
        """Return a value; "" if there is none."""
        try:
            return self.ask(READ, path_payload(path), transaction).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def names(self, path: str) -> list[str]:
        """Return the names of the nodes below a path; none if it does not exist."""
        try:
            found = self.ask(DIRECTORY, path_payload(path))
        except FileNotFoundError:
            return []
        return [name for name in found.decode("utf-8", "replace").split("\0") if name]

    def ask(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        """Return the payload of the reply to one request."""
        self._request = (self._request + 1) & 0xFFFFFFFF
        os.write(self._descriptor, encode_xenbus(kind, self._request, payload, transaction))
        limit = min(time.monotonic() + TIMEOUT, self._end)
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        while True:
            reply = self._decode()
            if reply is not None and reply.request == self._request:
                if reply.error:
                    raise OSError(getattr(errno, reply.error, errno.EIO), reply.error)
                return reply.payload
            if reply is None:
                self._receive(poller, limit)

    def _decode(self) -> XenbusReply | None:
        try:
            reply, self._received = decode_xenbus(self._received)
        except ValueError as error:
            raise OSError(errno.EPROTO, str(error)) from None
        return reply

    def _receive(self, poller: select.poll, limit: float) -> None:
        left = limit - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "xenstored does not answer")
        self._received += os.read(self._descriptor, PAYLOAD_MOST)
