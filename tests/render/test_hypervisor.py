"""What `garp-hint` prints of guests, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.render import hypervisor

HOSTILE = "\x1b]0;forged\x07\n\u202e"


@pytest.mark.parametrize(
    "answer",
    [
        {"state": "answered", "reply": {"frames": HOSTILE}},
        {"state": "answered", "reply": {"frames": [HOSTILE, {HOSTILE: HOSTILE}]}},
        {"state": "refused", "error": f"Failed: {HOSTILE}"},
    ],
)
def test_sent_hostile_answer_is_one_printable_line(answer: dict[str, Any]) -> None:
    line = hypervisor.sent({"guest": f"guest{HOSTILE}", "seconds": 0.001, **answer})
    assert line.isprintable()


STATUS: dict[str, Any] = {
    "version": "1",
    "pid": 2,
    "uptime": 3.0,
    "lease": 0.0,
    "leases": True,
    "following": [],
    "failovers": {},
    "hints": {},
    "history": [],
    "guests": [],
    "netlink_overruns": 0,
}


def test_status_following_nothing_says_where_it_looked_and_what_to_do() -> None:
    text = hypervisor.watcher_status_text({**STATUS, "wanted": [], "looked_at": ["e\x1b", "lo"]})
    assert "following nothing: no bond, team or bridge with an uplink; the links here: " in text
    assert r"e\x1b, lo" in text
    assert "no guest gets a hint or a lease: run the watcher in the network namespace" in text


def test_status_with_wrong_bond_names_it() -> None:
    text = hypervisor.watcher_status_text({**STATUS, "wanted": ["b7"], "looked_at": ["lo"]})
    assert "following nothing: no link b7 (--bond)" in text
    assert "correct --bond" in text


def test_status_of_an_older_watcher_following_nothing_is_shown() -> None:
    assert "the links here: ?" in hypervisor.watcher_status_text(STATUS)


def lines(**changed: Any) -> list[str]:
    return hypervisor.metrics({**STATUS, **changed}).splitlines()


def guest(state: str, lease: float) -> dict[str, Any]:
    counts = {"hints": 0, "answered": 0, "last_seconds": None}
    return {"guest": "a", "path": "/a", "state": state, "lease": lease, **counts}


def test_metrics_following_nothing_count_no_link() -> None:
    assert "garp_hint_followed_links 0" in lines()
    link = {"link": "bond0", "carrier": True}
    assert "garp_hint_followed_links 1" in lines(following=[link])


def test_metrics_count_guests_that_answer_and_have_no_lease() -> None:
    guests = [guest("answered", 0.0), guest("answered", 9.0), guest("no-agent", 0.0)]
    assert "garp_hint_guests_without_lease 1" in lines(guests=guests)
    assert "garp_hint_guests_without_lease 0" in lines(guests=guests, leases=False)
