"""A series of path probes: when each is sent, which arrived, and the verdict on each target.

Pull: the caller asks for the next probe, sends it, and reports what arrives.  Opens no socket;
the bytes are those of hypervisor.core.path_probes.
"""

from __future__ import annotations

from math import inf

from garp_agent.hypervisor.core.path_probes import ProbeSeen, ProbeTarget
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DELIVERED = "delivered"
LOST = "lost"
OTHER_VLAN = "other VLAN"  # arrived, but with other tags than it was sent with
NOT_SENT = "not sent"


class Pace(NamedTuple):
    """How fast probes are sent, in seconds."""

    gap: float  # between two probes, at least
    interval: float  # between two probes to one target, at least
    # How late a probe may be without delaying the probes after it.  0: no two are closer than
    # the gap.
    catch_up: float = 0.0


class Probe(NamedTuple):
    """One probe to be sent."""

    sequence: int
    target: ProbeTarget


class ProbeResult(NamedTuple):
    """What became of the probes to one target."""

    target: ProbeTarget
    verdict: str
    sent: int
    arrived: int  # with the right tags
    fastest: float | None  # seconds
    tags: tuple[tuple[int, int], ...]  # with which they arrived, for OTHER_VLAN
    errno: int = 0  # of the last probe that could not be sent

    def values(self, names: Mapping[int, str]) -> dict[str, object]:
        """Return the result as plain values; ``names``: of links, by ifindex."""
        return {
            **target_values(self.target, names),
            "verdict": self.verdict,
            "sent": self.sent,
            "arrived": self.arrived,
            "seconds": None if self.fastest is None else round(self.fastest, 6),
            "arrived_vlans": [vlan for _protocol, vlan in self.tags],
            "errno": self.errno,
        }


def target_values(target: ProbeTarget, names: Mapping[int, str]) -> dict[str, object]:
    """Return a target as plain values; ``names``: of links, by ifindex."""
    bond, standby, active = (names.get(each, f"#{each}") for each in target.path)
    return {
        "guest": target.guest or None,
        "port": target.port or None,
        "mac": target.address.hex(":"),
        "vlans": [vlan for _protocol, vlan in target.tags],
        "bond": bond,
        "standby": standby,
        "active": active,
    }


class ProbeSeries:
    """Probes to all targets in turn.  The caller supplies the time."""

    def __init__(self, targets: Sequence[ProbeTarget], pace: Pace, rounds: float = inf) -> None:
        """``rounds``: probes to each target; inf: until the caller stops asking."""
        self.targets = targets
        self._step = max(pace.gap, pace.interval / max(1, len(targets)))
        self._catch_up = pace.catch_up
        self._most = rounds * len(targets) if targets else 0
        self._next_at: float | None = None
        self.sent_at: list[float] = []  # by sequence number
        self.arrivals: dict[int, float] = {}  # when, by sequence number; right tags only
        self._astray: dict[int, ProbeSeen] = {}  # arrived with other tags
        self._errors: dict[int, int] = {}  # errno by sequence number

    @property
    def is_sent(self) -> bool:
        """Return whether all probes have been taken."""
        return len(self.sent_at) >= self._most

    def next_probe(self, now: float) -> Probe | None:
        """Return the probe to be sent now, or None."""
        due = now if self._next_at is None else self._next_at
        if self.is_sent or now < due:
            return None
        self._next_at = max(due, now - self._catch_up) + self._step
        sequence = len(self.sent_at)
        self.sent_at.append(now)
        return Probe(sequence, self.targets[sequence % len(self.targets)])

    def not_sent(self, sequence: int, errno: int) -> None:
        """Note that a probe could not be sent."""
        self._errors[sequence] = errno

    def seen(self, path_active: int, probe: ProbeSeen, now: float) -> None:
        """Take in a probe that arrived on the port ``path_active``; the first copy counts."""
        if probe.sequence >= len(self.sent_at):
            return  # made up by another station
        target = self.target_of(probe.sequence)
        if path_active != target.path.active:
            return
        if probe.tags != target.tags:
            self._astray.setdefault(probe.sequence, probe)
        else:
            self.arrivals.setdefault(probe.sequence, now)

    def target_of(self, sequence: int) -> ProbeTarget:
        """Return to which target a probe was sent."""
        return self.targets[sequence % len(self.targets)]

    @property
    def last_sent_at(self) -> float:
        """Return when the last probe was taken; -inf: none was."""
        return self.sent_at[-1] if self.sent_at else -inf

    def deadline(self) -> float:
        """Return when the next probe is due; inf: none is."""
        if self.is_sent:
            return inf
        return -inf if self._next_at is None else self._next_at

    @property
    def is_complete(self) -> bool:
        """Return whether all probes were sent and none can arrive any more."""
        gone = self.arrivals.keys() | self._astray.keys() | self._errors.keys()
        return self.is_sent and len(gone) == len(self.sent_at)

    def results(self) -> list[ProbeResult]:
        """Return the verdicts, in the order of the targets."""
        return [self._result(index) for index in range(len(self.targets))]

    def _result(self, index: int) -> ProbeResult:
        numbers = range(index, len(self.sent_at), len(self.targets))
        arrived = [number for number in numbers if number in self.arrivals]
        errors = [self._errors[number] for number in numbers if number in self._errors]
        astray = [self._astray[number] for number in numbers if number in self._astray]
        sent = len(numbers) - len(errors)
        verdict = DELIVERED if arrived else OTHER_VLAN if astray else LOST if sent else NOT_SENT
        return ProbeResult(
            self.targets[index],
            verdict,
            sent,
            len(arrived),
            min((self.arrivals[each] - self.sent_at[each] for each in arrived), default=None),
            astray[-1].tags if astray else (),
            errors[-1] if errors else 0,
        )
