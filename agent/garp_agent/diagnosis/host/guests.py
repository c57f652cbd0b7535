"""Checks of guests: channel, agent, version, port, and when they answered hints.

Pure: facts in, findings out.  A guest can send any text: the report makes it printable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from garp_agent.diagnosis.doctor.findings import Finding, duration, fail, ok, skip, warn
from garp_agent.diagnosis.host.facts import HostFacts
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.ways import NOTHING
from garp_agent.render.hypervisor import GIVE_CHANNEL, from_guest
from garp_agent.render.table import some

NO_AGENT = Outcome.NO_AGENT.value
SLOW_HINT = 1.0  # seconds from a failover to the reply
# By state: what it means, what to do, and whether the guest is unreachable through our own fault.
TROUBLES = {
    Outcome.NO_AGENT: (
        "no reply: no agent runs there, or the guest hangs",
        "in the guest: systemctl start garp-agent; garp-agent doctor",
    ),
    Outcome.BUSY: (
        "another program uses the channel, or QEMU is stopped",
        "virsh domstate GUEST; ss -xp shows who is connected to the socket {path}",
    ),
    Outcome.GONE: (
        "no process listens on its socket",
        "start the guest, or remove the socket: rm {path}",
    ),
    Outcome.FORBIDDEN: (
        "no permission to connect",
        "run doctor as root; the watcher needs the user of QEMU or CAP_DAC_OVERRIDE",
    ),
    Outcome.REFUSED: ("the agent answered with an error", "in the guest: journalctl -u garp-agent"),
}
OTHER = (
    "what answers there is not garp-agent",
    "look at what has the port open in the guest: garp-agent doctor",
)


def guests(facts: HostFacts) -> Iterator[Finding]:
    """Check the channels, and what answers there."""
    channels = facts.channels
    if channels.trouble:
        yield warn("guests", channels.trouble, "see docs/garp-hint.md, How guests are found")
    for path, why in channels.refused:
        yield warn(
            "guests",
            f"{path} is left out: {why}",
            "move it to a folder that others may not write to",
        )
    terminals = [each.guest for each in channels.in_xenstore or () if not each.path]
    if terminals:
        yield warn(
            "guests",
            f"connection=pty is not supported: {some(terminals)}",
            "in the guest's configuration: connection=socket,path=PATH (docs/install/xen.md)",
        )
    if not channels.guests:
        yield warn("guests", channels.none_found, GIVE_CHANNEL)
        return
    yield from _silent(facts)
    answering = [each for each in channels.guests if each["state"] == Outcome.ANSWERED.value]
    if answering:
        number = len(answering)
        answer = "1 guest answers" if number == 1 else f"{number} guests answer"
        yield ok("guests", f"{answer}: {_names(answering)}")
    yield from _versions(answering, facts.version)
    yield from _unknown_ports(answering)
    yield from _late(facts)
    yield from _ways(facts)


def _names(chosen: list[dict[str, Any]]) -> str:
    return some([each["guest"] for each in chosen])


def _silent(facts: HostFacts) -> Iterator[Finding]:
    by_state: dict[str, list[dict[str, Any]]] = {}
    lost = [each for each in facts.channels.guests if is_lost_channel(each, facts)]
    if lost:
        yield fail(
            "guests",
            f"xl has lost the channel: {_names(lost)}: xenstore does not have {lost[0]['path']}",
            "xl 4.17 loses the first of a list: put name=unused,connection=pty in front of it",
        )
    for each in facts.channels.guests:
        if each["state"] != Outcome.ANSWERED.value and each not in lost:
            by_state.setdefault(each["state"], []).append(each)
    for state, silent in by_state.items():
        what, advice = TROUBLES.get(Outcome(state), OTHER)
        reason = from_guest(silent[0].get("error", ""))
        yield (fail if state == Outcome.FORBIDDEN.value else warn)(
            "guests",
            f"{state}: {_names(silent)}: {what}{f' ({reason})' if reason else ''}",
            advice.format(path=silent[0]["path"]),
        )


def is_lost_channel(guest: dict[str, Any], facts: HostFacts) -> bool:
    """Return whether a socket listens, and there is no channel of Xen behind it.

    xl 4.17 gives the first channel of a list the number of the primary console.
    """
    known = facts.channels.in_xenstore
    if known is None or guest["state"] != NO_AGENT:
        return False
    return all(guest["path"] != each.path for each in known)


def _versions(answering: list[dict[str, Any]], ours: str) -> Iterator[Finding]:
    older: dict[str, list[dict[str, Any]]] = {}
    for each in answering:
        version = from_guest(each.get("reply", {}).get("version", "unknown"))
        if version_numbers(version) < version_numbers(ours):
            older.setdefault(version, []).append(each)
    for version, chosen in older.items():
        yield warn(
            "guests",
            f"garp-agent {version}, older than {ours} of this host: {_names(chosen)}",
            "update them: apt-get install garp-agent, in the guest",
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison; () for a text without numbers."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _unknown_ports(answering: list[dict[str, Any]]) -> Iterator[Finding]:
    unknown = [each for each in answering if each.get("behind") is None]
    if unknown:
        yield warn(
            "guests",
            f"the port is not known of {_names(unknown)}: they get each hint and no lease",
            "wait until the guest has sent a frame; a card that is passed through has no port here",
        )


def _ways(facts: HostFacts) -> Iterator[Finding]:
    """Say how guests are announced after a failover; an older watcher does not tell."""
    status = facts.watcher.status or {}
    guests = (*status.get("guests", ()), *status.get("without_channel", ()))
    told = [each for each in guests if each.get("way")]
    without = [each for each in told if each["way"] == NOTHING]
    if without:
        why = without[0].get("no_way")
        yield warn(
            "ways",
            f"nothing announces {_names(without)} after a failover{f': {why}' if why else ''}",
            "in the guest: install garp-agent; or on this host: garp-hint install --learn",
        )
    ways = Counter(each["way"] for each in told if each["way"] != NOTHING)
    if ways:
        yield ok("ways", ", ".join(f"{way} {number}" for way, number in sorted(ways.items())))


def _late(facts: HostFacts) -> Iterator[Finding]:
    status = facts.watcher.status
    if status is None:
        yield skip("hints", facts.watcher.error)
        return
    hinted = [each for each in status["guests"] if each["answered"]]
    late = [each for each in hinted if each["slowest_seconds"] > SLOW_HINT]
    for each in late:
        yield warn(
            "hints",
            f"{each['guest']} answered a hint only after {duration(each['slowest_seconds'])}",
            "the guest or this host is short of CPU time; in the guest: garp-agent doctor",
        )
    if hinted and not late:
        slowest = max(each["slowest_seconds"] for each in hinted)
        answered = sum(each["answered"] for each in hinted)
        yield ok("hints", f"{answered} answered, the slowest after {slowest * 1000:.0f} ms")
