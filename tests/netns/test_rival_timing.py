"""Claims, answers, reloads and flaps at awkward moments of a check, with the running daemon.

A machine that is busy can miss the moment of a test.  Then the history is another one, and the test
finds nothing; it never fails for that.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bench.lab import GUEST_ADDRESS, GUEST_MAC, PEER_MAC
from garp_agent.guest.core.rival import PROBES
from tests.netns.agent import QUIET, Agent, Capture, Site, announced, meanwhile, until
from tests.netns.rivals import (
    FREQUENT,
    OTHER_RIVAL,
    answer,
    asked,
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


def own_frames(packets: Iterable[Packet], address: str) -> list[Packet]:
    """Return the frames with which the agent asked for an address or announced it."""
    return [
        packet
        for packet in packets
        if packet.src == GUEST_MAC and address in (asked(packet), announced(packet))
    ]


def around_claim(wire: Capture, mac: str) -> tuple[list[str], list[str]]:
    """Return the kinds of the agent's frames before and after the first claim of a station."""
    packets = [Ether(frame) for frame in wire.read()]
    claims = [
        n for n, each in enumerate(packets) if (each.src, announced(each)) == (mac, GUEST_ADDRESS)
    ]
    at = claims[0] if claims else len(packets)
    before, after = own_frames(packets[:at], GUEST_ADDRESS), own_frames(packets[at:], GUEST_ADDRESS)
    return kinds(before), kinds(after)


# -- claims at the end of a check -----------------------------------------------------


def after_the_last_probe(act: Callable[[], None]) -> Callable[[Packet], list[Packet]]:
    """Return how a station reacts that calls `act` when the last probe of a check has come."""
    probes: list[Packet] = []

    def react(packet: Packet) -> list[Packet]:
        if asked(packet) == GUEST_ADDRESS:
            probes.append(packet)
            if len(probes) == PROBES:
                act()
        return []

    return react


@contextmanager
def watched(site: Site) -> Iterator[tuple[Agent, Capture]]:
    """Yield an agent whose start is over, and the frames at its own link."""
    with (
        started(site, GUEST_ADDRESS, QUIET) as agent,
        Capture(site.lab, "guest", both=True) as wire,
    ):
        until(lambda: burst_is_over(agent), "the frames of the start are sent")
        yield agent, wire


def test_station_that_claims_the_address_after_the_last_probe_of_a_check_is_asked(
    site: Site,
) -> None:
    """An IPv6 claim has the form of an answer to that probe."""

    def take() -> None:
        site.lab.ip("peer", f"address add {GUEST_ADDRESS}/24 dev eth0")  # its kernel answers
        claim(site, claim_of(GUEST_ADDRESS, PEER_MAC))

    with watched(site) as (agent, wire):
        with station(site, after_the_last_probe(take)):
            wire.clear()
            claim(site, claim_of(GUEST_ADDRESS))
            # The probe that asks it, and those after its answers.
            until(
                lambda: (after := around_claim(wire, PEER_MAC)[1])[2:] or "claim" in after,
                "three probes or an announcement follow",
            )
        before, after = around_claim(wire, PEER_MAC)
        assert "claim" in before or "claim" not in after
        until_it_yields(agent, GUEST_ADDRESS)


def test_station_that_claimed_the_address_too_late_to_be_asked_is_not_known_as_silent(
    site: Site,
) -> None:
    """The next claim of a silent station is followed by one probe only."""

    def forge() -> None:
        claim(site, *(claim_of(GUEST_ADDRESS, mac) for mac in ("02:00:5e:00:53:68", OTHER_RIVAL)))

    with watched(site) as (agent, wire):
        with station(site, after_the_last_probe(forge)):
            wire.clear()
            claim(site, claim_of(GUEST_ADDRESS))
            until(lambda: around_claim(wire, OTHER_RIVAL)[1], "it is announced again")
        before, after = around_claim(wire, OTHER_RIVAL)
        assert "claim" in before or after[0] == "claim"
        until(lambda: burst_is_over(agent), "the burst is over")
        wire.clear()
        claim(site, claim_of(GUEST_ADDRESS, OTHER_RIVAL))
        until(lambda: "claim" in around_claim(wire, OTHER_RIVAL)[1], "it is announced once more")
        after = around_claim(wire, OTHER_RIVAL)[1]
        assert "claim" in before or after[:PROBES] == ["probe"] * PROBES


# -- addresses that come later than their link ----------------------------------------


@pytest.mark.parametrize("new", ["192.0.2.77/24", "2001:db8::77/64"], ids=["IPv4", "IPv6"])
def test_refreshes_of_an_address_that_comes_soon_after_its_link_notice_an_owner(
    site6: Site, new: str
) -> None:
    """A network manager adds addresses when the carrier is there; another guest may have them."""
    address = new.partition("/")[0]
    with started(site6, GUEST_ADDRESS, FREQUENT) as agent:
        site6.guest("link set eth0 down")
        until(lambda: not agent.announced(), "the link is down")
        site6.guest("link set eth0 up")
        until(agent.announced, "the link is up")
        with owner(site6, address):
            site6.guest(f"address add {new} dev eth0{' nodad' * (':' in address)}")
            until_it_yields(agent, address)


# -- reloads --------------------------------------------------------------------------

SO_TIMESTAMPNS = 35
LEAST = 0.7  # seconds; a check takes 0.75 s, with 0.25 s for each answer


def timed(sock: socket.socket) -> list[tuple[Packet, float]]:
    """Return the frames that wait at a socket, and when each came; seconds."""
    found: list[tuple[Packet, float]] = []
    while True:
        try:
            frame, ancillary, _flags, _sender = sock.recvmsg(2048, 256)
        except BlockingIOError:
            return found
        ((_level, _type, data),) = ancillary
        seconds, nanoseconds = memoryview(data).cast("l")
        found.append((Ether(frame), seconds + nanoseconds / 1e9))


def most_at_once(frames: list[tuple[Packet, float]], address: str) -> int:
    """Return the most probes and claims for an address in LEAST, up to the first claim.

    A busy machine makes them fewer.
    """
    times = []
    for packet, at in frames:
        if own_frames([packet], address):
            times.append(at)
            if kinds([packet]) == ["claim"]:
                break
    return max(sum(1 for later in times if 0.0 <= later - at < LEAST) for at in times)


def test_reloads_do_not_hurry_the_probes_for_the_address_of_a_rival_that_answered(
    site6: Site, address: str
) -> None:
    """Each of them would have less time for its answer."""
    answered: list[Packet] = []

    def react(packet: Packet) -> list[Packet]:
        answers = has(address)(packet)
        answered.extend(answers)
        return answers

    def reload() -> None:
        before = len(agent.log("configuration-loaded"))
        agent.reload(QUIET)
        agent.wait_for_log("configuration-loaded", count=before + 1)

    with site6.lab.packet_socket("peer", "eth0") as sock:
        # Long before they count: the kernel begins with timestamps some time after this.
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with started(site6, address, QUIET) as agent:
            with station(site6, react):
                claim(site6, claim_of(address))
                until(lambda: answered, "it is answered")
            sock.setblocking(False)
            timed(sock)
            site6.wire.clear()
            with meanwhile(reload):
                until(lambda: claims_of(site6, address), "it is announced again")
            assert most_at_once(timed(sock), address) <= PROBES


# -- tests of proxies -----------------------------------------------------------------


def is_known_as_proxy(agent: Agent) -> bool:
    return bool(agent.status()["answer_for_everything"])


def test_proxy_whose_test_a_flap_interrupts_is_found_soon_after(site: Site) -> None:
    """Probes of the test wait for the token bucket when the link goes down."""
    slow = QUIET + "rate_limit: {frames_per_second: 2, depth: 2}\nconflict: {hold_off: 4s}\n"
    wanted: list[str] = []

    def react(packet: Packet) -> list[Packet]:
        if not asked(packet):
            return []
        wanted.append(asked(packet))
        return [answer(packet)]

    with started(site, GUEST_ADDRESS, slow) as agent, station(site, react):
        claim(site, claim_of(GUEST_ADDRESS))
        until(lambda: set(wanted) - {GUEST_ADDRESS}, "its test begins")
        site.guest("link set eth0 down")
        until(lambda: not agent.announced(), "the link is down")
        wanted.clear()
        site.guest("link set eth0 up")
        # One probe a second looks for the rival.
        until(
            lambda: is_known_as_proxy(agent) or wanted.count(GUEST_ADDRESS) > 25,
            "it is found, or looked for many times",
        )
        assert is_known_as_proxy(agent)
        until(lambda: agent.claims(GUEST_ADDRESS), "the address is announced again")


@pytest.mark.parametrize("delay", [1.2, 2.2])
def test_proxy_that_answers_late_for_others_is_found(site: Site, delay: float) -> None:
    """The first test of a station waits one second, the others three."""

    def react(packet: Packet) -> list[Packet]:
        return [] if asked(packet) in ("", GUEST_ADDRESS) else [answer(packet)]

    with (
        started(site, GUEST_ADDRESS, QUIET) as agent,
        station(site, has(GUEST_ADDRESS)),
        station(site, react, delay),
    ):
        claim(site, claim_of(GUEST_ADDRESS))
        until(lambda: is_known_as_proxy(agent), "it is found")
        until(lambda: agent.claims(GUEST_ADDRESS), "the address is announced again")


def test_forged_claims_beside_the_answer_of_one_station_start_no_tests_of_their_stations(
    site6: Site, address: str
) -> None:
    """The agent reads them in one turn."""
    forged = [claim_of(address, f"02:01:00:00:00:{n:02x}") for n in range(15)]
    with started(site6, address, QUIET) as agent:
        until(lambda: burst_is_over(agent), "the frames of the start are sent")
        site6.wire.clear()
        claim(site6, claim_of(address))
        probes = until(lambda: own_frames(map(Ether, site6.wire.read()), address), "it is probed")
        with agent.stopped():
            claim(site6, answer(probes[0]), *forged)
        agent.wait_for_log("address-conflict-over", address=address)
        # Three near addresses and a far one: for the station, and for one that may have answered.
        assert agent.sent_by("proxy-test") <= 8
