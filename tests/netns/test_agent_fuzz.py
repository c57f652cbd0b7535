"""Thousands of hostile chunks on each input of the running daemon, the same ones every time.

Afterwards it answers, holds no more memory and descriptors than before, has kept to the token
bucket, and has only lines in its log.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from garp_agent.config.settings import Settings
from tests.fuzz import targets
from tests.netns.agent import QUIET, Site, until
from tests.netns.hint_host import HOSTS, Line

# Messages a round; a terminal line is slow.
MESSAGES = {"socket": 20000, "terminal": 1500, "control socket": 20000}
ROUNDS = 3  # the first one fills caches
GROWTH = 512  # KiB of resident memory in the other rounds
CLIENTS = 12  # at once, of the control socket
WRITES = 4096  # bytes at most, so that many writes end in the middle of a message

SEEDS = [*targets.LINES, *targets.REPLIES]
NESTED = (b"[", b"{", b'{"a":', b'{"execute":["burst",', b"[[],")
SEEDS += [b'{"execute": "burst", "arguments": {"count": 10, "interval": 0}, "id": null}\n']


def mutated(chance: random.Random) -> bytes:
    """Return a request with bytes replaced, removed, doubled, or inserted from another."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(0, 4)):
        at, length = chance.randrange(len(data) + 1), chance.randint(0, 6)
        other = chance.choice(SEEDS)
        start = chance.randrange(len(other))
        data[at : at + chance.choice((0, length))] = chance.choice(
            (chance.randbytes(length), data[at : at + length], other[start : start + 4 * length])
        )
    return bytes(data)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    *[mutated] * 3,
    lambda chance: chance.choice(SEEDS),
    lambda chance: chance.randbytes(chance.randint(1, 300)),
    lambda chance: b"\xff" * chance.randint(1, 300),
    lambda chance: bytes([chance.randrange(256)]) * chance.randint(1, 9000),
    lambda chance: chance.choice(NESTED) * chance.randint(1, 1500),
    lambda chance: b'{"execute": "burst", "id": ' + b"9" * chance.randint(1, 5000) + b"}",
    lambda chance: b'{"id": "' + "ü\u2028\ud7ff".encode() * chance.randint(1, 600) + b'"}\r\n',
)


def chunks(chance: random.Random, messages: int) -> Iterator[bytes]:
    """Yield messages, most with a line end, cut at any byte."""
    unsent = b""
    for _ in range(messages):
        unsent += chance.choice(KINDS)(chance) + chance.choice((b"\n", b"\n", b"\r\n", b"", b"\0"))
        while unsent and chance.random() < 0.8:
            cut = chance.randint(1, min(len(unsent), WRITES))
            yield unsent[:cut]
            unsent = unsent[cut:]
    yield unsent


def settle(line: Line, number: int) -> None:
    """Return when everything before this is answered, and a burst is too."""
    line.exchange(b'\xff{"execute": "burst", "id": "%d"}\n' % number)
    while line.reply().get("id") != str(number):
        pass


@pytest.mark.parametrize("kind", MESSAGES)
def test_hostile_chunks_change_neither_memory_nor_descriptors_nor_rate(
    site: Site, kind: str
) -> None:
    chance = random.Random(kind)
    with ExitStack() as stack:
        host = stack.enter_context(closing(HOSTS[kind](site.directory))) if kind in HOSTS else None
        options = ("--hint-port", str(host.path)) if host else ()
        # The agent tries again at each refresh to open a port that is not there yet.
        config = QUIET.replace("270s", "200ms", 1)
        agent = stack.enter_context(site.start(*options, config=config))

        def connect() -> Line:
            if host:
                return host.connected()
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(agent.control))
            return Line(client.detach())

        clients = [connect() for _ in range(1 if host else CLIENTS)]
        stack.callback(lambda: list(map(Line.close, clients)))
        for each in clients:
            settle(each, 0)
        files, memory = agent.open_files(), []
        for number in range(1, ROUNDS + 1):
            for data in chunks(chance, MESSAGES[kind]):
                place = chance.randrange(len(clients))
                clients[place].exchange(data)
                if not host and chance.random() < 0.02:  # hang up within a message
                    clients[place].close()
                    clients[place] = connect()
            for each in clients:
                settle(each, number)
            assert agent.status()["pid"] == agent.pid
            until(lambda: agent.open_files() == files, "as many files are open as before")
            memory.append(agent.resident())
        assert memory[-1] - memory[0] <= GROWTH, f"it grew, KiB: {memory}"
        assert "Traceback" not in agent.log_text()
        assert agent.log("burst")  # and every line is JSON
        status = agent.status()
        if kind != "control socket":
            counted = min(status["hint_port"]["requests"], status["hint_port"]["errors"])
            assert counted > MESSAGES[kind] / 4  # nothing was thrown away
        rate, depth = Settings().rate_limit
        frames = len(site.wire.announcements())
        # More was asked for than the bucket allows, by the agent's own clock.
        assert depth <= frames <= depth + rate * agent.status()["uptime"] + 1
