"""Address conflicts with real rivals: the rightful owner keeps its traffic."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from bench import lab
from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, PEER_ADDRESS6, PEER_MAC
from tests.netns.agent import LIMIT, QUIET, Agent, believed, until

RIVAL_MAC = "02:00:5e:00:53:66"
BROADCAST = "ff:ff:ff:ff:ff:ff"
FREQUENT = "interval: 200ms\nrate_limit: {frames_per_second: 100, depth: 50}\n"


class Trio(lab.Lab):
    """guest, rival and peer at one switch; the rival has no address yet."""

    roles = ("guest", "rival", "peer", "switch")

    def build(self) -> None:
        hosts = self.roles[:3]
        self.wire(*((role, "eth0", "switch", role) for role in hosts))
        self.ip("switch", *(f"link set {role} up" for role in hosts))
        self.bridge("switch", *hosts)
        self.host("guest", "eth0", GUEST_MAC, f"{GUEST_ADDRESS}/24")
        self.host("rival", "eth0", RIVAL_MAC)
        self.host("peer", "eth0", PEER_MAC, f"{lab.PEER_ADDRESS}/24")
        self.wait_until_up(*self.roles)
        self.peer_knows(GUEST_ADDRESS)

    def peer_knows(self, address: str, mac: str = GUEST_MAC) -> None:
        """Give the peer an entry that the next announcement replaces."""
        self.ip("peer", f"neighbour replace {address} lladdr {mac} dev eth0 nud stale")

    def owner(self, address: str = GUEST_ADDRESS) -> str | None:
        """Return the hardware address that the peer has for an address."""
        return believed(self, address)

    def wait_for_owner(self, mac: str, address: str = GUEST_ADDRESS) -> None:
        until(lambda: self.owner(address) == mac, f"{address} belongs to {mac}")

    def claim(self, frame: Ether) -> None:
        with self.packet_socket("rival", "eth0") as sock:
            sock.send(bytes(frame))

    def take_over(self) -> None:
        """Let the rival take the guest's address and announce it, as keepalived does."""
        self.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
        self.claim(gratuitous())


@pytest.fixture
def trio(labs: None) -> Iterator[Trio]:
    with Trio() as made:
        yield made


def gratuitous(address: str = GUEST_ADDRESS, op: int = 1) -> Ether:
    arp = ARP(op=op, hwsrc=RIVAL_MAC, psrc=address, hwdst=BROADCAST, pdst=address)
    return Ether(src=RIVAL_MAC, dst=BROADCAST) / arp


def advertisement(address: str, override: int, mac: str, source: str) -> Ether:
    return (
        Ether(dst="33:33:00:00:00:01", src=mac)
        / IPv6(src=source, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=address, R=0, S=0, O=override)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


def test_address_claimed_by_a_rival_stays_with_the_rival(trio: Trio, tmp_path: Path) -> None:
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        trio.take_over()
        agent.wait_for_log(
            "address-conflict", address=GUEST_ADDRESS, claimed_by=RIVAL_MAC, policy="yield"
        )
        agent.send_more(10)
        assert trio.owner() == RIVAL_MAC
        # The frames that claim nothing still teach the switch where the guest is.
        assert trio.fdb("switch")[GUEST_MAC] == "guest"
        assert agent.addresses()[GUEST_ADDRESS]["conflict"]["withheld"]
        agent.reload(FREQUENT.replace("200ms", "210ms"))
        agent.wait_for_log("configuration-loaded")
        agent.send_more(10)
        assert trio.owner() == RIVAL_MAC


def test_claim_made_while_the_agent_is_stopped_is_read_before_the_next_frame(
    trio: Trio, tmp_path: Path
) -> None:
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        with agent.stopped():
            trio.take_over()
            trio.wait_for_owner(RIVAL_MAC)
            time.sleep(0.5)  # in which refreshes fall due
        agent.wait_for_log("address-conflict")
        agent.send_more(5)
        assert trio.owner() == RIVAL_MAC


@pytest.mark.parametrize(("policy", "owner"), [("yield", RIVAL_MAC), ("defend", GUEST_MAC)])
def test_clone_with_an_agent_takes_the_address_unless_it_is_defended(
    trio: Trio, tmp_path: Path, policy: str, owner: str
) -> None:
    """The clone has the same address and the default policy; the two do not take turns."""
    (tmp_path / "clone").mkdir()
    config = FREQUENT + f"conflict: {{policy: {policy}}}\n"
    with Agent(trio, tmp_path, config=config) as agent:
        trio.ip("rival", f"address add {GUEST_ADDRESS}/24 dev eth0")
        with Agent(trio, tmp_path / "clone", config=FREQUENT, role="rival") as clone:
            agent.wait_for_log("address-conflict", claimed_by=RIVAL_MAC)
            if policy == "defend":
                clone.wait_for_log("address-conflict", claimed_by=GUEST_MAC, policy="yield")
            trio.wait_for_owner(owner)
            agent.send_more(10)
            clone.send_more(10)
            assert trio.owner() == owner
            # A probe claims nothing, so the clone that has the address hears of no conflict.
            assert bool(clone.status()["conflicts"]) == (policy == "defend")


def test_policy_warn_takes_the_traffic_back(trio: Trio, tmp_path: Path) -> None:
    with Agent(trio, tmp_path, config=FREQUENT + "conflict: {policy: warn}\n") as agent:
        trio.take_over()
        agent.wait_for_log("address-conflict", policy="warn")
        trio.wait_for_owner(GUEST_MAC)


def test_policy_defend_answers_only_the_first_of_two_claims(trio: Trio, tmp_path: Path) -> None:
    with Agent(trio, tmp_path, config=QUIET + "conflict: {policy: defend}\n") as agent:
        trio.take_over()
        until(lambda: agent.sent_by("defence") == 1, "the claim is answered")
        trio.claim(gratuitous())
        until(lambda: agent.status()["conflicts"] >= 2, "the second claim is heard")
        assert agent.sent_by("defence") == 1


def test_rival_that_is_gone_is_forgotten_after_the_hold_off(trio: Trio, tmp_path: Path) -> None:
    with Agent(trio, tmp_path, config=FREQUENT + "conflict: {hold_off: 1s}\n") as agent:
        trio.take_over()
        agent.wait_for_log("address-conflict")
        trio.ip("rival", "address flush dev eth0")
        agent.wait_for_log("address-conflict-over", address=GUEST_ADDRESS)
        trio.wait_for_owner(GUEST_MAC)


def test_arp_about_other_addresses_does_not_wake_the_agent(trio: Trio, tmp_path: Path) -> None:
    with Agent(trio, tmp_path) as agent, trio.packet_socket("guest", "eth0", 0x0806) as heard:
        until(agent.is_asleep, "it sleeps")
        before = agent.voluntary_switches()
        request = Ether(src=RIVAL_MAC, dst=BROADCAST) / ARP(
            op=1, hwsrc=RIVAL_MAC, psrc="192.0.2.66", pdst=lab.PEER_ADDRESS
        )
        frames = [request, gratuitous("192.0.2.66"), gratuitous("192.0.2.66", 2), request, request]
        for frame in frames:
            trio.claim(frame)
        heard.settimeout(LIMIT)
        assert len([heard.recv(2048) for _ in frames]) == len(frames)
        assert agent.voluntary_switches() == before


def test_advertisement_by_another_host_is_a_claim_only_with_override(
    tiny_lab6: lab.TinyLab, tmp_path: Path
) -> None:
    with Agent(tiny_lab6, tmp_path) as agent, tiny_lab6.packet_socket("peer", "eth0") as wire:
        # Of its own address; a proxy's, RFC 4861 section 7.2.8; a claim.
        for address, override in ((PEER_ADDRESS6, 1), (GUEST_ADDRESS6, 0), (GUEST_ADDRESS6, 1)):
            wire.send(bytes(advertisement(address, override, PEER_MAC, PEER_ADDRESS6)))
        line = agent.wait_for_log("address-conflict")
        assert (line["address"], line["claimed_by"]) == (GUEST_ADDRESS6, PEER_MAC)
        assert agent.status()["conflicts"] == 1


def test_ipv6_address_stays_with_its_new_owner_after_hold_offs(labs: None, tmp_path: Path) -> None:
    """The rival announces once, as keepalived does; then only DAD probes find that it is there."""
    with Trio(ipv6=True) as trio:
        trio.ip("guest", f"address add {GUEST_ADDRESS6}/64 dev eth0 nodad")
        trio.ip("peer", f"address add {PEER_ADDRESS6}/64 dev eth0 nodad")
        trio.peer_knows(GUEST_ADDRESS6)
        with Agent(trio, tmp_path, config=FREQUENT + "conflict: {hold_off: 1s}\n") as agent:
            until(lambda: GUEST_ADDRESS6 in agent.announced(), "it is announced")
            trio.ip("rival", f"address add {GUEST_ADDRESS6}/64 dev eth0 nodad")
            trio.claim(advertisement(GUEST_ADDRESS6, 1, RIVAL_MAC, GUEST_ADDRESS6))
            agent.wait_for_log("address-conflict", address=GUEST_ADDRESS6)
            trio.wait_for_owner(RIVAL_MAC, GUEST_ADDRESS6)
            began = agent.status()["uptime"]
            until(lambda: agent.status()["uptime"] > began + 3.0, "three hold-offs have passed")
            assert trio.owner(GUEST_ADDRESS6) == RIVAL_MAC
            assert agent.addresses()[GUEST_ADDRESS6]["conflict"]["withheld"]
            assert trio.fdb("switch")[GUEST_MAC] == "guest"
            trio.ip("rival", f"address del {GUEST_ADDRESS6}/64 dev eth0")
            agent.wait_for_log("address-conflict-over", address=GUEST_ADDRESS6)
            trio.wait_for_owner(GUEST_MAC, GUEST_ADDRESS6)


KEEPALIVED = """\
global_defs {{
    vrrp_version 3
    vrrp_garp_master_delay 1
}}
vrrp_instance test {{
    interface eth0
    state BACKUP
    virtual_router_id 51
    priority {priority}
    advert_int 0.2
    virtual_ipaddress {{
        192.0.2.100/24
    }}
}}
"""
VIRTUAL = "192.0.2.100"


def test_virtual_address_left_by_a_killed_keepalived_stays_with_the_backup(
    trio: Trio, tmp_path: Path
) -> None:
    keepalived = shutil.which("keepalived")
    if not keepalived:
        pytest.skip("needs `keepalived` (Debian package keepalived)")
    trio.ip("rival", "address add 192.0.2.66/24 dev eth0")

    def start(role: str, priority: int) -> Any:
        directory = tmp_path / role
        directory.mkdir()
        config = directory / "keepalived.conf"
        config.write_text(KEEPALIVED.format(priority=priority))
        files = [f"--{name}={directory / name}" for name in ("pid", "vrrp_pid")]
        command = [keepalived, "-n", "-P", "-f", str(config), *files]
        with open(directory / "log", "wb") as log:
            return trio.start(role, command, stdout=log, stderr=log)

    trio.peer_knows(VIRTUAL, "02:00:5e:00:53:99")
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        first = start("guest", 200)
        until(lambda: VIRTUAL in agent.announced(), "the address is announced when it comes")
        trio.wait_for_owner(GUEST_MAC, VIRTUAL)
        second = start("rival", 100)
        trio.stop(first, 9)
        trio.wait_for_owner(RIVAL_MAC, VIRTUAL)
        agent.wait_for_log("address-conflict", address=VIRTUAL, claimed_by=RIVAL_MAC)
        agent.send_more(10)
        assert trio.owner(VIRTUAL) == RIVAL_MAC
        trio.ip("guest", f"address del {VIRTUAL}/24 dev eth0")
        until(lambda: VIRTUAL not in agent.addresses(), "the address is forgotten")
        trio.stop(second, 15)
