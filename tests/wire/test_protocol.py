"""The protocol: what each line means, and the errors.  tests/fuzz has any bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from garp_agent.wire.lines import REPLY_LIMIT, Overlong
from garp_agent.wire.protocol import (
    CONTROL_COMMANDS,
    Burst,
    ErrorClass,
    Info,
    Lease,
    LinkBrief,
    ProtocolError,
    Reply,
    Status,
    Sync,
    encode_error,
    encode_request,
    encode_return,
    info_value,
    parse,
    parse_reply,
)
from garp_agent.wire.strict_json import INTEGER_MOST

# -- requests ---------------------------------------------------------------------------


def ask(command: str, **arguments: object) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments, "id": 1}).encode()


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"BURST", Burst()),
        (b" BURST\t", Burst()),
        (b'{"execute": "burst"}', Burst()),
        (b' {"execute": "burst", "arguments": {}, "id": null}\t', Burst()),
        (b'{"execute":"info","id":"%s"}' % (b"x" * 128), Info("x" * 128)),
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
        (
            ask("burst", count=-INTEGER_MOST, interval=11),
            Burst(1, "", 1, 10.0, adjusted=(("count", 1), ("interval", 10.0))),
        ),
        (ask("burst", reason="bond0: eth0 → eth1"), Burst(1, "bond0: eth0 → eth1")),
        (ask("burst", reason="a\nb\ud800"), Burst(1, "a?b?", adjusted=(("reason", "a?b?"),))),
        (ask("burst", reason="x" * 129), Burst(1, "x" * 128, adjusted=(("reason", "x" * 128),))),
        (ask("burst", boot="b", sequence=2**63 - 1), Burst(1, boot="b", sequence=2**63 - 1)),
    ],
)
def test_a_line_gives_its_request(line: bytes, request_: object) -> None:
    parsed = parse(line)
    assert (type(parsed), parsed) == (type(request_), request_)


def cases() -> Iterator[tuple[bytes, str, str, object]]:
    """Yield the lines of errors.txt, each with its class, description and id."""
    for block in Path(__file__).with_name("errors.txt").read_text().split("\n\n")[1:]:
        heading, *lines = block.splitlines()
        kind, _, description = heading.partition(": ")
        error_class, _, id = kind.partition(" ")
        for line in lines:
            data = line.strip().encode().decode("unicode_escape").encode("latin-1")
            yield data, error_class, description, int(id) if id else None


LONG_ID = 'member "id" must be a scalar, a string of at most 128 characters'
LONG = [
    # "nested too deeply" or "not JSON": it depends on the depth that this Python allows.
    (b"[" * 4096, "InvalidJSON", ""),
    (b'{"a":' * 800, "InvalidJSON", ""),
    (b"9" * 400 + b".0", "InvalidJSON", "the number 99999999999999999999 is out of range"),
    (b"9" * 4096, "InvalidJSON", "the integer 99999999999999999999 is out of range"),
    (b'{"execute": "info", "id": "%s"}' % (b"x" * 129), "InvalidRequest", LONG_ID),
    (Overlong(8), "LineTooLong", "the line is longer than 8 bytes and was discarded"),
]


@pytest.mark.parametrize(
    ("line", "error_class", "description", "id"), [*cases(), *((*each, None) for each in LONG)]
)
def test_line_with_an_error_gives_its_class_its_text_and_its_id(
    line: bytes | Overlong, error_class: str, description: str, id: object
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(line)
    assert (caught.value.error_class.value, caught.value.id) == (error_class, id)
    assert caught.value.description == description or not description


def test_commands_depend_on_where_the_line_came_from() -> None:
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
def test_offsets_of_a_burst(burst: Burst, offsets: tuple[float, ...]) -> None:
    assert burst.offsets((0.0, 0.1, 0.4)) == offsets


# -- replies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b'{"return": {}}', Reply(None, {})),
        (b'{"return": {"a": [1]}, "id": 4, "new": 1}', Reply(4, {"a": [1]})),
        (b'{"error": {"class": "New", "desc": "d"}, "id": "x"}', Reply("x", {}, "New", "d")),
    ],
)
def test_a_line_gives_its_reply(line: bytes, reply: Reply) -> None:
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
def test_a_line_that_is_no_reply_gives_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_reply(line)


def test_lines_are_written_with_sorted_members_in_ascii() -> None:
    assert encode_request("burst", {"count": 1}, 7) == (
        b'\xff{"arguments": {"count": 1}, "execute": "burst", "id": 7}\n'
    )
    assert encode_request("info", delimited=False) == b'{"execute": "info"}\n'
    assert encode_return("é", {}) == b'{"id": "\\u00e9", "return": {}}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_return(None, {"a": float("nan")})
    error = ProtocolError(ErrorClass.FAILED, "x" * 999, 3)
    assert parse_reply(encode_error(error)) == Reply(3, {}, "Failed", "x" * 512)


def test_info_fits_a_reply_line_however_many_addresses_there_are() -> None:
    addresses = tuple(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}" for n in range(1000))
    links = [LinkBrief("\t" * 15, "52:54:00:12:34:56", addresses[:30])]
    links += [LinkBrief(f"eth-long-name-{n}", "52:54:00:12:34:56", addresses) for n in range(99)]
    counters = {f"frames-sent-for-some-cause-{n}": INTEGER_MOST for n in range(20)}
    value = info_value("1.2.3", links, counters, 3600.0, 290.0)
    assert len(encode_return("\u1234" * 128, value)) <= REPLY_LIMIT
    assert value["omitted"] == 30 + 99_000 - 32
    named = value["links"]
    assert isinstance(named, list)
    assert [len(link["addresses"]) for link in named] == [30, 2, *[0] * 30]
