"""Notices: how many of them are kept, and at which level."""

from __future__ import annotations

from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO
from garp_agent.wire.notices import PERIOD, REPEATED, Repetition


def test_repetition_keeps_the_first_notices_of_each_period() -> None:
    repetition = Repetition()
    for start in (0.0, PERIOD, 5 * PERIOD + 1.0):
        levels = []
        for number in range(2 * REPEATED):
            levels.append(repetition.level(LEVEL_INFO, start + number))
            assert repetition.is_at_its_limit == (number + 1 == REPEATED)
        assert levels == [LEVEL_INFO] * REPEATED + [LEVEL_DEBUG] * REPEATED
