"""Log: one line for each notice, whatever is in it, and no error from the stream."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import subprocess
import sys
import tty
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.runtime.log import Log
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_ERROR, LEVEL_INFO, LEVEL_WARNING, Errno, Notice
from tests.world import ip, mac, property_settings

SOURCE = Path(__file__).parents[2] / "agent"


@pytest.fixture(autouse=True)
def _no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def written(notice: Notice, *, as_json: bool = False, level: int = LEVEL_DEBUG) -> str:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        Log(level, as_json).write(notice)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("eth0", "eth0"),
        (0.5, "0.5"),
        (ip("10.0.0.1"), "10.0.0.1"),
        (ip("2001:db8::"), "2001:db8::"),
        (mac("02:00:5e:00:00:01"), "02:00:5e:00:00:01"),
        (bytes(8), "00:00:00:00:00:00:00:00"),
        (b"", '""'),
        (Errno(errno.ENOBUFS), "ENOBUFS"),
        (Errno(9999), "9999"),
        ("two words", '"two words"'),
        ("", '""'),
        ('a "b"', r'"a \"b\""'),
        ("a=b", '"a=b"'),
        ("eth0\n<3>forged", r'"eth0\n<3>forged"'),
        ("\x1b[31m", r'"\x1b[31m"'),
        ("not\udcffutf", r'"not\udcffutf"'),
    ],
)
def test_a_field_of_a_text_line(value: object, text: str) -> None:
    fields = (("none", None), ("name", value), ("n", 7))
    assert written(Notice(LEVEL_INFO, "event", fields)) == f"event name={text} n=7\n"


def test_line_of_json_has_addresses_and_errors_as_text() -> None:
    fields = (("address", ip("10.0.0.1")), ("error", Errno(errno.ENETDOWN)), ("count", 7))
    shown = {"address": "10.0.0.1", "error": "ENETDOWN", "count": 7}
    line = json.loads(written(Notice(LEVEL_WARNING, "frame-dropped", fields), as_json=True))
    assert line == {"level": "warning", "event": "frame-dropped", **shown}


VALUES = (
    st.none()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from([b"", b"abcd", b"abcdef", bytes(16), b"x"])
    | st.integers(0, 200).map(Errno)
)
FIELDS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), VALUES), max_size=3).map(tuple)


@property_settings(200)
@given(st.builds(Notice, st.integers(LEVEL_ERROR, LEVEL_DEBUG), st.just("event"), FIELDS))
def test_any_notice_is_one_line(notice: Notice) -> None:
    text = written(notice)
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    line = written(notice, as_json=True)
    assert line.count("\n") == 1
    assert line.isascii()
    named = {name for name, value in notice.fields if value is not None}
    assert set(json.loads(line)) == {"level", "event", *named}


@pytest.mark.parametrize("level", range(LEVEL_ERROR, LEVEL_DEBUG + 1))
def test_notice_is_written_if_it_is_as_urgent_as_the_level(level: int) -> None:
    assert written(Notice(level, "event"), level=level) == "event\n"
    assert written(Notice(level + 1, "event"), level=level) == ""


def test_journal_gets_the_level_as_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    assert written(Notice(LEVEL_WARNING, "event")) == "<4>event\n"
    assert written(Notice(LEVEL_WARNING, "event"), as_json=True).startswith("{")


def test_say_writes_a_notice_with_the_marks_at_its_end() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        Log(marks=(("dry_run", True),)).say(LEVEL_INFO, "stopped", frames_sent=3)
    assert stream.getvalue() == "stopped frames_sent=3 dry_run=True\n"


# -- streams that fail ----------------------------------------------------------------------


def test_a_stream_that_fails_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    closed = io.StringIO()
    closed.close()
    broken = os.fdopen(write_end, "w")
    for stream in (broken, closed, io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        with contextlib.redirect_stderr(stream):
            Log().say(LEVEL_INFO, "event", name="\N{SNOWMAN}")
    with contextlib.suppress(BrokenPipeError):
        broken.close()


def test_a_closed_standard_error_is_no_error() -> None:
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    code += "from garp_agent.runtime.log import Log\n"
    code += "assert sys.stderr is None; Log().say(6, 'event'); print('alive')"
    command = ["/bin/sh", "-c", 'exec "$0" -I -c "$1" 2>&-', sys.executable, code]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout == b"alive\n"


@pytest.mark.parametrize("reopens", [True, False])
def test_a_reader_that_hangs_costs_lines_but_no_time(reopens: bool) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    if not reopens and os.geteuid():
        pytest.skip("needs root, to become another user for whom the pipe does not open again")
    with os.fdopen(write_end, "w") as stream, contextlib.redirect_stderr(stream):
        if not reopens:
            os.seteuid(65534)
        try:
            log = Log()
        finally:
            if not reopens:
                os.seteuid(0)
        for _ in range(3):
            log.say(LEVEL_INFO, "lost")
        assert set(os.read(read_end, 1 << 20)) == {ord("x")}
        log.say(LEVEL_INFO, "event")
        log.say(LEVEL_INFO, "another")
        lines = os.read(read_end, 1 << 20)
    os.close(read_end)
    assert lines == b"log-lines-lost count=3\nevent\nanother\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_terminal_of_another_user_that_nobody_reads_costs_lines_but_no_time() -> None:
    leader, terminal = os.openpty()
    tty.setraw(terminal)  # else each newline becomes two bytes
    with os.fdopen(terminal, "w") as stream, contextlib.redirect_stderr(stream):
        os.seteuid(65534)
        try:
            log = Log()
        finally:
            os.seteuid(0)
        for _ in range(500):
            log.say(LEVEL_INFO, "event", text="x" * 200)
        # The kernel hands the bytes on a bit later, so room comes bit by bit, too.
        text = b""
        said = 500
        while not text.endswith(b"another\n"):
            log.say(LEVEL_INFO, "another")
            said += 1
            text += os.read(leader, 1 << 16)
    os.close(leader)
    lines = text.decode().splitlines()
    lost = [int(line.partition("=")[2]) for line in lines if line.startswith("log-lines-lost ")]
    written = [line for line in lines if not line.startswith("log-lines-lost ")]
    assert set(written) == {f"event text={'x' * 200}", "another"}
    assert lost
    assert len(written) + sum(lost) == said


def test_lines_that_a_full_file_has_no_room_for_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "log"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.open("w") as stream, contextlib.redirect_stderr(stream):
        log = Log()
        log.say(LEVEL_INFO, "first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (len("first\n"), limits[1]))
        try:
            for _ in range(3):
                log.say(LEVEL_INFO, "lost")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.say(LEVEL_INFO, "last")
    assert file.read_text() == "first\nlog-lines-lost count=3\nlast\n"
