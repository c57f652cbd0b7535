"""The facts of a healthy guest, for tests to change."""

from __future__ import annotations

from typing import Any

from garp_agent.diagnosis.doctor import facts as fact
from garp_agent.diagnosis.sighting import BROADCAST, Sighting

MAC = "02:00:5e:00:53:10"
OTHER_MAC = "02:00:5e:00:53:66"
ZERO_MAC = "00:00:00:00:00:00"

REQUEST = Sighting(
    "arp-request", MAC, BROADCAST, MAC, "192.0.2.10", target_hardware_address=ZERO_MAC, length=60
)
ADVERTISEMENT = Sighting(
    "unsolicited-na", MAC, "33:33:00:00:00:01", MAC, "2001:db8::10", override=True, length=86
)


def address(text: str, kind: str = "", skipped: str | None = None, **more: object) -> Any:
    """One address in a status."""
    announced = [kind] if kind else []
    counted = {"conflict": None, "seconds_since_last": 2.5} if announced else {}
    return {"address": text, "announced_as": announced, "skipped": skipped, **counted, **more}


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
    nothing = address("127.0.0.1", skipped="loopback")
    both = address("192.0.2.10", "arp-request"), address("2001:db8::10", "unsolicited-na")
    return [link("lo", nothing, skipped="loopback", hardware_address=ZERO_MAC), link("eth0", *both)]


def hint_port(state: str = "open, host not connected", **more: object) -> dict[str, Any]:
    """The hint port in a status."""
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
    """The status of a healthy agent."""
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


def facts(**more: Any) -> fact.Facts:
    """Return the facts of a healthy guest, with changes.

    ``status`` changes both answers of the agent; other names replace a fact.
    """
    said = status(**more.pop("status", {}))
    later = {**said, "uptime": said["uptime"] + 3.0}
    healthy = fact.Facts(
        fact.AgentAnswer("/run/control.sock", said, asked_at=50.0, took=0.001),
        fact.AgentAnswer("/run/control.sock", later, asked_at=53.0, took=0.001),
        said["links"],
        fact.ProcessFacts("S", 0, (0,), 1 << fact.CAP_NET_RAW),
        fact.ConfigurationFacts("/etc/garp-agent/config.yaml"),
        fact.KernelFacts("6.1.0-18-amd64"),
        {
            "lo": fact.Interface(ZERO_MAC, {"127.0.0.1": "255.0.0.0"}, {}),
            "eth0": fact.Interface(MAC, {"192.0.2.10": "255.255.255.0", "2001:db8::10": ""}, {}),
        },
        fact.PortFacts(1, 1, ("org.garp_agent.0",), "character device", "crw-rw----", (0, 0)),
        fact.WireFacts(
            promised=(
                fact.PromisedFrame("eth0", "arp-request", MAC, "192.0.2.10"),
                fact.PromisedFrame("eth0", "unsolicited-na", MAC, "2001:db8::10"),
            ),
            seen=(("eth0", REQUEST), ("eth0", ADVERTISEMENT)),
            waited=0.1,
        ),
        fact.ClaimantFacts(asked=(("eth0", "192.0.2.10"), ("eth0", "2001:db8::10"))),
    )
    return healthy._replace(**more)
