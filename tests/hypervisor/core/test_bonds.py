"""Failovers from literal link messages, in the order in which kernels 6.1 and 6.18 send them."""

from __future__ import annotations

import itertools
import random
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core import linkstate as ls
from garp_agent.hypervisor.core.bonds import BondFailover, FollowedLink, Follower
from garp_agent.hypervisor.core.linkstate import (
    Bond,
    BondPort,
    LinkReport,
    LinkSnapshot,
    PortStateReport,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP, DumpComplete, DumpStarted, LinkGone
from tests.world import property_settings

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
    """Return what is due at ``now``, after these messages, without whom it concerns."""
    for message in messages:
        follower.handle(message, now)
    return [each._replace(links=frozenset()) for each in follower.advance(now)]


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


def reported(link: LinkSnapshot | LinkReport) -> LinkReport:
    return link if isinstance(link, LinkReport) else LinkReport(link)


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


def test_changes_in_the_debounce_time_are_reported_together() -> None:
    ports = [port(ETH0, True), port(ETH1, True), port(ETH2, False)]
    follower = started(*ports, bond(mode=ls.MODE_8023AD))
    assert told(follower, 10.0, CARRIER_LOST[2]) == [over(BOTH, ONE)]
    assert told(follower, 10.001, port(ETH1, False), port(ETH2, True)) == []
    assert follower.deadline() == pytest.approx(10.2)
    assert told(follower, 10.2) == [over(ONE, ("eth2",))]


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
    taps = tuple(map(LinkReport, [BRIDGE, GUEST]))
    expected = FollowedLink("bond0", "bond", "active-backup", True, ZERO)
    bridge = FollowedLink("br0", "bridge", "", True, ("bond0",))
    assert started(*taps).followed() == []
    assert started(*taps, *ACTIVE_BACKUP).followed() == [expected, bridge]
    assert started(bond(ETH0, mode=7)).followed()[0].mode == "7"  # a mode of the future
    uplink = tuple(map(LinkReport, [BRIDGE, UPLINK, GUEST]))
    assert started(*uplink).followed() == [FollowedLink("br0", "bridge", "", True, ZERO)]


# -- bridges ----------------------------------------------------------------------------

VLAN = LinkSnapshot(100, "bond0.0", UP, 101, "vlan", "bridge", lower_ifindex=BOND0)
FORWARDING, LEARNING, LISTENING = ls.STATE_FORWARDING, ls.STATE_LEARNING, ls.STATE_LISTENING


def vlan_bridges(count: int, flags: int = UP) -> list[LinkReport]:
    """For each VLAN first the VLAN device, then its bridge, as the carrier returns."""
    links = []
    for n in range(100, 100 + 2 * count, 2):
        vlan = VLAN._replace(ifindex=n, name=f"bond0.{n}", flags=flags, master_ifindex=n + 1)
        links += [vlan, LinkSnapshot(n + 1, f"br{n}", UP, 0, "bridge")]
    return [LinkReport(link) for link in links]


def free_bond(active: int = ETH0, flags: int = UP) -> LinkReport:
    report = bond(active, flags=flags)
    return report._replace(link=report.link._replace(master_ifindex=0, port_kind=""))


@pytest.mark.parametrize("step", [0.0005, 0.001])
def test_carrier_that_returns_to_60_bridges_on_one_bond_is_one_failover(step: float) -> None:
    """Linux 6.1: the bond first, a few milliseconds later the last bridge.

    The report waits for it, because a guest cannot announce before its bridge forwards.
    """
    follower = started(port(ETH0, True), free_bond(), *vlan_bridges(60))
    lost = (free_bond(0, NO_CARRIER), *vlan_bridges(60, NO_CARRIER))
    assert told(follower, 10.0, *lost) == []
    reports = []
    for n, message in enumerate((free_bond(), *vlan_bridges(60))):
        follower.handle(message, 20.0 + n * step)
        reports += [(n, each) for each in follower.advance(20.0 + n * step)]
    assert follower.deadline() == inf
    [(n, failover)] = reports
    assert n == 119  # the last VLAN device
    assert failover.links == {"bond0", *(f"br{n}" for n in range(100, 220, 2))}
    assert (failover.link, failover.reason) == ("bond0", "bond0 and 60 more are back on eth0")


def test_failover_waits_for_a_bridge_no_longer_than_the_debounce_time() -> None:
    """With STP the bridge forwards 30 s later; that is a failover of its own."""
    follower = started(port(ETH0, True), free_bond(), *vlan_bridges(2))
    told(follower, 10.0, free_bond(0, NO_CARRIER), *vlan_bridges(2, NO_CARRIER))
    [vlan, _bridge, *others] = vlan_bridges(2)
    listening = vlan._replace(link=vlan.link._replace(port_state=LISTENING))
    assert told(follower, 20.0, free_bond(), listening, *others) == []
    assert follower.deadline() == pytest.approx(20.2)
    [failover] = follower.advance(20.2)
    assert failover.links == {"bond0", "br102"}
    assert told(follower, 35.0, ls.PortStateReport(100, 101, LEARNING)) == []
    [failover] = [*follower.advance(50.0), *told(follower, 50.0, ls.PortStateReport(100, 101, 3))]
    assert (failover.link, failover.after) == ("br100", ("bond0.100",))


def test_bridge_that_tells_of_its_port_before_the_bond_does_is_one_failover_with_it() -> None:
    """A bridge hears of a carrier before the message about the carrier is sent (Linux 6.1)."""
    follower = started(*ACTIVE_BACKUP, LinkReport(BRIDGE))
    assert told(follower, 10.0, ls.PortStateReport(BOND0, BR0, ls.STATE_DISABLED)) == []
    assert told(follower, 10.001, bond(0, flags=NO_CARRIER)) == []
    assert told(follower, 20.0, ls.PortStateReport(BOND0, BR0, FORWARDING)) == []
    assert told(follower, 20.0, bond(ETH0, ls.EVENT_BONDING_FAILOVER, NO_CARRIER)) == []
    follower.handle(bond(ETH0), 20.001)
    [failover] = follower.advance(20.001)
    assert failover.links == {"bond0", "br0"}


def test_bridge_that_was_down_before_delays_no_failover() -> None:
    follower = started(port(ETH0, True), free_bond(), *vlan_bridges(2))
    told(follower, 5.0, *vlan_bridges(1, NO_CARRIER))
    told(follower, 10.0, free_bond(0, NO_CARRIER))
    assert told(follower, 20.0, free_bond()) == [over(ZERO, ZERO)]


def test_failover_does_not_wait_for_another_bond() -> None:
    other = free_bond().link._replace(ifindex=50, name="bond1")
    follower = started(port(ETH0, True), free_bond(), LinkReport(other))
    told(follower, 10.0, free_bond(0, NO_CARRIER), LinkReport(other._replace(flags=NO_CARRIER)))
    assert told(follower, 20.0, free_bond()) == [over(ZERO, ZERO)]


def test_failover_concerns_its_bond_and_an_unrelated_one_does_not_wait() -> None:
    other = free_bond().link._replace(ifindex=50, name="bond1")
    follower = started(port(ETH0, True), free_bond(), LinkReport(other))
    follower.handle(free_bond(ETH1), 10.0)
    follower.handle(LinkReport(other._replace(bond=Bond(1, ETH1))), 10.0)
    found = {each.link: each.links for each in follower.advance(10.0)}
    assert found == {"bond0": {"bond0"}, "bond1": {"bond1"}}


BRIDGE_SCENARIOS: dict[str, list[Any]] = {
    "new bridge without guests is no failover; a guest that starts in it is none": [
        (port(ETH0, True), free_bond()),
        (10.0, LinkReport(BRIDGE)),
        (10.0, LinkReport(VLAN._replace(master_ifindex=BR0, flags=NO_CARRIER))),
        (10.1, LinkReport(VLAN._replace(master_ifindex=BR0))),
        (11.0, LinkReport(GUEST._replace(flags=NO_CARRIER))),
        (12.0, LinkReport(GUEST)),
    ],
    "bridge that gets an uplink after its guests has failed over": [
        (BRIDGE, GUEST),
        (10.0, LinkReport(UPLINK), over((), ZERO, "br0")),
    ],
    "bridge forwards before its own carrier is there": [
        (BRIDGE, UPLINK),
        (10.0, LinkReport(UPLINK._replace(flags=NO_CARRIER))),
        (11.0, LinkReport(BRIDGE._replace(flags=NO_CARRIER))),
        (20.0, LinkReport(UPLINK), over(ZERO, ZERO, "br0")),
        (20.1, LinkReport(BRIDGE)),
        (30.0, LinkReport(BRIDGE._replace(flags=0))),
        (31.0, LinkReport(BRIDGE), over(ZERO, ZERO, "br0")),
    ],
    "guest that starts in a bridge without STP is no failover": [
        (BRIDGE, UPLINK),
        (10.0, LinkReport(GUEST._replace(port_state=ls.STATE_DISABLED, flags=NO_CARRIER))),
        (11.0, LinkReport(GUEST._replace(port_state=FORWARDING))),
    ],
    "Xen vif or representor that comes and goes is no failover": [
        (BRIDGE, UPLINK),
        *(
            step
            for guest in (
                GUEST._replace(kind="", bus="xen-backend"),
                GUEST._replace(kind="", port_name="pf0vf1"),
                GUEST._replace(kind="", name="vif1.0"),
            )
            for step in (
                (10.0, LinkReport(guest._replace(flags=0))),
                (11.0, LinkReport(guest)),
                (12.0, LinkReport(guest._replace(flags=NO_CARRIER))),
                (13.0, LinkGone(TAP)),
            )
        ),
    ],
    **{
        f"{kind} as the uplink of a bridge is followed": [
            (BRIDGE, UPLINK._replace(kind=kind)),
            (10.0, LinkReport(UPLINK._replace(kind=kind, flags=NO_CARRIER))),
            (20.0, LinkReport(UPLINK._replace(kind=kind)), over(ZERO, ZERO, "br0")),
        ]
        for kind in ("macsec", "gretap", "vxlan", "macvlan")
    },
    "uplink that STP blocks and lets forward is a failover": [
        (BRIDGE, UPLINK._replace(port_state=FORWARDING)),
        (10.0, ls.PortStateReport(ETH0, BR0, ls.STATE_BLOCKING)),
        (20.0, ls.PortStateReport(ETH0, BR0, LEARNING)),
        (35.0, ls.PortStateReport(ETH0, BR0, FORWARDING), over(ZERO, ZERO, "br0")),
        (36.0, ls.PortStateReport(ETH0, BR0, FORWARDING)),
        (37.0, ls.PortStateReport(ETH0, 99, LISTENING)),  # of a bridge that it has left
        (38.0, ls.PortStateReport(99, BR0, LISTENING)),
        (39.0, ls.PortStateReport(ETH0, BR0, FORWARDING)),
    ],
}
SCENARIOS |= {
    name: [tuple(map(reported, links)), *steps]
    for name, (links, *steps) in BRIDGE_SCENARIOS.items()
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_messages_give_failovers(scenario: str) -> None:
    links, *steps = SCENARIOS[scenario]
    follower = started(*links)
    for now, message, *expected in steps:
        assert told(follower, now, message) == expected, (now, message)
    assert follower.deadline() == inf
    assert follower.advance(1000.0) == []


MOVED = LinkReport(GUEST._replace(master_ifindex=50, port_state=FORWARDING))
OTHER_BRIDGE = (
    LinkReport(BRIDGE._replace(ifindex=50, name="br1")),
    LinkReport(UPLINK._replace(ifindex=51, name="eth9", master_ifindex=50)),
)


def moved(follower: Follower, now: float) -> list[tuple[str, list[str], str]]:
    found = follower.advance(now)
    return [(each.link, sorted(each.guest_ports), each.reason) for each in found]


def test_guest_port_that_comes_to_another_bridge_is_reported() -> None:
    """At once or by a network restart; several ports together."""
    second = GUEST._replace(ifindex=8, name="vnet1")
    follower = started(*map(LinkReport, [BRIDGE, UPLINK, GUEST, second]), *OTHER_BRIDGE)
    assert told(follower, 10.0, MOVED) == []
    for step in (second._replace(master_ifindex=0, port_kind=""), second):  # it comes back
        assert told(follower, 10.0, LinkReport(step)) == []
    assert told(follower, 10.1, LinkReport(second._replace(master_ifindex=50))) == []
    assert follower.deadline() == pytest.approx(10.2)
    assert moved(follower, 10.2) == [("br1", ["vnet0"], "a guest port now sends through br1")]
    assert moved(follower, 10.3) == [("br1", ["vnet1"], "a guest port now sends through br1")]
    assert follower.deadline() == inf


def test_guest_port_is_reported_when_its_new_path_is_open() -> None:
    follower = started(*map(LinkReport, [BRIDGE, UPLINK, GUEST]), *OTHER_BRIDGE)
    told(follower, 9.0, ls.PortStateReport(51, 50, LISTENING))
    assert told(follower, 10.0, MOVED, LinkGone(BR0)) == []
    assert follower.deadline() == inf
    follower.handle(ls.PortStateReport(51, 50, FORWARDING), 40.0)
    # The failover of the bridge hints its guest too.
    assert moved(follower, 40.0) == [("br1", [], "br1 is back on eth9")]


def test_guest_ports_that_come_together_are_reported_together() -> None:
    taps = [GUEST, GUEST._replace(ifindex=8, name="vnet1")]
    follower = started(*map(LinkReport, [BRIDGE, UPLINK, *taps]), *OTHER_BRIDGE)
    told(follower, 10.0, *(LinkReport(each._replace(master_ifindex=50)) for each in taps))
    assert moved(follower, 10.2) == [
        ("br1", ["vnet0", "vnet1"], "2 guest ports now send through br1")
    ]


def test_guest_port_that_leaves_for_good_is_not_reported() -> None:
    follower = started(*map(LinkReport, [BRIDGE, UPLINK, GUEST]), *OTHER_BRIDGE)
    assert told(follower, 10.0, MOVED, LinkGone(TAP)) == []
    assert (follower.deadline(), moved(follower, 20.0)) == (inf, [])


def test_guest_port_that_stp_lets_forward_is_reported() -> None:
    follower = started(*map(LinkReport, [BRIDGE, UPLINK]))
    told(follower, 10.0, LinkReport(GUEST._replace(port_state=LISTENING)))
    told(follower, 25.0, ls.PortStateReport(TAP, BR0, LEARNING))
    told(follower, 40.0, ls.PortStateReport(TAP, BR0, FORWARDING))
    assert moved(follower, 40.2) == [("br0", ["vnet0"], "a guest port now sends through br0")]


def test_bridge_on_a_named_bond_is_followed_too() -> None:
    links = [
        port(ETH0, True),
        free_bond(),
        *vlan_bridges(1),
        LinkReport(BRIDGE),
        LinkReport(UPLINK),
    ]
    follower = started(*links, names=("bond0",))
    assert [link.link for link in follower.followed()] == ["bond0", "br100"]
    assert [follower.follows(each) for each in (BOND0, 101, BR0)] == [True, True, False]


def test_bridge_whose_named_bond_is_dumped_last_is_followed() -> None:
    links = [*vlan_bridges(1), port(ETH0, True), free_bond()]
    assert started(*links, names=("bond0",)).follows(101)


def test_bond_that_flaps_while_a_bridge_is_down_waits_for_the_bridge() -> None:
    follower = started(port(ETH0, True), free_bond(), *vlan_bridges(1))
    told(follower, 10.0, free_bond(0, NO_CARRIER), *vlan_bridges(1, NO_CARRIER))
    assert told(follower, 20.0, free_bond(), free_bond(0, NO_CARRIER)) == []
    assert told(follower, 20.1, free_bond()) == []
    assert told(follower, 20.1, *vlan_bridges(1)) == [over(ZERO, ZERO)]


def test_messages_of_guest_ports_work_nothing_out_again() -> None:
    """Counted, not timed: a host with 1,000 guests has thousands of such messages."""
    follower = started(*ACTIVE_BACKUP, reported(BRIDGE), reported(GUEST))
    version, path = follower.version, follower.topology.path(TAP)
    for flags in (0, UP) * 500:
        assert told(follower, 10.0, reported(GUEST._replace(flags=flags))) == []
    assert follower.version == version
    assert follower.topology.path(TAP) is path


@given(st.integers(0, 1 << 32))
@property_settings(100)
def test_version_differs_after_each_change_of_the_followed_links(seed: int) -> None:
    rng = random.Random(seed)
    follower = started(*ACTIVE_BACKUP, reported(BRIDGE), reported(GUEST))
    links = [BRIDGE, UPLINK, GUEST, *(each.link for each in (*ACTIVE_BACKUP, bond(ETH1)))]
    links += [each._replace(ifindex=each.ifindex + 10) for each in links]
    for _ in range(40):
        before = follower.version, follower.followed()
        link = rng.choice(links)
        changed = link._replace(
            name=rng.choice([link.name, "renamed"]),
            flags=rng.choice([0, UP, NO_CARRIER]),
            master_ifindex=rng.choice([0, link.master_ifindex, BR0]),
            port_state=rng.choice([None, 3, 4]),
        )
        messages = (reported(changed), LinkGone(link.ifindex), PortStateReport(ETH0, BR0, 4))
        told(follower, 10.0, rng.choices(messages, (8, 1, 1))[0])
        if follower.followed() != before[1]:
            assert follower.version != before[0]


def test_reason_is_in_words() -> None:
    assert over(ZERO, ONE).reason == "bond0 went from eth0 to eth1"
    assert over(ZERO, ZERO).reason == "bond0 is back on eth0"
    assert over((), BOTH, "br1").reason == "br1 went from nothing to eth0+eth1"
