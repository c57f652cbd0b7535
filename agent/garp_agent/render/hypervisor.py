"""Guests, status and history of ``garp-hint`` as text for people, and its Prometheus metrics.

Responsible for how they look.  The values come from ``hypervisor.converse`` and from the watcher's
status, as JSON carries them.  A guest can send any text: it is cut and made printable here.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from garp_agent.render.learning import learning_families, learning_line
from garp_agent.render.prometheus import Family, Sample, metric
from garp_agent.render.table import PIPE, Row, Screen, counted, printable, some, table, wrapped

GIVE_CHANNEL = (
    "Give a guest of libvirt one: garp-hint attach GUEST. For sockets of other names: --channel "
    "GLOB"
)
UNANSWERED = "unanswered: "
SHOWN = 200  # characters of a text that a guest sent


def guest_list(guests: list[dict[str, Any]], screen: Screen = PIPE) -> str:
    """Write what ``list`` prints: a line for each guest.

    The sockets are left out where they do not fit: addresses and ports say more.
    """
    rows: list[Row] = [("GUEST", "STATE", "WAY", "VERSION", "ADDRESSES", "BEHIND", "SOCKET")]
    for guest in guests:
        info = guest.get("reply", {})
        version = from_guest(info.get("version", "-"))
        addresses = from_guest(" ".join(_address_texts(info.get("links")))) or "-"
        state = _with_reason(guest["state"], from_guest(guest.get("error", "")))
        way = _with_reason(guest.get("way") or "?", guest.get("no_way") or "")
        path = guest.get("path") or "-"
        rows.append((guest["guest"], state, way, version, addresses, _behind(guest), path))
    if screen.width and max(map(len, table(rows).splitlines())) > screen.width:
        rows = [row[:-1] for row in rows]
    return table(rows, screen, tuple(range(len(rows[0]))), _state_meaning)


def _state_meaning(column: int, text: str) -> str:
    """Return how bad the state of a guest is, which stands in the second column of tables."""
    if column != 1:
        return ""
    fixed = {"answered": "good", "no-agent": "warn"}
    quiet = dict.fromkeys(("new", "no-channel", "unmatched"), "quiet")
    return {**fixed, **quiet}.get(text, "bad")


def sent(guest: dict[str, Any]) -> str:
    """Write the line that ``send`` prints for a guest."""
    name = printable(guest["guest"])
    took = f"{guest['seconds'] * 1000:.1f} ms"
    if guest["state"] == "answered":
        frames = from_guest(guest["reply"].get("frames", "?"))
        return f"{name}: answered in {took}, {counted(frames, 'frame')}"
    return f"{name}: " + _with_reason(
        f"{guest['state']} after {took}", from_guest(guest.get("error", ""))
    )


def refused_socket(path: str, reason: str) -> str:
    """Write the line for a socket that has the name of a channel and is not used."""
    return f"garp-hint: {printable(path)}: left out: {printable(reason)}"


def no_channel(port: str, patterns: tuple[str, ...], trouble: str) -> str:
    """Write that no running guest has a channel, where it was looked for, and what to do.

    As :func:`where_looked`.
    """
    return f"garp-hint: {where_looked(port, patterns, trouble)}. {GIVE_CHANNEL}"


def where_looked(port: str, patterns: tuple[str, ...], trouble: str) -> str:
    """Write that no running guest has a channel, and where it was looked for.

    ``port``: the name of the port.  ``patterns``: of more sockets.
    ``trouble``: why the sockets that listen are not known; "" if they are.
    """
    looked = [] if trouble else [f"no socket named {port} listens in this network namespace"]
    looked += [f"no socket matches {pattern}" for pattern in patterns]
    where = printable(", ".join(looked))
    return f"no running guest has a channel{': ' * bool(where)}{where}"


def _with_reason(state: str, reason: str) -> str:
    return f"{state} ({reason})" if reason else state


def from_guest(value: object) -> str:
    """Write the first SHOWN characters of a value of any type, safe for a terminal."""
    return printable(str(value)[:SHOWN])


def _address_texts(links: object) -> Iterable[str]:
    for link in links if isinstance(links, list) else ():
        addresses = link.get("addresses") if isinstance(link, dict) else None
        yield from map(str, addresses if isinstance(addresses, list) else ())


def watcher_status_text(values: dict[str, Any], screen: Screen = PIPE) -> str:
    """Write what ``status`` prints: the links, then a line for each guest."""
    lease = f"{values['lease']:g} s" if values["lease"] else "none"
    lines = [
        f"garp-hint {values['version']}, pid {values['pid']}, up {values['uptime']:.0f} s",
        f"lease {lease}, netlink overruns {values['netlink_overruns']}",
        *(f"following {_link_text(link)}" for link in values["following"]),
    ]
    if not values["following"]:
        lines += following_nothing(values)
    lines += [
        f"hints are repeated, round {each['rounds']} is over: {from_guest(each['reason'])}"
        for each in values["history"]
        if each["repeating"]
    ]
    if values.get("learning"):
        lines.append(learning_line(values["learning"]))
    if values.get("not_verified"):
        lines.append(f"failovers are not verified: {values['not_verified']}")
    lines += [f"last failover {each}" for each in map(verified, values["history"][-1:]) if each]
    lines += _lines_by_reason("no lease", "no_lease", values["guests"])
    others = values.get("without_channel", [])  # an older watcher does not know them
    lines += _lines_by_reason("not announced", "no_way", values["guests"] + others)
    rows: list[Row] = [("GUEST", "STATE", "WAY", "VERSION", "LEASE", "ANSWERED", "LAST", "BEHIND")]
    for guest in values["guests"]:
        rows.append(
            (
                guest["guest"],
                _with_reason(guest["state"], os.strerror(guest["errno"]) * bool(guest["errno"])),
                guest.get("way", "?"),
                guest["version"] or "-",
                f"{guest['lease']:.0f}s" if guest["lease"] else "-",
                f"{guest['answered']} of {guest['hints']}",
                _milliseconds(guest["last_seconds"]),
                _behind(guest),
            )
        )
    for guest in others:
        rows.append(
            (guest["guest"], guest["state"], guest["way"], *"----", _behind(guest)),
        )
    head = "".join(wrapped(line, screen) + "\n" for line in lines)
    return head + "\n" + table(rows, screen, (0, 1, 3, 7), _state_meaning)


def _lines_by_reason(what: str, key: str, guests: list[dict[str, Any]]) -> list[str]:
    """Write why guests lack something, a line for each reason; an older watcher gives none."""
    names: dict[str, list[str]] = {}
    for guest in guests:
        if guest.get(key):
            names.setdefault(guest[key], []).append(guest["guest"])
    return [printable(f"{what}: {some(each)}: {why}") for why, each in names.items()]


def following_nothing(values: dict[str, Any]) -> tuple[str, str]:
    """Write where the watcher looked for links, and what to do; an older one does not say."""
    wanted, links = (printable(", ".join(values.get(key, ()))) for key in ("wanted", "looked_at"))
    if wanted:
        reason = f"no link {wanted} (--bond) that is a bond, team or bridge with an uplink"
        advice = "correct --bond, or leave it out to follow all"
    else:
        reason = "no bond, team or bridge with an uplink"
        advice = "run the watcher in the network namespace of the host's bond, if it has one"
    return (
        f"following nothing: {reason}; the links here: {links or '?'}",
        f"no guest gets a hint or a lease: {advice}",
    )


def _behind(guest: dict[str, Any]) -> str:
    """Write through which ports and links a guest is reached, if that is known."""
    if guest.get("behind") is None:
        return "?"
    return printable(" ".join((",".join(guest["ports"]), *guest["behind"])))


def _link_text(link: dict[str, Any]) -> str:
    kind = f"{link['kind']}, {link['mode']}" if link["mode"] else link["kind"]
    ports = ", ".join(link["ports"]) or "no port"
    return f"{link['link']} ({kind}): {ports}{'' if link['carrier'] else ', no carrier'}"


def history(values: dict[str, Any], now: float, screen: Screen = PIPE) -> str:
    """Write what ``history`` prints: a line for each failover, the newest last.

    A second line has the guests that have not answered, and a third what the network says.
    ``now``: seconds since 1970.
    """
    if not values["history"]:
        return f"{wrapped(no_failover(values, now), screen)}\n"
    rows: list[Row] = [("TIME", "ANSWERED", "ROUNDS", "LAST", "REASON")]
    for entry in values["history"]:
        rows.append(
            (
                local_time(entry["time"]),
                f"{entry['answered']} of {entry['guests']}",
                f"{entry['rounds']}{'+' if entry['repeating'] else ''}",
                _milliseconds(entry["slowest_seconds"]),
                from_guest(entry["reason"]),
            )
        )
        missing = unanswered(entry)
        rows += [("", "", "", "", f"{UNANSWERED}{missing}")] * bool(missing)
        if entry.get("learning"):
            rows.append(("", "", "", "", learning_line(entry["learning"])))
        checked = verified(entry)
        rows += [("", "", "", "", checked)] * bool(checked)
    return table(
        rows, screen, (4,), lambda column, text: "bad" if text.startswith(UNANSWERED) else ""
    )


def no_failover(values: dict[str, Any], now: float) -> str:
    """Write since when there was no failover.  ``now``: seconds since 1970."""
    started = local_time(now - values["uptime"])
    return f"no failover since the watcher started at {started}"


def verified(entry: dict[str, Any]) -> str:
    """Write what path probes have said after a failover; "" if the network was not asked."""
    found = entry.get("verified")
    if not found:
        return ""
    if found["forwards_seconds"] is None:
        return "not verified: the path was not seen to forward"
    slowest = found["slowest_seconds"]
    last = f", slowest {slowest * 1000:.0f} ms" if slowest is not None else ""
    return f"verified: {found['reached']} of {found['addresses']}{last}"


def unanswered(entry: dict[str, Any]) -> str:
    """Write how many guests did not answer a failover's hints, and their names; "" if all did."""
    missing = [f"{n} {state}" for state, n in entry["unanswered_by_state"].items()]
    missing += [f"{entry['superseded']} superseded"] * bool(entry["superseded"])
    missing += entry["unanswered"] + [f"({each})" for each in entry["unanswered_without_agent"]]
    return " ".join(missing)


def local_time(seconds: float) -> str:
    """Write a time, given in seconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def metrics(values: dict[str, Any]) -> str:
    """Write the watcher's status as Prometheus metrics."""
    return "".join(
        metric(f"garp_hint_{name}", "counter" if name.endswith("_total") else "gauge", text, each)
        for name, text, each in _families(values)
    )


def _families(values: dict[str, Any]) -> Iterable[Family]:
    guests = [({"guest": each["guest"], "path": each["path"]}, each) for each in values["guests"]]
    states = Counter(each["state"] for each in values["guests"])
    carrier: list[Sample] = [({"link": x["link"]}, int(x["carrier"])) for x in values["following"]]
    yield "info", "Always 1; the version is in the label.", [({"version": values["version"]}, 1)]
    yield "uptime_seconds", "Seconds since the watcher started.", [({}, values["uptime"])]
    yield "followed_links", "Links that are followed.", [({}, len(values["following"]))]
    without = "Guests that answer and have no lease, although leases are on."
    yield "guests_without_lease", without, [({}, _without_lease(values))]
    yield "link_carrier", "1 if a followed link has carrier, else 0.", carrier
    for name, label, text, counts in (
        (
            "failovers_total",
            "link",
            "Failovers; those with the link operator are hints that an operator asked for.",
            values["failovers"],
        ),
        (
            "hints_total",
            "outcome",
            "Hints by outcome; repetitions are not counted.",
            values["hints"],
        ),
        ("guests", "state", "Guests by the outcome of the last attempt to talk to them.", states),
    ):
        yield name, text, [({label: value}, count) for value, count in counts.items()]
    for name, key, text in (
        ("guest_hints_total", "hints", "Hints to a guest; repetitions are not counted."),
        ("guest_hints_answered_total", "answered", "Hints that a guest answered."),
        ("guest_hint_seconds", "last_seconds", "Seconds from the last failover to the answer."),
        ("guest_lease_seconds", "lease", "Seconds left of the lease that a guest has."),
    ):
        yield name, text, [(labels, each[key]) for labels, each in guests if each[key] is not None]
    overruns = "Times that the kernel dropped link messages and all links were read again."
    yield "netlink_overruns_total", overruns, [({}, values["netlink_overruns"])]
    yield from learning_families(values)


def _without_lease(values: dict[str, Any]) -> int:
    if not values["leases"]:
        return 0
    return sum(each["state"] == "answered" and not each["lease"] for each in values["guests"])
