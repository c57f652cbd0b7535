"""Findings as text for people and as JSON, for the doctors of both programs."""

from __future__ import annotations

import json
import textwrap

from garp_agent import __version__
from garp_agent.diagnosis.doctor.findings import Finding, Level, failed
from garp_agent.render.table import Screen, printable

WIDTH_LEAST = 40  # columns
WIDTH_USUAL = 80
MEANINGS = {Level.OK: "good", Level.WARN: "warn", Level.FAIL: "bad", Level.SKIP: "quiet"}


def as_json_text(findings: list[Finding]) -> str:
    """Return the findings as JSON."""
    rows = [
        {
            "check": each.check,
            "level": each.level.value,
            "found": each.found,
            "advice": each.advice or None,
        }
        for each in findings
    ]
    good = not failed(findings)
    return json.dumps({"version": __version__, "good": good, "findings": rows}, indent=2)


def as_text(findings: list[Finding], screen: Screen) -> str:
    """Return the findings as text: one line each, the advice below it; 80 columns in a pipe."""
    column = max(len(printable(each.check)) for each in findings)
    width = max(screen.width or WIDTH_USUAL, WIDTH_LEAST)
    lines = [
        screen.paint(f"{each.level.value:<4}", MEANINGS[each.level]) + _line(each, column, width)
        for each in findings
    ]
    return "\n".join([*lines, "", _summary(findings)])


def _line(finding: Finding, column: int, width: int) -> str:
    """Return a finding without its level, which has the first four columns."""
    check = printable(finding.check)
    head = f"{'':<4}  {check:<{column}}  "
    if len(head) > width // 2:  # a long name has its own line
        head = f"{'':<4}  {check}\n      "
    indent = " " * len(head.rpartition("\n")[2])
    text = _wrapped(printable(finding.found), width, indent)
    if finding.advice:
        advice = f"-> {printable(finding.advice)}"
        text += "\n" + indent + _wrapped(advice, width, indent + "   ")
    return head[4:] + text.lstrip()


def _wrapped(text: str, width: int, indent: str) -> str:
    lines = textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def _summary(findings: list[Finding]) -> str:
    counts = [(level, sum(each.level is level for each in findings)) for level in Level]
    words = {
        Level.OK: "good",
        Level.WARN: "to look at",
        Level.FAIL: "broken",
        Level.SKIP: "not checked",
    }
    return ", ".join(f"{number} {words[level]}" for level, number in counts if number)
