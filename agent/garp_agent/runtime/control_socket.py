"""The control socket: lines in from local clients, replies out (unix(7)).

Decides how many clients there may be and which goes first when there are too many;
never what a line means.  Of each client one line is taken, and the next when that is
answered and the answer read: one that asks a lot, or does not read, keeps itself waiting
and nobody else.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from math import inf

from garp_agent.wire.lines import LineDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.lines import Line

MODE = 0o660
CLIENTS = 32  # at once; a newer one takes the place of the one that was silent longest
BACKLOG = 1024  # connections that may wait for their turn
CHUNK = 4096  # bytes read from one client before the next has its turn
DEAF = 1.0  # seconds for which nobody is accepted where there is not even a descriptor to refuse


class AlreadyRunningError(OSError):
    """Another agent answers on the path."""


class _Client:
    __slots__ = ("decoder", "sock", "unsent", "waiting")

    def __init__(self, sock: socket.socket, decoder: LineDecoder) -> None:
        self.sock = sock
        self.decoder = decoder
        self.unsent = b""
        self.waiting: list[Line] = []  # lines received and not yet taken


class ControlSocket:
    """A listening socket at ``path``; raises OSError where there can't be one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._spare = _spare_descriptor()
        try:
            self._epoll = select.epoll()
            self._listener = _listen(path)
        except OSError:
            os.close(self._spare)
            raise
        self._identity = _identity(path)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._clients: dict[int, _Client] = {}  # by descriptor, the longest silent first
        self._deaf_until = -inf
        self._is_deaf = False

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def attempt(self, now: float) -> None:
        """Accept again, if that was given up a while ago."""
        if not self._is_deaf:
            return
        if self._deaf_until == -inf:
            self._deaf_until = now + DEAF
        elif now >= self._deaf_until:
            self._is_deaf, self._deaf_until = False, -inf
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def read(self) -> list[tuple[int, Line]]:
        """Lines that clients sent, at most one of each, with the client to reply to."""
        lines: list[tuple[int, Line]] = []
        for descriptor, mask in self._epoll.poll(0, CLIENTS + 1):
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            client = self._clients.get(descriptor)
            if client is None:
                continue
            if mask & select.EPOLLOUT:
                self._flush(descriptor, client)
            else:
                self._receive(descriptor, client)
            if client.waiting and not client.unsent:
                lines.append((descriptor, client.waiting.pop(0)))
        return lines

    def reply(self, descriptor: int, data: bytes) -> None:
        """Send ``data`` to a client, now or as it reads; nothing if it has gone."""
        client = self._clients.get(descriptor)
        if client is not None:
            client.unsent += data
            self._flush(descriptor, client)

    def close(self) -> None:
        """Close everything and remove the path if it is still ours."""
        for descriptor in list(self._clients):
            self._drop(descriptor)
        self._epoll.close()
        self._listener.close()
        if self._spare >= 0:
            os.close(self._spare)
        if self._identity is not None and _identity(self.path) == self._identity:
            os.unlink(self.path)

    def _accept(self) -> None:
        try:
            sock = self._listener.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            self._refuse()
            return
        sock.setblocking(False)
        while len(self._clients) >= CLIENTS:
            self._drop(next(iter(self._clients)))
        self._clients[sock.fileno()] = _Client(sock, LineDecoder())
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _refuse(self) -> None:
        """Out of descriptors: answer the next client by hanging up, rather than spin on it."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            self._listener.accept()[0].close()
            self._spare = _spare_descriptor()
        except BlockingIOError:
            pass
        except OSError:
            self._epoll.unregister(self._listener.fileno())
            self._is_deaf = True

    def _receive(self, descriptor: int, client: _Client) -> None:
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(descriptor)
            return
        self._clients[descriptor] = self._clients.pop(descriptor)
        client.waiting = client.decoder.feed(data)

    def _flush(self, descriptor: int, client: _Client) -> None:
        try:
            client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(descriptor)
            return
        # Nothing is received meanwhile: neither lines nor replies can pile up.
        busy = client.unsent or client.waiting
        self._epoll.modify(descriptor, select.EPOLLOUT if busy else select.EPOLLIN)

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor)
        client.waiting.clear()
        client.sock.close()


def _spare_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _listen(path: str) -> socket.socket:
    _clear_the_way(path)
    sock = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    mask = os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.umask(0o777 & ~MODE)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _clear_the_way(path: str) -> None:
    """Remove a socket that nobody listens on any more; leave everything else alone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket is there", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise AlreadyRunningError(errno.EADDRINUSE, "another garp-agent answers there", path)
