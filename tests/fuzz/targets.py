"""The fuzz targets: functions that take any bytes, with inputs to start from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from garp_agent.config import read as config
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings
from garp_agent.guest.core import frames, kernel
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import Cause, ClaimSeen
from garp_agent.guest.requests import RequestHandler
from garp_agent.hypervisor.core import bridge_tables, bridge_vlans, link_counters, linkstate
from garp_agent.wire import lines, protocol, rtnetlink, sock_diag
from garp_agent.wire.model import DumpComplete, DumpStarted
from tests import golden

if TYPE_CHECKING:
    from garp_agent.guest.core.model import EngineEvent

ROOT = Path(__file__).resolve().parents[2]


def netlink(data: bytes) -> None:
    """The engine takes every event that decodes, and every announcement can be encoded."""
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
        bridge_tables.decode(data)
        rtnetlink.decode(LEARNING, data)
    except rtnetlink.DecodeError:
        return


def sockets(data: bytes) -> None:
    try:
        sock_diag.decode(data)
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
    """Each line gets one reply that a client can read."""
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
    """Valid settings read back from their own dump; each error names its place."""
    try:
        settings = config.read_files(["fuzzed.yaml"], lambda path: data)
    except ConfigError as error:
        problems = error.problems
    else:
        written = config.as_yaml(settings).encode()
        assert config.read_files(["dumped.yaml"], lambda path: written) == settings
        return
    assert problems
    assert all(str(problem).startswith("fuzzed.yaml") for problem in problems)


LEARNING: dict[int, rtnetlink.Reader[object]] = {
    rtnetlink.RTM_NEWLINK: bridge_vlans.read_vlans,
    rtnetlink.RTM_NEWSTATS: link_counters.read_counters,
}
NETLINK = [
    golden.read(name) for folder in ("rtnetlink", "topology") for name in golden.names(folder)
]
SOCKETS = [golden.read(name) for name in golden.names("sock_diag")]
FRAMES = [golden.read(name) for name in golden.names("frames")]
LINES = [
    b"BURST\n",
    b'\xff{"execute": "burst", "arguments": {"reason": "x", "count": 3, "interval": 0.1, ',
    b'{"execute": "burst", "arguments": {"delay": 1, "boot": "b", "sequence": 7}, "id": 1}\n',
    b'{"execute": "lease", "arguments": {"seconds": 60}}\r\n{"execute": "info"}\n',
    b'{"execute": "sync", "id": "a"}\n{"execute": "status"}\n',
]
REPLIES = [
    b'{"return": {"frames": 2}, "id": 7}',
    b'{"error": {"class": "InvalidJSON", "desc": "x"}}',
]
CONFIGURATIONS = [
    (ROOT / "contrib/garp-agent.yaml").read_bytes(),
    b"interval: 5s\nburst: [0ms, 100ms]\naddresses: {exclude: [10.0.0.0/8]}\n",
]
# The function and the inputs to start from.
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "netlink": (netlink, NETLINK),
    "bonds": (bonds, NETLINK),
    "sockets": (sockets, SOCKETS),
    "claims": (claims, FRAMES),
    "hints": (hints, LINES),
    "replies": (replies, REPLIES),
    "configuration": (configuration, CONFIGURATIONS),
}
