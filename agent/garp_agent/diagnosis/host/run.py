"""``garp-hint doctor``: gathers facts, runs the checks, prints the findings.

Exit status: 0 when nothing failed (warnings included), 1 when something did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from garp_agent.diagnosis.doctor.findings import Finding, failed
from garp_agent.diagnosis.doctor.report import as_json_text, as_text
from garp_agent.diagnosis.host.bonds import bonds
from garp_agent.diagnosis.host.bridges import bridges
from garp_agent.diagnosis.host.facts import HostFacts, PathFacts
from garp_agent.diagnosis.host.gather import HostPlaces, gather_host_facts, probe_paths
from garp_agent.diagnosis.host.guests import guests
from garp_agent.diagnosis.host.paths import delivered_paths
from garp_agent.diagnosis.host.watcher import watcher
from garp_agent.render.table import Screen, wrapped

NO_SEND = "--no-send was given"

# In the order in which a hint takes its way.
HOST_CHECKS: tuple[Callable[[HostFacts], Iterator[Finding]], ...] = (
    bonds,
    bridges,
    watcher,
    guests,
    delivered_paths,
)


def run(places: HostPlaces, send: bool, as_json: bool, screen: Screen) -> int:
    """Examine this host and print the findings; return the exit status.

    ``send``: whether probes may go out.
    """

    def tell(what: str) -> None:
        print(host_notice(what, screen) + "\n", file=sys.stderr)

    facts = gather_host_facts(places)
    paths = probe_paths(facts.watcher.status, tell) if send else PathFacts(NO_SEND)
    findings = examine_host(facts._replace(paths=paths))
    print(as_json_text(findings) if as_json else as_text(findings, screen))
    return 1 if failed(findings) else 0


def host_notice(what: str, screen: Screen) -> str:
    """Return what is said before anything goes out, in lines that fit the terminal."""
    return wrapped(f"garp-hint doctor sends: {what}; --no-send sends nothing", screen)


def examine_host(facts: HostFacts) -> list[Finding]:
    """Run all checks, in order."""
    return [finding for check in HOST_CHECKS for finding in check(facts)]
