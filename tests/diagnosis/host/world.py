"""The facts of a healthy host, for tests to change."""

from __future__ import annotations

from typing import Any

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
from garp_agent.diagnosis.host.link_settings import BondSettings, BridgeSettings
from garp_agent.hypervisor.core.linkstate import MODE_ACTIVE_BACKUP, STATE_FORWARDING

ETH0, ETH1 = BondPortFacts("eth0", True, True), BondPortFacts("eth1", True)
UPLINK = BridgePortFacts("bond0", True, STATE_FORWARDING)
TAP = BridgePortFacts("vnet0", True, STATE_FORWARDING)


def bond(
    ports: tuple[BondPortFacts, ...] = (ETH0, ETH1),
    primary: str = "",
    is_bridged: bool = True,
    **settings: int,
) -> BondFacts:
    """Return a bond; ``settings``: other than those of a healthy one."""
    healthy: dict[str, int] = {"mode": MODE_ACTIVE_BACKUP, "miimon": 10}
    return BondFacts("bond0", BondSettings(**healthy | settings), ports, primary, is_bridged)


def bridge(**changes: Any) -> BridgeFacts:
    """Return a bridge; ``stp``: a setting; other names replace a fact."""
    settings = BridgeSettings(changes.pop("stp", False), 15.0)
    healthy = BridgeFacts("br0", settings, (UPLINK,), (TAP,))
    return healthy._replace(**changes)


def guest(name: str = "web1", state: str = "answered", **changes: Any) -> dict[str, Any]:
    """Return a guest of ``garp-hint list --json``."""
    reply = {"version": "1.2.3"} if state == "answered" else {}
    path = f"/run/{name}/org.garp_agent.0"
    known = {"guest": name, "path": path, "state": state, "seconds": 0.001, "reply": reply}
    return known | {"ports": ["vnet0"], "behind": ["bond0", "br0"]} | changes


def watched(name: str = "web1", **changes: Any) -> dict[str, Any]:
    """Return a guest of ``garp-hint status --json``."""
    counted = {"hints": 3, "answered": 3, "last_seconds": 0.02, "slowest_seconds": 0.0841}
    return {
        "guest": name,
        "state": "answered",
        "lease": 80.0,
        **counted,
        "no_lease": None,
        "way": "agent",
        "no_way": None,
    } | changes


def status(**changes: Any) -> dict[str, Any]:
    """Return the status of a healthy watcher."""
    followed = {"link": "bond0", "kind": "bond", "mode": "active-backup", "carrier": True}
    return {
        "version": "1.2.3",
        "pid": 77,
        "uptime": 9000.0,
        "following": [followed],
        "guests": [watched()],
        "leases": True,
        "netlink_overruns": 0,
        "netlink_undecoded": 0,
        "wanted": [],
        "looked_at": ["lo"],
    } | changes


def facts(**changes: Any) -> HostFacts:
    """Return the facts of a healthy host; ``status`` changes the watcher's, others replace one."""
    said = status(**changes.pop("status", {}))
    healthy = HostFacts(
        "1.2.3",
        ChannelFacts((guest(),)),
        WatcherAnswer(said, uid=0, capabilities=1 << 1),
        (bond(),),
        (bridge(),),
        paths=PathFacts(probed=1, delivered=1),
    )
    return healthy._replace(**changes)
