"""Formats an announcement that was seen: a row of 80 columns, a line of text, or JSON."""

from __future__ import annotations

import json
import time

from garp_agent.diagnosis.observe.observer import SeenAnnouncement
from garp_agent.render.table import Screen, counted, printable

KINDS = {
    "arp-request": "request",
    "arp-reply": "reply",
    "arp-probe": "probe",
    "unsolicited-na": "na",
    "rarp": "rarp",
}
HEADINGS = ("TIME", "IF", "VLAN", "KIND", "MAC", "GAP", "WHOSE", "ADDRESS")
INTERFACE_LEAST = 4
VLAN, VLAN_STACKED = 4, 9  # columns: "4094", "4094.4094"
ADDRESS_MOST = 15  # of IPv4


class Table:
    """Formats rows for a terminal; for a pipe, one line of any length for each."""

    def __init__(self, interfaces: list[str], screen: Screen) -> None:
        names = [len(printable(name)) for name in interfaces]
        self._widths = [12, max([INTERFACE_LEAST, *names]), VLAN_STACKED, 7, 17, 6, 7]
        self._screen = screen
        self._width = width = screen.width
        if width and sum(self._widths) + len(self._widths) + ADDRESS_MOST > width:
            self._widths[2] = VLAN  # until a stacked tag comes

    def header(self) -> str:
        """Return the headings."""
        return self._row(HEADINGS)

    def row(self, seen: SeenAnnouncement) -> str:
        """Return one announcement, with further lines where it does not fit.

        The first stacked tag widens its column; the headings are then repeated.
        """
        sighting = seen.sighting
        vlan = sighting.vlan or "-"
        if len(vlan) > VLAN_STACKED:
            vlan = vlan[: VLAN_STACKED - 2] + ".."
        headings = ""
        if len(vlan) > self._widths[2]:
            self._widths[2] = VLAN_STACKED
            headings = self.header() + "\n"
        cells = (
            clock(seen.when),
            printable(seen.interface),
            vlan,
            KINDS.get(sighting.kind, sighting.kind.replace("arp-opcode-", "op ")),
            sighting.hardware_address,
            "-" if seen.gap is None else gap(seen.gap),
            "own" if seen.own else "foreign",
            sighting.address or "-",
        )
        return headings + self._row(cells) + self._marks(seen.marks)

    def _row(self, cells: tuple[str, ...]) -> str:
        *columns, last = cells
        text = ""
        for number, (cell, width) in enumerate(zip(columns, self._widths)):
            text += (cell.rjust(width) if number == 5 else cell.ljust(width)) + " "
        if self._width and len(text) + len(last) > self._width:
            return text.rstrip() + "\n" + last.rjust(min(self._width, len(text) + len(last)))
        return text + last

    def _marks(self, marks: tuple[str, ...]) -> str:
        if not self._width:
            return f"  ! {'; '.join(marks)}" if marks else ""
        return "".join("\n" + self._marked(f"    ! {mark}") for mark in marks)

    def _marked(self, text: str) -> str:
        shown = text if len(text) <= self._width else text[: self._width - 3] + "..."
        return self._screen.paint(shown, "bad")


def clock(when: float) -> str:
    """Return the local time of day, with milliseconds."""
    thousandths = int(when * 1000)
    text = time.strftime("%H:%M:%S", time.localtime(thousandths // 1000))
    return f"{text}.{thousandths % 1000:03}"


def gap(seconds: float) -> str:
    """Return a duration in at most six columns."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds < 0.9995 else "1.00s"
    if seconds < 99.995:
        return f"{seconds:.2f}s"
    return f"{seconds / 60:.0f}min" if seconds < 5970 else f"{min(seconds / 3600, 9999):.0f}h"


def as_json(seen: SeenAnnouncement) -> str:
    """Return one line of JSON."""
    sighting = seen.sighting
    return json.dumps(
        {
            "time": round(seen.when, 6),
            "interface": seen.interface,
            "vlan": sighting.vlan or None,
            "kind": sighting.kind,
            "source": sighting.source,
            "hardware_address": sighting.hardware_address,
            "address": sighting.address or None,
            "gap": None if seen.gap is None else round(seen.gap, 6),
            "own": seen.own,
            "irregular": list(seen.marks),
        }
    )


def summary(seen: int, own: int, irregular: int) -> str:
    """Return the last line."""
    return (
        f"{counted(seen, 'announcement')}, {own} own, {seen - own} foreign, {irregular} irregular"
    )
