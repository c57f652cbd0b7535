"""Rivals that meet other events, with the running daemon: reloads, stops, addresses that return.

tests/guest/core/test_conflict_histories.py has more of them, without a network.
"""

from __future__ import annotations

import threading
import time

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bench.lab import GUEST_ADDRESS, GUEST_MAC, PEER_MAC
from garp_agent.guest.core.rival import PROBES
from tests.netns.agent import Site, meanwhile, until
from tests.netns.rivals import (
    FREQUENT,
    NO_REFRESH,
    OTHER_RIVAL,
    RIVAL_MAC,
    answer,
    asked,
    assert_stays_silent,
    burst_is_over,
    claim,
    claim_of,
    claims_of,
    has,
    kinds,
    owner,
    started,
    station,
    until_it_yields,
)


def length(address: str) -> int:
    return 64 if ":" in address else 24


# -- more than one rival, claims that wait ---------------------------------------------


def test_station_that_was_silent_gets_the_address_after_a_rival_that_answered(
    site6: Site, address: str
) -> None:
    with started(site6, address) as agent:
        claim(site6, claim_of(address, OTHER_RIVAL))
        agent.wait_for_log("address-conflict-over", address=address)
        with station(site6, has(address)):
            claim(site6, claim_of(address))
            until_it_yields(agent, address, mac=RIVAL_MAC)
        with station(site6, has(address, OTHER_RIVAL)):
            claim(site6, claim_of(address, OTHER_RIVAL))
            until_it_yields(agent, address, mac=OTHER_RIVAL)
            assert_stays_silent(site6, agent, address)


def test_address_added_again_while_a_claim_waits_for_its_check_is_left_to_its_owner(
    site6: Site, address: str
) -> None:
    with started(site6, address) as agent:
        claim(site6, claim_of(address))
        agent.wait_for_log("address-conflict-over", address=address)
        before = agent.status()["conflicts"]
        with owner(site6, address):
            claim(site6, claim_of(address, PEER_MAC))
            until(lambda: agent.status()["conflicts"] > before, "the claim is heard")
            site6.guest(f"address del {address}/{length(address)} dev eth0")
            site6.guest(f"address add {address}/{length(address)} dev eth0 nodad")
            until_it_yields(agent, address)
            assert_stays_silent(site6, agent, address)


def test_each_claim_of_a_silent_station_is_followed_by_an_announcement(
    site6: Site, address: str
) -> None:
    """No refresh is near, and others may have believed the claim."""
    with started(site6, address) as agent:
        until(lambda: burst_is_over(agent), "the frames of the start are sent")
        threading.Event().wait(1.2)  # so that its first claim cannot be an echo of those
        claim(site6, claim_of(address))
        agent.wait_for_log("address-conflict-over", address=address)
        for count in (1, 2):
            until(lambda: claims_of(site6, address), f"it is announced after claim {count}")
            until(lambda: burst_is_over(agent), "the burst is over")
            site6.wire.clear()
            claim(site6, claim_of(address))
        until(lambda: claims_of(site6, address), "it is announced after the last claim")


@pytest.mark.parametrize("op", [1, 2], ids=["requests", "replies"])
def test_gratuitous_frames_of_a_station_that_never_answers_end_no_announcements(
    site: Site, op: int
) -> None:
    """As `arping -U` and `arping -A` send them: none of these is the answer to a probe."""

    def forge() -> None:
        claim(site, claim_of(GUEST_ADDRESS, op=op))
        time.sleep(0.2)

    with started(site, GUEST_ADDRESS, FREQUENT) as agent, meanwhile(forge):
        agent.wait_for_log("address-conflict", address=GUEST_ADDRESS)
        for _ in range(3):
            site.wire.clear()
            until(lambda: claims_of(site, GUEST_ADDRESS), "it is announced")
            before = agent.status()["conflicts"]
            until(lambda: agent.status()["conflicts"] >= before + 10, "it hears ten more claims")  # noqa: B023


# -- stops and reloads ----------------------------------------------------------------


def test_guest_that_is_stopped_during_a_check_leaves_the_address_to_its_new_owner(
    site6: Site, address: str
) -> None:
    with started(site6, address, FREQUENT) as agent:
        site6.wire.clear()
        claim(site6, claim_of(address))

        def is_last_probe_sent() -> bool:
            return list(map(asked, map(Ether, site6.wire.read()))).count(address) >= PROBES

        until(is_last_probe_sent, "the last probe of the check is sent")
        with agent.stopped(), owner(site6, address):
            threading.Event().wait(2.0)  # longer than an interval and a second: this is a resume
            site6.wire.clear()
        until_it_yields(agent, address)
        agent.send_more(20)
        assert claims_of(site6, address) == []


def test_policy_that_becomes_yield_gives_way_to_a_rival_that_is_known(
    site6: Site, address: str
) -> None:
    warn = NO_REFRESH + "conflict: {policy: warn}\n"
    with site6.start_without_refresh(config=warn) as agent, owner(site6, address):
        claim(site6, claim_of(address, PEER_MAC))
        agent.wait_for_log("address-conflict", address=address)
        assert agent.claims(address)
        agent.reload(NO_REFRESH)
        until_it_yields(agent, address)
        assert_stays_silent(site6, agent, address)


def test_rival_that_a_reload_ignores_no_longer_withholds_the_address(
    site6: Site, address: str
) -> None:
    config = NO_REFRESH + "conflict: {hold_off: 1h}\n"
    with (
        started(site6, address, config) as agent,
        station(site6, has(address)),
    ):
        claim(site6, claim_of(address))
        until_it_yields(agent, address, mac=RIVAL_MAC)
        site6.wire.clear()
        agent.reload(config.replace("1h", f"1h, ignore: ['{RIVAL_MAC}']"))
        until(lambda: claims_of(site6, address), "it is announced again")
        assert agent.claims(address)


# -- many addresses, proxies ----------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 3])
def test_proxy_that_misses_one_probe_of_a_test_is_found_by_the_next_test(
    site6: Site, address: str, lost: int
) -> None:
    tests: list[str] = []

    def react(packet: Packet) -> list[Packet]:
        wanted = asked(packet)
        if wanted and wanted != address:
            tests.append(wanted)
            if len(tests) == lost:
                return []
        return [answer(packet)] if wanted else []

    with started(site6, address) as agent, station(site6, react):
        claim(site6, claim_of(address))
        until(lambda: len(tests) > lost, "it is tested")
        agent.wait_for_log("answers-for-everything", hardware_address=RIVAL_MAC)
        until(lambda: agent.claims(address), "it is announced again")


def test_addresses_of_a_rival_that_leaves_are_announced_again(site: Site) -> None:
    mine = [f"192.0.2.{n}" for n in range(101, 113)]
    site.guest(*(f"address add {each}/24 dev eth0" for each in mine))
    with started(site, mine[-1]) as agent:
        site.lab.ip("peer", *(f"address add {each}/24 dev eth0" for each in mine))
        claim(site, *(claim_of(each, PEER_MAC) for each in mine))
        for each in mine:
            until_it_yields(agent, each)
        site.wire.clear()
        site.lab.ip("peer", *(f"address del {each}/24 dev eth0" for each in mine))
        for each in mine:
            until(lambda address=each: claims_of(site, address), f"{each} is announced again")


def test_flood_of_claims_soon_after_the_start_leaves_tokens_for_announcements(site: Site) -> None:
    mine = [f"192.0.2.{n}" for n in range(101, 151)]
    site.guest(*(f"address add {each}/24 dev eth0" for each in mine))
    flood = iter(range(1 << 24))

    def forge() -> None:
        for each in mine:
            mac = "02:01:00:" + next(flood).to_bytes(3, "big").hex(":")
            claim(site, claim_of(each, mac))

    with site.start(config="interval: 1s\n") as agent:
        site.wire.clear()
        with meanwhile(forge):
            agent.send_more(150)
        sent = [
            kind
            for packet in map(Ether, site.wire.read())
            if packet.src == GUEST_MAC
            for kind in kinds([packet])
        ]
    assert sent.count("claim") > sent.count("probe") / 10
