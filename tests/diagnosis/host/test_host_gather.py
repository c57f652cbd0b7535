"""Bonds and bridges from what a real kernel tells."""

from __future__ import annotations

import pytest

from garp_agent.diagnosis.host import link_settings
from garp_agent.diagnosis.host.bridges import bridges
from garp_agent.diagnosis.host.facts import BondPortFacts, BridgeFacts
from garp_agent.diagnosis.host.gather import bonds_in, bridges_in
from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.wire.model import DumpComplete, DumpStarted
from garp_agent.wire.rtnetlink import DumpDone
from tests import golden
from tests.diagnosis.host.world import facts


def follower_of(*names: str) -> Follower:
    follower = Follower()
    follower.handle(DumpStarted(), 0.0)
    for name in names:
        for event in linkstate.decode(golden.read(name)):
            if not isinstance(event, DumpDone):
                follower.handle(event, 0.0)  # type: ignore[arg-type]
    follower.handle(DumpComplete(), 0.0)
    return follower


@pytest.fixture
def host() -> dict[str, BridgeFacts]:
    """The bridges of the host in tests/hypervisor/core/test_learning_dumps.py."""
    told = link_settings.decode(golden.read("topology/learning-links"))
    told += link_settings.decode(golden.read("topology/learning-vlans"))
    found = bridges_in(follower_of("topology/learning-links"), told)  # type: ignore[arg-type]
    return {bridge.name: bridge for bridge in found}


def test_bridges_of_a_host_have_uplinks_guest_ports_and_vlans(host: dict[str, BridgeFacts]) -> None:
    bridge = host["br1"]
    assert [(port.name, port.is_tunnel) for port in bridge.uplinks] == [
        ("bond1", False),
        ("vx1", True),
    ]
    assert [port.name for port in bridge.guest_ports] == ["pa", "pi", "pl", "pt"]
    assert (bridge.filters_vlans, host["br0"].filters_vlans) == (True, False)
    [finding] = list(bridges(facts(bridges=(bridge,))))
    assert finding.found.startswith("uplink bond1 has no VLAN 306-310, 400, which pt has: ")


def test_bond_has_its_settings_and_ports() -> None:
    names = ("rtnetlink/link-bond-port", "rtnetlink/link-bond-failover")
    told = link_settings.decode(golden.read(names[1]))
    [bond] = bonds_in(follower_of(*names), told)  # type: ignore[arg-type]
    assert (bond.name, bond.options.miimon) == ("bond0", 10)
    assert bond.ports == (BondPortFacts("up1", True, is_active=True),)
