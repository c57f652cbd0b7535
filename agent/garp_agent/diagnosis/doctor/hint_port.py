"""Checks of the hint port: where the chain from the hypervisor to the agent ends.

Driver, port, name, permission, busy, host connected, last hint.  Pure: facts in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from garp_agent.diagnosis.doctor.facts import Facts, ProcessFacts
from garp_agent.diagnosis.doctor.findings import Finding, duration, fail, ok, skip, warn
from garp_agent.render.table import counted

FIRST_HINT = 120.0  # seconds; garp-hint contacts every guest once a minute
CHECK = "hint port"


def hint_port(facts: Facts) -> Iterator[Finding]:
    """Check the hint port, and say where the chain ends."""
    if facts.agent.status is None:
        yield skip(CHECK, facts.agent.error)
        return
    seen = (facts.later.status or facts.agent.status)["hint_port"]
    if seen["state"] == "off":
        yield ok(CHECK, "none configured: after a failover the next refresh repairs the path")
    elif seen["state"].startswith("open"):
        yield _open_port(seen, facts)
    else:
        yield _closed_port(seen, facts)


def _open_port(seen: dict[str, Any], facts: Facts) -> Finding:
    status = facts.agent.status or {}
    place = f"{seen['name']} at {seen['path']}, {seen['state']}"
    if seen["requests"]:
        lease = f", lease for {status['lease']:.0f} s more" if status.get("lease") else ""
        ago = duration(seen["seconds_since_last"])
        found = f"{place}; {counted(seen['requests'], 'request')}, last {ago} ago{lease}"
        if seen["errors"] > seen["requests"]:
            return warn(
                CHECK,
                f"{found}; {counted(seen['errors'], 'line')} refused",
                "something other than garp-hint writes to the port: look on the hypervisor",
            )
        return ok(CHECK, found)
    if status.get("uptime", 0) < FIRST_HINT:
        return ok(CHECK, f"{place}; no request yet, the agent started a short time ago")
    return warn(
        CHECK,
        f"{place}; no request has ever come",
        "on the hypervisor: garp-hint list shows whether it finds this guest's channel; "
        "is garp-hint watch running?",
    )


def _closed_port(seen: dict[str, Any], facts: Facts) -> Finding:
    name, path, state = seen["name"], seen["path"] or "", seen["state"]
    if state == "forbidden":
        return fail(CHECK, *_forbidden(path, seen, facts))
    if state == "busy":
        held = f" by {', '.join(facts.port.holders)}" if facts.port.holders else ""
        return fail(
            CHECK,
            f"{path} is held open{held}",
            "a port serves one process: stop the other one, or give it a port of its own",
        )
    if state == "failed" or facts.port.kind:
        why = seen["error"] or "it hung up"
        kind = facts.port.kind or "nothing"
        return fail(
            CHECK,
            f"{path or name}: {why} (a {kind}, {facts.port.mode or 'no mode'})",
            "hint_port names a virtio-serial port, a character device or a listening socket",
        )
    return warn(CHECK, *_absent(name, facts))


def _forbidden(path: str, seen: dict[str, Any], facts: Facts) -> tuple[str, str]:
    port, process = facts.port, facts.process or ProcessFacts("", -1, (), 0)
    uid, gid = port.owner
    agent = f"; the agent is uid {process.uid}" if facts.process else ""
    return (
        f"{path}: {seen['error']} ({port.mode} uid {uid} gid {gid}{agent})",
        "install the udev rule (contrib/udev) so that the agent's group may open it; under systemd "
        "also DeviceAllow=char-virtio-portsdev rw; then udevadm trigger -s virtio-ports",
    )


def _absent(name: str, facts: Facts) -> tuple[str, str]:
    port = facts.port
    if name.startswith("/"):
        return f"{name} does not exist", "create it, or correct hint_port in the configuration"
    if port.names:
        return (
            f"there is no virtio-serial port {name}; there are: {', '.join(port.names)}",
            f"the channel's target name on the hypervisor and hint_port here must agree ({name})",
        )
    if port.controllers > port.driven:
        return (
            "there is a virtio-serial controller, but no driver for it is loaded",
            "modprobe virtio_console, and have it loaded at boot",
        )
    if port.controllers:
        return (
            "there is a virtio-serial controller, but it has no port",
            f"add the channel {name} to the guest on the hypervisor (docs/install)",
        )
    return (
        "this machine has no virtio-serial controller",
        f"add a virtio-serial channel {name} to the guest on the hypervisor, or set hint_port: "
        "none; until then the next refresh repairs the path after a failover",
    )
