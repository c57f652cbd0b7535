"""Pages in a real browser: what is seen after loading, and that names are only text.

The files are those that `--html` writes.  Chromium opens them as file:// and prints its DOM.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from html import escape
from pathlib import Path

import pytest

from garp_agent.cli.terminal import write_page
from garp_agent.render.history_page import history_page
from garp_agent.render.probe import drill_page
from tests.render.test_history_page import ENTRY, STATUS
from tests.render.test_page import Reader
from tests.render.test_probe import drilled

PATIENCE = 120.0  # seconds; only a broken browser takes as long
CHROMIUM = shutil.which("chromium")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",  # the discard port: nothing listens there
)
HOSTILE = (
    "<script>document.title='executed'</script>"
    "\"'><img src=x onerror=document.title='executed'>"
    "</td></table><style>*{display:none}</style>"
)
LONG_HOST = f"{'h' * 63}.example.org"  # a label has at most 63 bytes, RFC 1035 section 2.3.4
NARROW = 360  # CSS pixels: a phone

# A page in an iframe has a window as narrow as that.  A script may look into a page from srcdoc.
MEASURE = """<!DOCTYPE html>{frames}
<script>
onload = () => {{
  const pages = [...document.querySelectorAll("iframe")].map(each => each.contentWindow);
  document.body.textContent = JSON.stringify(pages.map(each => [
    each.document.documentElement.scrollWidth,
    each.document.documentElement.clientWidth,
    each.performance.getEntriesByType("resource").length,
  ]));
}};
</script>"""


def drill() -> str:
    values = drilled(time=1_700_000_000.0)
    for direction in values["directions"]:
        direction["guests"][1]["guest"] = HOSTILE
    return drill_page(values)


def history() -> str:
    entries = [ENTRY, ENTRY | {"answered": 40, "unanswered": [HOSTILE]}]
    return history_page({**STATUS, "history": entries}, LONG_HOST, 1_700_000_100.0)


PAGES = {
    "drill": (drill, "Failover drill of bond0", ("web1", "84 ms", "not healed", "Not passed")),
    "history": (history, f"Failovers of {LONG_HOST}", ("41 of 41", "84.1 ms", "2 failovers.")),
}


def browse(folder: Path, page: Path, *more: str) -> str:
    """Open a page in the browser; return its DOM after loading."""
    if not CHROMIUM:
        pytest.skip("chromium is not installed (tools/setup.sh test)")
    command = [CHROMIUM, *SWITCHES, f"--user-data-dir={folder}/profile", *more, "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri()], check=True, capture_output=True, timeout=PATIENCE
    )
    return done.stdout.decode()


def pixels(png: bytes) -> bytes:
    """Return the filtered samples of a PNG (W3C PNG, sections 5.3 and 9): the same byte, if blank.

    A filter writes differences, so an area of one colour is mostly zeros.
    """
    found, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            found += png[at + 8 : at + 8 + length]
        at += 12 + length
    return zlib.decompress(found)


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser_shows_its_text_and_names_are_not_executed(
    name: str, tmp_path: Path
) -> None:
    make, title, texts = PAGES[name]
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    text = make()
    write_page(str(file), text, "test")
    dom = browse(tmp_path, file, f"--screenshot={picture}", "--window-size=1280,1000")
    assert f"<title>{title}</title>" in dom
    shown = Reader(dom)  # it refuses attributes that load something
    assert shown.names == Reader(text).names
    assert {"script", "img", "link", "iframe"}.isdisjoint(shown.names)
    assert any(HOSTILE in cell for cell in shown.cells)
    assert [each for each in texts if each not in dom.replace("&nbsp;", " ")] == []
    assert len(set(pixels(picture.read_bytes()))) > 100  # the edges of text have many colours


def test_pages_in_a_narrow_window_need_no_scrolling_and_load_nothing(tmp_path: Path) -> None:
    texts = [make() for make, *_ in PAGES.values()]
    frames = (f'<iframe width="{NARROW}" srcdoc="{escape(text)}"></iframe>' for text in texts)
    file = tmp_path / "measure.html"
    file.write_text(MEASURE.format(frames="".join(frames)))
    body = browse(tmp_path, file).partition("<body>")[2].partition("</body>")[0]
    assert json.loads(body) == [[NARROW, NARROW, 0]] * len(PAGES)
