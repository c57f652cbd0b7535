"""What the daemon's frames are, and what a real peer and a real bridge make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6, in6_chksum
from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, TinyLab
from tests.netns.agent import (
    QUIET,
    RARP,
    Agent,
    Capture,
    command,
    forget_link_local,
    until,
)

OLD_MAC = "02:00:5e:00:53:99"
NEW_MAC = "02:00:5e:00:53:77"
BROADCAST = "ff:ff:ff:ff:ff:ff"
ZERO_MAC = "00:00:00:00:00:00"


@pytest.fixture(autouse=True)
def _only_given_addresses(request: pytest.FixtureRequest) -> None:
    if "tiny_lab6" in request.fixturenames:
        forget_link_local(request.getfixturevalue("tiny_lab6"))


@pytest.fixture
def wire(tiny_lab6: TinyLab) -> Iterator[Capture]:
    with Capture(tiny_lab6) as capture:
        yield capture


def start(where: TinyLab, directory: Path, arp: str = "request", extra: str = "") -> Agent:
    return Agent(where, directory, config=f"{QUIET}arp: {arp}\n{extra}")


# -- bytes ----------------------------------------------------------------------------------

ARP_FORMS = {
    "request": [(1, GUEST_ADDRESS, ZERO_MAC)],
    "reply": [(2, GUEST_ADDRESS, GUEST_MAC)],
    "both": [(1, GUEST_ADDRESS, ZERO_MAC), (2, GUEST_ADDRESS, GUEST_MAC)],
    "probe": [(1, "0.0.0.0", ZERO_MAC)],
}


@pytest.mark.parametrize("form", ARP_FORMS)
def test_each_arp_form_is_what_scapy_reads_in_it(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path, form: str
) -> None:
    with start(tiny_lab6, tmp_path, form):
        packets = wire.wait_for(GUEST_ADDRESS, count=len(ARP_FORMS[form]))
    assert [(p[ARP].op, p[ARP].psrc, p[ARP].hwdst) for p in packets] == ARP_FORMS[form]
    for packet in packets:
        arp = packet[ARP]
        assert (packet.dst, packet.src, packet.type) == (BROADCAST, GUEST_MAC, 0x0806)
        assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) == (1, 0x0800, 6, 4)
        assert (arp.hwsrc, arp.pdst) == (GUEST_MAC, GUEST_ADDRESS)
        assert len(packet) == 60
        assert bytes(packet)[42:] == bytes(18)


def test_an_unsolicited_na_is_what_scapy_reads_in_it(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with start(tiny_lab6, tmp_path):
        (packet,) = wire.wait_for(GUEST_ADDRESS6)
    assert (packet.dst, packet.src) == ("33:33:00:00:00:01", GUEST_MAC)
    header, advertisement = packet[IPv6], packet[ICMPv6ND_NA]
    assert (header.src, header.dst, header.hlim) == (GUEST_ADDRESS6, "ff02::1", 255)
    assert (advertisement.R, advertisement.S, advertisement.O) == (0, 0, 1)
    assert advertisement.tgt == GUEST_ADDRESS6
    assert packet[ICMPv6NDOptDstLLAddr].lladdr == GUEST_MAC
    assert len(packet) == 14 + 40 + 32
    message = bytes(packet)[54:]
    assert in6_chksum(58, header, message) == 0


def test_a_link_without_an_address_sends_a_rarp_if_asked_to(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab6.ip("guest", "address flush dev eth0")
    with start(tiny_lab6, tmp_path, extra="mac_only: true\n") as agent:
        (packet,) = wire.wait_for(RARP)
        assert (packet.dst, packet.src, packet.type) == (BROADCAST, GUEST_MAC, 0x8035)
        assert len(packet) == 60
        arp = ARP(bytes(packet)[14:])
        assert (arp.op, arp.hwsrc, arp.hwdst) == (3, GUEST_MAC, GUEST_MAC)
        assert (arp.psrc, arp.pdst) == ("0.0.0.0", "0.0.0.0")
        # With an address there is something better to say.
        tiny_lab6.ip("guest", f"address add {GUEST_ADDRESS}/24 dev eth0")
        wire.wait_for(GUEST_ADDRESS)
        assert agent.burst() == 1
    assert len(wire.announcements(RARP)) == 1


def test_dry_run_sends_nothing_and_says_what_it_would(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab6, tmp_path, "--dry-run") as agent:
        until(lambda: len(agent.log("frame-sent", cause="start")) >= 2, "frames are logged")
        tiny_lab6.ip("guest", "address add 192.0.2.77/24 dev eth0")
        line = agent.wait_for_log("frame-sent", address="192.0.2.77")
        assert line["interface"] == "eth0"
        assert line["kind"] == "arp-request"
        assert line["dry_run"] == "nothing is sent"
        assert agent.status()["dry_run"]
        assert agent.burst() == 3
    assert wire.announcements() == []


# -- peers ----------------------------------------------------------------------------------


def believe_the_old(where: TinyLab) -> None:
    """The peer knows the guest's addresses by another hardware address."""
    for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
        where.ip("peer", f"neigh replace {address} lladdr {OLD_MAC} dev eth0 nud stale")


def peer_believes(where: TinyLab, address: str) -> str | None:
    entry = where.neighbours("peer").get(address)
    return entry.mac if entry else None


def is_router(where: TinyLab, address: str) -> bool:
    done = where.run("peer", ["ip", "-6", "-json", "neigh", "show", address])
    (entry,) = json.loads(done.stdout)
    return "router" in entry


@pytest.mark.parametrize("form", ["request", "reply", "both"])
def test_a_peers_entry_follows(tiny_lab6: TinyLab, tmp_path: Path, form: str) -> None:
    believe_the_old(tiny_lab6)
    with start(tiny_lab6, tmp_path, form):
        for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
            until(lambda a=address: peer_believes(tiny_lab6, a) == GUEST_MAC, f"{address} moves")


def test_a_reply_is_honoured_within_the_peers_locktime(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    """A second change within a second: only a reply that names its sender as target counts."""
    tiny_lab6.run("peer", ["sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=100000"])
    with start(tiny_lab6, tmp_path, "reply") as agent:
        believe_the_old(tiny_lab6)
        agent.burst()
        until(lambda: peer_believes(tiny_lab6, GUEST_ADDRESS) == GUEST_MAC, "the entry moves")
        tiny_lab6.ip("guest", f"link set eth0 address {NEW_MAC}")
        until(lambda: peer_believes(tiny_lab6, GUEST_ADDRESS) == NEW_MAC, "it moves again")


def test_a_probe_teaches_the_switch_and_no_neighbour(bridged_lab: TinyLab, tmp_path: Path) -> None:
    bridged_lab.ip("peer", f"neigh replace {GUEST_ADDRESS} lladdr {OLD_MAC} dev eth0 nud stale")
    with Capture(bridged_lab) as wire, start(bridged_lab, tmp_path, "probe"):
        wire.wait_for(GUEST_ADDRESS)
        assert bridged_lab.fdb("switch")[GUEST_MAC] == "guest"
    assert peer_believes(bridged_lab, GUEST_ADDRESS) == OLD_MAC


def test_peers_follow_a_change_of_hardware_address(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    with start(tiny_lab6, tmp_path) as agent, Capture(tiny_lab6) as wire:
        believe_the_old(tiny_lab6)
        agent.burst()
        wire.wait_for(GUEST_ADDRESS6)
        tiny_lab6.ip("guest", f"link set eth0 address {NEW_MAC}")
        wire.wait_for(GUEST_ADDRESS, NEW_MAC)
        until(lambda: peer_believes(tiny_lab6, GUEST_ADDRESS6) == NEW_MAC, "IPv6 moves")
        assert agent.sent_by("hardware-address-changed") >= 2
        # IPv4 moves unless the peer is in its locktime; the entry was confirmed by us just now.
        agent.burst()
        wire.clear()
        agent.burst()
        assert wire.announcements(mac=GUEST_MAC) == []
        assert wire.wait_for(GUEST_ADDRESS, NEW_MAC)[0][ARP].hwsrc == NEW_MAC


def test_the_router_flag_follows_forwarding(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
    with start(tiny_lab6, tmp_path) as agent:
        believe_the_old(tiny_lab6)
        agent.burst()
        until(lambda: peer_believes(tiny_lab6, GUEST_ADDRESS6) == GUEST_MAC, "the entry moves")
        assert is_router(tiny_lab6, GUEST_ADDRESS6)
        agent.burst()
        agent.burst()
        assert is_router(tiny_lab6, GUEST_ADDRESS6)

        tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"])
        # A host now: said at once, without waiting for a refresh.
        until(lambda: not is_router(tiny_lab6, GUEST_ADDRESS6), "the peer knows a host")

        tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.eth0.forwarding=1"])
        until(lambda: is_router(tiny_lab6, GUEST_ADDRESS6), "one interface is a router again")


def test_an_optimistic_address_never_overrides(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    options = ["optimistic_dad=1", "use_optimistic=1", "dad_transmits=30"]
    for option in options:
        tiny_lab6.run("guest", ["sysctl", "-qw", f"net.ipv6.conf.eth0.{option}"])
    with start(tiny_lab6, tmp_path) as agent:
        tiny_lab6.ip("guest", "address add 2001:db8::77/64 dev eth0 optimistic")
        show = tiny_lab6.run("guest", ["ip", "-json", "address", "show", "dev", "eth0"]).stdout
        flags: Any = [a for a in json.loads(show)[0]["addr_info"] if a["local"] == "2001:db8::77"]
        assert flags[0].get("optimistic"), "the kernel does not know optimistic addresses"
        (packet,) = wire.wait_for("2001:db8::77")
        assert packet[ICMPv6ND_NA].O == 0
        assert "2001:db8::77" in agent.announced()


def test_a_peer_without_an_entry_makes_none(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    with Capture(tiny_lab6) as wire, start(tiny_lab6, tmp_path):
        wire.wait_for(GUEST_ADDRESS)
        wire.wait_for(GUEST_ADDRESS6)
    assert GUEST_ADDRESS not in tiny_lab6.neighbours("peer")


# -- bridges --------------------------------------------------------------------------------


def test_a_bridge_moves_the_guest_to_the_port_where_it_speaks(
    bridged_lab: TinyLab, tmp_path: Path
) -> None:
    bridged_lab.ip("switch", "link add spare type veth peer name other", "link set spare up")
    bridged_lab.ip("switch", "link set other up", "link set spare master br0")
    with start(bridged_lab, tmp_path) as agent:
        for _ in range(3):
            bridged_lab.run(
                "switch",
                ["bridge", "fdb", "replace", GUEST_MAC, "dev", "spare", "master", "dynamic"],
            )
            assert bridged_lab.fdb("switch")[GUEST_MAC] == "spare"
            assert agent.burst() == 1
            # The reply comes after the frames, and a bridge learns in passing.
            assert bridged_lab.fdb("switch")[GUEST_MAC] == "guest"


def test_a_bridge_learns_from_a_frame_without_an_address(
    bridged_lab: TinyLab, tmp_path: Path
) -> None:
    bridged_lab.ip("guest", "address flush dev eth0")
    with start(bridged_lab, tmp_path, extra="mac_only: true\n") as agent:
        assert agent.burst() == 1
        assert bridged_lab.fdb("switch") == {GUEST_MAC: "guest"}


def test_nobody_answers_or_objects(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    """An announcement asks nothing: it causes no reply, no solicitation and no defence."""
    with Capture(tiny_lab6, "guest") as heard, start(tiny_lab6, tmp_path, "both") as agent:
        heard.clear()
        with Capture(tiny_lab6) as wire:
            for _ in range(3):
                agent.burst()
            wire.wait_for(GUEST_ADDRESS6, count=3)
        replies = [Ether(frame) for frame in heard.read()]
        assert [p.summary() for p in replies if ARP in p or ICMPv6ND_NA in p] == []


def test_announce_once_is_the_same_frame(tiny_lab6: TinyLab, wire: Capture) -> None:
    believe_the_old(tiny_lab6)
    done = command(tiny_lab6, "announce", "eth0")
    assert (done.returncode, done.stdout) == (0, "2 frames sent, 0 dropped\n")
    assert len(wire.announcements()) == 2
    assert peer_believes(tiny_lab6, GUEST_ADDRESS) == GUEST_MAC
    assert peer_believes(tiny_lab6, GUEST_ADDRESS6) == GUEST_MAC


def test_one_frame_each_first_then_the_other_addresses(
    tiny_lab6: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """Two links: whatever the number of addresses, each switch port hears of us at once."""
    where = tiny_lab6
    where.wire(("guest", "eth1", "peer", "eth1"))
    where.ip("guest", "link set eth1 up", "address add 198.51.100.10/24 dev eth1")
    where.ip("peer", "link set eth1 up")
    where.ip("guest", *(f"address add 192.0.2.{n}/24 dev eth0" for n in range(20, 24)))
    where.wait_until_up("guest", "peer")
    with Agent(where, tmp_path, "-v") as agent:
        assert agent.burst() == 7
        lines = until(
            lambda: (found := agent.log("frame-sent", cause="operator"))[6:] and found,
            "seven frames are logged",
        )
    assert sorted(line["interface"] for line in lines[:2]) == ["eth0", "eth1"]
    assert len({line["address"] for line in lines}) == 7
