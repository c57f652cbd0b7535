"""The soak's own judgement, and two of its simulated days."""

from __future__ import annotations

import pytest

from bench import soak
from bench.soak import DAY, World
from bench.soak_real import BrokenError, Judge
from garp_agent.config.settings import Bucket
from garp_agent.guest.core.model import (
    AddressGone,
    Announcement,
    Cause,
    InterfaceAddress,
    Kind,
)


def test_two_days_hold(capsys: pytest.CaptureFixture[str]) -> None:
    soak.year(days=2, seed=2)
    assert capsys.readouterr().out.startswith("day    2: ")


def test_an_address_that_is_not_ours_is_seen() -> None:
    world = World(1)
    ifindex = min(world.links)
    foreign = Announcement(ifindex, Kind.ARP_REQUEST, bytes(6), b"\1\2\3\4", Cause.REFRESH)
    with pytest.raises(BrokenError, match="not ours"):
        world.witness.saw(foreign, 1.0)


def test_an_address_that_is_never_announced_is_seen() -> None:
    world = World(1)
    ifindex = min(world.links)
    address = min(world.witness.owned[ifindex])
    world.engine.handle(AddressGone(InterfaceAddress(ifindex, address, 24)), world.now)
    world.send()
    with pytest.raises(BrokenError, match="was silent"):
        world.run(DAY / 24, churn=1000 * DAY)


def test_a_schedule_that_drifts_is_seen() -> None:
    world = World(1)
    world.settings = world.settings._replace(interval=5.2)  # what it believes to be right
    with pytest.raises(BrokenError, match="ticks in a day"):
        world.check_drift()


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ([0.0] * 13, "1.000000 more than the bucket"),
        ([0.0] * 12 + [0.2, 0.3, 0.4], "15 frames within a second"),
    ],
)
def test_too_many_frames_are_seen(times: list[float], why: str) -> None:
    judge = Judge(Bucket())
    for now in times[:-1]:
        judge.saw(now)
    with pytest.raises(BrokenError, match=why):
        judge.saw(times[-1])


def test_as_many_as_allowed_are_none_too_many() -> None:
    judge = Judge(Bucket())
    for now in [0.0] * 12 + [0.2, 0.3] + [1.1] * 8:
        judge.saw(now)
