"""Every kind of link that a guest's drivers can make is announced, with its VLAN tags.

Real drivers: VLANs, stacked VLANs, bonds, bridges, a team, VRFs, macvlans, ipvlans, and
combinations of them as they are found in the field. And what QMP's ``announce-self`` covers
of them: without the agent only addresses that are directly on a virtio card or on its VLANs,
macvlans and VRFs; with the agent all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.vm.agent import Agent
from tests.vm.frames import Announcement
from tests.vm.qemu import Card, QemuMachine
from tests.vm.receiver import HangError, wait_for
from tests.vm.test_kernel_facts import ANNOUNCE_SELF

MACS = [f"52:54:00:00:00:{number:02x}" for number in range(8)]
MACVLAN_MAC = "52:54:00:00:0a:01"
NO_CLAIMS = ("rarp", "arp-probe")

SETUP = f"""
link set eth0 up
addr add 10.0.0.1/24 dev eth0
addr add 10.0.0.2/24 dev eth0 label eth0:1
addr add 10.0.0.3/32 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
link add link eth0 name eth0.10 up type vlan id 10
addr add 10.0.10.1/24 dev eth0.10
link add link eth0 name service up type vlan proto 802.1ad id 100
link add link service name customer up type vlan id 20
addr add 10.0.20.1/24 dev customer
addr add 2001:db8:20::1/64 dev customer nodad

link add bond1 type bond mode active-backup miimon 10
link set eth1 master bond1
link set eth2 master bond1
link set bond1 up
link set bond1 type bond primary eth1
addr add 10.1.0.1/24 dev bond1
link add link bond1 name bond1.30 up type vlan id 30
addr add 10.1.30.1/24 dev bond1.30
link add br40 up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add link bond1 name bond1.40 up master br40 type vlan id 40
addr add 10.1.40.1/24 dev br40

link set eth3 up
link add link eth3 name mv0 address {MACVLAN_MAC} up type macvlan mode bridge
addr add 10.3.0.1/24 dev mv0

link add blue up type vrf table 10
link set eth4 master blue up
addr add 10.4.0.1/24 dev eth4
addr add 10.4.0.254/32 dev blue

link set eth5 up
link add link eth5 name iv0 up type ipvlan mode l2
addr add 10.5.0.1/24 dev iv0

link add br1 up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link add veth0 address fe:00:00:00:00:01 up master br1 type veth peer name veth1
link set veth1 up
link set eth6 master br1 up
addr add 10.6.0.1/24 dev br1
addr add 2001:db8:6::1/64 dev br1 nodad
link add link br1 name br1.60 up type vlan id 60
addr add 10.6.60.1/24 dev br1.60
"""
TEAM = '{"device": "team0", "runner": {"name": "activebackup"}, "link_watch": {"name": "ethtool"}}'

BOND = {
    Announcement("arp-request", MACS[1], "10.1.0.1"),
    Announcement("arp-request", MACS[1], "10.1.30.1", (30,)),
    Announcement("arp-request", MACS[1], "10.1.40.1", (40,)),
}
IPVLAN = Announcement("arp-request", MACS[5], "10.5.0.1")
VRF = Announcement("arp-request", MACS[4], "10.4.0.1")
BY_KERNEL = {
    "net0": {
        Announcement("arp-request", MACS[0], "10.0.0.1"),
        Announcement("arp-request", MACS[0], "10.0.0.2"),
        Announcement("arp-request", MACS[0], "10.0.0.3"),
        Announcement("unsolicited-na", MACS[0], "2001:db8::1"),
        Announcement("arp-request", MACS[0], "10.0.10.1", (10,)),
        Announcement("arp-request", MACS[0], "10.0.20.1", (100, 20)),
        Announcement("unsolicited-na", MACS[0], "2001:db8:20::1", (100, 20)),
    },
    "net3": {Announcement("arp-request", MACVLAN_MAC, "10.3.0.1")},
    "net4": {VRF},
}
EXPECTED = {
    **BY_KERNEL,
    "net1": BOND,
    "net2": set(),  # the bond's standby port
    "net5": {IPVLAN},
    "net6": {
        Announcement("arp-request", MACS[6], "10.6.0.1"),
        Announcement("unsolicited-na", MACS[6], "2001:db8:6::1"),
        Announcement("arp-request", MACS[6], "10.6.60.1", (60,)),
    },
    "net7": {Announcement("arp-request", MACS[7], "10.7.0.1")},
}


@pytest.fixture(scope="module")
def guest() -> Iterator[QemuMachine]:
    """A guest with all these links, on eight cards."""
    cards = [Card(f"net{number}", mac) for number, mac in enumerate(MACS)]
    with QemuMachine(cards=cards, extras=True, kernel="trixie-cloud") as booted:
        booted.insert(
            *("8021q", "bonding", "bridge", "veth", "macvlan", "vrf", "ipvlan"),
            *("team", "team_mode_activebackup"),
        )
        booted.shell("echo 0 > /proc/sys/net/ipv6/conf/default/router_solicitations")
        booted.ip(SETUP)
        booted.spawn("teamd", "-U", "-c", TEAM)
        booted.wait_until(lambda: "team0" in booted.check("ip", "-br", "link"), "team0")
        booted.ip("link set eth7 master team0\nlink set team0 up\naddr add 10.7.0.1/24 dev team0")
        carrier = "/sys/class/net/team0/carrier"
        booted.wait_until(lambda: booted.read(carrier) == "1\n", "the team's carrier")
        active = "/sys/class/net/bond1/bonding/active_slave"
        booted.wait_until(lambda: booted.read(active) == "eth1\n", "the bond's primary")
        yield booted


@pytest.fixture(scope="module")
def agent(guest: QemuMachine) -> Iterator[Agent]:
    """The agent, its first bursts over."""
    with Agent(guest) as started:
        yield started


def clear(guest: QemuMachine) -> None:
    """Forget the frames on all cables."""
    for cable in guest.cables.values():
        cable.clear()


def announced(guest: QemuMachine, padded: bool | None = None) -> dict[str, set[Announcement]]:
    """What each card has announced since, without link-local addresses and QEMU's RARP.

    And without probes: in the agent's first minute each refresh begins with one, at any moment.
    """
    return {
        name: {
            each
            for each in cable.announcements(padded=padded)
            if each.kind not in NO_CLAIMS and not each.address.startswith("fe80")
        }
        for name, cable in guest.cables.items()
    }


def wait_for_all(guest: QemuMachine, agent: Agent, expected: dict[str, set[Announcement]]) -> None:
    """Wait until the agent has announced just this, on these cards."""

    def missing() -> dict[str, set[Announcement]]:
        sent = announced(guest, padded=True)
        return {name: lacking for name in sent if (lacking := expected[name] - sent[name])}

    try:
        wait_for(lambda: not missing(), "all announcements")
    except HangError as error:
        raise HangError(f"{error}: {missing()}\n{agent.status()}") from None
    agent.wait_until_settled()
    assert announced(guest, padded=True) == expected
    for name, cable in guest.cables.items():
        probes = [each for each in cable.announcements(padded=True) if each.kind == "arp-probe"]
        assert {each._replace(kind="arp-request") for each in probes} <= expected[name]


def last_causes(agent: Agent) -> dict[str, str]:
    """The cause of each link's last burst."""
    links = agent.status()["links"]
    return {link["interface"]: link["last_burst"]["cause"] for link in links if link["last_burst"]}


def test_announce_self_without_agent_covers_what_is_directly_on_cards(guest: QemuMachine) -> None:
    expected = {name: BY_KERNEL.get(name, set()) for name in guest.cables}

    def just_these() -> bool:
        """The drivers of bond and team may still announce because of their setup."""
        clear(guest)
        guest.qmp("announce-self", **ANNOUNCE_SELF)
        for name, mac in zip(guest.cables, MACS):
            guest.cables[name].wait_for_agent(Announcement("rarp", mac))
        with suppress(HangError):  # then the kernel is asked once more
            wait_for(
                lambda: all(wanted <= announced(guest)[name] for name, wanted in expected.items()),
                "the kernel's announcements",
                timeout=30.0,
            )
        return announced(guest) == expected

    wait_for(just_these, "only these announcements", step=1.0)


def test_announce_self_with_agent_covers_every_link(guest: QemuMachine, agent: Agent) -> None:
    clear(guest)
    guest.qmp("announce-self", **ANNOUNCE_SELF)
    wait_for_all(guest, agent, EXPECTED)
    causes = last_causes(agent)
    stacked = {"eth0", "eth0.10", "customer", "bond1", "bond1.30", "br40", "mv0", "eth4", "br1"}
    assert {causes[name] for name in stacked} == {"notify-peers"}


def test_signal_makes_the_agent_announce_every_link(guest: QemuMachine, agent: Agent) -> None:
    clear(guest)
    agent.process.signal(signal.SIGUSR1)
    wait_for_all(guest, agent, EXPECTED)
    assert set(last_causes(agent).values()) == {"operator"}


def test_failover_of_the_guests_bond_announces_what_is_stacked_on_it(
    guest: QemuMachine, agent: Agent
) -> None:
    clear(guest)
    guest.set_link("net1", up=False)
    guest.cables["net2"].wait_for_agent(*BOND)
    causes = last_causes(agent)
    assert {causes[name] for name in ("bond1", "bond1.30", "br40")} == {"notify-peers"}
    guest.set_link("net1", up=True)
    guest.cables["net1"].wait_for_agent(*BOND)
    agent.wait_until_settled()


def test_link_without_carrier_is_announced_when_it_returns_and_not_before(
    guest: QemuMachine, agent: Agent
) -> None:
    """The kernel would keep a frame that is sent without carrier, and send it, stale, later."""
    guest.set_link("net4", up=False)
    wait_for(lambda: agent.link("eth4")["skipped"] == "no carrier", "no carrier", step=0.1)
    clear(guest)
    agent.process.signal(signal.SIGUSR1)
    guest.cables["net5"].wait_for_agent(IPVLAN)
    agent.wait_until_settled()
    assert guest.cables["net4"].frames == []
    guest.set_link("net4", up=True)
    guest.cables["net4"].wait_for_agent(VRF)
    link = agent.link("eth4")
    assert link["last_burst"]["cause"] == "link-up"
    assert link["addresses"][0]["dropped"] == {}
