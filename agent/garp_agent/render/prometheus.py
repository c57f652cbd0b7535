"""The agent's status as Prometheus metrics, for the textfile collector of node_exporter.

Responsible for the text format, and for the names of the agent's metrics.  Listens on no port.

Sources: text exposition format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/), naming conventions
(https://prometheus.io/docs/practices/naming/): a prefix, base units, ``_total`` on counters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Sample = tuple[dict[str, str], float]


def metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    """Write one metric family; "" without samples."""
    lines = [f"{name}{_labels(labels)} {_decimal(value)}\n" for labels, value in samples]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(lines) if lines else ""


def _labels(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{_label_value(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _label_value(value: str) -> str:
    text = value.encode("utf-8", "backslashreplace").decode()  # a name may hold any bytes
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _decimal(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def agent_metrics(values: dict[str, Any]) -> str:
    """Write the metrics of a guest's agent, from its status."""
    families = (*_of_the_agent(values), *_of_its_links(values["links"]))
    return "".join(
        metric(f"garp_agent_{name}", "counter" if name.endswith("_total") else "gauge", text, each)
        for name, text, each in families
    )


Family = tuple[str, str, list[Sample]]  # name without the prefix, help text, samples


def _of_the_agent(values: dict[str, Any]) -> Iterable[Family]:
    frames, port = values["frames"], values["hint_port"]
    causes: list[Sample] = [({"cause": cause}, n) for cause, n in frames["by_cause"].items()]
    dropped: list[Sample] = [({"errno": name}, n) for name, n in frames["dropped"].items()]
    connected = int(port["state"] == "open, host connected")
    yield "info", "Always 1; the version is in the label.", [({"version": values["version"]}, 1)]
    yield "frames_sent_total", "Announcements that were sent, by cause.", causes
    yield "frames_dropped_total", "Announcements that the kernel refused, by errno.", dropped
    for name, text, value in (
        ("uptime_seconds", "Seconds since the agent started.", values["uptime"]),
        ("refresh_interval_seconds", "Refresh interval in force.", values["interval"]),
        ("lease_seconds", "Seconds left of the host's lease; 0 without a lease.", values["lease"]),
        ("netlink_overruns_total", "Times that the kernel dropped events.", values["overruns"]),
        ("conflicts_total", "Claims of our addresses by other stations.", values["conflicts"]),
        (
            "resumes_total",
            "Times that the guest was suspended or the agent stopped, and ran again.",
            values["resumes"],
        ),
        ("hint_requests_total", "Requests received through the hint port.", port["requests"]),
        ("hint_errors_total", "Lines on the hint port that were refused.", port["errors"]),
    ):
        yield name, text, [({}, value or 0)]
    if port["state"] != "open":  # a terminal does not tell
        text = "Whether the host is connected to the hint port."
        yield "hint_port_connected", text, [({}, connected)]


def _of_its_links(links: list[dict[str, Any]]) -> Iterable[Family]:
    announced = [
        ({"interface": link["interface"], "address": address["address"] or ""}, address)
        for link in links
        for address in link["addresses"]
        if address["skipped"] is None
    ]
    yield (
        "address_frames_sent_total",
        "Announcements that were sent, by address.",
        [(labels, address["sent"]) for labels, address in announced],
    )
    yield (
        "address_last_sent_seconds",
        "Seconds since the address was last announced.",
        [
            (labels, address["seconds_since_last"])
            for labels, address in announced
            if address["seconds_since_last"] is not None
        ],
    )
    yield (
        "address_withheld",
        "Whether the address is not announced because another station claims it.",
        [
            (labels, int(bool(address["conflict"] and address["conflict"]["withheld"])))
            for labels, address in announced
        ],
    )
    yield (
        "frames_held_total",
        "Times that the rate limit of a link delayed an announcement.",
        [({"interface": link["interface"]}, link["held"]) for link in links if link["addresses"]],
    )
