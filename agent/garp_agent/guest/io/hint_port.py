"""The hint port: bytes from the host, over whatever the hypervisor offers.

A virtio-serial port (by name), another character device (a Xen channel is a tty), or
a Unix socket (by path).  Decides how to open it and what the kernel's answers say of
the host; never what a line means.

A virtio port whose host is away reads as b"" and polls as ready for ever, so it is
watched edge-triggered: one wake-up for each connect, datum and disconnect, none while
idle (drivers/char/virtio_console.c).  b"" there means "no host", not "closed"; of a
terminal line it means that it was hung up, for good.

Replies are one small non-blocking write: a host that does not read loses them.  But
bytes and the news of a connect come through different queues, and in a busy guest the
bytes of a new host arrive while the kernel still takes it for absent and accepts no
reply: such a reply waits for the connect, for a moment.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from enum import Enum

from garp_agent.wire.lines import LineDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from garp_agent.wire.lines import Line

CHUNK = 1024  # bytes read at once: 170 of the shortest lines
CHUNKS = 16  # after which the loop gets its turn again: a host may pour without end
BATCH = 256  # lines after which the loop gets its turn again
RETRY = 5.0  # seconds between attempts to open; made at ticks, which come anyway
BY_NAME = "/dev/virtio-ports/"
SYSFS = "/sys/class/virtio-ports"
EARLY = 0.2  # seconds for which a reply waits for the news that its host has connected
EARLY_LIMIT = 8192  # bytes of such replies
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class PortState(Enum):
    """How things stand with the port."""

    OFF = "off"
    ABSENT = "absent"
    BUSY = "busy"  # somebody else has it open
    FORBIDDEN = "forbidden"
    FAILED = "failed"
    HOST_AWAY = "open, host not connected"
    HOST_CONNECTED = "open, host connected"


class HintPort:
    """The port that ``name`` (a virtio-serial port's name, or an absolute path) stands for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ""  # where it was found
        self.state = PortState.ABSENT if name else PortState.OFF
        self.error = 0  # errno of the last attempt to open; 0: it worked
        self._epoll = select.epoll()
        self._descriptor = -1
        self._is_stream = False  # a socket or a terminal line: b"" means that it is closed
        self._decoder: LineDecoder | None = None
        self._next_attempt = 0.0
        self._early = b""  # replies kept
        self._early_until = 0.0
        self._torn = b""  # what ends a reply of which only a part fitted

    def fileno(self) -> int:
        """The descriptor to wait on, for reading."""
        return self._epoll.fileno()

    def is_open(self) -> bool:
        """Whether a hint can come in."""
        return self._descriptor >= 0

    def attempt(self, now: float) -> None:
        """Open the port if it is closed and was not tried lately."""
        if self._descriptor >= 0 or not self.name or now < self._next_attempt:
            return
        self._next_attempt = now + RETRY
        self.path = self.name if self.name.startswith("/") else find(self.name)
        try:
            self._open()
        except OSError as error:
            self.error = error.errno or errno.EIO
            self.state = _closed_state(self.error)

    def read(self, now: float) -> Iterator[Line]:
        """The lines that have arrived, a bounded batch of them; to be read to its end.

        Each comes before more is read: what it asks for is done first.
        """
        for _, mask in self._epoll.poll(0, 1):
            yield from self._drain()
            if self._descriptor >= 0 and not self._is_stream:
                self._note_host(mask)
                self._send_kept(now)

    def reply(self, data: bytes, now: float) -> None:
        """Answer, if the host reads; a reply that does not fit is lost, never queued."""
        try:
            if self._descriptor >= 0:
                data = self._torn + data
                whole = os.write(self._descriptor, data) == len(data)
                self._torn = b"" if whole else b"\n"
        except BlockingIOError:
            if self.state is PortState.HOST_AWAY:
                self._keep(data, now)
        except OSError:
            pass

    def close(self) -> None:
        """Close the port and what waits on it."""
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
            raise OSError(errno.ENODEV, "neither a character device nor a socket")
        try:
            self._epoll.register(descriptor, _EDGES)
        except OSError:  # EPERM: a device that nothing can wait on
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._decoder = LineDecoder()
        self._torn = b""
        self.error = 0
        self._is_stream = stat.S_ISSOCK(mode) or os.isatty(descriptor)
        self.state = PortState.HOST_CONNECTED if self._is_stream else PortState.HOST_AWAY

    def _hang_up(self, state: PortState, error: int) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # which also takes it out of the epoll set
            self._descriptor = -1
        self.state = state
        self.error = error

    # -- reading ------------------------------------------------------------------------

    def _drain(self) -> Iterator[Line]:
        assert self._decoder is not None
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
            lines = self._decoder.feed(data)
            count += len(lines)
            yield from lines
        # The edge was consumed with bytes left behind it: ask for it again.
        self._epoll.modify(self._descriptor, _EDGES)

    def _end_of_data(self) -> None:
        assert self._decoder is not None
        self._decoder.clear()
        if self._is_stream:
            self._hang_up(PortState.ABSENT, 0)

    def _note_host(self, mask: int) -> None:
        away = bool(mask & select.EPOLLHUP)
        self.state = PortState.HOST_AWAY if away else PortState.HOST_CONNECTED
        if away and self._decoder is not None:
            self._decoder.clear()

    # -- replies to a host of whose connect we have not heard yet ------------------------

    def _keep(self, reply: bytes, now: float) -> None:
        early = self._early if now < self._early_until else b""
        if len(early) + len(reply) <= EARLY_LIMIT:
            self._early = early + reply
            self._early_until = now + EARLY

    def _send_kept(self, now: float) -> None:
        if self.state is PortState.HOST_CONNECTED and self._early:
            early, self._early = self._early, b""
            if now < self._early_until:
                self.reply(early, now)


def find(name: str) -> str:
    """Where the virtio-serial port called ``name`` is: udev's link, or through sysfs; "" if not."""
    if os.path.exists(BY_NAME + name):
        return BY_NAME + name
    try:
        nodes = os.listdir(SYSFS)
    except OSError:
        return ""
    for node in nodes:
        try:
            with open(f"{SYSFS}/{node}/name", "rb") as file:
                if file.read(256).strip() == name.encode():
                    return "/dev/" + node
        except OSError:
            continue
    return ""


def _connect(path: str) -> int:
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as sock:
        sock.connect(path)
        return sock.detach()


def _open_device(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.isatty(descriptor):
            _make_raw(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_raw(descriptor: int) -> None:
    import termios
    import tty

    try:
        tty.setraw(descriptor, termios.TCSANOW)  # no echo: the host would read its own hints
    except termios.error as error:  # it is no OSError
        raise OSError(*error.args) from None


def _closed_state(number: int) -> PortState:
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED):
        return PortState.ABSENT
    if number in (errno.EBUSY, errno.EAGAIN):
        return PortState.BUSY
    if number in (errno.EACCES, errno.EPERM):
        return PortState.FORBIDDEN
    return PortState.FAILED
