"""The soak: two simulated days hold, and a drift is seen; the other checks are the properties'."""

from __future__ import annotations

import pytest

from bench import soak


def test_year_of_two_days_holds(capsys: pytest.CaptureFixture[str]) -> None:
    soak.year(days=2, seed=2)
    assert capsys.readouterr().out.startswith("day    2: ")


def test_drift_of_the_ticks_is_seen() -> None:
    guest = soak.begun(seed=1)
    soak.check_drift(guest, wanted=soak.DAY / 5.0)
    with pytest.raises(AssertionError, match="ticks a day"):
        soak.check_drift(guest, wanted=soak.DAY / 5.2)
