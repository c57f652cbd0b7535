"""The daemon follows changes of its interfaces: it announces what is new and never what is gone."""

from __future__ import annotations

import signal

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from tests.netns.agent import (
    LONG_BURST,
    NEW_MAC,
    OTHER_MAC,
    QUIET,
    WITHOUT_CHECK,
    Capture,
    Site,
    announced,
    until,
)

ADDED = "192.0.2.50"


@pytest.mark.parametrize("address", [f"{ADDED}/24", "2001:db8::50/64"])
def test_removed_address_is_not_announced_from_the_next_frame_on(site6: Site, address: str) -> None:
    text, _, length = address.partition("/")
    nodad = "nodad" if length == "64" else ""
    with site6.start(config=LONG_BURST) as agent:
        before = agent.announced()
        for _ in range(3):
            site6.guest(f"address add {address} dev eth0 {nodad}")
            site6.wire.wait_for(text)
            with agent.stopped():
                site6.guest(f"address del {address} dev eth0")
                site6.wire.clear()
            # The rounds that fell due meanwhile, and this burst, come after the removal.
            assert agent.burst() == 2
            site6.wire.wait_for(GUEST_ADDRESS)
            assert agent.announced() == before
            assert site6.wire.announcements(text) == []


def test_removal_behind_hundreds_of_events_is_read_before_the_next_frame(site: Site) -> None:
    with site.start(config=LONG_BURST) as agent:
        site.guest(f"address add {ADDED}/24 dev eth0")
        site.wire.wait_for(ADDED)
        with agent.stopped():
            churn = [f"address add 10.0.{n // 200}.{n % 200}/32 dev lo" for n in range(400)]
            site.guest(*churn, f"address del {ADDED}/24 dev eth0")
            site.wire.clear()
            agent.kill(signal.SIGUSR1)
        until(lambda: agent.sent_by("operator"), "it bursts")
        assert site.wire.announcements(ADDED) == []
        assert agent.status()["overruns"] == 0


@pytest.mark.parametrize(("promote", "left"), [(0, set()), (1, {"192.0.2.60"})])
def test_secondary_address_goes_with_its_primary_unless_promoted(
    site: Site, promote: int, left: set[str]
) -> None:
    site.sysctl("guest", f"net.ipv4.conf.all.promote_secondaries={promote}")
    site.guest("address add 192.0.2.60/24 dev eth0")
    with site.start() as agent:
        assert len(agent.announced()) == 2
        site.guest(f"address del {GUEST_ADDRESS}/24 dev eth0")
        assert agent.announced() == left


# Reason in the status: where eth0 is changed, how, and how back.
OUTAGES = {
    "down": ("guest", "down", "up"),
    "no carrier": ("peer", "down", "up"),
    "no ARP on this link (NOARP)": ("guest", "arp off", "arp on"),
    "port of a bridge, bond or team": ("guest", "master br0", "nomaster"),
}


@pytest.mark.parametrize("reason", OUTAGES)
def test_link_that_becomes_unfit_is_withdrawn_and_announced_when_fit_again(
    site: Site, reason: str
) -> None:
    role, begin, end = OUTAGES[reason]
    site.guest("link add br0 type bridge forward_delay 0", "link set br0 up")
    with site.start() as agent:
        site.lab.ip(role, f"link set eth0 {begin}")
        until(lambda: agent.addresses()[GUEST_ADDRESS]["skipped"] == reason, f"it is {reason}")
        assert agent.burst() == 0
        site.wire.clear()
        site.lab.ip(role, f"link set eth0 {end}")
        site.wire.wait_for(GUEST_ADDRESS)
        assert agent.addresses()[GUEST_ADDRESS]["last_cause"] == "link-up"
        assert agent.status()["frames"]["dropped"] == {}


def test_dormant_link_that_has_its_carrier_is_announced_and_again_when_it_is_authorised(
    site: Site,
) -> None:
    """The supplicant has died: the mode stays, so the carrier comes back to a dormant link."""
    with site.start(config=QUIET + WITHOUT_CHECK) as agent:
        site.guest("link set eth0 mode dormant")
        site.lab.ip("peer", "link set eth0 down")
        agent.wait_for_log("link-withdrawn", interface="eth0")
        site.wire.clear()
        site.lab.ip("peer", "link set eth0 up")
        site.wire.wait_for(GUEST_ADDRESS)
        assert "state DORMANT" in site.lab.run("guest", ["ip", "link", "show", "eth0"]).stdout
        assert agent.sent_by("link-up") == 1
        site.guest("link set eth0 mode default", "link set eth0 state up")
        until(lambda: agent.sent_by("link-up") == 2, "it announces the link that is ready")


def test_carrier_that_returns_makes_stacked_links_announce(site: Site) -> None:
    """The bridge keeps a carrier by its other port, so nothing happens to the bridge itself."""
    site.guest(
        "link add br0 type bridge forward_delay 0",
        "link set eth0 master br0",
        "link add other type veth peer name end",
        "link set other up master br0",
        "link set end up",
        f"link set br0 address {OTHER_MAC} up",
        f"address add {ADDED}/24 dev br0",
    )
    with site.start(config=QUIET + WITHOUT_CHECK) as agent:
        site.wire.wait_for(ADDED, OTHER_MAC)
        site.lab.ip("peer", "link set eth0 down")
        site.wire.clear()
        site.lab.ip("peer", "link set eth0 up")
        site.wire.wait_for(ADDED, OTHER_MAC)
        assert agent.sent_by("link-up") == 1
        assert agent.addresses("br0")[ADDED]["last_cause"] == "link-up"


def test_hardware_address_changed_during_a_burst_is_used_from_the_next_frame_on(site: Site) -> None:
    with site.start(config=LONG_BURST) as agent:
        site.wire.wait_for(GUEST_ADDRESS)
        with agent.stopped():
            site.guest(f"link set eth0 address {NEW_MAC}")
            site.wire.clear()
        site.wire.wait_for(GUEST_ADDRESS, NEW_MAC)
        agent.burst()
        assert site.wire.announcements(mac=GUEST_MAC) == []
        assert (agent.link("eth0") or {})["hardware_address"] == NEW_MAC
        assert agent.sent_by("hardware-address-changed") >= 1


def test_renamed_link_is_selected_by_its_new_name(site: Site) -> None:
    config = f"{QUIET}{WITHOUT_CHECK}interfaces:\n  exclude: ['hidden*']\n"
    with site.start(config=config) as agent:
        for old, new in (("eth0", "wan"), ("wan", "hidden0"), ("hidden0", "eth0")):
            site.guest(f"link set {old} down", f"link set {old} name {new}")
            site.guest(f"link set {new} up")
            until(lambda o=old: agent.link(o) is None, f"{old} is gone")
            wanted = set() if new == "hidden0" else {GUEST_ADDRESS}
            until(lambda n=new, w=wanted: agent.announced(n) == w, f"{new} is selected or not")
            site.wire.clear()
            assert agent.burst() == len(wanted)
            assert len(site.wire.announcements(GUEST_ADDRESS)) == len(wanted)


def test_links_that_swap_names_while_it_is_stopped_send_their_own_frames(site2: Site) -> None:
    where = site2.lab
    with Capture(where, link="eth1") as other, site2.start(config=LONG_BURST) as agent:
        other.wait_for("198.51.100.10", OTHER_MAC)
        for _ in range(3):
            with agent.stopped():
                for one, another in (("eth0", "x"), ("eth1", "eth0"), ("x", "eth1")):
                    where.ip("guest", f"link set {one} down", f"link set {one} name {another}")
                where.ip("guest", "link set eth0 up", "link set eth1 up")
            where.wait_until_up("guest", "peer")
            until(lambda: agent.announced("eth0") and agent.announced("eth1"), "both are back")
            agent.burst()
        site2.wire.wait_for(GUEST_ADDRESS)
        assert site2.wire.announcements(mac=OTHER_MAC) == []
        assert other.announcements(mac=GUEST_MAC) == []


@pytest.mark.parametrize("same_index", [False, True], ids=["another index", "the same index"])
def test_link_recreated_under_its_name_is_announced_as_the_new_link(
    site: Site, same_index: bool
) -> None:
    with site.start(config=LONG_BURST) as agent:
        first = (agent.link("eth0") or {})["ifindex"]
        for turn in range(3):
            address = f"192.0.2.{80 + turn}"
            with agent.stopped():
                index = first + (0 if same_index else 100 + turn)
                peer = f"peer name eth0 netns {site.lab.namespace('peer')}"
                site.guest("link del eth0")
                site.guest(f"link add eth0 index {index} type veth {peer}")
                wire = Capture(site.lab)  # the other one is on the old link
                site.lab.ip("peer", "link set eth0 up")
                site.lab.host("guest", "eth0", GUEST_MAC, f"{address}/24")
            with wire:
                wire.wait_for(address)
                agent.burst()
                assert {announced(packet) for packet in wire.announcements()} == {address}
            assert [link["ifindex"] for link in agent.status()["links"][1:]] == [index]


def test_link_moved_to_another_namespace_and_back_is_withdrawn_and_found(site: Site) -> None:
    where = site.lab
    with site.start(config=LONG_BURST) as agent:
        site.wire.wait_for(GUEST_ADDRESS)
        with agent.stopped():
            where.ip("guest", f"link set eth0 netns {where.namespace('peer')} name moved")
            where.host("peer", "moved", GUEST_MAC, f"{GUEST_ADDRESS}/24")
            site.wire.clear()
        assert agent.burst() == 0
        assert agent.link("eth0") is None
        assert site.wire.announcements() == []
        assert len(agent.log("link-withdrawn", interface="eth0", reason="gone")) == 1
        where.ip("peer", f"link set moved netns {where.namespace('guest')} name eth0")
        where.host("guest", "eth0", GUEST_MAC, f"{ADDED}/24")
        site.wire.wait_for(ADDED)
        assert site.wire.announcements(GUEST_ADDRESS) == []
