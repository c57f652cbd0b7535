"""Checks whether rules keep the kernel from answering ARP for an address that is announced.

The agent's frames bypass these rules, because AF_PACKET does not pass the hooks of ARP.  Tries the
rules on what a peer would ask, and on what the kernel would answer.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
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
from garp_agent.diagnosis.doctor.findings import Finding, ok, warn
from garp_agent.diagnosis.doctor.nftables import nft_verdicts, read_nftables
from garp_agent.render.table import some


def read_rules() -> ArpRules:
    """Return the rules for ARP; what cannot be read is left out."""
    return ArpRules(read_nftables(), read_arptables())


def arp_rules(facts: Facts) -> Iterator[Finding]:
    """Check whether rules for ARP concern an address that the agent announces."""
    nft, legacy = facts.arp_rules
    if any(each.hook and (each.rules or not each.accepts) for each in nft.chains):
        yield from _judged("arp rules nftables", facts, nft)
    if legacy:
        yield from _judged("arp rules arptables", facts, legacy)


def _judged(check: str, facts: Facts, rules: NftRules | ArpTable) -> Iterator[Finding]:
    silent, unknown = [], []
    for link in facts.links:
        for address in announced_ipv4(facts, link["interface"]):
            possible = _answers(rules, link, socket.inet_aton(address))
            if RuleVerdict.ACCEPT not in possible:
                silent.append(address)
            elif RuleVerdict.DROP in possible:
                unknown.append(address)
    if silent:
        yield warn(
            check,
            f"there are rules for {some(silent)}, which the agent announces past them",
            "if another machine is to get this traffic (LVS-DR), the agent moves it here: "
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
        yield ok(check, "there are rules, and the kernel answers for each announced address")


def _answers(
    rules: NftRules | ArpTable, link: dict[str, Any], address: bytes
) -> Collection[RuleVerdict]:
    """Return what becomes of a peer's question for an address, or of the kernel's answer."""
    place = link["interface"], link.get("ifindex", 0)
    hardware_address = bytes.fromhex(link["hardware_address"].replace(":", ""))
    asked = question(*place, address)
    answered = answer(*place, address, hardware_address)
    possible = {RuleVerdict.ACCEPT}
    for hook, frame in ((Hook.INGRESS, asked), (Hook.INPUT, asked), (Hook.OUTPUT, answered)):
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


def _verdicts(
    rules: NftRules | ArpTable, hook: Hook, frame: ArpFrame
) -> list[frozenset[RuleVerdict]]:
    if isinstance(rules, NftRules):
        return nft_verdicts(rules, hook, frame)
    return [] if hook is Hook.INGRESS else [arptables_verdicts(rules, hook, frame)]


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
