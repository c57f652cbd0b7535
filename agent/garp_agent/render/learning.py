"""Learning frames as text for people: what ``garp-hint learn`` prints.

Takes plain values, as JSON carries them.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from garp_agent.render.table import PIPE, Row, Screen, printable, table


def learning_text(values: dict[str, Any], screen: Screen = PIPE) -> str:
    """Write a line for each frame, and one for each address that is left out."""
    sent: list[Row] = [("MAC", "TAGS", "BOND", "PORT", "GUEST", "HEARD")]
    for frame in values["frames"]:
        tags = " ".join(frame["tags"]) or "-"
        guest = frame["guest"] or ("host" if frame["kind"] == "host" else "-")
        heard = "-" if frame["silent"] is None else f"{frame['silent']:.0f} s ago"
        sent.append((frame["mac"], tags, frame["bond"], frame["port"], guest, heard))
    left_out: list[Row] = [("LEFT OUT", "PORT", "GUEST", "REASON", "WHY")]
    for each in values["left_out"]:
        row = (each["mac"] or "?", each["port"], each["guest"] or "-", each["reason"])
        left_out.append((*row, each["detail"]))
    parts = [table(rows, screen, (4,)) for rows in (sent, left_out) if len(rows) > 1]
    return "\n".join(parts)


def learning_summary(values: dict[str, Any]) -> str:
    """Write in one line what was sent, and what failed and was left out by reason."""
    errors = {int(number): count for number, count in (values["sent"] or {}).items()}
    count = len(values["frames"])
    parts = [f"{errors.pop(0, 0)} of {count} learning frames sent"]
    if values["sent"] is None:
        parts = [f"{count} learning frames would be sent"]
    parts += [f"{count} failed ({os.strerror(number)})" for number, count in errors.items()]
    reasons: Counter[str] = Counter()
    for each in values["left_out"]:
        reasons[each["reason"]] += each["addresses"]
    parts += [f"{count} left out ({reason})" for reason, count in sorted(reasons.items())]
    return printable(", ".join(parts))
