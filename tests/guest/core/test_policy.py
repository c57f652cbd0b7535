"""policy: every reason to announce nothing, every selection, and the form of what is announced."""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    InterfaceSelection,
    Network,
    Settings,
)
from garp_agent.guest.core.model import (
    ARPHRD_ETHER,
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_OPTIMISTIC,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
    IFF_DORMANT,
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_POINTOPOINT,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    InterfaceAddress,
    Kind,
    Link,
)
from garp_agent.guest.core.policy import LinkPlan, Skip, Target, address_skip, link_skip, plan_link
from tests.world import (
    DEFAULTS,
    DOWN,
    NO_CARRIER,
    RUNNING,
    address,
    ip,
    link,
    mac,
    property_settings,
)

ARPHRD_LOOPBACK = 772
ARPHRD_INFINIBAND = 32


def network(text: str) -> Network:
    block = ipaddress.ip_network(text)
    return Network(block.network_address.packed, block.prefixlen)


def names(**selection: Any) -> Settings:
    return Settings(interfaces=InterfaceSelection(**selection))


def blocks(**selection: Any) -> Settings:
    return Settings(addresses=AddressSelection(**selection))


def planned(
    the_link: Link, *items: InterfaceAddress, settings: Settings = DEFAULTS, forwards: bool = False
) -> LinkPlan:
    return plan_link(the_link, items, forwards, settings)


# -- links ------------------------------------------------------------------------------

SKIPPED_LINKS = [
    (link(1, "lo", flags=RUNNING | IFF_LOOPBACK, hardware_type=ARPHRD_LOOPBACK), Skip.LOOPBACK),
    (link(flags=RUNNING | IFF_POINTOPOINT | IFF_NOARP, kind="wireguard"), Skip.POINT_TO_POINT),
    (link(flags=RUNNING | IFF_NOARP, kind="dummy"), Skip.NOARP),
    (link(hardware_type=ARPHRD_INFINIBAND, hardware_address=bytes(20)), Skip.NOT_ETHERNET),
    (link(hardware_address=b""), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=bytes(6)), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=mac("01:00:5e:00:00:01")), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=b"\xff" * 6), Skip.NO_HARDWARE_ADDRESS),
    (link(master_ifindex=9, port_kind="bridge"), Skip.PORT),
    (link(master_ifindex=9, port_kind="bond"), Skip.PORT),
    (link(master_ifindex=9, port_kind="team"), Skip.PORT),
    (link(master_ifindex=9), Skip.PORT),  # of a master without a kind, as net_failover is
    (link(flags=DOWN), Skip.DOWN),
    (link(flags=NO_CARRIER), Skip.NO_CARRIER),
    (link(flags=RUNNING | IFF_DORMANT), Skip.DORMANT),
]

SELECTED_AWAY = [
    (link(name="eth0"), {"include": ("lan*",)}, Skip.NAME_NOT_INCLUDED),
    (link(name="eth0"), {"include": ("eth*",), "exclude": ("eth0",)}, Skip.NAME_EXCLUDED),
    (link(kind="vlan"), {"include_kinds": ("physical",)}, Skip.KIND_NOT_INCLUDED),
    (link(), {"include_kinds": ("vlan", "bridge")}, Skip.KIND_NOT_INCLUDED),
    (link(kind="bridge"), {"exclude_kinds": ("bridge",)}, Skip.KIND_EXCLUDED),
    (link(), {"exclude_kinds": ("physical",)}, Skip.KIND_EXCLUDED),
    (
        link(kind="vlan"),
        {"include_kinds": ("vlan",), "exclude_kinds": ("vlan",)},
        Skip.KIND_EXCLUDED,
    ),
]

ANNOUNCED_LINKS = [
    pytest.param(link(), id="a network card"),
    pytest.param(link(kind="bridge"), id="a bridge"),
    pytest.param(link(kind="bond"), id="a bond"),
    pytest.param(link(kind="team"), id="a team"),
    pytest.param(link(kind="vlan", parent_ifindex=3), id="a VLAN"),
    pytest.param(link(kind="macvlan", parent_ifindex=3), id="a macvlan"),
    pytest.param(link(kind="veth"), id="a container's end of a veth pair"),
    pytest.param(link(master_ifindex=9, port_kind="vrf"), id="a member of a VRF"),
]


@pytest.mark.parametrize("kind", ["", "vlan"])
def test_links_whose_kind_is_selected_are_announced(kind: str) -> None:
    wanted = names(include_kinds=("vlan", "physical"), exclude_kinds=("bridge",))
    assert planned(link(kind=kind), address("10.0.0.1/24"), settings=wanted).targets


@pytest.mark.parametrize(("the_link", "reason"), SKIPPED_LINKS)
def test_links_on_which_nothing_is_announced(the_link: Link, reason: Skip) -> None:
    item = address("10.0.0.1/24")
    made = planned(the_link, item)
    assert (made.skip, made.targets, made.skipped) == (reason, {}, ((item, reason),))


@pytest.mark.parametrize(("the_link", "selection", "reason"), SELECTED_AWAY)
def test_links_that_the_configuration_leaves_out(
    the_link: Link, selection: dict[str, Any], reason: Skip
) -> None:
    assert planned(the_link, settings=names(**selection)).skip is reason


@pytest.mark.parametrize("the_link", ANNOUNCED_LINKS)
def test_links_on_which_addresses_are_announced(the_link: Link) -> None:
    made = planned(the_link, address("10.0.0.1/24"))
    assert (made.skip, list(made.targets)) == (None, [ip("10.0.0.1")])


@pytest.mark.parametrize(
    ("name", "selection", "announced"),
    [
        ("eth0", {"include": ("eth?",)}, True),
        ("eth10", {"include": ("eth?",)}, False),
        ("eth10", {"include": ("eth?", "eth1[0-3]")}, True),
        ("ETH0", {"include": ("eth*",)}, False),
        ("eth0.100", {"exclude": ("*.100",)}, False),
        ("eth0.200", {"exclude": ("*.100",)}, True),
        ("a[b]", {"include": ("a[[]b]",)}, True),
        ("a\udcffb", {"include": ("a?b",)}, True),  # not UTF-8 in the kernel
    ],
)
def test_selection_by_name(name: str, selection: dict[str, Any], announced: bool) -> None:
    made = planned(link(name=name), address("10.0.0.1/24"), settings=names(**selection))
    assert bool(made.targets) is announced


@property_settings(200)
@given(
    st.text("abc", max_size=4),
    st.lists(st.text("abc*?", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc*?", min_size=1, max_size=4), max_size=3),
)
def test_names_are_matched_as_fnmatch_does(
    name: str, include: list[str], exclude: list[str]
) -> None:
    wanted = not include or any(fnmatchcase(name, glob) for glob in include)
    unwanted = any(fnmatchcase(name, glob) for glob in exclude)
    selection = InterfaceSelection(include=tuple(include), exclude=tuple(exclude))
    assert (link_skip(link(name=name), selection) is None) is (wanted and not unwanted)


def test_lasting_reasons_come_before_passing_ones() -> None:
    port = link(name="eth0", flags=DOWN, master_ifindex=9, port_kind="bridge")
    assert planned(port, settings=names(exclude=("eth0",))).skip is Skip.PORT
    down = port._replace(master_ifindex=0)
    assert planned(down, settings=names(exclude=("eth0",))).skip is Skip.NAME_EXCLUDED
    assert planned(down).skip is Skip.DOWN


# -- addresses ------------------------------------------------------------------------------

SKIPPED_ADDRESSES = [
    (address("0.0.0.0/8"), Skip.UNSPECIFIED),
    (address("::/128"), Skip.UNSPECIFIED),
    (address("224.0.0.1/32"), Skip.NOT_UNICAST),
    (address("239.255.255.255/32"), Skip.NOT_UNICAST),  # ip address add 239... autojoin
    (address("255.255.255.255/32"), Skip.NOT_UNICAST),
    (address("ff15::1/128"), Skip.NOT_UNICAST),
    (address("127.0.0.2/8", scope=RT_SCOPE_HOST), Skip.HOST_SCOPE),
    (address("169.254.7.7/16", scope=RT_SCOPE_LINK), Skip.IPV4_LINK_LOCAL),
    (address("fd00::1/64", flags=IFA_F_DADFAILED | IFA_F_TENTATIVE), Skip.DADFAILED),
    (
        address("fd00::1/64", flags=IFA_F_DADFAILED | IFA_F_TENTATIVE | IFA_F_OPTIMISTIC),
        Skip.DADFAILED,
    ),
    (address("fd00::1/64", flags=IFA_F_TENTATIVE), Skip.TENTATIVE),
    (address("fe80::1/64", flags=IFA_F_TENTATIVE, scope=RT_SCOPE_LINK), Skip.TENTATIVE),
    (address("fd00::1/64", flags=IFA_F_DEPRECATED), Skip.DEPRECATED),
]

ANNOUNCED_ADDRESSES = [
    pytest.param(address("10.0.0.1/24"), id="IPv4"),
    pytest.param(address("10.0.0.2/24", flags=IFA_F_SECONDARY), id="a secondary, as eth0:1 is"),
    pytest.param(address("10.0.0.1/32", peer=ip("10.0.0.2")), id="a /32 with a peer: ours"),
    pytest.param(address("10.0.0.1/24", scope=RT_SCOPE_LINK), id="IPv4 of scope link"),
    pytest.param(address("10.0.0.1/24", flags=IFA_F_DEPRECATED), id="IPv4 past its preference"),
    pytest.param(address("169.253.1.1/16"), id="beside 169.254/16"),
    pytest.param(address("223.255.255.1/24"), id="just below multicast"),
    pytest.param(address("240.0.0.1/4"), id="just above multicast"),
    pytest.param(address("fec0::1/64"), id="just below IPv6 multicast"),
    pytest.param(address("fd00::1/64"), id="IPv6"),
    pytest.param(address("fd00::1/128", peer=ip("fd00::2")), id="IPv6 with a peer"),
    pytest.param(address("fe80::1/64", scope=RT_SCOPE_LINK), id="link-local IPv6"),
    pytest.param(
        address("fd00::1/64", flags=IFA_F_TENTATIVE | IFA_F_OPTIMISTIC), id="optimistic IPv6"
    ),
]


@pytest.mark.parametrize(("item", "reason"), SKIPPED_ADDRESSES)
def test_addresses_that_are_not_announced(item: InterfaceAddress, reason: Skip) -> None:
    made = planned(link(), item)
    assert (made.skip, made.targets, made.skipped) == (None, {}, ((item, reason),))


@pytest.mark.parametrize("item", ANNOUNCED_ADDRESSES)
def test_addresses_that_are_announced(item: InterfaceAddress) -> None:
    made = planned(link(), item)
    assert (list(made.targets), made.skipped) == ([item.address], ())


SELECTED_ADDRESSES = [
    ("10.0.0.1/24", {"ipv4": False}, Skip.FAMILY_OFF),
    ("10.0.0.1/24", {"ipv6": False}, None),
    ("fd00::1/64", {"ipv6": False}, Skip.FAMILY_OFF),
    ("10.0.0.1/24", {"include": (network("10.0.0.0/31"),)}, None),
    ("10.0.0.2/24", {"include": (network("10.0.0.0/31"),)}, Skip.NETWORK_NOT_INCLUDED),
    ("fd00::1/64", {"include": (network("10.0.0.0/8"),)}, Skip.NETWORK_NOT_INCLUDED),
    ("fd00::1/64", {"include": (network("::/0"),)}, None),
    ("10.0.0.1/24", {"exclude": (network("0.0.0.0/0"),)}, Skip.NETWORK_EXCLUDED),
    ("fd00::1/64", {"exclude": (network("0.0.0.0/0"),)}, None),
    (
        "10.0.0.1/24",
        {"include": (network("10.0.0.0/8"),), "exclude": (network("10.0.0.1/32"),)},
        Skip.NETWORK_EXCLUDED,
    ),
]


@pytest.mark.parametrize(("text", "selection", "reason"), SELECTED_ADDRESSES)
def test_selection_by_family_and_network(
    text: str, selection: dict[str, Any], reason: Skip | None
) -> None:
    assert address_skip(address(text), AddressSelection(**selection)) is reason


def test_deprecated_ipv6_is_announced_if_the_configuration_says_so() -> None:
    item = address("fd00::1/64", flags=IFA_F_DEPRECATED)
    assert planned(link(), item, settings=blocks(deprecated=True)).targets


some_network = st.one_of(
    st.ip_addresses(v=4).flatmap(
        lambda a: st.integers(0, 32).map(lambda n: ipaddress.ip_network((a, n), strict=False))
    ),
    st.ip_addresses(v=6).flatmap(
        lambda a: st.integers(0, 128).map(lambda n: ipaddress.ip_network((a, n), strict=False))
    ),
)


@property_settings(300)
@given(some_network, st.data())
def test_networks_contain_what_ipaddress_says_they_contain(
    block: ipaddress.IPv4Network | ipaddress.IPv6Network, data: st.DataObject
) -> None:
    inside = st.integers(0, block.num_addresses - 1).map(lambda n: block[n])
    candidate = data.draw(st.one_of(inside, st.ip_addresses(v=4), st.ip_addresses(v=6)))
    selection = AddressSelection(exclude=(network(str(block)),))
    item = InterfaceAddress(2, candidate.packed, 24)
    excluded = address_skip(item, selection) is Skip.NETWORK_EXCLUDED
    unusable = address_skip(item, AddressSelection()) is not None
    assert excluded is (candidate in block and not unusable)


def test_every_reason_has_its_case() -> None:
    cases = (SKIPPED_LINKS, SELECTED_AWAY, SKIPPED_ADDRESSES, SELECTED_ADDRESSES)
    assert {row[-1] for table in cases for row in table} - {None} == set(Skip)


def test_every_reason_reads_differently() -> None:
    assert len({reason.value for reason in Skip}) == len(Skip)


# -- the form -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        (ArpForm.REQUEST, (Kind.ARP_REQUEST,)),
        (ArpForm.REPLY, (Kind.ARP_REPLY,)),
        (ArpForm.BOTH, (Kind.ARP_REQUEST, Kind.ARP_REPLY)),
        (ArpForm.PROBE, (Kind.ARP_PROBE,)),
    ],
)
def test_ipv4_is_announced_in_the_form_configured_and_ipv6_by_an_advertisement(
    form: ArpForm, kinds: tuple[Kind, ...]
) -> None:
    made = planned(
        link(), address("10.0.0.1/24"), address("fd00::1/64"), settings=Settings(arp=form)
    )
    assert made.targets[ip("10.0.0.1")].kinds == kinds
    assert made.targets[ip("fd00::1")].kinds == (Kind.UNSOLICITED_NA,)


@pytest.mark.parametrize("forwards", [False, True])
@pytest.mark.parametrize(
    ("flags", "override"),
    [(0, True), (IFA_F_OPTIMISTIC, False), (IFA_F_OPTIMISTIC | IFA_F_TENTATIVE, False)],
)
def test_flags_of_an_advertisement(forwards: bool, flags: int, override: bool) -> None:
    made = planned(link(), address("fd00::1/64", flags=flags), forwards=forwards)
    assert made.targets[ip("fd00::1")] == Target(
        ip("fd00::1"), (Kind.UNSOLICITED_NA,), forwards, override
    )


def test_an_address_there_twice_is_announced_once() -> None:
    made = planned(link(), address("10.0.0.1/24"), address("10.0.0.1/25"))
    assert list(made.targets) == [ip("10.0.0.1")]


def test_a_link_without_addresses_is_announced_by_its_hardware_address_if_wanted() -> None:
    wanted = Settings(mac_only=True)
    alone = planned(link(), settings=wanted)
    assert alone.targets == {b"": Target(b"", (Kind.RARP,))}
    assert planned(link()).targets == {}
    assert planned(link(flags=NO_CARRIER), settings=wanted).targets == {}
    tentative = planned(link(), address("fd00::1/64", flags=IFA_F_TENTATIVE), settings=wanted)
    assert list(tentative.targets) == [b""]
    assert b"" not in planned(link(), address("10.0.0.1/24"), settings=wanted).targets


def test_an_address_in_conflict_is_only_announced_in_forms_that_claim_nothing() -> None:
    items = (address("10.0.0.1/24"), address("10.0.0.2/24"), address("fd00::1/64"))
    held = {(2, ip("10.0.0.1")), (2, ip("fd00::1"))}
    made = plan_link(link(), items, False, Settings(), lambda *which: which in held)
    assert {a: (t.kinds, t.withheld) for a, t in made.targets.items()} == {
        ip("10.0.0.1"): ((Kind.ARP_PROBE,), True),
        ip("10.0.0.2"): ((Kind.ARP_REQUEST,), False),
        ip("fd00::1"): ((Kind.RARP, Kind.DAD_PROBE), True),
    }


# -- any link, any address -----------------------------------------------------------------------

any_flags = st.lists(
    st.sampled_from([0x1, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOARP, 0x10000, IFF_DORMANT]),
    max_size=6,
).map(lambda bits: sum(set(bits)))
any_link = st.builds(
    link,
    flags=st.one_of(st.just(RUNNING), any_flags),
    hardware_type=st.sampled_from([ARPHRD_ETHER, ARPHRD_INFINIBAND]),
    hardware_address=st.one_of(st.binary(max_size=8), st.just(b"\2\0\0\0\0\1")),
    master_ifindex=st.sampled_from([0, 0, 9]),
    port_kind=st.sampled_from(["", "vrf", "bridge"]),
)
any_address = st.builds(
    InterfaceAddress,
    st.just(2),
    st.one_of(
        st.ip_addresses().map(lambda a: a.packed),
        st.sampled_from([bytes(4), ip("169.254.1.1"), ip("224.0.0.1"), ip("ff02::1")]),
    ),
    st.just(24),
    st.sampled_from([0, RT_SCOPE_LINK, RT_SCOPE_HOST]),
    st.integers(0, 0xFF),
)


@property_settings(300)
@given(any_link, st.lists(any_address, max_size=5), st.booleans(), st.sampled_from(ArpForm))
def test_every_address_is_a_target_or_has_a_reason_and_no_target_is_unfit(
    the_link: Link, items: list[InterfaceAddress], mac_only: bool, form: ArpForm
) -> None:
    made = planned(the_link, *items, settings=Settings(mac_only=mac_only, arp=form))
    assert all(item.address in made.targets or item in dict(made.skipped) for item in items)
    assert set(made.targets) <= {item.address for item in items} | {b""}
    if made.targets:
        assert made.skip is None
        assert the_link.has_carrier
        assert len(the_link.hardware_address) == 6
        assert not the_link.hardware_address[0] & 1
    for target in made.targets.values():
        ipv6 = len(target.address) == 16
        assert (Kind.UNSOLICITED_NA in target.kinds) is ipv6
        assert bool(target.kinds)
        assert target.address == b"" or ipaddress.ip_address(target.address).is_multicast is False
