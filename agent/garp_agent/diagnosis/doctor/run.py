"""``garp-agent doctor``: gathers facts, runs the checks, prints the findings.

Exit status: 0 when nothing failed (warnings included), 1 when something did.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator

from garp_agent import __version__
from garp_agent.diagnosis import missing
from garp_agent.diagnosis.doctor import agent, hint_port, network, sysctls
from garp_agent.diagnosis.doctor.facts import Facts, SendPlan
from garp_agent.diagnosis.doctor.findings import Finding, Level, failed
from garp_agent.render.table import printable

WIDTH_LEAST = 40
BURST = "one burst of the running agent"
PROBES = "questions for other claimants (ARP probes, duplicate address detection)"
NOT_WANTED = "--no-send was given"

# In the order in which a chain breaks.
CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    agent.daemon,
    agent.configuration,
    agent.kernel,
    agent.capability,
    network.addresses,
    network.wire,
    agent.timers,
    agent.losses,
    agent.conflicts,
    network.claimants,
    hint_port.hint_port,
    sysctls.sysctls,
)


def run(path: str | None, control_socket: str | None, send: bool, as_json: bool) -> int:
    """Examine this machine and print the findings; return the exit status.

    ``send``: whether frames may go out; ``path`` and ``control_socket``: None for the usual ones.
    """
    if missing():
        print(f"garp-agent doctor: {missing()}", file=sys.stderr)
        return 1
    findings = examine(gather_facts(path, control_socket, send))
    width = shutil.get_terminal_size().columns
    print(as_json_text(findings) if as_json else as_text(findings, width))
    return 1 if failed(findings) else 0


def gather_facts(path: str | None, control_socket: str | None, send: bool) -> Facts:
    """Gather all facts.  Says on standard error what it sends before it sends it."""
    from garp_agent.diagnosis.doctor import gather, listen  # they load scapy and netifaces

    facts = gather.local_facts(path, control_socket)
    planned = listen.plan(
        facts.agent, facts.links, listen.why_not(facts.kernel) if send else NOT_WANTED
    )
    if send:
        print(f"garp-agent doctor {sends(planned)}\n", file=sys.stderr)
    wire = listen.listen_after_burst(facts.agent, facts.links, facts.configuration, planned)
    claimants = listen.probe_claimants(facts.links, facts.interfaces, planned)
    later = gather.ask_agent(facts.agent.path) if facts.agent.status else facts.agent
    return facts._replace(wire=wire, claimants=claimants, later=later)


def examine(facts: Facts) -> list[Finding]:
    """Run all checks, in order."""
    return [finding for check in CHECKS for finding in check(facts)]


def sends(plan: SendPlan) -> str:
    """Return in words what goes out from now on."""
    wanted = ", then ".join(
        what for what, why_not in ((BURST, plan.burst), (PROBES, plan.probes)) if not why_not
    )
    if not wanted:
        return f"sends nothing: {plan.unasked or plan.probes}"
    return f"sends: {wanted}; --no-send sends nothing"


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


def as_text(findings: list[Finding], width: int) -> str:
    """Return the findings as text of ``width`` columns: one line each, the advice below it."""
    column = max(len(printable(each.check)) for each in findings)
    lines = [_line(each, column, max(width, WIDTH_LEAST)) for each in findings]
    return "\n".join([*lines, "", _summary(findings)])


def _line(finding: Finding, column: int, width: int) -> str:
    check = printable(finding.check)
    head = f"{finding.level.value:<4}  {check:<{column}}  "
    if len(head) > width // 2:  # a long name has its own line
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
