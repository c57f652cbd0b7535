"""Claims that are no conflicts, and guests that were away: with real frames and neighbour tables.

The stations that answer or repeat what they should not are threads with a packet socket, because
no kernel here does what they do.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench.lab import FIRST_INDEX, GUEST_ADDRESS, GUEST_MAC, PEER_MAC
from tests.netns.agent import (
    NEW_MAC,
    Site,
    announced,
    gratuitous,
    until,
)
from tests.netns.rivals import (
    FREQUENT,
    NO_REFRESH,
    RIVAL_MAC,
    answer,
    asked,
    burst_is_over,
    claim,
    claim_of,
    kinds,
    owner,
    started,
    station,
    until_it_yields,
)


def send(sock: socket.socket, frame: bytes) -> None:
    """Send a frame of a flood: again if a busy kernel has not taken those before it."""
    while True:
        try:
            sock.send(frame)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(0.001)


# -- claims without a rival -----------------------------------------------------------


def test_forged_claim_withholds_the_address_for_three_probes_only(
    site6: Site, address: str
) -> None:
    with started(site6, address) as agent:
        until(lambda: burst_is_over(agent), "the frames of the start are sent")
        site6.wire.clear()
        claim(site6, claim_of(address))
        agent.wait_for_log("address-conflict-over", address=address)
        until(
            lambda: agent.sent_by("address-added") and burst_is_over(agent), "it is announced again"
        )
        packets = [Ether(frame) for frame in site6.wire.read()]
        ours = [p for p in packets if p.src == GUEST_MAC and address in (asked(p), announced(p))]
        assert kinds(ours)[:3] == ["probe"] * 3
        # A busy machine misses rounds of the burst.
        assert kinds(ours)[3:] in (["claim"] * rounds for rounds in (1, 2, 3))


def test_claims_of_a_forger_that_never_answers_do_not_stop_announcements(site: Site) -> None:
    with started(site, GUEST_ADDRESS, FREQUENT) as agent:
        for round in range(4):
            claim(site, claim_of(GUEST_ADDRESS))
            heard = round + 1
            until(lambda count=heard: agent.status()["conflicts"] >= count, "the claim is heard")
            until(lambda: agent.claims(GUEST_ADDRESS), "it is announced")
            site.wire.clear()
            until(
                lambda: "claim" in kinds(site.wire.announcements(GUEST_ADDRESS)),
                "the peer hears an announcement",
            )


@pytest.mark.parametrize(
    "sender",
    ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", GUEST_MAC, "02:aa:bb:00:00:01"],
)
def test_claim_of_a_sender_that_is_no_station_or_ignored_is_no_conflict(
    site: Site, sender: str
) -> None:
    config = NO_REFRESH + 'conflict: {ignore: ["02:aa:*"]}\n'
    with started(site, GUEST_ADDRESS, config) as agent:
        claim(site, claim_of(GUEST_ADDRESS, sender), claim_of(GUEST_ADDRESS))
        agent.wait_for_log("address-conflict", claimed_by=RIVAL_MAC)
        assert agent.status()["conflicts"] == 1
        assert len(agent.log("address-conflict")) == 1


def test_claim_of_the_guests_former_hardware_address_is_no_conflict(site: Site) -> None:
    """A late frame, or the cache of a switch that answers for hosts."""
    with started(site, GUEST_ADDRESS) as agent:
        site.guest(f"link set eth0 address {NEW_MAC}")
        agent.wait_for_log("hardware-address-changed")
        claim(site, claim_of(GUEST_ADDRESS, GUEST_MAC), claim_of(GUEST_ADDRESS))
        agent.wait_for_log("address-conflict", claimed_by=RIVAL_MAC)
        assert agent.status()["conflicts"] == 1


def test_station_that_answers_for_everything_is_named_and_ignored(
    site6: Site, address: str
) -> None:
    """Proxy ARP, an ND proxy, client isolation, a switch that answers for hosts."""

    def react(packet: Packet) -> list[Packet]:
        return [answer(packet)] if asked(packet) else []

    with started(site6, address) as agent, station(site6, react):
        claim(site6, claim_of(address))
        agent.wait_for_log("answers-for-everything", hardware_address=RIVAL_MAC)
        until(lambda: agent.claims(address), "it is announced again")
        claim(site6, claim_of(address))
        agent.burst()
        assert agent.claims(address)
        (found,) = agent.status()["answer_for_everything"]
        assert (found["interface"], found["hardware_address"]) == ("eth0", RIVAL_MAC)


@pytest.mark.parametrize("length", [24, 26, 28])
@pytest.mark.parametrize("part", ["whole", "half"])
def test_station_that_has_the_whole_network_is_a_proxy_and_one_that_has_half_of_it_is_not(
    site: Site, length: int, part: str
) -> None:
    """The peer's kernel answers for all addresses of a local route."""
    site.guest(
        f"address del {GUEST_ADDRESS}/24 dev eth0", f"address add {GUEST_ADDRESS}/{length} dev eth0"
    )
    with started(site, GUEST_ADDRESS) as agent:
        half = {24: "0/25", 26: "0/27", 28: "8/29"}[length]
        answers = half if part == "half" else f"0/{length}"
        site.lab.ip("peer", f"route add local 192.0.2.{answers} dev eth0")
        claim(site, claim_of(GUEST_ADDRESS, PEER_MAC))
        until_it_yields(agent, GUEST_ADDRESS)
        if part == "whole":
            agent.wait_for_log("answers-for-everything", hardware_address=PEER_MAC)
            until(lambda: agent.claims(GUEST_ADDRESS), "it is announced again")
        else:
            until(lambda: agent.sent_by("proxy-test") >= 4, "the test is over")
            agent.send_more(4)
            assert agent.status()["answer_for_everything"] == []
            assert not agent.claims(GUEST_ADDRESS)


def test_repeater_of_our_frames_under_its_hardware_address_is_no_rival(site: Site) -> None:
    """An access point, or NAT for hardware addresses."""

    def react(packet: Packet) -> list[Packet]:
        echo = packet.copy()
        echo.src = RIVAL_MAC
        if ARP in echo:
            echo[ARP].hwsrc = RIVAL_MAC
        return [echo]

    with station(site, react), site.start(config=FREQUENT) as agent:
        agent.wait_for_log("address-conflict-over")
        before = agent.status()["conflicts"]
        until(lambda: agent.status()["conflicts"] >= before + 20, "twenty more echoes are heard")
        assert agent.claims(GUEST_ADDRESS)
        assert len(agent.log("address-conflict-over")) == 1


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xff" * 13, b"odd\xc3"])
def test_claim_on_a_link_whose_name_is_not_utf8_is_a_conflict_there(
    site6: Site, name: bytes
) -> None:
    other, other6, text = "198.51.100.7", "2001:db8:7::7", os.fsdecode(name)
    site6.add_link(text, other)
    site6.lab.run("guest", ["ip", "address", "add", f"{other6}/64", "dev", text, "nodad"])
    with site6.start() as agent, site6.lab.packet_socket("guest", other) as wire:
        until(lambda: {other, other6} <= agent.announced(text), "both are announced")
        for address in (other, other6):
            wire.send(bytes(claim_of(address)))
            agent.wait_for_log("address-conflict", interface=text, address=address)
        claim(site6, claim_of(GUEST_ADDRESS))
        agent.wait_for_log("address-conflict", interface="eth0", address=GUEST_ADDRESS)
        assert agent.status()["conflicts"] == 3


# -- guests that were away ------------------------------------------------------------


def test_agent_started_while_another_station_has_the_address_never_claims_it(
    site6: Site, address: str
) -> None:
    with owner(site6, address), site6.start(config=FREQUENT) as agent:
        until_it_yields(agent, address)
        agent.send_more(20)
        assert "claim" not in kinds(site6.wire.announcements(address))


@pytest.mark.parametrize("what", ["cable", "stopped"])
def test_guest_that_was_away_leaves_the_address_to_the_station_that_has_it_now(
    site: Site, what: str
) -> None:
    with started(site, GUEST_ADDRESS, FREQUENT) as agent:
        if what == "cable":
            site.lab.ip("peer", "link set eth0 down")
            until(lambda: not agent.announced(), "the carrier is lost")
            site.lab.ip("peer", f"address add {GUEST_ADDRESS}/24 dev eth0")
            site.wire.clear()
            site.lab.ip("peer", "link set eth0 up")
            until(agent.announced, "the carrier is back")
        else:
            with agent.stopped():
                site.lab.ip("peer", f"address add {GUEST_ADDRESS}/24 dev eth0")
                # Longer than an interval and a second: the next turn counts as a resume.
                threading.Event().wait(2.0)
                site.wire.clear()
        until_it_yields(agent, GUEST_ADDRESS)
        agent.send_more(20)
        assert "claim" not in kinds(site.wire.announcements(GUEST_ADDRESS))


def test_address_added_again_while_its_rival_is_there_is_not_announced(
    site6: Site, address: str
) -> None:
    """As `netplan apply` does."""
    length = 64 if ":" in address else 24
    with started(site6, address, FREQUENT) as agent, owner(site6, address):
        claim(site6, claim_of(address, PEER_MAC))
        until_it_yields(agent, address)
        site6.guest(f"address del {address}/{length} dev eth0")
        until(lambda: address not in agent.announced(), "the address is gone")
        site6.wire.clear()
        site6.guest(f"address add {address}/{length} dev eth0{' nodad' * (length == 64)}")
        until_it_yields(agent, address)
        agent.send_more(20)
        assert "claim" not in kinds(site6.wire.announcements(address))


def test_station_that_was_silent_gets_the_address_when_it_answers(
    site6: Site, address: str
) -> None:
    """Each answer comes within a second of an announcement, and could be its echo."""
    with started(site6, address, FREQUENT) as agent:
        claim(site6, claim_of(address, PEER_MAC))
        agent.wait_for_log("address-conflict-over", address=address)
        with owner(site6, address):
            claim(site6, claim_of(address, PEER_MAC))
            until_it_yields(agent, address)
            site6.wire.clear()
            agent.send_more(20)
            assert "claim" not in kinds(site6.wire.announcements(address))


def test_withheld_address_that_moves_to_another_link_at_once_is_not_announced(
    site6: Site, address: str
) -> None:
    prefix, nodad = ("64", " nodad") if ":" in address else ("24", "")
    # The lower index: the agent looks at this link first.
    site6.guest(f"link add macvlan0 index {FIRST_INDEX - 1} up link eth0 type macvlan mode bridge")
    with started(site6, address, FREQUENT) as agent, owner(site6, address):
        claim(site6, claim_of(address, PEER_MAC))
        until_it_yields(agent, address)
        with agent.stopped():
            site6.guest(
                f"address del {address}/{prefix} dev eth0",
                f"address add {address}/{prefix} dev macvlan0{nodad}",
            )
            site6.wire.clear()
        until_it_yields(agent, address, "macvlan0")
        agent.send_more(20)
        assert "claim" not in kinds(site6.wire.announcements(address))


# -- many addresses and claims --------------------------------------------------------


def test_more_addresses_than_the_filter_takes_are_logged_once(site: Site) -> None:
    with started(site, GUEST_ADDRESS) as agent:
        site.guest(*(f"address add 10.{n >> 8}.{n & 255}.1/32 dev eth0" for n in range(2100)))
        line = agent.wait_for_log("claims-unheard")
        until(lambda: len(agent.announced()) == 2101, "all addresses are announced")
        assert int(line["addresses"]) >= 1
        assert len(agent.log("claims-unheard")) == 1


# -- what a receiver counts -----------------------------------------------------------

SO_TIMESTAMPNS = 35


def most_in_a_second(sockets: list[socket.socket]) -> int:
    """Return the most frames of the guest in any second, by the kernel's receive timestamps."""
    times = []
    for sock in sockets:
        sock.setblocking(False)
        while True:
            try:
                frame, ancillary, _flags, sender = sock.recvmsg(2048, 256)
            except BlockingIOError:
                break
            # A guest that joins a multicast group says so, too.
            if sender[2] != socket.PACKET_OUTGOING and announced(Ether(frame)):
                ((_level, _type, data),) = ancillary
                seconds, nanoseconds = memoryview(data).cast("l")
                times.append(seconds + nanoseconds / 1e9)
    times.sort()
    return max(
        (sum(1 for later in times[at:] if later < first + 1.0) for at, first in enumerate(times)),
        default=0,
    )


def timestamped(site: Site, link: str) -> socket.socket:
    sock = site.lab.packet_socket("peer", link)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return sock


@pytest.mark.parametrize("claims", [0, 3000])
def test_receiver_counts_at_most_14_frames_in_any_second_on_each_of_6_links(
    site: Site, claims: int
) -> None:
    names = [f"e{n}" for n in range(6)]
    site.lab.wire(*(("guest", name, "peer", name) for name in names))
    for n, name in enumerate(names):
        items = [f"10.{n}.0.{host}/24" for host in range(1, 15)]
        site.lab.host("guest", name, f"02:00:5e:00:54:{n:02x}", *items)
        site.lab.host("peer", name, f"02:00:5e:00:55:{n:02x}")
    site.lab.wait_until_up("guest", "peer")
    sockets = [timestamped(site, name) for name in names]
    with site.start(config="interval: 1s\n") as agent:
        agent.send_more(200)
        before = agent.sent()
        for n in range(claims):
            forged = f"02:ee:00:00:{n >> 8:02x}:{n & 255:02x}"
            frame = bytes(gratuitous(forged, f"10.{n % 6}.0.{1 + n // 6 % 14}"))
            send(sockets[n % 6], frame)
        for _ in range(5):
            agent.burst()
        until(lambda: agent.sent() >= before + 300, "300 more frames")
    for sock in sockets:
        assert 10 <= most_in_a_second([sock]) <= 14
        sock.close()


def test_macvlans_of_one_nic_send_at_most_14_frames_in_any_second_together(site: Site) -> None:
    for n in range(50):
        site.guest(
            f"link add mv{n} link eth0 type macvlan mode bridge",
            f"address add 10.9.{n}.1/24 dev mv{n}",
            f"link set mv{n} up",
        )
    site.lab.wait_until_up("guest")
    with site.start(config=NO_REFRESH) as agent:
        until(lambda: agent.sent_by("start") >= 102, "each is announced")
        # An address that waits for its last round would not be counted for the operator.
        names = ["eth0", *(f"mv{n}" for n in range(50))]
        until(
            lambda: all(burst_is_over(agent, name) for name in names),
            "the bursts of the start are over",
        )
        sock = timestamped(site, "eth0")
        agent.burst()
        until(lambda: agent.sent_by("operator") >= 51, "every macvlan has announced")
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


def test_links_joined_to_a_nic_by_veth_pairs_send_at_most_14_frames_in_any_second_together(
    site: Site,
) -> None:
    site.guest(
        "link add br0 type bridge forward_delay 0",
        "link set br0 up",
        "link add mv0 link eth0 type macvlan mode bridge",
        "link set mv0 master br0 up",
    )
    for n in range(4):
        site.guest(
            f"link add v{n} type veth peer name p{n}",
            f"link set v{n} master br0 up",
            f"link set p{n} up",
            *(f"address add 10.9.{n}.{host}/24 dev p{n}" for host in range(1, 15)),
        )
    site.lab.wait_until_up("guest")
    with site.start(config=NO_REFRESH) as agent:
        sock = timestamped(site, "eth0")
        agent.burst()
        agent.send_more(60)
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


@pytest.mark.parametrize("index", [FIRST_INDEX + 50, FIRST_INDEX + 90])
@pytest.mark.parametrize("change", ["deleted", "left", "joined"])
def test_nic_whose_bridge_changes_sends_at_most_14_frames_in_any_second(
    site: Site, change: str, index: int
) -> None:
    """The addresses follow the wire: from the bridge to its port, or the other way."""
    port = f"port0 index {FIRST_INDEX + 70}"
    site.lab.ip("peer", "link add w0 type veth peer name w1", "link set w0 up", "link set w1 up")
    site.lab.ip("peer", "link add m0 link w1 type macvlan mode passthru")
    site.lab.ip("peer", f"link set m0 netns {site.lab.namespace('guest')} name {port}")
    site.guest("link set port0 up", f"link add br7 index {index} up type bridge forward_delay 0")
    bridge, nic = (
        [f"address add 10.{net}.0.{n}/24 dev {name}" for n in range(1, 15)]
        for net, name in ((1, "br7"), (2, "port0"))
    )
    last = "br7" if change == "joined" else "port0"
    if change == "joined":
        begin, steps = nic, ["link set port0 master br7", *bridge]
    else:
        begin = ["link set port0 master br7", *bridge]
        steps = ["link del br7" if change == "deleted" else "link set port0 nomaster", *nic]
    site.guest(*begin)
    sock = timestamped(site, "w0")
    with site.start(config=NO_REFRESH + "conflict: {policy: warn}\n", wait=False) as agent:
        agent.wait_for_log("burst")
        agent.send_more(8)
        site.guest(*steps)
        until(lambda: len(agent.announced(last)) == 14, "every address has followed")
        until(lambda: burst_is_over(agent, last), "they have been announced")
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


def test_nic_that_comes_back_right_after_a_burst_sends_at_most_14_frames_in_any_second(
    site: Site,
) -> None:
    """As when its driver is bound anew: the same wire and hardware address, another ifindex."""
    add = f"link add link w1 name m0 address {NEW_MAC} type macvlan mode bridge"
    move = f"link set m0 netns {site.lab.namespace('guest')} name nic0"
    use = ["link set nic0 up", *(f"address add 10.2.0.{n}/24 dev nic0" for n in range(1, 15))]
    site.lab.ip("peer", "link add w0 type veth peer name w1", "link set w0 up", "link set w1 up")
    site.lab.ip("peer", add, move)
    site.guest(*use)
    sock = timestamped(site, "w0")
    with site.start(config=NO_REFRESH + "conflict: {policy: warn}\n", wait=False) as agent:
        agent.wait_for_log("burst")
        agent.send_more(8)
        site.guest("link del nic0")
        site.lab.ip("peer", add, move)
        site.guest(*use)
        until(lambda: len(agent.announced("nic0")) == 14, "every address is back")
        until(lambda: burst_is_over(agent, "nic0"), "they have been announced")
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


def test_agent_restarted_right_after_a_burst_sends_at_most_14_frames_in_any_second(
    site: Site,
) -> None:
    site.guest(*(f"address add 10.1.0.{n}/24 dev eth0" for n in range(1, 14)))
    sock = timestamped(site, "eth0")
    for _ in range(3):
        with site.start(config=NO_REFRESH) as agent:
            until(lambda agent=agent: burst_is_over(agent), "the burst of the start is over")
            agent.burst()
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


def test_links_of_a_container_on_one_nic_of_its_host_send_at_most_14_frames_in_any_second_together(
    site: Site,
) -> None:
    guest = site.lab.namespace("guest")
    site.lab.ip("peer", "link add w0 type veth peer name x0", "link set w0 up", "link set x0 up")
    for n in range(6):
        site.lab.ip(
            "peer",
            f"link add link x0 name m{n} type macvlan mode bridge",
            f"link set m{n} netns {guest}",
        )
        site.guest(
            f"link set m{n} address 02:00:5e:00:55:{n:02x} up",
            *(f"address add 10.9.{n}.{host}/24 dev m{n}" for host in range(1, 15)),
        )
    site.lab.wait_until_up("guest")
    with site.start(config=NO_REFRESH) as agent:
        sock = timestamped(site, "w0")
        agent.burst()
        agent.send_more(60)
    assert 10 <= most_in_a_second([sock]) <= 14
    sock.close()


def test_address_beside_200_links_without_one_comes_first_after_each_burst(site: Site) -> None:
    site.guest(*(f"link add mv{n} up link eth0 type macvlan mode bridge" for n in range(200)))
    site.lab.wait_until_up("guest")
    config = "interval: 1s\nrate_limit: {frames_per_second: 50, depth: 12}\n"
    with site.start(config=config) as agent:
        for _ in range(5):
            agent.send_more(200)
            site.wire.clear()
            agent.burst()
            site.wire.wait_for(GUEST_ADDRESS)
            # Before it there are RARP frames that were sent before the burst.
            assert sent_for(site).index(GUEST_ADDRESS) < 30
        site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, count=5)
        own = [place for place, each in enumerate(sent_for(site)) if each == GUEST_ADDRESS]
    # Of the others, 50 a second leave; after a pause of the agent a bucket full more.
    assert max(later - earlier for earlier, later in zip(own, own[1:])) < 120


def sent_for(site: Site) -> list[str]:
    """Return for which address each frame on the wire was sent."""
    return [announced(Ether(frame)) for frame in site.wire.read()]


def test_start_among_many_addresses_and_changes_announces_while_the_changes_go_on(
    site: Site,
) -> None:
    """Changes interrupt each dump; the agent must not wait for one that is complete."""
    changes = site.directory / "changes"
    lines = [
        f"address {verb} 172.16.{n >> 8}.{n & 255}/32 dev eth0\n"
        for n in range(500)
        for verb in ("add", "del")
    ]
    changes.write_text("".join(lines))
    site.guest(*(f"address add 10.{n >> 8}.{n & 255}.1/32 dev eth0" for n in range(3000)))
    site.wire.clear()
    churn = site.lab.start("guest", ["sh", "-c", f"while :; do ip -batch {changes}; done"])
    site.start(wait=False)
    site.wire.wait_for()
    assert churn.poll() is None
