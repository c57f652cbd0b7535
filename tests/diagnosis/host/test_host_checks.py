"""Each check of `garp-hint doctor`: the facts that it judges, and what it then says."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.diagnosis.doctor.findings import Finding, Level
from garp_agent.diagnosis.host.bridges import ranges
from garp_agent.diagnosis.host.facts import (
    BondPortFacts,
    BridgePortFacts,
    ChannelFacts,
    PathFacts,
    WatcherAnswer,
)
from garp_agent.diagnosis.host.guests import version_numbers
from garp_agent.diagnosis.host.run import examine_host
from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.io.xenstore import XenChannel
from garp_agent.render.probe import Loss
from tests.diagnosis.host.world import (
    ETH0,
    TAP,
    UPLINK,
    bond,
    bridge,
    facts,
    guest,
    status,
    watched,
)

ETH1_DOWN = BondPortFacts("eth1", False)
OTHER_UPLINK = BridgePortFacts("eth7", True, linkstate.STATE_FORWARDING)
PORTS = "ports eth0, eth1, eth0 is active"
NOT_FOUND = "no running guest has a channel: no socket named x listens in this network namespace"


def with_guests(*guests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"channels": ChannelFacts(guests, **more)}


def test_healthy_host_has_one_good_finding_for_each_check() -> None:
    assert examine_host(facts()) == [
        Finding(
            "bond bond0", Level.OK, "active-backup, miimon 10, ports eth0, eth1, eth0 is active"
        ),
        Finding("bridge br0", Level.OK, "uplink bond0, 1 guest port, STP off"),
        Finding("watcher", Level.OK, "garp-hint 1.2.3, pid 77, up 2 h"),
        Finding("capabilities", Level.OK, "the watcher is uid 0, CAP_DAC_OVERRIDE"),
        Finding("following", Level.OK, "bond0 (bond)"),
        Finding("leases", Level.OK, "1 of 1 guests that answer have one"),
        Finding("guests", Level.OK, "1 guest answers: web1"),
        Finding("hints", Level.OK, "3 answered, the slowest after 84 ms"),
        Finding("ways", Level.OK, "agent 1"),
        Finding("paths", Level.OK, "delivered from the standby port: 1 of 1"),
    ]


@pytest.mark.parametrize(
    ("changes", "level", "check", "found", "advice"),
    [
        # bonds: ports
        ({"bonds": (bond(()),)}, "fail", "bond bond0", "it has no port", "master bond0"),
        (
            {"bonds": (bond((ETH1_DOWN,)),)},
            *("fail", "bond bond0", "no port has carrier: eth1", "ethtool eth1"),
        ),
        (
            {"bonds": (bond((ETH0, ETH1_DOWN)),)},
            *("warn", "bond bond0", "only eth0 has carrier", "ip link set eth1 up; ethtool eth1"),
        ),
        (
            {"bonds": (bond((ETH0,)),)},
            *("warn", "bond bond0", "eth0 is its only port", "ip link set PORT master bond0"),
        ),
        # bonds: mode
        *(
            (
                {"bonds": (bond(mode=mode),)},
                *("warn", "bond bond0", f"mode {name} ", "type bond mode active-backup"),
            )
            for mode, name in (
                (linkstate.MODE_ROUND_ROBIN, "balance-rr"),
                (linkstate.MODE_BROADCAST, "broadcast"),
                (linkstate.MODE_TLB, "balance-tlb"),
                (linkstate.MODE_ALB, "balance-alb"),
            )
        ),
        # bonds: monitoring and delays
        (
            {"bonds": (bond(miimon=0),)},
            *("fail", "bond bond0", "miimon and arp_interval are 0", "type bond miimon 10"),
        ),
        (
            {"bonds": (bond(miimon=100),)},
            *("warn", "bond bond0", "miimon is 100: it adds up to 100 ms", "type bond miimon 10"),
        ),
        (
            {"bonds": (bond(miimon=0, arp_interval=1000),)},
            *("warn", "bond bond0", "noticed after 3.0 s", "type bond arp_interval 100"),
        ),
        (
            {"bonds": (bond(downdelay=200),)},
            *("warn", "bond bond0", "downdelay is 200", "type bond downdelay 0"),
        ),
        (
            {"bonds": (bond(primary="eth0", updelay=200),)},
            *("warn", "bond bond0", "returns to the primary eth0 0.2 s after", "updelay 30000"),
        ),
        (
            {"bonds": (bond(primary="eth0", miimon=0, arp_interval=100),)},
            *("warn", "bond bond0", "returns to the primary eth0", "primary_reselect failure"),
        ),
        # bonds: MACs and the standby port
        (
            {"bonds": (bond(fail_over_mac=1),)},
            *("warn", "bond bond0", "fail_over_mac is active", "fail_over_mac none"),
        ),
        (
            {"bonds": (bond(all_slaves_active=1),)},
            *("fail", "bond bond0", "all_slaves_active is 1", "all_slaves_active 0"),
        ),
        # bridges
        (
            {"bridges": (bridge(stp=True),)},
            *("warn", "bridge br0", "STP is on: a port that comes up", "type bridge stp_state 0"),
        ),
        (
            {"bridges": (bridge(stp=True, uplinks=(UPLINK, OTHER_UPLINK)),)},
            *("warn", "bridge br0", "STP is on: a failover takes up to 30 s", "into a bond"),
        ),
        (
            {"bridges": (bridge(uplinks=(UPLINK, OTHER_UPLINK)),)},
            *("warn", "bridge br0", "bond0, eth7 are uplinks that forward", "stp_state 1"),
        ),
        (
            {"bridges": (bridge(uplinks=(UPLINK._replace(has_carrier=False),)),)},
            *("fail", "bridge br0", "no uplink has carrier: bond0", "ip link show bond0"),
        ),
        (
            {"bridges": (bridge(uplinks=(UPLINK._replace(state=linkstate.STATE_LEARNING),)),)},
            *("fail", "bridge br0", "no uplink forwards: bond0", "bridge link"),
        ),
        # watcher
        (
            {"watcher": WatcherAnswer(error="/x: permission denied; run as root")},
            *("fail", "watcher", "permission denied", "run doctor as root"),
        ),
        (
            {"watcher": WatcherAnswer(error="/x: no garp-hint watch answers there")},
            *("fail", "watcher", "no garp-hint watch answers", "systemctl start garp-hint"),
        ),
        (
            {"status": {"version": "1.0"}},
            *("warn", "watcher", "garp-hint 1.0, pid 77", "systemctl restart garp-hint"),
        ),
        (
            {"status": {"netlink_overruns": 2}},
            *("warn", "watcher", "were lost 2 times", "if the number grows"),
        ),
        (
            {"status": {"netlink_undecoded": 1}},
            *("warn", "watcher", "not understood: 1 message of the kernel", "uname -r"),
        ),
        (
            {"status": {"guests": [watched(state="forbidden")]}},
            *("fail", "capabilities", "may not connect to web1", "CAP_DAC_OVERRIDE"),
        ),
        (
            {"status": {"following": []}},
            *("fail", "following", "following nothing: no bond", "in the network namespace"),
        ),
        (
            {"status": {"following": [{"link": "br0", "kind": "bridge", "carrier": False}]}},
            *("warn", "following", "br0 without carrier", "ip -d link show br0"),
        ),
        (
            {"status": {"guests": [watched(lease=0, no_lease="eth9 is not followed")]}},
            *("warn", "leases", "none: web1: eth9 is not followed", "garp-hint status"),
        ),
        # guests
        (
            with_guests(guest(state="no-agent")),
            *("warn", "guests", "no-agent: web1: no reply", "systemctl start garp-agent"),
        ),
        (
            with_guests(guest(state="no-agent"), in_xenstore=()),
            *("fail", "guests", "xl has lost the channel: web1: xenstore does", "put name=unused"),
        ),
        (
            with_guests(
                guest(state="no-agent"),
                in_xenstore=(XenChannel("web1", "/run/web1/org.garp_agent.0"),),
            ),
            *("warn", "guests", "no-agent: web1: no reply", "systemctl start garp-agent"),
        ),
        (
            with_guests(guest(), in_xenstore=(XenChannel("web2", ""),)),
            *("warn", "guests", "connection=pty is not supported: web2", "connection=socket"),
        ),
        (
            with_guests(guest(state="busy")),
            *("warn", "guests", "busy: web1", "ss -xp shows who is connected"),
        ),
        (with_guests(guest(state="gone")), "warn", "guests", "gone: web1", "rm /run/web1/org"),
        (
            with_guests(guest(state="forbidden", error="Permission denied")),
            *("fail", "guests", "forbidden: web1: no permission to connect (Permission", "as root"),
        ),
        (
            with_guests(guest(state="refused", error="Failed: no")),
            *("warn", "guests", "answered with an error (Failed: no)", "journalctl -u garp-agent"),
        ),
        (
            with_guests(guest(state="garbage")),
            *("warn", "guests", "what answers there is not garp-agent", "garp-agent doctor"),
        ),
        (
            with_guests(guest(reply={"version": "1.2.2"})),
            *("warn", "guests", "garp-agent 1.2.2, older than 1.2.3", "update them"),
        ),
        (
            with_guests(guest(behind=None, ports=[])),
            *("warn", "guests", "the port is not known of web1", "passed through"),
        ),
        (
            with_guests(guest(), refused=(("/tmp/x", "others may write"),)),
            *("warn", "guests", "/tmp/x is left out: others may write", "move it"),
        ),
        (
            with_guests(guest(), trouble="no sock_diag"),
            *("warn", "guests", "no sock_diag", "How guests are found"),
        ),
        (with_guests(none_found=NOT_FOUND), "warn", "guests", NOT_FOUND, "garp-hint attach GUEST"),
        (
            {"status": {"guests": [watched(slowest_seconds=2.5)]}},
            *("warn", "hints", "web1 answered a hint only after 2.5 s", "CPU time"),
        ),
        (
            {"status": {"guests": [watched(way="nothing", no_way="no --learn")]}},
            *("warn", "ways", "nothing announces web1 after a failover: no --learn", "--learn"),
        ),
        (
            {"paths": PathFacts(lost=(Loss("VLAN 7 lost", "no VLAN"),))},
            *("fail", "paths", "VLAN 7 lost: no VLAN", "garp-hint probe"),
        ),
    ],
)
def test_one_fault_is_found_with_the_command_that_mends_it(
    changes: dict[str, Any], level: str, check: str, found: str, advice: str
) -> None:
    bad = [
        each for each in examine_host(facts(**changes)) if each.level in (Level.WARN, Level.FAIL)
    ]
    assert [(each.level.value, each.check) for each in bad] == [(level, check)]
    assert found in bad[0].found
    assert advice in bad[0].advice


@pytest.mark.parametrize(
    "changes",
    [
        {"bonds": (bond(mode=linkstate.MODE_ALB, is_bridged=False),)},
        {"bonds": (bond(mode=linkstate.MODE_8023AD),)},
        {"bonds": (bond(miimon=0, arp_interval=100),)},
        {"bonds": (bond(primary="eth0", updelay=30_000),)},
        {"bonds": (bond(primary="eth0", primary_reselect=2),)},
        {"bonds": ()},
        {"bridges": (bridge(uplinks=(), guest_ports=()),)},
        {"bridges": (bridge(uplinks=()),)},
        {"bridges": (bridge(uplinks=(UPLINK, OTHER_UPLINK._replace(is_tunnel=True))),)},
        {"bridges": (bridge(guest_ports=(TAP._replace(vlans=frozenset({7})),)),)},  # no filter
        {"status": {"leases": False, "guests": [watched(lease=0)]}},
        {"status": {"guests": [watched(lease=0, no_lease="bond0 changed 3 s ago")]}},
        {"status": {"uptime": 5.0, "guests": [watched(lease=0, no_lease="not followed")]}},
        {"status": {"guests": [watched(answered=0, slowest_seconds=None)]}},
    ],
)
def test_what_is_no_fault_is_not_reported(changes: dict[str, Any]) -> None:
    assert {each.level for each in examine_host(facts(**changes))} == {Level.OK}


def test_watcher_that_does_not_verify_says_why() -> None:
    why = "path probes need CAP_NET_RAW"
    [found] = [
        each.found
        for each in examine_host(facts(status={"not_verified": why}))
        if each.check == "verifying"
    ]
    assert found.startswith(f"off: {why}")


def test_vlans_that_the_uplink_lacks_are_named_once_for_ports_alike() -> None:
    def port(name: str, *vlans: int) -> BridgePortFacts:
        return BridgePortFacts(name, vlans=frozenset({1, *vlans}))

    taps = (port("vnet0", 10, 11, 40), port("vnet1", 10, 11, 40), port("vnet2", 9), port("vnet3"))
    changed = bridge(filters_vlans=True, uplinks=(port("bond0", 9),), guest_ports=taps)
    [finding] = [each for each in examine_host(facts(bridges=(changed,))) if each.advice]
    assert finding.found.startswith("uplink bond0 has no VLAN 10-11, 40, which vnet0, vnet1 have")
    command = "bridge vlan add dev bond0 vid"
    assert finding.advice.endswith(f": {command} 10-11; {command} 40")


def test_facts_that_are_not_known_are_skipped_with_the_reason() -> None:
    unknown = facts(
        links_error="not permitted",
        bonds=(),
        bridges=(),
        watcher=WatcherAnswer(status()),
        paths=PathFacts(skipped="--no-send was given"),
    )
    skipped = {each.check: each.found for each in examine_host(unknown) if each.level is Level.SKIP}
    assert skipped == {
        "bonds": "not checked: not permitted",
        "bridges": "not checked: not permitted",
        "capabilities": "not checked: the watcher's process cannot be seen from here",
        "paths": "not checked: --no-send was given",
    }


def test_version_numbers_compare_as_numbers() -> None:
    assert version_numbers("0.10.0+deb12") > version_numbers("0.9.1") > version_numbers("unknown")


def test_ranges_join_neighbours() -> None:
    assert ranges({7, 1, 5, 6, 9}) == "1, 5-7, 9"
    assert ranges(()) == ""
