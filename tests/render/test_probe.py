"""What `garp-hint probe` and `garp-hint drill` print, and the page of a drill."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.drill import Direction, Outage, drill_values
from garp_agent.hypervisor.core.path_probes import BondLeftOut, ProbePath, ProbeTarget
from garp_agent.hypervisor.core.probe_series import (
    DELIVERED,
    LOST,
    NOT_SENT,
    OTHER_VLAN,
    ProbeResult,
    target_values,
)
from garp_agent.render.probe import (
    drill_page,
    drill_text,
    left_out_text,
    loss_text,
    path_losses,
    probe_table,
)
from tests.render.test_page import Reader
from tests.world import mac, property_settings

NAMES = {9: "bond0", 3: "eth1", 2: "eth0"}
PATH = ProbePath(9, 3, 2)
WEB = ProbeTarget(mac("52:54:00:00:00:01"), ((0x8100, 100),), PATH, "web1", "vnet0")
STACKED = ProbeTarget(mac("52:54:00:00:00:02"), ((0x88A8, 50), (0x8100, 7)), PATH, "", "vnet1")
HOST = ProbeTarget(mac("52:54:00:00:00:03"), (), PATH, "(host)", "br0")
HOSTILE = "<i>\x1b[2J"


def test_probe_table_has_a_line_for_each_target_and_a_count() -> None:
    results = [
        ProbeResult(WEB, DELIVERED, 3, 3, 0.00031, ()),
        ProbeResult(STACKED, DELIVERED, 3, 2, 0.0027, ()),
        ProbeResult(HOST, OTHER_VLAN, 3, 0, None, ((0x8100, 12),)),
        ProbeResult(WEB, LOST, 3, 0, None, ()),
        ProbeResult(HOST, NOT_SENT, 0, 0, None, (), 100),
    ]
    text = probe_table({"targets": [each.values(NAMES) for each in results]})
    ports = "bond0: eth1 -> eth0"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "GUEST PORT MAC VLAN STANDBY -> ACTIVE RESULT",
        f"web1 vnet0 52:54:00:00:00:01 100 {ports} delivered in 0.3 ms",
        f"- vnet1 52:54:00:00:00:02 50,7 {ports} delivered in 2.7 ms, 2 of 3 probes",
        f"(host) br0 52:54:00:00:00:03 - {ports} arrives in VLAN 12",
        f"web1 vnet0 52:54:00:00:00:01 100 {ports} lost",
        f"(host) br0 52:54:00:00:00:03 - {ports} not sent: Network is down",
        "",
        "2 of 5 delivered",
    ]


def test_probe_table_without_results_says_what_would_be_probed() -> None:
    text = probe_table({"targets": [target_values(WEB, NAMES)]})
    assert text.splitlines()[1:] == [
        "web1   vnet0  52:54:00:00:00:01  100   bond0: eth1 -> eth0  -",
        "",
        "1 to probe",
    ]


LEFT = ProbeTarget(mac("52:54:00:00:00:04"), ((0x8100, 100),), PATH, "", "vnet2")
OTHER_PATH = PATH._replace(standby=2, active=3)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({WEB: DELIVERED, LEFT: DELIVERED, HOST: DELIVERED}, []),
        ({WEB: LOST, LEFT: LOST, HOST: LOST}, ["bond0: eth1 -> eth0: all 3 MACs lost"]),
        ({HOST: LOST}, ["bond0: eth1 -> eth0: all 1 MAC lost"]),
        ({WEB: LOST, LEFT: LOST}, ["bond0: eth1 -> eth0: VLAN 100 lost, 2 MACs"]),
        (
            {WEB: LOST, LEFT: LOST, HOST: DELIVERED, STACKED: LOST},
            [
                "bond0: eth1 -> eth0: VLAN 100 lost, 2 MACs",
                "bond0: eth1 -> eth0: VLAN 50,7 lost, 1 MAC",
            ],
        ),
        (
            {WEB: LOST, LEFT: DELIVERED, HOST: LOST},
            [
                "bond0: eth1 -> eth0: web1 (52:54:00:00:00:01 in VLAN 100): lost",
                "bond0: eth1 -> eth0: (host) (52:54:00:00:00:03): lost",
            ],
        ),
        (
            {WEB: DELIVERED, LEFT: NOT_SENT, HOST: OTHER_VLAN},
            [
                "bond0: eth1 -> eth0: vnet2 (52:54:00:00:00:04 in VLAN 100): not sent",
                "bond0: eth1 -> eth0: (host) (52:54:00:00:00:03): arrives in VLAN none",
            ],
        ),
        (
            {WEB: DELIVERED, WEB._replace(path=OTHER_PATH): LOST},
            ["bond0: eth0 -> eth1: VLAN 100 lost, 1 MAC"],
        ),
    ],
)
def test_losses_are_told_for_whole_paths_and_vlans_first(
    verdicts: dict[ProbeTarget, str], expected: list[str]
) -> None:
    results = [ProbeResult(each, verdict, 3, 0, 0.1, ()) for each, verdict in verdicts.items()]
    found = path_losses(each.values(NAMES) for each in results)
    assert [each.what for each in found] == expected


def targets() -> st.SearchStrategy[ProbeTarget]:
    return st.builds(
        ProbeTarget,
        st.sampled_from([WEB.address, STACKED.address, HOST.address]),
        st.sampled_from([(), WEB.tags, ((0x8100, 7),), STACKED.tags]),
        st.sampled_from([PATH, OTHER_PATH, ProbePath(8, 5, 4)]),
        st.sampled_from(["", "web1", HOSTILE]),
        st.sampled_from(["", "vnet0", HOSTILE]),
    )


@property_settings(300)
@given(
    st.dictionaries(
        targets(),
        st.sampled_from([DELIVERED, LOST, LOST, LOST, NOT_SENT, OTHER_VLAN]),
        max_size=12,
    )
)
def test_losses_have_each_lost_mac_once_and_nothing_that_was_delivered(
    verdicts: dict[ProbeTarget, str],
) -> None:
    one = {each[:3]: (each, verdict) for each, verdict in verdicts.items()}
    results = [ProbeResult(each, verdict, 3, 0, 0.1, ()) for each, verdict in one.values()]
    values: list[dict[str, Any]] = [each.values(NAMES) for each in results]
    told = [each.what for each in path_losses(values)]
    assert all(map(str.isprintable, told))
    explained = dict.fromkeys(told, 0)
    for each in values:
        ports = f"{each['bond']}: {each['standby']} -> {each['active']}: "
        vlan = ",".join(map(str, each["vlans"]))
        here = [what for what in told if what.startswith(ports)]
        whole = [what for what in here if re.fullmatch(r"all \d+ MACs? lost", what[len(ports) :])]
        wide = [what for what in here if what.startswith(f"{ports}VLAN {vlan} lost, ")]
        place = f"{each['mac']}{vlan and f' in VLAN {vlan}'}"
        single = [what for what in here if f" ({place}): " in what]
        covering = whole + wide + single
        assert len(covering) == (each["verdict"] != DELIVERED)
        if each["verdict"] != LOST:
            assert not any(what.endswith("lost") or what in wide for what in covering)
        for what in covering:
            explained[what] += 1
            assert what in single or what in whole or f", {_count(values, each)} MAC" in what
    assert all(explained.values())


def _count(values: list[dict[str, Any]], like: dict[str, Any]) -> int:
    """Return how many MACs the VLAN of a target has on its path."""
    place = ("bond", "standby", "active", "vlans")
    return len({v["mac"] for v in values if all(v[each] == like[each] for each in place)})


def test_lost_path_counts_a_mac_of_two_vlans_once() -> None:
    twice = [WEB, WEB._replace(tags=((0x8100, 7),))]
    results = [ProbeResult(each, LOST, 3, 0, None, ()) for each in twice]
    [found] = path_losses(each.values(NAMES) for each in results)
    assert found.what == "bond0: eth1 -> eth0: all 1 MAC lost"


def test_loss_text_of_a_hostile_name_is_printable() -> None:
    lost = ProbeResult(HOST._replace(guest=HOSTILE), LOST, 3, 0, None, ())
    kept = ProbeResult(WEB, DELIVERED, 3, 3, 0.001, ())
    text = loss_text({"targets": [each.values(NAMES) for each in (lost, kept)]})
    assert "<i>\\x1b[2J (52:54:00:00:00:03)" in text
    assert all(map(str.isprintable, text.splitlines()))


def test_bond_that_is_left_out_has_a_line_with_the_reason() -> None:
    left_out = BondLeftOut("bond1\x1b", "eth2 is its only port", True)
    values = {"left_out": [left_out._asdict()]}
    assert left_out_text(values) == ["garp-hint: bond1\\x1b: eth2 is its only port"]


def drilled(**changes: Any) -> dict[str, Any]:
    there = Direction(
        ProbePath(9, 2, 3),
        3.2,
        (Outage(WEB, 0.084, 8, 0), Outage(HOST._replace(guest=HOSTILE), None, 990, 0)),
    )
    back = Direction(PATH, 3.1, (Outage(WEB, 0.021, 2, 0), Outage(HOST, 0.0, 0, 0)))
    values = drill_values("bond0", [there, back], NAMES, {"vnet0": "agent"}, 1.0)
    values.update(probed=2, guests_in_all=2, ended_early="", **changes)
    return values


def test_drill_text_has_each_guest_both_ways_and_the_worst() -> None:
    lines = [" ".join(line.split()) for line in drill_text(drilled()).splitlines()]
    assert lines == [
        "GUEST PORT MAC VLAN WAY eth0 -> eth1 eth1 -> eth0",
        "web1 vnet0 52:54:00:00:00:01 100 agent 84 ms 21 ms",
        "<i>\\x1b[2J br0 52:54:00:00:00:03 - not known not healed 0 ms",
        "",
        "2 MACs probed",
        "agent: 1 MAC, worst 84 ms",
        "not known: 2 MACs, worst not healed",
        "worst of all not healed, limit 1000 ms",
    ]


def test_drill_of_a_sample_that_ended_early_says_so() -> None:
    values = {**drilled(), "guests_in_all": 57, "ended_early": "interrupted"}
    text = drill_text(values)
    assert "2 MACs probed, a sample of 57" in text
    assert "ended early: interrupted" in text
    nothing = drill_values("bond0", [], NAMES, {}, 1.0)
    nothing.update(probed=2, guests_in_all=2, ended_early="interrupted")
    assert not nothing["passed"]
    assert "ended early: interrupted" in drill_text(nothing)


@pytest.mark.parametrize(("limit", "passed"), [(0.084, True), (0.083, False)])
def test_drill_is_passed_if_no_guest_took_longer_than_the_limit(limit: float, passed: bool) -> None:
    there = Direction(PATH, 3.2, (Outage(WEB, 0.084, 8, 0),))
    assert drill_values("bond0", [there], NAMES, {}, limit)["passed"] is passed
    lost = there._replace(outages=(*there.outages, Outage(HOST, None, 9, 0)))
    assert drill_values("bond0", [lost], NAMES, {}, limit)["passed"] is False


def test_drill_page_has_each_guest_and_is_safe() -> None:
    reader = Reader(drill_page(drilled(time=0.0)))
    assert reader.cells[:6] == ["agent", "1", "84 ms", "not known", "2", "not healed"]
    rows = [reader.cells[6:13], reader.cells[13:]]
    assert [cell.strip() for cell in rows[0]] == [
        *("web1", "vnet0", "52:54:00:00:00:01", "100", "agent", "84 ms", "21 ms"),
    ]
    assert rows[1][0] == "<i>\\x1b[2J"
    assert [cell.strip() for cell in rows[1][5:]] == ["not healed", "0 ms"]
