"""What ``garp-hint probe`` and ``garp-hint drill`` print, from plain values; and the drill's page.

Responsible for how they look.  The values are those that ``--json`` prints.  Names of guests and
of links can be any text: they are made printable here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from garp_agent.render.page import bar, element, html_table, html_text, page
from garp_agent.render.table import PIPE, Row, Screen, printable, table, wrapped

Values = dict[str, Any]


def probe_table(values: Values, screen: Screen = PIPE) -> str:
    """Write what ``probe`` prints: a line for each guest, and how many are delivered.

    Without results (``--dry-run``), what would be probed.
    """
    heads = ("GUEST", "PORT", "MAC", "VLAN", "STANDBY -> ACTIVE", "RESULT")
    rows: list[Row] = [heads]
    for each in values["targets"]:
        rows.append((*_who(each), _ports(each), _verdict(each)))
    total = len(values["targets"])
    delivered = sum(each.get("verdict") == "delivered" for each in values["targets"])
    has_results = all("verdict" in each for each in values["targets"])
    summary = f"{delivered} of {total} delivered" if has_results else f"{total} to probe"
    return f"{table(rows, screen, (0, 1, 4, 5), _meaning)}\n{summary}\n"


def _meaning(column: int, text: str) -> str:
    if column != 5 or text == "-":
        return ""
    return "good" if text.startswith("delivered") else "bad"


def left_out_text(values: Values) -> list[str]:
    """Write a line for each bond on which no probe can be sent."""
    return [
        f"garp-hint: {printable(each['bond'])}: {printable(each['reason'])}"
        for each in values["left_out"]
    ]


def _who(each: Values) -> tuple[str, str, str, str]:
    vlans = ",".join(map(str, each["vlans"])) or "-"
    return each["guest"] or "-", each["port"] or "-", each["mac"], vlans


def _ports(each: Values) -> str:
    return f"{each['bond']}: {each['standby']} -> {each['active']}"


def _verdict(each: Values) -> str:
    verdict = each.get("verdict", "-")
    if verdict == "delivered":
        some = each["arrived"] < each["sent"]
        count = f", {each['arrived']} of {each['sent']} probes" if some else ""
        return f"delivered in {each['seconds'] * 1000:.1f} ms{count}"
    if verdict == "other VLAN":
        return f"arrives in VLAN {','.join(map(str, each['arrived_vlans'])) or 'none'}"
    if verdict == "not sent":
        return f"not sent: {os.strerror(each['errno'])}" if each["errno"] else "not sent"
    return str(verdict)


# -- losses -----------------------------------------------------------------------------

NOT_JOINED = "the switches are not joined, or the standby port does not forward"
LACKS_VLAN = "the standby port, or a link between the switches, lacks the VLAN"
ELSEWHERE = "the network has its MAC elsewhere: a stale entry, or another machine has the same MAC"
OTHER_NATIVE_VLAN = "a port of the switches has another native VLAN than its counterpart"
REFUSED = "the standby port refused the frame"


class Loss(NamedTuple):
    """What was not delivered, and the likely reason; both can be printed."""

    what: str
    reason: str


def path_losses(targets: Iterable[Values]) -> list[Loss]:
    """Return what was not delivered: whole paths, whole VLANs of a path, and single MACs."""
    paths: dict[str, list[Values]] = {}
    for each in targets:
        paths.setdefault(_ports(each), []).append(each)
    return [
        Loss(printable(what), reason)
        for ports, group in paths.items()
        for what, reason in _losses_of_path(ports, group)
    ]


def _losses_of_path(ports: str, group: list[Values]) -> Iterator[Loss]:
    vlans: dict[str, list[Values]] = {}
    for each in group:
        vlans.setdefault(_who(each)[3], []).append(each)
    is_one_vlan = len(vlans) == 1 and "-" not in vlans
    if all(map(_is_lost, group)) and not is_one_vlan:
        yield Loss(f"{ports}: all {_macs_of(group)} lost", NOT_JOINED)
        return
    for vlan, members in vlans.items():
        if vlan != "-" and all(map(_is_lost, members)):
            yield Loss(f"{ports}: VLAN {vlan} lost, {_macs_of(members)}", LACKS_VLAN)
            continue
        for each in members:
            if each["verdict"] != "delivered":
                yield Loss(f"{ports}: {_whose(each)}: {_verdict(each)}", _REASONS[each["verdict"]])


def _is_lost(each: Values) -> bool:
    return bool(each["verdict"] == "lost")


_REASONS = {"lost": ELSEWHERE, "other VLAN": OTHER_NATIVE_VLAN, "not sent": REFUSED}


def _macs_of(group: list[Values]) -> str:
    return _macs(len({each["mac"] for each in group}))


def _whose(each: Values) -> str:
    guest, port, mac, vlan = _who(each)
    who = next((name for name in (guest, port) if name != "-"), "a guest")
    return f"{who} ({mac}{'' if vlan == '-' else f' in VLAN {vlan}'})"


def loss_text(values: Values, screen: Screen = PIPE) -> str:
    """Write a line for each loss."""
    found = path_losses(values["targets"])
    return "".join(f"{wrapped(f'{each.what}: {each.reason}', screen)}\n" for each in found)


# -- the drill --------------------------------------------------------------------------


def drill_text(values: Values, screen: Screen = PIPE) -> str:
    """Write what ``drill`` prints at its end: a table for each guest, and the worst."""
    rows: list[Row] = [("GUEST", "PORT", "MAC", "VLAN", "WAY", *_headings(values))]
    rows += [(*_who(each), each["way"], *map(_took, took)) for each, took in _by_guest(values)]
    lines = [wrapped(line, screen) for line in _drill_summary(values)]
    return table(rows, screen, (0, 1, 4)) + "\n" + "".join(f"{line}\n" for line in lines)


def drill_page(values: Values) -> str:
    """Write the self-contained page that ``drill --html`` makes."""
    limit = values["limit"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(values["time"]))
    longest = max((each or 0.0 for _who, took in _by_guest(values) for each in took), default=0.0)
    scale = max(longest, limit) or 1.0
    rows = []
    for each, took in _by_guest(values):
        cells = [html_text(text) for text in (*_who(each), each["way"])]
        cells += [_bar(seconds, scale, limit) for seconds in took]
        rows.append(cells)
    heads = ("Guest", "Port", "MAC", "VLAN", "Way", *_headings(values))
    verdict, kind = ("Passed", "good") if values["passed"] else ("Not passed", "bad")
    ways = [[way["way"], str(way["guests"]), _took(way["worst"])] for way in values["ways"]]
    first, *last = _scope_and_worst(values)
    parts = [
        element("p", f"{verdict}: {'; '.join(last)}", kind),
        element("p", f"{first}. {EXPLAINED}"),
        html_table(("Way", "MACs", "Worst"), [map(html_text, row) for row in ways]),
        element("h2", "Each guest"),
        html_table(heads, rows),
    ]
    return page(f"Failover drill of {values['bond']}", parts, f"garp-hint drill, {when}")


EXPLAINED = (
    "Each bar shows for how long the network had a guest wrong after the bond had switched: until "
    "a frame to the guest came back on the new active port. Frames were sent on the other port, "
    "100 times a second. No cable was pulled, so the time that the bond needs to notice a dead "
    "link (miimon) is not in it."
)


def _bar(seconds: float | None, scale: float, limit: float) -> str:
    kind = "good" if seconds is not None and seconds <= limit else "bad"
    share = 1.0 if seconds is None else seconds / scale
    return f"{bar(share, kind)} {element('span', _took(seconds), kind)}"


def _headings(values: Values) -> list[str]:
    return [f"{each['before']} -> {each['after']}" for each in values["directions"]]


def _by_guest(values: Values) -> Iterable[tuple[Values, list[float | None]]]:
    """Yield each guest with its outages, in the order of the directions."""
    columns = [direction["guests"] for direction in values["directions"]]
    for rows in zip(*columns):
        yield rows[0], [row["seconds"] for row in rows]


def _took(seconds: float | None) -> str:
    return "not healed" if seconds is None else f"{seconds * 1000:.0f} ms"


def _drill_summary(values: Values) -> list[str]:
    first, *last = _scope_and_worst(values)
    ways = values["ways"]
    lines = [
        f"{each['way']}: {_macs(each['guests'])}, worst {_took(each['worst'])}" for each in ways
    ]
    return [first, *lines, *last]


def _scope_and_worst(values: Values) -> list[str]:
    """Write what was probed, the worst outage, and whether the drill ended early."""
    is_sample = values["probed"] < values["guests_in_all"]
    sample = f", a sample of {values['guests_in_all']}" if is_sample else ""
    lines = [f"{_macs(values['probed'])} probed{sample}"]
    lines.append(f"worst of all {_took(values['worst'])}, limit {_took(values['limit'])}")
    return lines + [f"ended early: {values['ended_early']}"] * bool(values["ended_early"])


def _macs(count: int) -> str:
    return f"{count} MAC{'s' * (count != 1)}"
