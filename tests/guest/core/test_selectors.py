"""selectors: those that match nothing there is."""

from __future__ import annotations

from garp_agent.config.settings import InterfaceSelection
from garp_agent.guest.core.selectors import unmatched
from tests.world import address, link

LINKS = [link(2, altnames=("enp0s3",)), link(3, kind="bridge")]
ITEMS = {2: [address("10.0.0.1/24", label="eth2:vip"), address("10.0.0.2/24")]}


def test_selectors_without_a_match_are_named_with_their_key() -> None:
    selection = InterfaceSelection(
        include=("eth2", "enp*", "eth2:vip", "lan0"),
        exclude=("*:vip", "eth[9]"),
        include_kinds=("physical", "bridge", "vlan"),
        exclude_kinds=("bond",),
    )
    assert unmatched(selection, LINKS, lambda ifindex: ITEMS.get(ifindex, [])) == [
        ("interfaces.include", "lan0"),
        ("interfaces.exclude", "eth[9]"),
        ("interfaces.include_kinds", "vlan"),
        ("interfaces.exclude_kinds", "bond"),
    ]
