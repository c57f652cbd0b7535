"""Rounds of hints and announce-self, with literal times."""

from __future__ import annotations

from math import inf

import pytest

from garp_agent.hypervisor.core.exchange import Call, Outcome
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.hint_rounds import HINT
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import Burst, Lease
from tests.hypervisor.core.talk import WALL, A, B, C, Talk, asked, requests

LEASE = [Lease(None, 90.0)]


def hint(number: int = 1, reason: str = "r") -> list[Burst]:
    return [Burst(None, reason, None, None, 0.0, "boot", number)]


def hints(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.kind == HINT]


def test_failover_hints_all_guests_and_first_those_that_answer() -> None:
    talk = Talk(A, B, C)
    a, b, c = talk.watcher.advance(0.0)
    talk.fail([a, c], 1.0)
    talk.answer([b], 1.0)
    calls = talk.failover(10.0)
    assert [call.path for call in hints(calls)] == ["/run/b", "/run/a", "/run/c"]
    assert asked(calls) == {"a": hint(), "b": hint(), "c": hint()}


def test_failover_is_kept_in_history_counters_and_log() -> None:
    talk = Talk(A, B).meet()
    talk.watcher.found([A, B, C], 5.0)
    talk.fail(talk.watcher.advance(5.0), 5.0)
    talk.notices()
    a, b, c = talk.failover(10.0, reason="bond0 went over")
    fields = {"link": "bond0", "reason": "bond0 went over", "guests": 3}
    assert talk.notices() == [(LEVEL_NOTICE, "failover", fields)]
    for guest, talk.frames, now in ((a, 10**9, 10.004), (b, -3, 10.002)):
        talk.answer([guest], now)
    assert talk.notices() == []
    talk.fail([c], 11.0)
    slowest = pytest.approx(0.004)
    assert talk.history() == [
        {
            "number": 1,
            "time": WALL,
            "link": "bond0",
            "reason": "bond0 went over",
            "guests": 3,
            "answered": 2,
            "awaited": 0,
            "frames": 1_000_000,
            "fastest_seconds": pytest.approx(0.002),
            "slowest_seconds": slowest,
            "superseded": 0,
            "unanswered": [],
            "unanswered_without_agent": ["c"],
            "unanswered_by_state": {"no-agent": 1},
            "announced_self": 0,
        }
    ]
    values = talk.guest("b")
    assert (values["hints"], values["answered"]) == (1, 1)
    assert values["last_seconds"] == values["slowest_seconds"] == pytest.approx(0.002)
    status = talk.watcher.status(11.0)
    assert status["failovers"] == {"bond0": 1}
    assert status["hints"] == {each.value: 0 for each in Outcome} | {"answered": 2, "no-agent": 1}
    fields = {"link": "bond0", "guests": 3, "answered": 2, "unanswered": None}
    expected = {**fields, "slowest_seconds": slowest}
    assert talk.notices() == [(LEVEL_NOTICE, "guests-hinted", expected)]


def test_guest_with_an_agent_is_hinted_again_under_the_same_number() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    assert talk.fail([b], 10.5, Outcome.BUSY) == []
    assert talk.watcher.deadline() == 11.0
    assert talk.turn(10.9) == {}
    again = talk.watcher.advance(11.0)
    assert asked(again) == {"b": hint()}
    assert talk.turn(11.5) == {}
    talk.fail(again, 12.0)
    assert talk.watcher.deadline() == 13.0
    assert talk.turn(13.0) == {"b": hint()}
    [entry] = talk.history()
    assert (entry["answered"], entry["unanswered"], entry["slowest_seconds"]) == (2, [], 3.0)
    assert talk.guest("b")["hints"] == 1


def test_guest_that_answers_no_repetition_is_logged_as_a_warning_and_kept() -> None:
    talk = Talk(A, B).meet()
    talk.fail(talk.failover(10.0), 11.0)
    talk.watcher.found([A], 11.0)  # a guest that left is not hinted again
    for now in (11.0, 13.0):
        assert talk.turn(now, Outcome.BUSY)["a"] == hint()
    level, event, fields = talk.notices()[-1]
    assert (level, event, fields["unanswered"]) == (LEVEL_WARNING, "guests-hinted", "a,b")
    talk.watcher.found([], 14.0)
    assert talk.turn(20.0) == {}
    [entry] = talk.history()
    assert entry["unanswered"] == ["a", "b"]
    assert entry["unanswered_by_state"] == {"busy": 1, "no-agent": 1}


def test_newer_failover_supersedes_the_hints_of_the_older_one() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    newer = talk.failover(10.1, "bond1", "bond1 went over")
    assert asked(newer) == dict.fromkeys("ab", hint(2, "bond1 went over"))
    assert talk.fail([b], 10.2, Outcome.BUSY) == []
    counts = ("answered", "superseded", "awaited")
    found = [[entry[name] for name in counts] for entry in talk.history()]
    assert found == [[1, 1, 0], [0, 0, 2]]
    talk.answer(newer, 10.3)
    assert [entry["answered"] for entry in talk.history()] == [1, 2]
    assert talk.watcher.status(11.0)["failovers"] == {"bond0": 1, "bond1": 1}


def test_renewal_waits_for_the_hint_and_is_made_up_for_if_a_hint_cancels_it() -> None:
    talk = Talk(A).meet()
    calls = talk.failover(29.9)
    assert talk.turn(30.0) == {}
    assert 30.0 < talk.watcher.deadline() <= 30.1
    talk.answer(calls, 30.05)
    now = talk.watcher.deadline()
    assert asked(talk.watcher.advance(now)) == {"a": LEASE}  # the daemon cancels it
    calls = talk.failover(now)
    assert talk.turn(now) == {}
    talk.answer(calls, now)
    assert talk.turn(now) == {"a": LEASE}


@pytest.mark.parametrize(
    ("pace", "guests", "last"),
    [
        *((10.0, 5, 0.4), (0.0, 5, 0.0), (10.0, 1, 0.0)),
        *((10.0, 2, 0.1), (1.0, 101, 60.0), (1000.0, 101, 0.1)),
    ],
)
def test_pace_spreads_the_bursts(pace: float, guests: int, last: float) -> None:
    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(guests)]
    talk = Talk(*channels, options=HintOptions(pace=pace)).meet()
    bursts = [request for call in talk.failover(10.0) for request in requests(call)]
    assert all(burst.adjusted == () for burst in bursts)
    delays = [burst.delay for burst in bursts]
    assert (len(delays), delays[0]) == (guests, 0.0)
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(last)


def test_history_keeps_the_last_hundred_failovers_with_and_without_guests() -> None:
    talk = Talk()
    for number in range(150):
        assert talk.failover(10.0 + number) == []
        assert talk.watcher.deadline() == inf
    assert [entry["number"] for entry in talk.history()] == list(range(51, 151))


# -- announce-self ----------------------------------------------------------------------


def announcing(*answering: Channel, enabled: bool = True) -> Talk:
    talk = Talk(*answering, options=HintOptions(announce_self=enabled)).meet()
    talk.watcher.found_monitors([Channel(name, f"/mon/{name}") for name in "abx"])
    return talk


def paths(calls: list[Call]) -> list[str]:
    return [call.path for call in calls]


def test_guest_without_an_agent_that_answers_is_announced_by_qemu_at_once() -> None:
    talk = announcing(A)
    calls = talk.failover(10.0)
    assert paths(calls) == ["/run/a", "/mon/b", "/mon/x"]
    assert talk.history()[0]["announced_self"] == 2
    assert talk.watcher.status(0.0)["monitors"] == 3
    assert talk.answer(calls[:1], 10.0) == []
    talk.notices()
    assert talk.fail(calls[1:2], 11.0, Outcome.BUSY) == []
    fields = {"path": "/mon/b", "outcome": "busy"}
    assert talk.notices() == [(LEVEL_WARNING, "monitor-failed", fields)]


def test_guest_that_does_not_answer_is_announced_by_qemu_once() -> None:
    talk = announcing(A)
    older = talk.failover(9.0)[:1]
    newer = talk.failover(10.0)[:1]
    assert talk.fail(older, 10.5) == []
    assert paths(talk.fail(newer, 11.0)) == ["/mon/a"]
    again = hints(talk.watcher.advance(11.0))
    assert paths(again) == ["/run/a"]
    assert talk.fail(again, 12.0) == []


def test_announce_self_is_off_by_default() -> None:
    assert HintOptions().announce_self is False
    assert announcing(enabled=False).failover(10.0) == []
