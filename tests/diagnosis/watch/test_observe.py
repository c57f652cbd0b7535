"""Gaps, conflicts, storms; times are literal."""

from __future__ import annotations

import pytest

from garp_agent.diagnosis.sighting import Sighting
from garp_agent.diagnosis.watch import observe
from garp_agent.diagnosis.watch.observe import Observer
from tests.diagnosis.world import ADVERTISEMENT, MAC, OTHER_MAC, REQUEST

FOREIGN = REQUEST._replace(source=OTHER_MAC, hardware_address=OTHER_MAC)


@pytest.fixture
def observer() -> Observer:
    return Observer([MAC])


def test_the_gap_is_between_frames_of_one_station_about_one_address(observer: Observer) -> None:
    assert observer.see("eth0", REQUEST, 10.0).gap is None
    assert observer.see("eth0", ADVERTISEMENT, 11.0).gap is None
    assert observer.see("eth0", REQUEST._replace(kind="arp-probe"), 15.0).gap == 5.0
    assert observer.see("eth1", REQUEST, 16.0).gap is None
    assert observer.see("eth0", REQUEST._replace(vlan="7"), 16.0).gap is None
    assert observer.see("eth0", REQUEST, 16.5).gap == 1.5


def test_a_clock_that_was_set_back_gives_no_negative_gap(observer: Observer) -> None:
    observer.see("eth0", REQUEST, 10.0)
    assert observer.see("eth0", REQUEST, 9.0).gap == 0.0


def test_own_and_foreign(observer: Observer) -> None:
    assert observer.see("eth0", REQUEST, 1.0).own
    assert not observer.see("eth0", FOREIGN._replace(address="192.0.2.7"), 2.0).own
    assert (observer.seen, observer.own, observer.irregular) == (2, 1, 0)


class TestConflict:
    def marks(self, observer: Observer, second: Sighting, when: float) -> tuple[str, ...]:
        observer.see("eth0", REQUEST, 100.0)
        return observer.see("eth0", second, when).marks

    def test_two_stations_with_one_address(self, observer: Observer) -> None:
        marks = self.marks(observer, FOREIGN, 101.5)
        assert marks == (f"conflict: {MAC} announced it too, 1.5 s ago",)
        assert observer.irregular == 1

    def test_an_address_that_moved_a_while_ago(self, observer: Observer) -> None:
        assert self.marks(observer, FOREIGN, 160.5) == ()

    @pytest.mark.parametrize("kind", ["arp-probe", "rarp"])
    def test_what_claims_nothing(self, observer: Observer, kind: str) -> None:
        assert self.marks(observer, FOREIGN._replace(kind=kind), 101.0) == ()

    def test_another_vlan(self, observer: Observer) -> None:
        assert self.marks(observer, FOREIGN._replace(vlan="7"), 101.0) == ()

    def test_another_address(self, observer: Observer) -> None:
        assert self.marks(observer, FOREIGN._replace(address="192.0.2.7"), 101.0) == ()


class TestStorm:
    def storms(self, observer: Observer, step: float, frames: int) -> int:
        rows = [observer.see("eth0", REQUEST, 100.0 + step * n) for n in range(frames)]
        return sum(any("storm" in mark for mark in row.marks) for row in rows)

    def test_sixteen_in_a_second(self, observer: Observer) -> None:
        assert self.storms(observer, 1 / 16, 40) == 25

    def test_fifteen_in_a_second(self, observer: Observer) -> None:
        assert self.storms(observer, 1 / 14.9, 40) == 0

    def test_many_stations_are_no_storm_of_one(self, observer: Observer) -> None:
        for number in range(40):
            station = REQUEST._replace(source=f"02:00:00:00:00:{number:02x}", address=str(number))
            assert observer.see("eth0", station, 100.0).marks == ()


def test_faults_of_the_frame_come_first(observer: Observer) -> None:
    observer.see("eth0", REQUEST, 1.0)
    marks = observer.see("eth0", FOREIGN._replace(faults=("odd",)), 2.0).marks
    assert [mark.partition(":")[0] for mark in marks] == ["odd", "conflict"]


def test_memory_is_bounded(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "REMEMBERED", 10)
    for number in range(50):
        observer.see("eth0", REQUEST._replace(address=str(number)), float(number))
    # The tenth from the end is still known, the eleventh is not.
    assert observer.see("eth0", REQUEST._replace(address="40"), 60.0).gap == 20.0
    assert observer.see("eth0", REQUEST._replace(address="39"), 60.0).gap is None
