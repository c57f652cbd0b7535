"""Every segment that a guest's drivers can make gets its announcements, tagged as it must be.

Real drivers: VLANs, stacked VLANs, bonds, bridges, teams, VRFs, macvlans, ipvlans, and
combinations of them as they are found in the field.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.vm.agent import Agent
from tests.vm.machine import Card, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Told

MACS = [f"52:54:00:00:00:{number:02x}" for number in range(8)]
MACVLAN_MAC = "52:54:00:00:0a:01"

SETUP = f"""
link set eth0 up
addr add 10.0.0.1/24 dev eth0
addr add 10.0.0.2/24 dev eth0 label eth0:1
addr add 10.0.0.3/32 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
link add link eth0 name eth0.10 type vlan id 10
link set eth0.10 up
addr add 10.0.10.1/24 dev eth0.10
link add link eth0 name service type vlan proto 802.1ad id 100
link set service up
link add link service name customer type vlan id 20
link set customer up
addr add 10.0.20.1/24 dev customer
addr add 2001:db8:20::1/64 dev customer nodad

link add bond1 type bond mode active-backup miimon 10
link set eth1 master bond1
link set eth2 master bond1
link set bond1 up
link set bond1 type bond primary eth1
addr add 10.1.0.1/24 dev bond1
link add link bond1 name bond1.30 type vlan id 30
link set bond1.30 up
addr add 10.1.30.1/24 dev bond1.30
link add link bond1 name bond1.40 type vlan id 40
link add br40 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set bond1.40 master br40
link set bond1.40 up
link set br40 up
addr add 10.1.40.1/24 dev br40

link set eth3 up
link add link eth3 name mv0 address {MACVLAN_MAC} type macvlan mode bridge
link set mv0 up
addr add 10.3.0.1/24 dev mv0

link add blue type vrf table 10
link set blue up
link set eth4 master blue
link set eth4 up
addr add 10.4.0.1/24 dev eth4
addr add 10.4.0.254/32 dev blue

link set eth5 up
link add link eth5 name iv0 type ipvlan mode l2
link set iv0 up
addr add 10.5.0.1/24 dev iv0

link add veth0 address fe:00:00:00:00:01 type veth peer name veth1
link add br1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set veth0 master br1
link set veth0 up
link set veth1 up
link set eth6 master br1
link set eth6 up
link set br1 up
addr add 10.6.0.1/24 dev br1
link add link br1 name br1.60 type vlan id 60
link set br1.60 up
addr add 10.6.60.1/24 dev br1.60
"""

TEAM = '{"device": "team0", "runner": {"name": "activebackup"}, "link_watch": {"name": "ethtool"}}'

ON_THE_BOND = [
    Told("arp-request", MACS[1], "10.1.0.1"),
    Told("arp-request", MACS[1], "10.1.30.1", (30,)),
    Told("arp-request", MACS[1], "10.1.40.1", (40,)),
]
EXPECTED = {
    "net0": [
        Told("arp-request", MACS[0], "10.0.0.1"),
        Told("arp-request", MACS[0], "10.0.0.2"),
        Told("arp-request", MACS[0], "10.0.0.3"),
        Told("unsolicited-na", MACS[0], "2001:db8::1"),
        Told("arp-request", MACS[0], "10.0.10.1", (10,)),
        Told("arp-request", MACS[0], "10.0.20.1", (100, 20)),
        Told("unsolicited-na", MACS[0], "2001:db8:20::1", (100, 20)),
    ],
    "net1": ON_THE_BOND,
    "net2": [],  # the bond's other port
    "net3": [Told("arp-request", MACVLAN_MAC, "10.3.0.1")],
    "net4": [Told("arp-request", MACS[4], "10.4.0.1")],
    "net5": [Told("arp-request", MACS[5], "10.5.0.1")],
    "net6": [
        Told("arp-request", MACS[6], "10.6.0.1"),
        Told("arp-request", MACS[6], "10.6.60.1", (60,)),
    ],
    "net7": [Told("arp-request", MACS[7], "10.7.0.1")],
}


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    """A guest with all these links, on eight cards."""
    cards = [Card(f"net{number}", mac) for number, mac in enumerate(MACS)]
    with Machine(cards=cards, hint_port=False, extras=True, kernel="trixie-cloud") as booted:
        booted.insert(
            *("8021q", "bonding", "bridge", "veth", "macvlan", "vrf", "ipvlan"),
            *("team", "team_mode_activebackup"),
        )
        booted.shell("echo 0 > /proc/sys/net/ipv6/conf/default/router_solicitations")
        booted.ip(SETUP)
        booted.spawn("teamd", "-U", "-c", TEAM)
        PUMP.wait_for(
            lambda: booted.run("ip", "link", "show", "team0").status == 0, "team0", step=0.1
        )
        booted.ip("link set eth7 master team0\nlink set team0 up\naddr add 10.7.0.1/24 dev team0")
        PUMP.wait_for(
            lambda: booted.read("/sys/class/net/team0/carrier") == "1\n", "its carrier", step=0.1
        )
        active = "/sys/class/net/bond1/bonding/active_slave"
        PUMP.wait_for(lambda: booted.read(active) == "eth1\n", "the bond's primary", step=0.05)
        yield booted


@pytest.fixture(scope="module")
def agent(guest: Machine) -> Iterator[Agent]:
    """The agent, its start over."""
    started = Agent(guest).started()
    yield started
    started.stop()


def told(guest: Machine, marks: dict[str, int]) -> dict[str, list[Told]]:
    """What each card has announced since, leaving out link-local addresses."""
    return {
        name: [each for each in wire.told(marks[name]) if not each.address.startswith("fe80")]
        for name, wire in guest.wires.items()
    }


def marks(guest: Machine) -> dict[str, int]:
    """For :func:`told`."""
    return {name: wire.mark for name, wire in guest.wires.items()}


def test_every_segment_gets_its_announcements(guest: Machine, agent: Agent) -> None:
    since = marks(guest)
    agent.process.signal(signal.SIGUSR1)

    def complete() -> bool:
        """Three rounds of everything."""
        so_far = told(guest, since)
        return all(
            so_far[name].count(each) >= 3 for name, wanted in EXPECTED.items() for each in wanted
        )

    try:
        PUMP.wait_for(complete, "three rounds everywhere")
    finally:
        so_far = told(guest, since)
        missing = {n: [e for e in wanted if e not in so_far[n]] for n, wanted in EXPECTED.items()}
        assert not any(missing.values()), (missing, agent.status())
    extra = {n: set(announced) - set(EXPECTED[n]) for n, announced in told(guest, since).items()}
    assert not any(extra.values())


def test_a_failover_of_the_guests_own_bond_reaches_what_is_stacked_on_it(
    guest: Machine, agent: Agent
) -> None:
    since = marks(guest)
    guest.set_link("net1", up=False)

    def by_the_agent() -> set[Told | None]:
        """The bond's driver announces some of it too, but does not pad."""
        frames = guest.wires["net2"].frames[since["net2"] :]
        return {frame.told for frame in frames if frame.padded}

    PUMP.wait_for(lambda: by_the_agent() >= set(ON_THE_BOND), "announcements on net2")
    causes = {
        link["interface"]: link["last_burst"]["cause"]
        for link in agent.status()["links"]
        if link["last_burst"]
    }
    assert {causes[name] for name in ("bond1", "bond1.30", "br40")} == {"notify-peers"}


def test_nothing_is_sent_without_carrier(guest: Machine, agent: Agent) -> None:
    """A frame sent without carrier would come out, stale, when the cable is back."""
    guest.set_link("net4", up=False)
    agent.wait_until(
        lambda status: "no carrier" in {link["skipped"] for link in status["links"]}, "no carrier"
    )
    since = marks(guest)
    agent.process.signal(signal.SIGUSR1)
    PUMP.wait_for(lambda: told(guest, since)["net5"].count(EXPECTED["net5"][0]) >= 3, "the burst")
    guest.set_link("net4", up=True)
    PUMP.wait_for(lambda: told(guest, since)["net4"].count(EXPECTED["net4"][0]) >= 3, "its return")
    (link,) = (each for each in agent.status()["links"] if each["interface"] == "eth4")
    assert link["last_burst"]["cause"] == "link-up"
    assert link["addresses"][0]["dropped"] == {}
