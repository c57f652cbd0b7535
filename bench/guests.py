"""Guests as a hypervisor sees them: Unix sockets, each with an agent behind it, or worse.

Answers with the project's own protocol, or misbehaves as told; notes when each request
arrived.  Knows nothing of the network.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder

PORT = f"org.garp_agent.test.{os.getpid()}"  # no real guest's, nor another test run's
BABBLE = b"\x00\xfe{[" * 1000 + b"\n"
SLOWNESS = 0.3  # seconds that a slow guest takes


class Manner(Enum):
    """How a guest behaves."""

    ANSWERS = "answers"
    SLOW = "slow"  # answers after a while
    CHATTY = "chatty"  # first what others left in the channel, then the answer, in pieces
    REFUSES = "refuses"  # answers with an error
    DEAF = "deaf"  # listens and never accepts, as a stopped QEMU
    MUTE = "mute"  # accepts and never reads, as a guest without an agent
    SILENT = "silent"  # reads and never answers
    GARBAGE = "garbage"  # answers without end, and makes no sense
    HANGS_UP = "hangs-up"
    HALF_CLOSES = "half-closes"  # shuts down its sending side, and reads
    SELECTIVE = "selective"  # as QEMU one client at a time; answers bursts, nothing else
    CROWDED = "crowded"  # never accepts, and its backlog is full


class Arrival(NamedTuple):
    """A request that reached a guest."""

    guest: int
    when: float  # monotonic
    request: protocol.Request


class Guests:
    """Guests ``0`` to ``len(manners) - 1``, served by a thread of their own."""

    def __init__(self, directory: Path, manners: Iterable[Manner]) -> None:
        self.manners = list(manners)
        self.paths = [str(directory / f"{n}-guest{n}" / PORT) for n in range(len(self.manners))]
        self.arrivals: list[Arrival] = []
        self._files = contextlib.ExitStack()
        self._epoll = select.epoll()
        self._files.callback(self._epoll.close)
        self._listeners: dict[int, tuple[int, socket.socket]] = {}
        self._clients: dict[int, _Client] = {}
        self._due: list[tuple[float, _Client, bytes]] = []
        self._wake, self._woken = socket.socketpair()
        self._epoll.register(self._woken.fileno(), select.EPOLLIN)
        for number, (path, manner) in enumerate(zip(self.paths, self.manners)):
            self._listen(number, path, manner)
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> Guests:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Stop listening; the paths stay, as they do when a QEMU dies."""
        for client in list(self._clients.values()):
            client.sock.close()
        for _, listener in self._listeners.values():
            listener.close()
        self._files.close()
        self._wake.close()
        self._woken.close()

    def requests(self, number: int) -> list[protocol.Request]:
        """What has reached one guest."""
        return [arrival.request for arrival in list(self.arrivals) if arrival.guest == number]

    def serve(self) -> None:
        """Answer until woken."""
        while True:
            first = min((when for when, _, _ in self._due), default=None)
            for descriptor, mask in self._epoll.poll(
                None if first is None else max(0.0, first - time.monotonic())
            ):
                if descriptor == self._woken.fileno():
                    return
                if descriptor in self._listeners:
                    self._accept(descriptor)
                elif mask == select.EPOLLOUT:
                    self._clients[descriptor].send(BABBLE)
                else:
                    self._receive(self._clients[descriptor])
            self._send_due()

    def _listen(self, number: int, path: str, manner: Manner) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(0 if manner is Manner.CROWDED else 1)
        listener.setblocking(False)
        self._listeners[listener.fileno()] = (number, listener)
        if manner is Manner.CROWDED:
            crowd = self._files.enter_context(socket.socket(socket.AF_UNIX))
            crowd.connect(path)
        elif manner is not Manner.DEAF:
            self._epoll.register(listener.fileno(), select.EPOLLIN)

    def _accept(self, descriptor: int) -> None:
        number, listener = self._listeners[descriptor]
        with contextlib.suppress(BlockingIOError):
            sock = listener.accept()[0]
            manner = self.manners[number]
            if manner is Manner.HANGS_UP:
                sock.close()
                return
            sock.setblocking(False)
            if manner is Manner.HALF_CLOSES:
                sock.shutdown(socket.SHUT_WR)
            if manner is Manner.SELECTIVE:
                self._epoll.modify(descriptor, 0)  # the next has to wait until this one leaves
            self._clients[sock.fileno()] = _Client(number, sock)
            if manner is not Manner.MUTE:
                self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, client: _Client) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = client.sock.recv(4096)
        if not data:
            self._hang_up(client)
            return
        now = time.monotonic()
        for line in client.decoder.feed(data):
            assert isinstance(line, bytes)
            request = protocol.parse(line)
            self.arrivals.append(Arrival(client.guest, now, request))
            self._answer(client, request, now)

    def _hang_up(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        if self.manners[client.guest] is Manner.SELECTIVE:
            for descriptor, (number, _) in self._listeners.items():
                if number == client.guest:
                    self._epoll.modify(descriptor, select.EPOLLIN)

    def _answer(self, client: _Client, request: protocol.Request, now: float) -> None:
        manner = self.manners[client.guest]
        if manner is Manner.SLOW:
            self._due.append((now + SLOWNESS, client, answer(request)))
        elif manner is Manner.CHATTY:
            stale = b'half a reply\xff{"return": {}, "id": "another"}\n{"event": "x"}\n'
            whole = stale + answer(request)
            for start in range(0, len(whole), 16):
                client.send(whole[start : start + 16])
        elif manner is Manner.REFUSES:
            error = protocol.ProtocolError(protocol.ErrorClass.FAILED, "not today", request.id)
            client.send(protocol.encode_error(error))
        elif manner is Manner.GARBAGE:
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif manner is Manner.ANSWERS or (
            manner is Manner.SELECTIVE and isinstance(request, protocol.Burst)
        ):
            client.send(answer(request))

    def _send_due(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            entry[1].send(entry[2])


class _Client:
    def __init__(self, guest: int, sock: socket.socket) -> None:
        self.guest = guest
        self.sock = sock
        self.decoder = LineDecoder()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(data)


def answer(request: protocol.Request) -> bytes:
    """What an agent with one address says."""
    value: dict[str, object] = {}
    if isinstance(request, protocol.Burst):
        value = protocol.burst_value(request, request.offsets((0.0, 0.1, 0.4)), 1)
    elif isinstance(request, protocol.Lease):
        value = protocol.lease_value(request, 60.0)
    elif isinstance(request, protocol.Info):
        links = [protocol.LinkBrief("eth0", "52:54:00:12:34:56", ("192.0.2.10",))]
        value = protocol.info_value("0.1.0", links, {}, 0.0)
    return protocol.encode_return(request.id, value)
