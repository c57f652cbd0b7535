"""selectors: those that match nothing there is, or only links that are never announced."""

from __future__ import annotations

from typing import Any

from garp_agent.config.settings import AddressSelection, InterfaceSelection, Network, Settings
from garp_agent.guest.core.model import IFF_LOOPBACK
from garp_agent.guest.core.selectors import unmatched
from tests.world import address, ip, link

LINKS = [
    link(1, "lo", flags=IFF_LOOPBACK),
    link(2, altnames=("enp0s3",)),
    link(3, "br0", kind="bridge"),
    link(4, "tap0", kind="tun", master_ifindex=3, port_kind="bridge"),
]
ITEMS = {
    1: [address("127.0.0.1/8", label="lo"), address("10.9.0.1/32", label="lo:vip")],
    2: [address("10.0.0.1/24", label="eth2:vip"), address("10.0.0.2/24")],
}
NO_NAME = "no interface, alternative name or label here matches"
NO_LINK = "no link here matches"
NO_ADDRESS = "no address here is in it"
NEVER = "matches only on links that are never announced"


def problems(**settings: Any) -> list[tuple[str, Any, str]]:
    return unmatched(Settings(**settings), LINKS, lambda ifindex: ITEMS.get(ifindex, []))


def test_selectors_without_a_match_are_named_with_their_key() -> None:
    selection = InterfaceSelection(
        include=("eth2", "enp*", "eth2:vip", "lan0"),
        exclude=("*:vip", "eth[9]"),
        include_kinds=("physical", "bridge", "vlan"),
        exclude_kinds=("bond",),
    )
    assert problems(interfaces=selection) == [
        ("interfaces.include", "lan0", NO_NAME),
        ("interfaces.exclude", "eth[9]", NO_NAME),
        ("interfaces.include_kinds", "vlan", NO_LINK),
        ("interfaces.exclude_kinds", "bond", NO_LINK),
    ]


def test_selectors_of_links_that_are_never_announced_are_named_if_they_include() -> None:
    selection = InterfaceSelection(
        include=("lo:*", "tap0", "*0"),
        exclude=("lo", "tap*"),
        include_kinds=("tun", "loopback", "bridge"),
        exclude_kinds=("tun", "loopback"),
    )
    assert problems(interfaces=selection) == [
        ("interfaces.include", "lo:*", NEVER),
        ("interfaces.include", "tap0", NEVER),
        ("interfaces.include_kinds", "tun", NEVER),
        ("interfaces.include_kinds", "loopback", NEVER),
    ]


def test_blocks_without_an_address_that_can_be_announced_are_named() -> None:
    near, far, own = Network(ip("10.0.0.0"), 24), Network(ip("10.99.0.0"), 16), ip("10.9.0.1")
    six, virtual = Network(ip("fd00::"), 8), Network(own, 32)
    selection = AddressSelection(include=(near, far, virtual), exclude=(near, six, virtual))
    assert problems(addresses=selection) == [
        ("addresses.include", far, NO_ADDRESS),
        ("addresses.include", virtual, NEVER),
        ("addresses.exclude", six, NO_ADDRESS),
    ]
