"""Columns, and what a terminal must not get."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.render.table import Row, Screen, counted, printable, shortened, some, table, wrapped
from tests.world import property_settings


def test_printable_escapes_what_could_control_a_terminal() -> None:
    for name in ("brü", "a\\b"):
        assert printable(name) == name
    for name in ("\x1b[2J", "a\nb", "\udcff", "\u202eabc"):
        assert printable(name) == ascii(name)[1:-1]


@property_settings(100)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.text(st.characters(exclude_categories=()))] * width), min_size=1
        )
    )
)
def test_a_table_has_a_line_for_each_row_and_aligns_its_columns(
    rows: list[tuple[str, ...]],
) -> None:
    lines = table(rows).split("\n")
    assert len(lines) == len(rows) + 1
    assert lines[-1] == ""
    starts = [0]
    for column in list(zip(*rows))[:-1]:
        starts.append(starts[-1] + 2 + max(len(printable(cell)) for cell in column))
    for line, cells in zip(lines, rows):
        assert line.isprintable()
        assert line == line.rstrip()
        for start, cell in zip(starts, cells):
            assert line[start:].startswith(printable(cell).rstrip())


ROWS: list[Row] = [("NAME", "N", "TEXT"), ("a" * 30, "1", "b" * 20), ("c", "2", "d")]


@pytest.mark.parametrize(
    ("width", "cut", "widths"),
    [
        (0, (0, 2), [55, 36]),
        (80, (0, 2), [55, 36]),
        (55, (0, 2), [55, 36]),
        (54, (0, 2), [54, 35]),  # the widest is shortened first
        (40, (0, 2), [40, 23]),
        (40, (2,), [40, 36]),
        (9, (0, 2), [13, 10]),  # no column gets narrower than its heading
        (9, (), [55, 36]),
    ],
)
def test_table_fits_the_screen_as_far_as_headings_allow(
    width: int, cut: tuple[int, ...], widths: list[int]
) -> None:
    lines = table(ROWS, Screen(width), cut).splitlines()
    assert [len(lines[1]), len(lines[2])] == widths
    assert len({line.index(number) for line, number in zip(lines, ("N ", "1 ", "2 "))}) == 1


def test_table_colours_add_no_columns() -> None:
    screen = Screen(40, lambda text, meaning: f"<{meaning}>{text}</>")
    painted = table(ROWS, screen, (0, 2), lambda column, text: "good" if column == 1 else "")
    assert "<heading>NAME</>" in painted
    assert painted.count("<good>") == 2
    assert re.sub("<.*?>", "", painted) == table(ROWS, Screen(40), (0, 2))


def test_shortened_ends_in_dots_within_the_width() -> None:
    assert [shortened("abcdef", width) for width in (6, 5, 3, 1)] == ["abcdef", "ab...", "...", "."]


def test_wrapped_further_lines_are_indented() -> None:
    assert wrapped("one two three", Screen(8)) == "one two\n  three"
    assert wrapped("one two three", Screen()) == "one two three"


def test_counted_has_one_thing_and_more_things() -> None:
    numbers = (0, 1, "1", 2, "?")
    texts = ["0 frames", "1 frame", "1 frame", "2 frames", "? frames"]
    assert [counted(number, "frame") for number in numbers] == texts
    assert [counted(number, "address") for number in (1, 2)] == ["1 address", "2 addresses"]


def test_some_names_four() -> None:
    assert some(list("abcd")) == "a, b, c, d"
    assert some(list("abcdef")) == "a, b, c, d and 2 more"
