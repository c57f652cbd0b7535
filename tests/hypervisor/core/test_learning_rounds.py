"""Rounds of learning frames: when, how fast, and what is counted.  The times are given."""

from __future__ import annotations

import errno
from math import inf

import pytest

from garp_agent.hypervisor.core.bonds import FollowedLink
from garp_agent.hypervisor.core.bridge_tables import TableEntry
from garp_agent.hypervisor.core.learning_plan import LearningEntry
from garp_agent.hypervisor.core.learning_rounds import ATTEMPTS, TABLES_WITHIN, TICK, LearningRounds
from garp_agent.hypervisor.core.learning_rules import LearningRules
from garp_agent.hypervisor.core.learning_state import LearningState
from garp_agent.hypervisor.core.link_counters import LinkCounters
from garp_agent.wire.model import IFF_UP
from garp_agent.wire.notices import Notices
from tests.hypervisor.core.learning import Host, bond, bridge, guest, port

PORTS = range(20, 60)


class Rounds:
    """A host with one bond in a bridge, and many ports; each round reads the same tables."""

    def __init__(self, pace: int = 16) -> None:
        ports = [port(n, f"p{n}", 10) for n in PORTS]
        self.host = Host(bond(3, "bond0", 10), bridge(10, "br0"), *ports)
        self.host.change(bridge(10, "br0")._replace(flags=0))  # no frame for the host itself
        self.state = LearningState(self.host.table, self.host.topology)
        self.notices = Notices()
        self.rounds = LearningRounds(
            self.state, self.host.table, LearningRules(), pace, self.notices
        )
        self.now = 0.0  # of the latest call
        self.heard: dict[int, float] = {1: 90.0}  # guests, and when each was heard last

    def read(self, now: float) -> None:
        """Give the rounds the tables that they wait for."""
        self.now = now
        told: list[object] = [LinkCounters(n, 1, 1) for n in PORTS]
        for number, at in self.heard.items():
            told.append(TableEntry(guest(number), PORTS[number % len(PORTS)], 10, 0, now - at))
        self.state.take(told, now)
        self.rounds.tables_read(now)

    def begin(self, now: float, wall: float = 0.0) -> None:
        self.now = now
        self.rounds.begin([3], frozenset(), now, wall)
        self.rounds.advance(now)

    def send(self, now: float, number: int = 0, is_full: bool = False) -> list[LearningEntry]:
        """Send what may be sent now; give each this result."""
        self.now = now
        found = []
        while batch := self.rounds.next_batch(now):
            found += batch[:1] if number else batch
            self.rounds.sent(0 if number else len(batch), number, is_full, now)
            if is_full:
                break
        return found

    def run(self, until: float) -> list[float]:
        """Follow the deadlines; return the times at which frames were sent."""
        times = []
        now = self.now
        while now <= until:
            self.rounds.advance(now)
            if self.rounds.wants_tables:
                self.read(now)
            times += [now] * len(self.send(now))
            now = max(self.rounds.deadline(), now + 1e-6)
        return times


def test_rounds_come_at_0_1_3_and_7_seconds() -> None:
    rounds = Rounds()
    rounds.begin(100.0)
    assert rounds.run(1000.0) == [100.0, 101.0, 103.0, 107.0]
    assert rounds.rounds.deadline() == inf
    [record] = rounds.rounds.history
    assert (record.rounds, record.sent, record.first, record.last) == (4, 4, 0.0, 0.0)


def test_later_round_leaves_out_who_has_spoken_since() -> None:
    rounds = Rounds()
    rounds.heard[2] = 99.0
    rounds.begin(100.0)
    rounds.read(100.0)
    assert len(rounds.send(100.0)) == 2
    rounds.heard[1] = 100.5
    assert rounds.run(1000.0) == [101.0, 103.0, 107.0]
    [record] = rounds.rounds.history
    assert record.left_out == {}


def test_round_without_new_tables_uses_the_memory() -> None:
    rounds = Rounds()
    rounds.read(50.0)
    rounds.begin(100.0)
    assert rounds.rounds.wants_tables
    assert rounds.rounds.deadline() == 100.0 + TABLES_WITHIN
    assert rounds.send(100.0 + TABLES_WITHIN / 2) == []
    rounds.rounds.advance(100.0 + TABLES_WITHIN)
    assert len(rounds.send(100.0 + TABLES_WITHIN)) == 1
    assert [notice.event for notice in rounds.notices.take()] == [
        "tables-not-read",
        "learning-frames",
    ]


def test_rounds_that_passed_meanwhile_are_one() -> None:
    rounds = Rounds()
    rounds.rounds.begin([3], frozenset(), 100.0, 0.0)
    rounds.rounds.advance(104.0)
    rounds.read(104.0)
    assert len(rounds.send(104.0)) == 1
    assert rounds.rounds.deadline() == 107.0


@pytest.mark.parametrize(("pace", "first", "second"), [(16, 64, 16), (1, 4, 1), (0, 256, 256)])
def test_pace_limits_the_frames_of_a_millisecond(pace: int, first: int, second: int) -> None:
    """A turn that comes late may send those of four milliseconds."""
    rounds = Rounds(pace)
    rounds.heard = dict.fromkeys(range(2000), 90.0)
    rounds.begin(100.0)
    rounds.read(100.0)
    assert len(rounds.send(100.0)) == first
    assert rounds.send(100.0) == []
    assert rounds.rounds.deadline() == pytest.approx(100.001 if pace else 100.0)
    assert len(rounds.send(100.0010001)) == second
    times = rounds.run(100.9)
    if pace == 1:
        assert 890 <= len(times) <= 900
    else:
        assert len(times) == 2000 - first - second
    if pace == 16:
        assert max(times) == pytest.approx(100.0 + (2000 - first) / pace / 1000, abs=0.002)


def test_failover_in_mid_round_begins_anew() -> None:
    rounds = Rounds(1)
    rounds.heard = dict.fromkeys(range(100), 90.0)
    rounds.begin(100.0, wall=1.0)
    rounds.read(100.0)
    rounds.send(100.0)
    rounds.begin(100.01, wall=2.0)
    assert rounds.send(100.02) == []
    rounds.read(100.02)
    assert rounds.run(1000.0)
    assert [(each.wall, each.rounds) for each in rounds.rounds.history] == [(1.0, 1), (2.0, 4)]


def test_frames_whose_links_are_gone_are_not_sent() -> None:
    rounds = Rounds()
    rounds.heard = {0: 80.0, 1: 85.0, 2: 90.0}
    rounds.begin(100.0)
    rounds.read(100.0)
    rounds.host.remove(20)
    assert [entry.port for entry in rounds.send(100.0)] == ["p21", "p22"]
    rounds.begin(200.0)
    rounds.read(200.0)
    rounds.host.change(bond(3, "bond0", 10)._replace(flags=IFF_UP))
    assert rounds.send(200.0) == []
    rounds.run(1000.0)
    assert rounds.rounds.deadline() == inf


def test_frame_that_finds_a_full_queue_is_sent_again_and_errors_are_counted() -> None:
    rounds = Rounds()
    rounds.begin(100.0)
    rounds.read(100.0)
    first = rounds.send(100.0, errno.ENOBUFS, is_full=True)
    assert rounds.send(100.0) == []
    assert rounds.send(100.002) == first
    rounds.begin(200.0)
    rounds.read(200.0)
    for n in range(ATTEMPTS):
        assert rounds.send(200.0 + n / 500, errno.ENOBUFS, is_full=True)
    assert rounds.rounds.values()["failed"] == {str(errno.ENOBUFS): 1}
    rounds.begin(300.0)
    rounds.read(300.0)
    rounds.send(300.0, errno.ENETDOWN)
    assert rounds.rounds.values() == {
        "sent": 1,
        "failed": {str(errno.ENOBUFS): 1, str(errno.ENETDOWN): 1},
        "left_out": {},
        "queued": 0,
    }
    assert rounds.rounds.history[-1].values() == {
        "rounds": 1,
        "sent": 0,
        "failed": {str(errno.ENETDOWN): 1},
        "left_out": {},
        "first_seconds": None,
        "last_seconds": None,
    }


def test_full_queue_of_a_bond_does_not_hold_up_another_bond() -> None:
    rounds = Rounds()
    rounds.host.change(bond(4, "bond1", 11), bridge(11, "br1"), port(70, "q0", 11))
    rounds.rounds.begin([3], frozenset(), 100.0, 0.0)
    rounds.rounds.begin([4], frozenset(), 100.0, 0.0)
    rounds.rounds.advance(100.0)
    rounds.read(100.0)
    first = rounds.send(100.0, errno.ENOBUFS, is_full=True)
    [other] = rounds.rounds.next_batch(100.0)
    assert (first[0].bond, other.bond) == ("bond0", "bond1")
    rounds.rounds.sent(1, 0, False, 100.0 + 2 * TICK)  # when the first may be sent again
    assert rounds.rounds.history[-1].values()["first_seconds"] == 2 * TICK
    assert rounds.rounds.deadline() == 100.0 + TICK
    assert rounds.send(100.0 + TICK) == first


def test_bond_that_fails_over_again_leaves_the_round_of_the_other_bond() -> None:
    rounds = Rounds()
    rounds.host.change(bond(4, "bond1", 11), bridge(11, "br1")._replace(flags=0))
    rounds.host.change(port(70, "q0", 11))
    rounds.read(70.0)
    rounds.state.take([LinkCounters(70, 1, 1), TableEntry(guest(9), 70, 11)], 70.0)
    rounds.rounds.begin([3, 4], frozenset(), 100.0, 0.0)
    rounds.rounds.advance(100.0)
    rounds.read(100.0)
    rounds.rounds.begin([4], frozenset(), 100.001, 1.0)
    assert [each.bond for each in rounds.send(100.001)] == ["bond0"]


def test_batch_ends_before_another_bond_and_before_a_link_that_is_gone() -> None:
    rounds = Rounds()
    rounds.host.change(bond(4, "bond1", 11), bridge(11, "br1")._replace(flags=0))
    rounds.host.change(port(70, "q0", 11))
    rounds.heard = {1: 80.0, 2: 81.0, 3: 82.0, 4: 83.0, 5: 85.0}
    rounds.state.take([LinkCounters(70, 1, 1)], 70.0)
    rounds.state.take([TableEntry(guest(9), 70, 11, 0, 0.0)], 84.0)
    rounds.rounds.begin([3, 4], frozenset(), 100.0, 0.0)
    rounds.rounds.advance(100.0)
    rounds.read(100.0)
    rounds.host.remove(PORTS[3])
    batches = []
    while batch := rounds.rounds.next_batch(100.0):
        batches.append([each.port for each in batch])
        rounds.rounds.sent(len(batch), 0, False, 100.0)
    assert batches == [["p21"], ["p22"], ["p24"], ["q0"], ["p25"]]


def test_batch_that_an_error_ends_is_counted_up_to_it() -> None:
    rounds = Rounds()
    rounds.heard = dict.fromkeys(range(8), 90.0)
    rounds.begin(100.0)
    rounds.read(100.0)
    first = rounds.rounds.next_batch(100.0)
    assert len(first) == 1  # the history has its time
    rounds.rounds.sent(1, 0, False, 100.001)
    rest = rounds.rounds.next_batch(100.001)
    rounds.rounds.sent(2, errno.ENETDOWN, False, 100.002)
    assert rounds.rounds.next_batch(100.002) == rest[3:4]  # alone: it can fail as well
    rounds.rounds.sent(1, 0, False, 100.002)
    assert rounds.rounds.next_batch(100.002) == rest[4:]
    rounds.rounds.sent(1, errno.ENOBUFS, True, 100.003)
    assert rounds.rounds.next_batch(100.0035) == []
    assert rounds.rounds.next_batch(100.005) == rest[5:6]
    rounds.rounds.sent(1, 0, False, 100.005)
    assert rounds.rounds.next_batch(100.005) == rest[6:]
    rounds.rounds.sent(1, 0, False, 100.006)
    values = rounds.rounds.history[-1].values()
    assert (values["sent"], values["failed"]) == (7, {str(errno.ENETDOWN): 1})
    assert (values["first_seconds"], values["last_seconds"]) == (0.001, 0.006)


def followed(carrier: bool) -> list[FollowedLink]:
    return [
        FollowedLink("bond0", "bond", "active-backup", carrier, ()),
        FollowedLink("br0", "bridge", "", True, ()),
    ]


@pytest.mark.parametrize(("seconds", "sent"), [(0.9, 1), (1.0, 0)])
def test_address_not_heard_while_all_carriers_were_lost_is_left_out(
    seconds: float, sent: int
) -> None:
    rounds = Rounds()
    rounds.rounds.follow(followed(True), 90.0)
    rounds.rounds.follow(followed(False), 100.0)
    rounds.rounds.follow(followed(False), 100.5)
    rounds.rounds.follow(followed(True), 100.0 + seconds)
    rounds.begin(100.0 + seconds)
    rounds.read(100.0 + seconds)
    assert len(rounds.send(100.0 + seconds)) == sent
    rounds.rounds.follow(followed(False), 200.0)  # a short loss, later
    rounds.rounds.follow(followed(True), 200.1)
    rounds.begin(200.1)
    rounds.read(200.1)
    assert len(rounds.send(200.1)) == sent
    rounds.heard[1] = 300.0
    rounds.begin(300.0)
    rounds.read(300.0)
    assert len(rounds.send(300.0)) == 1


def test_failover_without_a_bond_begins_nothing() -> None:
    rounds = Rounds()
    rounds.rounds.begin([], frozenset(), 100.0, 0.0)
    assert rounds.rounds.deadline() == inf
    assert not rounds.rounds.history
