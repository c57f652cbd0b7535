"""The daemon follows changes of its interfaces: it announces what is new and never what is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import (
    LONG_BURST,
    NEW_MAC,
    OTHER_MAC,
    QUIET,
    Agent,
    Capture,
    sysctl,
    until,
)

ADDED = "192.0.2.50"
MACVLAN = ("link add mv0 link eth0 type macvlan mode bridge", f"link set mv0 address {OTHER_MAC}")


# -- addresses ------------------------------------------------------------------------------


def test_added_address_is_announced_alone(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        wire.wait_for(GUEST_ADDRESS)
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        entry = agent.addresses()[ADDED]
        assert (entry["sent"], entry["last_cause"]) == (1, "address-added")
        assert agent.addresses()[GUEST_ADDRESS]["sent"] == 1
        assert len(agent.log("address-announced", address=ADDED)) == 1


@pytest.mark.parametrize("address", [f"{ADDED}/24", "2001:db8::50/64"])
def test_removed_address_is_not_announced_from_the_next_frame_on(
    lab6: TinyLab, wire6: Capture, tmp_path: Path, address: str
) -> None:
    text, _, length = address.partition("/")
    nodad = "nodad" if length == "64" else ""
    with Agent(lab6, tmp_path, config=LONG_BURST) as agent:
        before = agent.announced()
        for _ in range(3):
            lab6.ip("guest", f"address add {address} dev eth0 {nodad}")
            wire6.wait_for(text)
            with agent.stopped():
                lab6.ip("guest", f"address del {address} dev eth0")
                wire6.clear()
            # The rounds that fell due meanwhile, and this burst, come after the removal.
            assert agent.burst() == 2
            wire6.wait_for(GUEST_ADDRESS)
            assert agent.announced() == before
            assert wire6.announcements(text) == []


def test_removal_behind_hundreds_of_events_is_read_before_the_next_frame(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST) as agent:
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        with agent.asked_while_stopped() as value:
            churn = [f"address add 10.0.{n // 200}.{n % 200}/32 dev lo" for n in range(400)]
            tiny_lab.ip("guest", *churn, f"address del {ADDED}/24 dev eth0")
            wire.clear()
        assert value[0]["frames"] == 1
        assert wire.announcements(ADDED) == []
        assert agent.status()["overruns"] == 0


def test_address_with_two_prefixes_is_announced_until_both_are_removed(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", f"address add {GUEST_ADDRESS}/32 dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        for length, frames in ((24, 1), (32, 0)):
            assert agent.burst() == 1
            tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/{length} dev eth0")
            assert agent.burst() == frames


def test_address_on_two_links_is_announced_by_each_until_one_is_deleted(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", *MACVLAN, "link set mv0 up", f"address add {GUEST_ADDRESS}/24 dev mv0")
    with Agent(tiny_lab, tmp_path, config=f"{QUIET}conflict: {{policy: warn}}\n") as agent:
        wire.wait_for(GUEST_ADDRESS, OTHER_MAC)
        wire.wait_for(GUEST_ADDRESS)
        tiny_lab.ip("guest", "link del mv0")
        wire.clear()
        assert agent.burst() == 1
        assert wire.announcements(mac=OTHER_MAC) == []
        assert len(wire.announcements(GUEST_ADDRESS)) == 1


@pytest.mark.parametrize("address", [f"{ADDED}/24", "2001:db8::50/64"])
def test_expired_address_is_not_announced(
    lab6: TinyLab, wire6: Capture, tmp_path: Path, address: str
) -> None:
    text, _, length = address.partition("/")
    lifetimes = "valid_lft 1 preferred_lft 1" + (" nodad" if length == "64" else "")
    with Agent(lab6, tmp_path) as agent:
        lab6.ip("guest", f"address add {address} dev eth0 {lifetimes}")
        wire6.wait_for(text)
        until(lambda: text not in agent.addresses(), "it has expired")
        wire6.clear()
        assert agent.burst() == 2
        assert wire6.announcements(text) == []


@pytest.mark.parametrize(("promote", "left"), [(0, set()), (1, {"192.0.2.60"})])
def test_secondary_address_goes_with_its_primary_unless_promoted(
    tiny_lab: TinyLab, tmp_path: Path, promote: int, left: set[str]
) -> None:
    sysctl(tiny_lab, "guest", f"net.ipv4.conf.all.promote_secondaries={promote}")
    tiny_lab.ip("guest", "address add 192.0.2.60/24 dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        assert len(agent.announced()) == 2
        tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        assert agent.announced() == left


# -- links ----------------------------------------------------------------------------------

OUTAGES = {
    "down": ("guest", "link set eth0 down", "link set eth0 up"),
    "no carrier": ("peer", "link set eth0 down", "link set eth0 up"),
    "dormant": ("guest", "link set eth0 state dormant", "link set eth0 state up"),
    "no ARP on this link (NOARP)": ("guest", "link set eth0 arp off", "link set eth0 arp on"),
    "port of a bridge, bond or team": (
        "guest",
        "link set eth0 master br0",
        "link set eth0 nomaster",
    ),
}


@pytest.mark.parametrize("reason", OUTAGES)
def test_link_that_becomes_unfit_is_withdrawn_and_announced_when_fit_again(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path, reason: str
) -> None:
    role, begin, end = OUTAGES[reason]
    tiny_lab.ip("guest", "link add br0 type bridge forward_delay 0", "link set br0 up")
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.ip(role, begin)
        until(lambda: agent.addresses()[GUEST_ADDRESS]["skipped"] == reason, f"it is {reason}")
        assert agent.burst() == 0
        wire.clear()
        tiny_lab.ip(role, end)
        wire.wait_for(GUEST_ADDRESS)
        assert agent.addresses()[GUEST_ADDRESS]["last_cause"] == "link-up"
        assert agent.status()["frames"]["dropped"] == {}


def test_link_held_dormant_makes_the_macvlan_on_it_dormant(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    """As with 802.1X: there is a carrier, but the switch does not forward yet."""
    tiny_lab.ip("guest", *MACVLAN, "link set mv0 up", f"address add {ADDED}/24 dev mv0")
    with Agent(tiny_lab, tmp_path) as agent:
        until(lambda: agent.announced("mv0"), "the macvlan is announced")
        tiny_lab.ip("guest", "link set eth0 state dormant")
        until(lambda: agent.addresses("mv0")[ADDED]["skipped"] == "dormant", "it is dormant")


def test_carrier_that_returns_makes_stacked_links_announce(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """The bridge keeps a carrier by its other port, so nothing happens to the bridge itself."""
    tiny_lab.ip(
        "guest",
        "link add br0 type bridge forward_delay 0",
        "link set eth0 master br0",
        "link add other type veth peer name end",
        "link set other up master br0",
        "link set end up",
        f"link set br0 address {OTHER_MAC} up",
        f"address add {ADDED}/24 dev br0",
    )
    with Agent(tiny_lab, tmp_path) as agent:
        wire.wait_for(ADDED, OTHER_MAC)
        tiny_lab.ip("peer", "link set eth0 down")
        wire.clear()
        before = agent.sent()
        tiny_lab.ip("peer", "link set eth0 up")
        wire.wait_for(ADDED, OTHER_MAC)
        assert agent.sent() == before + 1
        assert agent.addresses("br0")[ADDED]["last_cause"] == "link-up"


def test_hardware_address_changed_during_a_burst_is_used_from_the_next_frame_on(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST) as agent:
        wire.wait_for(GUEST_ADDRESS)
        with agent.stopped():
            tiny_lab.ip("guest", f"link set eth0 address {NEW_MAC}")
            wire.clear()
        wire.wait_for(GUEST_ADDRESS, NEW_MAC)
        agent.burst()
        assert wire.announcements(mac=GUEST_MAC) == []
        assert (agent.link("eth0") or {})["hardware_address"] == NEW_MAC
        assert agent.sent_by("hardware-address-changed") >= 1


def test_renamed_link_is_selected_by_its_new_name(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    config = f"{QUIET}interfaces:\n  exclude: ['hidden*']\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for old, new in (("eth0", "wan"), ("wan", "hidden0"), ("hidden0", "eth0")):
            tiny_lab.ip("guest", f"link set {old} down", f"link set {old} name {new}")
            tiny_lab.ip("guest", f"link set {new} up")
            assert agent.link(old) is None
            wanted = set() if new == "hidden0" else {GUEST_ADDRESS}
            until(lambda n=new, w=wanted: agent.announced(n) == w, f"{new} is selected or not")
            wire.clear()
            assert agent.burst() == len(wanted)
            assert len(wire.announcements(GUEST_ADDRESS)) == len(wanted)


def test_links_that_swap_names_while_it_is_stopped_send_their_own_frames(
    two_links: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    where = two_links
    with Capture(where, link="eth1") as other, Agent(where, tmp_path, config=LONG_BURST) as agent:
        other.wait_for("198.51.100.10", OTHER_MAC)
        for _ in range(3):
            with agent.stopped():
                for one, another in (("eth0", "x"), ("eth1", "eth0"), ("x", "eth1")):
                    where.ip("guest", f"link set {one} down", f"link set {one} name {another}")
                where.ip("guest", "link set eth0 up", "link set eth1 up")
            where.wait_until_up("guest", "peer")
            until(lambda: agent.announced("eth0") and agent.announced("eth1"), "both are back")
            agent.burst()
        wire.wait_for(GUEST_ADDRESS)
        assert wire.announcements(mac=OTHER_MAC) == []
        assert other.announcements(mac=GUEST_MAC) == []


@pytest.mark.parametrize("same_index", [False, True], ids=["another index", "the same index"])
def test_link_recreated_under_its_name_is_announced_as_the_new_link(
    tiny_lab: TinyLab, tmp_path: Path, same_index: bool
) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST) as agent:
        first = (agent.link("eth0") or {})["ifindex"]
        for turn in range(3):
            address = f"192.0.2.{80 + turn}"
            with agent.stopped():
                index = first + (0 if same_index else 100 + turn)
                peer = f"peer name eth0 netns {tiny_lab.namespace('peer')}"
                tiny_lab.ip("guest", "link del eth0")
                tiny_lab.ip("guest", f"link add eth0 index {index} type veth {peer}")
                wire = Capture(tiny_lab)
                tiny_lab.ip("peer", "link set eth0 up")
                tiny_lab.host("guest", "eth0", GUEST_MAC, f"{address}/24")
            with wire:
                wire.wait_for(address)
                agent.burst()
                assert len(wire.announcements()) == len(wire.announcements(address))
            assert [link["ifindex"] for link in agent.status()["links"][1:]] == [index]


def test_link_moved_to_another_namespace_and_back_is_withdrawn_and_found(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    where = tiny_lab
    with Agent(where, tmp_path, config=LONG_BURST) as agent:
        wire.wait_for(GUEST_ADDRESS)
        with agent.stopped():
            where.ip("guest", f"link set eth0 netns {where.namespace('peer')} name moved")
            where.host("peer", "moved", GUEST_MAC, f"{GUEST_ADDRESS}/24")
            wire.clear()
        assert agent.burst() == 0
        assert agent.link("eth0") is None
        assert wire.announcements() == []
        assert len(agent.log("link-withdrawn", interface="eth0", reason="gone")) == 1
        where.ip("peer", f"link set moved netns {where.namespace('guest')} name eth0")
        where.host("guest", "eth0", GUEST_MAC, f"{ADDED}/24")
        wire.wait_for(ADDED)
        assert wire.announcements(GUEST_ADDRESS) == []


# -- the token bucket, IPv6 -----------------------------------------------------------------


def test_token_bucket_holds_whatever_triggers_a_burst(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """Depth 5, and a rate that adds no token during the test: 0.1 a second."""
    config = f"{QUIET}rate_limit:\n  frames_per_second: 0.1\n  depth: 5\n"
    changes = [
        f"address add {ADDED}/24 dev eth0",
        f"link set eth0 address {NEW_MAC}",
        "link set eth0 down",
        "link set eth0 up",
        f"address del {ADDED}/24 dev eth0",
        f"link set eth0 address {GUEST_MAC}",
    ]
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for change in changes * 8:
            tiny_lab.ip("guest", change)
            agent.burst()  # after it has read the change
        status = agent.status()
        assert 5 <= status["frames"]["sent"] <= 5 + status["uptime"] * 0.1 + 1
        assert (agent.link("eth0") or {})["held"] >= 1


def test_ipv6_address_dropped_by_the_kernel_is_withdrawn(
    lab6: TinyLab, wire6: Capture, tmp_path: Path
) -> None:
    """The kernel drops all IPv6 addresses of a link that goes down, and keeps those of IPv4."""
    with Agent(lab6, tmp_path) as agent:
        lab6.ip("guest", "link set eth0 down", "link set eth0 up")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "only IPv4 is left")
        sysctl(lab6, "guest", "net.ipv6.conf.eth0.disable_ipv6=1")
        sysctl(lab6, "guest", "net.ipv6.conf.eth0.disable_ipv6=0")
        lab6.ip("guest", "address add 2001:db8::51/64 dev eth0 nodad")
        wire6.wait_for("2001:db8::51")
