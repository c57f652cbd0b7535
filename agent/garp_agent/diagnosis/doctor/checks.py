"""What ``doctor`` makes of the facts: findings, each with what was found and what to do.

Decides what is good, worth a warning, or a failure.  Pure: facts in, findings out; opens
nothing, sends nothing, and reads no clock.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from garp_agent.config.settings import JITTER
from garp_agent.diagnosis.doctor.facts import CAP_NET_RAW, Facts, Interface, Process, Promise
from garp_agent.diagnosis.sighting import BROADCAST, Sighting
from garp_agent.guest.core.policy import Skip

SLOW_ANSWER = 0.5  # seconds
OVERDUE = 1.0  # seconds
DRIFT = 0.5  # seconds between the daemon's clock and ours, over the time that we looked
FIRST_HINT = 120.0  # seconds; garp-hint talks to every guest once a minute
DROPPED_SHARE = 0.01  # of the frames
SHOWN = 4  # addresses on one line
FRAME_LEAST = 60  # bytes, without the check sequence
EVENT_KERNEL = (4, 13)  # the first that says NOTIFY_PEERS in rtnetlink
ARP_IGNORE_ALL = 8

# Reasons that an operator will want to hear of, and what to do about them.
TROUBLES = {
    Skip.DOWN.value: "set it up (ip link set {interface} up), or take its addresses away",
    Skip.NO_CARRIER.value: "look at the cable, or at the link state that the hypervisor gives it",
    Skip.DORMANT.value: "it waits for 802.1X; look at the supplicant",
    Skip.DADFAILED.value: "another machine has {address}: find it by its hardware address "
    "(ip neighbour, the switch), then remove and add the address",
    Skip.NO_HARDWARE_ADDRESS.value: "give {interface} a unicast hardware address",
}


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  # not looked at, and why


class Finding(NamedTuple):
    """One line."""

    check: str
    level: Level
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Something to look at; announcements go out."""
    return Finding(check, Level.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Something does not work."""
    return Finding(check, Level.FAIL, found, advice)


def skip(check: str, why: str) -> Finding:
    """Not looked at."""
    return Finding(check, Level.SKIP, f"not checked: {why}")


def examine(facts: Facts) -> list[Finding]:
    """All the checks, in the order in which a chain breaks."""
    return [finding for check in CHECKS for finding in check(facts)]


def failed(findings: list[Finding]) -> bool:
    """Whether anything does not work."""
    return any(finding.level is Level.FAIL for finding in findings)


# -- the agent ----------------------------------------------------------------------------


def daemon(facts: Facts) -> Iterator[Finding]:
    """Is it running, and does it answer?"""
    asked = facts.daemon
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
    found = f"garp-agent {status['version']}, pid {status['pid']}, up {_time(status['uptime'])}"
    if asked.took > SLOW_ANSWER:
        yield warn(
            "daemon",
            f"{found}, took {asked.took:.1f} s to answer",
            "the machine is very busy or short of memory: announcements are late too",
        )
    else:
        yield ok("daemon", f"{found}, answered in {asked.took * 1000:.0f} ms")


def configuration(facts: Facts) -> Iterator[Finding]:
    """Would the file be accepted at the next start?"""
    path, problems = facts.configuration.path, facts.configuration.problems
    if problems:
        yield fail(
            "configuration",
            "; ".join(problems),
            "correct the file: with it the agent will not start, nor reload",
        )
    else:
        yield ok("configuration", path or "no file: the defaults are in force")


def capability(facts: Facts) -> Iterator[Finding]:
    """May the daemon send frames?"""
    if facts.process is None:
        if facts.daemon.status:
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
    """Has the kernel what the agent stands on?"""
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
            f"Linux {release} does not tell of NOTIFY_PEERS (4.13 and later do)",
            "QMP announce-self and the end of a migration start no burst here: use the hint port",
        )
    else:
        yield ok("kernel", f"Linux {release}, packet sockets")


def timers(facts: Facts) -> Iterator[Finding]:
    """Does the daemon's clock go, and is nothing late?"""
    before, after = facts.daemon.status, facts.later.status
    if before is None:
        return
    if after is None:
        yield fail(
            "timers", facts.later.error, "the agent ended while it was looked at: see its log"
        )
        return
    ours = facts.later.asked_at + facts.later.took - facts.daemon.asked_at - facts.daemon.took
    drift = after["uptime"] - before["uptime"] - ours
    overdue = list(_overdue(after))
    if after["pid"] != before["pid"] or abs(drift) > DRIFT:
        yield fail(
            "timers",
            f"in {ours:.1f} s of ours the agent's clock went {ours + drift:.1f} s",
            "it was restarted or stopped meanwhile: see its log",
        )
    elif overdue:
        yield fail(
            "timers",
            f"nothing went out {', '.join(overdue)}, with a refresh every {after['interval']:g} s",
            "see losses; or the agent does not get to run: look for a starved CPU, a cgroup that "
            "is frozen or throttled",
        )
    else:
        yield ok("timers", _timing(after))


def _overdue(status: dict[str, Any]) -> Iterator[str]:
    """Links on which no address was announced for longer than any jitter explains."""
    patience = status["interval"] * (1 + JITTER.most) + OVERDUE
    for link in status["links"]:
        ages = [
            status["uptime"] if each["seconds_since_last"] is None else each["seconds_since_last"]
            for each in link["addresses"]
            if each["announced_as"] and not (each["conflict"] or {}).get("withheld")
        ]
        if ages and min(ages) > patience:
            yield f"on {link['interface']} for {_time(min(ages))}"


def _timing(status: dict[str, Any]) -> str:
    next_ones = [
        link["next_refresh"] for link in status["links"] if link.get("next_refresh") is not None
    ]
    text = f"refresh every {status['interval']:g} s"
    if next_ones:
        text += f", the next in {max(0.0, min(next_ones)):.1f} s"
    return text + (f", resumed {status['resumes']} times" if status["resumes"] else "")


def losses(facts: Facts) -> Iterator[Finding]:
    """Were kernel events or frames lost?"""
    status = facts.later.status or facts.daemon.status
    if status is None:
        return
    sent, dropped = status["frames"]["sent"], status["frames"]["dropped"]
    words = ", ".join(f"{number} {name}" for name, number in dropped.items())
    if sum(dropped.values()) > DROPPED_SHARE * (sent + sum(dropped.values())):
        yield warn(
            "losses",
            f"the kernel did not take {words}, and took {sent} frames",
            "ENETDOWN: the link was down; ENOBUFS: a full or dropping queue (tc -s qdisc); "
            "ENXIO, ENODEV: the link is gone",
        )
    elif status["overruns"]:
        yield warn(
            "losses",
            f"kernel events were lost {status['overruns']} times, and everything was read anew",
            "nothing is broken; if the number grows, something changes addresses in a storm",
        )
    else:
        yield ok("losses", f"{sent} frames sent, {words or 'none'} dropped, no kernel event lost")


# -- addresses ----------------------------------------------------------------------------


def addresses(facts: Facts) -> Iterator[Finding]:
    """Is every address that netifaces sees announced, or skipped for a reason?"""
    listed = {link["interface"]: link for link in facts.links}
    for name in sorted(facts.interfaces.keys() | listed.keys()):
        link = listed.get(name, {"addresses": [], "skipped": None, "hardware_address": ""})
        seen = facts.interfaces.get(name, Interface("", {}, {}))
        verb = "announced" if facts.daemon.status else "to be announced"
        yield from _addresses_of(name, link, seen, verb)


def _addresses_of(name: str, link: dict[str, Any], seen: Interface, verb: str) -> Iterator[Finding]:
    check = f"addresses {name}"
    known = {each["address"]: each for each in link["addresses"] if each["address"]}
    covered = [one for one, each in known.items() if each["announced_as"]]
    problems = list(_differences(check, link, seen, known))
    troubles = list(_troubles(check, name, link, known))
    yield from problems + troubles
    if covered and not problems:
        yield ok(check, f"{verb}: {_some(covered)}")
    quiet = _by_reason(known, troubles=bool(troubles))
    for reason, skipped in quiet.items():
        yield ok(check, f"skipped ({reason}): {_some(skipped)}")


def _differences(
    check: str, link: dict[str, Any], seen: Interface, known: dict[str, Any]
) -> Iterator[Finding]:
    missing = [one for one in seen.addresses if one not in known and one not in seen.tentative]
    if missing:
        yield fail(
            check,
            f"the agent does not know {_some(missing)}, which netifaces sees",
            "restart the agent, and report it: its view of the kernel is wrong",
        )
    extra = [one for one in known if one not in seen.addresses]
    if extra:
        yield fail(
            check,
            f"the agent believes in {_some(extra)}, which netifaces does not see",
            "restart the agent at once, and report it: it speaks for addresses that are gone",
        )
    theirs, ours = seen.hardware_address, link["hardware_address"]
    if theirs and ours and theirs != ours:
        yield fail(
            check,
            f"the agent announces {ours}, netifaces sees {theirs}",
            "restart the agent, and report it: it missed a change of hardware address",
        )


def _troubles(
    check: str, name: str, link: dict[str, Any], known: dict[str, Any]
) -> Iterator[Finding]:
    for address, each in known.items():
        advice = TROUBLES.get(each["skipped"] or "")
        if advice:
            advice = advice.format(interface=name, address=address)
            yield warn(check, f"{address} is not announced: {each['skipped']}", advice)


def _by_reason(known: dict[str, Any], troubles: bool) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for address, each in known.items():
        if each["skipped"] and not (troubles and each["skipped"] in TROUBLES):
            reasons.setdefault(each["skipped"], []).append(address)
    return reasons


def conflicts(facts: Facts) -> Iterator[Finding]:
    """Has the agent heard others claim our addresses?"""
    status = facts.later.status or facts.daemon.status
    if status is None:
        return
    heard = [
        (link["interface"], each["address"], each["conflict"])
        for link in status["links"]
        for each in link["addresses"]
        if each.get("conflict")
    ]
    for interface, address, rival in heard:
        text = (
            f"{address} on {interface} was claimed by {rival['claimed_by']} "
            f"{rival['claims']} times, last {_time(rival['seconds_ago'])} ago"
        )
        yield (_still_claimed if rival["withheld"] else _once_claimed)(text, rival)
    if not heard:
        yield ok("conflicts", "the agent has heard nobody claim an address of ours")


def _still_claimed(text: str, rival: dict[str, Any]) -> Finding:
    return fail(
        "conflicts",
        f"{text}; the agent yields and does not announce it for now",
        f"find the machine with {rival['claimed_by']} and take the address away from one of you",
    )


def _once_claimed(text: str, rival: dict[str, Any]) -> Finding:
    return warn(
        "conflicts",
        text,
        f"if the address was not moved on purpose, find the machine with {rival['claimed_by']}",
    )


# -- the wire -----------------------------------------------------------------------------


def wire(facts: Facts) -> Iterator[Finding]:
    """Did a burst put on the links what was promised, address by address?"""
    seen = facts.wire
    if seen.skipped:
        yield skip("wire", seen.skipped)
        return
    if seen.error:
        yield fail("wire", f"no burst could be looked at: {seen.error}", "see the other findings")
        return
    for interface, why in seen.deaf:
        yield skip(f"wire {interface}", f"nobody can listen there: {why}")
    good: dict[str, list[Promise]] = {}
    for promise in seen.promised:
        finding = _promise(promise, facts)
        if finding:
            yield finding
        else:
            good.setdefault(promise.interface, []).append(promise)
    for interface, kept in good.items():
        names = [each.address or each.hardware_address for each in kept]
        yield ok(
            f"wire {interface}", f"{len(kept)} of {len(kept)} seen as promised: {_some(names)}"
        )


def _promise(promise: Promise, facts: Facts) -> Finding | None:
    check = f"wire {promise.interface}"
    name = f"{promise.kind} of {promise.address or promise.hardware_address}"
    alike = [
        sighting
        for interface, sighting in facts.wire.seen
        if interface == promise.interface
        and (sighting.kind, sighting.address) == (promise.kind, promise.address)
        and sighting.source == promise.hardware_address
    ]
    if not alike:
        return _unseen(check, name, facts)
    router = bool(facts.interfaces[promise.interface].sysctls.get("ipv6/forwarding"))
    wrong = sorted({fault for sighting in alike for fault in deviations(promise, sighting, router)})
    if wrong:
        return fail(
            check, f"{name} went out wrong: {'; '.join(wrong)}", "report it: the frame is not right"
        )
    return None


def _unseen(check: str, name: str, facts: Facts) -> Finding:
    if facts.wire.paced:
        return warn(
            check,
            f"{name} was not seen in {facts.wire.waited:.0f} s",
            "so many addresses take longer than that at the configured rate: see rate_limit",
        )
    later = facts.later.status
    dropped = later["frames"]["dropped"] if later else {}
    said = f"; the agent counted {_counts(dropped)} as dropped" if dropped else ""
    return fail(
        check,
        f"{name} was not seen on the link within {facts.wire.waited:.1f} s of a burst{said}",
        "something between the agent and the driver drops it: look at tc -s qdisc and tc filter, "
        "nft list ruleset (netdev egress), a seccomp or BPF policy, or --dry-run on the agent",
    )


def deviations(promise: Promise, sighting: Sighting, router: bool) -> list[str]:
    """What a frame has that the promise of it has not; ``router``: this interface forwards."""
    found = list(sighting.faults)
    _expect(found, "hardware address", sighting.hardware_address, promise.hardware_address)
    if promise.kind == "unsolicited-na":
        _expect(found, "router flag", sighting.router, router)
        return found
    _expect(found, "Ethernet destination", sighting.destination, BROADCAST)
    nobody = promise.kind in ("arp-request", "arp-probe")
    target = "00:00:00:00:00:00" if nobody else promise.hardware_address
    _expect(found, "target hardware address", sighting.target_hardware_address, target)
    if sighting.length < FRAME_LEAST:
        found.append(f"{sighting.length} bytes, {FRAME_LEAST} are the least that drivers take")
    return found


def _expect(found: list[str], what: str, seen: object, expected: object) -> None:
    if seen != expected:
        found.append(f"{what} is {seen}, {expected} was expected")


def claimants(facts: Facts) -> Iterator[Finding]:
    """Did anybody else answer for our addresses?"""
    asked = facts.claimants
    if asked.skipped:
        yield skip("claimants", asked.skipped)
        return
    for error in asked.errors:
        yield warn("claimants", f"could not ask everybody: {error}", "see the other findings")
    for interface, address, hardware_address in asked.answers:
        yield fail(
            f"claimants {interface}",
            f"{hardware_address} has {address} too",
            "a clone, a stale VIP or a wrong DHCP lease: find it by that hardware address in the "
            "switch's table; having been made to speak, it may make the agent yield for "
            f"{facts.configuration.hold_off:g} s",
        )
    guilty = {(interface, address) for interface, address, _ in asked.answers}
    good = [address for interface, address in asked.asked if (interface, address) not in guilty]
    if good:
        yield ok("claimants", f"nobody else answers for {_some(good)}")


# -- the host's hints ---------------------------------------------------------------------


def hint_port(facts: Facts) -> Iterator[Finding]:
    """Driver, port, name, permission, busy, host connected, last hint: where does it end?"""
    if facts.daemon.status is None:
        yield skip("hint port", facts.daemon.error)
        return
    seen = (facts.later.status or facts.daemon.status)["hint_port"]
    if seen["state"] == "off":
        yield ok("hint port", "none configured: after a failover the next refresh has to do")
    elif seen["state"].startswith("open"):
        yield _open_port(seen, facts)
    else:
        yield _closed_port(seen, facts)


def _open_port(seen: dict[str, Any], facts: Facts) -> Finding:
    status = facts.daemon.status or {}
    place = f"{seen['name']} at {seen['path']}, {seen['state']}"
    if seen["requests"]:
        lease = f", lease for {status['lease']:.0f} s more" if status.get("lease") else ""
        ago = _time(seen["seconds_since_last"])
        found = f"{place}; {seen['requests']} requests, last {ago} ago{lease}"
        if seen["errors"] > seen["requests"]:
            return warn(
                "hint port",
                f"{found}; {seen['errors']} lines refused",
                "something other than garp-hint writes to the port: look on the hypervisor",
            )
        return ok("hint port", found)
    if status.get("uptime", 0) < FIRST_HINT:
        return ok("hint port", f"{place}; no request yet, the agent is up for a short time")
    return warn(
        "hint port",
        f"{place}; no request has ever come",
        "on the hypervisor: garp-hint list shows whether it finds this guest's channel; "
        "is garp-hint watch running?",
    )


def _closed_port(seen: dict[str, Any], facts: Facts) -> Finding:
    name, path, state = seen["name"], seen["path"] or "", seen["state"]
    if state == "forbidden":
        return fail("hint port", *_forbidden(path, seen, facts))
    if state == "busy":
        held = f" by {', '.join(facts.port.holders)}" if facts.port.holders else ""
        return fail(
            "hint port",
            f"{path} is held open{held}",
            "a port serves one process: stop the other one, or give it a port of its own",
        )
    if state == "failed" or facts.port.kind:
        why = seen["error"] or "it hung up"
        kind = facts.port.kind or "nothing"
        return fail(
            "hint port",
            f"{path or name}: {why} (a {kind}, {facts.port.mode or 'no mode'})",
            "hint_port names a virtio-serial port, a character device or a listening socket",
        )
    return warn("hint port", *_absent(name, facts))


def _forbidden(path: str, seen: dict[str, Any], facts: Facts) -> tuple[str, str]:
    port, process = facts.port, facts.process or Process("", -1, (), 0)
    uid, gid = port.owner
    who = f"; the agent is uid {process.uid}" if facts.process else ""
    return (
        f"{path}: {seen['error']} ({port.mode} uid {uid} gid {gid}{who})",
        "install the udev rule (contrib/udev) so that the agent's group may open it; under systemd "
        "also DeviceAllow=char-virtio-portsdev rw; then udevadm trigger -s virtio-ports",
    )


def _absent(name: str, facts: Facts) -> tuple[str, str]:
    port = facts.port
    if name.startswith("/"):
        return f"{name} does not exist", "create it, or correct hint_port in the configuration"
    if port.names:
        return (
            f"there is no virtio-serial port {name}; there are: {', '.join(port.names)}",
            f"the channel's target name on the hypervisor and hint_port here must agree ({name})",
        )
    if port.controllers > port.driven:
        return (
            "a virtio-serial controller is there, and no driver has taken it",
            "modprobe virtio_console, and have it loaded at boot",
        )
    if port.controllers:
        return (
            "a virtio-serial controller is there, and has no port",
            f"add the channel {name} to the guest on the hypervisor (docs/install)",
        )
    return (
        "this machine has no virtio-serial controller",
        f"add a virtio-serial channel {name} to the guest on the hypervisor, or set hint_port: "
        "none; until then the next refresh has to do after a failover",
    )


# -- sysctls ------------------------------------------------------------------------------


def sysctls(facts: Facts) -> Iterator[Finding]:
    """Does the kernel's own behaviour spoil, or double, what the agent does?"""
    announced = [
        link["interface"]
        for link in facts.links
        if any(each["announced_as"] for each in link["addresses"])
        and link["interface"] in facts.interfaces
    ]
    for name in announced:
        values = facts.interfaces[name].sysctls
        bad = list(_bad_sysctls(name, values))
        yield from bad
        if not bad:
            yield ok(f"sysctl {name}", _neutral(values))
    yield from _shared_networks({name: facts.interfaces[name] for name in announced})


def _bad_sysctls(name: str, values: dict[str, int]) -> Iterator[Finding]:
    check = f"sysctl {name}"
    if values.get("ipv4/arp_ignore", 0) >= ARP_IGNORE_ALL:
        yield warn(
            check,
            f"arp_ignore is {values['ipv4/arp_ignore']}: the kernel answers no ARP request here",
            f"peers that forget us cannot find us again: sysctl net.ipv4.conf.{name}.arp_ignore=0",
        )
    for key, what, who in (
        ("ipv4/drop_gratuitous_arp", "drop_gratuitous_arp", "ipv4"),
        ("ipv6/drop_unsolicited_na", "drop_unsolicited_na", "ipv6"),
    ):
        if values.get(key):
            yield warn(
                check,
                f"{what} is 1: this machine ignores the announcements of others",
                "when a gateway or a peer fails over, we keep its old address until it times out; "
                f"sysctl net.{who}.conf.{name}.{what}=0, here and on the peers",
            )


def _neutral(values: dict[str, int]) -> str:
    words = []
    if values.get("ipv4/arp_notify") or values.get("ipv6/ndisc_notify"):
        words.append("arp_notify or ndisc_notify is on: the kernel announces once too, harmless")
    if values.get("ipv6/forwarding"):
        words.append("forwards IPv6: advertisements carry the router flag")
    if values.get("ipv6/disable_ipv6"):
        words.append("IPv6 is off")
    return "; ".join(words) or "nothing in the way"


def _shared_networks(interfaces: dict[str, Interface]) -> Iterator[Finding]:
    networks: dict[str, list[str]] = {}
    for name, each in interfaces.items():
        for network in {_network(one, mask) for one, mask in each.addresses.items()} - {""}:
            networks.setdefault(network, []).append(name)
    for network, names in networks.items():
        if len(names) < 2:
            continue
        lax = [name for name in names if not _keeps_to_itself(interfaces[name].sysctls)]
        if lax:
            yield warn(
                f"sysctl {', '.join(names)}",
                f"all are in {network}, and {', '.join(lax)} would answer ARP for the others",
                "peers may learn the wrong hardware address: arp_ignore=1 on each or on all; or "
                "arp_filter=1, with a route for each source address",
            )
        strict = [name for name in names if interfaces[name].sysctls.get("ipv4/rp_filter") == 1]
        if strict:
            yield warn(
                f"sysctl {', '.join(names)}",
                f"all are in {network}, with strict rp_filter on {', '.join(strict)}",
                "what arrives on the one while the route is over the other is dropped: rp_filter=2",
            )


def _keeps_to_itself(values: dict[str, int]) -> bool:
    return bool(values.get("ipv4/arp_ignore") or values.get("ipv4/arp_filter"))


def _network(address: str, mask: str) -> str:
    if ":" in address or not mask:
        return ""
    network = ipaddress.ip_network(f"{address}/{mask}", strict=False)
    return str(network) if network.prefixlen < 31 else ""


# -- words --------------------------------------------------------------------------------


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _version(release: str) -> tuple[int, ...]:
    numbers = release.split("-")[0].split(".")[:2]
    return tuple(int(each) for each in numbers if each.isdigit())


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    daemon,
    configuration,
    kernel,
    capability,
    addresses,
    wire,
    timers,
    losses,
    conflicts,
    claimants,
    hint_port,
    sysctls,
)
