"""``garp-agent doctor``: gathers facts, runs the checks, prints the findings.

Exit status: 0 when nothing failed (warnings included), 1 when something did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from garp_agent.diagnosis.doctor import (
    agent,
    arp_rules,
    gather,
    hint_port,
    listen,
    network,
    sysctls,
)
from garp_agent.diagnosis.doctor.facts import Facts, SendPlan
from garp_agent.diagnosis.doctor.findings import Finding, failed
from garp_agent.diagnosis.doctor.report import as_json_text, as_text
from garp_agent.render.table import PIPE, Screen, wrapped

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
    arp_rules.arp_rules,
)


def run(
    path: str | None,
    control_socket: str | None,
    send: bool,
    as_json: bool,
    screen: Screen = PIPE,
) -> int:
    """Examine this machine and print the findings; return the exit status.

    ``send``: whether frames may go out; ``path`` and ``control_socket``: None for the usual ones.
    """
    findings = examine(gather_facts(path, control_socket, send, screen))
    print(as_json_text(findings) if as_json else as_text(findings, screen))
    return 1 if failed(findings) else 0


def gather_facts(path: str | None, control_socket: str | None, send: bool, screen: Screen) -> Facts:
    """Gather all facts.  Says on standard error what it sends before it sends it."""
    facts = gather.local_facts(path, control_socket)
    planned = listen.plan(
        facts.agent, facts.links, listen.why_not(facts.kernel) if send else NOT_WANTED
    )
    if send:
        print(notice(planned, screen) + "\n", file=sys.stderr)
    wire = listen.listen_after_burst(facts.agent, facts.links, facts.configuration, planned)
    claimants = listen.probe_claimants(facts, planned)
    later = gather.ask_agent(facts.agent.path) if facts.agent.status else facts.agent
    return facts._replace(wire=wire, claimants=claimants, later=later)


def examine(facts: Facts) -> list[Finding]:
    """Run all checks, in order."""
    return [finding for check in CHECKS for finding in check(facts)]


def notice(plan: SendPlan, screen: Screen) -> str:
    """Return what is said before anything goes out, in lines that fit the terminal."""
    return wrapped(f"garp-agent doctor {sends(plan)}", screen)


def sends(plan: SendPlan) -> str:
    """Return in words what goes out from now on."""
    wanted = ", then ".join(
        what for what, why_not in ((BURST, plan.burst), (PROBES, plan.probes)) if not why_not
    )
    if not wanted:
        return f"sends nothing: {plan.unasked or plan.probes}"
    return f"sends: {wanted}; --no-send sends nothing"
