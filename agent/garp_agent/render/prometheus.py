"""Status as Prometheus text exposition, format 0.0.4, for node_exporter's textfile collector.

Decides the names of the metrics, by Prometheus' conventions: a prefix, base units, and
``_total`` on counters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Sample = tuple[dict[str, str], float]


def metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    """One metric family; "" without samples."""
    lines = [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(lines) if lines else ""


def _labels(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    text = value.encode("utf-8", "backslashreplace").decode()  # an interface may have any name
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def agent(values: dict[str, Any]) -> str:
    """The metrics of a guest's agent, from its status."""
    frames, port = values["frames"], values["hint_port"]
    connected = port["state"] == "open, host connected"
    return "".join(
        (
            metric(
                "garp_agent_info",
                "gauge",
                "Always 1; the version is in the label.",
                [({"version": values["version"]}, 1)],
            ),
            metric(
                "garp_agent_uptime_seconds",
                "gauge",
                "Seconds since the agent was started.",
                [({}, values["uptime"])],
            ),
            metric(
                "garp_agent_refresh_interval_seconds",
                "gauge",
                "Refresh interval in force.",
                [({}, values["interval"])],
            ),
            metric(
                "garp_agent_lease_seconds",
                "gauge",
                "Seconds for which the host still promises hints; 0 without a promise.",
                [({}, values["lease"] or 0)],
            ),
            metric(
                "garp_agent_frames_sent_total",
                "counter",
                "Announcements that went out, by cause.",
                [({"cause": cause}, n) for cause, n in frames["by_cause"].items()],
            ),
            metric(
                "garp_agent_frames_dropped_total",
                "counter",
                "Announcements that the kernel did not take, by errno.",
                [({"errno": name}, n) for name, n in frames["dropped"].items()],
            ),
            metric(
                "garp_agent_netlink_overruns_total",
                "counter",
                "Times that kernel events were lost and everything was read anew.",
                [({}, values["overruns"])],
            ),
            metric(
                "garp_agent_conflicts_total",
                "counter",
                "Times that another station claimed one of our addresses.",
                [({}, values["conflicts"])],
            ),
            metric(
                "garp_agent_resumes_total",
                "counter",
                "Times that the machine was found to have been suspended, or the agent stopped.",
                [({}, values["resumes"])],
            ),
            metric(
                "garp_agent_hint_port_connected",
                "gauge",
                "Whether the host is connected to the hint port at this moment.",
                [({}, int(connected))],
            ),
            metric(
                "garp_agent_hint_requests_total",
                "counter",
                "Requests that came in through the hint port.",
                [({}, port["requests"])],
            ),
            metric(
                "garp_agent_hint_errors_total",
                "counter",
                "Lines on the hint port that were refused.",
                [({}, port["errors"])],
            ),
            *_of_links(values["links"]),
        )
    )


def _of_links(links: list[dict[str, Any]]) -> Iterable[str]:
    announced = [
        ({"interface": link["interface"], "address": address["address"] or ""}, address)
        for link in links
        for address in link["addresses"]
        if address["skipped"] is None
    ]
    yield metric(
        "garp_agent_address_frames_sent_total",
        "counter",
        "Announcements that went out, by address.",
        [(labels, address["sent"]) for labels, address in announced],
    )
    yield metric(
        "garp_agent_address_last_sent_seconds",
        "gauge",
        "Seconds since the address was last announced.",
        [
            (labels, address["seconds_since_last"])
            for labels, address in announced
            if address["seconds_since_last"] is not None
        ],
    )
    yield metric(
        "garp_agent_address_withheld",
        "gauge",
        "Whether the address is not announced because another station claims it.",
        [
            (labels, int(bool(address["conflict"] and address["conflict"]["withheld"])))
            for labels, address in announced
        ],
    )
    yield metric(
        "garp_agent_frames_held_total",
        "counter",
        "Times that announcements of a link had to wait for its token bucket.",
        [({"interface": link["interface"]}, link["held"]) for link in links if link["addresses"]],
    )
