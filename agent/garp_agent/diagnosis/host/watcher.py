"""Checks of the watcher: running, what it may do, what it follows, its leases.

Pure: facts in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from garp_agent.diagnosis.doctor.facts import CAP_NET_RAW
from garp_agent.diagnosis.doctor.findings import Finding, duration, fail, ok, skip, warn
from garp_agent.diagnosis.host.facts import HostFacts
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.render.hypervisor import following_nothing
from garp_agent.render.table import counted, some

CHECK = "watcher"
CAP_DAC_OVERRIDE = 1  # <linux/capability.h>
# A guest gets its lease at a random moment of the 30 s after the quiet minute (contacts.py).
LEASE_EXPECTED = 120.0  # seconds after the start of the watcher


def watcher(facts: HostFacts) -> Iterator[Finding]:
    """Check that the watcher runs, what it follows, and whether guests have their leases."""
    status = facts.watcher.status
    if status is None:
        yield fail(
            CHECK,
            facts.watcher.error,
            "run doctor as root"
            if "permission" in facts.watcher.error
            else "systemctl start garp-hint; garp-hint install makes the unit; journalctl -u "
            "garp-hint says why it ended",
        )
        return
    found = f"garp-hint {status['version']}, pid {status['pid']}, up {duration(status['uptime'])}"
    if status["version"] != facts.version:
        yield warn(
            CHECK, f"{found}; this program is {facts.version}", "systemctl restart garp-hint"
        )
    else:
        yield ok(CHECK, found)
    yield from _capabilities(facts)
    yield from _following(status)
    yield from _leases(status)
    yield from _losses(status)


def _capabilities(facts: HostFacts) -> Iterator[Finding]:
    check = "capabilities"
    answer = facts.watcher
    if answer.capabilities is None:
        yield skip(check, "the watcher's process cannot be seen from here")
        return
    forbidden = [
        each["guest"]
        for each in (answer.status or {})["guests"]
        if each["state"] == Outcome.FORBIDDEN.value
    ]
    known = {CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", CAP_NET_RAW: "CAP_NET_RAW"}
    held = [name for number, name in known.items() if answer.capabilities >> number & 1]
    found = f"the watcher is uid {answer.uid}, {' and '.join(held) or 'without capabilities'}"
    if forbidden:
        yield fail(
            check,
            f"{found}; it may not connect to {some(forbidden)}",
            "systemctl edit garp-hint: User= with the user of QEMU, or "
            "AmbientCapabilities=CAP_DAC_OVERRIDE",
        )
    else:
        yield ok(check, found)
    why_not = (answer.status or {}).get("not_verified")
    if why_not:  # the default of the unit
        yield ok("verifying", f"off: {why_not}; hints are repeated instead (docs/garp-hint.md)")


def _following(status: dict[str, Any]) -> Iterator[Finding]:
    check = "following"
    links = status["following"]
    if not links:
        yield fail(check, *following_nothing(status))
        return
    without = [each["link"] for each in links if not each["carrier"]]
    if without:
        yield warn(
            check,
            f"{some(without)} without carrier",
            f"ip -d link show {without[0]}; garp-hint status",
        )
    yield ok(check, some([f"{each['link']} ({each['kind']})" for each in links]))


def _leases(status: dict[str, Any]) -> Iterator[Finding]:
    check = "leases"
    if not status["leases"]:
        yield ok(check, "off (--lease 0): guests refresh at their normal interval")
        return
    answering = [each for each in status["guests"] if each["state"] == Outcome.ANSWERED.value]
    without: dict[str, list[str]] = {}
    for each in answering:
        if not each["lease"]:
            without.setdefault(each.get("no_lease") or "not given yet", []).append(each["guest"])
    for reason, names in without.items():
        text = f"none: {some(names)}: {reason}"
        if status["uptime"] < LEASE_EXPECTED or reason.endswith(" ago"):
            yield ok(check, f"{text}; they come a minute after the last change")
        else:
            yield warn(check, text, "garp-hint status; garp-hint list shows the path under BEHIND")
    leased = len(answering) - sum(map(len, without.values()))
    if leased:
        yield ok(check, f"{leased} of {len(answering)} guests that answer have one")


def _losses(status: dict[str, Any]) -> Iterator[Finding]:
    if status["netlink_undecoded"]:
        yield warn(
            CHECK,
            f"not understood: {counted(status['netlink_undecoded'], 'message')} of the kernel",
            "report it, with uname -r",
        )
    if status["netlink_overruns"]:
        yield warn(
            CHECK,
            f"messages of the kernel were lost {counted(status['netlink_overruns'], 'time')}; the "
            "watcher read all links again",
            "nothing is broken; if the number grows, links change very often",
        )
