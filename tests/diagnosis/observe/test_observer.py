"""Gaps, conflicts and storms among announcements."""

from __future__ import annotations

import pytest

from garp_agent.diagnosis.observe import observer as observer_module
from garp_agent.diagnosis.observe.observer import Observer
from garp_agent.diagnosis.sighting import Sighting
from tests.diagnosis.world import ADVERTISEMENT, MAC, OTHER_MAC, REQUEST

FOREIGN = REQUEST._replace(source=OTHER_MAC, hardware_address=OTHER_MAC)


@pytest.fixture
def observer() -> Observer:
    return Observer([MAC])


def test_gap_is_between_frames_of_one_station_and_address(observer: Observer) -> None:
    assert observer.see("eth0", REQUEST, 10.0).gap is None
    assert observer.see("eth0", ADVERTISEMENT, 11.0).gap is None
    assert observer.see("eth0", REQUEST._replace(kind="arp-probe"), 15.0).gap == 5.0
    assert observer.see("eth1", REQUEST, 16.0).gap is None
    assert observer.see("eth0", REQUEST._replace(vlan="7"), 16.0).gap is None
    assert observer.see("eth0", REQUEST, 16.5).gap == 1.5
    assert observer.see("eth0", REQUEST, 9.0).gap == 0.0  # the clock was set back


def test_own_hardware_address_makes_an_announcement_own(observer: Observer) -> None:
    assert observer.see("eth0", REQUEST, 1.0).own
    assert not observer.see("eth0", FOREIGN._replace(address="192.0.2.7"), 2.0).own
    assert (observer.seen, observer.own, observer.irregular) == (2, 1, 0)


@pytest.mark.parametrize(
    ("second", "when", "marks"),
    [
        (FOREIGN, 101.5, (f"conflict: {MAC} announced it too, 1.5 s ago",)),
        (FOREIGN, 160.5, ()),  # the address moved a while ago
        (FOREIGN._replace(kind="arp-probe"), 101.0, ()),
        (FOREIGN._replace(kind="rarp"), 101.0, ()),
        (FOREIGN._replace(vlan="7"), 101.0, ()),
        (FOREIGN._replace(address="192.0.2.7"), 101.0, ()),
    ],
)
def test_conflict_needs_two_stations_one_address_and_one_minute(
    observer: Observer, second: Sighting, when: float, marks: tuple[str, ...]
) -> None:
    observer.see("eth0", REQUEST, 100.0)
    assert observer.see("eth0", second, when).marks == marks
    assert observer.irregular == bool(marks)


@pytest.mark.parametrize(("rate", "storms"), [(16, 25), (14.9, 0)])
def test_storm_is_more_than_fifteen_frames_in_a_second(
    observer: Observer, rate: float, storms: int
) -> None:
    rows = [observer.see("eth0", REQUEST, 100.0 + n / rate) for n in range(40)]
    assert sum(any("storm" in mark for mark in row.marks) for row in rows) == storms


def test_storm_counts_each_station_apart(observer: Observer) -> None:
    for number in range(40):
        station = REQUEST._replace(source=f"02:00:00:00:00:{number:02x}", address=str(number))
        assert observer.see("eth0", station, 100.0).marks == ()


def test_marks_begin_with_the_faults_of_the_frame(observer: Observer) -> None:
    observer.see("eth0", REQUEST, 1.0)
    marks = observer.see("eth0", FOREIGN._replace(faults=("odd",)), 2.0).marks
    assert [mark.partition(":")[0] for mark in marks] == ["odd", "conflict"]


def test_memory_is_bounded(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer_module, "REMEMBERED", 10)
    for number in range(50):
        observer.see("eth0", REQUEST._replace(address=str(number)), float(number))
    # The tenth from the end is still known, the eleventh is not.
    assert observer.see("eth0", REQUEST._replace(address="40"), 60.0).gap == 20.0
    assert observer.see("eth0", REQUEST._replace(address="39"), 60.0).gap is None
