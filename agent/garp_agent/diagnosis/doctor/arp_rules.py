"""Checks whether rules keep the kernel from answering ARP for an address that is announced.

The agent's frames bypass most of these rules, because AF_PACKET does not pass the hooks of ARP.
Tries the rules on what a peer would ask, and on what the kernel would answer, on each way through
the links on which the link of the address is stacked.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import error as StructError  # noqa: N812
from typing import Any

from garp_agent.diagnosis.doctor.arp_frames import (
    ANY,
    ArpFrame,
    Hook,
    RuleVerdict,
    answer,
    question,
)
from garp_agent.diagnosis.doctor.arptables import arptables_verdicts, read_arptables
from garp_agent.diagnosis.doctor.facts import ArpRules, ArpTable, Facts, NftRules
from garp_agent.diagnosis.doctor.findings import Finding, ok, skip, warn
from garp_agent.diagnosis.doctor.nftables import nft_verdicts, read_nftables
from garp_agent.render.table import some


def read_rules() -> ArpRules:
    """Return the rules for ARP; what cannot be read is left out."""
    return ArpRules(read_nftables(), read_arptables(), _may_have_ebtables())


def _may_have_ebtables() -> bool:
    with contextlib.suppress(OSError):
        return "\nebtable_" in "\n" + Path("/proc/modules").read_text()
    return False


def arp_rules(facts: Facts) -> Iterator[Finding]:
    """Check whether rules for ARP concern an address that the agent announces."""
    nft, legacy, may_have_ebtables = facts.arp_rules
    if any(each.hook and (each.rules or not each.accepts) for each in nft.chains):
        yield from _judged("arp rules nftables", facts, nft)
    if legacy:
        yield from _judged("arp rules arptables", facts, legacy)
    if may_have_ebtables and any(
        link.get("kind") == "bridge" and announced_ipv4(facts, link["interface"])
        for link in facts.links
    ):
        yield skip("arp rules ebtables", "doctor cannot read them; see ebtables-legacy -L")


def _judged(check: str, facts: Facts, rules: NftRules | ArpTable) -> Iterator[Finding]:
    silent, unknown = [], []
    links = {link["interface"]: link for link in facts.links}
    for name in links:
        ways = list(_ways_to(facts, name))
        for address in announced_ipv4(facts, name):
            number = socket.inet_aton(address)
            found = [_answers(rules, links, way, number) for way in ways]
            if not any(RuleVerdict.ACCEPT in possible for possible in found):
                silent.append(address)
            elif all(RuleVerdict.DROP in possible for possible in found):
                unknown.append(address)  # on no way is it certain that the kernel answers
    if silent:
        yield warn(
            check,
            f"there are rules that keep the kernel from answering for {some(silent)}",
            "if another machine is to get this traffic (LVS-DR), announcements move it here: "
            + exclude(list(dict.fromkeys(silent))),
        )
    if unknown:
        yield warn(
            check,
            f"there are rules that doctor cannot evaluate, for {some(unknown)}",
            "see whether they keep the kernel from answering ARP for these addresses (nft list "
            "ruleset, arptables -L -n); if so, see addresses.exclude",
        )
    if not silent and not unknown:
        yield ok(
            check, "there are rules, and with them the kernel answers for each announced address"
        )


def _ways_to(facts: Facts, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the links that a frame for a link passes, the lowest first, for each of its ports."""
    below = facts.below.get(name, ())
    for each in below:
        yield from ((*way, name) for way in _ways_to(facts, each))
    if not below:
        yield (name,)


def _answers(
    rules: NftRules | ArpTable,
    links: dict[str, dict[str, Any]],
    way: tuple[str, ...],
    address: bytes,
) -> Collection[RuleVerdict]:
    """Return what becomes of a peer's question for an address, or of the kernel's answer."""
    link = links[way[-1]]
    place = link["interface"], link.get("ifindex", 0)
    hardware_address = bytes.fromhex(link["hardware_address"].replace(":", ""))
    answered = answer(*place, address, hardware_address)
    possible = {RuleVerdict.ACCEPT}
    for hook, frame in _passed(links, way, question(*place, address), answered):
        try:
            verdicts = _verdicts(rules, hook, frame)
        except (LookupError, ValueError, StructError):  # rules of a newer kernel
            return ANY
        if {RuleVerdict.DROP} in verdicts:
            return {RuleVerdict.DROP}
        possible.update(*verdicts)
    if not answered.is_from(address):
        return {RuleVerdict.DROP}
    return possible if answered.is_from(hardware_address) else ANY


def _passed(
    links: dict[str, dict[str, Any]], way: tuple[str, ...], asked: ArpFrame, answered: ArpFrame
) -> Iterator[tuple[Hook, ArpFrame]]:
    """Yield the hooks that a question passes, and then its answer, each with the frame there."""
    kinds = [links.get(name, {}).get("kind") for name in way]

    def at(step: int, frame: ArpFrame, port: Hook, *bridge: Hook) -> list[tuple[Hook, ArpFrame]]:
        ifindex = links.get(way[step], {}).get("ifindex", 0)
        frame = frame._replace(interface=way[step], ifindex=ifindex)
        if "vlan" in kinds[step + 1 :]:  # here it has a tag
            frame = frame._replace(ethernet=[None] * 18)
        is_port = kinds[step + 1 : step + 2] == ["bridge"]
        return [(hook, frame) for hook in (port, *(bridge if is_port else ()))]

    for step in range(len(way)):
        yield from at(step, asked, Hook.INGRESS, Hook.BRIDGE_PREROUTING, Hook.BRIDGE_INPUT)
    yield Hook.INPUT, asked
    yield Hook.OUTPUT, answered._replace(ethernet=[None] * 14)  # rules see no header there
    for step in reversed(range(len(way))):
        sent = at(step, answered, Hook.EGRESS, Hook.BRIDGE_POSTROUTING, Hook.BRIDGE_OUTPUT)
        yield from reversed(sent)


def _verdicts(
    rules: NftRules | ArpTable, hook: Hook, frame: ArpFrame
) -> list[frozenset[RuleVerdict]]:
    if isinstance(rules, NftRules):
        return nft_verdicts(rules, hook, frame)
    is_arp = hook in (Hook.INPUT, Hook.OUTPUT)
    return [arptables_verdicts(rules, hook, frame)] if is_arp else []


def announced_ipv4(facts: Facts, interface: str = "") -> list[str]:
    """Return the IPv4 addresses that are announced, on one interface or on all."""
    return [
        each["address"]
        for link in facts.links
        if interface in ("", link["interface"])
        for each in link["addresses"]
        if each["announced_as"] and "." in (each["address"] or "")
    ]


def exclude(addresses: list[str]) -> str:
    """Return the configuration that leaves out these addresses."""
    return f"addresses: {{exclude: [{', '.join(f'{one}/32' for one in addresses)}]}}"
