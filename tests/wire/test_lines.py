"""LineDecoder: lines from chunks of any size, within bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.wire.lines import LINE_LIMIT, LineDecoder, Overlong
from tests.world import property_settings


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
def test_bytes_give_lines_whole_and_byte_by_byte(data: bytes, lines: list[object]) -> None:
    assert LineDecoder(limit=8).feed(data) == lines
    decoder = LineDecoder(limit=8)
    assert [line for byte in data for line in decoder.feed(bytes([byte]))] == lines


PIECES = st.sampled_from([b"\n", b"\r", b"\xff", b"a", b"bc", b"12345678", b"{}"])


@property_settings(100)
@given(st.lists(PIECES | st.binary(max_size=20)), st.data())
def test_the_chunks_do_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    expected = LineDecoder(limit=8).feed(whole)
    found: list[object] = []
    decoder, start = LineDecoder(limit=8), 0
    while start < len(whole):
        size = data.draw(st.integers(1, len(whole) - start))
        found += decoder.feed(whole[start : start + size])
        start += size
        assert len(decoder._collected) <= 9
    assert found == expected
    assert all(isinstance(line, Overlong) or 0 < len(line) <= 8 for line in expected)


@pytest.mark.parametrize("begun", [b"half", b"much longer than that"])
def test_clear_discards_the_line_that_was_begun(begun: bytes) -> None:
    decoder = LineDecoder(limit=8)
    assert decoder.feed(begun) == []
    decoder.clear()
    assert decoder.feed(b"next\n") == [b"next"]


def test_line_is_limited_to_4096_bytes_by_default() -> None:
    longest = b"x" * LINE_LIMIT
    assert LineDecoder().feed(longest + b"\nx" + longest + b"\n") == [longest, Overlong(4096)]
