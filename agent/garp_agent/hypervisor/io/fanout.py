"""Many conversations at once over Unix sockets; one that is stuck delays no other.

Decides in which order sockets are connected, written and read, and when one has had
its time.  Never decides what is said (:mod:`garp_agent.hypervisor.core.exchange`) or to whom.
Connect and send come first for all, because on a Unix socket both end at once one way
or the other; only then are they watched.  A full backlog (EAGAIN) is tried again until
the time is up.  No more sockets are open at once than descriptors allow: the rest wait.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
from math import inf

from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.io.channels import queued_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 1.0  # seconds that a guest has to answer
RECONNECT = 0.02  # seconds between attempts while the backlog is full
BATCH = 256  # sockets handled before the loop gets its turn again
CHUNK = 16384  # bytes read from one socket before the next has its turn
DESCRIPTORS = 65536  # no more are asked for
SPARE_DESCRIPTORS = 64  # left to everything else in the process

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Line:
    """A call under way."""

    __slots__ = ("call", "expires", "sock", "started")

    def __init__(self, call: Call, sock: socket.socket, started: float, expires: float) -> None:
        self.call = call
        self.sock = sock
        self.started = started
        self.expires = expires


class Fanout:
    """Carries out calls; hand it ``now`` as you would a loop's engine."""

    def __init__(self, timeout: float = TIMEOUT, most: int = 0) -> None:
        """``most`` sockets at once; 0: as many as the process may have."""
        self.timeout = timeout
        self.most = most or _raise_descriptor_limit()
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}  # by descriptor; the first to expire first
        self._crowded: list[tuple[Call, float]] = []  # with their starts: the backlog was full
        self._reconnect_at = inf
        self._waiting: list[Call] = []  # for a descriptor

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._lines) + len(self._crowded) + len(self._waiting)

    def deadline(self) -> float:
        """When to call :meth:`advance` at the latest."""
        first = next(iter(self._lines.values()), None)
        return min(first.expires if first else inf, self._reconnect_at)

    def start(self, calls: Iterable[Call], now: float) -> list[Result]:
        """Begin; the results are those that are known at once."""
        results: list[Result] = []
        self._begin([(call, now) for call in calls], now, results)
        return results

    def cancel(self, paths: set[str]) -> None:
        """Hang up on these, without a result: something more important is to be said."""
        for line in list(self._lines.values()):
            if line.call.path in paths:
                self._hang_up(line)
        self._crowded = [entry for entry in self._crowded if entry[0].path not in paths]
        self._waiting = [call for call in self._waiting if call.path not in paths]

    def read(self, now: float) -> list[Result]:
        """Go on where sockets are ready, a bounded batch of them."""
        results: list[Result] = []
        for descriptor, mask in self._epoll.poll(0, BATCH):
            line = self._lines[descriptor]
            try:
                outcome = self._receive(line) if mask & ~select.EPOLLOUT else None
                if outcome is None:
                    self._send(line)
            except OSError as error:
                self._hang_up(line)
                results.append(_failed(line.call, error, now - line.started))
                continue
            if outcome is None:
                self._epoll.modify(descriptor, _interest(line))
            else:
                self._hang_up(line)
                results.append(Result(line.call, outcome, now - line.started))
        if results:
            self._begin_waiting(now, results)
        return results

    def advance(self, now: float) -> list[Result]:
        """End what has had its time, and try again what could not begin."""
        results: list[Result] = []
        self._expire(now, results)
        if now >= self._reconnect_at:
            entries, self._crowded, self._reconnect_at = self._crowded, [], inf
            for call, started in entries:
                if now >= started + self.timeout:
                    results.append(Result(call, Outcome.BUSY, now - started))
            late = now - self.timeout
            self._begin([entry for entry in entries if entry[1] > late], now, results)
        self._begin_waiting(now, results)
        return results

    def close(self) -> None:
        """Hang up on everybody."""
        for line in list(self._lines.values()):
            self._hang_up(line)
        self._epoll.close()

    # -- beginning ----------------------------------------------------------------------

    def _begin(self, entries: list[tuple[Call, float]], now: float, results: list[Result]) -> None:
        begun: list[_Line] = []
        for call, started in entries:
            if len(self._lines) + len(begun) >= self.most:
                self._waiting.append(call)
                continue
            try:
                line = self._connect(call, started, now + self.timeout)
            except BlockingIOError:
                self._crowded.append((call, started))
                self._reconnect_at = min(self._reconnect_at, now + RECONNECT)
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS and (begun or self._lines):
                    self._waiting.append(call)
                else:
                    results.append(_failed(call, error, now - started))
            else:
                begun.append(line)
        for line in begun:
            self._lines[line.sock.fileno()] = line
            self._epoll.register(line.sock.fileno(), _interest(line))

    def _connect(self, call: Call, started: float, expires: float) -> _Line:
        sock = socket.socket(socket.AF_UNIX, _STREAM)
        line = _Line(call, sock, started, expires)
        try:
            sock.connect(call.path)
            self._send(line)
        except OSError:
            sock.close()
            raise
        return line

    def _begin_waiting(self, now: float, results: list[Result]) -> None:
        room = max(0, self.most - len(self._lines))
        calls, self._waiting = self._waiting[:room], self._waiting[room:]
        self._begin([(call, now) for call in calls], now, results)

    # -- going on -----------------------------------------------------------------------

    def _send(self, line: _Line) -> None:
        conversation = line.call.conversation
        if conversation.outgoing:
            try:
                sent = line.sock.send(conversation.outgoing)
            except BlockingIOError:
                return
            conversation.outgoing = conversation.outgoing[sent:]

    def _receive(self, line: _Line) -> Outcome | None:
        try:
            data = line.sock.recv(CHUNK)
        except BlockingIOError:
            return None
        return line.call.conversation.received(data)

    # -- ending -------------------------------------------------------------------------

    def _expire(self, now: float, results: list[Result]) -> None:
        expired: list[_Line] = []
        for line in self._lines.values():
            if now < line.expires:
                break
            expired.append(line)
        # Who is still in the backlog waits for another client to leave; ask before hanging up.
        queued = queued_paths() if expired else set()
        for line in expired:
            self._hang_up(line)
            outcome = line.call.conversation.expired()
            if outcome is Outcome.NO_AGENT and line.call.path in queued:
                outcome = Outcome.BUSY
            results.append(Result(line.call, outcome, now - line.started))

    def _hang_up(self, line: _Line) -> None:
        del self._lines[line.sock.fileno()]
        line.sock.close()  # which also takes it out of the epoll set


def _interest(line: _Line) -> int:
    return select.EPOLLIN | (select.EPOLLOUT if line.call.conversation.outgoing else 0)


def _failed(call: Call, error: OSError, seconds: float) -> Result:
    number = error.errno or errno.ENAMETOOLONG  # the one that Python finds by itself
    return Result(call, _MEANING.get(number, Outcome.FAILED), seconds, number)


def _raise_descriptor_limit() -> int:
    """Allow ourselves what the administrator allows; how many sockets that makes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # forbidden by a sandbox: with fewer at once the rest wait
    return max(1, (DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - SPARE_DESCRIPTORS)


_MEANING = {
    errno.ENOENT: Outcome.GONE,
    errno.ECONNREFUSED: Outcome.GONE,
    errno.ENOTDIR: Outcome.GONE,
    errno.EACCES: Outcome.FORBIDDEN,
    errno.EPERM: Outcome.FORBIDDEN,
    errno.EPIPE: Outcome.HUNG_UP,
    errno.ECONNRESET: Outcome.HUNG_UP,
}
