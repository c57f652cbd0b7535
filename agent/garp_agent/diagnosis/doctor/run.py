"""``garp-agent doctor``: gather the facts, judge them, say so.

Decides how findings look and what the exit status is: 0 when nothing failed (warnings
included), 1 when something did.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap

from garp_agent import __version__
from garp_agent.diagnosis import missing
from garp_agent.diagnosis.doctor.checks import Finding, Level, examine, failed
from garp_agent.diagnosis.doctor.facts import Plan
from garp_agent.render.agent import printable

WIDTH_LEAST = 40
BURST = "one burst of the running agent"
PROBES = "questions for other claimants (ARP probes, duplicate address detection)"


def run(path: str | None, control_socket: str | None, send: bool, as_json: bool) -> int:
    """Examine this machine; the exit status."""
    if missing():
        print(f"garp-agent doctor: {missing()}", file=sys.stderr)
        return 1
    from garp_agent.diagnosis.doctor import gather

    def tell(plan: Plan) -> None:
        if send:
            print(f"garp-agent doctor {sends(plan)}\n", file=sys.stderr)

    findings = examine(gather.facts(path, control_socket, send, tell))
    width = shutil.get_terminal_size().columns
    print(as_json_text(findings) if as_json else as_text(findings, width))
    return 1 if failed(findings) else 0


def sends(plan: Plan) -> str:
    """What goes out from now on, in words."""
    wanted = ", then ".join(
        what for what, why_not in ((BURST, plan.burst), (PROBES, plan.probes)) if not why_not
    )
    if not wanted:
        return f"sends nothing: {plan.unasked or plan.probes}"
    return f"sends: {wanted}; --no-send sends nothing"


def as_json_text(findings: list[Finding]) -> str:
    """For programs."""
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


def as_text(findings: list[Finding], width: int) -> str:
    """For people: a line for each, what to do below it."""
    column = max(len(printable(each.check)) for each in findings)
    lines = [_line(each, column, max(width, WIDTH_LEAST)) for each in findings]
    return "\n".join([*lines, "", _summary(findings)])


def _line(finding: Finding, column: int, width: int) -> str:
    check = printable(finding.check)
    head = f"{finding.level.value:<4}  {check:<{column}}  "
    if len(head) > width // 2:  # a long name gets a line to itself
        head = f"{finding.level.value:<4}  {check}\n      "
    indent = " " * len(head.rpartition("\n")[2])
    text = _wrapped(printable(finding.found), width, indent)
    if finding.advice:
        advice = f"-> {printable(finding.advice)}"
        text += "\n" + indent + _wrapped(advice, width, indent + "   ")
    return head + text.lstrip()


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
