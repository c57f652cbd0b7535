"""Checks of the agent itself: daemon, configuration, kernel, capability, timers, losses, conflicts.

Pure: facts in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from garp_agent.config.settings import JITTER
from garp_agent.diagnosis.doctor.facts import CAP_NET_RAW, Facts
from garp_agent.diagnosis.doctor.findings import Finding, counts, duration, fail, ok, skip, warn
from garp_agent.render.table import counted

SLOW_ANSWER = 0.5  # seconds
OVERDUE = 1.0  # seconds beyond the longest interval that jitter allows
DRIFT = 0.5  # seconds between the agent's clock and ours over one run of doctor
DROPPED_SHARE = 0.01  # of all frames
EVENT_KERNEL = (4, 13)  # the first with IFLA_EVENT, which carries NOTIFY_PEERS


def daemon(facts: Facts) -> Iterator[Finding]:
    """Check that the agent runs and answers."""
    asked = facts.agent
    if asked.status is None:
        yield fail(
            "daemon",
            asked.error,
            "run doctor as root"
            if "permission" in asked.error
            else "start it: systemctl start garp-agent; journalctl -u garp-agent says why it ended",
        )
        return
    status = asked.status
    found = f"garp-agent {status['version']}, pid {status['pid']}, up {duration(status['uptime'])}"
    if asked.took > SLOW_ANSWER:
        yield warn(
            "daemon",
            f"{found}, took {asked.took:.1f} s to answer",
            "the machine is very busy or short of memory: announcements are late too",
        )
    else:
        yield ok("daemon", f"{found}, answered in {asked.took * 1000:.0f} ms")


def configuration(facts: Facts) -> Iterator[Finding]:
    """Check that the configuration file would be accepted at the next start."""
    path, problems = facts.configuration.path, facts.configuration.problems
    if problems:
        yield fail(
            "configuration",
            "; ".join(problems),
            "correct the file: the agent refuses it at the next start and reload",
        )
    else:
        yield ok("configuration", path or "no file: the defaults are in force")


def capability(facts: Facts) -> Iterator[Finding]:
    """Check that the agent's process may send frames."""
    if facts.process is None:
        if facts.agent.status:
            yield skip("capability", "the agent's process cannot be seen from here")
        return
    process = facts.process
    if process.capabilities >> CAP_NET_RAW & 1:
        yield ok("capability", "the agent has CAP_NET_RAW")
    else:
        yield fail(
            "capability",
            f"the agent (uid {process.uid}) has no CAP_NET_RAW",
            "it may have been started with --dry-run; else run it as root, or with "
            "AmbientCapabilities=CAP_NET_RAW in its unit",
        )


def kernel(facts: Facts) -> Iterator[Finding]:
    """Check that the kernel has what the agent needs."""
    release, problem = facts.kernel.release, facts.kernel.packet_sockets
    if problem:
        yield fail(
            "kernel",
            f"Linux {release} gives no packet sockets: {problem}",
            "load af_packet (CONFIG_PACKET), or allow AF_PACKET where the container or the "
            "unit forbids it (RestrictAddressFamilies=)",
        )
    elif _version(release) < EVENT_KERNEL:
        yield warn(
            "kernel",
            f"Linux {release} does not report NOTIFY_PEERS (4.13 and later do)",
            "QMP announce-self and the end of a migration start no burst here: use the hint port",
        )
    else:
        yield ok("kernel", f"Linux {release}, packet sockets")


def timers(facts: Facts) -> Iterator[Finding]:
    """Check that the agent's clock runs and that no refresh is overdue."""
    before, after = facts.agent.status, facts.later.status
    if before is None:
        return
    if after is None:
        yield fail("timers", facts.later.error, "the agent ended while doctor ran: see its log")
        return
    ours = facts.later.asked_at + facts.later.took - facts.agent.asked_at - facts.agent.took
    drift = after["uptime"] - before["uptime"] - ours
    overdue = list(_overdue(after))
    # The agent read its clock at some moment between the request and the reply.
    is_same_clock = -facts.later.took - DRIFT <= drift <= facts.agent.took + DRIFT
    if after["pid"] != before["pid"] or not is_same_clock:
        yield fail(
            "timers",
            f"while {ours:.1f} s passed here, {ours + drift:.1f} s passed for the agent",
            "it was restarted or stopped meanwhile: see its log",
        )
    elif overdue:
        yield fail(
            "timers",
            f"nothing went out {', '.join(overdue)}, with a refresh every {after['interval']:g} s",
            "see losses; or the agent gets no CPU time: look for a starved CPU, or a cgroup that "
            "is frozen or throttled",
        )
    else:
        yield ok("timers", _timing(after))


def _overdue(status: dict[str, Any]) -> Iterator[str]:
    """Yield the links on which no frame went out for longer than jitter can explain."""
    patience = status["interval"] * (1 + JITTER.most) + OVERDUE
    for link in status["links"]:
        ages = [
            status["uptime"] if each["seconds_since_last"] is None else each["seconds_since_last"]
            for each in link["addresses"]
            if each["announced_as"] and not (each["conflict"] or {}).get("withheld")
        ]
        if ages and min(ages) > patience:
            yield f"on {link['interface']} for {duration(min(ages))}"


def _timing(status: dict[str, Any]) -> str:
    next_ones = [
        link["next_refresh"] for link in status["links"] if link.get("next_refresh") is not None
    ]
    text = f"refresh every {status['interval']:g} s"
    if next_ones:
        text += f", the next in {max(0.0, min(next_ones)):.1f} s"
    return text + (f", resumed {counted(status['resumes'], 'time')}" if status["resumes"] else "")


def losses(facts: Facts) -> Iterator[Finding]:
    """Check for dropped frames and lost kernel events."""
    status = facts.later.status or facts.agent.status
    if status is None:
        return
    sent, dropped = status["frames"]["sent"], status["frames"]["dropped"]
    words = counts(dropped)
    if sum(dropped.values()) > DROPPED_SHARE * (sent + sum(dropped.values())):
        yield warn(
            "losses",
            f"the kernel refused {words}, and took {counted(sent, 'frame')}",
            "ENETDOWN: the link was down; ENOBUFS: a full or dropping queue (tc -s qdisc); "
            "ENXIO, ENODEV: the link is gone",
        )
    elif status["overruns"]:
        yield warn(
            "losses",
            f"kernel events were lost {counted(status['overruns'], 'time')}; "
            "the agent read everything again",
            "nothing is broken; if the number grows, something changes addresses very often",
        )
    else:
        none_lost = f"{words or 'none'} dropped, no kernel event lost"
        yield ok("losses", f"{counted(sent, 'frame')} sent, {none_lost}")


def conflicts(facts: Facts) -> Iterator[Finding]:
    """Check whether the agent has heard another station announce our addresses."""
    status = facts.later.status or facts.agent.status
    if status is None:
        return
    heard = [
        (link["interface"], each["address"], each["conflict"])
        for link in status["links"]
        for each in link["addresses"]
        if each.get("conflict")
    ]
    for interface, address, rival in heard:
        yield _conflict(
            f"{address} on {interface} was claimed by {rival['claimed_by']} "
            f"{counted(rival['claims'], 'time')}, last {duration(rival['seconds_ago'])} ago",
            rival,
        )
    proxies = status.get("answer_for_everything", ())
    for station in proxies:
        yield warn(
            "conflicts",
            f"{station['hardware_address']} on {station['interface']} answers for every address "
            "(proxy ARP, ND proxy, client isolation); the agent ignores its claims",
            "a duplicate address behind it stays unnoticed: look for duplicates elsewhere",
        )
    if not heard and not proxies:
        yield ok("conflicts", "the agent has heard no other station claim our addresses")


def _conflict(text: str, rival: dict[str, Any]) -> Finding:
    if rival["withheld"]:
        return fail(
            "conflicts",
            f"{text}; the agent yields and does not announce it for now",
            f"find the machine with {rival['claimed_by']}; remove the address from one of the two",
        )
    return warn(
        "conflicts",
        text,
        f"if the address was not moved on purpose, find the machine with {rival['claimed_by']}",
    )


def _version(release: str) -> tuple[int, ...]:
    numbers = release.split("-")[0].split(".")[:2]
    return tuple(int(each) for each in numbers if each.isdigit())
