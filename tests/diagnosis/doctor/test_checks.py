"""Each check: which facts make which finding."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.diagnosis.doctor import facts as fact
from garp_agent.diagnosis.doctor import network, nftables, run
from garp_agent.diagnosis.doctor.findings import Finding, Level, failed
from garp_agent.guest.core.policy import Skip
from garp_agent.wire.rtnetlink import attribute
from tests.diagnosis import world
from tests.diagnosis.world import ADVERTISEMENT, MAC, OTHER_MAC, REQUEST, address, facts, link

WELL = facts()
GONE = fact.AgentAnswer("/run/c.sock", error="/run/c.sock: no garp-agent answers there")
FORBIDDEN = fact.AgentAnswer("/run/c.sock", error="/run/c.sock: permission denied; run as root")
OK, WARN, FAIL, SKIP = Level.OK, Level.WARN, Level.FAIL, Level.SKIP


def bad(given: fact.Facts) -> list[Finding]:
    """The findings that are not ok."""
    return [each for each in run.examine(given) if each.level is not OK]


def test_healthy_guest_has_only_good_findings() -> None:
    findings = run.examine(WELL)
    assert {each.level for each in findings} == {OK}
    assert {each.check for each in findings} == {
        *("daemon", "configuration", "kernel", "capability", "addresses eth0", "addresses lo"),
        *("wire eth0", "timers", "losses", "conflicts", "claimants", "hint port", "sysctl eth0"),
    }
    assert not failed(findings)


def test_agent_not_running_fails_once_and_skips_what_needs_it() -> None:
    wire = fact.WireFacts(skipped="no agent")
    failure, *rest = bad(facts(agent=GONE, later=GONE, process=None, wire=wire))
    assert (failure.check, failure.level) == ("daemon", FAIL)
    assert "systemctl start garp-agent" in failure.advice
    assert [(each.check, each.level) for each in rest] == [("wire", SKIP), ("hint port", SKIP)]
    assert rest[1].found == f"not checked: {GONE.error}"


def changed(**more: Any) -> fact.Facts:
    """A later answer whose status differs."""
    return facts(later=WELL.later._replace(status={**world.status(), **more}))


def eth0(**more: Any) -> fact.Facts:
    """Another view of eth0 by netifaces."""
    return facts(interfaces={**WELL.interfaces, "eth0": WELL.interfaces["eth0"]._replace(**more)})


def seen(*sightings: Any, **more: Any) -> fact.Facts:
    """Other frames on eth0 during the burst."""
    return facts(wire=WELL.wire._replace(seen=tuple(("eth0", each) for each in sightings), **more))


def odd(**more: Any) -> fact.Facts:
    """Another ARP frame on eth0 during the burst."""
    return seen(REQUEST._replace(**more), ADVERTISEMENT)


def process(*more: Any) -> fact.Facts:
    return facts(process=fact.ProcessFacts("S", *more))


SLOW = facts(agent=WELL.agent._replace(took=0.9), later=WELL.later._replace(asked_at=53.9))
ADDRESSES = WELL.interfaces["eth0"].addresses
ANSWERED = WELL.claimants._replace(answers=(("eth0", "192.0.2.10", OTHER_MAC),))
STRANGE = {**WELL.interfaces, "eth7": fact.Interface(MAC, {"192.0.2.7": ""}, {})}
INVALID = fact.ConfigurationFacts("/etc/c.yaml", ("c:1: one", "c:2: two"))
MORE = eth0(addresses={**ADDRESSES, "192.0.2.99": ""})
FEWER = eth0(addresses={"2001:db8::10": ""})
DOWN = fact.ClaimantFacts(errors=("eth0: Network is down",))
UNHEARD = WELL.wire._replace(unheard=(("eth9", "no such device"),))
ELSEWHERE = WELL.wire._replace(seen=(("eth1", REQUEST), ("eth0", ADVERTISEMENT)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SLOW, "warn daemon: took 0.9 s"),
        (process(990, (990,), 0), "fail capability: uid 990"),
        (process(0, (), 1 << 12), "fail capability: no CAP_NET_RAW"),
        (process(0, (), 1 << 14), "fail capability: no CAP_NET_RAW"),
        (facts(process=None), "skip capability: cannot be seen"),
        (facts(configuration=INVALID), "fail configuration: c:1: one; c:2: two"),
        (facts(kernel=fact.KernelFacts("6.1", "no packets")), "fail kernel: no packets"),
        (changed(pid=78, uptime=0.5), "fail timers: passed for the agent"),
        (changed(uptime=1000.1), "fail timers: while 3.0 s passed here, 0.1 s passed"),
        (facts(status={"overruns": 3}), "warn losses: 3 times"),
        (MORE, "fail addresses eth0: does not know 192.0.2.99, which netifaces sees"),
        (FEWER, "fail addresses eth0: knows 192.0.2.10, which netifaces does not see"),
        (eth0(hardware_address=OTHER_MAC), f"fail addresses eth0: netifaces sees {OTHER_MAC}"),
        (facts(interfaces=STRANGE), "fail addresses eth7: does not know 192.0.2.7"),
        (seen(ADVERTISEMENT), "fail wire eth0: arp-request of 192.0.2.10 was not seen on the"),
        (facts(wire=ELSEWHERE), "fail wire eth0: was not seen"),
        (odd(source=OTHER_MAC, hardware_address=OTHER_MAC), "fail wire eth0: was not seen"),
        (seen(ADVERTISEMENT, paced=True, waited=20.0), "warn wire eth0: was not seen in 20 s"),
        (odd(hardware_address=OTHER_MAC), f"fail wire eth0: hardware address is {OTHER_MAC}"),
        (odd(destination=OTHER_MAC), f"fail wire eth0: destination is {OTHER_MAC}"),
        (odd(target_hardware_address=MAC), f"fail wire eth0: target hardware address is {MAC}"),
        (odd(length=42), "fail wire eth0: 42 bytes, 60 are the least"),
        (odd(faults=("odd",)), "fail wire eth0: odd"),
        (seen(REQUEST, ADVERTISEMENT._replace(router=True)), "fail wire eth0: router flag is True"),
        (eth0(sysctls={"ipv6/forwarding": 1}), "fail wire eth0: router flag is False"),
        (facts(wire=UNHEARD), "skip wire eth9: no such device"),
        (facts(wire=fact.WireFacts(error="not permitted")), "fail wire: not permitted"),
        (facts(claimants=ANSWERED), f"fail claimants eth0: {OTHER_MAC} has 192.0.2.10 too"),
        (facts(claimants=DOWN), "warn claimants: eth0: Network is down"),
    ],
)
def test_one_wrong_fact_gives_one_finding(given: fact.Facts, expected: str) -> None:
    (finding,) = bad(given)
    head, _, text = expected.partition(": ")
    assert f"{finding.level.value} {finding.check}" == head
    assert text in finding.found
    assert finding.advice or finding.level is SKIP


@pytest.mark.parametrize(
    "given",
    [
        # doctor got no CPU while the agent answered, or after that.
        facts(later=WELL.later._replace(took=0.9)),
        # An address in duplicate address detection: the kernel has not reported it yet.
        eth0(addresses={**ADDRESSES, "2001:db8::99": ""}, tentative=("2001:db8::99",)),
        # The agent ignores the station that answers for an address.
        facts(
            claimants=ANSWERED,
            configuration=WELL.configuration._replace(
                ignored=((bytes.fromhex(OTHER_MAC.replace(":", "")), b"\xff" * 6),)
            ),
        ),
        # Tables of ebtables, and no address on a bridge.
        facts(arp_rules=fact.ArpRules(may_have_ebtables=True)),
        # A link without addresses.
        facts(
            interfaces={**WELL.interfaces, "eth7": fact.Interface(MAC, {}, {})},
            links=[*world.links(), link("eth7", skipped="down")],
        ),
        # A foreign frame beside ours.
        seen(REQUEST._replace(source=OTHER_MAC), REQUEST, ADVERTISEMENT),
    ],
)
def test_harmless_fact_gives_no_finding(given: fact.Facts) -> None:
    assert bad(given) == []
    assert not any("eth7" in each.check for each in run.examine(given))


def test_addresses_reasons_that_are_troubles_exist() -> None:
    assert network.TROUBLES.keys() <= {each.value for each in Skip}


def test_address_of_a_link_that_is_down_is_the_only_advice() -> None:
    lone = skipped("down").links
    (finding,) = bad(unannounced(*lone))[:1]
    assert finding.check == "addresses eth0"
    assert not any(each.check == "addresses" for each in bad(unannounced(*lone)))


def test_wire_reply_has_its_sender_as_target() -> None:
    promised = WELL.wire.promised[0]._replace(kind="arp-reply")
    reply = REQUEST._replace(kind="arp-reply")
    assert network.deviations(promised, reply, False)
    right = reply._replace(target_hardware_address=MAC)
    assert network.deviations(promised, right, False) == []


# -- one check, whatever the others find ------------------------------------------------


def kernel(release: str) -> fact.Facts:
    return facts(kernel=fact.KernelFacts(release))


PROXY = {"interface": "eth0", "hardware_address": OTHER_MAC, "seconds_ago": 1.0}


def aged(*ages: float | None, conflict: Any = None) -> fact.Facts:
    """Addresses on eth0 by the age of their last frame in seconds."""
    addresses = [
        address(f"192.0.2.{n}", "arp-request", seconds_since_last=age, conflict=conflict)
        for n, age in enumerate(ages)
    ]
    return facts(status={"links": [link("eth0", *addresses)]})


def rival(withheld: bool) -> dict[str, Any]:
    return {"claimed_by": OTHER_MAC, "claims": 4, "seconds_ago": 9.0, "withheld": withheld}


def dropped(frames: int) -> fact.Facts:
    return facts(status={"frames": {"sent": 500, "dropped": {"ENETDOWN": frames}, "by_cause": {}}})


def skipped(reason: str) -> fact.Facts:
    view = {"eth0": fact.Interface(MAC, {"192.0.2.10": ""}, {})}
    return facts(links=[link("eth0", address("192.0.2.10", skipped=reason))], interfaces=view)


def unannounced(*links: Any) -> fact.Facts:
    """A machine with these links, whose agent announces no address."""
    view = {
        each["interface"]: fact.Interface(
            MAC, {one["address"]: "" for one in each["addresses"]}, {}
        )
        for each in links
    }
    nothing = "no address is announced"
    return facts(
        links=list(links),
        interfaces=view,
        wire=fact.WireFacts(skipped=nothing),
        claimants=fact.ClaimantFacts(skipped=nothing),
    )


def port(found: fact.PortFacts, state: str, uptime: float = 1000.0, **more: Any) -> fact.Facts:
    view = world.hint_port(state, **{"requests": 0, **more})
    return facts(status={"hint_port": view, "uptime": uptime}, port=found)


def lvs(*keys: str) -> fact.Facts:
    return eth0(sysctls=dict.fromkeys(keys, 1))


def rules(digits: str, *more: tuple[str, dict[int, bytes]], accepts: bool = True) -> fact.Facts:
    """Rules of nft that drop questions for an address; ``digits``: its first bytes, "": none."""
    load = ("payload", {1: number(1), 2: number(1), 3: number(24), 4: number(len(digits) // 2)})
    compare = ("cmp", {1: number(1), 2: number(0), 3: attribute(1, bytes.fromhex(digits))})
    drop = ("immediate", {1: number(0), 2: attribute(2, attribute(1, number(0)))})
    chain = fact.NftChain(nftables.ARP, "t", "c", "input", accepts=accepts)
    chain = chain._replace(rules=((load, compare, *more, drop),) if digits else ())
    return facts(arp_rules=fact.ArpRules(fact.NftRules((chain,))))


def ingress_below(kind: str, header: str = "") -> fact.Facts:
    """Rules at the ingress of eth0 that drop questions for 192.0.2.10, which is on a link above.

    ``header``: bytes of the Ethernet header that they compare, from the EtherType on.
    """
    load = ("payload", {1: number(1), 2: number(0), 3: number(12), 4: number(len(header) // 2)})
    compare = ("cmp", {1: number(1), 2: number(0), 3: attribute(1, bytes.fromhex(header))})
    ((chain,), _), _, _ = rules("c000020a").arp_rules
    if header:
        chain = chain._replace(rules=((load, compare, *chain.rules[0]),))
    chain = chain._replace(family=nftables.NETDEV, hook="ingress", devices=("eth0",))
    above = link("eth0.5", address("192.0.2.10", "arp-request"), kind=kind)
    return facts(
        links=[link("eth0", kind="physical"), above],
        arp_rules=fact.ArpRules(fact.NftRules((chain,))),
        below={"eth0.5": ["eth0"]},
    )


def ebtables(kind: str) -> fact.Facts:
    """A guest with tables of ebtables-legacy and an address on a link of this kind."""
    announced = link("eth0", *world.links()[1]["addresses"], kind=kind)
    return facts(links=[announced], arp_rules=fact.ArpRules(may_have_ebtables=True))


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sysctl(key: str, value: int = 1) -> fact.Facts:
    return eth0(sysctls={key: value})


def pair(mask: str, one: dict[str, int], two: dict[str, int]) -> fact.Facts:
    """Two links with neighbouring addresses, and the sysctls of each."""
    interfaces = {
        "eth0": fact.Interface(MAC, {"192.0.2.10": mask}, one),
        "eth1": fact.Interface(OTHER_MAC, {"192.0.2.11": mask}, two),
    }
    links = [link(name, address("192.0.2.10", "arp-request")) for name in interfaces]
    return facts(links=links, interfaces=interfaces)


NO_NAME_MATCHES = "name not in interfaces.include"
BRIDGE = link("br0", address("192.0.2.20", skipped=NO_NAME_MATCHES), skipped=NO_NAME_MATCHES)
PORT = link("nic0", skipped="port of a bridge, bond or team")
OTHER_NETWORK = link("eth0", address("192.0.2.30", skipped="not in addresses.include"))
IDLE = link("eth1", skipped="no carrier")
LINK_LOCAL = address("fe80::1", skipped="not in addresses.include")
WAITING_LINK = link("eth2", address("", "rarp"), LINK_LOCAL)
DEVICE = fact.PortFacts(1, 1, ("org.garp_agent.0",), "character device", "crw-------", (0, 0))
HELD = DEVICE._replace(holders=("socat (pid 9)",))
FILE = fact.PortFacts(0, 0, (), "file", "-rw-r--r--", (0, 0))
NO_PORT, NO_DRIVER, NO_NAME = (fact.PortFacts(*n, ()) for n in ((0, 0), (1, 0), (1, 1)))
OTHER_NAME = fact.PortFacts(1, 1, ("org.x.0",))
NONE: dict[str, Any] = {"path": None}
HVC: dict[str, Any] = {"name": "/dev/hvc1", "path": "/dev/hvc1"}
DENIED = "Permission denied (crw------- uid 0 gid 0; the agent is uid 0)"
CONNECTED, WAITING = "open, host connected", "open, host not connected"
DUPLICATE = "duplicate address detection failed"
NETWORK, HOST = "255.255.255.0", "255.255.255.255"
FILTERED = {"ipv4/arp_ignore": 1, "ipv4/rp_filter": 2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(agent=GONE), "ok addresses eth0: to be announced: 192.0.2.10, 2001:db8::10"),
        (facts(agent=FORBIDDEN), "fail daemon: permission denied; run as root -> run doctor as"),
        # Linux reports NOTIFY_PEERS from 4.13 on.
        (kernel("4.12.14"), "warn kernel: 4.13"),
        (kernel("4.13.0"), "ok kernel: "),
        (kernel("4.19-rc1"), "ok kernel: "),
        (kernel("10.0"), "ok kernel: "),
        (aged(8.4), "ok timers: "),  # 5 s, half as much again, and 1 s
        (aged(8.6), "fail timers: nothing went out on eth0 for 8.6 s, with a refresh every 5 s"),
        (aged(90.0, 1.0), "ok timers: "),  # one tick sends a few of many addresses
        (aged(None), "fail timers: "),
        (aged(None, 2.0), "ok timers: "),
        (aged(42.0, conflict=rival(True)), "ok timers: "),
        (facts(later=GONE), "fail timers: no garp-agent answers"),
        (facts(status={"resumes": 2}), "ok timers: every 5 s, the next in 2.0 s, resumed 2 times"),
        (dropped(5), "ok losses: 5 ENETDOWN"),  # one percent is 5.05
        (dropped(6), "warn losses: 6 ENETDOWN"),
        (aged(2.5, conflict=rival(True)), f"fail conflicts: by {OTHER_MAC} 4 times, last 9.0 s"),
        (aged(2.5, conflict=rival(False)), f"warn conflicts: by {OTHER_MAC} 4 times, last 9.0"),
        (
            facts(status={"answer_for_everything": [PROXY]}, claimants=ANSWERED),
            f"warn conflicts: {OTHER_MAC} on eth0",
        ),
        (facts(status={"answer_for_everything": [PROXY]}), f"warn conflicts: {OTHER_MAC} on eth0"),
        (WELL, "ok addresses lo: skipped (loopback): 127.0.0.1"),
        (skipped("down"), "warn addresses eth0: ip link set eth0 up"),
        (skipped(DUPLICATE), "warn addresses eth0: another machine has 192.0.2.10"),
        # No address is announced at all.
        (unannounced(BRIDGE, PORT), "warn addresses: the configuration leaves out 192.0.2.20 ->"),
        (unannounced(OTHER_NETWORK, IDLE), "warn addresses: leaves out 192.0.2.30 -> see interf"),
        (unannounced(BRIDGE, IDLE), "warn addresses: none is suitable -> see garp-agent list"),
        (
            unannounced(BRIDGE, WAITING_LINK),
            "warn addresses: none is suitable -> see garp-agent list",
        ),
        (
            unannounced(link("lo", address("127.0.0.1", skipped="loopback"), skipped="loopback")),
            "warn addresses: none is suitable -> see garp-agent list; if there should be one",
        ),
        # The first broken link of the chain to the hint port.
        (port(NO_PORT, "absent", **NONE), "warn hint port: no virtio-serial controller"),
        (port(NO_DRIVER, "absent", **NONE), "warn hint port: no driver for it"),
        (port(NO_NAME, "absent", **NONE), "warn hint port: has no port"),
        (port(OTHER_NAME, "absent", **NONE), "warn hint port: there are: org.x.0"),
        (port(NO_PORT, "absent", **HVC), "warn hint port: /dev/hvc1 does not exist"),
        (port(DEVICE, "forbidden", error="Permission denied"), f"fail hint port: {DENIED}"),
        (port(HELD, "busy"), "fail hint port: /dev/vport1p1 is held open by socat (pid 9)"),
        (port(FILE, "absent", error="No such device"), "fail hint port: (a file, -rw-r--r--)"),
        (port(DEVICE, CONNECTED, requests=3), "ok hint port: 3 requests, last 12 s ago, lease f"),
        (port(DEVICE, CONNECTED, requests=3, errors=9), "warn hint port: 9 lines refused"),
        (port(NO_PORT, "off"), "ok hint port: none configured"),
        (port(DEVICE, WAITING, 119.0, seconds_since_last=None), "ok hint port: "),
        (port(DEVICE, WAITING, 121.0, seconds_since_last=None), "warn hint port: "),
        # Sysctls that interfere.
        (sysctl("ipv4/arp_ignore", 8), "warn sysctl eth0: answers no ARP request"),
        (sysctl("ipv4/arp_ignore", 8), "warn sysctl eth0: exclude: [192.0.2.10/32]"),
        (lvs("ipv4/arp_ignore", "ipv4/arp_announce"), "ok sysctl eth0: real server of LVS-DR"),
        (lvs("ipv4/arp_ignore"), "ok sysctl eth0: no sysctl interferes"),
        # Rules for ARP.
        (rules("c000020a"), "warn arp rules nftables: exclude: [192.0.2.10/32]"),
        (rules("c00002"), "warn arp rules nftables: keep the kernel from answering for"),
        (rules("c00003"), "ok arp rules nftables: the kernel answers for each announced address"),
        (rules("c000020b"), "ok arp rules nftables: the kernel answers for each announced"),
        (rules("", accepts=False), "warn arp rules nftables: exclude: [192.0.2.10/32]"),
        (rules("c000020a", ("limit", {})), "warn arp rules nftables: cannot evaluate, for 192.0."),
        (rules("c000020b", ("limit", {})), "ok arp rules nftables: the kernel answers for each"),
        (rules("c000020a", ("cmp", {})), "warn arp rules nftables: cannot evaluate, for 192.0.2."),
        (rules("c000020a", ("later", {})), "warn arp rules nftables: cannot evaluate, for 192."),
        (ingress_below("vlan"), "warn arp rules nftables: exclude: [192.0.2.10/32]"),
        (ingress_below("vlan", "81000005"), "warn arp rules nftables: cannot evaluate, for 192.0"),
        (ingress_below("macvlan", "0806"), "warn arp rules nftables: exclude: [192.0.2.10/32]"),
        (ingress_below("macvlan", "81000005"), "ok arp rules nftables: the kernel answers for"),
        (ebtables("bridge"), "skip arp rules ebtables: not checked: doctor cannot read them"),
        (sysctl("ipv4/drop_gratuitous_arp"), "warn sysctl eth0: drop_gratuitous_arp is 1"),
        (sysctl("ipv6/drop_unsolicited_na"), "warn sysctl eth0: drop_unsolicited_na is 1"),
        (sysctl("ipv4/arp_notify"), "ok sysctl eth0: announces once too"),
        (sysctl("ipv6/ndisc_notify"), "ok sysctl eth0: announces once too"),
        (sysctl("ipv6/forwarding"), "ok sysctl eth0: router flag"),
        (sysctl("ipv4/arp_notify", 0), "ok sysctl eth0: no sysctl interferes"),
    ],
)
def test_check_has_its_level_and_text(given: fact.Facts, expected: str) -> None:
    head, _, text = expected.partition(": ")
    level, _, check = head.partition(" ")
    (finding,) = [each for each in run.examine(given) if each.check == check]
    assert finding.level.value == level
    assert text in f"{finding.found} -> {finding.advice}"


@pytest.mark.parametrize(
    ("given", "warnings"),
    [
        (
            pair(NETWORK, {}, {"ipv4/rp_filter": 1}),
            ["and eth0, eth1 would answer ARP for the others", "with strict rp_filter on eth1"],
        ),
        (pair(NETWORK, {}, {"ipv4/arp_filter": 1}), ["and eth0 would answer ARP for the others"]),
        (pair(NETWORK, FILTERED, FILTERED), []),
        (pair(HOST, {}, {}), []),
        (pair("255.255.255.254", {}, {}), []),
    ],
)
def test_sysctl_two_links_in_one_network_are_warnings(
    given: fact.Facts, warnings: list[str]
) -> None:
    shared = [each for each in run.examine(given) if each.check == "sysctl eth0, eth1"]
    assert [each.level for each in shared] == [WARN] * len(warnings)
    for each, warning in zip(shared, warnings):
        assert each.found == f"all are in 192.0.2.0/24, {warning}"
