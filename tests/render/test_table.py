"""Columns, and what a terminal must not get."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.render.table import printable, table
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
