"""Rounds of hints and announce-self, with literal times."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from garp_agent.hypervisor.core.announce_self import REWRITE, VIF_BACKENDS
from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.core.guests import Channel, Guest
from garp_agent.hypervisor.core.hint_rounds import HINT, LINKS_COUNTED
from garp_agent.hypervisor.core.lease_paths import GuestPath
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import Burst, Info, Lease
from tests.hypervisor.core.talk import BOND0, WALL, A, B, C, Talk, asked, first, requests

INFO, REVOKE = [Info()], Lease(None, 0.0)


def hint(number: int, reason: str = "r", again: bool = False) -> list[Any]:
    """Return a hint; ``again``: in a repetition."""
    return [Burst(None, reason, 1 if again else None, None, 0.0, "boot", number)]


def hints(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.kind == HINT]


def numbers(talk: Talk, until: float) -> list[tuple[float, str, int]]:
    """Return time, guest and number of each hint that is due up to a time."""
    return [
        (now, name, ask.sequence)
        for now, asks in talk.run(until)
        for name, requests in asks.items()
        for ask in requests
        if isinstance(ask, Burst)
    ]


def test_failover_hints_all_guests_and_first_those_that_answer() -> None:
    talk = Talk(A, B, C)
    a, b, c = talk.watcher.advance(0.0)
    talk.fail([a, c], 1.0)
    talk.answer([b], 1.0)
    calls = talk.failover(10.0)
    assert [call.path for call in hints(calls)] == ["/run/b", "/run/a", "/run/c"]
    # An earlier run of the watcher may have promised something to those never met.
    asks = {"a": [*hint(4), REVOKE], "b": hint(4), "c": [*hint(4), REVOKE]}
    assert asked(calls) == asks


def test_hint_to_many_guests_is_written_once() -> None:
    """1,000 guests get the same bytes: to write JSON for each took most of the time to the last."""
    talk = Talk(*(Channel(f"g{n}", f"/run/{n}") for n in range(50)), options=HintOptions(lease=0))
    talk.meet()
    lines = [call.exchange.outgoing for call in hints(talk.failover(10.0))]
    assert (len(lines), len({id(line) for line in lines})) == (50, 1)


def test_failover_ends_the_leases_of_its_guests_until_they_have_said_so() -> None:
    talk = Talk(A).meet()
    assert talk.guest("a", 10.0)["lease"] == 80.0
    calls = talk.failover(10.0)
    assert asked(calls) == {"a": [*hint(2), REVOKE]}
    values = talk.guest("a", 10.0)
    assert (values["lease"], values["no_lease"]) == (0, "bond0 changed 0 s ago")
    talk.fail(calls, 10.9)
    assert talk.turn(11.0) == {"a": [*hint(3, again=True), REVOKE]}
    assert talk.turn(13.0) == {"a": hint(4, again=True)}


def test_failover_hints_guests_without_an_agent_after_those_whose_agent_is_busy() -> None:
    talk = Talk(A, B, C)
    calls = {call.path[-1]: call for call in talk.watcher.advance(0.0)}
    talk.fail([calls["a"]], 0.0)
    talk.fail([calls["b"]], 0.0, Outcome.BUSY)
    talk.answer([calls["c"]], 0.0)
    assert [call.path[-1] for call in talk.failover(10.0)] == ["c", "b", "a"]


def test_hint_is_repeated_for_a_minute_also_to_guests_that_answer() -> None:
    talk = Talk(A, B).meet()
    talk.answer(talk.failover(100.0), 100.0)
    expected = [
        (100.0 + after, name, 4 + n)
        for n, after in enumerate((1.0, 3.0, 7.0, 15.0, 30.0, 60.0))
        for name in "ab"
    ]
    assert numbers(talk, 300.0) == expected
    [entry] = talk.history()
    assert (entry["rounds"], entry["repeating"], entry["answered"]) == (7, 0, 2)
    assert (entry["frames"], entry["slowest_seconds"]) == (28, 0.0)
    assert (talk.guest("a")["hints"], talk.guest("a")["answered"]) == (1, 1)


def test_newer_failover_takes_its_guests_out_of_the_series_of_the_older_one() -> None:
    behind = {"a": {"bond0", "bond1"}, "b": {"bond0"}, "c": {"bond1"}}
    talk = Talk(
        A, B, C, path_of=lambda each, _: GuestPath(frozenset(behind[each.channel.guest]))
    ).meet()
    calls = talk.failover(10.0)
    assert set(asked(calls)) == {"a", "b"}
    talk.answer(calls, 10.0)
    assert {name for _, name, _ in numbers(talk, 11.0)} == {"a", "b"}
    newer = talk.failover(12.0, "bond1")
    assert set(asked(newer)) == {"a", "c"}
    talk.answer(newer, 12.0)
    found = numbers(talk, 18.0)
    expected = {13.0: {"a", "b", "c"}, 15.0: {"a", "c"}, 17.0: {"b"}}
    for now, names in expected.items():
        assert {name for time, name, _ in found if time == now} == names
    assert len(found) == 6
    counts = [(each["rounds"], each["repeating"], each["superseded"]) for each in talk.history()]
    assert counts == [(4, 1, 0), (3, 2, 0)]
    assert len({number for *_, number in found}) == 4


def test_guest_of_another_link_keeps_its_lease_and_gets_no_hint() -> None:
    links = {"a": frozenset({"bond0"}), "b": frozenset({"bond1"})}
    talk = Talk(A, B, path_of=lambda guest, _: GuestPath(links[guest.channel.guest])).meet()
    assert set(asked(talk.failover(10.0))) == {"a"}
    assert [talk.guest(name, 10.0)["lease"] for name in "ab"] == [0, 80.0]
    assert talk.history()[0]["guests"] == 1


@pytest.mark.parametrize(
    ("guests", "times"),
    [(5, [101.0, 103.0, 107.0, 115.0]), (200, [120.0, 140.0, 160.0]), (700, [160.0])],
)
def test_repetition_waits_until_the_pace_is_free(guests: int, times: list[float]) -> None:
    """Bursts of two rounds at once would exceed the pace that the operator has set."""
    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(guests)]
    talk = Talk(*channels, options=HintOptions(lease=0.0, pace=10.0)).meet()
    talk.answer(talk.failover(100.0), 100.0)
    found = sorted({now for now, *_ in numbers(talk, 170.0)})
    assert found[: len(times)] == pytest.approx(times, abs=0.1)


def test_failover_is_kept_in_history_counters_and_log() -> None:
    talk = Talk(A, B).meet()
    talk.watcher.found([A, B, C], 5.0)
    talk.fail(talk.watcher.advance(5.0), 5.0)
    talk.notices()
    a, b, c = talk.failover(10.0, reason="bond0 went over")
    fields = {"link": "bond0", "reason": "bond0 went over", "guests": 3, "leases_ended": 2}
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
            "rounds": 1,
            "repeating": 3,
            "frames": 1_000_000,
            "fastest_seconds": pytest.approx(0.002),
            "slowest_seconds": slowest,
            "superseded": 0,
            "unanswered": [],
            "unanswered_without_agent": ["c"],
            "unanswered_by_state": {"no-agent": 1},
            "announced_self": 0,
            "verified": None,
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


def test_guest_without_an_agent_is_hinted_once() -> None:
    talk = Talk(A, B)
    a, b = talk.watcher.advance(0.0)
    talk.answer([a], 0.0)
    talk.fail([b], 1.0)
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    talk.fail([b], 10.1)
    asks = talk.turn(11.0, Outcome.NO_AGENT)
    assert asks == {"a": hint(4, again=True), "b": first(2)}  # that one is a contact


def test_guest_that_owes_a_reply_is_not_hinted_again_and_delays_no_other() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    assert [set(asks) for now, asks in talk.run(12.9) if now == 11.0] == [{"a"}]
    assert talk.fail([b], 12.9, Outcome.BUSY) == []
    again = talk.watcher.advance(13.0)
    assert set(asked(again)) == {"a", "b"}
    talk.answer(again, 13.0)
    [entry] = talk.history()
    assert (entry["answered"], entry["unanswered"], entry["slowest_seconds"]) == (2, [], 3.0)
    assert talk.guest("b")["hints"] == 1


def test_guest_that_answers_no_repetition_is_logged_as_a_warning_and_kept() -> None:
    talk = Talk(A, B).meet()
    talk.fail(talk.failover(10.0), 10.9)
    talk.watcher.found([A], 11.0)  # a guest that left is not hinted again
    for now in (11.0, 13.0):
        assert "guests-hinted" not in [event for _, event, _ in talk.notices()]
        assert set(talk.turn(now, Outcome.BUSY)) == {"a"}
    level, event, fields = talk.notices()[-1]
    assert (level, event, fields["unanswered"]) == (LEVEL_WARNING, "guests-hinted", "a,b")
    [entry] = talk.history()
    assert entry["unanswered"] == ["a", "b"]
    assert entry["unanswered_by_state"] == {"busy": 1, "no-agent": 1}
    talk.run(18.0)  # now it answers
    assert talk.history()[0]["unanswered"] == ["b"]
    talk.watcher.found([], 19.0)
    talk.run(100.0)
    assert "guests-hinted" not in [event for _, event, _ in talk.notices()]
    hinted = talk.watcher.status(100.0)["hints"]
    assert hinted == {each.value: 0 for each in Outcome} | {"busy": 1, "no-agent": 1}


def test_guest_that_answers_the_hint_and_no_repetition_counts_as_one_that_answered() -> None:
    talk = Talk(A).meet()
    talk.answer(talk.failover(10.0), 10.0)
    assert talk.turn(11.0, Outcome.BUSY) == {"a": hint(3, again=True)}
    [entry] = talk.history()
    assert (entry["answered"], entry["unanswered"]) == (1, [])
    assert [event for _, event, _ in talk.notices()].count("guests-hinted") == 1


def test_newer_failover_supersedes_the_hints_of_the_older_one() -> None:
    talk = Talk(A, B).meet()
    a, b = talk.failover(10.0)
    talk.answer([a], 10.0)
    newer = talk.failover(10.1, "bond1", "bond1 went over")
    assert asked(newer) == {
        "a": hint(4, "bond1 went over"),
        "b": [*hint(4, "bond1 went over"), REVOKE],
    }
    assert talk.fail([b], 10.2, Outcome.BUSY) == []
    assert "guests-hinted" not in [event for _, event, _ in talk.notices()]
    counts = ("answered", "superseded", "awaited", "repeating")
    found = [[entry[name] for name in counts] for entry in talk.history()]
    assert found == [[1, 1, 0, 0], [0, 0, 2, 2]]
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
    assert asked(talk.watcher.advance(now)) == {"a": INFO}  # the daemon cancels it
    calls = talk.failover(now)
    assert talk.turn(now) == {}
    talk.answer(calls, now)
    assert talk.turn(now) == {"a": INFO}


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
    bursts = [requests(call)[0] for call in talk.failover(10.0)]
    assert all(burst.adjusted == () for burst in bursts)
    delays = [burst.delay for burst in bursts]
    assert (len(delays), delays[0]) == (guests, 0.0)
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(last)


def test_failovers_of_links_that_are_gone_leave_no_memory() -> None:
    """Of the links, those that failed over last keep their count."""
    talk = Talk()
    for n in range(1000):
        talk.failover(float(n), f"brq{n}")
        talk.failover(float(n), "bond0")
    counts: Any = talk.watcher.status(1000.0)["failovers"]
    assert len(counts) == LINKS_COUNTED
    assert (counts["bond0"], counts["brq999"], counts.get("brq0")) == (1000, 1, None)


def starts(call: Call, now: float) -> list[float]:
    return [now + each.delay for each in requests(call) if isinstance(each, Burst)]


@pytest.mark.parametrize("silent", [0, 30])
def test_pace_holds_for_all_failovers_of_the_host_together(silent: int) -> None:
    """Ten bonds fail over in one second; each has ten guests.  Those without an agent wait."""

    def path_of(guest: Guest, followed: frozenset[str]) -> GuestPath:
        return GuestPath(frozenset({f"bond{int(guest.channel.guest) % 10}"}))

    channels = [Channel(f"{n:03}", f"/run/{n:03}") for n in range(100 + silent)]
    links = tuple(BOND0._replace(link=f"bond{n}") for n in range(10))
    options = HintOptions(pace=10.0, lease=0.0)
    talk = Talk(*channels, options=options, links=links, path_of=path_of)
    calls = talk.watcher.advance(0.0)
    talk.answer([call for call in calls if call.path < "/run/100"], 0.0)
    talk.fail([call for call in calls if call.path >= "/run/100"], 0.0)
    found = []
    for n in range(10):
        now = 100 + n / 10
        calls = [call for call in talk.failover(now, f"bond{n}") if call.path < "/run/100"]
        found += [start for call in calls for start in starts(call, now)]
        talk.answer(calls, now)
    assert sorted(found) == pytest.approx([100 + n / 10 for n in range(100)])
    while (now := talk.watcher.deadline()) < 200:
        calls = talk.watcher.advance(now)
        found += [start for call in calls for start in starts(call, now)]
        talk.answer(calls, now)
    assert len(found) > 300  # with the repetitions
    times = sorted(found)
    assert min(late - early for early, late in zip(times, times[10:])) > 0.99


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
    fields = {"path": "/mon/b", "outcome": "busy", "reason": None}
    assert talk.notices() == [(LEVEL_WARNING, "monitor-failed", fields)]
    exchange = calls[2].exchange
    assert exchange.received(b'{"return": {}, "id": "qmp_capabilities"}\r\n') is None
    error = b'{"error": {"class": "GenericError", "desc": "no"}, "id": "announce-self"}\n'
    assert exchange.received(error) is Outcome.REFUSED
    assert talk.watcher.finished(Result(calls[2], Outcome.REFUSED, 0.1), 11.0) == []
    fields = {"path": "/mon/x", "outcome": "refused", "reason": "no"}
    assert talk.notices() == [(LEVEL_WARNING, "monitor-failed", fields)]


def test_guest_that_does_not_answer_is_announced_by_qemu_once() -> None:
    talk = announcing(A)
    older = talk.failover(9.0)[:1]
    newer = talk.failover(10.0)[:1]
    assert talk.fail(older, 10.5) == []
    assert paths(talk.fail(newer, 11.0)) == ["/mon/a"]
    again = hints(talk.watcher.advance(11.0))
    assert paths(again) == ["/run/a"]
    assert talk.fail(again, 12.0) == []  # once in a failover


def test_guest_of_xen_is_announced_by_its_cards() -> None:
    talk = Talk(A, options=HintOptions(announce_self=True)).meet()
    folders = {"a": f"{VIF_BACKENDS}/1", "b": f"{VIF_BACKENDS}/2"}
    talk.watcher.found_monitors([Channel(name, path) for name, path in folders.items()])
    hint, rewrite = talk.failover(10.0)
    assert (rewrite.path, rewrite.kind) == (folders["b"], REWRITE)
    talk.notices()
    assert talk.fail([rewrite], 10.0, Outcome.FAILED) == []
    fields = {"path": folders["b"], "outcome": "failed", "reason": None}
    assert talk.notices() == [(LEVEL_WARNING, "monitor-failed", fields)]
    (rewrite,) = talk.fail([hint], 11.0)
    assert (rewrite.path, rewrite.kind) == (folders["a"], REWRITE)


def test_guest_that_a_failover_does_not_concern_is_not_announced_by_qemu() -> None:
    links = {"a": frozenset({"bond0"}), "b": frozenset({"bond1"})}
    talk = Talk(
        A,
        B,
        options=HintOptions(announce_self=True),
        path_of=lambda guest, _: GuestPath(links[guest.channel.guest]),
    )
    talk.watcher.found_monitors([Channel(name, f"/mon/{name}") for name in "abx"])
    assert paths(talk.failover(10.0)) == ["/run/a", "/mon/a", "/mon/x"]


def test_announce_self_is_off_by_default() -> None:
    assert HintOptions().announce_self is False
    assert announcing(enabled=False).failover(10.0) == []


def test_guest_that_is_busy_at_the_first_contact_and_the_hint_gets_the_repetitions() -> None:
    """The watcher was restarted; another client has the guest's channel."""
    talk = Talk(A)
    talk.fail(talk.watcher.advance(0.0), 1.0, Outcome.BUSY)
    talk.fail(talk.failover(1.2), 2.2, Outcome.BUSY)
    kinds: list[str] = []
    while (now := talk.watcher.deadline()) < 20.0:
        calls = talk.watcher.advance(now)
        kinds += [call.kind for call in calls]
        talk.fail(calls, now + 0.1, Outcome.BUSY)
    assert kinds.count(HINT) >= 3
