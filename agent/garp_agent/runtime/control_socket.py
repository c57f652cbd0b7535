"""The control socket: a listening Unix socket that takes request lines from local clients.

Limits how many clients there are and how much each may ask at once; does not know what a line
means.  It takes one line of a client, and the next one after the reply is sent.  So a client that
asks without end, or does not read, delays only itself.

Source: unix(7).
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno
import fcntl
import os
import select
import stat

from garp_agent.wire.lines import LineDecoder
from garp_agent.wire.record import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.lines import Line

MODE = 0o660
CLIENTS = 32  # at once; one more takes the place of the client that was silent longest
BACKLOG = 1024  # connections that may wait to be accepted
CHUNK = 4096  # bytes read from one client before the next client's turn
ACCEPT_RETRY = 1.0  # seconds without accepting, where no descriptor is left to refuse with


class AlreadyRunningError(OSError):
    """Another daemon listens on the path."""


class _Client:
    __slots__ = ("decoder", "sock", "unsent", "waiting")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = LineDecoder()
        self.unsent = b""
        self.waiting: list[Line] = []  # lines received and not yet returned


class ControlSocket:
    """A listening socket at ``path``, made with mode 0660, and its clients.

    Raises AlreadyRunningError if another daemon listens there, and OSError if there can be no
    socket.
    """

    reply_limit = inf  # bytes: a client reads its reply, or waits for it in vain

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            text = "the file system's encoding lacks a character"
            raise OSError(errno.EINVAL, text, path) from None
        # Closed and used to accept and hang up on a client when no other descriptor is left.
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
        self._accept_at = inf  # when to accept again; inf: accepting

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def is_at(self, path: str) -> bool:
        """Return whether clients that connect to ``path`` reach this socket."""
        return self._identity is not None and _identity(path) == self._identity

    def attempt_at(self) -> float:
        """Return from when on :meth:`attempt` has something to do."""
        return self._accept_at

    def attempt(self, now: float) -> None:
        """Accept clients again if ACCEPT_RETRY has passed since descriptors ran out."""
        if now >= self._accept_at:
            self._accept_at = inf
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def read(self, now: float) -> list[tuple[int, Line]]:
        """Return lines that clients sent, at most one of each, with the client to reply to."""
        lines: list[tuple[int, Line]] = []
        for ready, mask in self._epoll.poll(0, CLIENTS + 1):
            # A new client sends at once: it is answered without waiting for another turn.
            descriptor = self._accept(now) if ready == self._listener.fileno() else ready
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

    def reply(self, client: int, data: bytes) -> None:
        """Send ``data`` to a client of :meth:`read`, now or as it reads; nothing if it has gone."""
        found = self._clients.get(client)
        if found is not None:
            found.unsent += data
            self._flush(client, found)

    def close(self) -> None:
        """Close everything, and remove the path if this socket is still what is there."""
        for descriptor in list(self._clients):
            self._drop(descriptor)
        self._epoll.close()
        self._listener.close()
        if self._spare >= 0:
            os.close(self._spare)
        try:
            with _Lock(self.path):
                if self._identity is not None and _identity(self.path) == self._identity:
                    os.unlink(self.path)
        except OSError:
            pass  # EROFS, say: the next daemon replaces a socket without a listener

    def _accept(self, now: float) -> int:
        """Return the descriptor of the new client; -1 without one."""
        try:
            descriptor = self._listener._accept()[0]  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return -1
        except OSError:
            self._refuse(now)
            return -1
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        sock.setblocking(False)
        while len(self._clients) >= CLIENTS:
            self._drop(next(iter(self._clients)))
        self._clients[sock.fileno()] = _Client(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return sock.fileno()

    def _refuse(self, now: float) -> None:
        """Hang up on the next client, because there is no descriptor to serve it with.

        A connection left in the backlog would keep the listener readable: a busy loop.
        """
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            os.close(self._listener._accept()[0])  # type: ignore[attr-defined]
            self._spare = _spare_descriptor()
        except BlockingIOError:
            pass
        except OSError:
            self._epoll.unregister(self._listener.fileno())
            self._accept_at = now + ACCEPT_RETRY

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
        except (OSError, MemoryError):  # hung up; no memory for a copy of what is left to send
            self._drop(descriptor)
            return
        # Receive nothing meanwhile, so that neither lines nor replies can pile up.
        is_busy = client.unsent or client.waiting
        self._epoll.modify(descriptor, select.EPOLLOUT if is_busy else select.EPOLLIN)

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor)
        client.waiting.clear()
        client.sock.close()


def _spare_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: no name in the file system's encoding
        return None
    return status.st_dev, status.st_ino


class _Lock:
    """Keeps other daemons from replacing or removing the socket at ``path`` at the same time.

    It is a file beside the socket, which stays: a process that removed it could remove the lock of
    another one.  Other users cannot take it, as they could take a lock on the folder (flock(2)).
    Raises AlreadyRunningError if another daemon has the lock.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path + ".lock", flags, 0o600)

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            text = "another garp-agent starts or stops there"
            raise AlreadyRunningError(errno.EADDRINUSE, text, self._path) from None

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _listen(path: str) -> socket.socket:
    mask = os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    except FileExistsError:
        pass  # no folder is there, which the next step reports
    finally:
        os.umask(mask)
    with _Lock(path):
        _remove_stale_socket(path)
        return _bind(path)


def _bind(path: str) -> socket.socket:
    sock = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    mask = os.umask(0o777 & ~MODE)  # bind() makes the socket with its mode: there is no gap
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _remove_stale_socket(path: str) -> None:
    """Remove a socket on which no process listens any more; leave everything else alone.

    Raises FileExistsError if something else is there, AlreadyRunningError if a process listens.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket is there", path)
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # EAGAIN: its backlog is full, so a process listens
    finally:
        probe.close()
    raise AlreadyRunningError(errno.EADDRINUSE, "another garp-agent answers there", path)
