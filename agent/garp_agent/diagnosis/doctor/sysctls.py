"""Checks of sysctls: whether the kernel's own behaviour spoils or doubles what the agent does.

Pure: facts in, findings out.  Source: Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from garp_agent.diagnosis.doctor.arp_rules import announced_ipv4, exclude
from garp_agent.diagnosis.doctor.facts import Facts, Interface
from garp_agent.diagnosis.doctor.findings import Finding, ok, warn

ARP_IGNORE_ALL = 8  # arp_ignore: do not reply for all local addresses


def sysctls(facts: Facts) -> Iterator[Finding]:
    """Check the sysctls of every announced interface."""
    announced = [
        link["interface"]
        for link in facts.links
        if any(each["announced_as"] for each in link["addresses"])
        and link["interface"] in facts.interfaces
    ]
    for name in announced:
        values = facts.interfaces[name].sysctls
        bad = list(_bad_sysctls(name, values, announced_ipv4(facts, name)))
        yield from bad
        if not bad:
            yield ok(f"sysctl {name}", _neutral(values))
    yield from _shared_networks({name: facts.interfaces[name] for name in announced})


def _bad_sysctls(name: str, values: dict[str, int], addresses: list[str]) -> Iterator[Finding]:
    check = f"sysctl {name}"
    if values.get("ipv4/arp_ignore", 0) >= ARP_IGNORE_ALL:
        yield warn(
            check,
            f"arp_ignore is {values['ipv4/arp_ignore']}: the kernel answers no ARP request here",
            f"peers that forget us cannot find us again: sysctl net.ipv4.conf.{name}.arp_ignore=0"
            + (f"; or, if that is meant (LVS-DR): {exclude(addresses)}" if addresses else ""),
        )
    for family, key in (("ipv4", "drop_gratuitous_arp"), ("ipv6", "drop_unsolicited_na")):
        if values.get(f"{family}/{key}"):
            yield warn(
                check,
                f"{key} is 1: this machine ignores the announcements of others",
                "when a gateway or a peer fails over, we keep its old address until it times out; "
                f"sysctl net.{family}.conf.{name}.{key}=0, here and on the peers",
            )


def _neutral(values: dict[str, int]) -> str:
    words = []
    if values.get("ipv4/arp_notify") or values.get("ipv6/ndisc_notify"):
        words.append("arp_notify or ndisc_notify is on: the kernel announces once too, harmless")
    if values.get("ipv4/arp_ignore") and values.get("ipv4/arp_announce"):
        words.append(
            "arp_ignore and arp_announce are set, as on a real server of LVS-DR: "
            "a virtual address belongs on lo, which is not announced, or into addresses.exclude"
        )
    if values.get("ipv6/forwarding"):
        words.append("forwards IPv6: advertisements carry the router flag")
    if values.get("ipv6/disable_ipv6"):
        words.append("IPv6 is off")
    return "; ".join(words) or "no sysctl interferes"


def _shared_networks(interfaces: dict[str, Interface]) -> Iterator[Finding]:
    networks: dict[str, list[str]] = {}
    for name, each in interfaces.items():
        for network in {_network(one, mask) for one, mask in each.addresses.items()} - {""}:
            networks.setdefault(network, []).append(name)
    for network, names in networks.items():
        if len(names) < 2:
            continue
        lax = [name for name in names if not _answers_for_itself(interfaces[name].sysctls)]
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
                "packets that arrive on one link while the route is over the other are dropped: "
                "rp_filter=2",
            )


def _answers_for_itself(values: dict[str, int]) -> bool:
    return bool(values.get("ipv4/arp_ignore") or values.get("ipv4/arp_filter"))


def _network(address: str, mask: str) -> str:
    if ":" in address or not mask:
        return ""
    network = ipaddress.ip_network(f"{address}/{mask}", strict=False)
    return str(network) if network.prefixlen < 31 else ""  # RFC 3021: a /31 has two ends only
