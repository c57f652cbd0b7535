"""Guests that only the links show."""

from __future__ import annotations

from typing import Any

from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.guests_without_channel import (
    NO_CHANNEL,
    UNMATCHED,
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


def found(*guests: dict[str, Any]) -> list[GuestWithoutChannel]:
    follower = Follower()
    for link in LINKS:
        follower.handle(LinkReport(link), 0.0)
    follower.handle(DumpComplete(), 0.0)
    return guests_without_channel(follower, NAMES, guests)


def with_channel(name: str, *ports: str, behind: tuple[str, ...] | None = ()) -> dict[str, Any]:
    return {"guest": name, "ports": ports, "behind": behind}


def states(*guests: dict[str, Any]) -> dict[str, str]:
    return {each.guest: each.state for each in found(*guests)}


def test_ports_behind_a_followed_link_are_guests_by_libvirts_name_or_their_own() -> None:
    """docker0 has no uplink: no failover concerns what is behind it."""
    behind = ("bond0", "br0")
    assert found() == [
        GuestWithoutChannel("db", NO_CHANNEL, ("vnet1",), behind),
        GuestWithoutChannel("veth0", NO_CHANNEL, ("veth0",), behind),
        GuestWithoutChannel("web", NO_CHANNEL, ("vnet0", "vnet2"), behind),
    ]


def test_guest_with_a_channel_is_none_by_its_name_or_by_its_ports() -> None:
    """Its agent may not answer: then only libvirt tells which ports it has."""
    silent = with_channel("web", behind=None)
    assert states(silent, with_channel("mail", "veth0")) == {"db": NO_CHANNEL}


def test_port_without_a_name_is_unmatched_while_a_guests_port_is_not_known() -> None:
    """Without libvirt, it may be the port of that guest, which is in the list already."""
    unknown = with_channel("mail", behind=None)
    assert states(unknown) == {"db": NO_CHANNEL, "veth0": UNMATCHED, "web": NO_CHANNEL}
    assert states(with_channel("mail", "vnet9"))["veth0"] == NO_CHANNEL
