"""Rounds of hints and announce-self, with literal times."""

from __future__ import annotations

from math import inf

import pytest

from garp_agent.hypervisor.core.announce_self import ANNOUNCE_SELF
from garp_agent.hypervisor.core.exchange import Call, Outcome
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.rounds import HINT
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import Burst, Lease
from tests.hypervisor.core.talk import WALL, A, B, C, Talk, asked, requests

LEASE = Lease(None, 90.0)


def hint(number: int = 1, reason: str = "r") -> list[Burst]:
    return [Burst(None, reason, None, None, 0.0, "boot", number)]


def test_failover_hints_all_guests_and_first_those_that_answer() -> None:
    talk = Talk(A, B, C)
    a, b, c = talk.watcher.advance(0.0)
    talk.fail([a, c], 1.0)
    talk.answer([b], 1.0)
    calls = talk.failover(10.0)
    assert [call.path for call in calls] == ["/run/b", "/run/a", "/run/c"]
    assert asked(calls) == {"a": hint(), "b": hint(), "c": hint()}
    assert {call.kind for call in calls} == {HINT}


def test_history_entry_and_counters_of_a_failover() -> None:
    talk = Talk(A, B).meet()
    talk.watcher.found([A, B, C], 5.0)
    talk.fail(talk.watcher.advance(5.0), 5.0)
    talk.notices()
    a, b, c = talk.failover(10.0, reason="bond0 went over")
    fields = {"link": "bond0", "reason": "bond0 went over", "guests": 3}
    assert talk.notices() == [(LEVEL_NOTICE, "failover", fields)]
    talk.answer([a], 10.004)
    talk.frames = -3
    talk.answer([b], 10.002)
    assert talk.notices() == []
    talk.fail([c], 11.0)
    assert talk.history() == [
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
    guest = talk.guest("b")
    assert (guest["hints"], guest["answered"]) == (1, 1)
    assert guest["last_seconds"] == guest["slowest_seconds"] == pytest.approx(0.002)
    status = talk.watcher.status(11.0)
    assert status["failovers"] == {"bond0": 1}
    assert status["hints"] == {each.value: 0 for each in Outcome} | {"answered": 2, "no-agent": 1}
    [(level, event, fields)] = talk.notices()
    assert (level, event) == (LEVEL_NOTICE, "guests-hinted")
    assert (fields["guests"], fields["answered"], fields["unanswered"]) == (3, 2, None)
    assert fields["slowest_seconds"] == pytest.approx(0.004)


def test_guest_that_did_not_answer_stays_in_the_history_after_it_left() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    talk.fail([b], 11.0, Outcome.BUSY)
    talk.watcher.found([A], 12.0)
    assert talk.watcher.advance(12.0) == []
    [entry] = talk.history()
    assert (entry["unanswered"], entry["unanswered_by_state"]) == (["b"], {"busy": 1})


def test_guest_with_an_agent_is_hinted_again_under_the_same_number() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    assert talk.fail([b], 10.5, Outcome.BUSY) == []
    assert talk.watcher.deadline() == 11.0
    assert talk.watcher.advance(10.9) == []
    again = talk.watcher.advance(11.0)
    assert asked(again) == {"b": hint()}
    assert talk.watcher.advance(11.5) == []
    talk.fail(again, 12.0)
    assert talk.watcher.deadline() == 13.0
    talk.answer(talk.watcher.advance(13.0), 13.0)
    [entry] = talk.history()
    assert (entry["answered"], entry["unanswered"], entry["slowest_seconds"]) == (2, [], 3.0)
    assert talk.guest("b")["hints"] == 1


def test_guest_without_an_answer_to_the_repetitions_is_logged_as_a_warning() -> None:
    talk = Talk(A).meet()
    talk.fail(talk.failover(10.0), 11.0)
    for now in (11.0, 13.0, 20.0):
        hints = [call for call in talk.watcher.advance(now) if call.kind == HINT]
        assert len(hints) == (now < 20.0)
        talk.fail(hints, now, Outcome.BUSY)
    assert talk.history()[0]["unanswered"] == ["a"]
    level, event, fields = talk.notices()[-1]
    assert (level, event, fields["unanswered"]) == (LEVEL_WARNING, "guests-hinted", "a")


def test_newer_failover_supersedes_the_hints_of_the_older_one() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    newer = talk.failover(10.1, "bond1", "bond1 went over")
    assert asked(newer) == dict.fromkeys("ab", hint(2, "bond1 went over"))
    assert talk.fail([b], 10.2, Outcome.BUSY) == []
    first, second = talk.history()
    assert (first["answered"], first["superseded"], first["awaited"]) == (1, 1, 0)
    assert (second["answered"], second["superseded"], second["awaited"]) == (0, 0, 2)
    talk.answer(newer, 10.3)
    assert [entry["answered"] for entry in talk.history()] == [1, 2]
    assert [entry["awaited"] for entry in talk.history()] == [0, 0]
    assert talk.watcher.status(11.0)["failovers"] == {"bond0": 1, "bond1": 1}


def test_contact_that_a_hint_cancelled_is_made_up_for() -> None:
    talk = Talk(A).meet()
    assert talk.watcher.advance(30.0) != []  # the renewal; the daemon cancels it
    calls = talk.failover(30.1)
    assert talk.watcher.advance(30.2) == []
    talk.answer(calls, 30.3)
    assert asked(talk.watcher.advance(30.3)) == {"a": [LEASE]}


def test_renewal_waits_for_the_hint() -> None:
    talk = Talk(A).meet()
    calls = talk.failover(29.9)
    assert talk.watcher.advance(30.0) == []
    assert 30.0 < talk.watcher.deadline() <= 30.1
    talk.answer(calls, 30.05)
    assert asked(talk.watcher.advance(talk.watcher.deadline())) == {"a": [LEASE]}


@pytest.mark.parametrize(
    ("pace", "guests", "last"),
    [(10.0, 5, 0.4), (0.0, 5, 0.0), (10.0, 1, 0.0), (1.0, 101, 60.0), (1000.0, 101, 0.1)],
)
def test_pace_spreads_the_bursts(pace: float, guests: int, last: float) -> None:
    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(guests)]
    talk = Talk(*channels, options=HintOptions(pace=pace)).meet()
    bursts = [request for call in talk.failover(10.0) for request in requests(call)]
    delays = [each.delay for each in bursts if isinstance(each, Burst) and not each.adjusted]
    assert len(delays) == guests
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(last)


def test_failover_without_guests_hints_nobody_and_is_kept() -> None:
    talk = Talk()
    assert talk.failover(10.0) == []
    assert talk.watcher.deadline() == inf
    assert talk.history()[0]["guests"] == 0


def test_history_keeps_the_last_hundred_failovers() -> None:
    talk = Talk(A).meet()
    for number in range(150):
        talk.answer(talk.failover(10.0 + number), 10.0 + number)
    assert [entry["number"] for entry in talk.history()] == list(range(51, 151))


# -- announce-self ----------------------------------------------------------------------


def announcing(*answering: Channel, enabled: bool = True) -> Talk:
    talk = Talk(*answering, options=HintOptions(announce_self=enabled)).meet()
    talk.watcher.found_monitors([Channel(name, f"/mon/{name}") for name in "abx"])
    return talk


def kinds(calls: list[Call]) -> list[tuple[str, str]]:
    return [(call.kind, call.path) for call in calls]


def test_guest_without_an_agent_that_answers_is_announced_by_qemu_at_once() -> None:
    talk = announcing(A)
    expected = [(HINT, "/run/a"), (ANNOUNCE_SELF, "/mon/b"), (ANNOUNCE_SELF, "/mon/x")]
    assert kinds(talk.failover(10.0)) == expected
    assert talk.history()[0]["announced_self"] == 2
    assert talk.watcher.status(0.0)["monitors"] == 3


def test_guest_that_does_not_answer_is_announced_by_qemu_once() -> None:
    talk = announcing(A)
    hints = talk.failover(10.0)[:1]
    assert kinds(talk.fail(hints, 11.0)) == [(ANNOUNCE_SELF, "/mon/a")]
    again = [call for call in talk.watcher.advance(11.0) if call.kind == HINT]
    assert len(again) == 1
    assert talk.fail(again, 12.0) == []


def test_guest_that_answers_is_not_announced_by_qemu() -> None:
    talk = announcing(A)
    assert talk.answer(talk.failover(10.0)[:1], 10.0) == []


def test_monitor_that_fails_is_logged_as_a_warning() -> None:
    talk = announcing()
    calls = talk.failover(10.0)
    talk.notices()
    assert talk.fail(calls[:1], 11.0, Outcome.BUSY) == []
    expected = (LEVEL_WARNING, "monitor-failed", {"path": "/mon/a", "outcome": "busy"})
    assert talk.notices() == [expected]


def test_announce_self_is_off_by_default() -> None:
    assert HintOptions().announce_self is False
    assert announcing(enabled=False).failover(10.0) == []
