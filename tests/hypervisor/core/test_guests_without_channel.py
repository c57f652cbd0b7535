"""Guests that only the links show."""

from __future__ import annotations

from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.guests_without_channel import (
    GuestWithoutChannel,
    guests_without_channel,
)
from garp_agent.hypervisor.core.linkstate import LinkReport
from garp_agent.wire.model import DumpComplete
from tests.hypervisor.core.learning import bond, bridge, libvirts, port

LINKS = (
    bond(1, "bond0", master=2),
    bridge(2, "br0"),
    libvirts(3, "vnet0", 2, 1),
    libvirts(4, "vnet1", 2, 2),
    libvirts(5, "vnet2", 2, 3),
    port(6, "veth0", 2),
    bridge(7, "docker0"),
    port(8, "veth1", 7),
)
NAMES = {"vnet0": "web", "vnet1": "db", "vnet2": "web"}


def found(
    *, guests: tuple[str, ...] = (), ports: tuple[str, ...] = ()
) -> list[GuestWithoutChannel]:
    follower = Follower()
    for link in LINKS:
        follower.handle(LinkReport(link), 0.0)
    follower.handle(DumpComplete(), 0.0)
    return guests_without_channel(follower, NAMES, guests, ports)


def test_ports_behind_a_followed_link_are_guests_by_libvirts_name_or_their_own() -> None:
    """docker0 has no uplink: no failover concerns what is behind it."""
    behind = ("bond0", "br0")
    assert found() == [
        GuestWithoutChannel("db", ("vnet1",), behind),
        GuestWithoutChannel("veth0", ("veth0",), behind),
        GuestWithoutChannel("web", ("vnet0", "vnet2"), behind),
    ]


def test_guest_with_a_channel_is_none_by_its_name_or_by_its_ports() -> None:
    """Its agent may not answer: then only libvirt tells which ports it has."""
    assert [each[0] for each in found(guests=("web",), ports=("veth0",))] == ["db"]
