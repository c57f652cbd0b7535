"""What is fuzzed: a function that takes any bytes, and inputs to begin with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from garp_agent.config import read as config
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings
from garp_agent.guest.core import frames, kernel
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import Cause, ClaimSeen
from garp_agent.guest.requests import RequestHandler
from garp_agent.hypervisor.core import linkstate
from garp_agent.wire import lines, protocol, rtnetlink
from garp_agent.wire.model import DumpComplete, DumpStarted

if TYPE_CHECKING:
    from garp_agent.guest.core.model import EngineEvent

ROOT = Path(__file__).resolve().parents[2]


class Target(NamedTuple):
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def _golden(folder: str) -> Iterator[bytes]:
    """The annotated hex texts of the golden files, as bytes."""
    for path in sorted((ROOT / "tests/golden" / folder).iterdir()):
        lines = path.read_text().splitlines()
        yield bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def netlink(data: bytes) -> None:
    """Whatever the kernel says, the engine lives, and sends nothing but what frames can carry."""
    try:
        messages = kernel.decode(data)
    except rtnetlink.DecodeError:
        return
    engine = Engine(Settings(mac_only=True), random.Random(1).random)
    control = (rtnetlink.DumpDone, rtnetlink.DumpInterrupted, rtnetlink.RequestFailed)
    events = [message for message in messages if not isinstance(message, control)]
    for event in (DumpStarted(), *events, DumpComplete(), *events):
        engine.handle(event, 0.0)
    while (frame := engine.next_frame(0.0)) is not None:
        frames.encode(frame)


def bonds(data: bytes) -> None:
    try:
        linkstate.decode(data)
    except rtnetlink.DecodeError:
        return


def claims(data: bytes) -> None:
    try:
        claim = frames.decode(data)
    except frames.FrameError:
        return
    engine = Engine(Settings(), random.Random(1).random)
    engine.handle(ClaimSeen("eth0", claim.address, claim.hardware_address), 0.0)
    assert engine.next_frame(0.0) is None


def hints(data: bytes) -> None:
    """Any bytes on any door give replies that a client can read, and no more than one a line."""
    engine = Engine(Settings(), random.Random(1).random)

    def act(event: EngineEvent) -> int:
        engine.handle(event, 0.0)
        return sum(1 for _ in iter(lambda: engine.next_frame(0.0), None))

    for cause in (Cause.HINT, Cause.OPERATOR):
        decoder = lines.LineDecoder()
        answers = RequestHandler(engine, cause, lambda now: {})
        found = decoder.feed(data)
        assert len(found) <= data.count(b"\n")
        for line in found:
            reply = answers.answer(line, 0.0, act)
            assert reply.endswith(b"\n")
            assert len(reply) <= lines.REPLY_LIMIT
            protocol.parse_reply(reply.lstrip(lines.DELIMITER))


def replies(data: bytes) -> None:
    for line in lines.LineDecoder(lines.REPLY_LIMIT).feed(data + b"\n"):
        if isinstance(line, bytes):
            try:
                protocol.parse_reply(line)
            except protocol.ProtocolError:
                continue


def configuration(data: bytes) -> None:
    """What is taken comes back from its own text; what is refused says where."""
    try:
        settings = config.read_text(data, "fuzzed.yaml")
    except ConfigError as error:
        problems = error.problems
    else:
        assert config.read_text(config.as_yaml(settings).encode(), "dumped.yaml") == settings
        return
    assert problems
    assert all(str(problem).startswith("fuzzed.yaml") for problem in problems)


def _lines() -> Iterator[bytes]:
    yield b"BURST\n"
    yield b'\xff{"execute": "burst", "arguments": {"reason": "x", "count": 3, "interval": 0.1, '
    yield b'{"execute": "burst", "arguments": {"delay": 1, "boot": "b", "sequence": 7}, "id": 1}\n'
    yield b'{"execute": "lease", "arguments": {"seconds": 60}}\r\n{"execute": "info"}\n'
    yield b'{"execute": "sync", "id": "a"}\n{"execute": "status"}\n'


def _replies() -> Iterator[bytes]:
    yield b'{"return": {"frames": 2}, "id": 7}'
    yield b'{"error": {"class": "InvalidJSON", "desc": "x"}}'


def _configurations() -> Iterator[bytes]:
    yield (ROOT / "contrib/garp-agent.yaml").read_bytes()
    yield b"interval: 5s\nburst: [0ms, 100ms]\naddresses: {exclude: [10.0.0.0/8]}\n"


TARGETS = {
    "netlink": Target(netlink, lambda: _golden("rtnetlink")),
    "bonds": Target(bonds, lambda: _golden("rtnetlink")),
    "claims": Target(claims, lambda: _golden("frames")),
    "hints": Target(hints, _lines),
    "replies": Target(replies, _replies),
    "configuration": Target(configuration, _configurations),
}
