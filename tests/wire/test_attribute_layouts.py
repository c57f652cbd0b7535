"""Attributes that are read with the layout of an earlier message, against a walk through all."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.wire import attribute_layouts, rtnetlink
from garp_agent.wire.attribute_layouts import LAYOUTS_MOST, ChosenAttributes
from garp_agent.wire.rtnetlink import DecodeError, attribute
from tests.world import property_settings

ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9)), max_size=6)


def outcome(read: Any) -> Any:
    try:
        return read()
    except DecodeError as error:
        return str(error)


def walked(data: bytes, wanted: frozenset[int]) -> Any:
    found = outcome(lambda: dict(rtnetlink.attributes(data, 0, len(data))))
    if isinstance(found, str):
        return found
    return {number: value for number, value in found.items() if number in wanted}


@given(
    st.lists(st.tuples(ATTRIBUTES, st.binary(max_size=6)), min_size=1, max_size=3),
    st.frozensets(st.integers(0, 0x3FFF), max_size=5),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 255)), max_size=12),
)
@property_settings(300)
def test_chosen_attributes_are_those_of_a_walk_whatever_was_read_before(
    told: list[tuple[list[tuple[int, bytes]], bytes]],
    others: frozenset[int],
    changes: list[tuple[int, int, int]],
) -> None:
    """Messages come again with one byte changed: in a value, in a length, in a type."""
    messages = [b"".join(attribute(*each) for each in some) + rest for some, rest in told]
    wanted = others | {number & 0x3FFF for some, _rest in told for number, _value in some[::2]}
    reader = ChosenAttributes(*wanted)
    for index, at, value in [(0, 0, 0), (1, 0, 0), (2, 0, 0), *changes]:
        message = messages[index % len(messages)]
        for data in (message, message[:at] + bytes([value]) + message[at + 1 :]):
            assert outcome(lambda data=data: reader.read(data, 0, len(data))) == walked(
                data, wanted
            )


def test_chosen_attributes_are_read_from_inside_a_datagram() -> None:
    reader = ChosenAttributes(2)
    for before in (b"", bytes(12), b"x" * 7):
        data = before + attribute(1, b"one") + attribute(2, before) + b"next"
        assert reader.read(data, len(before), len(data) - 4) == {2: before}


def test_message_of_a_known_layout_is_not_walked_through(monkeypatch: Any) -> None:
    """Counted, not timed."""
    reader, walks = ChosenAttributes(1), []
    headers = rtnetlink.attribute_headers

    def counted(data: bytes, start: int, end: int) -> Any:
        walks.append(data)
        return headers(data, start, end)

    monkeypatch.setattr(attribute_layouts, "attribute_headers", counted)
    for number in range(100):
        value = struct.pack("=I", number)
        assert reader.read(attribute(1, value) + attribute(2, value), 0, 16) == {1: value}
    assert len(walks) == 1


def test_layouts_are_forgotten_when_there_are_too_many() -> None:
    reader = ChosenAttributes(1)
    for number in range(LAYOUTS_MOST * 3):
        assert reader.read(attribute(number, b"four"), 0, 8) == (
            {1: b"four"} if number == 1 else {}
        )
        kept = sum(map(len, reader._layouts.values()))
        assert 0 < kept <= LAYOUTS_MOST
