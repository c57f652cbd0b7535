"""Failovers from literal link messages, in the order in which kernels 6.1 and 6.18 send them."""

from __future__ import annotations

import itertools
from math import inf
from typing import Any

import pytest

from garp_agent.hypervisor.core import linkstate as ls
from garp_agent.hypervisor.core.bonds import BondFailover, FollowedLink, Follower
from garp_agent.hypervisor.core.linkstate import Bond, BondPort, LinkReport, LinkSnapshot
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone

UP, NO_CARRIER = IFF_UP | IFF_LOWER_UP, IFF_UP
ETH0, ETH1, ETH2, BOND0, BR0, TAP = 2, 3, 4, 5, 6, 7
NAMES = {ETH0: "eth0", ETH1: "eth1", ETH2: "eth2"}
ZERO, ONE, BOTH = ("eth0",), ("eth1",), ("eth0", "eth1")


def bond(
    active: int = 0, event: int = ls.EVENT_NONE, flags: int = UP, mode: int = ls.MODE_ACTIVE_BACKUP
) -> LinkReport:
    state = Bond(mode, active)
    return LinkReport(LinkSnapshot(BOND0, "bond0", flags, BR0, "bond", "bridge", state), event)


def port(ifindex: int, active: bool, link: int = ls.LINK_UP, flags: int = UP) -> LinkReport:
    state = BondPort(active, link)
    return LinkReport(LinkSnapshot(ifindex, NAMES[ifindex], flags, BOND0, "", "bond", None, state))


def over(before: tuple[str, ...], after: tuple[str, ...], link: str = "bond0") -> BondFailover:
    return BondFailover(link, before, after)


def started(*reports: LinkReport, names: tuple[str, ...] = ()) -> Follower:
    """Return a follower that got these in its first dump, at 0 s."""
    follower = Follower(names, debounce=0.2)
    told(follower, 0.0, DumpStarted(), *(each._replace(dumped=True) for each in reports))
    follower.handle(DumpComplete(), 0.0)
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []
    return follower


def told(follower: Follower, now: float, *messages: Any) -> list[BondFailover]:
    """Return what is due at ``now``, after these messages."""
    for message in messages:
        follower.handle(message, now)
    return follower.advance(now)


ACTIVE_BACKUP = (port(ETH0, True), port(ETH1, False), bond(ETH0))
FAILOVER = bond(ETH1, ls.EVENT_BONDING_FAILOVER)
CARRIER_LOST = [
    port(ETH0, True, link, NO_CARRIER) for link in (ls.LINK_UP, ls.LINK_FAIL, ls.LINK_DOWN)
]
TEAM = LinkSnapshot(BOND0, "team0", UP, 0, "team")
TEAM_PORTS = [LinkSnapshot(n, NAMES[n], UP, BOND0, "", "team") for n in (ETH0, ETH1)]
BRIDGE = LinkSnapshot(BR0, "br0", UP, 0, "bridge")
UPLINK = LinkSnapshot(ETH0, "eth0", UP, BR0, "", "bridge")
GUEST = LinkSnapshot(TAP, "vnet0", UP, BR0, "tun", "bridge")

# The links at the start; then time, message and, if one is due after it, the failover.
SCENARIOS: dict[str, list[Any]] = {
    "failover of active-backup is reported once, with the bond's event; so is the failback": [
        ACTIVE_BACKUP,
        *((10.0, message) for message in CARRIER_LOST),
        (10.001, port(ETH0, False, ls.LINK_DOWN, NO_CARRIER)),
        (10.002, port(ETH1, True)),
        (10.003, FAILOVER, over(ZERO, ONE)),
        (10.004, bond(ETH1, ls.EVENT_NOTIFY_PEERS)),
        (10.005, bond(ETH1, ls.EVENT_IGMP_RESEND)),
        (20.0, port(ETH0, False, ls.LINK_DOWN)),
        (20.0, port(ETH0, False, ls.LINK_UP)),
        (20.0, port(ETH1, False)),
        (20.0, port(ETH0, True)),
        (20.0, bond(ETH0, ls.EVENT_BONDING_FAILOVER), over(ONE, ZERO)),
        (20.0, bond(ETH0, ls.EVENT_NOTIFY_PEERS)),
    ],
    "new active port without event is a failover, and its late event is not": [
        ACTIVE_BACKUP,
        (10.0, port(ETH0, False)),
        (10.0, port(ETH1, True)),
        (10.0, bond(ETH1), over(ZERO, ONE)),
        (10.001, FAILOVER),
    ],
    "event with the same active port is a failover (an overrun hid the first of two switches)": [
        ACTIVE_BACKUP,
        (10.0, bond(ETH0, ls.EVENT_BONDING_FAILOVER), over(ZERO, ZERO)),
    ],
    "changes of the standby port are no failover": [
        ACTIVE_BACKUP,
        (10.0, port(ETH1, False, ls.LINK_FAIL, NO_CARRIER)),
        (10.0, port(ETH1, False, ls.LINK_DOWN, NO_CARRIER)),
        (10.0, port(ETH1, False, ls.LINK_UP)),
    ],
    "failover without carrier waits for the carrier, which follows the event": [
        ACTIVE_BACKUP,
        (10.0, port(ETH1, False, ls.LINK_DOWN, NO_CARRIER)),
        (10.0, port(ETH0, True, ls.LINK_DOWN, NO_CARRIER)),
        (10.0, bond(0, flags=NO_CARRIER)),
        (20.0, port(ETH1, True, ls.LINK_UP)),
        (20.0, bond(ETH1, ls.EVENT_BONDING_FAILOVER, NO_CARRIER)),
        (20.001, bond(ETH1), over(ZERO, ONE)),
    ],
    **{
        f"carrier that returns on the same port after {name} is a failover": [
            ACTIVE_BACKUP,
            (10.0, down),
            (20.0, bond(ETH0, flags=NO_CARRIER)),
            (20.0, bond(ETH0), over(ZERO, ZERO)),
        ]
        for name, down in {
            "a loss of all ports": bond(0, flags=NO_CARRIER),
            "the bond was set down": bond(0, flags=0),
            "a loss of carrier alone": bond(ETH0, flags=NO_CARRIER),
        }.items()
    },
    "message without bond data changes nothing": [
        ACTIVE_BACKUP,
        (10.0, LinkReport(bond(ETH0).link._replace(bond=None))),
        (10.0, bond(ETH0)),
    ],
    "bond made anew is a failover": [
        ACTIVE_BACKUP,
        (10.0, LinkGone(BOND0)),
        (11.0, bond(0, flags=NO_CARRIER)),
        (12.0, bond(ETH1), over((), ONE)),
    ],
    "balance-xor follows the ports that the bond uses, also when they leave": [
        (port(ETH0, True), port(ETH1, True), bond(mode=ls.MODE_XOR)),
        (10.0, CARRIER_LOST[0]),
        (10.05, CARRIER_LOST[1]),
        (10.25, CARRIER_LOST[2], over(BOTH, ONE)),
        (20.0, port(ETH0, True, ls.LINK_BACK)),
        (20.2, port(ETH0, True, ls.LINK_UP), over(ONE, BOTH)),
        (30.0, LinkReport(LinkSnapshot(ETH0, "eth0", UP)), over(BOTH, ONE)),
        (40.0, LinkGone(ETH1)),
        (50.0, port(ETH0, True), over(ONE, ZERO)),
    ],
    "802.3ad: change of the aggregator is a failover (kernel 6.1)": [
        (port(ETH0, True), port(ETH1, False), bond(mode=ls.MODE_8023AD)),
        (10.0, CARRIER_LOST[1]),
        (10.0, CARRIER_LOST[2]),
        (10.0, port(ETH0, False, ls.LINK_DOWN, NO_CARRIER)),
        (10.0, port(ETH1, True), over(ZERO, ONE)),
        (20.0, port(ETH0, False, ls.LINK_FAIL)),
    ],
    **{
        f"mode {mode} waits for the bond: no BONDING_FAILOVER, IGMP_RESEND instead (kernel 6.1)": [
            (port(ETH0, True), port(ETH1, True), bond(ETH0, mode=mode)),
            (10.0, CARRIER_LOST[0]),
            (10.0, CARRIER_LOST[2]),
            (10.0, port(ETH1, True)),
            (10.012, bond(ETH1, ls.EVENT_IGMP_RESEND, mode=mode), over(BOTH, ONE)),
            (20.0, port(ETH0, True), over(ONE, BOTH)),
        ]
        for mode in (ls.MODE_TLB, ls.MODE_ALB)
    },
    "team follows carrier and its event": [
        tuple(map(LinkReport, [*TEAM_PORTS, TEAM])),
        (10.0, LinkReport(TEAM_PORTS[0]._replace(flags=0)), over(BOTH, ONE, "team0")),
        (20.0, LinkReport(TEAM, ls.EVENT_NOTIFY_PEERS), over(ONE, ONE, "team0")),
    ],
    "bridge follows its uplinks, not its guests": [
        tuple(map(LinkReport, [BRIDGE, UPLINK, GUEST])),
        (10.0, LinkReport(GUEST._replace(flags=NO_CARRIER))),
        (11.0, LinkGone(TAP)),
        (12.0, LinkReport(UPLINK._replace(flags=NO_CARRIER))),
        (13.0, LinkReport(UPLINK), over(ZERO, ZERO, "br0")),
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_messages_give_failovers(scenario: str) -> None:
    links, *steps = SCENARIOS[scenario]
    follower = started(*links)
    for now, message, *expected in steps:
        assert told(follower, now, message) == expected, (now, message)
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []


def test_changes_in_the_debounce_time_are_reported_together() -> None:
    ports = [port(ETH0, True), port(ETH1, True), port(ETH2, False)]
    follower = started(*ports, bond(mode=ls.MODE_8023AD))
    assert told(follower, 10.0, CARRIER_LOST[2]) == [over(BOTH, ONE)]
    assert told(follower, 10.001, port(ETH1, False), port(ETH2, True)) == []
    assert follower.deadline() == pytest.approx(10.2)
    assert follower.advance(10.2) == [over(ONE, ("eth2",))]


def test_flapping_bond_is_reported_once_in_each_debounce_time() -> None:
    follower = started(*ACTIVE_BACKUP)
    active = itertools.cycle((ETH1, ETH0))
    steps = [10 + step / 100 for step in range(110)]  # every 10 ms
    times = [t for t in steps if told(follower, t, bond(next(active), ls.EVENT_BONDING_FAILOVER))]
    assert times == pytest.approx([10.0, 10.2, 10.4, 10.6, 10.8, 11.0])
    assert follower.deadline() == pytest.approx(11.2)
    assert follower.advance(11.19) == []
    assert [failover.after for failover in follower.advance(11.2)] == [ZERO]
    assert follower.deadline() == inf


def test_second_dump_start_within_the_first_dump_is_no_failover() -> None:
    follower = Follower()
    events = (DumpStarted(), bond(ETH0), DumpStarted(True), bond(ETH1), DumpComplete())
    assert told(follower, 0.0, *events) == []
    assert told(follower, 2.0, bond(ETH0)) == [over(("#3",), ("#2",))]


def test_only_named_links_are_followed() -> None:
    other = bond(ETH0).link._replace(ifindex=50, name="bond1")
    follower = started(*ACTIVE_BACKUP, LinkReport(other), names=("bond1", "eth0"))
    assert told(follower, 10.0, FAILOVER) == []
    assert told(follower, 10.0, LinkReport(other, ls.EVENT_BONDING_FAILOVER))[0].link == "bond1"
    assert [link.link for link in follower.followed()] == ["bond1"]


def test_followed_links_are_shown_with_mode_and_ports() -> None:
    taps = tuple(map(LinkReport, [BRIDGE, GUEST]))  # neither it nor a bridge on a bond is followed
    expected = FollowedLink("bond0", "bond", "active-backup", True, ZERO)
    assert started(*taps, *ACTIVE_BACKUP).followed() == [expected]
    assert started(bond(ETH0, mode=7)).followed()[0].mode == "7"  # a mode of the future
    uplink = tuple(map(LinkReport, [BRIDGE, UPLINK, GUEST]))
    assert started(*uplink).followed() == [FollowedLink("br0", "bridge", "", True, ZERO)]


def test_reason_is_in_words() -> None:
    assert over(ZERO, ONE).reason == "bond0 went from eth0 to eth1"
    assert over(ZERO, ZERO).reason == "bond0 is back on eth0"
    assert over((), BOTH, "br1").reason == "br1 went from nothing to eth0+eth1"
