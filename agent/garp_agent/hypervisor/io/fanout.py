"""Carries out many calls at once over Unix sockets; a slow peer does not delay the others.

Decides in which order sockets are connected, written and read, and when a call has expired.  Does
not decide what is said (hypervisor.core.exchange) or to which guests.

On a Unix socket connect and send either succeed or fail at once; therefore both are done for all
calls first, and only then the sockets are watched for replies.  While the backlog of a listener
is full (EAGAIN), connecting is retried until the call expires.  Calls beyond the limit on open
descriptors wait until others have ended.

A path of more than 107 bytes does not fit into an address; such a socket is reached through
/proc/self/fd.

Sources: unix(7), connect(2).
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
from itertools import repeat
from math import inf
from socket import SocketType

from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.io.kernel_sockets import KernelSockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 1.0  # seconds until a call without a reply expires
RECONNECT = 0.02  # seconds between attempts to connect while the backlog is full
BATCH = 256  # sockets handled in one call of read()
CHUNK = 16384  # bytes read from one socket in one call of read()
DESCRIPTORS = 65536  # the limit asked for, if the administrator allows as many
SPARE_DESCRIPTORS = 64  # kept for the rest of the process

_UNIX = int(socket.AF_UNIX)
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_OUTCOMES = {
    errno.ENOENT: Outcome.GONE,
    errno.ECONNREFUSED: Outcome.GONE,
    errno.ENOTDIR: Outcome.GONE,
    errno.EACCES: Outcome.FORBIDDEN,
    errno.EPERM: Outcome.FORBIDDEN,
    errno.EPIPE: Outcome.HUNG_UP,
    errno.ECONNRESET: Outcome.HUNG_UP,
}


class _OpenCall:
    """A call with a connected socket."""

    __slots__ = ("call", "expires", "sock", "started")

    def __init__(self, call: Call, sock: SocketType, started: float, expires: float) -> None:
        self.call = call
        self.sock = sock
        self.started = started
        self.expires = expires


class Fanout:
    """The calls under way.  The caller supplies the time."""

    def __init__(self, timeout: float = TIMEOUT, most: int = 0) -> None:
        """``timeout``: seconds for one call.  ``most``: open sockets; 0: as many as allowed."""
        self.timeout = timeout
        self.most = most or _raise_descriptor_limit()
        self._epoll = select.epoll()
        self._sockets = KernelSockets()
        self._open: dict[int, _OpenCall] = {}  # by descriptor; the first to expire first
        self._refused: list[tuple[Call, float]] = []  # the backlog was full; with their starts
        self._reconnect_at = inf
        self._waiting: list[Call] = []  # for a descriptor

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        """Return the number of calls that have no result yet."""
        return len(self._open) + len(self._refused) + len(self._waiting)

    def deadline(self) -> float:
        """Return when :meth:`advance` must be called at the latest."""
        first = next(iter(self._open.values()), None)
        return min(first.expires if first else inf, self._reconnect_at)

    def start(self, calls: Iterable[Call], now: float) -> list[Result]:
        """Start calls; return the results that are known at once."""
        results: list[Result] = []
        self._begin(zip(calls, repeat(now)), now, results)
        return results

    def cancel(self, paths: set[str]) -> None:
        """End the calls to these sockets without a result."""
        for opened in list(self._open.values()):
            if opened.call.path in paths:
                self._hang_up(opened)
        self._refused = [entry for entry in self._refused if entry[0].path not in paths]
        self._waiting = [call for call in self._waiting if call.path not in paths]

    def read(self, now: float) -> list[Result]:
        """Receive and send on at most BATCH sockets that are ready; return the calls that ended."""
        results: list[Result] = []
        for descriptor, mask in self._epoll.poll(0, BATCH):
            opened = self._open[descriptor]
            try:
                outcome = self._receive(opened) if mask & ~select.EPOLLOUT else None
                if outcome is None:
                    self._send(opened)
            except OSError as error:
                self._hang_up(opened)
                results.append(_failed(opened.call, error, now - opened.started))
                continue
            if outcome is None:
                self._epoll.modify(descriptor, _interest(opened))
            else:
                self._hang_up(opened)
                results.append(Result(opened.call, outcome, now - opened.started))
        if results:
            self._begin_waiting(now, results)
        return results

    def advance(self, now: float) -> list[Result]:
        """End the calls that have expired, and retry those that could not begin."""
        results: list[Result] = []
        self._expire(now, results)
        if now >= self._reconnect_at:
            entries, self._refused, self._reconnect_at = self._refused, [], inf
            for call, started in entries:
                if now >= started + self.timeout:
                    results.append(Result(call, Outcome.BUSY, now - started))
            late = now - self.timeout
            self._begin([entry for entry in entries if entry[1] > late], now, results)
        self._begin_waiting(now, results)
        return results

    def close(self) -> None:
        """Close all sockets."""
        for opened in list(self._open.values()):
            self._hang_up(opened)
        self._epoll.close()
        self._sockets.close()

    # -- beginning ----------------------------------------------------------------------

    def _begin(
        self, entries: Iterable[tuple[Call, float]], now: float, results: list[Result]
    ) -> None:
        # Up to the last send() only what it needs: a guest that is hinted waits for it.
        begun: list[tuple[Call, float, SocketType, int]] = []
        free = self.most - len(self._open)
        for call, started in entries:
            if len(begun) >= free:
                self._waiting.append(call)
                continue
            try:
                sock, sent = _connect_and_send(call.path, call.exchange.outgoing)
            except BlockingIOError:
                self._refused.append((call, started))
                self._reconnect_at = min(self._reconnect_at, now + RECONNECT)
            except OSError as error:
                # Without another call under way, no descriptor would become free: give up.
                if error.errno in _OUT_OF_DESCRIPTORS and (begun or self._open):
                    self._waiting.append(call)
                else:
                    results.append(_failed(call, error, now - started))
            else:
                begun.append((call, started, sock, sent))
        for call, started, sock, sent in begun:
            call.exchange.outgoing = call.exchange.outgoing[sent:]
            opened = _OpenCall(call, sock, started, now + self.timeout)
            self._open[sock.fileno()] = opened
            self._epoll.register(sock.fileno(), _interest(opened))

    def _begin_waiting(self, now: float, results: list[Result]) -> None:
        free = max(0, self.most - len(self._open))
        calls, self._waiting = self._waiting[:free], self._waiting[free:]
        self._begin(zip(calls, repeat(now)), now, results)

    # -- sending and receiving ----------------------------------------------------------

    def _send(self, opened: _OpenCall) -> None:
        exchange = opened.call.exchange
        if exchange.outgoing:
            exchange.outgoing = exchange.outgoing[_send_some(opened.sock, exchange.outgoing) :]

    def _receive(self, opened: _OpenCall) -> Outcome | None:
        try:
            data = opened.sock.recv(CHUNK)
        except BlockingIOError:
            return None
        return opened.call.exchange.received(data)

    # -- ending -------------------------------------------------------------------------

    def _expire(self, now: float, results: list[Result]) -> None:
        expired: list[_OpenCall] = []
        for opened in self._open.values():
            if now < opened.expires:
                break
            expired.append(opened)
        for opened in expired:
            outcome = opened.call.exchange.expired()
            if outcome is Outcome.NO_AGENT and not self._is_accepted(opened):
                outcome = Outcome.BUSY
            self._hang_up(opened)
            results.append(Result(opened.call, outcome, now - opened.started))

    def _is_accepted(self, opened: _OpenCall) -> bool:
        """Return whether QEMU accepted the connection; if not, it waits for another client."""
        try:
            return self._sockets.is_accepted(opened.sock)
        except OSError:
            return True  # the kernel does not say

    def _hang_up(self, opened: _OpenCall) -> None:
        del self._open[opened.sock.fileno()]
        opened.sock.close()  # the kernel takes a closed socket out of the epoll set


def _connect_and_send(path: str, data: bytes) -> tuple[SocketType, int]:
    """Return a connected socket, and how many bytes the kernel took."""
    sock = SocketType(_UNIX, _STREAM)  # without the methods that Python adds
    try:
        try:
            sock.connect(path)
        except OSError as error:
            if error.errno is not None:
                raise
            _connect_far(sock, path)  # the path does not fit into an address, Python says
        return sock, _send_some(sock, data)
    except OSError:
        sock.close()
        raise


def _send_some(sock: SocketType, data: bytes) -> int:
    """Return how many bytes the kernel took."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def _connect_far(sock: SocketType, path: str) -> None:
    """Connect to a path that does not fit into an address."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _interest(opened: _OpenCall) -> int:
    return select.EPOLLIN | (select.EPOLLOUT if opened.call.exchange.outgoing else 0)


def _failed(call: Call, error: OSError, seconds: float) -> Result:
    number = error.errno or errno.EIO
    return Result(call, _OUTCOMES.get(number, Outcome.FAILED), seconds, number)


def _raise_descriptor_limit() -> int:
    """Raise the soft limit on descriptors as far as allowed; return how many sockets that makes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # a sandbox forbids it; then more calls wait
    return max(1, (DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - SPARE_DESCRIPTORS)
