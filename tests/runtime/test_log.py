"""log: one line a notice, whatever is in it, and never a reason to stop."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.runtime.log import Log, address_text, text_of
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_ERROR,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    Errno,
    Notice,
)
from tests.world import ip, mac, property_settings

SOURCE = Path(__file__).parents[2] / "agent"


@pytest.fixture(autouse=True)
def _no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def written(notice: Notice, *, as_json: bool = False, level: int = LEVEL_INFO) -> str:
    log = Log(level, as_json)
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        log.write(notice)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ((), "event"),
        ((("interface", "eth0"),), "event interface=eth0"),
        ((("address", ip("10.0.0.1")),), "event address=10.0.0.1"),
        ((("address", ip("fd00::1")),), "event address=fd00::1"),
        (
            (("hardware_address", mac("02:00:5e:00:00:01")),),
            "event hardware_address=02:00:5e:00:00:01",
        ),
        ((("error", Errno(errno.ENOBUFS)),), "event error=ENOBUFS"),
        ((("error", Errno(9999)),), "event error=9999"),
        ((("count", 7), ("seconds", 0.5)), "event count=7 seconds=0.5"),
        ((("reason", None), ("cause", "hint")), "event cause=hint"),
        ((("reason", "two words"),), 'event reason="two words"'),
        ((("reason", ""),), 'event reason=""'),
        ((("reason", 'a "b"'),), r'event reason="a \"b\""'),
        ((("reason", "a=b"),), 'event reason="a=b"'),
        ((("name", "eth0\n<3>forged"),), r'event name="eth0\n<3>forged"'),
        ((("name", "\x1b[31m"),), r'event name="\x1b[31m"'),
        ((("name", "not\udcffutf"),), r'event name="not\udcffutf"'),
    ],
)
def test_a_line_of_text(fields: tuple[tuple[str, object], ...], line: str) -> None:
    assert written(Notice(LEVEL_INFO, "event", fields)) == line + "\n"


def test_a_line_of_json() -> None:
    fields = (
        ("address", ip("10.0.0.1")),
        ("error", Errno(errno.ENETDOWN)),
        ("reason", None),
        ("count", 7),
    )
    line = written(Notice(LEVEL_WARNING, "frame-dropped", fields), as_json=True)
    assert json.loads(line) == {
        "level": "warning",
        "event": "frame-dropped",
        "address": "10.0.0.1",
        "error": "ENETDOWN",
        "count": 7,
    }
    assert line.endswith("}\n")


any_value = st.one_of(
    st.none(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=())),
    st.sampled_from([b"", b"abcd", b"abcdef", bytes(16), b"x"]),
    st.integers(0, 200).map(Errno),
)
any_notice = st.builds(
    Notice,
    st.integers(LEVEL_ERROR, LEVEL_DEBUG),
    st.just("event"),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), any_value), max_size=3).map(tuple),
)


@property_settings(200)
@given(any_notice)
def test_any_notice_is_one_printable_line(notice: Notice) -> None:
    text = written(notice, level=LEVEL_DEBUG)
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@property_settings(200)
@given(any_notice)
def test_any_notice_is_one_line_of_json(notice: Notice) -> None:
    line = written(notice, as_json=True, level=LEVEL_DEBUG)
    assert line.count("\n") == 1
    assert line.isascii()
    said = {name: value for name, value in notice.fields if value is not None}
    assert set(json.loads(line)) == {"level", "event", *said}


@pytest.mark.parametrize("level", [LEVEL_ERROR, LEVEL_NOTICE, LEVEL_DEBUG])
def test_only_what_is_urgent_enough_is_written(level: int) -> None:
    for urgency in range(LEVEL_ERROR, LEVEL_DEBUG + 1):
        assert bool(written(Notice(urgency, "event"), level=level)) is (urgency <= level)


def test_journald_gets_the_level_before_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    assert written(Notice(LEVEL_WARNING, "event")) == "<4>event\n"
    assert written(Notice(LEVEL_WARNING, "event"), as_json=True).startswith("{")


def test_a_notice_made_here() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        Log().say(LEVEL_INFO, "stopped", frames_sent=3)
    assert stream.getvalue() == "stopped frames_sent=3\n"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (b"", ""),
        (ip("192.0.2.1"), "192.0.2.1"),
        (ip("2001:db8::"), "2001:db8::"),
        (mac("02:00:00:00:00:0a"), "02:00:00:00:00:0a"),
        (bytes(8), "00:00:00:00:00:00:00:00"),
    ],
)
def test_addresses_as_text(address: bytes, text: str) -> None:
    assert address_text(address) == text
    assert text_of(address) == text


# -- nobody there to read -------------------------------------------------------------------


def test_a_reader_that_has_gone_away_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    with contextlib.redirect_stderr(stream):
        Log().say(LEVEL_INFO, "event")
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_stream_that_was_closed_is_no_error() -> None:
    stream = io.StringIO()
    stream.close()
    with contextlib.redirect_stderr(stream):
        Log().say(LEVEL_INFO, "event")


def test_an_encoding_that_lacks_a_character_is_no_error() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stderr(stream):
        Log().say(LEVEL_INFO, "event", name="\N{SNOWMAN}")


def test_no_standard_error_at_all_is_no_error() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\nfrom garp_agent.runtime.log import Log\n"
    )
    code += "assert sys.stderr is None; Log().say(6, 'event'); print('alive')"
    result = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -I -c "$1" 2>&-', sys.executable, code],
        check=True,
        stdout=subprocess.PIPE,
    )
    assert result.stdout == b"alive\n"


def test_a_reader_that_hangs_costs_lines_and_never_time() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    log = Log()
    with os.fdopen(write_end, "w") as stream, contextlib.redirect_stderr(stream):
        for _ in range(3):
            log.say(LEVEL_INFO, "lost")
        assert set(os.read(read_end, 1 << 20)) == {ord("x")}
        log.say(LEVEL_INFO, "event")
        log.say(LEVEL_INFO, "another")
        written_then = os.read(read_end, 1 << 20)
    os.close(read_end)
    assert written_then == b"log-lines-lost count=3\nevent\nanother\n"
