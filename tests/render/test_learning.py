"""What `garp-hint learn` prints."""

from __future__ import annotations

import os
from typing import Any

from garp_agent.render.learning import learning_summary, learning_text

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
    assert learning_summary(values(sent={"0": 1, "100": 1}, left_out=[])) == (
        f"1 of 2 learning frames sent, 1 failed ({os.strerror(100)})"
    )
    assert learning_summary(values(frames=[], left_out=[], sent={})) == (
        "0 of 0 learning frames sent"
    )
