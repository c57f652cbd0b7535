"""The hint port: request lines from the host, over the channel that the hypervisor offers.

A channel is a virtio-serial port or a Xen channel, which is a terminal; both are found by name.  It
can also be another character device or a Unix socket, by its path.  Opens it, reads lines, writes
replies, and derives from the kernel's results whether a host is connected.  Does not know what a
line means.

A virtio-serial port without a host polls as readable all the time, and reads as b""
(drivers/char/virtio_console.c).  So the port is watched edge-triggered: one wake-up for each
connect, datum and disconnect, none while idle.  There b"" means "no host".  On a socket or a
terminal it means "closed".

A Xen console that is not read makes a write spin in the kernel, once 2048 bytes wait in its ring,
also if the write may not block (domU_write_console() in drivers/tty/hvc/hvc_xen.c).  At most two
chunks of requests can come from a host that has stopped, so each chunk allows few replies.  Up to
1024 bytes wait in its ring while no process has the terminal open, also when their host has left.
The kernel hands them over soon after it is opened.  They are discarded: a hint or a lease among
them is old.

The replies to what one read(2) brought are one non-blocking write, so a host that does not read
loses them.  There is one exception.
Data and the notice of a connect come through different virtio queues.  In a busy guest the first
request of a new host can arrive before the kernel knows the host: it refuses writes (EAGAIN).  Such
a reply is kept until the notice arrives, at most EARLY seconds.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import errno
import os
import select
import stat

from garp_agent.guest.io.port_names import XENBUS, find
from garp_agent.wire.lines import REPLY_LIMIT, LineDecoder
from garp_agent.wire.record import Enum, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from garp_agent.wire.lines import Line

# What one call of read() takes at most, so that a host cannot keep the loop busy.
CHUNK = 1024  # bytes in one read(2): 170 of the shortest lines
CHUNKS = 16
# Lines, if a chunk ends there.  A request takes 40 us and more, and others wait for their turn.
BATCH = 64
REOPEN = 0.1  # seconds from the first hang-up to the attempt to open; then twice as long each time
RETRY = 5.0  # seconds between attempts to open at most, and for which an open port counts as sound
# The same for a port that was never open.  Many guests have none, and to look for it takes eight
# system calls, where a refresh takes four.
RARELY = 30.0
TERMINAL_REPLIES = 700  # bytes of replies that a terminal gets for one chunk
SETTLING = 0.1  # seconds from opening a terminal until what waited in it is discarded
TOGETHER = 4096  # bytes of replies after which no more are collected
EARLY = 0.2  # seconds for which a reply is kept until its host is known to be connected
EARLY_LIMIT = 8192  # bytes of such replies
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class PortState(Enum):
    """The state of the port, as `status` shows it."""

    OFF = "off"
    ABSENT = "absent"
    BUSY = "busy"  # another process has it open
    FORBIDDEN = "forbidden"
    FAILED = "failed"
    OPEN = "open"  # a terminal does not tell whether a host is connected
    HOST_AWAY = "open, host not connected"
    HOST_CONNECTED = "open, host connected"


class HintPort:
    """The hint port called ``name``: a virtio-serial port's name, an absolute path, or "" for none.

    Closed at first; :meth:`attempt` opens it.  One that hangs up is opened again soon, because a
    Xen channel does so at each restore; one that cannot be opened waits for the next attempt that
    the caller makes anyway.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ""  # where the port was at the last attempt; "": not found
        self.state = PortState.ABSENT if name else PortState.OFF
        _load_for(name)
        self.error = 0  # errno of the last attempt to open; 0: it worked
        self._epoll = select.epoll()
        self._descriptor = -1
        self._is_stream = False  # a socket or a terminal: b"" means "closed"
        self._is_terminal = False
        self._is_settling = False  # a terminal whose lines are discarded yet
        self._allowance = 0  # bytes of replies that a terminal may still get for this chunk
        self._decoder = LineDecoder()
        self._next_attempt = 0.0
        self._pause = RETRY  # seconds from the next failure or hang-up to an attempt
        self._must_wake = False  # it hung up, and the attempts since then are still frequent
        self._was_open = False
        self._opened_at = 0.0
        self._now = 0.0  # the time of the latest read()
        self._early = b""  # replies kept
        self._early_until = 0.0
        self._torn = b""  # ends the reply before, if only a part of it fitted
        self._replies = bytearray()  # to the lines of the chunk under way

    def fileno(self) -> int:
        """Return the descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def is_open(self) -> bool:
        """Return whether hints can arrive."""
        return self._descriptor >= 0

    @property
    def reply_limit(self) -> int:
        """Return the bytes that the next reply may have."""
        return self._allowance if self._is_terminal else REPLY_LIMIT

    def deadline(self) -> float:
        """Return when to call :meth:`attempt` at the latest; ``math.inf``: whenever it suits."""
        return self.attempt_at() if self._is_settling or self._must_wake else inf

    def attempt_at(self) -> float:
        """Return from when on :meth:`attempt` has something to do."""
        if self._is_settling:
            return self._opened_at + SETTLING
        return self._next_attempt if self.name and self._descriptor < 0 else inf

    def attempt(self, now: float) -> None:
        """Open the port if it is closed and it is time to; listen once a terminal has settled."""
        if self._is_settling and now >= self._opened_at + SETTLING:
            self._listen()
        if self._descriptor >= 0 or not self.name or now < self._next_attempt:
            return
        self.path = self.name if self.name.startswith("/") else find(self.name)
        try:
            self._open()
        except (OSError, ValueError) as error:  # ValueError: no name in the file system's encoding
            self.error = getattr(error, "errno", None) or errno.EINVAL
            self.state = _closed_state(self.error)
            self._must_wake = self._must_wake and self._pause < RETRY
            self._wait(now)
        else:
            self._opened_at = now
            self._was_open = True
            if not self._must_wake:
                self._pause = REOPEN

    def read(self, now: float) -> Iterator[tuple[int, Line]]:
        """Yield lines that have arrived, a bounded number, each with the client to reply to.

        Reads more only after a line was yielded, so the caller acts on it first.  The caller must
        exhaust the iterator: an edge that is not read to its end does not come again.
        """
        self._now = now
        self._replies.clear()  # without memory, the reading before may have ended early
        for _, mask in self._epoll.poll(0, 1):
            for line in self._drain():
                if not self._is_settling:
                    yield self._descriptor, line
            if self._descriptor >= 0 and not self._is_stream:
                self._note_host(mask)
                self._send_kept()

    def reply(self, client: int, data: bytes) -> None:
        """Send ``data`` to the client of a line, if the host reads; else it is lost.

        The replies to a chunk of lines leave together: a flood would cost a write for each line.
        """
        if client != self._descriptor or client < 0:
            return
        if self._is_terminal:
            if len(data) > self._allowance:
                return
            self._allowance -= len(data)
        self._replies += data
        if len(self._replies) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Send the replies that were collected; :meth:`read` does so after each chunk."""
        data = self._torn + bytes(self._replies)
        self._replies.clear()
        try:
            whole = os.write(self._descriptor, data) == len(data)
            self._torn = b"" if whole else b"\n"
        except BlockingIOError:
            if self.state is PortState.HOST_AWAY:
                self._keep(data)
        except OSError:
            pass

    def close(self) -> None:
        """Close everything."""
        self._hang_up(PortState.OFF, 0)
        self._epoll.close()

    # -- opening ------------------------------------------------------------------------

    def _open(self) -> None:
        if not self.path:
            raise FileNotFoundError(errno.ENOENT, "no such port")
        mode = os.stat(self.path).st_mode
        if stat.S_ISSOCK(mode):
            descriptor = _connect(self.path)
        elif stat.S_ISCHR(mode):
            descriptor = _open_device(self.path)
        else:
            raise OSError(errno.EOPNOTSUPP, "neither a character device nor a socket")
        try:
            self._epoll.register(descriptor, _EDGES)
        except OSError:  # EPERM: the device does not support polling
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._decoder = LineDecoder()
        self.error = 0
        self._is_terminal = os.isatty(descriptor)
        # What waited in a terminal was echoed before it was raw, perhaps half a line.
        self._torn = b"\n" if self._is_terminal else b""
        self._is_stream = stat.S_ISSOCK(mode) or self._is_terminal
        self.state = PortState.HOST_CONNECTED if self._is_stream else PortState.HOST_AWAY
        if self._is_terminal:
            self.state = PortState.OPEN
            self._is_settling = True

    def _listen(self) -> None:
        """Discard what waited in a terminal; the lines from now on count."""
        self._is_settling = False
        self._decoder.clear()
        try:
            _terminal().discard_input(self._descriptor)
        except OSError:  # it hung up meanwhile, which the next read notices
            pass

    def _hang_up(self, state: PortState, error: int) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # this removes it from the epoll set too
            self._replies.clear()
            self._descriptor = -1
            self._is_settling = False
            if self._now >= self._opened_at + RETRY:
                self._pause = REOPEN
            self._must_wake = True
            self._wait(self._now)
        self.state = state
        self.error = error

    def _wait(self, now: float) -> None:
        self._next_attempt = now + self._pause
        self._pause = min(2 * self._pause, RETRY if self._was_open else RARELY)

    # -- reading ------------------------------------------------------------------------

    def _drain(self) -> Iterator[Line]:
        count = 0
        for _ in range(CHUNKS):
            if count >= BATCH:
                break
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                return
            except OSError as error:  # unplugged
                number = error.errno or errno.EIO
                self._hang_up(_closed_state(number), number)
                return
            if not data:
                self._end_of_data()
                return
            self._allowance = TERMINAL_REPLIES - len(self._torn)
            lines = self._decoder.feed(data)
            count += len(lines)
            yield from lines
            if self._replies:
                self.flush()
        # More data is there, but its edge is consumed: modify() makes epoll report it again.
        self._epoll.modify(self._descriptor, _EDGES)

    def _end_of_data(self) -> None:
        self._decoder.clear()
        if self._is_stream:
            self._hang_up(PortState.ABSENT, 0)

    def _note_host(self, mask: int) -> None:
        away = bool(mask & select.EPOLLHUP)
        self.state = PortState.HOST_AWAY if away else PortState.HOST_CONNECTED
        if away:
            self._decoder.clear()

    # -- replies that the kernel refuses until it knows the host -------------------------

    def _keep(self, reply: bytes) -> None:
        early = self._early if self._now < self._early_until else b""
        if len(early) + len(reply) <= EARLY_LIMIT:
            self._early = early + reply
            self._early_until = self._now + EARLY

    def _send_kept(self) -> None:
        if self.state is PortState.HOST_CONNECTED and self._early:
            early, self._early = self._early, b""
            if self._now < self._early_until:
                self.reply(self._descriptor, early)
                self.flush()


def _connect(path: str) -> int:
    sock = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        sock.connect(path)
        return sock.detach()
    finally:
        sock.close()


def _open_device(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.isatty(descriptor):
            _terminal().make_raw(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _load_for(name: str) -> None:
    """Load what only some ports need, now: a running agent may need no file.

    A port that needs what cannot be loaded says so when it is opened; the agent works without it.
    """
    is_xen = os.path.exists(XENBUS)
    try:
        if is_xen or name.startswith("/"):  # a Xen channel is a terminal
            _terminal()
        if is_xen:
            import garp_agent.runtime.xenbus  # noqa: F401
    except (OSError, ImportError):
        pass


def _terminal() -> ModuleType:
    """Return the module for terminals.  Raises OSError if it cannot be loaded any more."""
    try:
        from garp_agent.guest.io import terminal
    except ImportError as error:
        raise OSError(errno.ELIBACC, str(error)) from None
    return terminal


def _closed_state(number: int) -> PortState:
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED):
        return PortState.ABSENT
    if number in (errno.EBUSY, errno.EAGAIN):
        return PortState.BUSY
    if number in (errno.EACCES, errno.EPERM):
        return PortState.FORBIDDEN
    return PortState.FAILED
