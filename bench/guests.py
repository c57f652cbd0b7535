"""Guests as a hypervisor sees them: Unix sockets, each with an agent behind it, or something else.

They answer with the project's own protocol, or misbehave as told, and keep each request.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path

from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder

PORT = f"org.garp_agent.test.{os.getpid()}"  # the port of no real guest and of no other test run
BABBLE = b"\x00\xfe{[" * 1000 + b"\n"
LEFTOVER = b'half a reply\xff{"return": {}, "id": "another"}\n{"event": "x"}\n'
SLOWNESS = 0.3  # seconds


class Manner(Enum):
    """How a guest behaves.  As QEMU, each serves one client at a time."""

    ANSWERS = "answers"
    SLOW = "slow"  # answers after SLOWNESS
    IN_PIECES = "in pieces"  # sends replies to an earlier client, then its own, in pieces
    REFUSES = "refuses"  # answers with an error
    STOPPED = "stopped"  # listens and never accepts, as a stopped QEMU
    FULL = "full"  # as STOPPED, with a full backlog
    NO_AGENT = "no agent"  # accepts and never reads
    SILENT = "silent"  # reads and never answers
    HIDES = "hides"  # answers all but info
    GARBAGE = "garbage"  # sends nonsense without end
    HANGS_UP = "hangs up"
    HALF_CLOSES = "half-closes"  # shuts down its sending side, and reads


class Guests:
    """Guests with the numbers from 0; each has a thread while the context is entered."""

    def __init__(self, directory: Path, manners: Iterable[Manner]) -> None:
        self.manners = list(manners)
        self.paths = [str(directory / f"{n}-guest{n}" / PORT) for n in range(len(self.manners))]
        self._arrivals: list[tuple[int, protocol.Request]] = []
        self._files = ExitStack()
        self._sockets: list[socket.socket] = []  # on which a thread may wait
        self._stopping = threading.Event()
        self._threads = []
        for number, (path, manner) in enumerate(zip(self.paths, self.manners)):
            listener = self._listener(path, 0 if manner is Manner.FULL else 1)
            if manner is Manner.FULL:
                self._files.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            elif manner is not Manner.STOPPED:
                thread = threading.Thread(target=self._serve, args=(number, listener), daemon=True)
                self._threads.append(thread)

    def __enter__(self) -> Guests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop; the paths stay, as they do when a QEMU dies."""
        self._stopping.set()
        for sock in list(self._sockets):
            with suppress(OSError):  # closed, or not connected any more
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._files.close()

    def requests(self, number: int) -> list[protocol.Request]:
        """Return what has reached one guest."""
        return [request for guest, request in list(self._arrivals) if guest == number]

    def _listener(self, path: str, backlog: int) -> socket.socket:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        listener = self._files.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(backlog)
        self._sockets.append(listener)
        return listener

    def _serve(self, number: int, listener: socket.socket) -> None:
        manner = self.manners[number]
        with suppress(OSError):  # accept() after the shutdown
            while True:
                client = listener.accept()[0]
                self._sockets.append(client)
                if manner is Manner.NO_AGENT or self._stopping.is_set():
                    self._files.enter_context(client)
                    continue
                with client, suppress(OSError):
                    if manner is Manner.HALF_CLOSES:
                        client.shutdown(socket.SHUT_WR)
                    if manner is not Manner.HANGS_UP:
                        self._talk(number, client)

    def _talk(self, number: int, client: socket.socket) -> None:
        decoder = LineDecoder()
        while data := client.recv(4096):
            for line in decoder.feed(data):
                request = protocol.parse(line)
                self._arrivals.append((number, request))
                self._answer(self.manners[number], client, request)

    def _answer(self, manner: Manner, client: socket.socket, request: protocol.Request) -> None:
        reply = answer(request)
        if manner is Manner.SLOW:
            self._stopping.wait(SLOWNESS)
        elif manner is Manner.IN_PIECES:
            for byte in LEFTOVER:
                client.sendall(bytes([byte]))
        elif manner is Manner.REFUSES:
            error = protocol.ProtocolError(protocol.ErrorClass.FAILED, "not today", request.id)
            reply = protocol.encode_error(error)
        elif manner is Manner.GARBAGE:
            while True:  # until the client hangs up
                client.sendall(BABBLE)
        silent = manner in (Manner.SILENT, Manner.HALF_CLOSES)
        ignored = manner is Manner.HIDES and isinstance(request, protocol.Info)
        if not (silent or ignored):
            client.sendall(reply)


def answer(request: protocol.Request) -> bytes:
    """Return the reply of an agent with one address."""
    value: dict[str, object] = {}
    if isinstance(request, protocol.Burst):
        value = protocol.burst_value(request, request.offsets((0.0, 0.1, 0.4)), 1)
    elif isinstance(request, protocol.Lease):
        value = protocol.lease_value(request, 60.0)
    elif isinstance(request, protocol.Info):
        links = [protocol.LinkBrief("eth0", "52:54:00:12:34:56", ("192.0.2.10",))]
        value = protocol.info_value("0.1.0", links, {}, 0.0, 6.0)
    return protocol.encode_return(request.id, value)
