"""What ``announce-self`` covers: alone, and with the agent.

QEMU announces the card's own address (RARP) and tells a virtio card's driver, whose
kernel announces the addresses that are directly on the card or on VLANs, macvlans and
VRFs of it.  What lies behind a bridge or a bond inside the guest nobody announces but
the agent, which the same event reaches.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.agent import Agent
from tests.vm.machine import Card, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Frame, Told

PLAIN, BRIDGED, BONDED, EMULATED = (f"52:54:00:00:00:0{n}" for n in "1234")
ROUNDS = 3

SETUP = """
link set eth0 up
addr add 192.0.2.1/24 dev eth0
addr add 192.0.2.2/24 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
link add link eth0 name eth0.10 type vlan id 10
link set eth0.10 up
addr add 192.0.2.10/28 dev eth0.10
link add link eth0.10 name eth0.10.20 type vlan id 20
link set eth0.10.20 up
addr add 192.0.2.20/28 dev eth0.10.20
link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set eth1 master br0
link set eth1 up
link set br0 up
addr add 198.51.100.1/24 dev br0
addr add 2001:db8:1::1/64 dev br0 nodad
link add bond0 type bond mode active-backup miimon 100
link set eth2 master bond0
link set bond0 up
addr add 203.0.113.1/24 dev bond0
link set eth3 up
addr add 198.18.0.1/24 dev eth3
"""

BY_KERNEL = {
    Told("arp-request", PLAIN, "192.0.2.1"),
    Told("arp-request", PLAIN, "192.0.2.2"),
    Told("unsolicited-na", PLAIN, "2001:db8::1"),
    Told("arp-request", PLAIN, "192.0.2.10", (10,)),
    Told("arp-request", PLAIN, "192.0.2.20", (10, 20)),
}
BY_AGENT_ALONE = {
    Told("arp-request", BRIDGED, "198.51.100.1"),
    Told("unsolicited-na", BRIDGED, "2001:db8:1::1"),
    Told("arp-request", BONDED, "203.0.113.1"),
}
OF_THE_EMULATED_CARD = Told("arp-request", EMULATED, "198.18.0.1")


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    """Three virtio cards (plain, in a bridge, in a bond) and one of real hardware."""
    cards = [
        Card("net0", PLAIN),
        Card("net1", BRIDGED),
        Card("net2", BONDED),
        Card("net3", EMULATED, model="e1000"),
    ]
    with Machine(cards=cards, hint_port=False, kernel="bookworm") as booted:
        booted.insert("bridge", "bonding", "8021q", "e1000")
        for setting in ("all", "default"):
            booted.shell(f"echo 1 > /proc/sys/net/ipv6/conf/{setting}/addr_gen_mode")
            booted.shell(f"echo 0 > /proc/sys/net/ipv6/conf/{setting}/router_solicitations")
        booted.ip(SETUP)
        booted.wait_until(
            lambda: booted.read("/sys/class/net/eth3/operstate").strip() == "up", "eth3 up"
        )
        yield booted


def announce(guest: Machine) -> list[int]:
    """Announces every card; from which frame on each wire has to be looked at."""
    marks = [wire.mark for wire in guest.wires.values()]
    guest.qmp("announce-self", initial=50, max=100, rounds=ROUNDS, step=50)
    return marks


def frames(guest: Machine, marks: list[int]) -> list[Frame]:
    """What has come since, of all cards."""
    wires = zip(guest.wires.values(), marks)
    return [frame for wire, mark in wires for frame in wire.frames[mark:]]


def told(guest: Machine, marks: list[int]) -> set[Told]:
    """What was announced since, by address."""
    return {
        announced
        for frame in frames(guest, marks)
        if (announced := frame.told) and not announced.address.startswith("fe80")
    }


def qemu_has_finished(guest: Machine, marks: list[int]) -> bool:
    """Each card's last RARP is out."""
    rarps = [frame.told for frame in frames(guest, marks) if frame.told]
    macs = (PLAIN, BRIDGED, BONDED, EMULATED)
    return all(rarps.count(Told("rarp", mac, "")) == ROUNDS for mac in macs)


def test_what_qemu_and_the_kernel_cover_alone(guest: Machine) -> None:
    marks = announce(guest)
    PUMP.wait_for(lambda: qemu_has_finished(guest, marks), "the last RARP")
    PUMP.wait_for(lambda: told(guest, marks) >= BY_KERNEL, "the kernel's announcements")
    rest = told(guest, marks) - BY_KERNEL
    assert {announced.kind for announced in rest} == {"rarp"}  # nothing of bridge, bond, e1000


def test_the_agent_covers_the_rest(guest: Machine) -> None:
    agent = Agent(guest).started()
    marks = announce(guest)

    def by_the_agent() -> set[Told | None]:
        """It does not rely on the kernel's announcements, which are not padded."""
        return {frame.told for frame in frames(guest, marks) if frame.padded}

    PUMP.wait_for(lambda: by_the_agent() >= BY_KERNEL | BY_AGENT_ALONE, "all announcements")
    causes = {
        link["interface"]: link["last_burst"]["cause"]
        for link in agent.status()["links"]
        if link["last_burst"]
    }
    stacked = {"eth0", "eth0.10", "eth0.10.20", "br0", "bond0"}
    assert {name for name, cause in causes.items() if cause == "notify-peers"} == stacked
    # No driver tells of an emulated card: the refresh is what covers it.
    assert causes["eth3"] == "start"
    agent.stop()


def test_the_periodic_refresh_covers_a_card_that_nobody_tells_of(guest: Machine) -> None:
    agent = Agent(guest, interval="500ms").started()
    marks = announce(guest)
    PUMP.wait_for(lambda: OF_THE_EMULATED_CARD in told(guest, marks), "the refresh of eth3")
    agent.stop()
