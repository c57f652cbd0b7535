"""The facts of a guest where all is well, for tests to spoil."""

from __future__ import annotations

from typing import Any

from garp_agent.diagnosis.doctor.checks import Finding, Level
from garp_agent.diagnosis.doctor.facts import (
    CAP_NET_RAW,
    Claimants,
    Configuration,
    Daemon,
    Facts,
    Interface,
    Kernel,
    Port,
    Process,
    Promise,
    Wire,
)
from garp_agent.diagnosis.sighting import BROADCAST, Sighting

MAC = "02:00:5e:00:53:10"
OTHER_MAC = "02:00:5e:00:53:66"
NOBODY = "00:00:00:00:00:00"

REQUEST = Sighting(
    "arp-request",
    MAC,
    BROADCAST,
    MAC,
    "192.0.2.10",
    target_hardware_address=NOBODY,
    length=60,
)
ADVERTISEMENT = Sighting(
    "unsolicited-na", MAC, "33:33:00:00:00:01", MAC, "2001:db8::10", override=True, length=86
)


def address(text: str, kind: str = "", skipped: str | None = None, **more: object) -> Any:
    """One address in a status."""
    announced = [kind] if kind else []
    counted = {"conflict": None, "seconds_since_last": 2.5} if announced else {}
    return {
        "address": text,
        "announced_as": announced,
        "skipped": skipped,
        **counted,
        **more,
    }


def link(name: str, *addresses: Any, skipped: str | None = None, **more: object) -> Any:
    """One link in a status."""
    return {
        "interface": name,
        "hardware_address": MAC,
        "skipped": skipped,
        "addresses": list(addresses),
        "next_refresh": 2.0,
        **more,
    }


def links() -> list[Any]:
    return [
        link(
            "lo",
            address("127.0.0.1", skipped="loopback"),
            skipped="loopback",
            hardware_address=NOBODY,
        ),
        link(
            "eth0", address("192.0.2.10", "arp-request"), address("2001:db8::10", "unsolicited-na")
        ),
    ]


def hint_port(state: str = "open, host not connected", **more: object) -> dict[str, Any]:
    """What a status says of the hint port."""
    return {
        "name": "org.garp_agent.0",
        "path": "/dev/vport1p1",
        "state": state,
        "error": None,
        "requests": 3,
        "errors": 0,
        "seconds_since_last": 12.0,
        **more,
    }


def status(**more: object) -> dict[str, Any]:
    """What a well daemon says."""
    return {
        "version": "1.0",
        "pid": 77,
        "uptime": 1000.0,
        "interval": 5.0,
        "lease": 80.0,
        "frames": {"sent": 500, "dropped": {}, "by_cause": {}},
        "overruns": 0,
        "resumes": 0,
        "links": links(),
        "hint_port": hint_port(),
        **more,
    }


def facts(**more: Any) -> Facts:
    """All is well, but for what is given.

    ``status`` spoils what the daemon says at both looks; other names replace a fact.
    """
    said = status(**more.pop("status", {}))
    later = {**said, "uptime": said["uptime"] + 3.0}
    well = Facts(
        Daemon("/run/control.sock", said, asked_at=50.0, took=0.001),
        Daemon("/run/control.sock", later, asked_at=53.0, took=0.001),
        said["links"],
        Process("S", 0, (0,), 1 << CAP_NET_RAW),
        Configuration("/etc/garp-agent/config.yaml"),
        Kernel("6.1.0-18-amd64"),
        {
            "lo": Interface(NOBODY, {"127.0.0.1": "255.0.0.0"}, {}),
            "eth0": Interface(MAC, {"192.0.2.10": "255.255.255.0", "2001:db8::10": ""}, {}),
        },
        Port(1, 1, ("org.garp_agent.0",), "character device", "crw-rw----", (0, 0)),
        Wire(
            promised=(
                Promise("eth0", "arp-request", MAC, "192.0.2.10"),
                Promise("eth0", "unsolicited-na", MAC, "2001:db8::10"),
            ),
            seen=(("eth0", REQUEST), ("eth0", ADVERTISEMENT)),
            waited=0.1,
        ),
        Claimants(asked=(("eth0", "192.0.2.10"), ("eth0", "2001:db8::10"))),
    )
    return well._replace(**more)


def bad(findings: list[Finding]) -> list[Finding]:
    """Those that are not good."""
    return [each for each in findings if each.level is not Level.OK]
