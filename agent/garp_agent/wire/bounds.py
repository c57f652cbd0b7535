"""The bounds of numbers that both the configuration and the protocol know."""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple


class Bound(NamedTuple):
    """The closed range that a number may lie in; durations in seconds."""

    least: float
    most: float


BURST_ROUNDS = Bound(1, 10)
