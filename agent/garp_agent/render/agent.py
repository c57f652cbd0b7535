"""Plain values as text for people, and for Prometheus.

Decides only how things look.  In: what ``report`` makes.
"""

from __future__ import annotations

from typing import Any

Row = tuple[str, ...]


def table(rows: list[Row]) -> str:
    """Columns, as wide as they need to be; the last one ragged."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n"
        for row in rows
    )


def printable(text: str) -> str:
    """Text that can't move a terminal's cursor: an interface may have any name."""
    if text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")


def link_list(links: list[dict[str, Any]]) -> str:
    """What ``list`` prints: a line for every address, and for links without one."""
    rows: list[Row] = [("INTERFACE", "KIND", "HARDWARE ADDRESS", "ADDRESS", "ANNOUNCED AS")]
    for link in links:
        head = (link["interface"], link["kind"], link["hardware_address"] or "-")
        for address in link["addresses"]:
            how = " and ".join(address["announced_as"]) or f"skipped: {address['skipped']}"
            rows.append((*head, address["address"] or "-", how))
        if not link["addresses"]:
            why = link["skipped"] or "no address"
            rows.append((*head, "-", f"skipped: {why}"))
    return table(rows)


def status(values: dict[str, Any]) -> str:
    """What ``status`` prints."""
    frames, port = values["frames"], values["hint_port"]
    lease = f", host's promise of hints for {values['lease']:.0f} s more" if values["lease"] else ""
    causes = _counts(frames["by_cause"])
    lines = [
        f"garp-agent {values['version']}, pid {values['pid']}, up {values['uptime']:.0f} s"
        + (", DRY RUN: nothing is sent" if values["dry_run"] else ""),
        f"refresh interval {values['interval']:g} s{lease}",
        f"frames sent {frames['sent']}{f' ({causes})' if causes else ''}, "
        f"dropped {_counts(frames['dropped']) or 0}",
        f"hint port {port['name'] or '-'}: {port['state']}"
        + (f" ({port['error']})" if port["error"] else "")
        + f", {port['requests']} requests, {port['errors']} errors"
        + (f", last {port['seconds_since_last']:.1f} s ago" if port["requests"] else ""),
    ]
    if values["overruns"] or values["resumes"]:
        lines.append(f"netlink overruns {values['overruns']}, resumes {values['resumes']}")
    held = {link["interface"]: link["held"] for link in values["links"] if link["held"]}
    if held:
        lines.append(f"times that the rate limit made frames wait: {printable(_counts(held))}")
    conflicts = _conflicts(values["links"])
    return "\n".join(lines) + "\n" + conflicts + "\n" + table(_status_rows(values["links"]))


def _conflicts(links: list[dict[str, Any]]) -> str:
    lines = []
    for link in links:
        for address in link["addresses"]:
            rival = address.get("conflict")
            if rival:
                yields = ", so it is not announced for now" if rival["withheld"] else ""
                lines.append(
                    f"CONFLICT: {address['address']} on {printable(link['interface'])} "
                    f"is claimed by {rival['claimed_by']} too ({rival['claims']} times, last "
                    f"{_seconds(rival['seconds_ago'])} ago){yields}\n"
                )
    return "".join(lines)


def _status_rows(links: list[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = [
        ("INTERFACE", "ADDRESS", "SENT", "DROPPED", "LAST CAUSE", "AGO", "NEXT", "LAST BURST")
    ]
    for link in links:
        for address in link["addresses"]:
            if address["skipped"] is None:
                rows.append(_status_row(link, address))
    return rows


def _status_row(link: dict[str, Any], address: dict[str, Any]) -> Row:
    burst = link["last_burst"]
    return (
        link["interface"],
        address["address"] or link["hardware_address"],
        str(address["sent"]),
        _counts(address["dropped"]) or "0",
        address["last_cause"] or "-",
        _seconds(address["seconds_since_last"]),
        _seconds(link["next_refresh"]),
        f"{burst['cause']} {_seconds(burst['seconds_ago'])} ago" if burst else "-",
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}s"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
