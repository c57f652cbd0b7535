"""What a drill measures: for how long after a switch of a bond the network had a guest wrong.

After each switch, path probes to all guests go out of the port that was active before.  While a
probe to a guest is lost, the network believes that the guest is still behind that port, and drops
or misdirects its traffic.  Knows no socket, no bond and no clock (hypervisor.drill_run).
"""

from __future__ import annotations

from garp_agent.hypervisor.core.path_probes import ProbePath
from garp_agent.hypervisor.core.probe_series import target_values
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from garp_agent.hypervisor.core.path_probes import ProbeTarget
    from garp_agent.hypervisor.core.probe_series import ProbeSeries

# Seconds in which all probes are delivered, after which a direction is over.  So long that the
# bursts of the guests are over too, and do not heal the next switch by chance.
SETTLED_FOR = 3.0
NOT_KNOWN = "not known"  # the way of a guest
UNDER_WAY = 0.1  # seconds for which a probe may be under way


class Outage(NamedTuple):
    """How one guest fared in one direction."""

    target: ProbeTarget
    seconds: float | None  # until the first probe that was delivered was sent; None: none was
    lost: int  # probes
    lost_later: int  # of them, after the first one that was delivered


def reversed_target(target: ProbeTarget) -> ProbeTarget:
    """Return the same guest, probed the other way round."""
    return target._replace(path=reversed_path(target.path))


def reversed_path(path: ProbePath) -> ProbePath:
    """Return the path between the same ports, the other way round."""
    return ProbePath(path.bond, path.active, path.standby)


def sample_of(targets: Sequence[ProbeTarget], most: int) -> list[ProbeTarget]:
    """Return at most ``most`` targets, evenly from the whole sequence."""
    if len(targets) <= most:
        return list(targets)
    return [targets[number * len(targets) // most] for number in range(most)]


def is_settled(series: ProbeSeries, now: float) -> bool:
    """Return whether each target was reached all the time lately.

    That is: by all probes of SETTLED_FOR seconds, without those that may be under way.
    """
    until = now - UNDER_WAY
    first = len(series.sent_at)
    while first > 0 and series.sent_at[first - 1] >= until - SETTLED_FOR:
        first -= 1
    reached: set[int] = set()
    for sequence in range(first, len(series.sent_at)):
        if sequence in series.arrivals:
            reached.add(sequence % len(series.targets))
        elif series.sent_at[sequence] <= until:
            return False
    is_long_enough = bool(series.sent_at) and series.sent_at[0] <= until - SETTLED_FOR
    return is_long_enough and len(reached) == len(series.targets)


def healed(series: ProbeSeries) -> int:
    """Return how many targets have been reached."""
    return len({sequence % len(series.targets) for sequence in series.arrivals})


def outages(series: ProbeSeries, switched_at: float, now: float) -> list[Outage]:
    """Return the outages in the order of the targets.

    ``switched_at``: when the bond had switched.  ``now``: probes that may be under way do not
    count.
    """
    return [_outage(series, index, switched_at, now) for index in range(len(series.targets))]


def _outage(series: ProbeSeries, index: int, switched_at: float, now: float) -> Outage:
    numbers = range(index, len(series.sent_at), len(series.targets))
    arrived = [number for number in numbers if number in series.arrivals]
    lost = [
        number
        for number in numbers
        if number not in series.arrivals and series.sent_at[number] <= now - UNDER_WAY
    ]
    if not arrived:
        return Outage(series.targets[index], None, len(lost), 0)
    later = sum(number > arrived[0] for number in lost)
    # The network was already right when it took the first probe.
    is_first = arrived[0] == index
    seconds = 0.0 if is_first else max(0.0, series.sent_at[arrived[0]] - switched_at)
    return Outage(series.targets[index], seconds, len(lost), later)


class Direction(NamedTuple):
    """One switch of the bond, and the outages after it."""

    path: ProbePath  # of the probes: from the port that was active before to the active one
    watched: float  # seconds
    outages: tuple[Outage, ...]

    def values(self, names: Mapping[int, str], ways: Mapping[str, str]) -> dict[str, object]:
        """Return plain values; ``names``: of links by ifindex; ``ways``: by guest port."""
        return {
            "before": names.get(self.path.standby, ""),
            "after": names.get(self.path.active, ""),
            "watched": round(self.watched, 3),
            "guests": [_outage_values(each, names, ways) for each in self.outages],
        }


def _outage_values(
    outage: Outage, names: Mapping[int, str], ways: Mapping[str, str]
) -> dict[str, object]:
    target = target_values(outage.target, names)
    return {
        **{key: target[key] for key in ("guest", "port", "mac", "vlans")},
        "way": ways.get(outage.target.port, NOT_KNOWN),
        "seconds": _rounded(outage.seconds),
        "lost": outage.lost,
        "lost_later": outage.lost_later,
    }


def drill_values(
    bond: str,
    directions: Sequence[Direction],
    names: Mapping[int, str],
    ways: Mapping[str, str],
    limit: float,
) -> dict[str, object]:
    """Return a whole drill as plain values.

    ``limit``: seconds; a guest that took longer, or was not reached at all, has not passed.
    """
    worst: dict[str, tuple[set[ProbeTarget], float | None]] = {}
    for direction in directions:
        for outage in direction.outages:
            way = ways.get(outage.target.port, NOT_KNOWN)
            guests, seconds = worst.get(way, (set(), 0.0))
            guests.add(outage.target._replace(path=ProbePath(0, 0, 0)))
            worst[way] = guests, _longer(seconds, outage.seconds)
    longest: float | None = 0.0
    for _guests, seconds in worst.values():
        longest = _longer(longest, seconds)
    return {
        "bond": bond,
        "directions": [each.values(names, ways) for each in directions],
        "limit": limit,
        "passed": bool(directions) and longest is not None and longest <= limit,
        "ways": [
            {"way": way, "guests": len(guests), "worst": _rounded(seconds)}
            for way, (guests, seconds) in sorted(worst.items())
        ],
        "worst": _rounded(longest),
    }


def _longer(one: float | None, other: float | None) -> float | None:
    """Return the longer outage; None is one without an end."""
    return None if one is None or other is None else max(one, other)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
