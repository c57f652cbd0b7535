"""policy: each reason to announce nothing, each selection, and the form of the announcements."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from garp_agent.config.settings import (
    AddressSelection,
    ArpForm,
    InterfaceSelection,
    Network,
    Settings,
)
from garp_agent.guest.core import model
from garp_agent.guest.core.model import (
    IFA_F_DADFAILED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_POINTOPOINT,
    InterfaceAddress,
    Kind,
    Link,
)
from garp_agent.guest.core.policy import LinkPlan, Skip, Target, item_skip, plan_link
from tests.world import (
    DEFAULTS,
    DOWN,
    NO_CARRIER,
    RUNNING,
    address,
    ip,
    link,
    mac,
)

ARPHRD_LOOPBACK = 772
ARPHRD_INFINIBAND = 32
A = address("10.0.0.1/24")
V6 = address("fd00::1/64")


def network(text: str) -> Network:
    block = ipaddress.ip_network(text)
    return Network(block.network_address.packed, block.prefixlen)


def names(**selection: Any) -> Settings:
    return Settings(interfaces=InterfaceSelection(**selection))


def planned(
    the_link: Link, *items: InterfaceAddress, settings: Settings = DEFAULTS, forwards: bool = False
) -> LinkPlan:
    return plan_link(the_link, items, forwards, settings)


# -- links ------------------------------------------------------------------------------

SKIPPED_LINKS = [
    (
        link(1, "lo", flags=RUNNING | IFF_LOOPBACK, hardware_type=ARPHRD_LOOPBACK),
        Skip.LOOPBACK,
    ),
    (
        link(flags=RUNNING | IFF_POINTOPOINT | IFF_NOARP, kind="wireguard"),
        Skip.POINT_TO_POINT,
    ),
    (link(flags=RUNNING | IFF_NOARP, kind="dummy"), Skip.NOARP),
    (link(hardware_type=ARPHRD_INFINIBAND, hardware_address=bytes(20)), Skip.NOT_ETHERNET),
    (link(hardware_address=b""), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=bytes(6)), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=mac("01:00:5e:00:00:01")), Skip.NO_HARDWARE_ADDRESS),
    (link(hardware_address=b"\xff" * 6), Skip.NO_HARDWARE_ADDRESS),
    (link(master_ifindex=9, port_kind="bridge"), Skip.PORT),
    (link(master_ifindex=9, port_kind="bond"), Skip.PORT),
    (link(master_ifindex=9, port_kind="team"), Skip.PORT),
    (link(master_ifindex=9), Skip.PORT),  # the master has no kind: net_failover
    (link(flags=DOWN), Skip.DOWN),
    (link(flags=NO_CARRIER), Skip.NO_CARRIER),
]

DESELECTED_LINKS = [
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
    *(link(kind=kind) for kind in ("", "bridge", "bond", "team", "veth")),
    *(link(kind=kind, parent_ifindex=3) for kind in ("vlan", "macvlan")),
    link(master_ifindex=9, port_kind="vrf"),
    link(flags=RUNNING | model.IFF_DORMANT, operational_state=model.IF_OPER_DORMANT),
]


@pytest.mark.parametrize(("the_link", "reason"), SKIPPED_LINKS)
def test_link_unsuitable_is_skipped_with_all_its_addresses(the_link: Link, reason: Skip) -> None:
    made = planned(the_link, A)
    assert (made.skip, made.targets, made.skipped) == (reason, {}, ((A, reason),))


@pytest.mark.parametrize(("the_link", "selection", "reason"), DESELECTED_LINKS)
def test_link_not_selected_is_skipped(
    the_link: Link, selection: dict[str, Any], reason: Skip
) -> None:
    assert planned(the_link, settings=names(**selection)).skip is reason


@pytest.mark.parametrize("the_link", ANNOUNCED_LINKS)
def test_link_suitable_is_announced(the_link: Link) -> None:
    made = planned(the_link, A)
    assert (made.skip, list(made.targets)) == (None, [A.address])


@pytest.mark.parametrize("kind", ["", "vlan"])
def test_link_of_selected_kind_is_announced(kind: str) -> None:
    wanted = names(include_kinds=("vlan", "physical"), exclude_kinds=("bridge",))
    assert planned(link(kind=kind), A, settings=wanted).targets


@pytest.mark.parametrize(
    ("name", "selection", "announced"),
    [
        ("eth0", {"include": ("eth?",)}, True),
        ("eth10", {"include": ("eth?",)}, False),
        ("eth10", {"include": ("eth?", "eth1[0-3]")}, True),
        ("eth10", {"exclude": ("eth?", "eth1[0-3]")}, False),
        ("ETH0", {"include": ("eth*",)}, False),
        ("eth0.100", {"exclude": ("*.100",)}, False),
        ("eth0.200", {"exclude": ("*.100",)}, True),
        ("a[b]", {"include": ("a[[]b]",)}, True),
        ("a\udcffb", {"include": ("a?b",)}, True),  # not UTF-8 in the kernel
    ],
)
def test_link_name_is_matched_by_globs(
    name: str, selection: dict[str, Any], announced: bool
) -> None:
    made = planned(link(name=name), A, settings=names(**selection))
    assert bool(made.targets) is announced


def test_link_with_several_reasons_names_the_permanent_one() -> None:
    port = link(name="eth0", flags=DOWN, master_ifindex=9, port_kind="bridge")
    assert planned(port, settings=names(exclude=("eth0",))).skip is Skip.PORT
    down = port._replace(master_ifindex=0)
    assert planned(down, settings=names(exclude=("eth0",))).skip is Skip.NAME_EXCLUDED
    assert planned(down).skip is Skip.DOWN


@pytest.mark.parametrize(
    ("selection", "announced"),
    [
        ({"include": ("enp*",)}, [A, V6]),
        ({"include": ("eth2:1",)}, [A]),
        ({"include": ("eth2:2",)}, []),
        ({"exclude": ("enp0s3",)}, []),
        ({"exclude": ("*:1",)}, [V6]),
        ({"include": ("enp0s3",), "exclude": ("eth2:1",)}, [V6]),
    ],
)
def test_alternative_name_selects_link_and_label_its_address(
    selection: dict[str, Any], announced: list[InterfaceAddress]
) -> None:
    items = (A._replace(label="eth2:1"), V6)
    made = planned(link(altnames=("enp0s3",)), *items, settings=names(**selection))
    assert [each for each in made.targets if each] == [item.address for item in announced]


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        ({}, Skip.CONTAINERS),
        ({"include_kinds": ("bridge",)}, Skip.CONTAINERS),
        ({"exclude": ("docker0",)}, Skip.NAME_EXCLUDED),
        ({"include": ("docker0",)}, None),
        ({"include": ("*",)}, None),
        ({"include": ("eth*",)}, Skip.NAME_NOT_INCLUDED),
    ],
)
def test_link_to_containers_is_announced_only_if_included_by_name(
    selection: dict[str, Any], reason: Skip | None
) -> None:
    docker = link(name="docker0", kind="bridge")
    made = plan_link(docker, (A,), False, names(**selection), to_containers=True)
    assert made.skip is reason


VIRTUAL_ROUTERS = [
    "00:00:5e:00:01:00",
    "00:00:5e:00:01:ff",
    "00:00:5e:00:02:33",
    "00:00:0c:07:ac:ff",
    "00:00:0c:9f:f0:00",
    "00:00:0c:9f:ff:ff",
    "00:05:73:a0:00:00",
    "00:05:73:a0:0f:ff",
    "00:07:b4:00:00:00",
    "00:07:b4:03:ff:ff",
]
NEARLY_VIRTUAL_ROUTERS = [
    "00:00:5e:00:00:33",
    "00:00:5e:00:03:33",
    "00:00:5e:00:53:33",
    "00:00:5e:01:01:33",
    "02:00:5e:00:01:33",
    "00:00:0c:07:ab:33",
    "00:00:0c:9f:ef:ff",
    "00:05:73:a0:10:00",
    "00:07:b4:04:00:00",
]
VIP = address("10.0.0.9/24", flags=model.IFA_F_PERMANENT)
VIP6 = address("fd00::9/64", flags=model.IFA_F_PERMANENT | model.IFA_F_DEPRECATED)
NO_VIRTUAL_ADDRESSES = [
    (),
    (A,),  # has a lifetime: DHCP
    (V6,),  # has a lifetime: autoconfigured, or temporary
    (address("169.254.7.7/16", flags=model.IFA_F_PERMANENT),),
    (address("10.0.0.9/24", flags=model.IFA_F_PERMANENT, scope=model.RT_SCOPE_LINK),),
    (address("fe80::9/64", flags=model.IFA_F_PERMANENT, scope=model.RT_SCOPE_LINK),),
    (VIP6._replace(flags=model.IFA_F_PERMANENT | model.IFA_F_MANAGETEMPADDR),),
    (VIP6._replace(flags=model.IFA_F_PERMANENT | IFA_F_TENTATIVE),),
    (VIP6._replace(flags=model.IFA_F_PERMANENT | IFA_F_TENTATIVE | IFA_F_DADFAILED),),
    (address("fd00::200:5eff:fe00:133/64", flags=model.IFA_F_PERMANENT),),  # EUI-64
]


def virtual(text: str = "00:00:5e:00:01:33") -> Link:
    return link(kind="macvlan", parent_ifindex=3, hardware_address=mac(text))


@pytest.mark.parametrize("text", VIRTUAL_ROUTERS)
def test_link_of_virtual_router_is_announced_with_virtual_address_only(text: str) -> None:
    assert planned(virtual(text)).skip is Skip.VIRTUAL_ROUTER
    assert list(planned(virtual(text), A, VIP).targets) == [A.address, VIP.address]


@pytest.mark.parametrize("text", NEARLY_VIRTUAL_ROUTERS)
def test_link_with_nearly_virtual_router_mac_is_an_ordinary_link(text: str) -> None:
    assert list(planned(virtual(text), A).targets) == [A.address]


@pytest.mark.parametrize("items", NO_VIRTUAL_ADDRESSES)
def test_link_of_virtual_router_without_virtual_address_is_skipped(
    items: tuple[InterfaceAddress, ...],
) -> None:
    made = planned(virtual(), *items)
    assert (made.skip, made.targets) == (Skip.VIRTUAL_ROUTER, {})
    assert [reason for _, reason in made.skipped] == [Skip.VIRTUAL_ROUTER] * len(items)


@pytest.mark.parametrize("text", ["10.0.0.9/32", "fe80::100/128"])
def test_link_of_virtual_router_counts_a_virtual_address_with_scope_link(text: str) -> None:
    item = address(text, flags=model.IFA_F_PERMANENT, scope=model.RT_SCOPE_LINK)
    assert list(planned(virtual(), item).targets) == [item.address]


def test_link_of_virtual_router_counts_virtual_addresses_that_are_not_announced() -> None:
    wanted = Settings(addresses=AddressSelection(ipv4=False, deprecated=False))
    for item in (VIP, VIP6):
        assert planned(virtual(), item, settings=wanted).targets == {b"": Target(b"", (Kind.RARP,))}


def private(**changes: Any) -> Link:
    return link(kind="macvlan", parent_ifindex=3, is_private=True)._replace(**changes)


@pytest.mark.parametrize("items", [(), *NO_VIRTUAL_ADDRESSES[2:-1]])
def test_private_macvlan_is_announced_like_a_link_of_a_virtual_router(
    items: tuple[InterfaceAddress, ...],
) -> None:
    made = planned(private(), *items)
    assert (made.skip, made.targets) == (Skip.VIRTUAL_ROUTER, {})
    assert VIP.address in planned(private(), *items, VIP).targets
    eui64 = address("fd00::ff:fe00:2/64", flags=model.IFA_F_PERMANENT)
    assert planned(private(), eui64).skip is Skip.VIRTUAL_ROUTER


def test_private_macvlan_is_announced_with_an_ipv4_address_of_dhcp() -> None:
    assert list(planned(private(), A).targets) == [A.address]


def test_private_macvlan_with_its_parent_in_another_namespace_is_an_ordinary_link() -> None:
    assert list(planned(private(parent_ifindex=0), V6).targets) == [V6.address]


# -- addresses ------------------------------------------------------------------------------

SKIPPED_ADDRESSES = [
    (address("0.0.0.0/8"), Skip.UNSPECIFIED),
    (address("::/128"), Skip.UNSPECIFIED),
    (address("224.0.0.1/32"), Skip.NOT_UNICAST),
    (address("239.255.255.255/32"), Skip.NOT_UNICAST),  # ip address add 239... autojoin
    (address("255.255.255.255/32"), Skip.NOT_UNICAST),
    (address("ff15::1/128"), Skip.NOT_UNICAST),
    (address("127.0.0.2/8", scope=model.RT_SCOPE_HOST), Skip.HOST_SCOPE),
    (address("169.254.7.7/16", scope=model.RT_SCOPE_LINK), Skip.IPV4_LINK_LOCAL),
    (V6._replace(flags=IFA_F_DADFAILED | IFA_F_TENTATIVE), Skip.DADFAILED),
    (
        V6._replace(flags=IFA_F_DADFAILED | IFA_F_TENTATIVE | IFA_F_OPTIMISTIC),
        Skip.DADFAILED,
    ),
    (V6._replace(flags=IFA_F_TENTATIVE), Skip.TENTATIVE),
    (address("fe80::1/64", flags=IFA_F_TENTATIVE, scope=model.RT_SCOPE_LINK), Skip.TENTATIVE),
    (V6._replace(flags=model.IFA_F_DEPRECATED), Skip.DEPRECATED),
]

ANNOUNCED_ADDRESSES = [
    A,
    address("10.0.0.2/24", flags=model.IFA_F_SECONDARY),  # eth0:1
    address("10.0.0.1/32", peer=ip("10.0.0.2")),
    address("10.0.0.1/24", scope=model.RT_SCOPE_LINK),
    address("10.0.0.1/24", flags=model.IFA_F_DEPRECATED),
    address("169.253.1.1/16"),  # beside 169.254/16
    address("223.255.255.1/24"),  # just below multicast
    address("240.0.0.1/4"),  # just above multicast
    address("fec0::1/64"),  # just below IPv6 multicast
    V6,
    address("fd00::1/128", peer=ip("fd00::2")),
    V6._replace(flags=model.IFA_F_DEPRECATED),
    address("fe80::1/64", scope=model.RT_SCOPE_LINK),
    V6._replace(flags=IFA_F_TENTATIVE | IFA_F_OPTIMISTIC),
]


@pytest.mark.parametrize(("item", "reason"), SKIPPED_ADDRESSES)
def test_address_unsuitable_is_skipped(item: InterfaceAddress, reason: Skip) -> None:
    strict = Settings(mac_only=False, addresses=AddressSelection(deprecated=False))
    made = planned(link(), item, settings=strict)
    assert (made.skip, made.targets, made.skipped) == (None, {}, ((item, reason),))


@pytest.mark.parametrize("item", ANNOUNCED_ADDRESSES)
def test_address_suitable_is_announced(item: InterfaceAddress) -> None:
    made = planned(link(), item)
    assert (list(made.targets), made.skipped) == ([item.address], ())


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(map(network, texts))


SELECTED_ADDRESSES = [
    ("10.0.0.1/24", {"ipv4": False}, Skip.FAMILY_OFF),
    ("10.0.0.1/24", {"ipv6": False}, None),
    ("fd00::1/64", {"ipv6": False}, Skip.FAMILY_OFF),
    ("10.0.0.1/24", {"include": nets("10.0.0.0/31")}, None),
    ("10.0.0.2/24", {"include": nets("10.0.0.0/31")}, Skip.NETWORK_NOT_INCLUDED),
    ("fd00::1/64", {"include": nets("10.0.0.0/8")}, Skip.NETWORK_NOT_INCLUDED),
    ("fd00::1/64", {"include": nets("::/0")}, None),
    ("fd00::1/64", {"include": nets("fd00::/127")}, None),
    ("fd00::2/64", {"include": nets("10.0.0.0/8", "fd00::/127")}, Skip.NETWORK_NOT_INCLUDED),
    ("10.255.0.1/24", {"exclude": nets("10.0.0.0/8", "fd00::/8")}, Skip.NETWORK_EXCLUDED),
    ("fdff::1/64", {"exclude": nets("10.0.0.0/8", "fd00::/8")}, Skip.NETWORK_EXCLUDED),
    ("10.0.0.1/24", {"exclude": nets("0.0.0.0/0")}, Skip.NETWORK_EXCLUDED),
    ("fd00::1/64", {"exclude": nets("0.0.0.0/0")}, None),
    (
        "10.0.0.1/24",
        {"include": nets("10.0.0.0/8"), "exclude": nets("10.0.0.1/32")},
        Skip.NETWORK_EXCLUDED,
    ),
]


@pytest.mark.parametrize(("text", "selection", "reason"), SELECTED_ADDRESSES)
def test_address_is_selected_by_family_and_network(
    text: str, selection: dict[str, Any], reason: Skip | None
) -> None:
    settings = Settings(addresses=AddressSelection(**selection))
    assert item_skip(address(text), link(), settings) is reason


def test_address_announced_elsewhere_is_skipped_and_names_its_own_reason_first() -> None:
    held = address("169.254.7.7/16")
    made = plan_link(link(), (A, held), False, DEFAULTS, elsewhere={A.address, held.address})
    assert made.skipped == ((A, Skip.ELSEWHERE), (held, Skip.IPV4_LINK_LOCAL))
    assert list(made.targets) == [b""]


def test_skip_reasons_are_all_tested_and_read_differently() -> None:
    cases = (SKIPPED_LINKS, DESELECTED_LINKS, SKIPPED_ADDRESSES, SELECTED_ADDRESSES)
    tested = {row[-1] for table in cases for row in table} | {
        Skip.VIRTUAL_ROUTER,
        Skip.CONTAINERS,
        Skip.ELSEWHERE,
    }
    assert tested - {None} == set(Skip)
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
def test_target_ipv4_has_configured_form_and_ipv6_an_advertisement(
    form: ArpForm, kinds: tuple[Kind, ...]
) -> None:
    made = planned(link(), A, V6, settings=Settings(arp=form))
    assert [target.kinds for target in made.targets.values()] == [kinds, (Kind.UNSOLICITED_NA,)]


@pytest.mark.parametrize("forwards", [False, True])
@pytest.mark.parametrize(
    ("flags", "override"),
    [
        (0, True),
        (IFA_F_OPTIMISTIC, False),
        (IFA_F_OPTIMISTIC | IFA_F_TENTATIVE, False),
    ],
)
def test_target_ipv6_has_router_and_override_flags(
    forwards: bool, flags: int, override: bool
) -> None:
    made = planned(link(), V6._replace(flags=flags), forwards=forwards)
    assert made.targets[V6.address] == Target(
        V6.address, (Kind.UNSOLICITED_NA,), forwards, override
    )


def test_target_of_address_with_two_prefixes_is_one() -> None:
    assert list(planned(link(), A, address("10.0.0.1/25")).targets) == [A.address]


def test_target_of_mac_only_exists_without_addresses_on_suitable_link() -> None:
    assert planned(link()).targets == {b"": Target(b"", (Kind.RARP,))}
    assert planned(link(), settings=Settings(mac_only=False)).targets == {}
    assert planned(link(flags=NO_CARRIER)).targets == {}
    assert planned(link(), settings=names(exclude=("eth2",))).targets == {}
    assert list(planned(link(), V6._replace(flags=IFA_F_TENTATIVE)).targets) == [b""]
    assert b"" not in planned(link(), A).targets
