"""Address conflicts with real rivals: the rightful owner keeps its traffic."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from bench import lab
from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, PEER_ADDRESS6, PEER_MAC
from garp_agent.guest.io.conflict_socket import ConflictSocket
from tests.netns.agent import (
    LIMIT,
    Agent,
    Capture,
    Site,
    advertisement,
    believed,
    forget_link_local,
    gratuitous,
    set_entry,
    until,
    wait_until_believed,
)
from tests.netns.keepalived import start_keepalived
from tests.runtime.descriptors import descriptors_left
from tests.world import ip

RIVAL_MAC = "02:00:5e:00:53:66"
OTHER_MAC = "02:00:5e:00:53:99"
BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGE = os.fsdecode(b"v\xff")  # the name of a link that is not UTF-8
FREQUENT = "interval: 200ms\nrate_limit: {frames_per_second: 100, depth: 50}\n"


class Trio(lab.Lab):
    """guest, rival and peer at one switch; the rival has no address yet."""

    roles = ("guest", "rival", "peer", "switch")

    def __init__(self, directory: Path, *, ipv6: bool = False) -> None:
        super().__init__(ipv6=ipv6)
        self._directory = directory

    def build(self) -> None:
        hosts = self.roles[:3]
        self.wire(*((role, "eth0", "switch", role) for role in hosts))
        self.ip("switch", *(f"link set {role} up" for role in hosts))
        self.bridge("switch", *hosts)
        self.host("guest", "eth0", GUEST_MAC, f"{GUEST_ADDRESS}/24")
        self.host("rival", "eth0", RIVAL_MAC)
        self.host("peer", "eth0", PEER_MAC, f"{lab.PEER_ADDRESS}/24")
        self.wait_until_up(*self.roles)
        set_entry(self, GUEST_ADDRESS, GUEST_MAC)

    def start_daemon(self, config: str) -> Agent:
        return Agent(self, self._directory, config=config)

    def claim(self, frame: Ether) -> None:
        with self.packet_socket("rival", "eth0") as sock:
            sock.send(bytes(frame))


@pytest.fixture
def trio(labs: None, tmp_path: Path) -> Iterator[Trio]:
    with Trio(tmp_path) as made:
        yield made


@pytest.mark.parametrize("stopped", [False, True])
def test_address_claimed_by_a_rival_stays_with_the_rival(trio: Trio, stopped: bool) -> None:
    with trio.start_daemon(FREQUENT) as agent:
        with agent.stopped() if stopped else nullcontext():
            # As keepalived does.
            trio.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
            trio.claim(gratuitous(RIVAL_MAC))
            wait_until_believed(trio, GUEST_ADDRESS, RIVAL_MAC)
            time.sleep(0.5 * stopped)  # in which refreshes fall due
        agent.wait_for_log(
            "address-conflict", address=GUEST_ADDRESS, claimed_by=RIVAL_MAC, policy="yield"
        )
        agent.send_more(10)
        assert believed(trio, GUEST_ADDRESS) == RIVAL_MAC
        # The frames that claim nothing still teach the switch where the guest is.
        assert trio.fdb("switch")[GUEST_MAC] == "guest"
        assert agent.addresses()[GUEST_ADDRESS]["conflict"]["withheld"]
        agent.reload(FREQUENT.replace("200ms", "210ms"))
        agent.wait_for_log("configuration-loaded")
        agent.send_more(10)
        assert believed(trio, GUEST_ADDRESS) == RIVAL_MAC


@pytest.mark.parametrize("policy", ["yield", "warn", "defend"])
def test_clone_with_an_agent_leaves_the_address_to_the_guest_that_answers(
    trio: Trio, tmp_path: Path, policy: str
) -> None:
    """The clone has the same address and the default policy, and starts later."""
    (tmp_path / "clone").mkdir()
    with trio.start_daemon(f"{FREQUENT}conflict: {{policy: warn}}\n") as agent:
        # As if it had run for more than a minute: no refresh begins with a probe.
        agent.reload(f"{FREQUENT}conflict: {{policy: {policy}}}\n")
        agent.wait_for_log("configuration-loaded")
        trio.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
        with Agent(trio, tmp_path / "clone", config=FREQUENT, role="rival") as clone:
            clone.wait_for_log("address-conflict", claimed_by=GUEST_MAC, policy="yield")
            agent.send_more(10)
            clone.send_more(10)
            assert believed(trio, GUEST_ADDRESS) == GUEST_MAC
            # A probe claims nothing, so the guest hears of no conflict.
            assert not agent.status()["conflicts"]


@pytest.mark.parametrize("event", ["restart", "cable", "both cables", "its clone asks"])
def test_two_guests_with_one_address_do_not_both_stay_silent(
    trio: Trio, tmp_path: Path, event: str
) -> None:
    """The kernel of each answers the probes of the other's agent."""
    (tmp_path / "clone").mkdir()
    agent = trio.start_daemon(FREQUENT)
    trio.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
    with Agent(trio, tmp_path / "clone", config=FREQUENT, role="rival") as clone:
        clone.wait_for_log("address-conflict")
        if event == "restart":
            assert agent.stop() == 0
            agent = trio.start_daemon(FREQUENT)
        elif event == "its clone asks":
            trio.claim(gratuitous(RIVAL_MAC))
        else:
            ports = ["guest", "rival"] if event == "both cables" else ["guest"]
            trio.ip("switch", *(f"link set {port} down" for port in ports))
            agent.wait_for_log("link-withdrawn")
            trio.ip("switch", *(f"link set {port} up" for port in ports))
        with agent:
            set_entry(trio, GUEST_ADDRESS, OTHER_MAC)
            until(lambda: believed(trio, GUEST_ADDRESS) != OTHER_MAC, "one of them announces")
            both = (agent, clone)
            until(lambda: sum(each.claims(GUEST_ADDRESS) for each in both) == 1, "one withholds")


@pytest.mark.parametrize(
    ("policy", "owner"), [("yield", RIVAL_MAC), ("warn", GUEST_MAC), ("defend", GUEST_MAC)]
)
def test_rival_with_an_agent_that_does_not_yield_gets_the_address_only_under_yield(
    trio: Trio, tmp_path: Path, policy: str, owner: str
) -> None:
    (tmp_path / "rival").mkdir()
    with trio.start_daemon(f"{FREQUENT}conflict: {{policy: {policy}}}\n") as agent:
        trio.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
        config = "interval: 60s\nconflict: {policy: warn}\n"
        with Agent(trio, tmp_path / "rival", config=config, role="rival"):
            agent.wait_for_log("address-conflict", claimed_by=RIVAL_MAC, policy=policy)
            agent.send_more(10)
            wait_until_believed(trio, GUEST_ADDRESS, owner)
            assert bool(agent.sent_by("defence")) == (policy == "defend")


@pytest.mark.parametrize("announces", [True, False])
def test_arp_about_other_addresses_does_not_wake_the_agent(site: Site, announces: bool) -> None:
    if not announces:
        site.guest("address flush dev eth0")
    other = "192.0.2.66"
    request = gratuitous(RIVAL_MAC, other)
    request.pdst = lab.PEER_ADDRESS
    frames = [request, gratuitous(RIVAL_MAC, other), gratuitous(RIVAL_MAC, other, op=2)] * 60
    with (
        site.start_without_refresh() as agent,
        site.lab.packet_socket("guest", "eth0", 0x0806) as heard,
    ):
        until(agent.is_asleep, "it sleeps")
        before = agent.voluntary_switches()
        heard.settimeout(LIMIT)
        for frame in frames:
            site.wire.socket.send(bytes(frame))
            heard.recv(2048)
        until(agent.is_asleep, "it sleeps")
        assert agent.voluntary_switches() == before


def test_advertisement_by_another_host_is_a_claim_only_with_override(site6: Site) -> None:
    with site6.start() as agent:
        # Of its own address; a proxy's, RFC 4861 section 7.2.8; a claim.
        for address, override in ((PEER_ADDRESS6, 1), (GUEST_ADDRESS6, 0), (GUEST_ADDRESS6, 1)):
            frame = advertisement(PEER_MAC, PEER_ADDRESS6, address, override)
            site6.wire.socket.send(bytes(frame))
        line = agent.wait_for_log("address-conflict")
        assert (line["address"], line["claimed_by"]) == (GUEST_ADDRESS6, PEER_MAC)
        assert agent.status()["conflicts"] == 1


@pytest.mark.parametrize("address", [GUEST_ADDRESS, GUEST_ADDRESS6])
def test_address_stays_with_its_new_owner_after_hold_offs_until_that_is_gone(
    labs: None, tmp_path: Path, address: str
) -> None:
    """The rival announces once, as keepalived does; then only probes find that it is there."""
    ipv6 = ":" in address
    network = f"{address}/64 dev eth0 nodad" if ipv6 else f"{address}/24 dev eth0"
    with Trio(tmp_path, ipv6=ipv6) as trio:
        if ipv6:
            trio.ip("guest", f"address add {network}")
            trio.ip("peer", f"address add {PEER_ADDRESS6}/64 dev eth0 nodad")
            set_entry(trio, address, GUEST_MAC)
        with trio.start_daemon(FREQUENT + "conflict: {hold_off: 1s}\n") as agent:
            until(lambda: address in agent.announced(), "it is announced")
            trio.ip("rival", f"address add {network}")
            trio.claim(
                advertisement(RIVAL_MAC, address, address) if ipv6 else gratuitous(RIVAL_MAC)
            )
            agent.wait_for_log("address-conflict", address=address)
            wait_until_believed(trio, address, RIVAL_MAC)
            began = agent.status()["uptime"]
            until(lambda: agent.status()["uptime"] > began + 3.0, "three hold-offs have passed")
            assert believed(trio, address) == RIVAL_MAC
            assert agent.addresses()[address]["conflict"]["withheld"]
            assert trio.fdb("switch")[GUEST_MAC] == "guest"
            trio.ip("rival", f"address del {network}")
            agent.wait_for_log("address-conflict-over", address=address)
            wait_until_believed(trio, address)


@pytest.mark.parametrize("address", [GUEST_ADDRESS, GUEST_ADDRESS6])
def test_port_that_forwards_later_than_its_carrier_lets_one_claim_through_at_most(
    labs: None, tmp_path: Path, address: str
) -> None:
    """The guest was away, and its first probe is lost: the switch's port listens and learns."""
    ipv6 = ":" in address
    network = f"{address}/64 dev eth0 nodad" if ipv6 else f"{address}/24 dev eth0"
    config = "interval: 500ms\nmac_only: false\n"
    with Trio(tmp_path, ipv6=ipv6) as trio:
        forget_link_local(trio)
        if ipv6:
            trio.ip("guest", f"address add {network}")
        trio.ip("switch", "link set br0 type bridge stp_state 1 forward_delay 200")

        def is_forwarding() -> bool:
            shown = trio.run("switch", ["bridge", "link", "show", "dev", "guest"]).stdout
            return "state forwarding" in shown

        until(is_forwarding, "the port forwards")
        with trio.start_daemon(config) as agent:
            until(lambda: agent.claims(address), "it announces")
            trio.ip("switch", "link set guest down")
            until(lambda: not agent.announced(), "the carrier is lost")
            trio.ip("rival", f"address add {network}")
            with Capture(trio) as wire:
                trio.ip("switch", "link set guest up")
                until(lambda: address in agent.announced(), "the carrier is back")
                until(lambda: agent.claims(address), "its first probe was lost")
                until(is_forwarding, "the port forwards")
                until(lambda: not agent.claims(address), "the agent yields")
                agent.send_more(10)
                assert not agent.claims(address)
                found = wire.announcements(address)
                assert len([each for each in found if ARP not in each or each.psrc == address]) <= 1


VIRTUAL = "192.0.2.100"


def test_virtual_address_left_by_a_killed_keepalived_stays_with_the_backup(
    trio: Trio, tmp_path: Path
) -> None:
    trio.ip("rival", "address add 192.0.2.66/24 dev eth0")

    def start(role: str, priority: int) -> subprocess.Popen[str]:
        network = f"{VIRTUAL}/24"
        return start_keepalived(trio, role, tmp_path, network, priority, "advert_int 0.2")

    set_entry(trio, VIRTUAL, "02:00:5e:00:53:99")
    with trio.start_daemon(FREQUENT) as agent:
        first = start("guest", 200)
        until(lambda: VIRTUAL in agent.announced(), "the address is announced when it comes")
        wait_until_believed(trio, VIRTUAL, GUEST_MAC)
        second = start("rival", 100)
        trio.stop(first, 9)
        wait_until_believed(trio, VIRTUAL, RIVAL_MAC)
        agent.wait_for_log("address-conflict", address=VIRTUAL, claimed_by=RIVAL_MAC)
        agent.send_more(10)
        assert believed(trio, VIRTUAL) == RIVAL_MAC
        trio.ip("guest", f"address del {VIRTUAL}/24 dev eth0")
        until(lambda: VIRTUAL not in agent.addresses(), "the address is forgotten")
        trio.stop(second, 15)


# -- the socket ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 500, 5000])
def test_conflict_socket_with_many_addresses_hears_claims_of_the_first(
    tiny_lab: lab.TinyLab, count: int
) -> None:
    addresses = [bytes([10, number >> 8, number & 255, 1]) for number in range(count)]
    addresses6 = [b"\xfe\x80" + number.to_bytes(14, "big") for number in range(count)]
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        for _ in range(3):  # the old filter's memory is free for the next
            conflicts.listen_for([*addresses, *addresses6])
        for address in ("192.0.2.99", socket.inet_ntoa(addresses[0])):
            wire.send(bytes(gratuitous(RIVAL_MAC, address)))
        (claim,) = until(conflicts.read, "the claim is heard")
    assert (claim.interface, claim.address) == ("eth0", addresses[0])


def test_conflict_socket_that_hears_all_drops_what_is_no_claim_and_listens_again(
    tiny_lab: lab.TinyLab,
) -> None:
    ours, others = ip("192.0.2.10"), ["192.0.2.77", "192.0.2.78"]
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        conflicts.listen_for([ours])
        for address in (ip(others[0]), ip("2001:db8::77")):
            conflicts.hear_all("eth0", address)
        for _ in range(100):  # would fill the buffer
            wire.send(
                bytes.fromhex("ffffffffffff020000000001") + b"\x86\xdd" + b"\x60" + bytes(999)
            )
        for frame in (
            gratuitous(RIVAL_MAC, others[0]),
            advertisement(RIVAL_MAC, "2001:db8::77", "2001:db8::77"),
        ):
            wire.send(bytes(frame))
        found: set[bytes] = set()
        while len(found) < 2:
            found |= {claim.address for claim in until(conflicts.read, "the claims are heard")}
        assert found == {ip(others[0]), ip("2001:db8::77")}
        conflicts.listen_for([ours])
        wire.send(bytes(gratuitous(RIVAL_MAC, others[1])))
        wire.send(bytes(gratuitous(RIVAL_MAC, "192.0.2.10")))
        (claim,) = until(conflicts.read, "the claim is heard")
    assert claim.address == ours


def rename(tiny_lab: lab.TinyLab, link: str) -> None:
    tiny_lab.ip("guest", "link set eth0 down")
    tiny_lab.run("guest", ["ip", "link", "set", "eth0", "up", "name", link])
    tiny_lab.wait_until_up("peer")


@pytest.mark.parametrize("left", [0, 1])
def test_sockets_of_a_name_that_is_not_utf8_are_opened_when_descriptors_are_left(
    tiny_lab: lab.TinyLab, left: int
) -> None:
    ours, ours6 = "192.0.2.10", "2001:db8::10"
    found: set[bytes] = set()
    rename(tiny_lab, STRANGE)
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
        with descriptors_left(left):
            conflicts.listen_for([ip(ours), ip(ours6)], [STRANGE])
        conflicts.listen_for([ip(ours), ip(ours6)], [STRANGE])
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        wire.send(bytes(advertisement(RIVAL_MAC, ours6, ours6)))
        wire.send(bytes(gratuitous(RIVAL_MAC, ours)))
        while len(found) < 2:
            found |= {claim.address for claim in until(conflicts.read, "both claims arrive")}
    assert found == {ip(ours), ip(ours6)}


@pytest.mark.parametrize(
    ("tag", "heard"),
    [("", True), ("81000000", True), ("8100e000", True), ("81000005", False), ("8100e005", False)],
    ids=["untagged", "VLAN 0", "priority only", "VLAN 5", "VLAN 5 with priority"],
)
@pytest.mark.parametrize("link", ["eth0", "bridge", STRANGE], ids=ascii)
@pytest.mark.parametrize("hears_all", [False, True], ids=["filtered", "before a frame"])
def test_claim_in_vlan_without_interface_is_not_received(
    tiny_lab: lab.TinyLab, tag: str, heard: bool, link: str, hears_all: bool
) -> None:
    ours, last, ours6 = "192.0.2.10", "192.0.2.11", "2001:db8::10"
    found: set[bytes] = set()
    if link == "bridge":
        tiny_lab.bridge("guest", "eth0")
        tiny_lab.wait_until_up("guest", "peer")
    elif link != "eth0":
        rename(tiny_lab, link)
    with tiny_lab.entered("guest"):
        conflicts = ConflictSocket()
        conflicts.listen_for([ip(ours), ip(last), ip(ours6)], [link])
        for address in (ip(ours), ip(ours6)) if hears_all else ():
            conflicts.hear_all(link, address)
    with closing(conflicts), tiny_lab.packet_socket("peer", "eth0") as wire:
        claims = advertisement(RIVAL_MAC, ours6, ours6), gratuitous(RIVAL_MAC, ours)
        for frame in map(bytes, claims):
            wire.send(frame[:12] + bytes.fromhex(tag) + frame[12:])
        # An untagged claim comes last: when it has arrived, those before it have, too.
        wire.send(bytes(gratuitous(RIVAL_MAC, last)))
        while ip(last) not in found:
            found |= {claim.address for claim in until(conflicts.read, "the last claim arrives")}
    assert len(found) == (3 if heard else 1)
