"""The page of the history, as its reader finds it."""

from __future__ import annotations

from typing import Any

from garp_agent.render.history_page import history_page
from garp_agent.render.hypervisor import local_time
from tests.render.test_page import Reader

ENTRY: dict[str, Any] = {
    "time": 1_700_000_000.0,
    "reason": "bond0 went from eth0 to eth1",
    "guests": 41,
    "answered": 41,
    "rounds": 7,
    "repeating": 0,
    "slowest_seconds": 0.0841,
    "superseded": 0,
    "unanswered": [],
    "unanswered_without_agent": [],
    "unanswered_by_state": {},
}
STATUS: dict[str, Any] = {"version": "1.2.3", "uptime": 100.0, "history": [ENTRY]}
PARTLY = ENTRY | {
    "reason": "<b>\x1b[2J",
    "answered": 40,
    "repeating": 40,
    "slowest_seconds": 0.1682,
    "unanswered": ["web1"],
    "unanswered_by_state": {"no-agent": 1},
}


def test_history_page_has_a_row_for_each_failover_the_newest_first() -> None:
    text = history_page({**STATUS, "history": [ENTRY, PARTLY]}, "host1", 1_700_000_100.0)
    cells = [cell.replace("\xa0", " ").strip() for cell in Reader(text).cells]
    when = local_time(ENTRY["time"])
    assert cells == [
        *(when, r"<b>\x1b[2J", "40 of 41", "168.2 ms", "7, more to come", "1 no-agent web1", "-"),
        *(when, ENTRY["reason"], "41 of 41", "84.1 ms", "7", "-", "-"),
    ]
    assert "All hinted guests answered in 1 of 2." in text
    assert "width: 50.0%" in text  # 84.1 ms beside 168.2 ms


def test_history_page_has_the_learning_frames_of_a_failover() -> None:
    sent = {"sent": 42, "failed": {}, "left_out": {"never": 1}, "last_seconds": 0.021}
    text = history_page({**STATUS, "history": [ENTRY | {"learning": sent}]}, "host1", 0.0)
    told = "learning frames: 42 sent within 21 ms, 1 left out (never)"
    assert Reader(text).cells[1] == f"{ENTRY['reason']}{told}"


def test_history_page_without_a_failover_says_since_when() -> None:
    text = history_page({**STATUS, "history": []}, "host1", 1_700_000_100.0)
    started = local_time(1_700_000_000.0)
    assert f"No failover since the watcher started at {started}." in text
    assert Reader(text).cells == []


def test_history_page_without_guests_or_answers_has_no_time() -> None:
    empty = ENTRY | {"guests": 0, "answered": 0, "slowest_seconds": None}
    text = history_page({**STATUS, "history": [empty]}, "h", 0.0)
    assert Reader(text).cells[2:4] == ["\xa00\xa0of\xa00", "-"]
