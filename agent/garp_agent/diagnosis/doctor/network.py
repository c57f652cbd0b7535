"""Checks of what the network sees: addresses, frames on the wire, other claimants.

Pure: facts in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from garp_agent.diagnosis.doctor.facts import Facts, Interface, PromisedFrame
from garp_agent.diagnosis.doctor.findings import Finding, counts, fail, ok, skip, warn
from garp_agent.diagnosis.sighting import BROADCAST, Sighting
from garp_agent.guest.core.policy import Skip
from garp_agent.guest.core.rival import is_no_station
from garp_agent.render.table import some

FRAME_LEAST = 60  # bytes, without the frame check sequence (IEEE 802.3)

# Reasons for not announcing that an operator should hear of, and what to do about them.
TROUBLES = {
    Skip.DOWN.value: "set it up (ip link set {interface} up), or remove its addresses",
    Skip.NO_CARRIER.value: "look at the cable, or at the link state that the hypervisor gives it",
    Skip.DADFAILED.value: "another machine has {address}: find it by its hardware address "
    "(ip neighbour, the switch), then remove and add the address",
    Skip.NO_HARDWARE_ADDRESS.value: "give {interface} a unicast hardware address",
}
# What the configuration leaves out, and the links that it selects.
LEFT_OUT = [
    each.value
    for each in (
        *(Skip.NAME_NOT_INCLUDED, Skip.NAME_EXCLUDED, Skip.KIND_NOT_INCLUDED, Skip.KIND_EXCLUDED),
        *(Skip.FAMILY_OFF, Skip.NETWORK_NOT_INCLUDED, Skip.NETWORK_EXCLUDED),
    )
]
SELECTED = (None, Skip.DOWN.value, Skip.NO_CARRIER.value)


# -- addresses --------------------------------------------------------------------------


def addresses(facts: Facts) -> Iterator[Finding]:
    """Check that every address that netifaces sees is announced, or skipped for a reason."""
    if facts.not_seen:
        yield skip("addresses", f"comparing them {facts.not_seen}")
    listed = {link["interface"]: link for link in facts.links}
    for name in sorted(facts.interfaces.keys() | listed.keys()):
        link = listed.get(name, {"addresses": [], "skipped": None, "hardware_address": ""})
        seen = facts.interfaces.get(name, Interface("", {}, {}))
        verb = "announced" if facts.agent.status else "to be announced"
        problems = [] if facts.not_seen else list(_differences(f"addresses {name}", link, seen))
        yield from problems
        yield from _addresses_of(name, link, verb, bool(problems))
    yield from _nothing_announced(facts.links)


def _nothing_announced(links: list[dict[str, Any]]) -> Iterator[Finding]:
    """Say what to do where no address is announced."""
    known = [(link, address, each) for link in links for address, each in _known(link).items()]
    if any(each["announced_as"] for _, _, each in known):
        return
    # Beside a selected link that has no address yet, those of the others are no fault.
    is_link_selected = any(link["skipped"] in SELECTED for link in links)
    left_out = [
        address
        for link, address, each in known
        if each["skipped"] in LEFT_OUT
        and (link["skipped"] is None or not is_link_selected)
        and not address.startswith("fe80:")
    ]
    if left_out:
        yield warn(
            "addresses",
            f"no address is announced: the configuration leaves out {some(left_out)}",
            "see interfaces and addresses in the configuration: garp-agent check names selectors "
            "that match nothing, and garp-agent list says why each address is skipped",
        )
    elif not any(each["skipped"] in TROUBLES for _, _, each in known):
        yield warn(
            "addresses",
            "no address is announced: none is suitable",
            "see garp-agent list; if there should be one by now, look at DHCP and at the network "
            "configuration",
        )


def _addresses_of(
    name: str, link: dict[str, Any], verb: str, has_problems: bool
) -> Iterator[Finding]:
    check = f"addresses {name}"
    known = _known(link)
    covered = [one for one, each in known.items() if each["announced_as"]]
    skipped: dict[str, list[str]] = {}
    for address, each in known.items():
        reason = each["skipped"] or ""
        if reason in TROUBLES:
            advice = TROUBLES[reason].format(interface=name, address=address)
            yield warn(check, f"{address} is not announced: {reason}", advice)
        elif reason:
            skipped.setdefault(reason, []).append(address)
    if covered and not has_problems:
        yield ok(check, f"{verb}: {some(covered)}")
    for reason, names in skipped.items():
        yield ok(check, f"skipped ({reason}): {some(names)}")


def _known(link: dict[str, Any]) -> dict[str, Any]:
    return {each["address"]: each for each in link["addresses"] if each["address"]}


def _differences(check: str, link: dict[str, Any], seen: Interface) -> Iterator[Finding]:
    known = _known(link)
    missing = [one for one in seen.addresses if one not in known and one not in seen.tentative]
    if missing:
        yield fail(
            check,
            f"the agent does not know {some(missing)}, which netifaces sees",
            "restart the agent, and report it: its view of the kernel is wrong",
        )
    extra = [one for one in known if one not in seen.addresses]
    if extra:
        yield fail(
            check,
            f"the agent knows {some(extra)}, which netifaces does not see",
            "restart the agent at once, and report it: it announces addresses that are gone",
        )
    theirs, ours = seen.hardware_address, link["hardware_address"]
    if theirs and ours and theirs != ours:
        yield fail(
            check,
            f"the agent announces {ours}, netifaces sees {theirs}",
            "restart the agent, and report it: it missed a change of hardware address",
        )


# -- frames on the wire -----------------------------------------------------------------


def wire(facts: Facts) -> Iterator[Finding]:
    """Check that a burst put the promised frames on the links, address by address."""
    seen = facts.wire
    if seen.skipped:
        yield skip("wire", seen.skipped)
        return
    if seen.error:
        yield fail("wire", f"no burst could be captured: {seen.error}", "see the other findings")
        return
    for interface, why in seen.unheard:
        yield skip(f"wire {interface}", f"doctor cannot listen there: {why}")
    good: dict[str, list[PromisedFrame]] = {}
    for promised in seen.promised:
        finding = _promised(promised, facts)
        if finding:
            yield finding
        else:
            good.setdefault(promised.interface, []).append(promised)
    for interface, kept in good.items():
        names = [each.address or each.hardware_address for each in kept]
        yield ok(f"wire {interface}", f"{len(kept)} of {len(kept)} seen as promised: {some(names)}")


def _promised(promised: PromisedFrame, facts: Facts) -> Finding | None:
    check = f"wire {promised.interface}"
    name = f"{promised.kind} of {promised.address or promised.hardware_address}"
    alike = [
        sighting
        for interface, sighting in facts.wire.seen
        if interface == promised.interface
        and (sighting.kind, sighting.address) == (promised.kind, promised.address)
        and sighting.source == promised.hardware_address
    ]
    if not alike:
        return _unseen(check, name, facts)
    router = bool(facts.interfaces[promised.interface].sysctls.get("ipv6/forwarding"))
    wrong = sorted({each for sighting in alike for each in deviations(promised, sighting, router)})
    if wrong:
        return fail(check, f"{name} went out wrong: {'; '.join(wrong)}", "report it as a bug")
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
    counted = f"; the agent counted {counts(dropped)} as dropped" if dropped else ""
    return fail(
        check,
        f"{name} was not seen on the link within {facts.wire.waited:.1f} s of a burst{counted}",
        "something between the agent and the driver drops it: look at tc -s qdisc and tc filter, "
        "nft list ruleset (netdev egress), a seccomp or BPF policy, or --dry-run on the agent",
    )


def deviations(promised: PromisedFrame, sighting: Sighting, router: bool) -> list[str]:
    """Return how a frame differs from what was promised; ``router``: the interface forwards."""
    found = list(sighting.faults)
    _expect(found, "hardware address", sighting.hardware_address, promised.hardware_address)
    if promised.kind == "unsolicited-na":
        _expect(found, "router flag", sighting.router, router)
        return found
    _expect(found, "Ethernet destination", sighting.destination, BROADCAST)
    is_request = promised.kind in ("arp-request", "arp-probe")
    target = "00:00:00:00:00:00" if is_request else promised.hardware_address
    _expect(found, "target hardware address", sighting.target_hardware_address, target)
    if sighting.length < FRAME_LEAST:
        found.append(f"{sighting.length} bytes, {FRAME_LEAST} are the least that drivers take")
    return found


def _expect(found: list[str], what: str, seen: object, expected: object) -> None:
    if seen != expected:
        found.append(f"{what} is {seen}, expected {expected}")


# -- other claimants --------------------------------------------------------------------


def claimants(facts: Facts) -> Iterator[Finding]:
    """Check that no other station answers for our addresses."""
    asked = facts.claimants
    if asked.skipped:
        yield skip("claimants", asked.skipped)
        return
    for error in asked.errors:
        yield warn(
            "claimants", f"not every question could be sent: {error}", "see the other findings"
        )
    proxies = (facts.agent.status or {}).get("answer_for_everything", ())
    named = {(each["interface"], each["hardware_address"]) for each in proxies}
    for interface, address, hardware_address in asked.answers:
        # The agent ignores these, too; the check of conflicts names the proxies.
        if (interface, hardware_address) in named or is_no_station(
            bytes.fromhex(hardware_address.replace(":", "")), facts.configuration.ignored
        ):
            continue
        yield fail(
            f"claimants {interface}",
            f"{hardware_address} has {address} too",
            "a clone, a stale VIP or a wrong DHCP lease: find it by that hardware address in the "
            "switch's table; while it answers, an agent that yields does not announce the address",
        )
    guilty = {(interface, address) for interface, address, _ in asked.answers}
    good = [address for interface, address in asked.asked if (interface, address) not in guilty]
    if good:
        yield ok("claimants", f"no other station answers for {some(good)}")
