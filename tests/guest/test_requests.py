"""RequestHandler over a real engine: what a request does, and the line that answers it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent import __version__
from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import Cause, LeaseGranted, SendOutcome
from garp_agent.guest.requests import Deduplicator, RequestHandler
from garp_agent.wire.lines import LINE_LIMIT, REPLY_LIMIT, LineDecoder, Overlong
from garp_agent.wire.protocol import (
    CONTROL_COMMANDS,
    PORT_COMMANDS,
    ErrorClass,
    encode_request,
)
from garp_agent.wire.strict_json import INTEGER_MOST
from tests.world import Agent, address, causes, dump, link, property_settings, times

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SETTINGS = Settings(interval=60.0, interval_with_lease=240.0, jitter=0.0, mac_only=False)


class Guest:
    """A guest with two addresses, and the handler of one way in."""

    def __init__(self, cause: Cause = Cause.HINT, settings: Settings = SETTINGS) -> None:
        self.agent = Agent(settings)
        lo = link(1, "lo", hardware_address=bytes(6), flags=0x10049)
        eth0 = link(2, "eth0", hardware_address=bytes.fromhex("525400123456"))
        items = [address("192.0.2.10/24"), address("2001:db8::10/64"), address("127.0.0.1/8", 1)]
        self.agent.tell(*dump(lo, eth0, link(3), *items))
        self.agent.wait(2.0)
        self.handler = RequestHandler(self.agent.engine, cause, lambda now: {"asked at": now})
        self.sent: list[Any] = []

    def act(self, event: Any) -> int:
        frames = self.agent.tell(event)
        self.sent += frames
        return len(frames) if self.agent.outcome[0] is SendOutcome.SENT else 0

    def answer(self, line: bytes | Overlong) -> bytes:
        return self.handler.answer(line, self.agent.now, self.act)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        (line,) = LineDecoder().feed(encode_request(command, arguments, delimited=False))
        reply = json.loads(self.answer(line))
        assert isinstance(reply, dict)
        return reply


# -- docs/protocol.md -------------------------------------------------------------------


def exchanges() -> list[list[tuple[str, str]]]:
    """Return, for each example block, its `->` lines with the `<-` line below each."""
    blocks = []
    for block in re.findall(r"```exchange\n(.*?)```", PAGE, re.DOTALL):
        lines = [line for line in block.splitlines() if line]
        assert [line[:3] for line in lines] == ["-> ", "<- "] * (len(lines) // 2)
        blocks.append([(ask[3:], reply[3:]) for ask, reply in zip(lines[::2], lines[1::2])])
    return blocks


def to_bytes(line: str) -> bytes:
    return b"\xff".join(part.encode() for part in line.split("\\xff")) + b"\n"


@pytest.mark.parametrize("block", exchanges())
def test_the_examples_of_the_page_are_answered_as_it_says(block: list[tuple[str, str]]) -> None:
    guest, decoder = Guest(settings=Settings(jitter=0.0, mac_only=False)), LineDecoder()
    for ask, reply in block:
        answers = [guest.answer(line) for line in decoder.feed(to_bytes(ask))]
        assert b"".join(answers) == to_bytes(reply)
        guest.agent.wait(5.0)


def test_the_page_has_the_limits_the_commands_and_the_error_classes() -> None:
    assert re.findall(r"at most (\d{4}) bytes", PAGE) == [str(LINE_LIMIT), str(REPLY_LIMIT)]
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \|$", PAGE, re.MULTILINE)
    assert tuple(name for name, port, _ in rows if port == "yes") == PORT_COMMANDS
    assert tuple(name for name, _, control in rows if control == "yes") == CONTROL_COMMANDS
    section = PAGE.partition("\n## Replies\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [e.value for e in ErrorClass]


# -- burst ------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.HINT, Cause.OPERATOR])
def test_a_burst_is_sent_before_it_is_answered(cause: Cause) -> None:
    guest = Guest(cause)
    start = guest.agent.now
    reply = guest.ask("burst", reason="bond0 failed over")
    assert reply["return"]["frames"] == len(guest.sent) == 2
    assert reply["return"]["offsets"] == [0.0, 0.1, 0.4]
    frames = guest.sent + guest.agent.wait(5.0)
    assert times(frames, start) == [0.0, 0.1, 0.4]
    assert causes(frames) == [cause.value]
    # The one before it is about the burst at the start.
    _, notice = [n for n in guest.agent.engine.notices.take() if n.event == "burst"]
    assert dict(notice.fields) == {"cause": cause.value, "reason": "bond0 failed over"}


def test_a_burst_has_the_rounds_that_are_asked_for() -> None:
    guest = Guest()
    start = guest.agent.now
    reply = guest.ask("burst", count=2, interval=1, delay=3)
    assert reply["return"]["offsets"] == [3.0, 4.0]
    assert reply["return"]["frames"] == 0
    assert times(guest.agent.wait(4.0), start) == [3.0, 4.0]


def test_a_repeated_hint_is_done_once() -> None:
    guest = Guest()
    replies = [guest.ask("burst", boot=boot, sequence=4)["return"] for boot in ("b", "b", "c")]
    assert [each["duplicate"] for each in replies] == [False, True, False]
    assert [each["frames"] for each in replies] == [2, 0, 2]
    assert len(guest.sent) == 4
    assert [guest.ask("burst")["return"]["duplicate"] for _ in range(2)] == [False] * 2


def test_a_request_with_an_error_does_not_use_up_its_number() -> None:
    guest = Guest()
    assert "error" in guest.ask("burst", boot="b", sequence=4, cuont=1)
    assert guest.ask("burst", boot="b", sequence=4)["return"]["duplicate"] is False


def test_dropped_frames_are_not_counted_in_the_reply() -> None:
    guest = Guest()
    guest.agent.outcome = (SendOutcome.DROPPED, 105)
    assert guest.ask("burst")["return"]["frames"] == 0


# -- the other commands -----------------------------------------------------------------


def test_a_lease_changes_the_interval_and_info_shows_what_is_left() -> None:
    guest = Guest()
    assert guest.ask("lease", seconds=30)["return"]["interval"] == 240.0
    assert guest.ask("info")["return"]["lease"] == 30.0
    guest.agent.wait(29.5)
    assert guest.ask("info")["return"]["lease"] == 0.5
    assert guest.ask("lease", seconds=0)["return"]["interval"] == 60.0
    assert guest.ask("info")["return"]["lease"] == 0


@pytest.mark.parametrize(
    ("numbering", "interval"),
    [
        ({"boot": "new", "sequence": 1}, 60.0),
        ({"boot": "old", "sequence": 2}, 60.0),
        ({"boot": "old", "sequence": 1}, 240.0),  # a repetition of a hint before the lease
        ({}, 240.0),  # `garp-hint send`, or a shell
    ],
    ids=["another run", "the same run", "seen before", "without a number"],
)
def test_a_numbered_hint_ends_the_lease(numbering: dict[str, Any], interval: float) -> None:
    guest = Guest()
    guest.ask("burst", boot="old", sequence=1)
    guest.ask("lease", seconds=90)
    assert "error" not in guest.ask("burst", **numbering)
    assert guest.agent.engine.schedule.interval == interval
    assert guest.ask("lease", seconds=90)["return"]["interval"] == 240.0


def test_a_numbered_burst_of_the_operator_leaves_the_lease() -> None:
    guest = Guest(Cause.OPERATOR)
    guest.agent.tell(LeaseGranted(90.0))
    guest.ask("burst", boot="b", sequence=1)
    assert guest.agent.engine.lease.is_in_force


def test_info_names_announced_addresses_only() -> None:
    guest = Guest()
    value = guest.ask("info")["return"]
    assert value["version"] == __version__
    assert value["links"] == [
        {"name": "eth0", "mac": "52:54:00:12:34:56", "addresses": ["192.0.2.10", "2001:db8::10"]}
    ]
    assert value["counters"] == {"sent": 8, "dropped": 0}
    assert guest.sent == []


def test_status_is_taken_at_the_time_of_the_request() -> None:
    guest = Guest(Cause.OPERATOR)
    assert guest.ask("status")["return"] == {"asked at": guest.agent.now}


@pytest.mark.parametrize(("cause", "refused"), [(Cause.HINT, "status"), (Cause.OPERATOR, "lease")])
def test_each_way_in_has_its_own_commands(cause: Cause, refused: str) -> None:
    guest = Guest(cause)
    assert guest.ask(refused)["error"]["class"] == "CommandNotFound"
    assert guest.sent == []
    assert not guest.agent.engine.lease.is_in_force


def test_requests_and_errors_are_counted() -> None:
    guest = Guest()
    assert guest.handler.last_request is None
    guest.ask("info")
    guest.agent.wait(3.0)
    guest.ask("burst")
    guest.answer(b"junk")
    assert json.loads(guest.answer(Overlong(4096)))["error"]["class"] == "LineTooLong"
    assert (guest.handler.requests, guest.handler.errors) == (2, 2)
    assert guest.handler.last_request == guest.agent.now


# -- any bytes --------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(), SCALARS, max_size=2)
ARGUMENTS = ["reason", "count", "interval", "delay", "boot", "sequence", "seconds", "x"]
REQUESTS = st.fixed_dictionaries(
    {"execute": st.sampled_from([*PORT_COMMANDS, *CONTROL_COMMANDS, "stop"]) | VALUES},
    optional={
        "arguments": st.dictionaries(st.sampled_from(ARGUMENTS), VALUES) | VALUES,
        "id": VALUES,
        "more": VALUES,
    },
)
PIECES = st.binary(max_size=40) | REQUESTS.map(lambda members: json.dumps(members).encode())


@property_settings(100)
@given(st.lists(PIECES, max_size=12), st.sampled_from([Cause.HINT, Cause.OPERATOR]))
def test_every_line_gets_one_short_reply_line_of_ascii_json(
    pieces: list[bytes], cause: Cause
) -> None:
    guest = Guest(cause)
    lines = LineDecoder().feed(b"\n".join(pieces) + b"\n")
    for line in lines:
        reply = guest.answer(line)
        assert reply.count(b"\n") == 1
        assert reply.endswith(b"\n")
        assert len(reply) <= REPLY_LIMIT
        text = reply.lstrip(b"\xff")
        assert text.isascii()
        assert len({"return", "error"} & set(json.loads(text))) == 1
        guest.agent.wait(0.3)
    assert guest.handler.requests + guest.handler.errors == len(lines)


# -- numbered hints ---------------------------------------------------------------------


def test_a_number_below_the_window_counts_as_seen() -> None:
    hints = Deduplicator(window=64)
    seen = [hints.seen("a", n) for n in (100, 36, 37, 37, INTEGER_MOST)]
    assert seen == [False, True, False, True, False]
    seen = [hints.seen("a", n) for n in (100, INTEGER_MOST, INTEGER_MOST - 63)]
    assert seen == [True, True, False]
    assert hints._known["a"][1] < 1 << 64  # memory is bounded


def test_only_the_latest_boots_are_remembered() -> None:
    hints = Deduplicator(boots=2)
    seen = [hints.seen(boot, 1) for boot in "abacab"]
    assert seen == [False, False, True, False, True, False]


@property_settings(100)
@given(st.lists(st.integers(0, 200)))
def test_within_the_window_a_number_is_seen_if_it_came_before(numbers: list[int]) -> None:
    hints, known = Deduplicator(window=256), set[int]()
    for number in numbers:
        assert hints.seen("a", number) == (number in known)
        known.add(number)
