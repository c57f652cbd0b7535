"""What ``garp-hint`` prints: text for people, JSON-ready values, Prometheus metrics.

Decides only how things look.  What a guest says of itself is shown only as far as it is
printable: it could be anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from garp_agent.render.prometheus import metric
from garp_agent.render.table import Row, table

SHOWN = 200  # characters of what a guest says


def guest_list(guests: list[dict[str, Any]]) -> str:
    """What ``list`` prints."""
    rows: list[Row] = [("GUEST", "STATE", "VERSION", "ADDRESSES", "SOCKET")]
    for guest in guests:
        info = guest.get("reply", {})
        version = printable(info.get("version", "-"))
        addresses = printable(" ".join(_addresses(info.get("links")))) or "-"
        rows.append((guest["guest"], guest["state"], version, addresses, guest["path"]))
    return table(rows)


def _addresses(links: object) -> Iterable[str]:
    for link in links if isinstance(links, list) else ():
        addresses = link.get("addresses") if isinstance(link, dict) else None
        yield from map(str, addresses if isinstance(addresses, list) else ())


def sent(guest: dict[str, Any]) -> str:
    """The line that ``send`` prints for a guest."""
    took = f"{guest['seconds'] * 1000:.1f} ms"
    if guest["state"] == "answered":
        frames = printable(guest["reply"].get("frames", "?"))
        return f"{guest['guest']}: answered in {took}, {frames} frames"
    why = f" ({printable(guest['error'])})" if "error" in guest else ""
    return f"{guest['guest']}: {guest['state']} after {took}{why}"


def printable(value: object) -> str:
    """Text that breaks neither a line nor a terminal."""
    text = str(value)[:SHOWN]
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


# -- the watcher ------------------------------------------------------------------------


def status(values: dict[str, Any]) -> str:
    """What ``status`` prints."""
    lease = f"{values['lease']:g} s" if values["lease"] else "none"
    lines = [
        f"garp-hint {values['version']}, pid {values['pid']}, up {values['uptime']:.0f} s",
        f"lease {lease}, netlink overruns {values['netlink_overruns']}",
        *(f"following {_followed(link)}" for link in values["following"]),
    ]
    if not values["following"]:
        lines.append("following nothing: there is no bond, team or bridge with an uplink")
    rows: list[Row] = [("GUEST", "STATE", "VERSION", "LEASE", "HINTS", "ANSWERED", "LAST", "MOST")]
    rows += map(_guest_row, values["guests"])
    return "\n".join(lines) + "\n\n" + table(rows)


def _followed(link: dict[str, Any]) -> str:
    kind = f"{link['kind']}, {link['mode']}" if link["mode"] else link["kind"]
    ports = ", ".join(link["ports"]) or "no port"
    return f"{link['link']} ({kind}): {ports}{'' if link['carrier'] else ', no carrier'}"


def _guest_row(guest: dict[str, Any]) -> Row:
    return (
        guest["guest"],
        guest["state"],
        guest["version"] or "-",
        f"{guest['lease']:.0f}s" if guest["lease"] else "-",
        str(guest["hints"]),
        str(guest["answered"]),
        _milliseconds(guest["last_seconds"]),
        _milliseconds(guest["slowest_seconds"]),
    )


def history(entries: list[dict[str, Any]]) -> str:
    """What ``history`` prints, the latest last."""
    rows: list[Row] = [("TIME", "REASON", "GUESTS", "ANSWERED", "FIRST", "LAST", "UNANSWERED")]
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"]))
        states = entry["unanswered_by_state"].items()
        missing = [f"{n} {state}" for state, n in states]
        missing += [f"{entry['superseded']} superseded"] * bool(entry["superseded"])
        missing += entry["unanswered"] + [f"({each})" for each in entry["unanswered_without_agent"]]
        rows.append(
            (
                when,
                printable(entry["reason"]),
                str(entry["guests"]),
                str(entry["answered"]),
                _milliseconds(entry["fastest_seconds"]),
                _milliseconds(entry["slowest_seconds"]),
                " ".join(missing) or "-",
            )
        )
    return table(rows)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def metrics(values: dict[str, Any]) -> str:
    """The watcher's status for Prometheus."""
    guests: list[dict[str, Any]] = values["guests"]
    families: tuple[tuple[str, str, str, list[tuple[dict[str, str], float]]], ...] = (
        ("info", "gauge", "Always 1; the version is in the label.", _one(values, "version")),
        ("uptime_seconds", "gauge", "Seconds since the start.", [({}, values["uptime"])]),
        (
            "link_carrier",
            "gauge",
            "Whether a link that is followed has carrier.",
            [({"link": x["link"]}, int(x["carrier"])) for x in values["following"]],
        ),
        (
            "failovers_total",
            "counter",
            "Failovers seen, and hints asked for by the operator, by link.",
            [({"link": link}, n) for link, n in values["failovers"].items()],
        ),
        (
            "hints_total",
            "counter",
            "Hints by what became of them; repeats are not counted.",
            [({"outcome": outcome}, n) for outcome, n in values["hints"].items()],
        ),
        (
            "guests",
            "gauge",
            "Guests by what became of the last attempt to talk to them.",
            [({"state": state}, n) for state, n in _states(guests).items()],
        ),
        (
            "guest_hints_total",
            "counter",
            "Hints that a guest was to have.",
            [(_label(guest), guest["hints"]) for guest in guests],
        ),
        (
            "guest_hints_answered_total",
            "counter",
            "Hints that a guest answered.",
            [(_label(guest), guest["answered"]) for guest in guests],
        ),
        (
            "guest_hint_seconds",
            "gauge",
            "Seconds from the failover to the guest's answer, the last time.",
            [(_label(g), g["last_seconds"]) for g in guests if g["last_seconds"] is not None],
        ),
        (
            "guest_lease_seconds",
            "gauge",
            "Seconds for which the guest is promised hints.",
            [(_label(guest), guest["lease"]) for guest in guests],
        ),
        (
            "netlink_overruns_total",
            "counter",
            "Times that link events were lost and everything was read anew.",
            [({}, values["netlink_overruns"])],
        ),
    )
    return "".join(
        metric(f"garp_hint_{name}", kind, text, samples) for name, kind, text, samples in families
    )


def _one(values: Mapping[str, Any], name: str) -> list[tuple[dict[str, str], float]]:
    return [({name: str(values[name])}, 1)]


def _label(guest: Mapping[str, Any]) -> dict[str, str]:
    return {"guest": guest["guest"], "path": guest["path"]}


def _states(guests: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    states: dict[str, int] = {}
    for guest in guests:
        states[guest["state"]] = states.get(guest["state"], 0) + 1
    return states
