"""Gathers facts for ``garp-hint doctor`` from the kernel, the guests, the watcher and proc(5).

Does not judge (the checks do).  Sends ``info`` to the guests, and probes where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from garp_agent import __version__
from garp_agent.diagnosis.doctor.gather import process
from garp_agent.diagnosis.host.facts import (
    BondFacts,
    BondPortFacts,
    BridgeFacts,
    BridgePortFacts,
    ChannelFacts,
    HostFacts,
    PathFacts,
    WatcherAnswer,
)
from garp_agent.diagnosis.host.link_settings import (
    LINK_SETTINGS,
    BondSettings,
    BridgeSettings,
    LinkSettings,
    Told,
)
from garp_agent.hypervisor.converse import ask_guests
from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.bridge_vlans import PortVlans
from garp_agent.hypervisor.core.linkstate import LINKS, LinkSnapshot
from garp_agent.hypervisor.core.probe_series import DELIVERED, ProbeSeries
from garp_agent.hypervisor.core.topology import TUNNELS
from garp_agent.hypervisor.guest_path_lookup import add_paths, dumped
from garp_agent.hypervisor.io.channels import Finder
from garp_agent.hypervisor.io.xenstore import xen_channels
from garp_agent.hypervisor.probe_driver import PROBE_PACE, PROBE_ROUNDS, ProbeDriver
from garp_agent.hypervisor.probe_targets import look_around
from garp_agent.render.hypervisor import where_looked
from garp_agent.render.probe import Loss, path_losses
from garp_agent.render.table import counted
from garp_agent.runtime import client

NO_PATH = "no guest is behind a bond with a standby port"
DUMP = 10.0  # seconds at most for each dump of the kernel's links


class HostPlaces(NamedTuple):
    """Where guests and watcher are looked for."""

    port: str
    channels: tuple[str, ...]
    libvirt_status: str
    timeout: float  # seconds that a guest has to answer
    status_socket: str


def gather_host_facts(places: HostPlaces) -> HostFacts:
    """Return all facts that need no frame on a link."""
    facts = HostFacts(__version__, look_for_guests(places), ask_watcher(places.status_socket))
    try:
        follower = Follower()
        for event in dumped(LINKS, DUMP):
            follower.handle(event, 0.0)
        told = dumped(LINK_SETTINGS, DUMP)
    except OSError as error:  # a sandbox can forbid it
        return facts._replace(links_error=f"the kernel does not tell its links: {error.strerror}")
    return facts._replace(bonds=bonds_in(follower, told), bridges=bridges_in(follower, told))


def look_for_guests(places: HostPlaces) -> ChannelFacts:
    """Return the channels, and what the guests answer to ``info``."""
    finder = Finder(places.port, places.channels, places.libvirt_status)
    found = finder.find()
    finder.close()
    guests = ask_guests(found, "info", {}, places.timeout)
    add_paths(guests, places.timeout, places.libvirt_status)
    named = xen_channels(places.port)
    return ChannelFacts(
        tuple(guests),
        tuple(sorted(finder.refused.items())),
        finder.trouble,
        "" if found else where_looked(finder.port_name, finder.patterns, finder.trouble),
        None if named is None else tuple(named),
    )


def ask_watcher(path: str) -> WatcherAnswer:
    """Return what the watcher says, and what its process may do."""
    try:
        status: dict[str, Any] = client.ask(path, "status", program="garp-hint watch")
    except client.ClientError as error:
        return WatcherAnswer(error=str(error))
    seen = process(status["pid"])
    if seen is None:
        return WatcherAnswer(status)
    return WatcherAnswer(status, uid=seen.uid, capabilities=seen.capabilities)


def probe_paths(status: dict[str, Any] | None, tell: Callable[[str], object]) -> PathFacts:
    """Probe the paths to all guests, as ``garp-hint probe`` does.

    ``status``: of the watcher, for names of guests.  ``tell``: takes what is about to be sent.
    """
    around = look_around((), status or {})
    faults = [each for each in around.plan.left_out if each.is_fault]
    lost = tuple(Loss(each.bond, each.reason) for each in faults)
    if not around.targets:
        return PathFacts("" if lost else NO_PATH, lost=lost)
    try:
        with ProbeDriver(around.table, around.plan.paths) as driver:
            addresses = counted(len(around.targets), "MAC")
            tell(f"{PROBE_ROUNDS} probes to each of {addresses} behind bonds")
            series = ProbeSeries(around.targets, PROBE_PACE, PROBE_ROUNDS)
            driver.run_to_end(series)
    except PermissionError:
        return PathFacts("needs root, or CAP_NET_RAW")
    except OSError as error:
        return PathFacts(f"a port cannot be used: {error.strerror}")
    values = [each.values(around.names) for each in series.results()]
    return PathFacts(
        probed=len(values),
        delivered=sum(each["verdict"] == DELIVERED for each in values),
        lost=(*lost, *path_losses(values)),
    )


# -- links --------------------------------------------------------------------------------


def bonds_in(follower: Follower, told: list[Told]) -> tuple[BondFacts, ...]:
    """Return the bonds, by name.  ``told``: of LINK_SETTINGS."""
    links = follower.table.links
    found = []
    for link, settings in _with_settings(follower, told):
        if not isinstance(settings, BondSettings):
            continue
        active = link.bond.active_ifindex if link.bond else 0
        ports = sorted(
            BondPortFacts(port.name, port.has_carrier, port.ifindex == active)
            for port in follower.table.ports(link.ifindex)
        )
        primary = links[settings.primary].name if settings.primary in links else ""
        bridged = _is_below_a_bridge(follower, link)
        found.append(BondFacts(link.name, settings, tuple(ports), primary, bridged))
    return tuple(sorted(found))


def bridges_in(follower: Follower, told: list[Told]) -> tuple[BridgeFacts, ...]:
    """Return the bridges, by name.  ``told``: of LINK_SETTINGS."""
    tables = {each.ifindex: each for each in told if isinstance(each, PortVlans)}

    def port(link: LinkSnapshot) -> BridgePortFacts:
        table = tables.get(link.ifindex)
        spans = [range(each.first, each.last + 1) for each in table.ranges] if table else []
        vlans = frozenset(vlan for span in spans for vlan in span)
        is_tunnel = link.kind in TUNNELS
        return BridgePortFacts(link.name, link.has_carrier, link.port_state, vlans, is_tunnel)

    found = []
    for link, settings in _with_settings(follower, told):
        if isinstance(settings, BridgeSettings):
            ports = follower.table.ports(link.ifindex)
            uplinks = [each for each in ports if follower.topology.is_uplink(each)]
            guests = [each for each in ports if follower.topology.is_guest_port(each)]
            found.append(
                BridgeFacts(
                    link.name,
                    settings,
                    tuple(sorted(map(port, uplinks), key=lambda each: each.name)),
                    tuple(sorted(map(port, guests), key=lambda each: each.name)),
                    link.bridge is not None and link.bridge.filters_vlans,
                )
            )
    return tuple(sorted(found, key=lambda each: each.name))


def _with_settings(
    follower: Follower, told: list[Told]
) -> list[tuple[LinkSnapshot, BondSettings | BridgeSettings]]:
    links = follower.table.links
    known = {each.ifindex: each.settings for each in told if isinstance(each, LinkSettings)}
    return [(links[ifindex], each) for ifindex, each in known.items() if ifindex in links]


def _is_below_a_bridge(follower: Follower, bond: LinkSnapshot) -> bool:
    bridges = [link for link in follower.table.links.values() if link.kind == "bridge"]
    return any(bond.ifindex in follower.topology.path(each.ifindex).links for each in bridges)
