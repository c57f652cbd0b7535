"""The daemon's frames on the wire, and what a real peer and a real bridge learn from them."""

from __future__ import annotations

import json

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6, GUEST_MAC, TinyLab
from tests import golden
from tests.netns.agent import (
    NEW_MAC,
    QUIET,
    RARP,
    WITH_RARP,
    WITHOUT_CHECK,
    Capture,
    Site,
    believed,
    set_entry,
    until,
    wait_until_believed,
)

OLD_MAC = "02:00:5e:00:53:99"
GOLDEN_MAC = "02:00:00:00:00:0a"  # the sender of the golden frames


@pytest.mark.parametrize(
    ("address", "config", "names"),
    [
        ("192.0.2.1/24", "arp: request\n", "arp-announcement"),
        ("192.0.2.1/24", "arp: reply\n", "arp-reply"),
        ("192.0.2.1/24", "arp: both\n", "arp-announcement arp-reply"),
        ("192.0.2.77/24", "arp: probe\n", "arp-probe"),
        ("2001:db8::1/64", "", "unsolicited-na"),
        ("2001:db8::2/64", "", "unsolicited-na-router"),
        ("", "", "rarp"),
    ],
    ids=["request", "reply", "both", "probe", "na", "na of a router", "rarp"],
)
def test_frame_on_the_wire_is_the_golden_frame(
    site6: Site, address: str, config: str, names: str
) -> None:
    site6.sysctl("guest", f"net.ipv6.conf.all.forwarding={int('router' in names)}")
    for role in ("guest", "peer"):
        site6.lab.ip(role, "address flush dev eth0")
    site6.guest(f"link set eth0 address {GOLDEN_MAC}")
    if address:
        nodad = "nodad" if ":" in address else ""
        site6.guest(f"address add {address} dev eth0 {nodad}")
    config += WITHOUT_CHECK
    frames = [golden.read(f"frames/{name}") for name in names.split()]
    with site6.start(config=WITH_RARP + config):
        packets = site6.wire.wait_for(mac=GOLDEN_MAC, count=len(frames))
    # A refresh, which sends the same again, can follow at once.
    found = [bytes(packet).hex(" ") for packet in packets[: len(frames)]]
    assert found == [frame.hex(" ") for frame in frames]


def make_entries_stale(where: TinyLab) -> None:
    for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
        set_entry(where, address, OLD_MAC)


@pytest.mark.parametrize("form", ["request", "reply", "both"])
def test_neighbour_entry_of_a_peer_follows_the_announcement(site6: Site, form: str) -> None:
    make_entries_stale(site6.lab)
    with site6.start(config=f"{QUIET}arp: {form}\n"):
        for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
            wait_until_believed(site6.lab, address)


def test_arp_reply_within_the_locktime_of_a_peer_moves_its_entry(site6: Site) -> None:
    """Within the locktime, Linux takes a reply only if its target is its sender (arp_is_garp)."""
    site6.sysctl("peer", "net.ipv4.neigh.eth0.locktime=100000")
    with site6.start(config=f"{QUIET}arp: reply\n") as agent:
        make_entries_stale(site6.lab)
        agent.burst()
        wait_until_believed(site6.lab, GUEST_ADDRESS)
        site6.guest(f"link set eth0 address {NEW_MAC}")
        for address in (GUEST_ADDRESS, GUEST_ADDRESS6):
            wait_until_believed(site6.lab, address, NEW_MAC)


def test_arp_probe_teaches_the_switch_and_no_neighbour(bridged: Site) -> None:
    set_entry(bridged.lab, GUEST_ADDRESS, OLD_MAC)
    with bridged.start(config=f"{QUIET}arp: probe\n"):
        bridged.wire.wait_for(GUEST_ADDRESS)
        assert bridged.lab.fdb("switch")[GUEST_MAC] == "guest"
    assert believed(bridged.lab, GUEST_ADDRESS) == OLD_MAC


def test_router_flag_of_a_peer_follows_forwarding(site6: Site) -> None:
    def is_router() -> bool:
        shown = site6.lab.run("peer", ["ip", "-6", "-json", "neigh", "show", GUEST_ADDRESS6]).stdout
        return "router" in json.loads(shown)[0]

    site6.sysctl("guest", "net.ipv6.conf.all.forwarding=1")
    with site6.start() as agent:
        make_entries_stale(site6.lab)
        agent.burst()
        wait_until_believed(site6.lab, GUEST_ADDRESS6)
        assert is_router()
        agent.burst()
        assert is_router()
        # The agent announces each change at once: no refresh is due.
        site6.sysctl("guest", "net.ipv6.conf.all.forwarding=0")
        until(lambda: not is_router(), "the peer knows a host")
        site6.sysctl("guest", "net.ipv6.conf.eth0.forwarding=1")
        until(is_router, "the peer knows a router again")


def test_optimistic_address_is_announced_without_override(site6: Site) -> None:
    for option in ("optimistic_dad=1", "use_optimistic=1", "dad_transmits=30"):
        site6.sysctl("guest", f"net.ipv6.conf.eth0.{option}")
    with site6.start() as agent:
        site6.guest("address add 2001:db8::77/64 dev eth0 optimistic")
        shown = site6.lab.run("guest", ["ip", "address", "show", "dev", "eth0"]).stdout
        assert "optimistic" in shown, "the kernel does not know optimistic addresses"
        (packet,) = site6.wire.wait_for("2001:db8::77")
        assert packet[ICMPv6ND_NA].O == 0
        assert "2001:db8::77" in agent.announced()


def test_announcements_make_no_entry_in_a_peer_and_draw_no_answer(site6: Site) -> None:
    with Capture(site6.lab, "guest") as heard, site6.start(config=f"{QUIET}arp: both\n") as agent:
        for _ in range(3):
            agent.burst()
        site6.wire.wait_for(GUEST_ADDRESS6, count=3)
        answers = [Ether(frame) for frame in heard.read()]
    assert [p.summary() for p in answers if ARP in p or ICMPv6ND_NA in p] == []
    assert GUEST_ADDRESS not in site6.lab.neighbours("peer")


@pytest.mark.parametrize("what", [GUEST_ADDRESS, RARP])
def test_bridge_moves_the_guest_to_the_port_where_it_announces(bridged: Site, what: str) -> None:
    bridged.lab.ip(
        "switch",
        "link add spare type veth peer name other",
        "link set spare up master br0",
        "link set other up",
    )
    if what == RARP:
        bridged.guest("address flush dev eth0")
    stale = f"bridge fdb replace {GUEST_MAC} dev spare master dynamic".split()
    with bridged.start(config=WITH_RARP) as agent:
        for _ in range(3):
            bridged.lab.run("switch", stale)
            assert bridged.lab.fdb("switch")[GUEST_MAC] == "spare"
            assert agent.burst() == 1
            # The reply follows the frames, and a bridge learns before it forwards.
            assert bridged.lab.fdb("switch")[GUEST_MAC] == "guest"
