"""What `garp-hint` prints of guests, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.render import hypervisor
from garp_agent.render.history_page import history_page
from garp_agent.render.table import Screen

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


def test_names_of_links_and_ports_cannot_control_the_terminal() -> None:
    link = {"link": HOSTILE, "kind": "bridge", "mode": "", "ports": [HOSTILE], "carrier": True}
    text = hypervisor.watcher_status_text({**STATUS, "following": [link]})
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("forged") == 2


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


ENTRY: dict[str, Any] = {
    "time": 0.0,
    "reason": "bond0 is back",
    "guests": 1,
    "answered": 1,
    "rounds": 1,
    "repeating": 0,
    "slowest_seconds": 0.003,
    "superseded": 0,
    "unanswered": [],
    "unanswered_without_agent": [],
    "unanswered_by_state": {},
}
REACHED = {"forwards_seconds": 0.004, "reached": 41, "addresses": 41, "slowest_seconds": 0.084}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (REACHED, "verified: 41 of 41, slowest 84 ms"),
        ({**REACHED, "reached": 0, "slowest_seconds": None}, "verified: 0 of 41"),
        ({**REACHED, "forwards_seconds": None}, "not verified: the path was not seen to forward"),
    ],
)
def test_history_and_status_say_what_the_network_has_said(found: dict[str, Any], text: str) -> None:
    entry = {**ENTRY, "verified": found}
    values = {**STATUS, "history": [entry]}
    assert hypervisor.history(values, 0.0).splitlines()[2].strip() == text
    status = hypervisor.watcher_status_text(values)
    assert f"last failover {text}\n" in status
    assert text in history_page(values, "host", 0.0)


@pytest.mark.parametrize("older", [ENTRY, {**ENTRY, "verified": None}])
def test_history_of_a_failover_that_was_not_verified_has_no_line_for_it(
    older: dict[str, Any],
) -> None:
    values = {**STATUS, "history": [older]}
    assert len(hypervisor.history(values, 0.0).splitlines()) == 2
    status = hypervisor.watcher_status_text(values)
    assert "last failover" not in status


def test_history_without_a_failover_is_one_line_that_says_since_when() -> None:
    started = hypervisor.local_time(1_700_000_000.0)
    line = f"no failover since the watcher started at {started}"
    assert hypervisor.history({**STATUS, "uptime": 7.0}, 1_700_000_007.0) == f"{line}\n"
    narrow = hypervisor.history(STATUS, 1_700_000_003.0, Screen(40))
    assert narrow.split() == line.split()
    assert max(map(len, narrow.splitlines())) <= 40


def test_list_on_a_narrow_screen_shows_addresses_and_no_sockets() -> None:
    links = [{"addresses": ["192.0.2.10", "192.0.2.11"]}]
    guest = {
        "guest": "web1",
        "state": "answered",
        "way": "agent",
        "reply": {"version": "0.1.0", "links": links},
        "ports": ["vnet0"],
        "behind": ["bond0", "br0"],
        "path": "/run/libvirt/qemu/channel/1-web1/org.garp_agent.0",
    }
    narrow, wide = (hypervisor.guest_list([guest], Screen(width)) for width in (80, 200))
    assert narrow.splitlines()[1].split()[4:] == [
        "192.0.2.10",
        "192.0.2.11",
        "vnet0",
        "bond0",
        "br0",
    ]
    assert wide.splitlines()[1].endswith("/1-web1/org.garp_agent.0")
