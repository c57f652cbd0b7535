"""Checks of bonds: mode, monitoring, delays, and whether a second port could take over.

Pure: facts in, findings out.  Sources: Documentation/networking/bonding.rst; bond_alb.c,
bond_do_alb_xmit() (another source MAC); bond_options.c (which option needs a bond without ports).
"""

from __future__ import annotations

from collections.abc import Iterator

from garp_agent.diagnosis.doctor.findings import Finding, duration, fail, ok, skip, warn
from garp_agent.diagnosis.host.facts import BondFacts, HostFacts
from garp_agent.hypervisor.core.bonds import mode_name
from garp_agent.hypervisor.core.linkstate import (
    MODE_8023AD,
    MODE_ACTIVE_BACKUP,
    MODE_ALB,
    MODE_BROADCAST,
    MODE_ROUND_ROBIN,
    MODE_TLB,
)
from garp_agent.render.table import some

MIIMON = 10  # ms; costs nothing that can be measured
STP_DELAY = 30_000  # ms from a carrier to the first frame, on a switch port without PortFast
RESELECT_ALWAYS = 0
FOLLOW_NO_MAC, ACTIVE_MAC = 0, 1  # fail_over_mac
UNFIT_FOR_GUESTS = {
    MODE_ROUND_ROBIN: "sends the frames of one guest through all ports by turns",
    MODE_BROADCAST: "sends each frame of a guest through all ports",
    MODE_TLB: "gives frames of guests the MACs of its ports",
    MODE_ALB: "gives frames of guests the MACs of its ports",
}


def bonds(facts: HostFacts) -> Iterator[Finding]:
    """Check each bond."""
    if facts.links_error:
        yield skip("bonds", facts.links_error)
    elif not facts.bonds:
        yield ok("bonds", "this host has none")
    for bond in facts.bonds:
        problems = [
            *_bond_ports(bond),
            *_bond_mode(bond),
            *_bond_monitoring(bond),
            *_bond_delays(bond),
            *_bond_macs(bond),
        ]
        yield from problems
        if not problems:
            yield ok(_check_of(bond), _described(bond))


def _check_of(bond: BondFacts) -> str:
    return f"bond {bond.name}"


def _set(bond: BondFacts, options: str) -> str:
    return f"ip link set {bond.name} type bond {options}"


def _described(bond: BondFacts) -> str:
    options = bond.options
    if options.arp_interval:
        monitored = f"arp_interval {options.arp_interval}"
    else:
        monitored = f"miimon {options.miimon}"
    active = [port.name for port in bond.ports if port.is_active]
    in_use = f", {active[0]} is active" if active else ""
    ports = some([port.name for port in bond.ports])
    return f"{mode_name(options.mode)}, {monitored}, ports {ports}{in_use}"


def _bond_ports(bond: BondFacts) -> Iterator[Finding]:
    check = _check_of(bond)
    carrying = [port.name for port in bond.ports if port.has_carrier]
    others = [port.name for port in bond.ports if not port.has_carrier]
    if not bond.ports:
        yield fail(check, "it has no port", f"ip link set PORT master {bond.name}")
    elif not carrying:
        yield fail(
            check,
            f"no port has carrier: {some(others)}",
            f"look at the cables and the switch ports: ethtool {others[0]}",
        )
    elif len(carrying) == 1 and others:
        yield warn(
            check,
            f"only {carrying[0]} has carrier; no port is left for a failover",
            f"look at the cable and the switch port of {some(others)}: ip link set {others[0]} up; "
            f"ethtool {others[0]}",
        )
    elif len(carrying) == 1:
        yield warn(
            check,
            f"{carrying[0]} is its only port; no port is left for a failover",
            f"add the second one: ip link set PORT master {bond.name}",
        )


def _bond_mode(bond: BondFacts) -> Iterator[Finding]:
    why = UNFIT_FOR_GUESTS.get(bond.options.mode)
    if why and bond.is_bridged:
        yield warn(
            _check_of(bond),
            f"mode {mode_name(bond.options.mode)} {why}: switches learn one guest on several ports",
            "set the mode active-backup in the network configuration; or 802.3ad, where the "
            f"switches form one system. By hand, without ports: {_set(bond, 'mode active-backup')}",
        )


def _bond_monitoring(bond: BondFacts) -> Iterator[Finding]:
    check, options = _check_of(bond), bond.options
    if options.arp_interval:
        most = options.arp_interval * (options.arp_missed_max + 1)
        if most > 1000:
            yield warn(
                check,
                f"arp_interval is {options.arp_interval}: an outage is noticed after "
                f"{duration(most / 1000)}",
                _set(bond, "arp_interval 100"),
            )
    elif not options.miimon:
        yield fail(
            check,
            "miimon and arp_interval are 0: the bond never notices that a port lost its carrier",
            _set(bond, f"miimon {MIIMON}"),
        )
    elif options.miimon > MIIMON:
        yield warn(
            check,
            f"miimon is {options.miimon}: it adds up to {options.miimon} ms to every outage",
            f"{MIIMON} costs nothing that can be measured: {_set(bond, f'miimon {MIIMON}')}, and "
            "the same in the network configuration",
        )


def _bond_delays(bond: BondFacts) -> Iterator[Finding]:
    check, options = _check_of(bond), bond.options
    if options.downdelay:
        yield warn(
            check,
            f"downdelay is {options.downdelay}: it adds {options.downdelay} ms to every outage",
            _set(bond, "downdelay 0"),
        )
    returns = bond.primary and options.primary_reselect == RESELECT_ALWAYS
    if options.mode != MODE_8023AD and returns and options.updelay < STP_DELAY:
        yield warn(
            check,
            f"it returns to the primary {bond.primary} {duration(options.updelay / 1000)} after its"
            " carrier; a switch port without PortFast drops frames for 30 s then",
            f"turn on PortFast for the port on the switch; or {_set(bond, _later(bond))}",
        )


def _later(bond: BondFacts) -> str:
    """Return the option with which the bond does not return to a port that does not forward."""
    # The ARP monitor knows no updelay (bond_option_updelay_set).
    return "primary_reselect failure" if bond.options.arp_interval else f"updelay {STP_DELAY}"


def _bond_macs(bond: BondFacts) -> Iterator[Finding]:
    check, options = _check_of(bond), bond.options
    if options.mode == MODE_ACTIVE_BACKUP and options.fail_over_mac == ACTIVE_MAC:
        yield warn(
            check,
            "fail_over_mac is active: the host itself gets another MAC with each failover",
            "unless the card needs it, set it to none in the network configuration; by hand, "
            f"without ports: {_set(bond, 'fail_over_mac none')}",
        )
    if options.all_slaves_active:
        yield fail(
            check,
            "all_slaves_active is 1: the broadcasts of a guest come back through the standby port, "
            "and the bridge then looks for the guest outside",
            _set(bond, "all_slaves_active 0"),
        )
