"""Cards that come, go, come back under another index, and change their address."""

from __future__ import annotations

from typing import Any

from tests.vm.agent import Agent
from tests.vm.machine import Card, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Told, Wire

LATE = Card("late", "52:54:00:00:00:09")
OTHER_MAC = "52:54:00:00:00:0a"
ADDRESS = "198.51.100.1"


def configure(guest: Machine) -> None:
    """Gives the new card its address, as a network manager would."""
    PUMP.wait_for(lambda: guest.run("ip", "link", "show", "eth1").status == 0, "eth1", step=0.1)
    guest.ip(f"link set eth1 up\naddr add {ADDRESS}/24 dev eth1")


def wait_for_burst(wire: Wire, mac: str = LATE.mac) -> None:
    """Three rounds of the agent's, by this card."""
    told = Told("arp-request", mac, ADDRESS)
    wire.wait_for(lambda all_told: all_told.count(told) >= 3, f"a burst of {mac}")


def link(agent: Agent, name: str) -> dict[str, Any]:
    """What the agent knows of a link."""
    found: dict[str, Any] = next(e for e in agent.status()["links"] if e["interface"] == name)
    return found


def test_a_card_that_is_plugged_in_out_and_in_again(guest: Machine) -> None:
    guest.ip("link set eth0 up\naddr add 192.0.2.1/24 dev eth0")
    agent = Agent(guest).ready()
    wire = guest.plug_card(LATE)
    configure(guest)
    wait_for_burst(wire)
    before = link(agent, "eth1")

    guest.unplug_card(LATE.name)
    agent.wait_until(lambda status: len(status["links"]) == 2, "its going")

    wire = guest.plug_card(LATE)
    configure(guest)
    wait_for_burst(wire)
    after = link(agent, "eth1")
    assert after["ifindex"] != before["ifindex"]
    assert after["addresses"][0]["dropped"] == {}

    guest.ip(f"link set eth1 address {OTHER_MAC}")
    wait_for_burst(wire, OTHER_MAC)
    since = wire.mark
    agent.process.signal(10)
    wire.wait_for(lambda told: len(told) >= 3, "a burst on demand", since)
    assert {told.mac for told in wire.told(since)} == {OTHER_MAC}
    assert agent.status()["frames"]["dropped"] == {}
    agent.stop()
