"""The page of ``garp-hint history --html``: a table of the failovers, the newest first.

The values are those of the watcher's status.  Knows no file and no clock.
"""

from __future__ import annotations

from typing import Any

from garp_agent.render.hypervisor import from_guest, local_time, no_failover, unanswered, verified
from garp_agent.render.learning import learning_line
from garp_agent.render.page import bar, element, html_table, html_text, page
from garp_agent.render.table import counted

HEADINGS = (
    *("Time", "Failover", "Guests that answered", "Last answer after", "Rounds", "Unanswered"),
    "Network",
)


def history_page(values: dict[str, Any], host: str, now: float) -> str:
    """Return the page.  ``values``: the watcher's status; ``now``: seconds since 1970."""
    entries = values["history"]
    slowest = max((each["slowest_seconds"] or 0.0 for each in entries), default=0.0)
    parts = [element("p", _answers_line(values, now))]
    if entries:
        rows = (_history_cells(each, slowest) for each in reversed(entries))
        parts.append(html_table(HEADINGS, rows))
    footer = (
        f"garp-hint {values['version']} on {host}, {local_time(now)}. "
        "The history begins with the watcher."
    )
    return page(f"Failovers of {host}", parts, footer)


def _answers_line(values: dict[str, Any], now: float) -> str:
    entries = values["history"]
    if not entries:
        return f"N{no_failover(values, now)[1:]}."
    complete = sum(each["answered"] == each["guests"] for each in entries)
    count = counted(len(entries), "failover")
    return f"{count}. All hinted guests answered in {complete} of {len(entries)}."


def _history_cells(entry: dict[str, Any], slowest: float) -> tuple[str, ...]:
    guests, answered, last = entry["guests"], entry["answered"], entry["slowest_seconds"]
    kind = "good" if answered == guests else "bad"
    missing = unanswered(entry)
    learnt = [learning_line(entry["learning"])] if entry.get("learning") else []
    after = f"{bar(last / slowest)}&nbsp;{last * 1000:.1f}&nbsp;ms" if last else "-"
    return (
        html_text(local_time(entry["time"])),
        "<br>".join(map(html_text, (from_guest(entry["reason"]), *learnt))),
        f"{bar(answered / guests if guests else 0.0, kind)}&nbsp;{answered}&nbsp;of&nbsp;{guests}",
        after,
        f"{entry['rounds']}{', more to come' if entry['repeating'] else ''}",
        element("span", missing, "bad") if missing else "-",
        html_text(verified(entry)) or "-",
    )
