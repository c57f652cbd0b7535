"""The watcher's mind, with literal times; every call's request is read by the guest's parser."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import TYPE_CHECKING

import pytest

from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.core.watcher import (
    ANNOUNCE_SELF,
    CONTACT,
    FAREWELL,
    HINT,
    Options,
    Watcher,
)
from garp_agent.hypervisor.io.channels import Channel
from garp_agent.wire import protocol
from garp_agent.wire.lines import LineDecoder
from garp_agent.wire.model import LEVEL_WARNING
from garp_agent.wire.protocol import Burst, Info, Lease

if TYPE_CHECKING:
    from garp_agent.wire.protocol import Request

A, B, C = (Channel(name, f"/run/{name}") for name in "abc")
WALL = 1_700_000_000.0


def watcher(options: Options | None = None, *channels: Channel, promise: bool = True) -> Watcher:
    """One that has just found these guests, at 0 s."""
    mind = Watcher(options or Options(), "boot", lambda: 1.0)
    mind.promise(promise, 0.0)
    mind.found(channels, 0.0)
    return mind


def requests(call: Call) -> list[Request]:
    """What the guest reads."""
    found = []
    for line in LineDecoder().feed(call.conversation.outgoing):
        assert isinstance(line, bytes)
        found.append(protocol.parse(line))
    return found


def asked(calls: list[Call]) -> dict[str, list[object]]:
    """The requests by path, without their ids."""
    return {call.path: [each._replace(id=None) for each in requests(call)] for call in calls}


@dataclasses.dataclass
class Agent:
    """Answers calls; each attribute is what it says."""

    version: object = "0.1.0"
    seconds: object = None  # None: as asked
    frames: object = 2

    def answers(self, mind: Watcher, calls: list[Call], now: float) -> list[Call]:
        """The calls that follow from its answers."""
        follow = []
        for call in calls:
            outcome = None
            for request in requests(call):
                outcome = call.conversation.received(protocol.encode_return(*self.value(request)))
            assert outcome is Outcome.ANSWERED
            follow += mind.finished(Result(call, outcome, 0.001), now)
        return follow

    def value(self, request: Request) -> tuple[protocol.Scalar, dict[str, object]]:
        if isinstance(request, Lease):
            seconds = request.seconds if self.seconds is None else self.seconds
            return request.id, {"seconds": seconds, "interval": 60.0}
        if isinstance(request, Burst):
            return request.id, {"frames": self.frames}
        return request.id, {"version": self.version}


def fail(mind: Watcher, calls: list[Call], now: float, outcome: Outcome) -> list[Call]:
    return [call for each in calls for call in mind.finished(Result(each, outcome, 1.0), now)]


def meet(mind: Watcher, now: float, agent: Agent | None = None) -> None:
    """An agent answers whatever it is asked at that moment: who it is, then a lease."""
    while calls := mind.advance(now):
        (agent or Agent()).answers(mind, calls, now)


def greeted(*channels: Channel, options: Options | None = None) -> Watcher:
    """One whose guests have answered already."""
    mind = watcher(options, *channels)
    meet(mind, 0.0)
    mind.take_notices()
    return mind


def state(mind: Watcher, now: float = 0.0) -> dict[str, dict[str, object]]:
    guests = mind.status(now)["guests"]
    assert isinstance(guests, list)
    return {guest["guest"]: guest for guest in guests}


# -- contacts and leases ----------------------------------------------------------------


def test_a_guest_found_is_asked_who_it_is_and_given_a_lease() -> None:
    mind = watcher(None, A, B)
    assert mind.deadline() == 0.0
    calls = mind.advance(0.0)
    assert [call.kind for call in calls] == [CONTACT, CONTACT]
    assert asked(calls) == {"/run/a": [Info()], "/run/b": [Info()]}
    assert len({request.id for call in calls for request in requests(call)}) == 2
    assert mind.deadline() == inf
    assert mind.advance(0.0) == []
    assert Agent().answers(mind, calls, 0.5) == []
    assert mind.deadline() == 0.5
    calls = mind.advance(0.5)
    assert asked(calls) == {"/run/a": [Lease(None, 90.0)], "/run/b": [Lease(None, 90.0)]}
    assert mind.deadline() == inf


def test_nothing_is_promised_to_who_does_not_answer() -> None:
    """It would wait in the channel, and an agent that comes later would take it for new."""
    mind, now = watcher(None, A), 0.0
    for _ in range(3):
        calls = mind.advance(now)
        assert asked(calls) == {"/run/a": [Info()]}
        fail(mind, calls, now, Outcome.NO_AGENT)
        now = mind.deadline()
    meet(mind, now)
    now = mind.deadline()
    fail(mind, mind.advance(now), now, Outcome.NO_AGENT)  # it has ended
    # Its renewal may wait now: what comes later begins with the end of it.
    assert asked(mind.farewell(now + 1.0)) == {"/run/a": [Lease(None, 0.0)]}
    now = mind.deadline()
    calls = mind.advance(now)
    assert asked(calls) == {"/run/a": [Lease(None, 0.0)]}
    Agent().answers(mind, calls, now)
    assert state(mind, now)["a"]["lease"] == 0
    assert asked(mind.farewell(now)) == {}
    assert asked(mind.advance(now)) == {"/run/a": [Lease(None, 90.0)]}
    # Not answered yet, and yet given.
    assert asked(mind.farewell(now)) == {"/run/a": [Lease(None, 0.0)]}


def test_a_promise_that_was_not_answered_is_taken_back_at_once() -> None:
    mind = greeted(A)
    fail(mind, mind.advance(30.0), 31.0, Outcome.BUSY)
    mind.promise(False, 31.5)
    calls = mind.advance(31.5)
    assert asked(calls) == {"/run/a": [Lease(None, 0.0)]}
    Agent().answers(mind, calls, 31.5)
    assert state(mind, 31.5)["a"]["lease"] == 0
    assert asked(mind.advance(mind.deadline())) == {"/run/a": [Info()]}


def test_a_lease_is_renewed_at_a_third() -> None:
    mind = greeted(A)
    assert state(mind, 10.0)["a"]["lease"] == 80.0
    assert state(mind)["a"]["version"] == "0.1.0"
    assert mind.deadline() == 30.0
    assert mind.advance(29.9) == []
    assert asked(mind.advance(30.0)) == {"/run/a": [Lease(None, 90.0)]}


def test_renewals_are_spread() -> None:
    mind = Watcher(Options(), "boot", lambda: 0.0)
    mind.promise(True, 0.0)
    mind.found([A], 0.0)
    meet(mind, 0.0)
    assert mind.deadline() == pytest.approx(24.0)


@pytest.mark.parametrize(
    ("given", "lease", "next_contact"),
    [
        (30, 30.0, 10.0),
        (1e9, 90.0, 30.0),  # a guest can't make us promise more
        (0.5, 0.5, 1.0),
        (0, 0, 60.0),
        (-5, 0, 60.0),
        ("90", 0, 60.0),
        (None, 90.0, 30.0),
        ([], 0, 60.0),
    ],
)
def test_what_a_guest_makes_of_a_lease(given: object, lease: float, next_contact: float) -> None:
    mind = watcher(None, A)
    meet(mind, 0.0, Agent(seconds=given))
    assert state(mind)["a"]["lease"] == lease
    assert mind.deadline() == next_contact


@pytest.mark.parametrize(
    ("given", "version"),
    [("1.2", "1.2"), ("x" * 99, "x" * 32), ("", "unknown"), ("a\n", "unknown"), (7, "unknown")],
)
def test_a_version_is_text(given: object, version: str) -> None:
    mind = watcher(None, A)
    Agent(version=given).answers(mind, mind.advance(0.0), 0.0)
    assert state(mind)["a"]["version"] == version


def test_an_agent_that_refuses_a_lease_is_still_an_agent() -> None:
    mind = watcher(None, A)
    Agent(version="0.0.1").answers(mind, mind.advance(0.0), 0.0)
    [call] = mind.advance(0.0)
    [lease] = requests(call)
    error = protocol.ProtocolError(protocol.ErrorClass.COMMAND_NOT_FOUND, "no", lease.id)
    outcome = call.conversation.received(protocol.encode_error(error))
    assert outcome is Outcome.REFUSED
    assert mind.finished(Result(call, outcome, 0.001), 0.0) == []
    assert state(mind)["a"]["lease"] == 0
    assert state(mind)["a"]["version"] == "0.0.1"
    assert mind.deadline() == 60.0


@pytest.mark.parametrize("options", [Options(lease=0), Options()])
def test_without_a_lease_guests_are_only_looked_at(options: Options) -> None:
    """None wanted, or nothing followed: what can't be kept is not promised."""
    mind = watcher(options, A, promise=bool(not options.lease))
    calls = mind.advance(0.0)
    assert asked(calls) == {"/run/a": [Info()]}
    Agent().answers(mind, calls, 0.0)
    assert mind.advance(59.9) == []
    assert asked(mind.advance(60.0)) == {"/run/a": [Info()]}


def test_a_promise_is_given_and_taken_back_as_links_come_and_go() -> None:
    mind = greeted(A)
    mind.promise(True, 5.0)
    assert mind.advance(5.0) == []
    mind.promise(False, 6.0)
    calls = mind.advance(6.0)
    assert asked(calls) == {"/run/a": [Lease(None, 0.0)]}
    Agent().answers(mind, calls, 6.0)
    assert state(mind, 6.0)["a"]["lease"] == 0
    mind.promise(True, 7.0)
    assert asked(mind.advance(7.0)) == {"/run/a": [Lease(None, 90.0)]}


def test_who_does_not_answer_is_tried_less_and_less() -> None:
    mind, now, waits = watcher(None, A), 0.0, []
    for _ in range(9):
        assert fail(mind, mind.advance(now), now, Outcome.NO_AGENT) == []
        waits.append(mind.deadline() - now)
        now = mind.deadline()
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    meet(mind, now)
    assert mind.deadline() - now == 30.0
    now = mind.deadline()
    fail(mind, mind.advance(now), now, Outcome.BUSY)
    assert mind.deadline() - now == 2.0


def test_a_guest_that_went_is_forgotten_and_one_that_came_is_met() -> None:
    mind = greeted(A, B)
    mind.found([B, C], 5.0)
    assert set(state(mind)) == {"b", "c"}
    assert set(asked(mind.advance(5.0))) == {"/run/c"}
    late = Call(A.path, Exchange({}), CONTACT)
    assert mind.finished(Result(late, Outcome.NO_AGENT, 1.0), 6.0) == []
    assert [notice.event for notice in mind.take_notices()] == ["guest-gone", "guest-found"]


def test_a_guest_that_falls_silent_is_a_warning() -> None:
    mind = greeted(A)
    fail(mind, mind.advance(30.0), 31.0, Outcome.NO_AGENT)
    [notice] = mind.take_notices()
    assert (notice.level, notice.event) == (LEVEL_WARNING, "guest-state")
    assert dict(notice.fields) == {"guest": "a", "state": "no-agent"}


def test_at_the_end_every_promise_is_taken_back() -> None:
    mind = greeted(A, B)
    mind.found([A, B, C], 5.0)
    calls = mind.farewell(6.0)
    assert {call.kind for call in calls} == {FAREWELL}
    assert asked(calls) == {"/run/a": [Lease()], "/run/b": [Lease()]}
    assert mind.farewell(91.0) == []


# -- hints ------------------------------------------------------------------------------


def hint(number: int = 1, delay: float = 0.0, reason: str = "bond0 went over") -> Burst:
    return Burst(None, reason, None, None, delay, "boot", number)


def test_a_failover_hints_all_those_that_answer_first() -> None:
    mind = watcher(None, A, B, C)
    calls = mind.advance(0.0)
    fail(mind, [calls[0], calls[2]], 1.0, Outcome.NO_AGENT)
    Agent().answers(mind, [calls[1]], 1.0)
    calls = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    assert [call.path for call in calls] == ["/run/b", "/run/a", "/run/c"]
    assert asked(calls) == {path: [hint()] for path in ("/run/a", "/run/b", "/run/c")}
    assert {call.kind for call in calls} == {HINT}


def test_what_came_of_a_failover() -> None:
    mind = greeted(A, B)
    mind.found([A, B, C], 5.0)
    fail(mind, mind.advance(5.0), 5.0, Outcome.NO_AGENT)
    a, b, c = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    mind.take_notices()
    Agent().answers(mind, [a], 10.004)
    Agent(frames=-3).answers(mind, [b], 10.002)
    assert mind.take_notices() == []
    fail(mind, [c], 11.0, Outcome.NO_AGENT)
    assert mind.past() == [
        {
            "number": 1,
            "time": WALL,
            "link": "bond0",
            "reason": "bond0 went over",
            "guests": 3,
            "answered": 2,
            "awaited": 0,
            "frames": 2,
            "fastest_seconds": pytest.approx(0.002),
            "slowest_seconds": pytest.approx(0.004),
            "superseded": 0,
            "unanswered": [],
            "unanswered_without_agent": ["c"],
            "unanswered_by_state": {"no-agent": 1},
            "announced_self": 0,
        }
    ]
    guest = state(mind)["b"]
    assert (guest["hints"], guest["answered"]) == (1, 1)
    assert guest["last_seconds"] == guest["slowest_seconds"] == pytest.approx(0.002)
    status = mind.status(11.0)
    assert status["failovers"] == {"bond0": 1}
    counts = status["hints"]
    assert isinstance(counts, dict)
    assert {name: n for name, n in counts.items() if n} == {"answered": 2, "no-agent": 1}
    [notice] = mind.take_notices()
    assert notice.event == "guests-hinted"


def test_who_did_not_answer_is_remembered_after_it_is_gone() -> None:
    mind = greeted(A, B)
    a, b = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    Agent().answers(mind, [a], 10.0)
    fail(mind, [b], 11.0, Outcome.BUSY)
    mind.found([A], 12.0)
    [entry] = mind.past()
    assert (entry["unanswered"], entry["unanswered_by_state"]) == (["b"], {"busy": 1})


def test_whom_the_next_failover_overtakes_is_counted() -> None:
    mind = greeted(A, B)
    a, _ = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    Agent().answers(mind, [a], 10.0)
    mind.failover("bond0", "bond0 went back", 10.1, WALL)
    first, second = mind.past()
    assert (first["answered"], first["superseded"], first["awaited"]) == (1, 1, 0)
    assert (second["superseded"], second["awaited"]) == (0, 2)


def test_who_has_an_agent_and_did_not_answer_is_hinted_again_under_the_same_number() -> None:
    mind = greeted(A, B)
    a, b = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    Agent().answers(mind, [a], 10.0)
    assert fail(mind, [b], 10.5, Outcome.BUSY) == []
    assert mind.deadline() == 11.0
    assert mind.advance(10.9) == []
    again = mind.advance(11.0)
    assert asked(again) == {"/run/b": [hint()]}
    assert mind.advance(11.5) == []
    fail(mind, again, 12.0, Outcome.NO_AGENT)
    assert mind.deadline() == 13.0
    Agent().answers(mind, mind.advance(13.0), 13.0)
    [entry] = mind.past()
    assert (entry["answered"], entry["unanswered"], entry["slowest_seconds"]) == (2, [], 3.0)
    assert state(mind)["b"]["hints"] == 1


def test_who_never_answers_is_given_up_with_a_warning() -> None:
    mind = greeted(A)
    fail(mind, mind.failover("bond0", "r", 10.0, WALL), 11.0, Outcome.NO_AGENT)
    for now in (11.0, 13.0):
        fail(mind, [call for call in mind.advance(now) if call.kind == HINT], now, Outcome.BUSY)
    assert [call for call in mind.advance(20.0) if call.kind == HINT] == []
    assert mind.past()[0]["unanswered"] == ["a"]
    notice = mind.take_notices()[-1]
    assert (notice.level, notice.event) == (LEVEL_WARNING, "guests-hinted")
    assert dict(notice.fields)["unanswered"] == "a"


def test_a_newer_failover_takes_the_place_of_the_older_one() -> None:
    mind = greeted(A)
    [older] = mind.failover("bond0", "bond0 went over", 10.0, WALL)
    [newer] = mind.failover("bond1", "bond1 went over", 10.1, WALL)
    assert asked([newer]) == {"/run/a": [hint(2, reason="bond1 went over")]}
    assert fail(mind, [older], 10.2, Outcome.BUSY) == []
    assert [entry["awaited"] for entry in mind.past()] == [0, 1]
    Agent().answers(mind, [newer], 10.3)
    assert [entry["answered"] for entry in mind.past()] == [0, 1]
    assert [entry["awaited"] for entry in mind.past()] == [0, 0]
    assert mind.status(11.0)["failovers"] == {"bond0": 1, "bond1": 1}


def test_a_contact_cut_short_by_a_hint_is_made_up_for() -> None:
    mind = greeted(A)
    assert mind.advance(30.0) != []  # the renewal; the loop hangs up on it
    calls = mind.failover("bond0", "r", 30.1, WALL)
    assert mind.advance(30.2) == []
    Agent().answers(mind, calls, 30.3)
    assert asked(mind.advance(30.3)) == {"/run/a": [Lease(None, 90.0)]}


def test_a_renewal_waits_for_the_hint() -> None:
    mind = greeted(A)
    calls = mind.failover("bond0", "r", 29.9, WALL)
    assert mind.advance(30.0) == []
    assert 30.0 < mind.deadline() <= 30.1
    Agent().answers(mind, calls, 30.05)
    assert asked(mind.advance(mind.deadline())) == {"/run/a": [Lease(None, 90.0)]}


@pytest.mark.parametrize(
    ("pace", "guests", "last"),
    [(10.0, 5, 0.4), (0.0, 5, 0.0), (10.0, 1, 0.0), (1.0, 101, 60.0), (1000.0, 101, 0.1)],
)
def test_pace_spreads_the_bursts(pace: float, guests: int, last: float) -> None:
    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(guests)]
    mind = greeted(*channels, options=Options(pace=pace))
    calls = mind.failover("bond0", "r", 10.0, WALL)
    bursts = [request for call in calls for request in requests(call)]
    assert all(isinstance(burst, Burst) and burst.adjusted == () for burst in bursts)
    delays = [burst.delay for burst in bursts if isinstance(burst, Burst)]
    assert len(delays) == guests
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(last)


def test_no_guest_no_hint() -> None:
    mind = watcher()
    assert mind.failover("bond0", "r", 10.0, WALL) == []
    assert mind.deadline() == inf
    assert mind.past()[0]["guests"] == 0


def test_the_history_is_bounded() -> None:
    mind = greeted(A)
    for number in range(150):
        Agent().answers(mind, mind.failover("bond0", "r", 10.0 + number, WALL), 10.0 + number)
    assert [entry["number"] for entry in mind.past()] == list(range(51, 151))


# -- announce-self ----------------------------------------------------------------------


def announcing(*answering: Channel) -> Watcher:
    mind = greeted(*answering, options=Options(announce_self=True))
    mind.found_monitors([Channel(name, f"/mon/{name}") for name in "abx"])
    return mind


def kinds(calls: list[Call]) -> list[tuple[str, str]]:
    return [(call.kind, call.path) for call in calls]


def test_who_is_not_known_to_answer_is_announced_by_qemu_at_once() -> None:
    mind = announcing(A)
    calls = mind.failover("bond0", "r", 10.0, WALL)
    expected = [(HINT, "/run/a"), (ANNOUNCE_SELF, "/mon/b"), (ANNOUNCE_SELF, "/mon/x")]
    assert kinds(calls) == expected
    assert mind.past()[0]["announced_self"] == 2


def test_who_stays_silent_is_announced_by_qemu_once() -> None:
    mind = announcing(A)
    hints = mind.failover("bond0", "r", 10.0, WALL)[:1]
    assert kinds(fail(mind, hints, 11.0, Outcome.NO_AGENT)) == [(ANNOUNCE_SELF, "/mon/a")]
    again = [call for call in mind.advance(11.0) if call.kind == HINT]
    assert fail(mind, again, 12.0, Outcome.NO_AGENT) == []


def test_who_answers_is_not_announced_by_qemu() -> None:
    mind = announcing(A)
    assert Agent().answers(mind, mind.failover("bond0", "r", 10.0, WALL)[:1], 10.0) == []


def test_a_monitor_that_fails_is_a_warning() -> None:
    mind = announcing()
    calls = mind.failover("bond0", "r", 10.0, WALL)
    mind.take_notices()
    assert fail(mind, calls[:1], 11.0, Outcome.BUSY) == []
    [notice] = mind.take_notices()
    assert dict(notice.fields) == {"path": "/mon/a", "outcome": "busy"}


def test_announce_self_is_off_by_default() -> None:
    mind = greeted()
    mind.found_monitors([Channel("x", "/mon/x")])
    assert mind.failover("bond0", "r", 10.0, WALL) == []
