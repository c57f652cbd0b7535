"""Each check: which facts make which finding."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.diagnosis.doctor import agent, network, run
from garp_agent.diagnosis.doctor.facts import (
    AgentAnswer,
    ClaimantFacts,
    ConfigurationFacts,
    Facts,
    Interface,
    KernelFacts,
    PortFacts,
    ProcessFacts,
    WireFacts,
)
from garp_agent.diagnosis.doctor.findings import Finding, Level, failed, ok
from garp_agent.guest.core.policy import Skip
from tests.diagnosis import world
from tests.diagnosis.world import ADVERTISEMENT, MAC, OTHER_MAC, REQUEST, address, facts, link

WELL = facts()
GONE = AgentAnswer("/run/c.sock", error="/run/c.sock: no garp-agent answers there")
OK, WARN, FAIL, SKIP = Level.OK, Level.WARN, Level.FAIL, Level.SKIP


def bad(given: Facts) -> list[Finding]:
    """The findings that are not ok."""
    return [each for each in run.examine(given) if each.level is not OK]


def only(given: Facts) -> Finding:
    """The one finding that is not ok."""
    (finding,) = bad(given)
    return finding


def test_healthy_guest_has_only_good_findings() -> None:
    findings = run.examine(WELL)
    assert {each.level for each in findings} == {OK}
    assert {each.check for each in findings} == {
        *("daemon", "configuration", "kernel", "capability", "addresses eth0", "addresses lo"),
        *("wire eth0", "timers", "losses", "conflicts", "claimants", "hint port", "sysctl eth0"),
    }
    assert not failed(findings)


def test_agent_not_running_fails_once_and_skips_what_needs_it() -> None:
    given = facts(agent=GONE, later=GONE, process=None, wire=WireFacts(skipped="no agent"))
    failure, *rest = bad(given)
    assert (failure.check, failure.level) == ("daemon", FAIL)
    assert "systemctl start garp-agent" in failure.advice
    assert [(each.check, each.level) for each in rest] == [("wire", SKIP), ("hint port", SKIP)]
    assert rest[1].found == f"not checked: {GONE.error}"
    found = [each.found for each in network.addresses(facts(agent=GONE))]
    assert "to be announced: 192.0.2.10, 2001:db8::10" in found


def test_control_socket_forbidden_asks_for_root() -> None:
    refused = AgentAnswer("/run/c.sock", error="/run/c.sock: permission denied; run as root")
    (finding,) = agent.daemon(facts(agent=refused))
    assert (finding.level, finding.advice) == (FAIL, "run doctor as root")


def changed(**more: Any) -> Facts:
    """A later answer whose status differs."""
    return facts(later=WELL.later._replace(status={**world.status(), **more}))


def eth0(**more: Any) -> Facts:
    """Another view of eth0 by netifaces."""
    return facts(interfaces={**WELL.interfaces, "eth0": WELL.interfaces["eth0"]._replace(**more)})


def seen(*sightings: Any, **more: Any) -> Facts:
    """Other frames on eth0 during the burst."""
    return facts(wire=WELL.wire._replace(seen=tuple(("eth0", each) for each in sightings), **more))


SLOW = facts(agent=WELL.agent._replace(took=0.9), later=WELL.later._replace(asked_at=53.9))
ADDRESSES = WELL.interfaces["eth0"].addresses
ANSWERED = WELL.claimants._replace(answers=(("eth0", "192.0.2.10", OTHER_MAC),))
STRANGE = {**WELL.interfaces, "eth7": Interface(MAC, {"192.0.2.7": ""}, {})}


@pytest.mark.parametrize(
    ("given", "check", "level", "found"),
    [
        (SLOW, "daemon", WARN, "took 0.9 s"),
        (facts(process=ProcessFacts("S", 990, (990,), 0)), "capability", FAIL, "uid 990"),
        (facts(process=ProcessFacts("S", 0, (), 1 << 12)), "capability", FAIL, "no CAP_NET_RAW"),
        (facts(process=ProcessFacts("S", 0, (), 1 << 14)), "capability", FAIL, "no CAP_NET_RAW"),
        (facts(process=None), "capability", SKIP, "cannot be seen"),
        (
            facts(configuration=ConfigurationFacts("/etc/c.yaml", ("c:1: one", "c:2: two"))),
            *("configuration", FAIL, "c:1: one; c:2: two"),
        ),
        (facts(kernel=KernelFacts("6.1", "not supported")), "kernel", FAIL, "not supported"),
        (changed(pid=78, uptime=0.5), "timers", FAIL, "passed for the agent"),
        (changed(uptime=1000.1), "timers", FAIL, "while 3.0 s passed here, 0.1 s passed"),
        (facts(status={"overruns": 3}), "losses", WARN, "3 times"),
        (
            eth0(addresses={**ADDRESSES, "192.0.2.99": ""}),
            *("addresses eth0", FAIL, "does not know 192.0.2.99, which netifaces sees"),
        ),
        (
            eth0(addresses={"2001:db8::10": ""}),
            *("addresses eth0", FAIL, "knows 192.0.2.10, which netifaces does not see"),
        ),
        (eth0(hardware_address=OTHER_MAC), "addresses eth0", FAIL, f"netifaces sees {OTHER_MAC}"),
        (facts(interfaces=STRANGE), "addresses eth7", FAIL, "does not know 192.0.2.7"),
        (seen(ADVERTISEMENT), "wire eth0", FAIL, "arp-request of 192.0.2.10 was not seen on the"),
        (
            facts(wire=WELL.wire._replace(seen=(("eth1", REQUEST), ("eth0", ADVERTISEMENT)))),
            *("wire eth0", FAIL, "was not seen"),
        ),
        (
            seen(REQUEST._replace(source=OTHER_MAC, hardware_address=OTHER_MAC), ADVERTISEMENT),
            *("wire eth0", FAIL, "was not seen"),
        ),
        (seen(ADVERTISEMENT, paced=True, waited=20.0), "wire eth0", WARN, "was not seen in 20 s"),
        (
            facts(wire=WELL.wire._replace(unheard=(("eth9", "no such device"),))),
            *("wire eth9", SKIP, "no such device"),
        ),
        (facts(wire=WireFacts(error="not permitted")), "wire", FAIL, "not permitted"),
        (facts(claimants=ANSWERED), "claimants eth0", FAIL, f"{OTHER_MAC} has 192.0.2.10 too"),
        (
            facts(claimants=ClaimantFacts(errors=("eth0: Network is down",))),
            *("claimants", WARN, "eth0: Network is down"),
        ),
    ],
)
def test_one_wrong_fact_gives_one_finding(
    given: Facts, check: str, level: Level, found: str
) -> None:
    finding = only(given)
    assert (finding.check, finding.level) == (check, level)
    assert found in finding.found
    assert finding.advice or level is SKIP


@pytest.mark.parametrize(
    "given",
    [
        # An address in duplicate address detection: the kernel has not reported it yet.
        eth0(addresses={**ADDRESSES, "2001:db8::99": ""}, tentative=("2001:db8::99",)),
        # A link without addresses.
        facts(
            interfaces={**WELL.interfaces, "eth7": Interface(MAC, {}, {})},
            links=[*world.links(), link("eth7", skipped="down")],
        ),
        # A foreign frame beside ours.
        seen(REQUEST._replace(source=OTHER_MAC), REQUEST, ADVERTISEMENT),
    ],
)
def test_harmless_fact_gives_no_finding(given: Facts) -> None:
    assert bad(given) == []
    assert not any("eth7" in each.check for each in run.examine(given))


@pytest.mark.parametrize(
    ("release", "level"),
    [("3.10.0-1160.el7", WARN), ("4.12.14", WARN), ("4.13.0", OK), ("4.19-rc1", OK), ("10.0", OK)],
)
def test_kernel_without_notify_peers_is_a_warning(release: str, level: Level) -> None:
    (finding,) = agent.kernel(facts(kernel=KernelFacts(release)))
    assert finding.level is level


@pytest.mark.parametrize(
    ("ages", "conflict", "level"),
    [
        ((8.4,), None, OK),  # 5 s, half as much again, and 1 s
        ((8.6,), None, FAIL),
        ((90.0, 1.0), None, OK),  # one tick sends a few of many addresses
        ((None,), None, FAIL),
        ((None, 2.0), None, OK),
        ((42.0,), {"withheld": True}, OK),
    ],
)
def test_timers_overdue_refresh_fails(ages: tuple[Any, ...], conflict: Any, level: Level) -> None:
    addresses = [
        address(f"192.0.2.{n}", "arp-request", seconds_since_last=age, conflict=conflict)
        for n, age in enumerate(ages)
    ]
    (finding,) = agent.timers(facts(status={"links": [link("eth0", *addresses)]}))
    assert finding.level is level
    if ages == (8.6,):
        assert finding.found == "nothing went out on eth0 for 8.6 s, with a refresh every 5 s"


def test_timers_agent_that_ended_fails_and_resumes_are_named() -> None:
    (finding,) = agent.timers(facts(later=GONE))
    assert finding.level is FAIL
    (finding,) = agent.timers(facts(status={"resumes": 2}))
    assert finding == ok("timers", "refresh every 5 s, the next in 2.0 s, resumed 2 times")


@pytest.mark.parametrize(("dropped", "level"), [(5, OK), (6, WARN)])
def test_losses_over_one_percent_are_a_warning(dropped: int, level: Level) -> None:
    frames = {"sent": 500, "dropped": {"ENETDOWN": dropped}, "by_cause": {}}
    (finding,) = agent.losses(facts(status={"frames": frames}))
    assert finding.level is level
    assert f"{dropped} ENETDOWN" in finding.found


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("down", "ip link set eth0 up"), ("duplicate address detection failed", "192.0.2.10")],
)
def test_addresses_skipped_for_a_trouble_are_a_warning(reason: str, advice: str) -> None:
    links = [link("eth0", address("192.0.2.10", skipped=reason))]
    view = {"eth0": Interface(MAC, {"192.0.2.10": ""}, {})}
    (finding,) = network.addresses(facts(links=links, interfaces=view))
    assert finding.level is WARN
    assert advice in finding.advice


def test_addresses_skipped_on_purpose_are_good_with_their_reason() -> None:
    assert network.TROUBLES.keys() <= {each.value for each in Skip}
    found = [each.found for each in network.addresses(WELL)]
    assert "skipped (loopback): 127.0.0.1" in found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"hardware_address": OTHER_MAC}, f"hardware address is {OTHER_MAC}"),
        ({"destination": OTHER_MAC}, f"Ethernet destination is {OTHER_MAC}"),
        ({"target_hardware_address": MAC}, f"target hardware address is {MAC}"),
        ({"length": 42}, "42 bytes, 60 are the least"),
        ({"faults": ("odd",)}, "odd"),
    ],
)
def test_wire_frame_that_deviates_fails(change: dict[str, Any], found: str) -> None:
    finding = only(seen(REQUEST._replace(**change), ADVERTISEMENT))
    assert finding.level is FAIL
    assert found in finding.found


def test_wire_reply_has_its_sender_as_target() -> None:
    promised = WELL.wire.promised[0]._replace(kind="arp-reply")
    reply = REQUEST._replace(kind="arp-reply")
    assert network.deviations(promised, reply, False)
    right = reply._replace(target_hardware_address=MAC)
    assert network.deviations(promised, right, False) == []


@pytest.mark.parametrize(("forwards", "flag"), [(0, True), (1, False)])
def test_wire_router_flag_follows_forwarding(forwards: int, flag: bool) -> None:
    given = seen(REQUEST, ADVERTISEMENT._replace(router=flag))
    routing = eth0(sysctls={"ipv6/forwarding": forwards}).interfaces
    assert f"router flag is {flag}" in only(given._replace(interfaces=routing)).found


@pytest.mark.parametrize(("withheld", "level"), [(True, FAIL), (False, WARN)])
def test_conflicts_heard_by_the_agent_are_findings(withheld: bool, level: Level) -> None:
    rival = {"claimed_by": OTHER_MAC, "claims": 4, "seconds_ago": 9.0, "withheld": withheld}
    contested = link("eth0", address("192.0.2.10", "arp-probe", conflict=rival))
    (finding,) = agent.conflicts(facts(status={"links": [contested]}))
    assert finding.level is level
    assert f"claimed by {OTHER_MAC} 4 times, last 9.0 s ago" in finding.found


# -- hint port --------------------------------------------------------------------------

HVC = {"name": "/dev/hvc1", "path": "/dev/hvc1"}
DEVICE = PortFacts(1, 1, ("org.garp_agent.0",), "character device", "crw-------", (0, 0))
FILE = PortFacts(0, 0, (), "file", "-rw-r--r--", (0, 0))
NO_PORT = PortFacts(0, 0, ())


@pytest.mark.parametrize(
    ("port", "state", "more", "level", "found"),
    [
        (NO_PORT, "absent", {"path": None}, WARN, "no virtio-serial controller"),
        (PortFacts(1, 0, ()), "absent", {"path": None}, WARN, "no driver for it"),
        (PortFacts(1, 1, ()), "absent", {"path": None}, WARN, "has no port"),
        (PortFacts(1, 1, ("org.x.0",)), "absent", {"path": None}, WARN, "there are: org.x.0"),
        (NO_PORT, "absent", HVC, WARN, "/dev/hvc1 does not exist"),
        (
            *(DEVICE, "forbidden", {"error": "Permission denied"}, FAIL),
            "Permission denied (crw------- uid 0 gid 0; the agent is uid 0)",
        ),
        (
            *(DEVICE._replace(holders=("socat (pid 9)",)), "busy", {}, FAIL),
            "/dev/vport1p1 is held open by socat (pid 9)",
        ),
        (FILE, "absent", {"error": "No such device"}, FAIL, "(a file, -rw-r--r--)"),
        (DEVICE, "open, host connected", {"requests": 3}, OK, "3 requests, last 12 s ago, lease f"),
        (DEVICE, "open, host connected", {"requests": 3, "errors": 9}, WARN, "9 lines refused"),
        (NO_PORT, "off", {}, OK, "none configured"),
    ],
)
def test_hint_port_names_the_first_broken_link_of_the_chain(
    port: PortFacts, state: str, more: dict[str, Any], level: Level, found: str
) -> None:
    view = world.hint_port(state, **{"requests": 0, **more})
    findings = run.examine(facts(status={"hint_port": view}, port=port))
    (finding,) = [each for each in findings if each.check == "hint port"]
    assert finding.level is level
    assert found in finding.found


@pytest.mark.parametrize(("uptime", "level"), [(119.0, OK), (121.0, WARN)])
def test_hint_port_without_any_request_is_a_warning_after_two_minutes(
    uptime: float, level: Level
) -> None:
    view = world.hint_port(requests=0, seconds_since_last=None)
    findings = run.examine(facts(status={"hint_port": view, "uptime": uptime}))
    (finding,) = [each for each in findings if each.check == "hint port"]
    assert finding.level is level


# -- sysctls ----------------------------------------------------------------------------


def sysctl_findings(**interfaces: Interface) -> list[Finding]:
    links = [link(name, address("192.0.2.10", "arp-request")) for name in interfaces]
    findings = run.examine(facts(links=links, interfaces=interfaces))
    return [each for each in findings if each.check.startswith("sysctl")]


@pytest.mark.parametrize(
    ("key", "value", "level", "found"),
    [
        ("ipv4/arp_ignore", 8, WARN, "answers no ARP request"),
        ("ipv4/drop_gratuitous_arp", 1, WARN, "drop_gratuitous_arp is 1"),
        ("ipv6/drop_unsolicited_na", 1, WARN, "drop_unsolicited_na is 1"),
        ("ipv4/arp_notify", 1, OK, "announces once too"),
        ("ipv6/ndisc_notify", 1, OK, "announces once too"),
        ("ipv6/forwarding", 1, OK, "router flag"),
        ("ipv4/arp_notify", 0, OK, "no sysctl interferes"),
    ],
)
def test_sysctl_that_interferes_is_a_warning(
    key: str, value: int, level: Level, found: str
) -> None:
    (finding,) = sysctl_findings(eth0=Interface(MAC, {}, {key: value}))
    assert finding.level is level
    assert found in finding.found


def test_sysctl_two_links_in_one_network_are_a_warning() -> None:
    one = Interface(MAC, {"192.0.2.10": "255.255.255.0"}, {})
    two = Interface(OTHER_MAC, {"192.0.2.11": "255.255.255.0"}, {"ipv4/rp_filter": 1})
    flux, filtered = [each for each in sysctl_findings(eth0=one, eth1=two) if each.level is WARN]
    assert "all are in 192.0.2.0/24, and eth0, eth1 would answer" in flux.found
    assert "strict rp_filter on eth1" in filtered.found


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        ("255.255.255.0", {"ipv4/arp_ignore": 1, "ipv4/rp_filter": 2}),
        ("255.255.255.255", {}),
        ("255.255.255.254", {}),
    ],
)
def test_sysctl_two_links_that_do_not_interfere_are_good(mask: str, values: dict[str, int]) -> None:
    one = Interface(MAC, {"192.0.2.10": mask}, values)
    two = Interface(OTHER_MAC, {"192.0.2.11": mask}, values)
    assert {each.level for each in sysctl_findings(eth0=one, eth1=two)} == {OK}
