"""The frame of a self-contained HTML page, and its parts: tables, bars, text.

Responsible for the look and for escaping.  Knows no content.  A page loads nothing, so that it can
be opened from a file and sent to colleagues; it follows the light or dark scheme of its reader.

Source: the HTML Standard (WHATWG).
"""

from __future__ import annotations

from html import escape
from string import Template

from garp_agent.render.table import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --rest: #8883; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h1, p, footer { overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
footer { margin-top: 2rem; font-size: .85rem; opacity: .7; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; overflow-wrap: break-word; }
th, td:has(.bar) { white-space: nowrap; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.bar { display: inline-block; width: 5rem; height: .7rem; background: var(--rest); }
.bar i { display: block; height: 100%; background: currentColor; }
</style>
</head>
<body>
<h1>$title</h1>
$body
<footer>$footer</footer>
</body>
</html>
""")


def page(title: str, parts: Iterable[str], footer: str) -> str:
    """Return a whole page.  ``title`` and ``footer``: text; ``parts``: HTML, as made here."""
    return _PAGE.substitute(title=html_text(title), body="\n".join(parts), footer=html_text(footer))


def html_text(text: str) -> str:
    """Return a text as HTML; characters that control a terminal are written as escapes."""
    return escape(printable(text))


def element(name: str, text: str, kind: str = "") -> str:
    """Return one element around a text.  ``kind``: its class, "good" or "bad"."""
    return f"<{name}{_class(kind)}>{html_text(text)}</{name}>"


def bar(share: float, kind: str = "") -> str:
    """Return a bar that is filled to ``share``, 0 to 1.  ``kind``: as for :func:`element`."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return f'<span class="{f"bar {kind}".rstrip()}"><i style="width: {percent:.1f}%"></i></span>'


def html_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table.  ``headings``: text; ``rows``: cells as HTML."""
    head = "".join(f"<th>{html_text(heading)}</th>" for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>'
        "\n</table></div>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
