"""The daemon's frames on the wire, and what a real peer and a real bridge learn from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, TinyLab
from tests import golden
from tests.netns.agent import (
    NEW_MAC,
    QUIET,
    RARP,
    Agent,
    Capture,
    believed,
    sysctl,
    until,
)

OLD_MAC = "02:00:5e:00:53:99"
GOLDEN_MAC = "02:00:00:00:00:0a"  # the sender of the golden frames


def start(where: TinyLab, directory: Path, extra: str = "") -> Agent:
    return Agent(where, directory, config=f"{QUIET}{extra}")


# -- bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "config", "names"),
    [
        ("192.0.2.1/24", "arp: request\n", "arp-announcement"),
        ("192.0.2.1/24", "arp: reply\n", "arp-reply"),
        ("192.0.2.1/24", "arp: both\n", "arp-announcement arp-reply"),
        ("192.0.2.77/24", "arp: probe\n", "arp-probe"),
        ("2001:db8::1/64", "", "unsolicited-na"),
        ("2001:db8::2/64", "", "unsolicited-na-router"),
        ("", "mac_only: true\n", "rarp"),
    ],
    ids=["request", "reply", "both", "probe", "na", "na of a router", "rarp"],
)
def test_frame_on_the_wire_is_the_golden_frame(
    lab6: TinyLab, wire6: Capture, tmp_path: Path, address: str, config: str, names: str
) -> None:
    sysctl(lab6, "guest", f"net.ipv6.conf.all.forwarding={int('router' in names)}")
    for role in ("guest", "peer"):
        lab6.ip(role, "address flush dev eth0")
    lab6.ip("guest", f"link set eth0 address {GOLDEN_MAC}")
    if address:
        nodad = "nodad" if ":" in address else ""
        lab6.ip("guest", f"address add {address} dev eth0 {nodad}")
    with start(lab6, tmp_path, config):
        packets = wire6.wait_for(mac=GOLDEN_MAC, count=len(names.split()))
    assert [bytes(packet).hex(" ") for packet in packets] == [
        golden.read(f"frames/{name}").hex(" ") for name in names.split()
    ]


def test_dry_run_logs_frames_and_sends_none(lab6: TinyLab, wire6: Capture, tmp_path: Path) -> None:
    with Agent(lab6, tmp_path, "--dry-run") as agent:
        agent.wait_for_log("frame-sent", cause="start", count=2)
        lab6.ip("guest", "address add 192.0.2.77/24 dev eth0")
        line = agent.wait_for_log("frame-sent", address="192.0.2.77")
        assert (line["interface"], line["kind"]) == ("eth0", "arp-request")
        assert line["dry_run"] == "nothing is sent"
        assert agent.status()["dry_run"]
        assert agent.burst() == 3
    assert wire6.announcements() == []


# -- peers ----------------------------------------------------------------------------------


def make_entries_stale(where: TinyLab) -> None:
    """Give the peer entries for the guest's addresses with another hardware address."""
    for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
        where.ip("peer", f"neigh replace {address} lladdr {OLD_MAC} dev eth0 nud stale")


def wait_until_believed(where: TinyLab, address: str, mac: str = GUEST_MAC) -> None:
    until(lambda: believed(where, address) == mac, f"the peer has {mac} for {address}")


@pytest.mark.parametrize("form", ["request", "reply", "both"])
def test_neighbour_entry_of_a_peer_follows_the_announcement(
    lab6: TinyLab, tmp_path: Path, form: str
) -> None:
    make_entries_stale(lab6)
    with start(lab6, tmp_path, f"arp: {form}\n"):
        for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
            wait_until_believed(lab6, address)


def test_arp_reply_within_the_locktime_of_a_peer_moves_its_entry(
    lab6: TinyLab, tmp_path: Path
) -> None:
    """Within the locktime, Linux accepts only a reply that names its sender as target."""
    sysctl(lab6, "peer", "net.ipv4.neigh.eth0.locktime=100000")
    with start(lab6, tmp_path, "arp: reply\n") as agent:
        make_entries_stale(lab6)
        agent.burst()
        wait_until_believed(lab6, GUEST_ADDRESS)
        lab6.ip("guest", f"link set eth0 address {NEW_MAC}")
        for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
            wait_until_believed(lab6, address, NEW_MAC)


def test_arp_probe_teaches_the_switch_and_no_neighbour(
    bridged_lab: TinyLab, tmp_path: Path
) -> None:
    bridged_lab.ip("peer", f"neigh replace {GUEST_ADDRESS} lladdr {OLD_MAC} dev eth0 nud stale")
    with Capture(bridged_lab) as wire, start(bridged_lab, tmp_path, "arp: probe\n"):
        wire.wait_for(GUEST_ADDRESS)
        assert bridged_lab.fdb("switch")[GUEST_MAC] == "guest"
    assert believed(bridged_lab, GUEST_ADDRESS) == OLD_MAC


def test_router_flag_of_a_peer_follows_forwarding(lab6: TinyLab, tmp_path: Path) -> None:
    def is_router() -> bool:
        shown = lab6.run("peer", ["ip", "-6", "-json", "neigh", "show", GUEST_ADDRESS6]).stdout
        return "router" in json.loads(shown)[0]

    sysctl(lab6, "guest", "net.ipv6.conf.all.forwarding=1")
    with start(lab6, tmp_path) as agent:
        make_entries_stale(lab6)
        agent.burst()
        wait_until_believed(lab6, GUEST_ADDRESS6)
        assert is_router()
        agent.burst()
        assert is_router()
        # The agent announces each change at once: no refresh is due.
        sysctl(lab6, "guest", "net.ipv6.conf.all.forwarding=0")
        until(lambda: not is_router(), "the peer knows a host")
        sysctl(lab6, "guest", "net.ipv6.conf.eth0.forwarding=1")
        until(is_router, "the peer knows a router again")


def test_optimistic_address_is_announced_without_override(
    lab6: TinyLab, wire6: Capture, tmp_path: Path
) -> None:
    for option in ("optimistic_dad=1", "use_optimistic=1", "dad_transmits=30"):
        sysctl(lab6, "guest", f"net.ipv6.conf.eth0.{option}")
    with start(lab6, tmp_path) as agent:
        lab6.ip("guest", "address add 2001:db8::77/64 dev eth0 optimistic")
        shown = lab6.run("guest", ["ip", "address", "show", "dev", "eth0"]).stdout
        assert "optimistic" in shown, "the kernel does not know optimistic addresses"
        (packet,) = wire6.wait_for("2001:db8::77")
        assert packet[ICMPv6ND_NA].O == 0
        assert "2001:db8::77" in agent.announced()


def test_announcements_make_no_entry_in_a_peer_and_draw_no_answer(
    lab6: TinyLab, wire6: Capture, tmp_path: Path
) -> None:
    with Capture(lab6, "guest") as heard, start(lab6, tmp_path, "arp: both\n") as agent:
        for _ in range(3):
            agent.burst()
        wire6.wait_for(GUEST_ADDRESS6, count=3)
        answers = [Ether(frame) for frame in heard.read()]
    assert [p.summary() for p in answers if ARP in p or ICMPv6ND_NA in p] == []
    assert GUEST_ADDRESS not in lab6.neighbours("peer")


# -- bridges --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [GUEST_ADDRESS, RARP])
def test_bridge_moves_the_guest_to_the_port_where_it_announces(
    bridged_lab: TinyLab, tmp_path: Path, what: str
) -> None:
    bridged_lab.ip("switch", "link add spare type veth peer name other", "link set spare up")
    bridged_lab.ip("switch", "link set other up", "link set spare master br0")
    if what == RARP:
        bridged_lab.ip("guest", "address flush dev eth0")
    stale = f"bridge fdb replace {GUEST_MAC} dev spare master dynamic".split()
    with start(bridged_lab, tmp_path, "mac_only: true\n") as agent:
        for _ in range(3):
            bridged_lab.run("switch", stale)
            assert bridged_lab.fdb("switch")[GUEST_MAC] == "spare"
            assert agent.burst() == 1
            # The reply follows the frames, and a bridge learns before it forwards.
            assert bridged_lab.fdb("switch")[GUEST_MAC] == "guest"
