"""What ``garp-hint doctor`` knows: plain values.  ``gather`` fills them; the checks judge them."""

from __future__ import annotations

from typing import Any, NamedTuple

from garp_agent.diagnosis.host.link_settings import BondSettings, BridgeSettings
from garp_agent.hypervisor.io.xenstore import XenChannel
from garp_agent.render.probe import Loss


class BondPortFacts(NamedTuple):
    """One port of a bond."""

    name: str
    has_carrier: bool
    is_active: bool = False  # the port in use of mode active-backup


class BondFacts(NamedTuple):
    """One bond."""

    name: str
    options: BondSettings
    ports: tuple[BondPortFacts, ...]
    primary: str = ""  # name of the port
    is_bridged: bool = False  # a bridge above it sends frames of guests through it


class BridgePortFacts(NamedTuple):
    """One port of a bridge."""

    name: str
    has_carrier: bool = True
    state: int | None = None  # hypervisor.core.linkstate.STATE_*; None: not known
    vlans: frozenset[int] = frozenset()
    is_tunnel: bool = False  # it leads to another network than the others, as a rule


class BridgeFacts(NamedTuple):
    """One bridge."""

    name: str
    options: BridgeSettings
    uplinks: tuple[BridgePortFacts, ...] = ()
    guest_ports: tuple[BridgePortFacts, ...] = ()
    filters_vlans: bool = False


class WatcherAnswer(NamedTuple):
    """What the watcher answered on its status socket, and its process."""

    status: dict[str, Any] | None = None  # as `garp-hint status --json` prints it
    error: str = ""  # why there is no status
    uid: int = -1
    capabilities: int | None = None  # effective; None: its process cannot be seen from here


class ChannelFacts(NamedTuple):
    """The guests' channels."""

    guests: tuple[dict[str, Any], ...] = ()  # as `garp-hint list --json` prints them
    refused: tuple[tuple[str, str], ...] = ()  # sockets that are left out, and why
    trouble: str = ""  # why the sockets that listen are not known; "": they are
    none_found: str = ""  # where they were looked for, and what to do
    in_xenstore: tuple[XenChannel, ...] | None = None  # None: no Xen host


class PathFacts(NamedTuple):
    """What probes between the ports of bonds found."""

    skipped: str = ""  # why none was sent
    probed: int = 0  # MACs of guests
    delivered: int = 0
    lost: tuple[Loss, ...] = ()


class HostFacts(NamedTuple):
    """All facts."""

    version: str  # of this program
    channels: ChannelFacts
    watcher: WatcherAnswer
    bonds: tuple[BondFacts, ...] = ()
    bridges: tuple[BridgeFacts, ...] = ()
    links_error: str = ""  # why bonds and bridges are not known
    paths: PathFacts = PathFacts(skipped="not asked for")
