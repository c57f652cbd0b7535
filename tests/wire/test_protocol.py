"""The protocol: its page's examples, any bytes at all, and the bounds."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.wire.lines import LINE_LIMIT, REPLY_LIMIT, LineDecoder, Overlong
from garp_agent.wire.protocol import (
    CONTROL_COMMANDS,
    INTEGER_MOST,
    PORT_COMMANDS,
    Burst,
    Deduplicator,
    ErrorClass,
    Info,
    Lease,
    LinkBrief,
    ProtocolError,
    Reply,
    Status,
    Sync,
    burst_value,
    encode_error,
    encode_request,
    encode_return,
    encode_sync,
    info_value,
    lease_value,
    parse,
    parse_reply,
)

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


# -- the page ---------------------------------------------------------------------------


def exchanges() -> list[tuple[str, str]]:
    """Each `->` line of the page with the `<-` line below it."""
    blocks = re.findall(r"```exchange\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert [line[:3] for line in lines] == ["-> ", "<- "] * (len(lines) // 2)
    return [(ask[3:], answer[3:]) for ask, answer in zip(lines[::2], lines[1::2])]


def to_bytes(line: str) -> bytes:
    return b"\xff".join(part.encode() for part in line.split("\\xff")) + b"\n"


class Peer:
    """An agent with three addresses, a configured burst of 0, 0.1, 0.4 s, and no network."""

    def __init__(self) -> None:
        self.decoder = LineDecoder()
        self.deduplicator = Deduplicator()

    def answer(self, data: bytes) -> bytes:
        return b"".join(self.answer_line(line) for line in self.decoder.feed(data))

    def answer_line(self, line: bytes | Overlong) -> bytes:
        try:
            request = parse(line)
        except ProtocolError as error:
            return encode_error(error)
        if isinstance(request, Sync):
            return encode_sync(request.id)
        if isinstance(request, Lease):
            interval = 60.0 if request.seconds else 5.0
            return encode_return(request.id, lease_value(request, interval))
        if isinstance(request, Burst):
            return encode_return(request.id, self.burst(request))
        links = [LinkBrief("eth0", "52:54:00:12:34:56", ("192.0.2.10", "2001:db8::10"))]
        return encode_return(request.id, info_value("0.1.0", links, {"frames-sent": 12}, 0.0))

    def burst(self, request: Burst) -> dict[str, object]:
        offsets = request.offsets((0.0, 0.1, 0.4))
        if request.boot and self.deduplicator.seen(request.boot, request.sequence):
            return burst_value(request, offsets, 0, duplicate=True)
        return burst_value(request, offsets, 0 if request.delay else 3)


def test_every_example_on_the_page_is_true() -> None:
    peer = Peer()
    pairs = exchanges()
    assert len(pairs) >= 15
    for ask, answer in pairs:
        assert peer.answer(to_bytes(ask)).decode("latin-1") == to_bytes(answer).decode("latin-1")


def test_the_page_has_the_commands_of_each_door() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \|$", PAGE.read_text(), re.MULTILINE)
    assert tuple(name for name, port, _ in rows if port == "yes") == PORT_COMMANDS
    assert tuple(name for name, _, control in rows if control == "yes") == CONTROL_COMMANDS


def test_the_page_has_the_error_classes() -> None:
    section = PAGE.read_text().partition("\n## Replies\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [e.value for e in ErrorClass]


# -- lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\r\nthr", [b"one", b"two"]),
        (b"\n\r\n\n", []),
        (b"\r\r\n", [b"\r"]),
        (b"ab\rcd\n", [b"ab\rcd"]),
        (b"half\xffwhole\n", [b"whole"]),
        (b"first\nhalf\xff\xff\nsecond\n\xff", [b"first", b"second"]),
        (b"12345678\n", [b"12345678"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"123456789\n", [Overlong(8)]),
        (b"123456789\r\n", [Overlong(8)]),
        (b"1234567\r\r\n", [b"1234567\r"]),
        (b"12345678\r\r\n", [Overlong(8)]),
        (b"1234567890 and more\nnext\n", [Overlong(8), b"next"]),
        (b"1234567890 and more\xffnext\n", [b"next"]),
        (b"1234567890 and no end", []),
    ],
)
def test_lines(data: bytes, lines: list[object]) -> None:
    assert LineDecoder(limit=8).feed(data) == lines
    decoder = LineDecoder(limit=8)
    assert [line for byte in data for line in decoder.feed(bytes([byte]))] == lines


LINE_BYTES = st.sampled_from([b"\n", b"\r", b"\xff", b"a", b"bc", b"12345678", b"{}"])


@given(st.lists(LINE_BYTES | st.binary(max_size=20)), st.data())
def test_chunks_make_no_difference(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    expected = LineDecoder(limit=8).feed(whole)
    decoder, found, start = LineDecoder(limit=8), list[object](), 0
    while start < len(whole):
        size = data.draw(st.integers(1, len(whole) - start))
        found += decoder.feed(whole[start : start + size])
        start += size
    assert found == expected
    assert all(isinstance(line, Overlong) or 0 < len(line) <= 8 for line in expected)


def test_clearing_forgets_half_a_line_and_a_long_one() -> None:
    decoder = LineDecoder(limit=8)
    for begun in (b"half", b"much longer than that"):
        assert decoder.feed(begun) == []
        decoder.clear()
        assert decoder.feed(b"next\n") == [b"next"]


def test_a_hundred_megabytes_without_an_end_take_no_memory() -> None:
    decoder, chunk = LineDecoder(), b"x" * 4096
    decoder.feed(chunk + b"\n")
    tracemalloc.start()
    for _ in range(100 * 1024 * 1024 // len(chunk)):
        assert decoder.feed(chunk) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024
    assert decoder.feed(b"\nBURST\n") == [Overlong(LINE_LIMIT), b"BURST"]


# -- requests ---------------------------------------------------------------------------


def ask(command: str, **arguments: object) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments, "id": 1}).encode()


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"BURST", Burst()),
        (b" BURST\t", Burst()),
        (b'{"execute": "burst"}', Burst()),
        (b'{"execute": "burst", "arguments": {}, "id": null}', Burst()),
        (b'{"execute":"info","id":true}', Info(True)),
        (b'{"execute":"info","id":-2.5}', Info(-2.5)),
        (b'{"execute":"sync","id":"\\u00e4"}', Sync("ä")),
        (ask("lease", seconds=30), Lease(1, 30.0)),
        (ask("lease", seconds=-1), Lease(1, 0.0, (("seconds", 0.0),))),
        (ask("lease", seconds=1e300), Lease(1, 3600.0, (("seconds", 3600.0),))),
        (ask("burst", count=3, interval=1, delay=0.5), Burst(1, "", 3, 1.0, 0.5)),
        (
            ask("burst", count=0, interval=0, delay=INTEGER_MOST),
            Burst(1, "", 1, 0.05, 60.0, "", 0, (("count", 1), ("interval", 0.05), ("delay", 60.0))),
        ),
        (ask("burst", count=-INTEGER_MOST), Burst(1, "", 1, adjusted=(("count", 1),))),
        (ask("burst", reason="bond0: eth0 → eth1"), Burst(1, "bond0: eth0 → eth1")),
        (ask("burst", reason="a\nb\ud800"), Burst(1, "a?b?", adjusted=(("reason", "a?b?"),))),
        (ask("burst", reason="x" * 129), Burst(1, "x" * 128, adjusted=(("reason", "x" * 128),))),
        (
            ask("burst", boot="b", sequence=INTEGER_MOST),
            Burst(1, boot="b", sequence=INTEGER_MOST),
        ),
    ],
)
def test_requests(line: bytes, request_: object) -> None:
    parsed = parse(line)
    assert (type(parsed), parsed) == (type(request_), request_)


J, R, A = ErrorClass.INVALID_JSON, ErrorClass.INVALID_REQUEST, ErrorClass.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("line", "error_class", "description", "id"),
    [
        (b"burst", J, "the line is not JSON at character 0", None),
        (b'{"execute": "info"} x', J, "the line is not JSON at character 20", None),
        (b"\xfe", J, "the line is not UTF-8 at byte 0", None),
        (b'{"execute": "\xc3\x28"}', J, "the line is not UTF-8 at byte 13", None),
        (b"\x00{\x00}", J, "the line is not JSON at character 0", None),
        (b"[" * 4096, J, "", None),  # "nested too deeply" or "not JSON": as deep as Python reads
        (b'{"a":' * 800, J, "", None),
        (b'{"id": Infinity}', J, "Infinity is not JSON", None),
        (b'{"id": 1e999}', J, "the number 1e999 is out of range", None),
        (b"9" * 4096, J, "the integer 99999999999999999999 is out of range", None),
        (
            b'{"id": 9223372036854775808}',
            J,
            "the integer 9223372036854775808 is out of range",
            None,
        ),
        (b'{"id": 1, "id": 1}', J, "an object names a member twice", None),
        (b'{"a": {"b": 1, "b": 1}}', J, "an object names a member twice", None),
        (b"null", R, "the line must be an object, not null", None),
        (b'"x"', R, 'the line must be an object, not "x"', None),
        (b'{"id": 5}', R, 'member "execute" must be there and a string', 5),
        (b'{"execute": 7, "id": "a"}', R, 'member "execute" must be there and a string', "a"),
        (
            b'{"execute": "info", "id": [1]}',
            R,
            'member "id" must be a scalar, a string of at most 128 characters',
            None,
        ),
        (
            b'{"execute": "info", "id": "%s"}' % (b"x" * 129),
            R,
            'member "id" must be a scalar, a string of at most 128 characters',
            None,
        ),
        (
            b'{"execute": "info", "arguments": [], "id": 1}',
            R,
            'member "arguments" must be an object, not an array',
            1,
        ),
        (ask("info", a=1), A, 'argument "a" is unknown; allowed: none', 1),
        (ask("burst", count=True), A, "argument count must be an integer, not true", 1),
        (ask("burst", count=3.0), A, "argument count must be an integer, not 3.0", 1),
        (ask("burst", count=None), A, "argument count must be an integer, not null", 1),
        (ask("burst", interval=False), A, "argument interval must be a number, not false", 1),
        (ask("burst", reason={}), A, "argument reason must be a string, not an object", 1),
        (
            ask("burst", delay="0" * 4000),
            A,
            f'argument delay must be a number, not "{"0" * 32}..."',
            1,
        ),
        (ask("burst", boot="b"), A, "arguments boot and sequence come together or not at all", 1),
        (
            ask("burst", boot="", sequence=1),
            A,
            "argument boot must be 1 to 128 printable ASCII characters",
            1,
        ),
        (
            ask("burst", boot="b\n", sequence=-1),
            A,
            "argument boot must be 1 to 128 printable ASCII characters; "
            f"argument sequence must be an integer from 0 to {INTEGER_MOST}, not -1",
            1,
        ),
        (ask("lease", seconds="1"), A, 'argument seconds must be a number, not "1"', 1),
        (
            ask("status"),
            ErrorClass.COMMAND_NOT_FOUND,
            'command "status" is unknown here; known: burst, info, lease, sync',
            1,
        ),
    ],
)
def test_what_is_no_request(
    line: bytes, error_class: ErrorClass, description: str, id: object
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(line)
    assert (caught.value.error_class, caught.value.id) == (error_class, id)
    assert caught.value.description == description or not description


def test_each_door_has_its_commands() -> None:
    assert parse(ask("status"), CONTROL_COMMANDS) == Status(1)
    with pytest.raises(ProtocolError, match="known: burst, info, status, sync"):
        parse(ask("lease", seconds=1), CONTROL_COMMANDS)
    with pytest.raises(ProtocolError, match="not JSON"):
        parse(b"BURST", commands=("info",))


@pytest.mark.parametrize(
    ("burst", "offsets"),
    [
        (Burst(), (0.0, 0.1, 0.4)),
        (Burst(delay=2.0), (2.0, 2.1, 2.4)),
        (Burst(rounds=2), (0.0, 0.1)),
        (Burst(interval=1.0), (0.0, 1.0, 2.0)),
        (Burst(rounds=4, interval=0.3, delay=0.5), (0.5, 0.8, 1.1, 1.4)),
    ],
)
def test_when_the_rounds_are_due(burst: Burst, offsets: tuple[float, ...]) -> None:
    assert burst.offsets((0.0, 0.1, 0.4)) == offsets


# -- any bytes --------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["reason", "count", "interval", "delay", "boot", "sequence", "seconds", "x"]
)
REQUESTS = st.fixed_dictionaries(
    {"execute": st.sampled_from([*PORT_COMMANDS, "status", "stop"]) | VALUES},
    optional={"arguments": st.dictionaries(NAMES, VALUES) | VALUES, "id": VALUES, "more": VALUES},
)


def check_reply(data: bytes) -> None:
    """A reply line as the page has it: one line, ASCII but for the 0xFF, bounded, JSON."""
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert len(data) <= REPLY_LIMIT
    [line] = LineDecoder(REPLY_LIMIT).feed(data)
    assert isinstance(line, bytes)
    assert line.isascii()
    parse_reply(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_not(data: bytes) -> None:
    peer = Peer()
    for line in LineDecoder().feed(data + b"\n"):
        check_reply(peer.answer_line(line))


@given(REQUESTS)
def test_any_request_is_answered(members: dict[str, object]) -> None:
    line = json.dumps(members).encode()[:LINE_LIMIT]
    check_reply(Peer().answer_line(line))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_not(data: bytes) -> None:
    try:
        assert isinstance(parse_reply(data), Reply)
    except ProtocolError:
        return


@given(st.text(max_size=128), st.integers(-(10**9), 10**9), st.text(max_size=500))
def test_requests_survive_the_way(id: str, count: int, reason: str) -> None:
    data = b"left over" + encode_request("burst", {"count": count, "reason": reason}, id)
    [line] = LineDecoder().feed(data)
    assert isinstance(line, bytes)
    burst = parse(line)
    assert isinstance(burst, Burst)
    assert burst.id == id
    assert burst.rounds == min(max(count, 1), 10)


# -- replies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b'{"return": {}}', Reply(None, {})),
        (b'{"return": {"a": [1]}, "id": 4, "new": 1}', Reply(4, {"a": [1]})),
        (
            b'{"error": {"class": "New", "desc": "d", "more": 1}, "id": "x"}',
            Reply("x", {}, "New", "d"),
        ),
    ],
)
def test_replies(line: bytes, reply: Reply) -> None:
    assert parse_reply(line) == reply


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"return": 1}',
        b'{"return": {}, "error": {"class": "a", "desc": "b"}}',
        b'{"error": {}}',
        b'{"error": {"class": "", "desc": ""}}',
        b'{"error": {"class": 1, "desc": ""}}',
        b'{"QMP": {"version": {}}}',
        b'{"return": {}, "id": {}}',
    ],
)
def test_what_is_no_reply(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_reply(line)


def test_lines_as_they_are_written() -> None:
    assert encode_request("burst", {"count": 1}, 7) == (
        b'\xff{"arguments": {"count": 1}, "execute": "burst", "id": 7}\n'
    )
    assert encode_request("info", delimited=False) == b'{"execute": "info"}\n'
    assert encode_return("é", {}) == b'{"id": "\\u00e9", "return": {}}\n'


def test_info_is_bounded_whatever_the_guest_has() -> None:
    addresses = tuple(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}" for n in range(1000))
    links = [LinkBrief("\t" * 15, "52:54:00:12:34:56", addresses[:30])]
    links += [LinkBrief(f"eth-long-name-{n}", "52:54:00:12:34:56", addresses) for n in range(99)]
    counters = {f"frames-sent-for-some-cause-{n}": INTEGER_MOST for n in range(20)}
    value = info_value("1.2.3", links, counters, 3600.0)
    reply = encode_return("\u1234" * 128, value)
    check_reply(reply)
    assert value["omitted"] == 30 + 99_000 - 32
    named = value["links"]
    assert isinstance(named, list)
    assert [len(link["addresses"]) for link in named] == [30, 2, *[0] * 30]


# -- hints seen before ------------------------------------------------------------------


def test_a_hint_is_new_once() -> None:
    hints = Deduplicator()
    assert [hints.seen("a", n) for n in (5, 5, 6, 4, 4, 6)] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert not hints.seen("b", 5)


def test_what_is_too_old_counts_as_seen() -> None:
    hints = Deduplicator(window=64)
    assert not hints.seen("a", 100)
    assert [hints.seen("a", n) for n in (36, 37, 37)] == [True, False, True]
    assert not hints.seen("a", INTEGER_MOST)
    assert [hints.seen("a", n) for n in (100, INTEGER_MOST, INTEGER_MOST - 63)] == [
        True,
        True,
        False,
    ]


def test_few_boots_are_remembered_the_last_heard_of() -> None:
    hints = Deduplicator(boots=2)
    assert not hints.seen("a", 1)
    assert not hints.seen("b", 1)
    assert hints.seen("a", 1)
    assert not hints.seen("c", 1)
    assert hints.seen("a", 1)
    assert not hints.seen("b", 1)


@given(st.lists(st.integers(0, 200)))
def test_within_the_window_it_is_a_set(numbers: list[int]) -> None:
    hints, known = Deduplicator(window=256), set[int]()
    for number in numbers:
        assert hints.seen("a", number) == (number in known)
        known.add(number)
