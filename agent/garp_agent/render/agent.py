"""The agent's links and its status as text for people.

Responsible for how they look.  The values come from ``guest.status``, as JSON carries them.
"""

from __future__ import annotations

from typing import Any

from garp_agent.render.table import PIPE, Row, Screen, counted, printable, table, wrapped


def link_list(links: list[dict[str, Any]], screen: Screen = PIPE) -> str:
    """Write what ``list`` prints: a line for each link, followed by one for each address."""
    rows: list[Row] = [("INTERFACE", "ADDRESS", "ANNOUNCED AS")]
    for link in links:
        own = [each for each in link["addresses"] if each["address"] is None]  # the MAC itself
        how = [_how(each) for each in own]
        if not link["addresses"]:
            how = [f"skipped: {link['skipped'] or 'no address'}"]
        head = ", ".join([f"({link['kind']})", *how])
        rows.append((link["interface"], link["hardware_address"] or "-", head))
        rows += (
            (link["interface"], each["address"], _how(each))
            for each in link["addresses"]
            if each["address"] is not None
        )
    return table(rows, screen, (2, 0))


def _how(address: dict[str, Any]) -> str:
    return " and ".join(address["announced_as"]) or f"skipped: {address['skipped']}"


def status_text(values: dict[str, Any], screen: Screen = PIPE) -> str:
    """Write what ``status`` prints."""
    links = values["links"]
    lines = [
        _process_line(values),
        _refresh_line(values),
        _frames_line(values),
        _hint_port_line(values),
    ]
    if values["overruns"] or values["resumes"]:
        lines.append(f"netlink overruns {values['overruns']}, resumes {values['resumes']}")
    held = {link["interface"]: link["held"] for link in links if link["held"]}
    if held:
        lines.append(f"frames delayed by the rate limit: {printable(_named_counts(held))}")
    lines += (_conflict_line(link, each) for link in links for each in link["addresses"])
    lines += (_skipped_line(link, each) for link in links for each in link["addresses"])
    lines += map(_proxy_line, values.get("answer_for_everything", ()))
    lines += map(_timing_line, links)
    head = "".join(wrapped(line, screen) + "\n" for line in lines if line)
    return head + "\n" + table(_status_rows(links), screen, (3, 4, 0))


def _process_line(values: dict[str, Any]) -> str:
    dry_run = ", DRY RUN: nothing is sent" if values["dry_run"] else ""
    uptime = f"up {values['uptime']:.0f} s"
    return f"garp-agent {values['version']}, pid {values['pid']}, {uptime}{dry_run}"


def _refresh_line(values: dict[str, Any]) -> str:
    lease = f", lease of the host for {values['lease']:.0f} s more" if values["lease"] else ""
    return f"refresh interval {values['interval']:g} s{lease}"


def _frames_line(values: dict[str, Any]) -> str:
    frames = values["frames"]
    causes = f" ({_named_counts(frames['by_cause'])})" if frames["by_cause"] else ""
    return f"frames sent {frames['sent']}{causes}, dropped {_named_counts(frames['dropped']) or 0}"


def _hint_port_line(values: dict[str, Any]) -> str:
    port = values["hint_port"]
    # A port that the host does not offer is the usual case: its error would read like a failure.
    error = f" ({port['error']})" if port["error"] and port["state"] != "absent" else ""
    last = f", last {port['seconds_since_last']:.1f} s ago" if port["requests"] else ""
    requests = f"{counted(port['requests'], 'request')}, {counted(port['errors'], 'error')}"
    return f"hint port {port['name'] or '-'}: {port['state']}{error}, {requests}{last}"


def _proxy_line(station: dict[str, Any]) -> str:
    where = f"{station['hardware_address']} on {printable(station['interface'])}"
    return f"{where} answers for every address; its claims are ignored"


def _conflict_line(link: dict[str, Any], address: dict[str, Any]) -> str:
    rival = address.get("conflict")
    if not rival:
        return ""
    claims = f"{counted(rival['claims'], 'time')}, last {_age_text(rival['seconds_ago'])} ago"
    withheld = "; not announced now" if rival["withheld"] else ""
    where = f"{address['address']} on {printable(link['interface'])}"
    return f"CONFLICT: {where} is also claimed by {rival['claimed_by']} ({claims}){withheld}"


def _skipped_line(link: dict[str, Any], address: dict[str, Any]) -> str:
    reason = address["skipped"] or ""
    if not reason.startswith("announced on another link"):
        return ""  # an ordinary reason: `list` has it
    where = f"{address['address']} on {printable(link['interface'])}"
    return f"not announced: {where} ({reason})"


def _timing_line(link: dict[str, Any]) -> str:
    burst = link["last_burst"]
    if link["next_refresh"] is None and not burst:
        return ""  # nothing is announced here
    age = f", last burst ({burst['cause']}) {_age_text(burst['seconds_ago'])} ago" if burst else ""
    return f"{printable(link['interface'])}: next refresh in {_age_text(link['next_refresh'])}{age}"


def _status_rows(links: list[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = [("INTERFACE", "ADDRESS", "SENT", "DROPPED", "CAUSE", "AGO")]
    for link in links:
        rows += (
            (
                link["interface"],
                address["address"] or link["hardware_address"],
                str(address["sent"]),
                _named_counts(address["dropped"]) or "0",
                address["last_cause"] or "-",
                _age_text(address["seconds_since_last"]),
            )
            for address in link["addresses"]
            if address["skipped"] is None
        )
    return rows


def _age_text(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}s"


def _named_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
