"""Checks of bridges: uplinks, spanning tree, VLANs that end at the uplink.

Pure: facts in, findings out.  Source: net/bridge/br_stp.c: a port waits for the forward delay
twice, and only if the spanning tree is on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from garp_agent.diagnosis.doctor.findings import Finding, duration, fail, ok, skip, warn
from garp_agent.diagnosis.host.facts import BridgeFacts, BridgePortFacts, HostFacts
from garp_agent.hypervisor.core.linkstate import STATE_FORWARDING
from garp_agent.render.table import counted, some


def bridges(facts: HostFacts) -> Iterator[Finding]:
    """Check each bridge that has an uplink or a guest port."""
    if facts.links_error:
        yield skip("bridges", facts.links_error)
    for bridge in facts.bridges:
        if not (bridge.uplinks or bridge.guest_ports):
            continue
        problems = [*_uplinks(bridge), *_spanning_tree(bridge), *_missing_vlans(bridge)]
        yield from problems
        if not problems:
            yield ok(f"bridge {bridge.name}", _bridge_text(bridge))


def _bridge_text(bridge: BridgeFacts) -> str:
    number = len(bridge.guest_ports)
    guests = counted(number or "no", "guest port")
    uplinks = some([port.name for port in bridge.uplinks])
    stp = "on" if bridge.options.stp else "off"
    return f"uplink {uplinks}, {guests}, STP {stp}" if uplinks else f"no uplink, {guests}"


def _uplinks(bridge: BridgeFacts) -> Iterator[Finding]:
    check = f"bridge {bridge.name}"
    down = [port.name for port in bridge.uplinks if not port.has_carrier]
    forwarding = [port.name for port in bridge.uplinks if _passes_frames(port)]
    if down and len(down) == len(bridge.uplinks):
        yield fail(check, f"no uplink has carrier: {some(down)}", f"ip link show {down[0]}")
    elif bridge.uplinks and not forwarding:
        yield fail(
            check,
            f"no uplink forwards: {some([port.name for port in bridge.uplinks])}",
            f"bridge link show shows the state; wait for STP, or bridge link set dev "
            f"{bridge.uplinks[0].name} state 3",
        )
    elif len(forwarding) > 1 and not bridge.options.stp and len(_wires(bridge)) > 1:
        yield warn(
            check,
            f"{some(forwarding)} are uplinks that forward, and STP is off: a loop if they lead to "
            "one network",
            f"put them into a bond; or ip link set {bridge.name} type bridge stp_state 1",
        )


def _wires(bridge: BridgeFacts) -> list[BridgePortFacts]:
    """Return the uplinks without tunnels, whose network and VLANs are others on purpose."""
    return [port for port in bridge.uplinks if not port.is_tunnel]


def _passes_frames(port: BridgePortFacts) -> bool:
    return port.has_carrier and port.state in (None, STATE_FORWARDING)


def _spanning_tree(bridge: BridgeFacts) -> Iterator[Finding]:
    options = bridge.options
    if not options.stp:
        return
    wait = duration(2 * options.forward_delay)
    needed = len(bridge.uplinks) > 1
    yield warn(
        f"bridge {bridge.name}",
        f"STP is on: {'a failover takes' if needed else 'a port that comes up drops frames for'} "
        f"up to {wait} (twice the forward delay)",
        f"put the uplinks into a bond, then ip link set {bridge.name} type bridge stp_state 0"
        if needed
        else f"with one uplink it is not needed: ip link set {bridge.name} type bridge stp_state 0",
    )


def _missing_vlans(bridge: BridgeFacts) -> Iterator[Finding]:
    if not bridge.filters_vlans:
        return
    for uplink in _wires(bridge):
        lacking: dict[frozenset[int], list[str]] = {}
        for port in bridge.guest_ports:
            missing = port.vlans - uplink.vlans
            if missing:
                lacking.setdefault(missing, []).append(port.name)
        for vlans, ports in lacking.items():
            text = ranges(vlans)
            commands = "; ".join(
                f"bridge vlan add dev {uplink.name} vid {each}" for each in text.split(", ")[:3]
            )
            yield warn(
                f"bridge {bridge.name}",
                f"uplink {uplink.name} has no VLAN {text}, which {some(ports)} "
                f"{'have' if len(ports) > 1 else 'has'}: frames of these VLANs stay on this host",
                f"if they are to leave it: {commands}",
            )


def ranges(numbers: Iterable[int]) -> str:
    """Return ``1, 5-7`` for numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in found)
