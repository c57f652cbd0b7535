"""What a drill measures, from probes sent and arrived at given times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.drill import (
    SETTLED_FOR,
    Direction,
    Outage,
    healed,
    is_settled,
    outages,
    reversed_target,
    sample_of,
)
from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeSeen, ProbeTarget
from garp_agent.hypervisor.core.probe_series import Pace, ProbeSeries
from tests.world import mac, property_settings

PATH = ProbePath(9, 3, 2)
ONE = ProbeTarget(mac("52:54:00:00:00:01"), (), PATH, "one", "vnet1")
TWO = ProbeTarget(mac("52:54:00:00:00:02"), ((0x8100, 100),), PATH, "two", "vnet2")
FIRST = 10.0  # when the first probe is sent
STEP = 0.0625  # seconds between two probes


def driven(targets: list[ProbeTarget], arrived: str) -> ProbeSeries:
    """A series in which the probes with a "+" arrive after 1 ms, and others never."""
    series = ProbeSeries(targets, Pace(STEP, 0.0))
    for number, mark in enumerate(arrived):
        now = FIRST + STEP * number
        probe = series.next_probe(now)
        assert probe is not None
        if mark == "+":
            series.seen(2, ProbeSeen(number, probe.target.tags), now + 0.001)
    return series


def test_outage_lasts_until_the_first_probe_that_is_delivered_was_sent() -> None:
    series = driven([ONE, TWO], "-++++-++")
    late = FIRST + 1.0
    assert outages(series, FIRST - 0.25, late) == [
        Outage(ONE, 0.25 + 2 * STEP, 1, 0),
        Outage(TWO, 0.0, 1, 1),  # the first one arrived: the network was right all the time
    ]
    assert healed(series) == 2


def test_outage_without_a_delivered_probe_has_no_end() -> None:
    series = driven([ONE, TWO], "-+-+--")
    assert outages(series, FIRST, FIRST + 1.0)[0] == Outage(ONE, None, 3, 0)
    assert healed(series) == 1


def test_probe_that_may_be_under_way_is_not_lost() -> None:
    series = driven([ONE], "+-")
    sent = FIRST + STEP
    assert outages(series, FIRST, sent + 0.05) == [Outage(ONE, 0.0, 0, 0)]
    assert outages(series, FIRST, sent + 0.125) == [Outage(ONE, 0.0, 1, 1)]


ENOUGH = int((SETTLED_FOR + 0.1) / STEP) + 2


@pytest.mark.parametrize(
    ("arrived", "settled"),
    [
        ("+" * ENOUGH, True),
        ("-" + "+" * ENOUGH, True),
        ("+" * (ENOUGH - 3), False),  # not long enough
        ("+" * 40 + "-" + "+" * (ENOUGH - 4), False),
        ("+" * 40 + "--" + "+" * ENOUGH, True),
        ("+" * ENOUGH + "-", True),  # may be under way
        ("+" * ENOUGH + "----", False),
        ("", False),
    ],
)
def test_direction_is_settled_when_all_probes_of_a_while_were_delivered(
    arrived: str, settled: bool
) -> None:
    series = driven([ONE, TWO], arrived)
    assert is_settled(series, FIRST + STEP * max(0, len(arrived) - 1) + 0.01) == settled


def test_target_of_which_no_probe_was_sent_lately_is_not_settled() -> None:
    series = driven([ONE, TWO], "+" * ENOUGH)
    assert not is_settled(series, FIRST + STEP * ENOUGH + SETTLED_FOR + 1.0)


@property_settings(200)
@given(st.integers(0, 300), st.integers(1, 40))
def test_sample_is_spread_over_all_targets(count: int, most: int) -> None:
    targets = [ONE._replace(guest=str(number)) for number in range(count)]
    chosen = [int(target.guest) for target in sample_of(targets, most)]
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    gaps = [later - earlier for earlier, later in zip(chosen, [*chosen[1:], count])]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


@property_settings(200)
@given(st.text("+-", max_size=80), st.integers(1, 5), st.floats(0.0, 1.0))
def test_outages_agree_with_the_probes_one_by_one(arrived: str, count: int, before: float) -> None:
    targets = [ONE._replace(guest=str(number)) for number in range(count)]
    found = outages(driven(targets, arrived), FIRST - before, FIRST + 1000.0)
    for index, outage in enumerate(found):
        own = arrived[index::count]
        first = own.find("+")
        assert outage.target == targets[index]
        assert outage.lost == own.count("-")
        assert outage.lost_later == (own[first:].count("-") if first >= 0 else 0)
        if first <= 0:
            assert outage.seconds == (0.0 if first == 0 else None)
        else:
            assert outage.seconds == pytest.approx(before + STEP * (index + count * first))


def test_values_are_plain_and_name_the_way() -> None:
    assert reversed_target(ONE).path == ProbePath(9, 2, 3)
    direction = Direction(PATH, 1.5, (Outage(ONE, 0.25, 3, 1), Outage(TWO, None, 9, 0)))
    names = {9: "bond0", 3: "eth1", 2: "eth0"}
    values = direction.values(names, {"vnet1": "agent"})
    assert (values["before"], values["after"], values["watched"]) == ("eth1", "eth0", 1.5)
    common = {"seconds": None, "lost": 9, "lost_later": 0, "way": "not known"}
    assert values["guests"] == [
        {
            "guest": "one",
            "port": "vnet1",
            "mac": "52:54:00:00:00:01",
            "vlans": [],
            "way": "agent",
            "seconds": 0.25,
            "lost": 3,
            "lost_later": 1,
        },
        {"guest": "two", "port": "vnet2", "mac": "52:54:00:00:00:02", "vlans": [100], **common},
    ]
