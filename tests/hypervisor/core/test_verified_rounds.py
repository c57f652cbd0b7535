"""Rounds of hints when path probes say whether the path forwards and whom it reaches."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from garp_agent.hypervisor.core.exchange import Call
from garp_agent.hypervisor.core.failover_record import REPEATS, Verification
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.lease_paths import GuestPath
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.model import LEVEL_NOTICE, LEVEL_WARNING
from garp_agent.wire.protocol import Burst
from tests.hypervisor.core.talk import REVOKE, WALL, A, B, C, Talk, asked

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.guests import Guest

HOLD = 40.0


def path_of(guest: Guest, _followed: frozenset[str]) -> GuestPath:
    """Each guest has a port of its name, and c a second one; the port of x is not known."""
    name = guest.channel.guest
    ports = {f"tap-{name}"} | ({"tap-c2"} if name == "c" else set())
    return GuestPath(frozenset({"bond0"}), ports=frozenset(ports), is_known=name != "x")


def failover(talk: Talk, now: float, hold: float = 0.0) -> list[Call]:
    return talk.watcher.failover("bond0", "r", frozenset({"bond0"}), now, WALL, hold)


def counts(calls: dict[str, list[Any]]) -> dict[str, list[int | None]]:
    """Return the rounds that each hint asks for, by guest; None: as configured there."""
    return {
        name: [each.rounds for each in asks if isinstance(each, Burst)]
        for name, asks in calls.items()
    }


def hinted(talk: Talk, until: float) -> list[tuple[float, int | None]]:
    """Return when guest a is hinted up to a time, and the rounds that are asked for."""
    turns = [(now, counts(asks).get("a", [])) for now, asks in talk.run(until)]
    return [(now, rounds) for now, found in turns for rounds in found]


def met(*channels: Channel, options: HintOptions | None = None) -> Talk:
    return Talk(*channels, path_of=path_of, options=options).meet()


def verify(talk: Talk, *ports: str, seconds: float | None = 2.0) -> None:
    number = talk.watcher.latest_failover
    talk.watcher.verified(number, Verification(0.5, len(ports), 3, seconds), frozenset(ports))


def test_hints_that_are_held_are_sent_when_the_path_forwards() -> None:
    talk = met(A, B)
    assert failover(talk, 10.0, HOLD) == []
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, True, 22.0)
    assert counts(asked(calls)) == {"a": [None], "b": [None]}
    talk.answer(calls, 22.0)
    assert talk.history()[0]["slowest_seconds"] == 12.0
    # As after a failover at this moment.
    assert hinted(talk, 100.0) == [(22.0 + each, 1) for each in REPEATS]


def test_path_that_forwards_when_the_repetitions_are_over_causes_them_again() -> None:
    """A path is probed for two minutes, and hints are repeated for one."""
    talk = met(A, B, options=HintOptions(lease=0.0))
    talk.answer(failover(talk, 10.0), 10.0)
    verify(talk, "tap-b")  # what one of its ports says does not count before the path
    assert [now for now, _ in hinted(talk, 110.0)] == [10.0 + each for each in REPEATS]
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, True, 110.0)
    assert counts(asked(calls)) == {"a": [1], "b": [1]}
    talk.answer(calls, 110.0)
    assert [now for now, _ in hinted(talk, 190.0)] == [110.0 + each for each in REPEATS]


def test_path_that_forwards_after_a_newer_failover_leaves_its_guests_alone() -> None:
    talk = met(A)
    talk.answer(failover(talk, 10.0), 10.0)
    number = talk.watcher.latest_failover
    failover(talk, 12.0)
    assert talk.watcher.path_forwards(number, True, 13.0) == []


def test_hints_that_are_held_are_sent_at_the_end_of_the_time_at_the_latest() -> None:
    talk = met(A)
    failover(talk, 10.0, HOLD)
    assert hinted(talk, 100.0) == [(50.0, None), (70.0, 1)]


def test_leases_end_at_once_while_hints_are_held() -> None:
    """The path can work although no probe arrives: then the guest must not wait for a lease."""
    talk = met(A)
    failover(talk, 10.0, HOLD)
    assert talk.run(49.0) == [(10.0, {"a": [REVOKE]})]
    assert talk.guest("a", 10.0)["lease"] == 0


def test_lease_that_is_offered_when_hints_are_held_is_revoked() -> None:
    talk = met(A)
    [offer] = talk.watcher.advance(talk.watcher.deadline())
    failover(talk, 30.0, HOLD)
    assert talk.watcher.advance(30.0) == []
    talk.answer([offer], 30.1)
    assert talk.turn(30.1) == {"a": [REVOKE]}


def test_held_hints_begin_with_the_guests_that_answer() -> None:
    talk = Talk(A, B, path_of=path_of)
    a, b = talk.watcher.advance(0.0)
    talk.fail([a], 1.0)
    talk.answer([b], 1.0)
    failover(talk, 10.0, HOLD)
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, False, 11.0)
    assert [call.path for call in calls] == ["/run/b", "/run/a"]


def test_path_that_forwards_at_once_causes_no_second_hint() -> None:
    talk = met(A)
    talk.answer(failover(talk, 10.0), 10.0)
    assert talk.watcher.path_forwards(talk.watcher.latest_failover, False, 10.01) == []


def test_path_that_forwards_late_causes_one_hint_more() -> None:
    talk = met(A, B)
    a, b = failover(talk, 10.0)
    talk.answer([a], 10.0)
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, True, 10.5)
    assert counts(asked(calls)) == {"a": [1]}  # b still owes a reply
    talk.answer([b, *calls], 10.5)
    assert talk.watcher.path_forwards(7, True, 10.6) == []  # there is no such failover


def test_guest_is_hinted_no_more_when_all_its_ports_are_reached() -> None:
    x = Channel("x", "/run/x")
    talk = met(A, B, C, x)
    talk.answer(failover(talk, 10.0), 10.0)
    verify(talk, "tap-a", "tap-c", "tap-x")
    calls = talk.watcher.advance(11.0)
    assert counts(asked(calls)) == {"b": [1], "c": [1], "x": [1]}
    talk.answer(calls, 11.0)
    verify(talk, "tap-a", "tap-b", "tap-c", "tap-c2", "tap-x")
    calls = talk.watcher.advance(13.0)
    assert counts(asked(calls)) == {"x": [1]}


def test_failover_is_over_when_all_guests_are_reached() -> None:
    talk = met(A, options=HintOptions(lease=0.0))
    talk.answer(failover(talk, 10.0), 10.0)
    verify(talk, "tap-a")
    entry = talk.history()[0]
    assert entry["repeating"] == 0
    assert entry["verified"] == {
        "forwards_seconds": 0.5,
        "reached": 1,
        "addresses": 3,
        "slowest_seconds": 2.0,
    }
    assert [
        ask for _, asks in talk.run(100.0) for ask in asks.get("a", ()) if type(ask) is Burst
    ] == []


def test_guest_that_is_reached_before_it_has_answered_is_still_awaited() -> None:
    talk = met(A)
    calls = failover(talk, 10.0)
    verify(talk, "tap-a")
    assert talk.history()[0]["awaited"] == 1
    talk.answer(calls, 10.2)
    assert talk.history()[0]["answered"] == 1
    assert talk.watcher.deadline() != inf  # contacts


def test_qemu_is_asked_again_when_the_path_forwards_late() -> None:
    talk = met(A, options=HintOptions(announce_self=True))
    talk.watcher.found_monitors([Channel(name, f"/mon/{name}") for name in "ab"])
    calls = failover(talk, 10.0)
    assert [call.path for call in calls] == ["/run/a", "/mon/b"]
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, True, 12.0)
    assert "/mon/b" in [call.path for call in calls]
    # Nothing but QEMU speaks for b: it does not wait for a path that may never be proven.
    assert [call.path for call in failover(talk, 20.0, HOLD)] == ["/mon/b"]
    calls = talk.watcher.path_forwards(talk.watcher.latest_failover, True, 22.0)
    assert [call.path for call in calls] == ["/run/a", "/mon/b"]


def test_end_of_a_verification_is_logged() -> None:
    talk = met(A)
    failover(talk, 10.0)
    talk.notices()
    number = talk.watcher.latest_failover
    talk.watcher.log_verified(number)
    assert talk.notices() == []
    whole = Verification(0.001, 3, 3, 0.084)
    for found, level in ((whole, LEVEL_NOTICE), (whole._replace(reached=2), LEVEL_WARNING)):
        talk.watcher.verified(number, found, frozenset())
        talk.watcher.log_verified(number)
        fields = {
            "link": "bond0",
            "forwards_seconds": 0.001,
            "reached": found.reached,
            "addresses": 3,
            "slowest_seconds": 0.084,
        }
        assert talk.notices() == [(level, "failover-verified", fields)]
