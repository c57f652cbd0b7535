"""Thousands of hostile chunks at every door of the running daemon, the same ones every time.

Afterwards it answers, holds no more memory and descriptors than before, has kept to the
token bucket on the wire, and has nothing but lines in its log.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab import TinyLab
from bench.soak import Judge
from garp_agent.config.settings import Settings
from garp_agent.runtime import client
from tests.fuzz import targets
from tests.netns.agent import LIMIT, QUIET, Agent, until
from tests.netns.test_agent_hints import SocketHost, TerminalHost

DOORS = {"hint port, socket": 20000, "hint port, terminal": 1500, "control socket": 20000}
ROUNDS = 3  # of so many messages each; the first warms up
GROWTH = 512  # KiB of resident memory in the others
CLIENTS = 12  # at once, of the control socket
WRITES = 4096  # bytes at most, so that every write has its share of cuts
LATE = 0.1  # seconds that the daemon may have waited for a CPU between its clock and a frame
ETH_P_ARP = 0x0806
SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>

SEEDS = [*targets.LINES, *targets.REPLIES]
SEEDS += [b'{"execute": "burst", "arguments": {"count": 10, "interval": 0}, "id": null}\n']


# -- what is thrown ---------------------------------------------------------------------------


def mutated(chance: random.Random) -> bytes:
    """A request with some of its bytes replaced, removed, doubled, or another's in between."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 4)):
        at, length = chance.randrange(len(data) + 1), chance.randint(0, 6)
        other = chance.choice(SEEDS)
        start = chance.randrange(len(other))
        data[at : at + chance.choice((0, length))] = chance.choice(
            (chance.randbytes(length), data[at : at + length], other[start : start + 4 * length])
        )
    return bytes(data)


def nested(chance: random.Random) -> bytes:
    opening = chance.choice((b"[", b"{", b'{"a":', b'{"execute":["burst",', b"[[],"))
    return opening * chance.randint(1, 1500)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    mutated,
    mutated,
    mutated,
    lambda chance: chance.choice(SEEDS),
    lambda chance: chance.randbytes(chance.randint(1, 300)),
    lambda chance: b"\xff" * chance.randint(1, 300),
    lambda chance: bytes([chance.randrange(256)]) * chance.randint(1, 9000),
    nested,
    lambda chance: b'{"execute": "burst", "id": ' + b"9" * chance.randint(1, 5000) + b"}",
    lambda chance: b'{"id": "' + "ü\u2028\ud7ff".encode() * chance.randint(1, 600) + b'"}\r\n',
)


def chunks(chance: random.Random, messages: int) -> Iterator[bytes]:
    """Messages one after the other, most of them with a line end, cut anywhere."""
    unsent = b""
    for _ in range(messages):
        unsent += chance.choice(KINDS)(chance) + chance.choice((b"\n", b"\n", b"\r\n", b"", b"\0"))
        while unsent and chance.random() < 0.8:
            cut = chance.randint(1, min(len(unsent), WRITES))
            yield unsent[:cut]
            unsent = unsent[cut:]
    yield unsent


# -- the doors --------------------------------------------------------------------------------


def exchange(descriptor: int, data: bytes) -> None:
    """Write all of it, and read whatever comes meanwhile: an answer may be what it waits for."""
    end = time.monotonic() + LIMIT
    while data:
        readable, writable, _ = select.select([descriptor], [descriptor], [], 1.0)
        if readable:
            assert os.read(descriptor, 1 << 16), "it hung up"
        if writable:
            data = data[os.write(descriptor, data) :]
        assert time.monotonic() < end, "it takes nothing in any more"


class Port:
    """The hint port, with one host that stays."""

    def __init__(self, host: Any) -> None:
        self._line = host.connected()
        os.set_blocking(self._line.descriptor, False)

    def throw(self, chance: random.Random, data: bytes) -> None:
        exchange(self._line.descriptor, data)

    def settle(self, number: int) -> None:
        """Return when everything before this is answered, and a burst is too."""
        for request in (b'{"execute": "sync", "id": "%d"}', b'{"execute": "burst", "id": "%d"}'):
            exchange(self._line.descriptor, b"\xff" + request % number + b"\n")
            while self._line.reply().get("id") != str(number):
                pass

    def close(self) -> None:
        self._line.close()


class ControlSocket:
    """Many clients, some of which hang up in the middle of something."""

    def __init__(self, agent: Agent) -> None:
        self._path = str(agent.control)
        self._clients: list[socket.socket] = []

    def _client(self, chance: random.Random) -> socket.socket:
        if len(self._clients) < CLIENTS:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._path)
            sock.setblocking(False)
            self._clients.append(sock)
        return chance.choice(self._clients)

    def throw(self, chance: random.Random, data: bytes) -> None:
        sock = self._client(chance)
        exchange(sock.fileno(), data)
        if chance.random() < 0.02:
            self._clients.remove(sock)
            sock.close()

    def settle(self, number: int) -> None:
        while self._clients:
            self._clients.pop().close()
        assert "frames" in client.ask(self._path, "burst")

    def close(self) -> None:
        pass  # it is settled


# -- what must hold ---------------------------------------------------------------------------


class Wire:
    """The frames that arrive, by the kernel's clock, as a switch would count them."""

    def __init__(self, lab: TinyLab) -> None:
        self._socket = lab.packet_socket("peer", "eth0", ETH_P_ARP)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setblocking(False)

    def times(self) -> Iterator[float]:
        with contextlib.suppress(BlockingIOError):
            while True:
                _, ancillary, _, _ = self._socket.recvmsg(2048, 64)
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                yield seconds + nanoseconds / 1e9

    def close(self) -> None:
        self._socket.close()


def resident(agent: Agent) -> int:
    """KiB, proc(5)."""
    text = Path(f"/proc/{agent.pid}/status").read_text()
    return int(text.partition("\nVmRSS:")[2].split()[0])


@contextlib.contextmanager
def door(kind: str, lab: TinyLab, directory: Path) -> Iterator[tuple[Agent, Any]]:
    if kind == "control socket":
        with Agent(lab, directory) as agent:
            yield agent, ControlSocket(agent)
        return
    # A port that is not there yet is tried again at every refresh.
    config = QUIET.replace("270s", "200ms", 1)
    host = SocketHost(directory) if kind == "hint port, socket" else TerminalHost(directory)
    with contextlib.closing(host):
        options = ("--hint-port", str(host.path))
        with Agent(lab, directory, *options, config=config) as agent:
            yield agent, Port(host)


@pytest.mark.parametrize("kind", DOORS)
def test_hostile_chunks(tiny_lab: TinyLab, tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    with contextlib.closing(Wire(tiny_lab)) as wire, door(kind, tiny_lab, tmp_path) as (agent, at):
        at.settle(0)
        files, memory = agent.open_files(), []
        for number in range(1, ROUNDS + 1):
            for data in chunks(chance, DOORS[kind]):
                at.throw(chance, data)
            at.settle(number)
            assert agent.status()["pid"] == agent.pid
            until(lambda: agent.open_files() == files, "as many files are open as before")
            memory.append(resident(agent))
        assert memory[-1] - memory[0] <= GROWTH, f"it grew, KiB: {memory}"
        assert "Traceback" not in agent.log_text()
        assert agent.log("burst")  # and every line is one
        if kind != "control socket":
            port = agent.status()["hint_port"]
            assert (
                min(port["requests"], port["errors"]) > DOORS[kind] / 4
            )  # nothing was thrown away
        frames = list(wire.times())
        at.close()
    # So much was asked for that only the bucket held it back.
    bucket = Settings().bucket
    assert len(frames) >= bucket.depth
    judge = Judge(bucket, LATE)
    for when in frames:
        judge.saw(when)
