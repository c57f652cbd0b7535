"""What counts as an answer to a probe, with the running daemon.

Some stations claim an address again and again, and some switches answer for stations that have
left.  None of them has the address.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, PEER_ADDRESS, PEER_MAC
from tests.netns.agent import Agent, Site, meanwhile, until
from tests.netns.rivals import (
    FREQUENT,
    OTHER_RIVAL,
    RIVAL_MAC,
    answer,
    asked,
    assert_stays_silent,
    claim,
    claim_of,
    claims_of,
    owner,
    started,
    station,
    until_it_yields,
)

EVERYBODY = "ff:ff:ff:ff:ff:ff"
LINK_LOCAL = "fe80::10"


def reply(to: str, pdst: str) -> Packet:
    """Return an ARP reply to all stations, as spoofing tools send it."""
    arp = ARP(op=2, hwsrc=RIVAL_MAC, psrc=GUEST_ADDRESS, hwdst=to, pdst=pdst)
    return Ether(src=RIVAL_MAC, dst=EVERYBODY) / arp


def until_it_is_announced(site: Site, agent: Agent, address: str) -> None:
    """Wait for two frames that claim an address, each after ten claims of another station."""
    for _ in range(2):
        before = agent.status()["conflicts"]
        until(lambda: agent.status()["conflicts"] >= before + 10, "it hears ten more claims")  # noqa: B023
        site.wire.clear()
        until(lambda: claims_of(site, address), "it is announced")


def repeated(site: Site, frame: Packet) -> Callable[[], None]:
    def send() -> None:
        claim(site, frame)
        time.sleep(0.2)

    return send


@pytest.mark.parametrize(
    ("to", "pdst"),
    [
        pytest.param(EVERYBODY, "0.0.0.0", id="everybody"),
        pytest.param("00:00:00:00:00:00", PEER_ADDRESS, id="a neighbour without its MAC"),
        pytest.param(PEER_MAC, PEER_ADDRESS, id="a neighbour"),
    ],
)
def test_arp_replies_to_others_are_no_answers_to_probes(site: Site, to: str, pdst: str) -> None:
    frame = reply(to, pdst)
    with started(site, GUEST_ADDRESS) as agent, meanwhile(repeated(site, frame)):
        agent.wait_for_log("address-conflict", address=GUEST_ADDRESS)
        until_it_is_announced(site, agent, GUEST_ADDRESS)


def test_advertisements_of_a_station_that_answers_no_solicitation_are_no_answers(
    site6: Site,
) -> None:
    site6.guest(f"address add {LINK_LOCAL}/64 dev eth0 nodad")
    frame = claim_of(GUEST_ADDRESS6)
    with started(site6, GUEST_ADDRESS6) as agent, meanwhile(repeated(site6, frame)):
        agent.wait_for_log("address-conflict", address=GUEST_ADDRESS6)
        until_it_is_announced(site6, agent, GUEST_ADDRESS6)


def test_solicitation_comes_from_another_address_and_is_answered_by_the_owner(site6: Site) -> None:
    """The owner is a kernel."""
    site6.guest(f"address add {LINK_LOCAL}/64 dev eth0 nodad")
    with started(site6, GUEST_ADDRESS6) as agent, owner(site6, GUEST_ADDRESS6):
        claim(site6, claim_of(GUEST_ADDRESS6, PEER_MAC))
        until_it_yields(agent, GUEST_ADDRESS6)
        assert_stays_silent(site6, agent, GUEST_ADDRESS6)
        frames = [Ether(frame) for frame in site6.wire.read()]
        probes = [each for each in frames if each.src == GUEST_MAC and ICMPv6ND_NS in each]
        asks = {(each[IPv6].src, asked(each)) for each in probes}
    assert (LINK_LOCAL, GUEST_ADDRESS6) in asks


@pytest.mark.parametrize(
    "stations",
    [
        pytest.param([RIVAL_MAC], id="one station"),
        pytest.param([RIVAL_MAC, OTHER_RIVAL], id="two stations"),
    ],
)
def test_caches_that_answer_for_stations_that_have_left_do_not_withhold_the_address(
    site6: Site, address: str, stations: list[str]
) -> None:
    """Switches answer probes to all from their caches (EVPN); they do not answer for unicast."""
    entries = {address: RIVAL_MAC}

    def react(packet: Packet) -> list[Packet]:
        wanted = asked(packet)
        if not wanted and address in (packet.sprintf("%ARP.psrc%"), packet.sprintf("%IPv6.src%")):
            entries[address] = GUEST_MAC
        to_all = int(packet.dst[:2], 16) & 1
        is_cached = wanted == address and to_all and entries[address] == RIVAL_MAC
        return [answer(packet, mac) for mac in stations] if is_cached else []

    with station(site6, react), site6.start(config=FREQUENT, wait=False) as agent:
        until(lambda: entries[address] == GUEST_MAC, "an announcement corrects the cache")
        until(lambda: agent.claims(address), "the address is no longer withheld")
