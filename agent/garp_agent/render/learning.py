"""Learning frames as text for people, and as metrics.

Takes plain values, as JSON carries them.
"""

from __future__ import annotations

import os
from collections import Counter
from errno import errorcode
from typing import Any

from garp_agent.render.prometheus import Family
from garp_agent.render.table import PIPE, Row, Screen, counted, printable, table


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
    counts = dict(values["sent"] or {})
    count = len(values["frames"])
    parts = [f"{counts.pop(0, 0)} of {count} learning frames sent"]
    if values["sent"] is None:
        parts = [f"{counted(count, 'learning frame')} would be sent"]
    reasons: Counter[str] = Counter()
    for each in values["left_out"]:
        reasons[each["reason"]] += each["addresses"]
    return printable(", ".join([*parts, *_not_sent(counts, reasons)]))


def learning_line(counts: dict[str, Any]) -> str:
    """Write in one line what the watcher has sent, in all or after one failover."""
    parts = [f"learning frames: {counts['sent']} sent"]
    if counts.get("last_seconds") is not None:
        parts[0] += f" within {counts['last_seconds'] * 1000:.0f} ms"
    if "remembered" in counts:
        parts.append(f"{counted(counts['remembered'], 'address')} remembered")
    parts += _not_sent(counts["failed"], counts["left_out"])
    return printable(", ".join(parts))


def _not_sent(failed: dict[Any, int], left_out: dict[str, int]) -> list[str]:
    parts = [f"{count} failed ({os.strerror(int(number))})" for number, count in failed.items()]
    return parts + [f"{count} left out ({reason})" for reason, count in sorted(left_out.items())]


def learning_families(values: dict[str, Any]) -> list[Family]:
    """Return the metrics of the watcher's learning frames; none if it sends none."""
    counts = values.get("learning")
    if counts is None:
        return []
    results = [("sent", counts["sent"])]
    results += [(errorcode.get(int(each), each), n) for each, n in counts["failed"].items()]
    frames = "Learning frames by outcome: sent, or the error of the kernel."
    left_out = "Addresses that got no learning frame after the last failover, by reason."
    remembered = "Addresses behind guest ports that are remembered for learning frames."
    return [
        ("learning_frames_total", frames, [({"outcome": each}, n) for each, n in results]),
        (
            "learning_left_out",
            left_out,
            [({"reason": each}, n) for each, n in counts["left_out"].items()],
        ),
        ("learning_remembered", remembered, [({}, counts["remembered"])]),
    ]
