"""Pages: whole, without anything to load, and safe whatever text is in them."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.render.page import bar, element, html_table, page
from tests.world import property_settings

VOID = {"br", "meta"}
LOADING = {"src", "href", "srcset", "data", "action"}


class Reader(HTMLParser):
    """Reads a page: its text, and whether each element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert LOADING.isdisjoint(name for name, _ in attrs)
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


@property_settings(100)
@given(st.text(st.characters(exclude_categories=())))
def test_page_any_text_adds_no_element_and_can_be_encoded(text: str) -> None:
    made, plain = (
        page(each, [html_table([each], [[element("b", each, "bad"), bar(0.5)]])], each)
        for each in (text, "text")
    )
    assert Reader(made).names == Reader(plain).names
    assert made.encode("utf-8")


def test_page_loads_nothing() -> None:
    text = page("title", [], "footer")
    assert [each for each in ("url(", "@import", "<script", "<link", "http") if each in text] == []


def test_html_table_keeps_rows_and_cells() -> None:
    rows = [["1", "<b>2</b>"], ["3", "4"]]
    reader = Reader(html_table(["a", "b"], rows))
    assert reader.cells == ["1", "2", "3", "4"]
    assert reader.names.count("tr") == 3


def test_bar_shares_outside_0_to_1_are_limited() -> None:
    for share, width in ((-1.0, "0.0%"), (0.25, "25.0%"), (7.0, "100.0%")):
        assert f"width: {width}" in bar(share)
