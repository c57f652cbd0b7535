"""Who else claims our addresses, with real rivals: the rightful owner keeps its traffic."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from bench import lab
from tests.netns.agent import LIMIT, QUIET, Agent, until

RIVAL_MAC = "02:00:5e:00:53:66"
FREQUENT = "interval: 200ms\nrate_limit: {frames_per_second: 100, depth: 50}\n"


class Trio(lab.Lab):
    """guest, rival and peer at one switch; the rival has no address yet."""

    roles = ("guest", "rival", "peer", "switch")

    def build(self) -> None:
        hosts = self.roles[:3]
        self.wire(*((role, "eth0", "switch", role) for role in hosts))
        self.ip("switch", *(f"link set {role} up" for role in hosts))
        self.bridge("switch", *hosts)
        self.host("guest", "eth0", lab.GUEST_MAC, f"{lab.GUEST_ADDRESS}/24")
        self.host("rival", "eth0", RIVAL_MAC)
        self.host("peer", "eth0", lab.PEER_MAC, f"{lab.PEER_ADDRESS}/24")
        self.wait_until_up(*self.roles)

    def owner(self) -> str | None:
        """Who the peer believes has the guest's address."""
        known = self.neighbours("peer").get(lab.GUEST_ADDRESS)
        return known.mac if known else None


@pytest.fixture
def trio(labs: None) -> Iterator[Trio]:
    with Trio() as made:
        made.ip(
            "peer",
            f"neighbour replace {lab.GUEST_ADDRESS} lladdr {lab.GUEST_MAC} dev eth0 nud stale",
        )
        yield made


def take_over(trio: Trio, arping: str) -> None:
    """The rival takes the address, and says so as keepalived and arping do."""
    trio.ip("rival", f"address add {lab.GUEST_ADDRESS}/24 dev eth0")
    announce(trio, arping)


def announce(trio: Trio, arping: str) -> None:
    command = [arping, "-q", "-U", "-c", "1", "-w", "1", "-I", "eth0", lab.GUEST_ADDRESS]
    trio.run("rival", command)


def test_the_new_owner_keeps_its_traffic(trio: Trio, tmp_path: Path, arping: str) -> None:
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        take_over(trio, arping)
        agent.wait_for_log(
            "address-conflict", address=lab.GUEST_ADDRESS, claimed_by=RIVAL_MAC, policy="yield"
        )
        sent = agent.sent()
        # Ten frames more, and the peer believes the rival: none of them claimed anything.
        until(lambda: agent.sent() >= sent + 10, "the agent goes on")
        assert trio.owner() == RIVAL_MAC
        # But they did teach the switch where the guest is.
        assert trio.fdb("switch")[lab.GUEST_MAC] == "guest"
        assert agent.addresses()[lab.GUEST_ADDRESS]["conflict"]["withheld"]
        # Nor does a reload give the address back.
        agent.reload(FREQUENT.replace("200ms", "210ms"))
        agent.wait_for_log("configuration-loaded")
        sent = agent.sent()
        until(lambda: agent.sent() >= sent + 10, "the agent goes on")
        assert trio.owner() == RIVAL_MAC


def test_a_claim_while_it_is_stopped_is_heard_before_it_goes_on(
    trio: Trio, tmp_path: Path, arping: str
) -> None:
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        with agent.stopped():
            take_over(trio, arping)  # which takes a second, and ticks fall due
            until(lambda: trio.owner() == RIVAL_MAC, "the peer has heard")
        agent.wait_for_log("address-conflict")
        sent = agent.sent()
        until(lambda: agent.sent() >= sent + 5, "the agent goes on")
        assert trio.owner() == RIVAL_MAC


def test_of_two_clones_the_later_has_the_address(trio: Trio, tmp_path: Path, arping: str) -> None:
    """The same address and the same agent in both: they do not take turns."""
    (tmp_path / "clone").mkdir()
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        trio.ip("rival", f"address add {lab.GUEST_ADDRESS}/24 dev eth0")
        with Agent(trio, tmp_path / "clone", config=FREQUENT, role="rival") as clone:
            agent.wait_for_log("address-conflict", claimed_by=RIVAL_MAC)
            sent, cloned = agent.sent(), clone.sent()
            until(lambda: agent.sent() >= sent + 10, "the first goes on")
            until(lambda: clone.sent() >= cloned + 10, "the clone goes on")
            assert trio.owner() == RIVAL_MAC
            assert agent.status()["conflicts"] > 0
            assert clone.status()["conflicts"] == 0  # probes claim nothing


def test_a_clone_does_not_take_what_is_defended(trio: Trio, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    with Agent(trio, tmp_path, config=FREQUENT + "conflict: {policy: defend}\n") as agent:
        trio.ip("rival", f"address add {lab.GUEST_ADDRESS}/24 dev eth0")
        with Agent(trio, tmp_path / "clone", config=FREQUENT, role="rival") as clone:
            clone.wait_for_log("address-conflict", claimed_by=lab.GUEST_MAC, policy="yield")
            until(lambda: trio.owner() == lab.GUEST_MAC, "the first keeps its traffic")
            sent = clone.sent()
            until(lambda: clone.sent() >= sent + 10, "the clone goes on")
            assert trio.owner() == lab.GUEST_MAC
            assert agent.addresses()[lab.GUEST_ADDRESS]["conflict"]["claims"] >= 1


def test_warn_is_what_everybody_else_does(trio: Trio, tmp_path: Path, arping: str) -> None:
    with Agent(trio, tmp_path, config=FREQUENT + "conflict: {policy: warn}\n") as agent:
        take_over(trio, arping)
        agent.wait_for_log("address-conflict", policy="warn")
        until(lambda: trio.owner() == lab.GUEST_MAC, "the traffic is taken back")


def test_defend_answers_a_claim_once(trio: Trio, tmp_path: Path, arping: str) -> None:
    with Agent(trio, tmp_path, config=QUIET + "conflict: {policy: defend}\n") as agent:
        take_over(trio, arping)
        until(lambda: agent.sent_by("defence") == 1, "the claim is answered")
        announce(trio, arping)
        until(lambda: agent.status()["conflicts"] >= 2, "the second claim is heard")
        assert agent.sent_by("defence") == 1


def test_a_rival_that_is_gone_is_forgotten(trio: Trio, tmp_path: Path, arping: str) -> None:
    config = FREQUENT + "conflict: {hold_off: 1s}\n"
    with Agent(trio, tmp_path, config=config) as agent:
        take_over(trio, arping)
        agent.wait_for_log("address-conflict")
        trio.ip("rival", "address flush dev eth0")
        agent.wait_for_log("address-conflict-over", address=lab.GUEST_ADDRESS)
        until(lambda: trio.owner() == lab.GUEST_MAC, "the guest is believed again")


def test_other_peoples_arp_wakes_nothing(trio: Trio, tmp_path: Path, arping: str) -> None:
    with Agent(trio, tmp_path) as agent:
        until(agent.is_asleep, "the agent is done")
        heard = trio.packet_socket("guest", "eth0", 0x0806)
        before = agent.voluntary_switches()
        trio.ip("rival", "address add 192.0.2.66/24 dev eth0")
        for target in ("192.0.2.66", lab.PEER_ADDRESS, "192.0.2.77"):
            command = [arping, "-q", "-f", "-c", "2", "-w", "1", "-I", "eth0", target]
            trio.run("rival", command, check=False)
        trio.run("peer", [arping, "-q", "-A", "-c", "2", "-I", "eth0", lab.PEER_ADDRESS])
        heard.settimeout(LIMIT)
        assert len([heard.recv(2048) for _ in range(5)]) == 5
        heard.close()
        assert agent.voluntary_switches() == before


def test_an_advertisement_of_another_is_a_claim(tiny_lab6: lab.TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab6, tmp_path) as agent:
        wire = tiny_lab6.packet_socket("peer", "eth0")
        for address, flags in ((lab.PEER_ADDRESS6, 1), (lab.GUEST_ADDRESS6, 0)):
            wire.send(advertisement(address, flags))  # of itself; a proxy's, without Override
        wire.send(advertisement(lab.GUEST_ADDRESS6, 1))
        wire.close()
        told = agent.wait_for_log("address-conflict")
        assert (told["address"], told["claimed_by"]) == (lab.GUEST_ADDRESS6, lab.PEER_MAC)
        assert agent.status()["conflicts"] == 1


def advertisement(
    address: str, override: int, mac: str = lab.PEER_MAC, source: str = lab.PEER_ADDRESS6
) -> bytes:
    return bytes(
        Ether(dst="33:33:00:00:00:01", src=mac)
        / IPv6(src=source, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=address, R=0, S=0, O=override)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


def test_an_ipv6_address_stays_its_new_owners_after_the_hold_off(
    labs: None, tmp_path: Path
) -> None:
    """It says so once, as keepalived does; from then on only probes ask whether it is there."""
    config = FREQUENT + "conflict: {hold_off: 1s}\n"
    with Trio(ipv6=True) as trio:
        trio.ip("guest", f"address add {lab.GUEST_ADDRESS6}/64 dev eth0 nodad")
        trio.ip("peer", f"address add {lab.PEER_ADDRESS6}/64 dev eth0 nodad")
        stale = f"{lab.GUEST_ADDRESS6} lladdr {lab.GUEST_MAC} dev eth0 nud stale"
        trio.ip("peer", f"neighbour replace {stale}")

        def owner() -> str | None:
            known = trio.neighbours("peer").get(lab.GUEST_ADDRESS6)
            return known.mac if known else None

        with Agent(trio, tmp_path, config=config) as agent:
            until(lambda: lab.GUEST_ADDRESS6 in agent.announced(), "it is announced")
            trio.ip("rival", f"address add {lab.GUEST_ADDRESS6}/64 dev eth0 nodad")
            wire = trio.packet_socket("rival", "eth0")
            wire.send(advertisement(lab.GUEST_ADDRESS6, 1, RIVAL_MAC, lab.GUEST_ADDRESS6))
            wire.close()
            agent.wait_for_log("address-conflict", address=lab.GUEST_ADDRESS6)
            until(lambda: owner() == RIVAL_MAC, "the peer believes it")
            began = agent.status()["uptime"]
            until(lambda: agent.status()["uptime"] > began + 3.0, "three hold-offs have passed")
            assert owner() == RIVAL_MAC
            assert agent.addresses()[lab.GUEST_ADDRESS6]["conflict"]["withheld"]
            assert trio.fdb("switch")[lab.GUEST_MAC] == "guest"
            trio.ip("rival", f"address del {lab.GUEST_ADDRESS6}/64 dev eth0")
            agent.wait_for_log("address-conflict-over", address=lab.GUEST_ADDRESS6)
            until(lambda: owner() == lab.GUEST_MAC, "the guest is believed again")


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


def test_a_virtual_address_is_keepaliveds_to_move(trio: Trio, tmp_path: Path) -> None:
    """One dies and leaves the address behind, as a killed keepalived does; the other takes it."""
    keepalived = shutil.which("keepalived")
    if not keepalived:
        pytest.skip("no keepalived (Debian package keepalived)")
    trio.ip("rival", "address add 192.0.2.66/24 dev eth0")

    def start(role: str, priority: int) -> object:
        directory = tmp_path / role
        directory.mkdir()
        config = directory / "keepalived.conf"
        config.write_text(KEEPALIVED.format(priority=priority))
        files = [f"--{name}={directory / name}" for name in ("pid", "vrrp_pid")]
        command = [keepalived, "-n", "-P", "-f", str(config), *files]
        with open(directory / "log", "wb") as log:
            return trio.start(role, command, stdout=log, stderr=log)

    def holder() -> str | None:
        known = trio.neighbours("peer").get(VIRTUAL)
        return known.mac if known else None

    trio.ip("peer", f"neighbour replace {VIRTUAL} lladdr 02:00:5e:00:53:99 dev eth0 nud stale")
    with Agent(trio, tmp_path, config=FREQUENT) as agent:
        first = start("guest", 200)
        until(lambda: VIRTUAL in agent.announced(), "the address is announced when it comes")
        until(lambda: holder() == lab.GUEST_MAC, "the peer knows")
        second = start("rival", 100)
        trio.stop(first, 9)  # type: ignore[arg-type]
        until(lambda: holder() == RIVAL_MAC, "the backup takes over")
        agent.wait_for_log("address-conflict", address=VIRTUAL, claimed_by=RIVAL_MAC)
        sent = agent.sent()
        until(lambda: agent.sent() >= sent + 10, "the agent goes on")
        assert holder() == RIVAL_MAC
        trio.ip("guest", f"address del {VIRTUAL}/24 dev eth0")
        until(lambda: VIRTUAL not in agent.addresses(), "the address is forgotten")
        trio.stop(second, 15)  # type: ignore[arg-type]
