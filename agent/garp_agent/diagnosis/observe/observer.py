"""Relates the announcements of a link to each other: gaps, conflicts, storms.

Pure: sightings and their times in, marked announcements out.  Memory is bounded.  Does not decide
how an announcement looks (``table`` does).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Generic, NamedTuple, TypeVar

from garp_agent.diagnosis.sighting import Sighting

CONFLICT_WINDOW = 60.0  # seconds in which two stations may not announce one address
STORM_RATE = 15  # frames a second from one station; Cisco's ARP inspection shuts a port there
STORM_WINDOW = 1.0  # seconds
REMEMBERED = 20_000  # addresses and stations

Value = TypeVar("Value")


class SeenAnnouncement(NamedTuple):
    """One announcement, and how it relates to earlier ones."""

    when: float  # seconds, wall clock
    interface: str
    sighting: Sighting
    gap: float | None  # seconds since this station announced this address; None: the first time
    own: bool  # from one of this machine's hardware addresses
    marks: tuple[str, ...]  # what is irregular; (): nothing


class BoundedMemory(OrderedDict[tuple[str, ...], Value], Generic[Value]):
    """A bounded dictionary: forgets the entry that was written longest ago."""

    def put(self, key: tuple[str, ...], value: Value) -> None:
        """Store a value as the newest entry."""
        self[key] = value
        self.move_to_end(key)
        while len(self) > REMEMBERED:
            self.popitem(last=False)


class Observer:
    """Everything seen so far.  ``own``: this machine's hardware addresses as text."""

    def __init__(self, own: Collection[str]) -> None:
        self._own = frozenset(own)
        self._last: BoundedMemory[float] = BoundedMemory()  # by interface, VLAN, station, address
        self._claims: BoundedMemory[tuple[str, float]] = (
            BoundedMemory()
        )  # by interface, VLAN, address
        self._pace: BoundedMemory[deque[float]] = BoundedMemory()  # by interface, station
        self.seen = 0
        self.own = 0
        self.irregular = 0

    def see(self, interface: str, sighting: Sighting, when: float) -> SeenAnnouncement:
        """Add one announcement.  ``when``: seconds, wall clock."""
        own = sighting.source in self._own
        marks = (
            *sighting.faults,
            *self._conflict(interface, sighting, when),
            *self._storm(interface, sighting, when),
        )
        self.seen += 1
        self.own += own
        self.irregular += bool(marks)
        return SeenAnnouncement(
            when, interface, sighting, self._gap(interface, sighting, when), own, marks
        )

    def _gap(self, interface: str, sighting: Sighting, when: float) -> float | None:
        key = (interface, sighting.vlan, sighting.source, sighting.address or sighting.kind)
        last = self._last.get(key)
        self._last.put(key, when)
        return None if last is None else max(0.0, when - last)

    def _conflict(self, interface: str, sighting: Sighting, when: float) -> tuple[str, ...]:
        if sighting.kind in ("arp-probe", "rarp"):  # neither claims an address
            return ()
        key = (interface, sighting.vlan, sighting.address)
        rival, last = self._claims.get(key, ("", 0.0))
        self._claims.put(key, (sighting.hardware_address, when))
        if rival in ("", sighting.hardware_address) or when - last > CONFLICT_WINDOW:
            return ()
        return (f"conflict: {rival} announced it too, {when - last:.1f} s ago",)

    def _storm(self, interface: str, sighting: Sighting, when: float) -> tuple[str, ...]:
        key = (interface, sighting.source)
        times = self._pace.get(key) or deque(maxlen=STORM_RATE + 1)
        times.append(when)
        self._pace.put(key, times)
        if len(times) <= STORM_RATE or when - times[0] > STORM_WINDOW:
            return ()
        return (f"storm: more than {STORM_RATE} frames a second from {sighting.source}",)
