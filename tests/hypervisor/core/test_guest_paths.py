"""Whom a failover concerns: links, guests and their MACs together, from messages to hints."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.hypervisor.core.bonds import FollowedLink, Follower
from garp_agent.hypervisor.core.bridge_tables import LearntAddress
from garp_agent.hypervisor.core.guest_paths import PORT_UNKNOWN, GuestPaths
from garp_agent.hypervisor.core.guest_ports import SETTLE
from garp_agent.hypervisor.core.guests import INFO_INTERVAL, MACS_MOST, Channel
from garp_agent.hypervisor.core.lease_paths import LOOKING
from garp_agent.hypervisor.core.linkstate import Bond, LinkReport, LinkSnapshot, PortStateReport
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire import protocol
from garp_agent.wire.lines import LINE_LIMIT
from garp_agent.wire.model import (
    IFF_LOWER_UP,
    IFF_UP,
    LEVEL_NOTICE,
    DumpComplete,
    DumpStarted,
    LinkGone,
)
from tests.hypervisor.core.talk import REVOKE, Talk, asked
from tests.world import mac

UP = IFF_UP | IFF_LOWER_UP
LINKS = [
    *(LinkSnapshot(2 + n, f"eth{n}", UP, 10 + n // 2, "", "bond") for n in range(4)),
    LinkSnapshot(10, "bond0", UP, 20, "bond", "bridge", Bond(1, 2)),
    LinkSnapshot(11, "bond1", UP, 21, "bond", "bridge", Bond(1, 4)),
    LinkSnapshot(20, "br0", UP, 0, "bridge"),
    LinkSnapshot(21, "br1", UP, 0, "bridge"),
    LinkSnapshot(22, "ovs-system", UP, 0, "openvswitch"),
]
BOND0 = LINKS[4]
MACS = {name: f"52:54:00:00:00:0{n}" for n, name in enumerate("abcd", 1)}


def port(name: str, ifindex: int, master: int, guest: str = "", kind: str = "bridge") -> Any:
    told = mac("fe" + MACS[guest][2:]) if guest else mac("4a:00:00:00:00:01")
    return LinkSnapshot(ifindex, name, UP, master, "tun", kind, hardware_address=told)


A_PORT, B_PORT = port("vnet0", 30, 20, "a"), port("vnet1", 31, 21, "b")
C_PORT = port("vnet2", 32, 22, "c", "openvswitch")


class Site(Talk):
    """A host with links, and guests whose agents say their MACs."""

    def __init__(
        self, *links: LinkSnapshot, guests: dict[str, object], lease_after: float = 0.0
    ) -> None:
        self.follower = Follower()
        self.paths = GuestPaths(self.follower)
        events: list[Any] = [DumpStarted(), *map(LinkReport, [*LINKS, *links]), DumpComplete()]
        for event in events:
            self.follower.handle(event, -100.0)
        self.channels = [Channel(name, f"/run/{name}") for name in guests]
        options, followed = HintOptions(90.0, lease_after), tuple(self.follower.followed())
        super().__init__(
            *self.channels, options=options, links=followed, path_of=self.paths.path_of
        )
        self.info = {f"/run/{name}": named for name, named in guests.items()}
        self.meet()
        self.paths.ports.look_for(self.watcher.macs(), 0.0)

    def see(self, now: float, *events: Any) -> set[str]:
        """Take in link messages; return the guests that are hinted within a second."""
        hinted: set[str] = set()
        for event in events:
            self.follower.handle(event, now)
        self.watcher.follow(self.follower.followed(), now)
        for failover in [*self.follower.advance(now), *self.follower.advance(now + 0.9)]:
            names = failover.links | failover.guest_ports
            calls = self.watcher.failover(failover.link, failover.reason, names, now, 0.0)
            hinted |= set(asked(calls))
        return hinted


def named(*guests: str) -> list[dict[str, str]]:
    return [{"name": "eth0", "mac": MACS[guest]} for guest in guests]


def switched(link: LinkSnapshot = BOND0, active: int = 3) -> LinkReport:
    return LinkReport(link._replace(bond=Bond(1, active)), 3)


def site() -> Site:
    """One guest on each bond, one in Open vSwitch, and one whose port is not known."""
    return Site(A_PORT, B_PORT, C_PORT, guests={name: named(name) for name in "abcd"})


def test_failover_hints_the_guests_behind_it_and_those_whose_port_is_not_known() -> None:
    assert site().see(10.0, switched()) == {"a", "d"}
    assert site().see(10.0, switched(LINKS[5], 5)) == {"b", "d"}


def test_guest_that_comes_to_another_bridge_is_hinted_alone_with_the_unknown() -> None:
    assert site().see(10.0, LinkReport(A_PORT._replace(master_ifindex=21))) == {"a", "d"}


def test_guest_in_a_bridge_that_forwards_again_is_hinted() -> None:
    host = site()
    assert host.see(10.0, PortStateReport(10, 20, 4)) == set()
    assert host.see(20.0, PortStateReport(10, 20, 3)) == {"a", "d"}


def test_guest_without_a_followed_path_gets_no_lease_and_the_reason_is_said() -> None:
    host = site()
    ovs = "ovs-system: Open vSwitch is not followed"
    found = {name: host.guest(name, 0.0) for name in "abcd"}
    assert [bool(found[name]["lease"]) for name in "abcd"] == [True, True, False, False]
    assert [found[name]["no_lease"] for name in "abcd"] == [None, None, ovs, LOOKING]
    assert [found[name]["ports"] for name in "abcd"] == [["vnet0"], ["vnet1"], ["vnet2"], []]
    behind = [["bond0", "br0"], ["bond1", "br1"], [], None]
    assert [found[name]["behind"] for name in "abcd"] == behind
    host.paths.ports.has_read(SETTLE)
    assert host.guest("d", 0.0)["no_lease"] == PORT_UNKNOWN
    host.watcher.take_notices()
    host.watcher.found(host.channels, 80.0)
    said = [dict(each.fields) for each in host.watcher.take_notices() if each.event == "no-lease"]
    assert {"guest": "d", "reason": PORT_UNKNOWN} in said


def test_guest_that_is_learnt_on_a_port_is_known_from_then_on() -> None:
    plain = port("tap9", 39, 20)
    host = Site(plain, guests={name: named(name) for name in "ab"})
    assert host.see(10.0, switched(LINKS[5], 5)) == {"a", "b"}
    host.paths.ports.learn(LearntAddress(mac(MACS["a"]), 39))
    host.paths.ports.has_read(15.0)
    assert host.see(20.0, switched(LINKS[5], 4)) == {"b"}
    assert host.see(30.0, LinkGone(39), switched(LINKS[5], 5)) == {"a", "b"}


def test_guest_that_starts_again_behind_another_port_gets_no_lease_until_that_is_found() -> None:
    """The port of a card stays when its guest ends."""
    cards = [
        LinkSnapshot(40 + n, f"rep{n}", UP, 20 + n, "", "bridge", port_name=f"pf0vf{n}")
        for n in range(2)
    ]
    host = Site(*cards, guests={"a": named("a")})
    found = host.paths.ports
    found.learn(LearntAddress(mac(MACS["a"]), 40))
    found.has_read(5.0)
    host.watcher.found([Channel("a", "/run/a", (1, 2))], 10.0)
    found.look_for(host.watcher.macs(), 10.0)
    host.meet(10.0)
    found.look_for(host.watcher.macs(), 15.0)
    assert host.guest("a", 15.0)["no_lease"] == LOOKING
    assert found.is_looking
    for ifindex in (40, 41):  # the first bridge has not forgotten it
        found.learn(LearntAddress(mac(MACS["a"]), ifindex))
    found.has_read(16.0)
    assert host.guest("a", 16.0)["behind"] == ["bond0", "bond1", "br0", "br1"]


def test_guest_whose_port_is_found_gets_its_lease_soon_and_nothing_was_logged() -> None:
    host = Site(port("tap9", 39, 20), guests={"a": named("a")})
    host.watcher.found([*host.channels, Channel("b", "/run/b")], 5.0)
    assert not [each for each in host.watcher.take_notices() if each.event == "no-lease"]
    host.watcher.found(host.channels, 6.0)
    assert host.watcher.advance(6.0) == []
    host.paths.ports.learn(LearntAddress(mac(MACS["a"]), 39))
    host.paths.ports.has_read(7.0)
    host.watcher.found(host.channels, 10.0)
    host.meet(10.0)
    assert host.guest("a", 10.0)["lease"] == 90.0


def test_guest_that_has_moved_gets_no_lease_for_a_minute() -> None:
    """Its new bridge has not changed, and a later change of another guest is another matter."""
    host = Site(A_PORT, B_PORT, guests={"a": named("a"), "b": named("b")}, lease_after=60.0)
    host.see(100.0, LinkReport(A_PORT._replace(master_ifindex=21)))
    host.see(110.0, LinkReport(B_PORT._replace(master_ifindex=20)))
    assert host.guest("a", 120.0)["no_lease"] == "vnet0 changed 20 s ago"


FWBR = LinkSnapshot(70, "fwbr1", UP, 0, "bridge")
FWLN = LinkSnapshot(72, "fwln1", UP, 70, "veth", "bridge", lower_ifindex=73)
FWPR = LinkSnapshot(73, "fwpr1", UP, 20, "veth", "bridge", lower_ifindex=72)
BR60 = LinkSnapshot(61, "br60", UP, 0, "bridge")
VLAN60 = LinkSnapshot(60, "bond0.60", UP, 61, "vlan", "bridge", lower_ifindex=10)
VXLAN = VLAN60._replace(name="vxlan60", kind="vxlan")
VTAP = LinkSnapshot(
    75, "macvtap0", UP, 0, "macvtap", hardware_address=mac(MACS["a"]), lower_ifindex=60
)
JOINED = (FWBR, FWLN, FWPR, port("tap1", 71, 70, "a"))
OUT_OF_BRIDGE = LinkReport(FWPR._replace(master_ifindex=0, port_kind=""))


@pytest.mark.parametrize(
    ("links", "events", "changed"),
    [
        ((A_PORT,), [LinkGone(10), LinkReport(LINKS[5]._replace(master_ifindex=20))], "br0"),
        (
            (BR60, VLAN60, port("vnet6", 62, 61, "a")),
            [LinkGone(60), LinkReport(VLAN60._replace(ifindex=63, lower_ifindex=11))],
            "br60",
        ),
        (
            (BR60, VXLAN, port("vnet6", 62, 61, "a")),
            [LinkReport(VXLAN._replace(lower_ifindex=11))],
            "vnet6",
        ),
        (
            (VXLAN._replace(master_ifindex=0, port_kind=""), VTAP),
            [LinkReport(VXLAN._replace(master_ifindex=0, port_kind="", lower_ifindex=11))],
            "macvtap0",
        ),
        (JOINED, [OUT_OF_BRIDGE, LinkReport(FWPR._replace(master_ifindex=21))], "tap1"),
    ],
    ids=["uplink", "VLAN", "device of a tunnel", "below a macvtap", "joint of two bridges"],
)
def test_guest_whose_path_moves_to_another_bond_is_hinted_and_its_lease_ends(
    links: tuple[LinkSnapshot, ...], events: list[Any], changed: str
) -> None:
    """The guest's port stays where it is."""
    host = Site(*links, B_PORT, guests={"a": named("a"), "b": named("b")}, lease_after=60.0)
    host.run(50)
    assert host.guest("a", 50.0)["lease"]
    assert host.see(50.0, *events) == {"a"}
    assert host.see(51.0) == set()
    found = host.guest("a", 52.0)
    assert (found["lease"], found["no_lease"]) == (0, f"{changed} changed 2 s ago")
    assert "bond1" in found["behind"]


@pytest.mark.parametrize(
    "events",
    [
        [OUT_OF_BRIDGE],
        [OUT_OF_BRIDGE, LinkReport(FWPR)],
        [LinkReport(port("tap8", 80, 70))],
        [
            LinkReport(FWBR._replace(ifindex=81, name="fwbr8")),
            LinkReport(
                FWLN._replace(ifindex=82, name="fwln8", master_ifindex=81, lower_ifindex=83)
            ),
            LinkReport(FWPR._replace(ifindex=83, name="fwpr8", lower_ifindex=82)),
        ],
    ],
    ids=["ends", "comes back", "another guest in its bridge", "another bridge is joined"],
)
def test_guest_whose_frames_leave_by_no_other_link_is_not_hinted(events: list[Any]) -> None:
    host = Site(*JOINED, guests={"a": named("a")}, lease_after=60.0)
    for n, event in enumerate(events):
        assert host.see(50.0 + n, event) == set()
    assert host.guest("a", 55.0)["lease"]


def test_guest_whose_bridge_is_joined_to_another_bond_for_a_while_is_hinted_twice() -> None:
    host = Site(*JOINED, guests={"a": named("a")})
    assert host.see(50.0, OUT_OF_BRIDGE) == set()
    assert host.see(60.0, LinkReport(FWPR._replace(master_ifindex=21))) == {"a"}
    assert host.see(70.0, OUT_OF_BRIDGE) == set()
    assert host.see(80.0, LinkReport(FWPR)) == {"a"}
    history = [entry["reason"] for entry in host.history()]
    assert history[-2:] == [f"a guest port now sends through bond{n}" for n in (1, 0)]


def test_lease_ends_when_the_path_is_not_followed_any_more() -> None:
    host = site()
    moved = A_PORT._replace(master_ifindex=22, port_kind="openvswitch")
    host.see(10.0, LinkReport(moved))
    host.answer(host.watcher.advance(10.0), 10.0)
    host.watcher.found(host.channels, 11.0)
    host.meet(11.0)
    assert not host.guest("a", 11.0)["lease"]


def test_guest_on_a_bond_that_is_not_to_be_followed_gets_no_lease() -> None:
    host = site()
    host.follower.names = ("bond1",)
    for link in LINKS:
        host.follower.handle(LinkReport(link), 5.0)
    host.see(5.0)
    host.meet(5.0)
    assert host.guest("a", 5.0)["no_lease"] == "bond0 is not followed"


@pytest.mark.parametrize(
    "links",
    [
        "x",
        [1, None, {"mac": 5}, {"mac": "x"}, {"mac": "52:54"}, {"mac": "é" * 17}, {}],
        [{"mac": "00:" * 6}],
    ],
)
def test_macs_that_are_none_leave_a_guest_unknown(links: object) -> None:
    host = Site(A_PORT, guests={"a": links})
    assert host.watcher.macs() == []
    assert host.guest("a")["no_lease"] == PORT_UNKNOWN
    assert host.see(10.0, switched(LINKS[5], 5)) == {"a"}


def test_macs_of_one_guest_are_limited_and_asked_for_again() -> None:
    """A card can be plugged in; until then the guest is not asked with each lease."""
    host = Site(A_PORT, guests={"a": named("a")})
    many = [{"mac": f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"} for n in range(MACS_MOST + 5)]
    host.info["/run/a"] = many
    times = [now for now, asked_ in host.run(340.0) if protocol.Info in map(type, asked_["a"])]
    assert [INFO_INTERVAL <= now <= INFO_INTERVAL + 30 for now in times] == [True]
    assert len(host.watcher.macs()) == MACS_MOST


def test_guest_with_a_card_on_a_link_that_is_not_followed_gets_no_lease() -> None:
    eth9 = LinkSnapshot(9, "eth9", UP, 0, "")
    card = LinkSnapshot(
        33, "macvtap0", UP, 0, "macvtap", "", hardware_address=mac(MACS["b"]), lower_ifindex=9
    )
    host = Site(A_PORT, eth9, card, guests={"a": named("a", "b")})
    host.run(60)
    seen = host.guest("a", 60.0)
    assert (seen["lease"], seen["no_lease"]) == (0, "eth9 is not followed")


def test_guest_with_a_card_that_is_behind_no_port_gets_no_lease_and_the_reason_is_said() -> None:
    """A card that is passed through; each followed link can be its path."""
    host = Site(A_PORT, guests={"a": named("a", "b")})
    assert host.guest("a")["no_lease"] == LOOKING
    host.paths.ports.has_read(SETTLE)
    host.run(100)
    host.watcher.take_notices()
    host.watcher.found(host.channels, 100.0)
    reason = f"{MACS['b']} is behind no known port"
    seen = host.guest("a", 100.0)
    found = {name: seen[name] for name in ("lease", "no_lease", "ports", "behind")}
    assert found == {"lease": 0, "no_lease": reason, "ports": ["vnet0"], "behind": None}
    assert host.notices() == [(LEVEL_NOTICE, "no-lease", {"guest": "a", "reason": reason})]
    assert host.see(110.0, switched(LINKS[5], 5)) == {"a"}


@pytest.mark.parametrize("other", ["b", "c"], ids=["path changed lately", "not followed"])
def test_lease_that_is_renewed_while_the_agent_names_another_path_is_taken_back_at_once(
    other: str,
) -> None:
    """The same connection renews the lease and asks for the MACs: a card was plugged in."""
    host = Site(A_PORT, B_PORT, C_PORT, guests={"a": named("a")}, lease_after=60.0)
    host.run(290)
    assert host.see(290.0, switched(LINKS[5], 5)) == set()
    host.info["/run/a"] = named("a", other)
    turns = host.run(340)
    renewed = next(at for at, asks in turns if protocol.Info in map(type, asks["a"]))
    (asks,) = [asks["a"] for at, asks in turns if at == renewed][1:]
    assert asks == [REVOKE]
    assert not host.guest("a", renewed)["lease"]


def test_lease_ends_when_the_only_uplink_of_the_bridge_has_no_carrier() -> None:
    """The guests' ports keep the carrier of the bridge itself."""
    uplink = LinkSnapshot(50, "eth5", UP, 51, "", "bridge", port_state=3)
    bridge = LinkSnapshot(51, "br5", UP, 0, "bridge")
    ports = port("vnet5", 52, 51, "a")
    host = Site(uplink, bridge, ports, guests={"a": named("a")}, lease_after=60.0)
    host.run(100)
    assert host.guest("a", 100.0)["lease"]
    host.see(101.0, LinkReport(uplink._replace(flags=IFF_UP)))
    host.run(300)
    seen = host.guest("a", 300.0)
    assert (seen["lease"], seen["no_lease"]) == (0, "br5 has no carrier")


def test_reason_of_many_uplinks_fits_into_a_hint() -> None:
    uplinks = [
        LinkSnapshot(100 + n, f"vxlan-{100000 + n}", UP, 20, "vxlan", "bridge", lower_ifindex=10)
        for n in range(170)
    ]
    host = Site(A_PORT, *uplinks, guests={"a": named("a")})
    host.run(60)
    host.follower.handle(LinkReport(uplinks[0]._replace(flags=IFF_UP)), 100.0)
    host.watcher.follow(tuple(host.follower.followed()), 100.0)
    (failover,) = host.follower.advance(100.0)
    calls = host.watcher.failover(failover.link, failover.reason, failover.links, 100.0, 0.0)
    assert list(asked(calls)) == ["a"]
    lines = [line for call in calls for line in call.exchange.outgoing.split(b"\n")]
    assert all(len(line) <= LINE_LIMIT for line in lines)


def test_links_that_come_and_go_leave_no_memory() -> None:
    host = Site(A_PORT, guests={"a": named("a")})
    for n in range(500):
        link = FollowedLink(f"brq{n}", "bridge", "", True, ("x",))
        host.watcher.follow((*host.follower.followed(), link), 1000.0 + n)
    assert len(host.watcher._paths._changed) <= 100
