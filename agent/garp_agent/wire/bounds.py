"""Ranges of numbers, and those that both the configuration and the protocol use."""

from __future__ import annotations

from garp_agent.wire.record import NamedTuple


class Bound(NamedTuple):
    """The closed range of a number; durations are in seconds."""

    least: float
    most: float


BURST_ROUNDS = Bound(1, 10)
