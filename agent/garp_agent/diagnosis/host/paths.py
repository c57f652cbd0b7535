"""Check of the paths between the ports of bonds, by the probes of ``garp-hint probe``.

Pure: facts in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator

from garp_agent.diagnosis.doctor.findings import Finding, fail, ok, skip
from garp_agent.diagnosis.host.facts import HostFacts

ADVICE = "garp-hint probe shows each path (docs/drill.md)"


def delivered_paths(facts: HostFacts) -> Iterator[Finding]:
    """Check that the network delivers frames from a standby port to each guest."""
    seen = facts.paths
    if seen.skipped:
        yield skip("paths", seen.skipped)
        return
    for lost in seen.lost:
        yield fail("paths", f"{lost.what}: {lost.reason}", ADVICE)
    if seen.delivered:
        yield ok("paths", f"delivered from the standby port: {seen.delivered} of {seen.probed}")
