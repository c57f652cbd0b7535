"""The daemon follows what happens to its interfaces, and forgets at once what is no longer ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import QUIET, Agent, Capture, forget_link_local, until

ADDED = "192.0.2.50"
NEW_MAC = "02:00:5e:00:53:77"
OTHER_MAC = "02:00:5e:00:53:20"
# A burst that is still under way whenever a test does something: ten rounds, no bucket to speak of.
LONG_BURST = f"{QUIET.replace('[0s]', '[0s, 1s, 2s, 3s, 4s, 5s, 6s, 7s, 8s, 9s]')}"
NO_BUCKET = "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"


@pytest.fixture
def wire(tiny_lab: TinyLab) -> Iterator[Capture]:
    with Capture(tiny_lab) as capture:
        yield capture


# -- addresses ------------------------------------------------------------------------------


def test_an_added_address_is_announced_and_nothing_else(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        wire.wait_for(GUEST_ADDRESS)
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        entry = agent.addresses()[ADDED]
        assert (entry["sent"], entry["last_cause"]) == (1, "address-added")
        assert agent.addresses()[GUEST_ADDRESS]["sent"] == 1
        assert len(agent.log("address-announced", address=ADDED)) == 1


def test_a_removed_address_is_never_announced_again_from_the_next_frame_on(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST + NO_BUCKET) as agent:
        for _ in range(3):
            tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
            wire.wait_for(ADDED)
            with agent.stopped():
                tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0")
                wire.clear()
            # Whatever was due meanwhile, and what is asked for now, comes after the removal.
            assert agent.burst() == 1
            wire.wait_for(GUEST_ADDRESS)
            assert agent.announced() == {GUEST_ADDRESS}
            assert wire.announcements(ADDED) == []


def test_what_happened_before_a_frame_is_known_before_it(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """However much happened: the removal is the last of hundreds of events that are waiting."""
    with Agent(tiny_lab, tmp_path, config=LONG_BURST + NO_BUCKET) as agent:
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        with agent.asked_while_stopped() as value:
            churn = [f"address add 10.0.{n // 200}.{n % 200}/32 dev lo" for n in range(400)]
            tiny_lab.ip("guest", *churn, f"address del {ADDED}/24 dev eth0")
            wire.clear()
        assert value[0]["frames"] == 1
        assert wire.announcements(ADDED) == []
        assert agent.status()["overruns"] == 0


def test_the_same_address_twice_is_ours_until_the_second_is_gone(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", f"address add {GUEST_ADDRESS}/32 dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        assert agent.burst() == 1
        tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        assert agent.burst() == 1
        tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/32 dev eth0")
        wire.clear()
        assert agent.burst() == 0
        assert wire.announcements() == []


def test_the_same_address_on_two_links(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    """Each by its own hardware address; the end of one is not the end of the other."""
    tiny_lab.ip(
        "guest",
        "link add mv0 link eth0 type macvlan mode bridge",
        f"link set mv0 address {OTHER_MAC} up",
        f"address add {GUEST_ADDRESS}/24 dev mv0",
    )
    config = f"{QUIET}conflict:\n  policy: warn\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        wire.wait_for(GUEST_ADDRESS, OTHER_MAC)
        wire.wait_for(GUEST_ADDRESS)
        tiny_lab.ip("guest", "link del mv0")
        wire.clear()
        assert agent.burst() == 1
        assert wire.announcements(mac=OTHER_MAC) == []
        assert len(wire.announcements(GUEST_ADDRESS)) == 1


@pytest.mark.parametrize("address", ["192.0.2.50/24", "2001:db8::50/64"])
def test_an_address_that_expires(tiny_lab6: TinyLab, tmp_path: Path, address: str) -> None:
    forget_link_local(tiny_lab6)
    text = address.partition("/")[0]
    with Capture(tiny_lab6) as wire, Agent(tiny_lab6, tmp_path) as agent:
        lifetimes = "valid_lft 1 preferred_lft 1" + (" nodad" if ":" in address else "")
        tiny_lab6.ip("guest", f"address add {address} dev eth0 {lifetimes}")
        wire.wait_for(text)
        until(lambda: text not in agent.addresses(), "it has expired")
        wire.clear()
        assert agent.burst() == 2
        assert wire.announcements(text) == []


def test_secondaries_go_with_their_primary(tiny_lab: TinyLab, tmp_path: Path) -> None:
    tiny_lab.run("guest", ["sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=0"])
    tiny_lab.ip("guest", *(f"address add 192.0.2.{n}/24 dev eth0" for n in range(60, 70)))
    with Agent(tiny_lab, tmp_path) as agent:
        assert len(agent.announced()) == 11
        tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        assert agent.announced() == set()


def test_a_promoted_secondary_stays(tiny_lab: TinyLab, tmp_path: Path) -> None:
    tiny_lab.run("guest", ["sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1"])
    tiny_lab.ip("guest", "address add 192.0.2.60/24 dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        assert agent.announced() == {"192.0.2.60"}


# -- links ----------------------------------------------------------------------------------


def test_a_link_set_down_and_up(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.ip("guest", "link set eth0 down")
        assert agent.addresses()[GUEST_ADDRESS]["skipped"] == "down"
        assert agent.burst() == 0
        wire.clear()
        tiny_lab.ip("guest", "link set eth0 up")
        wire.wait_for(GUEST_ADDRESS)
        assert agent.addresses()[GUEST_ADDRESS]["last_cause"] == "link-up"
        assert agent.status()["frames"]["dropped"] == {}


def test_a_link_that_does_no_arp_for_a_while(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.ip("guest", "link set eth0 arp off")
        assert agent.addresses()[GUEST_ADDRESS]["skipped"] == "no ARP on this link (NOARP)"
        wire.clear()
        assert agent.burst() == 0
        tiny_lab.ip("guest", "link set eth0 arp on")
        wire.wait_for(GUEST_ADDRESS)


def test_a_carrier_lost_and_returned(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.ip("peer", "link set eth0 down")
        until(lambda: not agent.announced(), "the carrier is gone")
        assert agent.addresses()[GUEST_ADDRESS]["skipped"] == "no carrier"
        assert agent.burst() == 0
        wire.clear()
        tiny_lab.ip("peer", "link set eth0 up")
        wire.wait_for(GUEST_ADDRESS)
        assert agent.addresses()[GUEST_ADDRESS]["last_cause"] == "link-up"


def test_what_is_stacked_on_a_link_announces_with_it(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip(
        "guest",
        "link add mv0 link eth0 type macvlan mode bridge",
        f"link set mv0 address {OTHER_MAC} up",
        f"address add {ADDED}/24 dev mv0",
    )
    with Agent(tiny_lab, tmp_path):
        wire.wait_for(ADDED, OTHER_MAC)
        tiny_lab.ip("peer", "link set eth0 down")
        wire.clear()
        tiny_lab.ip("peer", "link set eth0 up")
        wire.wait_for(ADDED, OTHER_MAC)
        wire.wait_for(GUEST_ADDRESS)


def test_a_hardware_address_changed_in_mid_burst(
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


def test_a_renamed_link_goes_on(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    config = f"{QUIET}interfaces:\n  exclude: ['hidden*']\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        wire.wait_for(GUEST_ADDRESS)
        for name in ("wan", "hidden0", "eth0"):
            before = "eth0" if name == "wan" else "wan" if name == "hidden0" else "hidden0"
            tiny_lab.ip("guest", f"link set {before} down", f"link set {before} name {name}")
            tiny_lab.ip("guest", f"link set {name} up")
            assert agent.link(before) is None
            hidden = name == "hidden0"
            until(
                lambda n=name, h=hidden: agent.announced(n) == (set() if h else {GUEST_ADDRESS}),
                f"{name} is looked at by its new name",
            )
            wire.clear()
            assert agent.burst() == (0 if hidden else 1)
            assert len(wire.announcements(GUEST_ADDRESS)) == (0 if hidden else 1)


def test_names_exchanged_behind_its_back_mislead_no_frame(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    where = tiny_lab
    where.wire(("guest", "eth1", "peer", "eth1"))
    where.host("guest", "eth1", OTHER_MAC, "198.51.100.10/24")
    where.host("peer", "eth1", "02:00:5e:00:53:21")
    where.wait_until_up("guest", "peer")
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


def test_a_link_recreated_under_its_name(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST) as agent:
        seen = [(agent.link("eth0") or {})["ifindex"]]
        for turn in range(3):
            tiny_lab.ip("guest", "link del eth0")
            tiny_lab.wire(("guest", "eth0", "peer", "eth0"))
            with Capture(tiny_lab) as wire:
                tiny_lab.ip("peer", "link set eth0 up")
                tiny_lab.host("guest", "eth0", GUEST_MAC, f"192.0.2.{80 + turn}/24")
                wire.wait_for(f"192.0.2.{80 + turn}")
                agent.burst()
                assert len(wire.announcements()) == len(wire.announcements(f"192.0.2.{80 + turn}"))
            link = agent.link("eth0") or {}
            assert link["ifindex"] not in seen
            seen.append(link["ifindex"])
            assert [one["interface"] for one in agent.status()["links"]] == ["lo", "eth0"]


def test_a_link_recreated_with_the_same_index(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path, config=LONG_BURST) as agent:
        index = (agent.link("eth0") or {})["ifindex"]
        for turn in range(3):
            address = f"192.0.2.{80 + turn}"
            with agent.stopped():
                tiny_lab.ip("guest", "link del eth0")
                tiny_lab.ip(
                    "guest",
                    f"link add eth0 index {index} type veth peer name eth0"
                    f" netns {tiny_lab.namespace('peer')}",
                )
                wire = Capture(tiny_lab)
                tiny_lab.ip("peer", "link set eth0 up")
                tiny_lab.host("guest", "eth0", GUEST_MAC, f"{address}/24")
            with wire:
                wire.wait_for(address)
                agent.burst()
                assert len(wire.announcements()) == len(wire.announcements(address))


def test_a_link_moved_to_another_namespace_and_back(
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


def test_a_link_that_becomes_a_port_and_leaves_again(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        wire.wait_for(GUEST_ADDRESS)
        tiny_lab.ip(
            "guest",
            "link add br0 type bridge forward_delay 0",
            f"link set br0 address {GUEST_MAC} up",
            "link set eth0 master br0",
            f"address add {ADDED}/24 dev br0",
        )
        assert agent.addresses()[GUEST_ADDRESS]["skipped"] == "port of a bridge, bond or team"
        wire.wait_for(ADDED)
        wire.clear()
        tiny_lab.ip("guest", "link set eth0 nomaster")
        wire.wait_for(GUEST_ADDRESS)


def test_a_port_whose_carrier_returns_makes_its_bridge_announce(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """The bridge has another port with a carrier, so nothing happens to the bridge itself."""
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


# -- time -----------------------------------------------------------------------------------


def test_refreshes_go_round_the_addresses(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    addresses = [GUEST_ADDRESS, *(f"192.0.2.{n}" for n in range(60, 66))]
    tiny_lab.ip("guest", *(f"address add {address}/24 dev eth0" for address in addresses[1:]))
    config = "interval: 100ms\njitter: 50%\naddresses_per_tick: 2\nburst: [0s]\n" + NO_BUCKET
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        until(lambda: agent.sent_by("refresh") >= 21, "three rounds")
        order = [str(packet.pdst) for packet in wire.announcements()][len(addresses) :]
    for start, address in enumerate(order[:-7]):
        assert len(set(order[start : start + 7])) == 7, f"{address} came round early: {order}"


def test_many_links_refresh_each_on_its_own(tiny_lab: TinyLab, tmp_path: Path) -> None:
    where = tiny_lab
    names = [f"many{n}" for n in range(20)]
    where.ip("guest", *(f"link add {name} type veth peer name {name}p" for name in names))
    for n, name in enumerate(names):
        where.ip("guest", f"link set {name} up", f"link set {name}p up")
        where.ip("guest", f"address add 10.0.{n}.1/24 dev {name}")
    config = "interval: 200ms\njitter: 20%\nburst: [0s]\n"
    with Agent(where, tmp_path, config=config) as agent:
        until(
            lambda: all(
                agent.addresses(name)[f"10.0.{n}.1"]["sent"] >= 4 for n, name in enumerate(names)
            ),
            "each is refreshed",
        )
        nexts = [(agent.link(name) or {})["next_refresh"] for name in names]
        # Drawn by chance: all alike would be a fleet that announces together.
        assert max(nexts) - min(nexts) > 0
        assert max(nexts) <= 0.24


def test_a_burst_is_spread_as_configured(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    rounds = "[0s, 100ms, 400ms]"
    with Agent(tiny_lab, tmp_path, config=QUIET.replace("[0s]", rounds)) as agent:
        wire.wait_for(GUEST_ADDRESS, count=3)
        assert agent.status()["frames"]["by_cause"] == {"start": 3}
        assert agent.burst() == 1
        wire.wait_for(GUEST_ADDRESS, count=6)
        assert agent.status()["frames"]["by_cause"] == {"start": 3, "operator": 3}


def test_the_bucket_holds_whatever_triggers_come(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """Depth 5, and a rate at which none comes back within the test's time."""
    config = f"{QUIET}rate_limit:\n  frames_per_second: 0.1\n  depth: 5\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        started = agent.status()["uptime"]
        triggers = itertools.cycle(
            [
                agent.burst,
                lambda: tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0"),
                lambda: tiny_lab.ip("guest", f"link set eth0 address {NEW_MAC}"),
                lambda: tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0"),
                lambda: tiny_lab.ip("guest", f"link set eth0 address {GUEST_MAC}"),
            ]
        )
        for trigger in itertools.islice(triggers, 60):
            trigger()
        status = agent.status()
        assert 5 <= status["frames"]["sent"] <= 5 + (status["uptime"] - started) * 0.1 + 1
        assert (agent.link("eth0") or {})["held"] >= 1


def test_the_bucket_holds_when_the_link_flaps(tiny_lab: TinyLab, tmp_path: Path) -> None:
    config = f"{QUIET}rate_limit:\n  frames_per_second: 0.1\n  depth: 5\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for _ in range(30):
            tiny_lab.ip("guest", "link set eth0 down", "link set eth0 up")
            agent.status()  # it has seen that
        status = agent.status()
        assert 5 <= status["frames"]["sent"] <= 5 + status["uptime"] * 0.1 + 1


# -- IPv6 -----------------------------------------------------------------------------------


def test_ipv6_addresses_come_and_go(tiny_lab6: TinyLab, tmp_path: Path) -> None:
    forget_link_local(tiny_lab6)
    with Capture(tiny_lab6) as wire, Agent(tiny_lab6, tmp_path, config=LONG_BURST) as agent:
        tiny_lab6.ip("guest", "address add 2001:db8::50/64 dev eth0 nodad")
        wire.wait_for("2001:db8::50")
        with agent.stopped():
            tiny_lab6.ip("guest", "address del 2001:db8::50/64 dev eth0")
            wire.clear()
        agent.burst()
        assert wire.announcements("2001:db8::50") == []
        # The kernel drops every IPv6 address of a link that goes down, and keeps those of IPv4.
        tiny_lab6.ip("guest", "link set eth0 down", "link set eth0 up")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "only IPv4 is left")
        wire.clear()
        tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"])
        tiny_lab6.run("guest", ["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0"])
        tiny_lab6.ip("guest", "address add 2001:db8::51/64 dev eth0 nodad")
        wire.wait_for("2001:db8::51")
