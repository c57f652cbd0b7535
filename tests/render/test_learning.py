"""What `garp-hint learn` prints."""

from __future__ import annotations

import os
from typing import Any

from garp_agent.render.learning import (
    learning_families,
    learning_line,
    learning_summary,
    learning_text,
)

FRAME = {
    "mac": "52:54:00:00:00:01",
    "tags": ["88a8:50", "7"],
    "bond": "bond0",
    "port": "vnet0",
    "guest": "web",
    "kind": "own",
    "silent": 12.3,
}
HOST = {**FRAME, "tags": [], "port": "br0", "guest": "", "kind": "host", "silent": None}
LEFT_OUT = {
    "mac": "",
    "port": "vnet1",
    "guest": "db",
    "reason": "limit",
    "detail": "2936 more addresses",
    "addresses": 2936,
}


def values(**changes: Any) -> dict[str, Any]:
    made = {"frames": [HOST, FRAME], "left_out": [LEFT_OUT], "sent": None, "warnings": []}
    return {**made, **changes}


def test_text_has_a_line_for_each_frame_and_for_each_address_left_out() -> None:
    assert learning_text(values()) == (
        "MAC                TAGS       BOND   PORT   GUEST  HEARD\n"
        "52:54:00:00:00:01  -          bond0  br0    host   -\n"
        "52:54:00:00:00:01  88a8:50 7  bond0  vnet0  web    12 s ago\n"
        "\n"
        "LEFT OUT  PORT   GUEST  REASON  WHY\n"
        "?         vnet1  db     limit   2936 more addresses\n"
    )
    assert learning_text(values(frames=[], left_out=[])) == ""


def test_summary_counts_what_was_sent_failed_and_left_out() -> None:
    assert learning_summary(values()) == "2 learning frames would be sent, 2936 left out (limit)"
    assert learning_summary(values(sent={0: 1, 100: 1}, left_out=[])) == (
        f"1 of 2 learning frames sent, 1 failed ({os.strerror(100)})"
    )
    assert learning_summary(values(frames=[], left_out=[], sent={})) == (
        "0 of 0 learning frames sent"
    )


COUNTS = {"sent": 7, "failed": {"100": 2}, "left_out": {"no-path": 3}, "remembered": 12}


def test_line_has_what_the_watcher_has_sent_and_remembers() -> None:
    assert learning_line(COUNTS) == (
        f"learning frames: 7 sent, 12 addresses remembered, 2 failed ({os.strerror(100)}), "
        "3 left out (no-path)"
    )
    record = {"sent": 4, "failed": {}, "left_out": {}, "last_seconds": 0.0123}
    assert learning_line(record) == "learning frames: 4 sent within 12 ms"
    assert learning_line({**record, "last_seconds": None}) == "learning frames: 4 sent"


def test_metrics_have_the_outcomes_and_the_reasons() -> None:
    families = {name: samples for name, _text, samples in learning_families({"learning": COUNTS})}
    assert families == {
        "learning_frames_total": [({"outcome": "sent"}, 7), ({"outcome": "ENETDOWN"}, 2)],
        "learning_left_out": [({"reason": "no-path"}, 3)],
        "learning_remembered": [({}, 12)],
    }
    assert learning_families({}) == learning_families({"learning": None}) == []
