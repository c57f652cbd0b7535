"""Contacts and leases, with literal times."""

from __future__ import annotations

from math import inf

import pytest

from garp_agent.hypervisor.core.contacts import CONTACT, REVOCATION
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire import protocol
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARNING
from garp_agent.wire.protocol import Info, Lease
from tests.hypervisor.core.talk import A, B, C, Talk, asked, requests

INFO, LEASE, REVOKE = [Info()], [Lease(None, 90.0)], [Lease(None, 0.0)]


def test_found_guest_is_asked_for_info_and_gets_a_lease_that_is_renewed() -> None:
    talk = Talk(A, B)
    assert talk.watcher.deadline() == 0.0
    calls = talk.watcher.advance(0.0)
    assert {call.kind for call in calls} == {CONTACT}
    assert asked(calls) == {"a": INFO, "b": INFO}
    assert len({request.id for call in calls for request in requests(call)}) == 2
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
        assert talk.turn(now, Outcome.NO_AGENT) == {"a": INFO}
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


def test_lease_is_revoked_and_given_when_links_go_and_come() -> None:
    talk = Talk(A).meet()
    talk.watcher.promise(True, 5.0)  # no change
    assert talk.turn(5.0) == {}
    talk.watcher.promise(False, 6.0)
    assert talk.turn(6.0) == {"a": REVOKE}
    assert talk.guest("a", 6.0)["lease"] == 0
    talk.watcher.promise(True, 7.0)
    assert talk.turn(7.0, Outcome.BUSY) == {"a": LEASE}
    talk.watcher.promise(False, 7.5)  # at once, although that lease was not answered
    assert talk.turn(7.5) == {"a": REVOKE}
    assert talk.turn(talk.watcher.deadline()) == {"a": INFO}


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
    refusal = protocol.ProtocolError(protocol.ErrorClass.FAILED, "no", requests(call)[0].id)
    assert call.exchange.received(protocol.encode_error(refusal)) is Outcome.REFUSED
    assert talk.watcher.finished(Result(call, Outcome.REFUSED, 0.001), 0.0) == []
    guest = talk.guest("a")
    assert (guest["state"], guest["lease"], guest["version"]) == ("refused", 0, "0.1.0")
    assert talk.watcher.deadline() == 60.0
    assert talk.watcher.revoke_leases(1.0) == []


@pytest.mark.parametrize("lease", [0.0, 90.0], ids=["none wanted", "nothing followed"])
def test_without_leases_guests_are_asked_for_info_every_minute(lease: float) -> None:
    talk = Talk(A, options=HintOptions(lease=lease), promise=not lease)
    assert [talk.turn(now) for now in (0.0, 59.9, 60.0)] == [{"a": INFO}, {}, {"a": INFO}]


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
    first = A._replace(file=(1, 7))
    talk = Talk(first).meet()
    talk.watcher.found([first], 5.0)
    assert talk.watcher.advance(5.0) == []
    talk.watcher.found([A._replace(file=(1, 8))], 6.0)
    assert [event for _, event, _ in talk.notices()] == ["guest-gone", "guest-found"]
    assert talk.guest("a", 6.0)["lease"] == 0
    assert asked(talk.watcher.advance(6.0)) == {"a": INFO}


def test_reason_of_a_call_that_failed_is_kept_and_logged() -> None:
    talk = Talk(A)
    [call] = talk.watcher.advance(0.0)
    talk.watcher.finished(Result(call, Outcome.FAILED, 0.0, 24), 0.0)
    assert (talk.guest("a")["state"], talk.guest("a")["errno"]) == ("failed", 24)
    fields = {"guest": "a", "state": "failed", "errno": 24}
    assert talk.notices()[-1] == (LEVEL_INFO, "guest-state", fields)
    assert talk.meet(2.0).guest("a")["errno"] == 0
