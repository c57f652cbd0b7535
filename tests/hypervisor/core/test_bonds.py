"""Failovers from literal link messages, in the order in which kernels 6.1 and 6.18 send them."""

from __future__ import annotations

import itertools
from math import inf
from typing import TYPE_CHECKING

import pytest

from garp_agent.hypervisor.core.bonds import BondFailover, FollowedLink, Follower
from garp_agent.hypervisor.core.linkstate import (
    EVENT_BONDING_FAILOVER,
    EVENT_IGMP_RESEND,
    EVENT_NONE,
    EVENT_NOTIFY_PEERS,
    LINK_BACK,
    LINK_DOWN,
    LINK_FAIL,
    LINK_UP,
    MODE_8023AD,
    MODE_ACTIVE_BACKUP,
    MODE_ALB,
    MODE_TLB,
    MODE_XOR,
    Bond,
    BondPort,
    LinkReport,
    LinkSnapshot,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone

if TYPE_CHECKING:
    from garp_agent.hypervisor.core.linkstate import LinkMessage

UP = IFF_UP | IFF_LOWER_UP
NO_CARRIER = IFF_UP
ETH0, ETH1, ETH2, BOND0, BR0, TAP = 2, 3, 4, 5, 6, 7
NAMES = {ETH0: "eth0", ETH1: "eth1", ETH2: "eth2"}

ZERO_TO_ONE = BondFailover("bond0", ("eth0",), ("eth1",))
ONE_TO_ZERO = BondFailover("bond0", ("eth1",), ("eth0",))
BACK_ON_ZERO = BondFailover("bond0", ("eth0",), ("eth0",))
BOTH_TO_ONE = BondFailover("bond0", ("eth0", "eth1"), ("eth1",))
ONE_TO_BOTH = BondFailover("bond0", ("eth1",), ("eth0", "eth1"))


def bond(
    active: int = 0, event: int = EVENT_NONE, flags: int = UP, mode: int = MODE_ACTIVE_BACKUP
) -> LinkReport:
    state = Bond(mode, active)
    return LinkReport(LinkSnapshot(BOND0, "bond0", flags, BR0, "bond", "bridge", state), event)


def port(ifindex: int, active: bool, link: int = LINK_UP, flags: int = UP) -> LinkReport:
    state = BondPort(active, link)
    return LinkReport(LinkSnapshot(ifindex, NAMES[ifindex], flags, BOND0, "", "bond", None, state))


def started(*reports: LinkReport, names: tuple[str, ...] = ()) -> Follower:
    """Return a follower that got these in its first dump, at 0 s."""
    follower = Follower(names, debounce=0.2)
    follower.handle(DumpStarted(), 0.0)
    for report in reports:
        follower.handle(report._replace(dumped=True), 0.0)
    follower.handle(DumpComplete(), 0.0)
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []
    return follower


def active_backup() -> Follower:
    return started(port(ETH0, True), port(ETH1, False), bond(ETH0))


def told(follower: Follower, now: float, *messages: LinkMessage) -> list[BondFailover]:
    """Return what is due at ``now``, after these messages."""
    for message in messages:
        follower.handle(message, now)
    return follower.advance(now)


# -- active-backup ----------------------------------------------------------------------


def test_failover_is_reported_once_with_the_event_of_the_bond() -> None:
    follower = active_backup()
    messages = [
        port(ETH0, True, LINK_UP, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        port(ETH0, False, LINK_DOWN, NO_CARRIER),
        port(ETH1, True),
        bond(ETH1, EVENT_BONDING_FAILOVER),
        bond(ETH1, EVENT_NOTIFY_PEERS),
        bond(ETH1, EVENT_IGMP_RESEND),
    ]
    found = [told(follower, 10 + n / 1000, message) for n, message in enumerate(messages)]
    assert found == [[], [], [], [], [ZERO_TO_ONE], [], []]
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []
    back = [
        port(ETH0, False, LINK_DOWN),
        port(ETH0, False, LINK_UP),
        port(ETH1, False),
        port(ETH0, True),
        bond(ETH0, EVENT_BONDING_FAILOVER),
        bond(ETH0, EVENT_NOTIFY_PEERS),
    ]
    assert told(follower, 2000.0, *back) == [ONE_TO_ZERO]


def test_reason_is_in_words() -> None:
    assert ZERO_TO_ONE.reason == "bond0 went from eth0 to eth1"
    assert BACK_ON_ZERO.reason == "bond0 is back on eth0"
    assert BondFailover("br1", (), ("a", "b")).reason == "br1 went from nothing to a+b"


def test_new_active_port_without_event_is_a_failover_and_its_late_event_is_not() -> None:
    follower = active_backup()
    assert told(follower, 10.0, port(ETH0, False), port(ETH1, True)) == []
    assert told(follower, 10.0, bond(ETH1)) == [ZERO_TO_ONE]
    assert told(follower, 10.001, bond(ETH1, EVENT_BONDING_FAILOVER)) == []
    assert follower.advance(11.0) == []


def test_event_with_the_same_active_port_is_a_failover() -> None:
    """Two switches, of which an overrun hid the first."""
    assert told(active_backup(), 10.0, bond(ETH0, EVENT_BONDING_FAILOVER)) == [BACK_ON_ZERO]


def test_changes_of_the_standby_port_are_no_failover() -> None:
    follower = active_backup()
    for link, flags in ((LINK_FAIL, NO_CARRIER), (LINK_DOWN, NO_CARRIER), (LINK_UP, UP)):
        assert told(follower, 10.0, port(ETH1, False, link, flags)) == []
    assert follower.deadline() == inf


def test_failover_without_carrier_waits_for_the_carrier() -> None:
    """Both ports are down, then the other one is up: the event comes before the carrier."""
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


@pytest.mark.parametrize(
    "down",
    [bond(0, flags=NO_CARRIER), bond(0, flags=0), bond(ETH0, flags=NO_CARRIER)],
    ids=["all ports down", "bond set down", "carrier only"],
)
def test_carrier_that_returns_on_the_same_port_is_a_failover(down: LinkReport) -> None:
    follower = active_backup()
    assert told(follower, 10.0, down) == []
    assert told(follower, 20.0, bond(ETH0, EVENT_BONDING_FAILOVER, NO_CARRIER)) == []
    assert told(follower, 20.0, bond(ETH0)) == [BACK_ON_ZERO]


def test_message_without_bond_data_changes_nothing() -> None:
    follower = active_backup()
    without = bond(ETH0).link._replace(bond=None)
    assert told(follower, 10.0, LinkReport(without)) == []
    assert told(follower, 10.0, bond(ETH0)) == []


def test_flapping_bond_is_reported_once_in_each_debounce_time() -> None:
    follower = active_backup()
    active = itertools.cycle((ETH1, ETH0))
    steps = [10 + step / 100 for step in range(110)]  # every 10 ms
    times = [t for t in steps if told(follower, t, bond(next(active), EVENT_BONDING_FAILOVER))]
    assert times == pytest.approx([10.0, 10.2, 10.4, 10.6, 10.8, 11.0])
    assert follower.deadline() == pytest.approx(11.2)
    assert follower.advance(11.19) == []
    assert [failover.after for failover in follower.advance(11.2)] == [("eth0",)]
    assert follower.deadline() == inf


# -- links that appear and go -----------------------------------------------------------


def test_bond_made_anew_is_a_failover() -> None:
    follower = active_backup()
    assert told(follower, 10.0, LinkGone(BOND0)) == []
    assert not follower.is_following
    assert told(follower, 11.0, bond(0, flags=NO_CARRIER)) == []
    assert told(follower, 12.0, bond(ETH1)) == [BondFailover("bond0", (), ("eth1",))]


def test_second_dump_start_within_the_first_dump_is_no_failover() -> None:
    follower = Follower()
    for event in (DumpStarted(), bond(ETH0), DumpStarted(True), bond(ETH1), DumpComplete()):
        follower.handle(event, 0.0)
    assert follower.advance(1.0) == []
    assert told(follower, 2.0, bond(ETH0)) == [BondFailover("bond0", ("#3",), ("#2",))]


def test_only_named_links_are_followed() -> None:
    other = bond(ETH0).link._replace(ifindex=50, name="bond1")
    links = port(ETH0, True), port(ETH1, False), bond(ETH0), LinkReport(other)
    follower = started(*links, names=("bond1", "eth0"))
    assert told(follower, 10.0, bond(ETH1, EVENT_BONDING_FAILOVER)) == []
    event = LinkReport(other, EVENT_BONDING_FAILOVER)
    assert [failover.link for failover in told(follower, 10.0, event)] == ["bond1"]
    assert [link.link for link in follower.followed()] == ["bond1"]


def test_followed_links_have_mode_and_ports_by_name() -> None:
    expected = FollowedLink("bond0", "bond", "active-backup", True, ("eth0",))
    assert active_backup().followed() == [expected]
    assert started(bond(ETH0, mode=9)).followed()[0].mode == "9"  # a mode of the future


# -- modes without an active port -------------------------------------------------------


def test_balance_xor_follows_the_ports_that_the_bond_uses() -> None:
    follower = started(port(ETH0, True), port(ETH1, True), bond(mode=MODE_XOR))
    assert told(follower, 10.0, port(ETH0, True, LINK_UP, NO_CARRIER)) == []
    assert told(follower, 10.05, port(ETH0, True, LINK_FAIL, NO_CARRIER)) == []
    assert told(follower, 10.25, port(ETH0, True, LINK_DOWN, NO_CARRIER)) == [BOTH_TO_ONE]
    assert told(follower, 20.0, port(ETH0, True, LINK_BACK)) == []
    assert told(follower, 20.2, port(ETH0, True, LINK_UP)) == [ONE_TO_BOTH]
    free = LinkReport(LinkSnapshot(ETH0, "eth0", UP))
    assert told(follower, 30.0, free) == [BOTH_TO_ONE]
    assert told(follower, 40.0, LinkGone(ETH1)) == []
    assert told(follower, 50.0, port(ETH0, True)) == [ONE_TO_ZERO]


def test_802_3ad_change_of_the_aggregator_is_a_failover() -> None:
    """The order is that of kernel 6.1; each message is read as it comes."""
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


def test_802_3ad_changes_in_the_debounce_time_are_reported_together() -> None:
    ports = [port(ETH0, True), port(ETH1, True), port(ETH2, False)]
    follower = started(*ports, bond(mode=MODE_8023AD))
    assert told(follower, 10.0, port(ETH0, True, LINK_DOWN, NO_CARRIER)) == [BOTH_TO_ONE]
    assert told(follower, 10.001, port(ETH1, False), port(ETH2, True)) == []
    assert follower.deadline() == pytest.approx(10.2)
    assert follower.advance(10.2) == [BondFailover("bond0", ("eth1",), ("eth2",))]


@pytest.mark.parametrize("mode", [MODE_TLB, MODE_ALB])
def test_balance_tlb_and_alb_wait_for_the_message_of_the_bond(mode: int) -> None:
    """The order is that of kernel 6.1: no BONDING_FAILOVER, IGMP_RESEND instead."""
    follower = started(port(ETH0, True), port(ETH1, True), bond(ETH0, mode=mode))
    down = [
        port(ETH0, True, LINK_UP, NO_CARRIER),
        port(ETH0, True, LINK_DOWN, NO_CARRIER),
        port(ETH1, True),
    ]
    assert told(follower, 10.0, *down) == []
    assert told(follower, 10.012, bond(ETH1, EVENT_IGMP_RESEND, mode=mode)) == [BOTH_TO_ONE]
    assert told(follower, 20.0, port(ETH0, True, LINK_UP)) == [ONE_TO_BOTH]


# -- team and bridge --------------------------------------------------------------------


def test_team_follows_carrier_and_its_event() -> None:
    team = LinkSnapshot(BOND0, "team0", UP, 0, "team")
    ports = [LinkSnapshot(n, NAMES[n], UP, BOND0, "", "team") for n in (ETH0, ETH1)]
    follower = started(*map(LinkReport, [*ports, team]))
    lost = LinkReport(ports[0]._replace(flags=NO_CARRIER))
    assert told(follower, 10.0, lost) == [BondFailover("team0", ("eth0", "eth1"), ("eth1",))]
    event = LinkReport(team, EVENT_NOTIFY_PEERS)
    assert told(follower, 20.0, event) == [BondFailover("team0", ("eth1",), ("eth1",))]


def test_bridge_follows_its_uplinks() -> None:
    bridge = LinkSnapshot(BR0, "br0", UP, 0, "bridge")
    uplink = LinkSnapshot(ETH0, "eth0", UP, BR0, "", "bridge")
    tap = LinkSnapshot(TAP, "vnet0", UP, BR0, "tun", "bridge")
    follower = started(*map(LinkReport, [bridge, uplink, tap]))
    assert follower.followed() == [FollowedLink("br0", "bridge", "", True, ("eth0",))]
    assert told(follower, 10.0, LinkReport(tap._replace(flags=NO_CARRIER))) == []
    assert told(follower, 11.0, LinkGone(TAP)) == []
    assert told(follower, 12.0, LinkReport(uplink._replace(flags=NO_CARRIER))) == []
    expected = [BondFailover("br0", ("eth0",), ("eth0",))]
    assert told(follower, 13.0, LinkReport(uplink)) == expected


def test_bridge_of_taps_or_on_a_bond_is_not_followed() -> None:
    bridge = LinkReport(LinkSnapshot(BR0, "br0", UP, 0, "bridge"))
    tap = LinkReport(LinkSnapshot(TAP, "vnet0", UP, BR0, "tun", "bridge"))
    follower = started(bridge, tap, port(ETH0, True), bond(ETH0))
    assert [followed.link for followed in follower.followed()] == ["bond0"]
