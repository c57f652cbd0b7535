"""Failovers out of literal snapshots, in the order in which kernels 6.1 and 6.18 give them."""

from __future__ import annotations

import itertools
from math import inf

import pytest

from garp_agent.hypervisor.core.bonds import Failover, Followed, Follower
from garp_agent.hypervisor.core.linkstate import (
    EVENT_BONDING_FAILOVER,
    EVENT_IGMP_RESEND,
    EVENT_NOTIFY_PEERS,
    LINK_BACK,
    LINK_DOWN,
    LINK_FAIL,
    LINK_UP,
    MODE_8023AD,
    MODE_ALB,
    MODE_TLB,
    MODE_XOR,
    Bond,
    BondPort,
    LinkSnapshot,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP

UP = IFF_UP | IFF_LOWER_UP
NO_CARRIER = IFF_UP
ETH0, ETH1, ETH2, BOND0, BR0, TAP = 2, 3, 4, 5, 6, 7
NAMES = {ETH0: "eth0", ETH1: "eth1", ETH2: "eth2"}


def bond(active: int = 0, event: int = 0, flags: int = UP, mode: int = 1) -> LinkSnapshot:
    state = Bond(mode, active)
    return LinkSnapshot(BOND0, "bond0", flags, BR0, "bond", "bridge", event, state)


def port(ifindex: int, active: bool, link: int = LINK_UP, flags: int = UP) -> LinkSnapshot:
    state = BondPort(active, link)
    name = NAMES[ifindex]
    return LinkSnapshot(ifindex, name, flags, BOND0, "", "bond", 0, None, state)


def started(*links: LinkSnapshot, names: tuple[str, ...] = ()) -> Follower:
    """A follower that has seen these in its first dump, at 0 s."""
    follower = Follower(names, debounce=0.2)
    follower.dump_started()
    for link in links:
        follower.seen(link, 0.0)
    follower.dump_complete(0.0)
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []
    return follower


def told(follower: Follower, now: float, *links: LinkSnapshot) -> list[Failover]:
    """What is told at ``now`` when these arrive together."""
    for link in links:
        follower.seen(link, now)
    return follower.advance(now)


def active_backup() -> Follower:
    return started(port(ETH0, True), port(ETH1, False), bond(ETH0))


def from_eth0_to_eth1() -> list[LinkSnapshot]:
    """The kernel's messages when the active port has lost its carrier; all of family 0."""
    return [
        port(ETH0, True, LINK_UP, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        port(ETH0, False, LINK_DOWN, NO_CARRIER),
        port(ETH1, True),
        bond(ETH1, EVENT_BONDING_FAILOVER),
        bond(ETH1, EVENT_NOTIFY_PEERS),
        bond(ETH1, EVENT_IGMP_RESEND),
    ]


ZERO_TO_ONE = Failover("bond0", ("eth0",), ("eth1",))
ONE_TO_ZERO = Failover("bond0", ("eth1",), ("eth0",))


# -- active-backup ----------------------------------------------------------------------


def test_a_failover_is_told_once_when_the_bond_says_so() -> None:
    follower = active_backup()
    messages = from_eth0_to_eth1()
    assert [told(follower, 10 + n / 1000, message) for n, message in enumerate(messages)] == [
        *([] for _ in range(4)),
        [ZERO_TO_ONE],
        [],
        [],
    ]
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []


def test_the_reason_is_in_words() -> None:
    assert ZERO_TO_ONE.reason == "bond0 went from eth0 to eth1"
    assert Failover("bond0", ("eth0",), ("eth0",)).reason == "bond0 is back on eth0"
    assert Failover("br1", (), ("eth1", "eth2")).reason == "br1 went from nothing to eth1+eth2"


def test_an_active_port_that_changed_without_an_event_is_a_failover() -> None:
    """As after an overrun, when only the dump tells."""
    follower = active_backup()
    follower.dump_started()
    assert told(follower, 10.0, port(ETH0, False), port(ETH1, True)) == []
    assert told(follower, 10.0, bond(ETH1)) == [ZERO_TO_ONE]
    follower.dump_complete(10.0)
    assert follower.advance(11.0) == []


def test_an_event_with_the_same_active_port_is_a_failover() -> None:
    """Two switches, of which the first was lost in an overrun."""
    follower = active_backup()
    expected = [Failover("bond0", ("eth0",), ("eth0",))]
    assert told(follower, 10.0, bond(ETH0, EVENT_BONDING_FAILOVER)) == expected


def test_the_event_may_come_after_the_new_active_port() -> None:
    follower = active_backup()
    assert told(follower, 10.0, bond(ETH1)) == [ZERO_TO_ONE]
    assert told(follower, 10.001, bond(ETH1, EVENT_BONDING_FAILOVER)) == []
    assert follower.advance(11.0) == []


def test_failback() -> None:
    follower = active_backup()
    told(follower, 10.0, *from_eth0_to_eth1())
    back = [
        port(ETH0, False, LINK_DOWN),
        port(ETH0, False, LINK_UP),
        port(ETH1, False),
        port(ETH0, True),
        bond(ETH0, EVENT_BONDING_FAILOVER),
        bond(ETH0, EVENT_NOTIFY_PEERS),
    ]
    assert told(follower, 20.0, *back) == [ONE_TO_ZERO]


def test_what_happens_to_the_backup_port_is_no_failover() -> None:
    follower = active_backup()
    for link, flags in ((LINK_FAIL, NO_CARRIER), (LINK_DOWN, NO_CARRIER), (LINK_UP, UP)):
        assert told(follower, 10.0, port(ETH1, False, link, flags)) == []
    assert follower.deadline() == inf


def test_a_failover_without_carrier_waits_for_it() -> None:
    """Both ports down, then the other one back: FAILOVER first, the carrier after it."""
    follower = active_backup()
    down = [
        port(ETH1, False, LINK_DOWN, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        bond(0, flags=NO_CARRIER),
    ]
    assert told(follower, 10.0, *down) == []
    back = [port(ETH1, True, LINK_UP), bond(ETH1, EVENT_BONDING_FAILOVER, NO_CARRIER)]
    assert told(follower, 20.0, *back) == []
    assert follower.deadline() == inf
    assert told(follower, 20.001, bond(ETH1)) == [ZERO_TO_ONE]
    assert follower.advance(21.0) == []


def test_the_same_port_after_a_total_loss() -> None:
    follower = active_backup()
    assert told(follower, 10.0, bond(0, flags=NO_CARRIER)) == []
    assert told(follower, 20.0, bond(ETH0, EVENT_BONDING_FAILOVER, NO_CARRIER)) == []
    assert told(follower, 20.0, bond(ETH0)) == [Failover("bond0", ("eth0",), ("eth0",))]


def test_a_bond_set_down_and_up() -> None:
    follower = active_backup()
    assert told(follower, 10.0, bond(0, flags=0)) == []
    assert told(follower, 12.0, bond(ETH0)) == [Failover("bond0", ("eth0",), ("eth0",))]


def test_a_carrier_that_came_back_with_the_same_active_port() -> None:
    follower = active_backup()
    assert told(follower, 10.0, bond(ETH0, flags=NO_CARRIER)) == []
    assert told(follower, 12.0, bond(ETH0)) == [Failover("bond0", ("eth0",), ("eth0",))]


def test_a_message_without_bond_data_changes_nothing() -> None:
    follower = active_backup()
    assert told(follower, 10.0, bond(ETH0)._replace(bond=None)) == []
    assert told(follower, 10.0, bond(ETH0)) == []


def test_a_flapping_bond_is_told_at_most_every_debounce_interval() -> None:
    follower = active_backup()
    times = []
    active = itertools.cycle((ETH1, ETH0))
    for step in range(110):  # every 10 ms
        now = 10 + step / 100
        if told(follower, now, bond(next(active), EVENT_BONDING_FAILOVER)):
            times.append(now)
    assert times[0] == 10.0
    assert len(times) == 6
    assert all(later - earlier > 0.199 for earlier, later in zip(times, times[1:]))
    # The last one of all is owed, and is told.
    assert follower.deadline() == pytest.approx(11.2)
    assert follower.advance(11.19) == []
    assert [failover.after for failover in follower.advance(11.2)] == [("eth0",)]
    assert follower.deadline() == inf


# -- what appears and goes --------------------------------------------------------------


def test_a_bond_made_anew_is_a_failover() -> None:
    follower = active_backup()
    follower.gone(BOND0, 10.0)
    assert follower.followed() == []
    assert told(follower, 11.0, bond(0, flags=NO_CARRIER)) == []
    assert told(follower, 12.0, bond(ETH1)) == [Failover("bond0", (), ("eth1",))]


def test_what_a_dump_does_not_name_is_gone() -> None:
    follower = active_backup()
    follower.dump_started()
    follower.seen(port(ETH0, True), 10.0)
    follower.dump_complete(10.0)
    assert follower.followed() == []


def test_an_overrun_during_the_first_dump_is_no_failover() -> None:
    follower = Follower()
    follower.dump_started()
    follower.seen(bond(ETH0), 0.0)
    follower.dump_started()
    follower.seen(bond(ETH1), 0.0)
    follower.dump_complete(0.0)
    assert follower.advance(1.0) == []
    assert told(follower, 2.0, bond(ETH0)) == [Failover("bond0", ("#3",), ("#2",))]


def test_only_the_links_named_are_followed() -> None:
    other = bond(ETH0)._replace(ifindex=50, name="bond1")
    follower = started(port(ETH0, True), port(ETH1, False), bond(ETH0), other, names=("bond1",))
    assert told(follower, 10.0, bond(ETH1, EVENT_BONDING_FAILOVER)) == []
    event = EVENT_BONDING_FAILOVER
    assert [x.link for x in told(follower, 10.0, other._replace(event=event))] == ["bond1"]


def test_followed_links_for_the_operator() -> None:
    expected = Followed("bond0", "bond", "active-backup", True, ("eth0",))
    assert active_backup().followed() == [expected]


# -- modes without an active port -------------------------------------------------------


def test_balance_xor_goes_by_the_ports_that_the_bond_uses() -> None:
    follower = started(port(ETH0, True), port(ETH1, True), bond(mode=MODE_XOR))
    assert told(follower, 10.0, port(ETH0, True, LINK_UP, NO_CARRIER)) == []
    assert told(follower, 10.05, port(ETH0, True, LINK_FAIL, NO_CARRIER)) == []
    assert told(follower, 10.25, port(ETH0, True, LINK_DOWN, NO_CARRIER)) == [
        Failover("bond0", ("eth0", "eth1"), ("eth1",))
    ]
    assert told(follower, 20.0, port(ETH0, True, LINK_BACK)) == []
    assert told(follower, 20.2, port(ETH0, True, LINK_UP)) == [
        Failover("bond0", ("eth1",), ("eth0", "eth1"))
    ]


def test_802_3ad_goes_over_to_another_aggregator() -> None:
    """In the order of kernel 6.1, read as it comes."""
    follower = started(port(ETH0, True), port(ETH1, False), bond(mode=MODE_8023AD))
    messages = [
        port(ETH0, True, LINK_FAIL, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        port(ETH0, False, LINK_DOWN, NO_CARRIER),
        port(ETH1, True),
    ]
    assert [told(follower, 10.0, message) for message in messages] == [[], [], [], [ZERO_TO_ONE]]
    assert told(follower, 20.0, port(ETH0, False, LINK_FAIL)) == []
    assert follower.deadline() == inf


def test_802_3ad_what_follows_at_once_is_told_together() -> None:
    ports = [port(ETH0, True), port(ETH1, True), port(ETH2, False)]
    follower = started(*ports, bond(mode=MODE_8023AD))
    assert told(follower, 10.0, port(ETH0, True, LINK_DOWN, NO_CARRIER)) == [
        Failover("bond0", ("eth0", "eth1"), ("eth1",))
    ]
    assert told(follower, 10.001, port(ETH1, False), port(ETH2, True)) == []
    assert follower.deadline() == pytest.approx(10.2)
    assert follower.advance(10.2) == [Failover("bond0", ("eth1",), ("eth2",))]


def test_802_3ad_no_port_left_waits_for_one() -> None:
    follower = started(port(ETH0, True), port(ETH1, False), bond(mode=MODE_8023AD))
    assert told(follower, 10.0, port(ETH0, False, LINK_DOWN, NO_CARRIER)) == []
    assert told(follower, 10.5, port(ETH1, True)) == [ZERO_TO_ONE]


@pytest.mark.parametrize("mode", [MODE_TLB, MODE_ALB])
def test_balance_tlb_and_alb_wait_for_the_bonds_own_word(mode: int) -> None:
    """In the order of kernel 6.1: no BONDING_FAILOVER, IGMP_RESEND instead."""
    follower = started(port(ETH0, True), port(ETH1, True), bond(ETH0, mode=mode))
    down = [
        port(ETH0, True, LINK_UP, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        port(ETH1, True),
    ]
    assert told(follower, 10.0, *down) == []
    assert told(follower, 10.012, bond(ETH1, EVENT_IGMP_RESEND, mode=mode)) == [
        Failover("bond0", ("eth0", "eth1"), ("eth1",))
    ]
    assert told(follower, 20.0, port(ETH0, True, LINK_UP)) == [
        Failover("bond0", ("eth1",), ("eth0", "eth1"))
    ]


def test_a_port_taken_out_of_the_bond() -> None:
    follower = started(port(ETH0, True), port(ETH1, True), bond(mode=MODE_XOR))
    free = LinkSnapshot(ETH0, "eth0", UP)
    assert told(follower, 10.0, free) == [Failover("bond0", ("eth0", "eth1"), ("eth1",))]
    follower.gone(ETH1, 20.0)
    assert told(follower, 30.0, port(ETH0, True)) == [ONE_TO_ZERO]


def test_a_mode_of_the_future_has_its_number() -> None:
    assert started(bond(ETH0, mode=9)).followed()[0].mode == "9"


# -- team and bridge --------------------------------------------------------------------


def test_team_goes_by_carrier_and_by_its_event() -> None:
    team = LinkSnapshot(BOND0, "team0", UP, 0, "team")

    def team_port(ifindex: int, flags: int = UP) -> LinkSnapshot:
        return LinkSnapshot(ifindex, NAMES[ifindex], flags, BOND0, "", "team")

    follower = started(team_port(ETH0), team_port(ETH1), team)
    assert told(follower, 10.0, team_port(ETH0, NO_CARRIER)) == [
        Failover("team0", ("eth0", "eth1"), ("eth1",))
    ]
    assert told(follower, 20.0, team._replace(event=EVENT_NOTIFY_PEERS)) == [
        Failover("team0", ("eth1",), ("eth1",))
    ]


def test_a_bridge_goes_by_its_uplinks() -> None:
    bridge = LinkSnapshot(BR0, "br0", UP, 0, "bridge")
    uplink = LinkSnapshot(ETH0, "eth0", UP, BR0, "", "bridge")
    tap = LinkSnapshot(TAP, "vnet0", UP, BR0, "tun", "bridge")
    follower = started(bridge, uplink, tap)
    assert follower.followed() == [Followed("br0", "bridge", "", True, ("eth0",))]
    assert told(follower, 10.0, tap._replace(flags=NO_CARRIER)) == []
    follower.gone(TAP, 11.0)
    assert told(follower, 12.0, uplink._replace(flags=NO_CARRIER)) == []
    assert told(follower, 13.0, uplink) == [Failover("br0", ("eth0",), ("eth0",))]


def test_a_bridge_of_taps_or_on_a_bond_is_not_followed() -> None:
    bridge = LinkSnapshot(BR0, "br0", UP, 0, "bridge")
    tap = LinkSnapshot(TAP, "vnet0", UP, BR0, "tun", "bridge")
    follower = started(bridge, tap, port(ETH0, True), bond(ETH0))
    assert [followed.link for followed in follower.followed()] == ["bond0"]
