"""Contacts and leases, with literal times."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from garp_agent.config.settings import Settings
from garp_agent.hypervisor.core.bonds import FollowedLink
from garp_agent.hypervisor.core.contacts import CONTACT, REVOCATION
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.core.guests import Channel, Guest
from garp_agent.hypervisor.core.lease_paths import GuestPath
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO, LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import Info, Lease
from tests.hypervisor.core.talk import (
    BOND0,
    BOND1,
    WALL,
    A,
    B,
    C,
    Talk,
    asked,
    first,
    requests,
)

INFO, LEASE, REVOKE = [Info()], [Lease(None, 90.0)], [Lease(None, 0.0)]


def test_found_guest_is_hinted_first_and_gets_a_lease_that_is_renewed() -> None:
    """A failover may have come while no watcher ran, and an earlier run may have left a lease."""
    talk = Talk(A, B)
    assert talk.watcher.deadline() == 0.0
    calls = talk.watcher.advance(0.0)
    assert {call.kind for call in calls} == {CONTACT}
    assert asked(calls) == {"a": first(1), "b": first(2, delay=1.0)}
    assert len({request.id for call in calls for request in requests(call)}) == 6
    assert talk.watcher.deadline() == inf
    assert talk.watcher.advance(0.0) == []
    assert talk.answer(calls, 0.5) == []
    assert talk.watcher.deadline() == 0.5
    assert talk.turn(0.5) == {"a": LEASE, "b": LEASE}
    assert talk.guest("a", 10.5)["lease"] == 80.0
    assert talk.watcher.deadline() == 30.5
    assert talk.turn(30.4) == {}
    assert talk.turn(30.5) == {"a": LEASE, "b": LEASE}
    levels = [level for level, event, _ in talk.notices() if event == "guest-state"]
    assert levels == [LEVEL_DEBUG, LEVEL_DEBUG]


def test_guest_without_an_answer_gets_no_lease_and_an_open_one_is_revoked() -> None:
    """A lease waits in the channel, and an agent that starts later would take it for new."""
    talk, now = Talk(A), 0.0
    for _ in range(3):
        assert talk.turn(now, Outcome.NO_AGENT) == {"a": first(1)}  # always the same number
        now = talk.watcher.deadline()
    now = talk.meet(now).watcher.deadline()
    talk.turn(now, Outcome.NO_AGENT)  # the renewal; it may wait in the channel now
    assert asked(talk.watcher.revoke_leases(now + 1.0)) == {"a": REVOKE}
    now = talk.watcher.deadline()
    assert talk.turn(now) == {"a": REVOKE}
    assert talk.guest("a", now)["lease"] == 0
    assert talk.watcher.revoke_leases(now) == []
    assert asked(talk.watcher.advance(now)) == {"a": LEASE}
    # No reply yet, but the guest can have it.
    assert asked(talk.watcher.revoke_leases(now)) == {"a": REVOKE}


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ((), "no link of its path is followed"),
        ((BOND0._replace(carrier=False), BOND1), "bond0 has no carrier"),
    ],
    ids=["not followed", "without carrier"],
)
def test_lease_is_revoked_at_once_when_its_path_ends_and_comes_back_a_minute_after_it(
    links: tuple[FollowedLink, ...], reason: str
) -> None:
    talk = Talk(A).meet()
    talk.watcher.follow((BOND0, BOND1), 5.0)  # no change
    assert talk.turn(5.0) == {}
    talk.watcher.follow(links, 6.0)
    assert talk.turn(6.0) == {"a": REVOKE}
    assert talk.guest("a", 6.0)["no_lease"] == reason
    assert talk.turn(66.0) == {"a": INFO}
    talk.watcher.follow((BOND0, BOND1), 67.0)
    assert talk.guest("a", 70.0)["no_lease"] == "bond0 changed 3 s ago"
    assert talk.turn(126.0) == {"a": INFO}
    talk.random = 0.0
    assert talk.turn(126.9) == {}
    assert talk.turn(157.0, Outcome.BUSY) == {"a": LEASE}
    talk.watcher.follow((), 157.5)  # at once, although that lease was not answered
    assert talk.turn(157.5) == {"a": REVOKE}


def test_changed_link_looks_at_no_guest_before_the_hints_of_its_failover() -> None:
    """With 1,000 guests that takes some milliseconds, for which no hint waits."""
    looked_at = []

    def path_of(guest: Guest, followed: frozenset[str]) -> GuestPath:
        looked_at.append(guest.channel)
        return GuestPath(followed)

    talk = Talk(A, path_of=path_of).meet()
    looked_at.clear()
    talk.watcher.follow((BOND0._replace(carrier=False), BOND1), 6.0)
    assert looked_at == []
    calls = talk.failover(6.0)
    assert looked_at == [A]  # whether it is behind the link
    assert talk.watcher.deadline() == 6.0
    assert talk.turn(6.0) == {}
    talk.answer(calls, 6.0)
    assert talk.guest("a", 6.0)["no_lease"] == "bond0 has no carrier"


@pytest.mark.parametrize(
    "change",
    [
        lambda talk: talk.answer(talk.failover(10.0), 10.0),
        lambda talk: talk.watcher.hint_all("operator", 10.0, WALL),
        lambda talk: talk.watcher.follow((BOND0._replace(ports=("x",)), BOND1), 10.0),
        lambda talk: talk.watcher.follow((BOND0, BOND1, BOND1._replace(link="bond2")), 10.0),
    ],
    ids=["failover", "operator", "other ports", "a link more"],
)
def test_guest_found_after_a_change_of_its_path_gets_a_lease_a_minute_later(change: Any) -> None:
    talk = Talk(A).meet()
    change(talk)
    talk.random = 0.0
    talk.watcher.found([B], 20.0)
    assert set(talk.turn(20.0)) == {"b"}
    assert talk.guest("b", 20.0)["no_lease"].endswith(" changed 10 s ago")
    assert talk.turn(68.0) == {"b": INFO}
    assert talk.watcher.deadline() == 70.0
    assert talk.turn(70.0) == {"b": LEASE}
    assert talk.guest("b", 70.0)["no_lease"] is None


def test_guest_without_lease_although_it_may_have_one_is_told_with_the_true_reason() -> None:
    talk = Talk(A, options=HintOptions(lease=3.0))
    talk.turn(0.0)
    assert talk.guest("a", 0.0)["no_lease"] == "not given yet"
    talk.meet()
    assert talk.guest("a", 2.9)["no_lease"] is None
    assert talk.guest("a", 3.0)["no_lease"] == "it ended before its renewal"
    (renewal,) = talk.watcher.advance(4.0)
    talk.refuse(renewal, 4.0)
    assert talk.guest("a", 4.0)["no_lease"] == "the agent has refused it"
    talk.meet(talk.watcher.deadline())
    now = talk.watcher.deadline()
    assert talk.guest("a", now)["no_lease"] is None
    talk.seconds = 0
    talk.turn(now)
    assert talk.guest("a", now)["no_lease"] == "the agent has refused it"
    talk.answer(talk.failover(now), now)
    assert talk.guest("a", now)["no_lease"] == "bond0 changed 0 s ago"
    assert talk.guest("a", now + 60.0)["no_lease"] == "not given yet"


@pytest.mark.parametrize(
    ("longest_interval", "lease", "renewal"),
    [
        (324.0, 90.0, 30.0),
        (90, 90.0, 30.0),
        (12.0, 12.0, 5.0),
        (6.0, 6.0, 4.8),
        (3.0, 3.0, 2.4),
        # An older agent, and what no agent says.
        (None, 90.0, 30.0),
        (True, 90.0, 30.0),
        ("6", 90.0, 30.0),
        (1e308, 90.0, 30.0),
    ],
)
def test_lease_is_not_longer_than_a_refresh_can_be_away_without_it(
    longest_interval: object, lease: float, renewal: float
) -> None:
    """A watcher that dies then makes no outage longer than the agent alone has."""
    talk = Talk(A, options=HintOptions(lease=90.0))
    talk.longest_interval = longest_interval
    talk.meet()
    assert talk.guest("a", 0.0)["lease"] == lease
    assert talk.watcher.deadline() == renewal
    assert talk.turn(renewal) == {"a": [Lease(None, lease)]}


@pytest.mark.parametrize("longest_interval", [2.9, 0, -1.0])
def test_guest_that_refreshes_too_often_for_a_lease_gets_none_and_the_reason_is_told(
    longest_interval: float,
) -> None:
    talk = Talk(A)
    talk.longest_interval = longest_interval
    talk.meet()
    shown = max(0, longest_interval)
    reason = f"it refreshes every {shown:g} s, too often for a lease"
    assert talk.guest("a", 0.0)["no_lease"] == reason
    assert talk.watcher.deadline() == 60.0
    assert talk.turn(60.0) == {"a": INFO}


def test_guest_whose_interval_changes_gets_a_lease_by_the_new_one() -> None:
    talk = Talk(A, options=HintOptions(lease=90.0)).meet()
    talk.longest_interval = 1.2
    asks = [ask for _, ask in talk.run(330.0)]
    assert asks[-1] == {"a": REVOKE}
    talk.longest_interval = 6.0
    asks = [ask for _, ask in talk.run(700.0)]
    assert asks[-1] == {"a": [Lease(None, 6.0)]}


def test_leases_after_a_quiet_minute_are_spread_over_time() -> None:
    talk = Talk(A, options=HintOptions(lease=90.0)).meet()
    talk.answer(talk.failover(20.0), 20.0)
    assert (30.0, {"a": INFO}) in talk.run(89.9)  # the renewal that was planned
    talk.random = 0.5
    talk.answer(talk.failover(89.9), 89.9)
    assert {"a": LEASE} not in [asks for _, asks in talk.run(164.8)]
    assert talk.run(165.0) == [(164.9, {"a": LEASE})]


def test_guest_gets_no_lease_if_a_part_of_its_path_is_not_followed() -> None:
    """On Open vSwitch, say, while a bond of the storage network is followed."""

    def path_of(guest: Guest, followed: frozenset[str]) -> GuestPath:
        return GuestPath(followed, "its port ovs1 is not followed" if guest.channel == A else "")

    talk = Talk(A, B, path_of=path_of).meet()
    found = [(talk.guest(name)["lease"], talk.guest(name)["no_lease"]) for name in "ab"]
    assert found == [(0, "its port ovs1 is not followed"), (90.0, None)]
    talk.watcher.found([A, B], 5.0)  # nothing new
    assert talk.notices() == []
    talk.watcher.found([B], 6.0)
    talk.watcher.found([A, B], 7.0)
    fields = {"guest": "a", "reason": "its port ovs1 is not followed"}
    assert (LEVEL_NOTICE, "no-lease", fields) in talk.notices()


@pytest.mark.parametrize(
    ("options", "outcome", "reason"),
    [
        (HintOptions(lease=0.0), Outcome.ANSWERED, "leases are off"),
        (HintOptions(), Outcome.BUSY, "it does not answer"),
        (HintOptions(lease_after=90.0), Outcome.ANSWERED, "bond0 changed 60 s ago"),
        (HintOptions(), Outcome.ANSWERED, "not given yet"),
    ],
)
def test_status_says_why_a_guest_has_no_lease(
    options: HintOptions, outcome: Outcome, reason: str
) -> None:
    talk = Talk(A, options=options)
    talk.turn(0.0, outcome)
    assert talk.guest("a")["no_lease"] == reason


@pytest.mark.parametrize(
    ("given", "lease", "next_contact"),
    [
        (30, 30.0, 10.0),
        (1e9, 90.0, 30.0),  # not more than was promised
        (0.5, 0.5, 1.0),
        *((invalid, 0, 60.0) for invalid in (0, -5, "90", ())),
    ],
)
def test_seconds_that_a_guest_confirms_are_checked(
    given: object, lease: float, next_contact: float
) -> None:
    talk = Talk(A)
    talk.seconds = given
    talk.turn(0.0)
    assert talk.guest("a")["lease"] == 0  # it was asked to end one
    assert talk.meet().guest("a")["lease"] == lease
    assert talk.watcher.deadline() == next_contact


@pytest.mark.parametrize(
    ("given", "version"),
    [("1.2", "1.2"), ("x" * 99, "x" * 32), ("", "unknown"), ("a\n", "unknown"), (7, "unknown")],
)
def test_version_that_a_guest_gives_is_checked(given: object, version: str) -> None:
    talk = Talk(A)
    talk.version = given
    assert talk.meet().guest("a")["version"] == version


def test_agent_that_refuses_a_lease_is_asked_again_after_a_minute() -> None:
    talk = Talk(A)
    talk.answer(talk.watcher.advance(0.0), 0.0)
    [call] = talk.watcher.advance(0.0)
    talk.refuse(call, 0.0)
    guest = talk.guest("a")
    assert (guest["state"], guest["lease"], guest["version"]) == ("refused", 0, "0.1.0")
    assert talk.watcher.deadline() == 60.0
    assert talk.watcher.revoke_leases(1.0) == []


def test_agent_that_refuses_the_first_hint_gets_it_again_after_a_minute_and_no_lease() -> None:
    talk = Talk(A)
    [call] = talk.watcher.advance(0.0)
    talk.refuse(call, 0.0)
    assert talk.watcher.deadline() == 60.0
    assert talk.turn(60.0) == {"a": first(1)[:2]}
    assert talk.turn(60.0) == {"a": LEASE}


@pytest.mark.parametrize("lease", [0.0, 90.0], ids=["none wanted", "nothing followed"])
def test_without_leases_guests_are_asked_for_info_every_minute(lease: float) -> None:
    talk = Talk(A, options=HintOptions(lease=lease), links=() if lease else (BOND0,))
    found = [talk.turn(now) for now in (0.0, 59.9, 60.0, 120.0)]
    assert found == [{"a": first(1)}, {}, {"a": INFO}, {"a": INFO}]


def test_first_hints_do_not_wait_for_guests_that_are_only_asked_for_info() -> None:
    talk = Talk(A).meet()
    talk.watcher.found([A, B, C], 30.0)
    asks = asked(talk.watcher.advance(30.0))
    assert asks == {"a": LEASE, "b": first(2), "c": first(3, delay=1.0)}


@pytest.mark.parametrize(("pace", "last"), [(0.0, 1.98), (10.0, 9.9), (1.0, 60.0)])
def test_first_hints_are_spread_or_follow_the_pace(pace: float, last: float) -> None:
    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(100)]
    talk = Talk(*channels, options=HintOptions(pace=pace))
    delays = [requests(call)[0].delay for call in talk.watcher.advance(0.0)]
    assert (delays[0], delays[-1]) == (0.0, pytest.approx(last))
    assert delays == sorted(delays)


def test_guest_without_an_answer_is_retried_after_longer_and_longer_times() -> None:
    talk, now, waits = Talk(A), 0.0, []
    for _ in range(9):
        talk.turn(now, Outcome.NO_AGENT)
        waits.append(talk.watcher.deadline() - now)
        now = talk.watcher.deadline()
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    talk.random = 0.0  # it spreads renewals and retries
    assert talk.meet(now).watcher.deadline() - now == pytest.approx(24.0)
    now = talk.watcher.deadline()
    talk.notices()
    talk.turn(now, Outcome.BUSY)
    assert talk.watcher.deadline() - now == 1.0
    state = {"guest": "a", "state": "busy", "errno": None}
    assert talk.notices() == [(LEVEL_WARNING, "guest-state", state)]


def test_guest_that_left_is_forgotten_and_a_new_one_is_contacted() -> None:
    talk = Talk(A, B).meet()
    talk.watcher.found([B, C], 5.0)
    assert set(asked(talk.watcher.advance(5.0))) == {"c"}
    late = Call(A.path, Exchange({}), CONTACT)
    assert talk.watcher.finished(Result(late, Outcome.NO_AGENT, 1.0), 6.0) == []
    assert talk.notices() == [
        (LEVEL_INFO, "guest-gone", {"guest": "a"}),
        (LEVEL_INFO, "guest-found", {"guest": "c", "path": "/run/c"}),
    ]
    assert talk.guest("c")["state"] == "new"
    calls = talk.watcher.revoke_leases(6.0)
    assert {call.kind for call in calls} == {REVOCATION}
    assert asked(calls) == {"b": REVOKE}
    assert talk.watcher.revoke_leases(91.0) == []


def test_another_socket_at_the_same_path_is_a_guest_started_anew() -> None:
    before = A._replace(file=(1, 7))
    talk = Talk(before).meet()
    talk.watcher.found([before], 5.0)
    assert talk.watcher.advance(5.0) == []
    talk.watcher.found([A._replace(file=(1, 8))], 6.0)
    assert [event for _, event, _ in talk.notices()] == ["guest-gone", "guest-found"]
    assert talk.guest("a", 6.0)["lease"] == 0
    assert asked(talk.watcher.advance(6.0)) == {"a": first(2)}


def test_reason_of_a_call_that_failed_is_kept_and_logged() -> None:
    talk = Talk(A)
    [call] = talk.watcher.advance(0.0)
    talk.watcher.finished(Result(call, Outcome.FAILED, 0.0, 24), 0.0)
    assert (talk.guest("a")["state"], talk.guest("a")["errno"]) == ("failed", 24)
    fields = {"guest": "a", "state": "failed", "errno": 24}
    assert talk.notices()[-1] == (LEVEL_INFO, "guest-state", fields)
    assert talk.meet(2.0).guest("a")["errno"] == 0


@pytest.mark.parametrize("interval", [5.0, 3.0, 15.0, 270.0])
def test_watcher_that_dies_keeps_its_guest_silent_no_longer_than_without_it(
    interval: float,
) -> None:
    settings = Settings(interval=interval, interval_with_lease=270.0)
    talk = Talk(A, options=HintOptions())
    talk.longest_interval = settings.longest_interval
    talk.meet()
    now = talk.watcher.deadline()
    talk.turn(now)  # the renewal; then it dies
    assert 0 < float(str(talk.guest("a", now)["lease"])) <= round(settings.longest_interval, 1)
