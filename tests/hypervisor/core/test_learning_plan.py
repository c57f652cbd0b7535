"""Which learning frames are planned, in which order, and what never gets one."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.bridge_tables import TableEntry
from garp_agent.hypervisor.core.bridge_vlans import VlanRange
from garp_agent.hypervisor.core.learning_memory import PORT_MOST
from garp_agent.hypervisor.core.learning_plan import FURTHER, HOST, OWN
from garp_agent.hypervisor.core.learning_rules import (
    SHARED,
    LearningRules,
    MacPrefix,
    parse_mac_prefix,
    parse_vlans,
)
from garp_agent.hypervisor.core.learning_warnings import learning_warnings
from garp_agent.hypervisor.core.linkstate import Bond, LinkSnapshot, PortOptions, VlanTag
from garp_agent.wire.model import IFF_UP
from tests.hypervisor.core.learning import (
    FILTERS,
    UP,
    Host,
    bond,
    bridge,
    guest,
    libvirts,
    port,
    shown,
    vlan,
)
from tests.world import mac, property_settings

G1, G2, G9 = (guest(n).hex(":") for n in (1, 2, 9))
NAMED = {"vnet0": guest(9)}
GATEWAY = mac("02:00:00:00:00:fe")


def simple(*more: LinkSnapshot) -> Host:
    """A bond in br0, the veth of a container (20), and the tun device of libvirt's guest 9 (21)."""
    return Host(
        bond(3, "bond0", 10), bridge(10, "br0"), port(20, "p0", 10), libvirts(21, "vnet0", 10, 9)
    )


def at(number: int, port: int, age: float = 0.0, vlan: int = 0, bridge: int = 10) -> TableEntry:
    return TableEntry(guest(number), port, bridge, vlan, age)


# -- what is sent -----------------------------------------------------------------------


def test_plan_has_the_host_first_then_own_guests_then_further_ones_the_silent_first() -> None:
    host = simple()
    host.hear(100.0, at(1, 20, 5.0), at(2, 20, 7.0), at(3, 21, 60.0), at(9, 21, 1.0))
    plan = host.plan()
    assert [(each.kind, each.hardware_address[-1], each.port) for each in plan.entries] == [
        (HOST, 10, "br0"),
        (OWN, 9, "vnet0"),
        (FURTHER, 3, "vnet0"),
        (FURTHER, 2, "p0"),
        (FURTHER, 1, "p0"),
    ]
    assert [each.silent for each in plan.entries] == [inf, 1.0, 60.0, 7.0, 5.0]
    assert plan.left_out == ()


def test_address_that_the_bridge_has_forgotten_is_sent_while_its_port_is_there() -> None:
    host = simple()
    host.hear(100.0, at(1, 20))
    host.hear(5000.0, sent=[20])
    assert host.guests(5000.0) == [(G1, "", "bond0")]
    host.change(port(20, "p0", 10)._replace(flags=IFF_UP))
    assert (G1, "p0", "no-carrier") in host.reasons(5000.0)
    host.hear(5001.0)  # another guest can be there when the carrier is back
    host.change(port(20, "p0", 10))
    assert host.guests(5001.0) == []


def test_port_that_is_replaced_by_one_of_the_same_name_is_another_one() -> None:
    host = simple()
    host.hear(100.0, at(1, 20))
    host.remove(20)
    host.change(port(22, "p0", 10))
    assert host.guests() == []


def test_own_guest_that_no_table_names_is_the_one_that_libvirt_names() -> None:
    host = simple()
    host.hear(100.0, sent=[21])
    assert (("", "vnet0", "unknown-address")) in host.reasons()
    assert host.guests(named=NAMED) == [(G9, "", "bond0")]
    assert host.guests(named={"vnet1": guest(9)}) == []


def test_own_guest_is_the_address_that_libvirt_names() -> None:
    """A guest that puts another first octet into its frames is no second own guest."""
    host = simple()
    other = b"\x02" + guest(9)[1:]
    host.hear(100.0, TableEntry(other, 21, 10), at(9, 21))
    kinds = {each.hardware_address: each.kind for each in host.plan().entries}
    assert kinds[other] == kinds[guest(9)] == OWN
    named = host.plan(named=NAMED)
    kinds = {each.hardware_address: each.kind for each in named.entries}
    assert (kinds[other], kinds[guest(9)]) == (FURTHER, OWN)


def test_one_address_in_two_vlans_gets_two_frames() -> None:
    host = Host(bond(3, "bond0"))
    for n, tag in ((1, 100), (2, 200)):
        host.change(
            vlan(3 + n, f"bond0.{tag}", 3, tag, 10 + n),
            bridge(10 + n, f"br{tag}"),
            port(20 + n, f"p{n}", 10 + n),
        )
    host.hear(100.0, at(1, 21, bridge=11), at(1, 22, 1.0, bridge=12))
    assert host.guests() == [(G1, "200", "bond0"), (G1, "100", "bond0")]


def test_address_in_several_vlans_of_a_filtering_bridge_gets_a_frame_for_each() -> None:
    host = simple()
    host.change(bridge(10, "br0", FILTERS))
    host.allow(3, VlanRange(1, 1, untagged=True), VlanRange(200, 300))
    host.hear(100.0, *(at(1, 20, age, vlan) for age, vlan in ((3, 1), (2, 200), (1, 301), (0, 0))))
    assert host.guests() == [(G1, "", "bond0"), (G1, "200", "bond0")]
    assert (G1, "p0", "no-path") in host.reasons()
    host.hear(101.0, sent=[21])
    host.allow(21, VlanRange(250, 250, untagged=True), pvid=250)
    assert (G9, "250", "bond0") in host.guests(named=NAMED)


def test_macvtap_is_sent_for_when_its_guest_has_sent() -> None:
    tap = LinkSnapshot(22, "mt0", UP, 0, "macvtap", hardware_address=guest(5), lower_ifindex=4)
    macvlan = tap._replace(ifindex=23, name="mv0", kind="macvlan", hardware_address=guest(6))
    host = Host(bond(3, "bond0"), vlan(4, "bond0.7", 3, 7), tap, macvlan)
    host.hear(100.0)
    assert host.guests() == []
    assert host.reasons() == [(guest(5).hex(":"), "mt0", "never-sent")]
    host.hear(100.0, sent=[22, 23])
    assert host.guests() == [(guest(5).hex(":"), "7", "bond0")]
    host.remove(4)
    assert host.reasons() == [(guest(5).hex(":"), "mt0", "no-path")]


def test_host_address_is_sent_for_bridges_and_vlans_on_them_but_not_on_the_bond() -> None:
    host = Host(
        bond(3, "bond0", 10),
        bridge(10, "br0"),
        vlan(11, "br0.60", 10, 60),
        vlan(12, "bond0.5", 3, 5),
        vlan(13, "br0.5.6", 11, 6),
        vlan(14, "br0.7", 10, 7, 15),
        bridge(15, "br7"),
        bridge(16, "down")._replace(flags=0),
        bridge(17, "inner"),
    )
    found = [(each.port, shown(each)[1]) for each in host.plan().entries]
    assert found == [("br0", ""), ("br0.60", "60"), ("br0.5.6", "60 6"), ("br7", "7")]
    assert [each[1:] for each in host.reasons()] == [("inner", "no-path")]


def test_bonds_that_did_not_fail_over_get_nothing() -> None:
    host = simple()
    host.hear(100.0, at(1, 20))
    assert host.guests(bonds=frozenset({3})) == [(G1, "", "bond0")]
    assert host.plan(bonds=frozenset({4})).entries == ()


def test_later_round_leaves_out_who_has_spoken_since() -> None:
    host = simple()
    host.hear(100.0, at(1, 20))
    host.hear(101.0, at(1, 20, 1.0), at(2, 20, 0.5))
    assert host.guests(101.0, spoke_after=100.0) == [(G1, "", "bond0")]
    assert host.reasons(101.0, spoke_after=100.0) == [
        (G2, "p0", "spoke"),
        ("", "vnet0", "never-sent"),
    ]


def test_operator_leaves_out_addresses_ports_and_vlans() -> None:
    host = simple()
    host.change(bridge(10, "br0", FILTERS))
    host.allow(3, VlanRange(1, 1, untagged=True), VlanRange(200, 300))
    host.hear(100.0, at(1, 20, vlan=1), at(2, 20, vlan=200), at(9, 21, vlan=300))
    rules = LearningRules((parse_mac_prefix(f"{G2}/48"),))
    assert {each[0] for each in host.guests(rules=rules)} == {G1, G9}
    rules = LearningRules(is_port_wanted=lambda name: name == "vnet0")
    assert {each[0] for each in host.guests(rules=rules)} == {G9}
    rules = LearningRules(vlans=frozenset({0, 300}))
    assert {each[0] for each in host.guests(rules=rules)} == {G1, G9}
    assert (G2, "p0", "left-out") in host.reasons(rules=rules)


# -- never ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "00:00:5e:00:01:0a",  # VRRP for IPv4, CARP
        "00:00:5e:00:02:0a",  # VRRP for IPv6
        "00:00:0c:07:ac:01",  # HSRP
        "00:00:0c:9f:f1:23",  # HSRP version 2
        "00:05:73:a0:0f:ff",  # HSRP for IPv6
        "00:07:b4:00:01:01",  # GLBP
        "00:07:b4:03:ff:ff",  # GLBP, the highest group
        "02:bf:0a:00:00:01",  # NLB in unicast mode
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ],
)
def test_address_that_hosts_share_is_never_sent(address: str) -> None:
    host = simple()
    host.hear(100.0, TableEntry(mac(address), 20, 10))
    assert host.guests() == []
    assert (address, "p0", "shared-address") in host.reasons()


@pytest.mark.parametrize(
    "address",
    ["00:00:5e:00:03:0a", "00:00:0c:9f:e0:00", "00:07:b4:04:00:00", "02:be:00:00:00:01"],
)
def test_address_beside_those_that_hosts_share_is_sent(address: str) -> None:
    host = simple()
    host.hear(100.0, TableEntry(mac(address), 20, 10))
    assert host.guests() == [(address, "", "bond0")]


def test_guest_that_left_is_seen_outside_since() -> None:
    """The entry moves to the bond with the RARP of its new host; its tun device is still there."""
    host = simple()
    host.hear(100.0, at(9, 21))
    host.hear(110.0, at(9, 3))
    assert host.guests(110.0) == []
    assert (G9, "vnet0", "seen-outside") in host.reasons(110.0)
    host.hear(120.0, at(9, 21))  # it is back
    assert host.guests(120.0) == [(G9, "", "bond0")]


def test_guest_that_is_about_to_arrive_has_not_sent() -> None:
    """The address of its tun device would steal the traffic of the guest where it runs."""
    host = simple()
    host.hear(100.0)
    assert host.reasons(named=NAMED) == [(G9, "vnet0", "never-sent")]
    host.hear(100.0, at(9, 3, 2.0), sent=[21])
    assert host.reasons(named=NAMED) == [(G9, "vnet0", "seen-outside")]


def test_address_of_the_gateway_forged_by_a_guest_is_not_sent() -> None:
    host = simple()
    host.hear(100.0, TableEntry(GATEWAY, 3, 10))
    host.hear(200.0, TableEntry(GATEWAY, 20, 10))
    assert host.guests(200.0) == []
    assert (GATEWAY.hex(":"), "p0", "seen-outside") in host.reasons(200.0)


def test_address_taken_over_elsewhere_while_all_carriers_were_lost_is_not_sent() -> None:
    host = simple()
    host.hear(100.0, at(1, 20), at(2, 20), at(9, 21))
    host.hear(110.0, at(1, 20, 8.0), at(2, 20, 1.0), at(9, 21, 8.0))
    assert host.guests(110.0, lost={3: 105.0}) == [(G9, "", "bond0"), (G2, "", "bond0")]
    assert (G1, "p0", "unheard") in host.reasons(110.0, lost={3: 105.0})
    assert len(host.guests(110.0, lost={4: 105.0})) == 3


def test_flood_of_addresses_gets_the_limit_of_a_port_and_own_guests_stay() -> None:
    host = simple()
    flood = [at(1000 + n, 21, n / 1000) for n in range(3000)]
    host.hear(100.0, at(9, 21, 90.0), at(1, 20), *flood)
    found = host.guests()
    assert len(found) == PORT_MOST + 1
    assert found[0] == (G9, "", "bond0")
    assert ("", "vnet0", "limit") in host.reasons()
    [limit] = [each for each in host.plan().left_out if each.reason == "limit"]
    assert limit.addresses == 3001 - PORT_MOST


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flags": IFF_UP}, "no-carrier"),
        ({"port_options": PortOptions(locked=True)}, "locked"),
        ({"port_state": 4}, "no-path"),
    ],
)
def test_port_that_lets_nothing_through_gets_nothing(changes: dict[str, Any], reason: str) -> None:
    host = simple()
    host.hear(100.0, at(9, 21), at(2, 21))
    host.change(libvirts(21, "vnet0", 10, 9, **changes))
    assert host.guests() == []
    assert {(G9, "vnet0", reason), (G2, "vnet0", reason)} <= set(host.reasons())


def test_entry_that_a_locked_port_does_not_trust_is_not_remembered() -> None:
    host = simple()
    host.hear(100.0, at(1, 20)._replace(is_trusted=False))
    assert host.guests() == []


def test_nothing_is_derived_where_the_port_does_not_learn() -> None:
    host = simple()
    host.change(libvirts(21, "vnet0", 10, 9, port_options=PortOptions(learning=False)))
    host.hear(100.0, at(1, 21), sent=[21])  # an entry made by hand
    assert host.guests(named=NAMED) == [(G1, "", "bond0")]
    assert (G9, "vnet0", "not-learning") in host.reasons(named=NAMED)


def test_address_is_sent_for_the_port_that_heard_it_last() -> None:
    host = simple()
    host.change(port(22, "p2", 10))
    host.hear(100.0, at(1, 20))
    host.hear(110.0, at(1, 22))
    assert [each.port for each in host.plan(110.0).entries if each.kind == FURTHER] == ["p2"]
    assert (G1, "p0", "moved") in host.reasons(110.0)


def test_address_that_two_ports_heard_at_the_same_time_gets_one_frame() -> None:
    host = simple()
    host.change(port(22, "p2", 10))
    host.hear(100.0, at(1, 20))
    host.hear(110.0, at(1, 22, 10.0))
    assert host.guests(110.0) == [(G1, "", "bond0")]


def test_guest_of_libvirt_that_was_heard_only_on_another_port_has_moved() -> None:
    host = simple()
    host.hear(100.0, at(1, 21), at(2, 20))
    named = {"p0": guest(1)}
    assert (G1, "p0", "moved") in host.reasons(110.0, named=named)
    assert (G1, "", "bond0") in host.guests(110.0, named=named)


@pytest.mark.parametrize(
    ("mode", "sends"), [(0, 0), (1, 1), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1)]
)
def test_bond_that_uses_several_ports_gets_nothing(mode: int, sends: int) -> None:
    host = simple()
    host.change(bond(3, "bond0", 10, mode))
    host.hear(100.0, at(1, 20))
    assert len(host.guests()) == sends
    assert ((G1, "p0", "bond-mode") in host.reasons()) is not bool(sends)
    assert len(host.guests(aggregators=frozenset({3}))) == (sends or mode == 4)


def test_bond_without_carrier_gets_nothing() -> None:
    host = simple()
    host.change(bond(3, "bond0", 10)._replace(flags=IFF_UP))
    host.hear(100.0, at(1, 20))
    assert (G1, "p0", "no-carrier") in host.reasons()
    assert host.plan().entries == ()


# -- the operator's prefixes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("52:54:00:aB:00:01", MacPrefix(0x525400AB0001, 48)),
        ("52:54:00:00:00:00/24", MacPrefix(0x525400000000, 24)),
        ("52:54:00:00:00:00/0", MacPrefix(0x525400000000, 0)),
    ],
)
def test_prefix_of_addresses_is_read(text: str, prefix: MacPrefix) -> None:
    assert parse_mac_prefix(text) == prefix


@pytest.mark.parametrize(
    "text",
    ["", "52:54:00", "52:54:00:00:00:00/49", "52:54:00:00:00:00/", "52:54:0:00:00:00:0", "x"],
)
def test_prefix_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="MAC/BITS, as"):
        parse_mac_prefix(text)


@pytest.mark.parametrize(
    ("text", "vlans"), [("0", {0}), ("0,100,200-202", {0, 100, 200, 201, 202}), ("4094", {4094})]
)
def test_list_of_vlans_is_read(text: str, vlans: set[int]) -> None:
    assert parse_vlans(text) == vlans


@pytest.mark.parametrize("text", ["", "4095", "1,", "5-4", "a", "1-", "-1", "1-2-3"])
def test_list_of_vlans_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 4094"):
        parse_vlans(text)


# -- warnings ---------------------------------------------------------------------------


def test_links_that_hinder_learning_frames_are_warned_of() -> None:
    host = simple()
    assert learning_warnings(host.table, host.topology, host.memory) == []
    hears = bond(3, "bond0", 10)._replace(bond=Bond(1, 90, hears_all_ports=True), port_state=2)
    in_ovs = bond(4, "bond1", 11)._replace(port_kind="openvswitch")
    host.change(hears, in_ovs, port(20, "p0", 10, port_state=2))
    found = [
        each.split(": ")[:2] for each in learning_warnings(host.table, host.topology, host.memory)
    ]
    assert [name for name, _ in found] == ["bond0", "bond0", "bond1"]
    assert found[0][1] == "all_slaves_active is on"
    assert found[1][1].startswith("STP of its bridge")
    assert found[2][1].startswith("is in Open vSwitch")


@pytest.mark.parametrize("filters", [False, True])
def test_warning_of_a_guest_that_tags_by_itself_where_a_bridge_in_its_vlan_hears_it(
    filters: bool,
) -> None:
    """A bridge that filters knows its VLANs."""
    host = simple()
    options = FILTERS if filters else None
    host.change(bridge(10, "br0", options), bridge(11, "br60"), vlan(12, "br0.60", 10, 60, 11))
    host.hear(100.0, at(1, 20), at(2, 12, bridge=11))
    assert learning_warnings(host.table, host.topology, host.memory) == []
    host.hear(100.0, at(1, 20), at(1, 12, bridge=11))
    found = learning_warnings(host.table, host.topology, host.memory)
    named = [each.partition(", with ")[0] for each in found]
    assert named == [] if filters else ["p0: its guest tags frames by itself"]


# -- under arbitrary tables -------------------------------------------------------------

PORTS = (3, 4, 20, 21, 22)
ADDRESSES = [guest(n) for n in (1, 2, 9)] + [mac("00:00:5e:00:01:01"), GATEWAY]
ENTRIES = st.builds(
    TableEntry,
    st.sampled_from(ADDRESSES),
    st.sampled_from(PORTS),
    st.just(10),
    st.sampled_from([0, 1, 200]),
    st.floats(0, 400).map(lambda age: round(age, 2)),
    st.booleans(),
)
OPTIONS = st.builds(PortOptions, st.booleans(), st.booleans(), st.booleans())
STEPS = st.lists(
    st.tuples(
        st.lists(ENTRIES, max_size=8, unique_by=lambda each: (each[0], each.vlan)),
        st.sets(st.sampled_from(PORTS)),
    ),
    min_size=1,
    max_size=4,
)
CHANGES: st.SearchStrategy[dict[int, dict[str, Any]]] = st.fixed_dictionaries(
    {},
    optional={
        each: st.builds(
            dict,
            port_options=OPTIONS,
            port_state=st.sampled_from([None, 3, 3, 1]),
            flags=st.sampled_from([UP, UP, IFF_UP]),
        )
        for each in PORTS
    },
)


@given(
    STEPS,
    CHANGES,
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(PORTS), st.sampled_from([1, 200])), max_size=8),
    st.integers(0, 6),
    st.booleans(),
    st.booleans(),
)
@property_settings(150)
def test_nevers_hold_under_arbitrary_tables(
    steps: list[tuple[list[TableEntry], set[int]]],
    changes: dict[int, dict[str, Any]],
    filters: bool,
    allowed: list[tuple[int, int]],
    mode: int,
    was_lost: bool,
    named: bool,
) -> None:
    """One bond and a VLAN of another bond as uplinks; a container, and two guests of libvirt."""
    host = Host(
        bond(3, "bond0", 10, mode),
        bond(2, "bond1"),
        vlan(4, "bond1.7", 2, 7, 10),
        bridge(10, "br0", FILTERS if filters else None),
        port(20, "p0", 10),
        libvirts(21, "vnet0", 10, 9),
        libvirts(22, "vnet1", 10, 2),
    )
    for ifindex, change in changes.items():
        host.change(host.table.links[ifindex]._replace(**change))
    for ifindex, tag in allowed:
        host.allow(ifindex, VlanRange(tag, tag))
    now = 1000.0
    for entries, sent in steps:
        now += 150.0
        host.hear(now, *entries, sent=sent)
    lost = {3: now - 10.0, 2: now - 10.0} if was_lost else {}
    macs = {"vnet0": guest(9), "vnet1": guest(2)} if named else {}
    plan = host.plan(now, lost=lost, named=macs)
    links = host.table.links
    sent_once = {
        each for entries, sent in steps for each in sent | {e.port_ifindex for e in entries}
    }
    last = {entry[:2] + entry[3:4]: entry for entry in steps[-1][0]}
    for each in plan.entries:
        assert links[each.bond_ifindex].kind == "bond"
        assert links[each.bond_ifindex].bond.mode in (1, 5, 6)  # type: ignore[union-attr]
        assert links[each.bond_ifindex].has_carrier
        assert not any(
            prefix.covers(int.from_bytes(each.hardware_address, "big")) for prefix in SHARED
        )
        assert all(isinstance(tag, VlanTag) for tag in each.tags)
        if each.kind == HOST:
            assert each.port == "br0"
            continue
        found = links[each.port_ifindex]
        assert each.port_ifindex in (20, 21, 22)
        assert each.port_ifindex in sent_once
        assert found.has_carrier
        assert not found.port_options.locked
        assert found.port_state in (None, 3)
        uplink = links[3 if each.bond == "bond0" else 4]
        assert uplink.port_state in (None, 3)
        assert not (uplink.port_options.isolated and found.port_options.isolated)
        heard = [e for step in steps for e in step[0] if e[:2] == (each.hardware_address, found[0])]
        assert any(e.is_trusted for e in heard) or (each.kind == OWN and named)
        untrusted = [e for e in steps[-1][0] if e.port_ifindex == found[0] and not e.is_trusted]
        assert untrusted == []
        inner = each.tags[-1].vlan if filters and each.tags else 0
        assert not filters or (uplink.ifindex, inner) in allowed
        outside = [last.get((each.hardware_address, up, inner if filters else 0)) for up in (3, 4)]
        assert all(entry is None or entry.age > each.silent for entry in outside)
        assert each.kind == OWN or not any(outside)
        if each.kind == FURTHER and was_lost:
            assert each.silent < 10.0
    counts = [each.port for each in plan.entries if each.kind != HOST]
    assert all(counts.count(name) <= 2 * PORT_MOST for name in counts)
    assert len({each[:4] for each in plan.entries}) == len(plan.entries)
