"""The soak's own judgement: two simulated days hold, and each kind of fault is seen."""

from __future__ import annotations

import pytest

from bench import soak
from bench.soak import DAY, BrokenError, Judge, World
from garp_agent.config.settings import RateLimit
from garp_agent.guest.core.model import (
    AddressGone,
    Announcement,
    Cause,
    InterfaceAddress,
    Kind,
)


def test_year_of_two_days_holds(capsys: pytest.CaptureFixture[str]) -> None:
    soak.year(days=2, seed=2)
    assert capsys.readouterr().out.startswith("day    2: ")


def test_witness_sees_foreign_address_silence_and_drift() -> None:
    world = World(1)
    ifindex = min(world.links)
    foreign = Announcement(ifindex, Kind.ARP_REQUEST, bytes(6), b"\1\2\3\4", Cause.REFRESH)
    with pytest.raises(BrokenError, match="not ours"):
        world.witness.saw(foreign, 1.0)
    world = World(1)
    address = min(world.witness.owned[ifindex])
    world.engine.handle(AddressGone(InterfaceAddress(ifindex, address, 24)), world.now)
    world.send()
    with pytest.raises(BrokenError, match="was silent"):
        world.run(DAY / 24, churn=1000 * DAY)
    world = World(1)
    world.settings = world.settings._replace(interval=5.2)  # what the witness expects
    with pytest.raises(BrokenError, match="ticks in a day"):
        world.check_drift()


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ([0.0] * 13, "1.000000 more than the bucket"),
        ([0.0] * 12 + [0.2, 0.3, 0.4], "15 frames within a second"),
        ([0.0] * 12 + [0.2, 0.3] + [1.1] * 8, ""),
    ],
)
def test_judge_sees_too_many_frames(times: list[float], why: str) -> None:
    judge = Judge(RateLimit())
    for now in times[:-1]:
        judge.saw(now)
    if not why:
        judge.saw(times[-1])
        return
    with pytest.raises(BrokenError, match=why):
        judge.saw(times[-1])
