"""Every finding: the facts that call for it, what is said, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.diagnosis.doctor import checks
from garp_agent.diagnosis.doctor.checks import Finding, Level
from garp_agent.diagnosis.doctor.facts import (
    Claimants,
    Configuration,
    Daemon,
    Facts,
    Interface,
    Kernel,
    Port,
    Process,
    Wire,
)
from tests.diagnosis import world
from tests.diagnosis.world import ADVERTISEMENT, MAC, OTHER_MAC, REQUEST, address, facts, link


def only(given: Facts) -> Finding:
    """The one finding that is not good."""
    (finding,) = world.bad(checks.examine(given))
    return finding


def test_a_healthy_guest_has_nothing_but_good_findings() -> None:
    findings = checks.examine(facts())
    assert [each for each in findings if each.level is not Level.OK] == []
    assert {each.check for each in findings} == {
        "daemon",
        "configuration",
        "kernel",
        "capability",
        "addresses eth0",
        "addresses lo",
        "wire eth0",
        "timers",
        "losses",
        "conflicts",
        "claimants",
        "hint port",
        "sysctl eth0",
    }
    assert not checks.failed(findings)


class TestDaemon:
    def test_not_running_fails_and_what_needs_it_is_not_checked(self) -> None:
        gone = Daemon("/run/c.sock", error="/run/c.sock: no garp-agent answers there")
        given = facts(
            daemon=gone, later=gone, process=None, wire=Wire(skipped="no agent is running")
        )
        failure, *rest = world.bad(checks.examine(given))
        assert (failure.check, failure.level) == ("daemon", Level.FAIL)
        assert "systemctl start garp-agent" in failure.advice
        assert [(each.check, each.level) for each in rest] == [
            ("wire", Level.SKIP),
            ("hint port", Level.SKIP),
        ]
        assert rest[1].found == f"not checked: {gone.error}"

    def test_its_policy_says_what_would_be_announced(self) -> None:
        gone = Daemon("/run/c.sock", error="not there")
        found = [each.found for each in checks.addresses(facts(daemon=gone))]
        assert "to be announced: 192.0.2.10, 2001:db8::10" in found

    def test_no_permission_to_ask_asks_for_root(self) -> None:
        refused = Daemon("/run/c.sock", error="/run/c.sock: permission denied; run as root")
        (finding,) = checks.daemon(facts(daemon=refused))
        assert (finding.level, finding.advice) == (Level.FAIL, "run doctor as root")

    def test_a_slow_answer_is_worth_a_warning(self) -> None:
        slow = facts().daemon._replace(took=0.9)
        finding = only(facts(daemon=slow, later=facts().later._replace(asked_at=53.9)))
        assert (finding.check, finding.level) == ("daemon", Level.WARN)
        assert "took 0.9 s" in finding.found

    def test_a_daemon_without_the_capability_fails(self) -> None:
        finding = only(facts(process=Process("S", 990, (990,), 0)))
        assert (finding.check, finding.level) == ("capability", Level.FAIL)
        assert "uid 990" in finding.found
        assert "AmbientCapabilities=CAP_NET_RAW" in finding.advice

    @pytest.mark.parametrize("capability", [12, 14])
    def test_another_capability_is_not_it(self, capability: int) -> None:
        process = Process("S", 990, (990,), 1 << capability)
        assert only(facts(process=process)).level is Level.FAIL

    def test_a_process_in_another_namespace_cannot_be_judged(self) -> None:
        assert only(facts(process=None)).level is Level.SKIP

    def test_every_problem_of_the_configuration_is_told(self) -> None:
        finding = only(facts(configuration=Configuration("/etc/c.yaml", ("c:1: one", "c:2: two"))))
        assert (finding.check, finding.level) == ("configuration", Level.FAIL)
        assert finding.found == "c:1: one; c:2: two"


class TestKernel:
    def test_no_packet_sockets(self) -> None:
        finding = only(facts(kernel=Kernel("6.1", "Address family not supported by protocol")))
        assert (finding.check, finding.level) == ("kernel", Level.FAIL)

    @pytest.mark.parametrize(
        ("release", "level"),
        [
            ("3.10.0-1160.el7.x86_64", Level.WARN),
            ("4.12.14", Level.WARN),
            ("4.13.0", Level.OK),
            ("4.19-rc1", Level.OK),
            ("10.0", Level.OK),
        ],
    )
    def test_one_that_says_nothing_of_notify_peers(self, release: str, level: Level) -> None:
        (finding,) = checks.kernel(facts(kernel=Kernel(release)))
        assert finding.level is level


class TestTimers:
    def silent(self, *ages: float | None, **more: Any) -> list[Finding]:
        addresses = [
            address(f"192.0.2.{n}", "arp-request", seconds_since_last=age, **more)
            for n, age in enumerate(ages)
        ]
        return list(checks.timers(facts(status={"links": [link("eth0", *addresses)]})))

    @pytest.mark.parametrize(
        ("ages", "level"),
        [
            ((8.4,), Level.OK),  # 5 s, half as much again, and one
            ((8.6,), Level.FAIL),
            ((90.0, 1.0), Level.OK),  # a tick goes round the addresses
            ((None,), Level.FAIL),
            ((None, 2.0), Level.OK),
        ],
    )
    def test_a_refresh_that_did_not_come(self, ages: tuple[Any, ...], level: Level) -> None:
        (finding,) = self.silent(*ages)
        assert finding.level is level

    def test_what_it_says_then(self) -> None:
        (finding,) = self.silent(42.0)
        assert finding.found == "nothing went out on eth0 for 42 s, with a refresh every 5 s"

    def test_withheld_addresses_are_not_waited_for(self) -> None:
        (finding,) = self.silent(42.0, conflict={"withheld": True})
        assert finding.level is Level.OK

    def test_a_restart_while_it_was_looked_at(self) -> None:
        later = facts().later
        restarted = {**world.status(), "pid": 78, "uptime": 0.5}
        finding = only(facts(later=later._replace(status=restarted)))
        assert (finding.check, finding.level) == ("timers", Level.FAIL)

    def test_a_clock_that_stood_still(self) -> None:
        stood = {**world.status(), "uptime": 1000.1}
        finding = only(facts(later=facts().later._replace(status=stood)))
        assert finding.found == "in 3.0 s of ours the agent's clock went 0.1 s"

    def test_an_end_while_it_was_looked_at(self) -> None:
        (finding,) = checks.timers(facts(later=Daemon("/run/c.sock", error="gone")))
        assert finding.level is Level.FAIL

    def test_a_suspended_machine_is_mentioned(self) -> None:
        (finding,) = checks.timers(facts(status={"resumes": 2}))
        assert finding == checks.ok(
            "timers", "refresh every 5 s, the next in 2.0 s, resumed 2 times"
        )


class TestLosses:
    @pytest.mark.parametrize(("dropped", "level"), [(5, Level.OK), (6, Level.WARN)])
    def test_dropped_frames_beyond_one_in_a_hundred(self, dropped: int, level: Level) -> None:
        frames = {"sent": 500, "dropped": {"ENETDOWN": dropped}, "by_cause": {}}
        (finding,) = checks.losses(facts(status={"frames": frames}))
        assert finding.level is level
        assert f"{dropped} ENETDOWN" in finding.found

    def test_lost_kernel_events(self) -> None:
        finding = only(facts(status={"overruns": 3}))
        assert (finding.check, finding.level) == ("losses", Level.WARN)
        assert "3 times" in finding.found


class TestAddresses:
    def test_one_that_the_agent_does_not_know(self) -> None:
        seen = Interface(MAC, {**facts().interfaces["eth0"].addresses, "192.0.2.99": ""}, {})
        finding = only(facts(interfaces={**facts().interfaces, "eth0": seen}))
        assert (finding.check, finding.level) == ("addresses eth0", Level.FAIL)
        assert finding.found == "the agent does not know 192.0.2.99, which netifaces sees"

    def test_one_in_duplicate_address_detection_is_not_told_to_anybody_yet(self) -> None:
        known = {**facts().interfaces["eth0"].addresses, "2001:db8::99": ""}
        seen = Interface(MAC, known, {}, tentative=("2001:db8::99",))
        given = facts(interfaces={**facts().interfaces, "eth0": seen})
        assert world.bad(checks.examine(given)) == []

    def test_one_that_is_gone(self) -> None:
        seen = Interface(MAC, {"2001:db8::10": ""}, {})
        finding = only(facts(interfaces={**facts().interfaces, "eth0": seen}))
        assert finding.level is Level.FAIL
        assert finding.found == "the agent believes in 192.0.2.10, which netifaces does not see"

    def test_another_hardware_address(self) -> None:
        seen = facts().interfaces["eth0"]._replace(hardware_address=OTHER_MAC)
        finding = only(facts(interfaces={**facts().interfaces, "eth0": seen}))
        assert finding.level is Level.FAIL
        assert OTHER_MAC in finding.found

    def test_an_interface_that_the_agent_does_not_know_at_all(self) -> None:
        strange = {**facts().interfaces, "eth7": Interface(MAC, {"192.0.2.7": ""}, {})}
        assert only(facts(interfaces=strange)).check == "addresses eth7"

    def test_an_interface_without_an_address_is_not_worth_a_line(self) -> None:
        bare = {**facts().interfaces, "eth7": Interface(MAC, {}, {})}
        given = facts(interfaces=bare, links=[*world.links(), link("eth7", skipped="down")])
        assert world.bad(checks.examine(given)) == []
        assert not any("eth7" in each.check for each in checks.examine(given))

    @pytest.mark.parametrize(
        ("reason", "advice"),
        [("down", "ip link set eth0 up"), ("duplicate address detection failed", "192.0.2.10")],
    )
    def test_a_reason_to_worry(self, reason: str, advice: str) -> None:
        spoilt = [link("eth0", address("192.0.2.10", skipped=reason))]
        (finding,) = world.bad(list(checks.addresses(facts(links=spoilt, interfaces={
            "eth0": Interface(MAC, {"192.0.2.10": ""}, {})
        }))))  # fmt: skip
        assert finding.level is Level.WARN
        assert advice in finding.advice

    def test_every_trouble_is_a_reason_that_policy_can_give(self) -> None:
        from garp_agent.guest.core.policy import Skip

        assert checks.TROUBLES.keys() <= {each.value for each in Skip}

    def test_skipped_on_purpose_is_good_and_says_why(self) -> None:
        found = [each.found for each in checks.addresses(facts())]
        assert "skipped (loopback): 127.0.0.1" in found


class TestWire:
    def spoilt(self, *seen: Any, **more: Any) -> Facts:
        wire = facts().wire._replace(seen=tuple(("eth0", each) for each in seen), **more)
        return facts(wire=wire)

    def test_a_frame_that_was_not_seen(self) -> None:
        finding = only(self.spoilt(ADVERTISEMENT))
        assert (finding.check, finding.level) == ("wire eth0", Level.FAIL)
        assert finding.found.startswith("arp-request of 192.0.2.10 was not seen on the link")
        assert "tc" in finding.advice

    def test_one_seen_on_another_link(self) -> None:
        wire = facts().wire._replace(seen=(("eth1", REQUEST), ("eth0", ADVERTISEMENT)))
        assert only(facts(wire=wire)).level is Level.FAIL

    def test_one_that_another_machine_sent(self) -> None:
        foreign = REQUEST._replace(source=OTHER_MAC, hardware_address=OTHER_MAC)
        assert "was not seen" in only(self.spoilt(foreign, ADVERTISEMENT)).found
        # Nor does it spoil ours.
        assert world.bad(checks.examine(self.spoilt(foreign, REQUEST, ADVERTISEMENT))) == []

    def test_what_the_bucket_holds_is_a_warning(self) -> None:
        finding = only(self.spoilt(ADVERTISEMENT, paced=True, waited=20.0))
        assert finding.level is Level.WARN

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"hardware_address": OTHER_MAC}, f"hardware address is {OTHER_MAC}"),
            ({"destination": OTHER_MAC}, f"Ethernet destination is {OTHER_MAC}"),
            ({"target_hardware_address": MAC}, f"target hardware address is {MAC}"),
            ({"length": 42}, "42 bytes, 60 are the least"),
            ({"faults": ("odd",)}, "odd"),
        ],
    )
    def test_a_wrong_arp_frame(self, change: dict[str, Any], said: str) -> None:
        finding = only(self.spoilt(REQUEST._replace(**change), ADVERTISEMENT))
        assert finding.level is Level.FAIL
        assert said in finding.found

    def test_a_reply_names_its_sender_as_target(self) -> None:
        promise = facts().wire.promised[0]._replace(kind="arp-reply")
        reply = REQUEST._replace(kind="arp-reply")
        assert checks.deviations(promise, reply, False)
        right = reply._replace(target_hardware_address=MAC)
        assert checks.deviations(promise, right, False) == []

    @pytest.mark.parametrize(("forwards", "flag"), [(0, True), (1, False)])
    def test_a_router_flag_that_is_not_the_interfaces(self, forwards: int, flag: bool) -> None:
        well = facts().interfaces
        routing = well["eth0"]._replace(sysctls={"ipv6/forwarding": forwards})
        given = self.spoilt(REQUEST, ADVERTISEMENT._replace(router=flag))
        finding = only(given._replace(interfaces={**well, "eth0": routing}))
        assert f"router flag is {flag}" in finding.found

    def test_a_link_that_nobody_can_listen_on(self) -> None:
        finding = only(facts(wire=facts().wire._replace(deaf=(("eth9", "no such device"),))))
        assert (finding.check, finding.level) == ("wire eth9", Level.SKIP)

    def test_nothing_could_be_looked_at(self) -> None:
        finding = only(facts(wire=Wire(error="Operation not permitted")))
        assert (finding.check, finding.level) == ("wire", Level.FAIL)


class TestClaimants:
    def test_somebody_answers(self) -> None:
        asked = facts().claimants
        answered = asked._replace(answers=(("eth0", "192.0.2.10", OTHER_MAC),))
        finding = only(facts(claimants=answered))
        assert (finding.check, finding.level) == ("claimants eth0", Level.FAIL)
        assert finding.found == f"{OTHER_MAC} has 192.0.2.10 too"

    def test_not_everybody_could_be_asked(self) -> None:
        spoilt = Claimants(errors=("eth0: Network is down",))
        assert only(facts(claimants=spoilt)).level is Level.WARN

    @pytest.mark.parametrize(("withheld", "level"), [(True, Level.FAIL), (False, Level.WARN)])
    def test_what_the_agent_heard(self, withheld: bool, level: Level) -> None:
        rival = {"claimed_by": OTHER_MAC, "claims": 4, "seconds_ago": 9.0, "withheld": withheld}
        contested = link("eth0", address("192.0.2.10", "arp-probe", conflict=rival))
        (finding,) = checks.conflicts(facts(status={"links": [contested]}))
        assert finding.level is level
        assert f"claimed by {OTHER_MAC} 4 times, last 9.0 s ago" in finding.found


class TestHintPort:
    """Driver -> port -> name -> permission -> busy -> host connected -> last hint."""

    def finding(self, seen: dict[str, Any], port: Port | None = None, **status: Any) -> Finding:
        (found,) = checks.hint_port(
            facts(status={"hint_port": seen, **status}, port=port or Port(0, 0, ()))
        )
        return found

    @pytest.mark.parametrize(
        ("port", "said"),
        [
            (Port(0, 0, ()), "no virtio-serial controller"),
            (Port(1, 0, ()), "no driver has taken it"),
            (Port(1, 1, ()), "has no port"),
            (Port(1, 1, ("org.qemu.guest_agent.0",)), "there are: org.qemu.guest_agent.0"),
        ],
    )
    def test_absent_names_the_first_broken_link(self, port: Port, said: str) -> None:
        finding = self.finding(world.hint_port("absent", path=None, requests=0), port)
        assert finding.level is Level.WARN
        assert said in finding.found

    def test_a_path_that_is_not_there(self) -> None:
        seen = world.hint_port("absent", name="/dev/hvc1", path="/dev/hvc1", requests=0)
        assert self.finding(seen).found == "/dev/hvc1 does not exist"

    def test_forbidden(self) -> None:
        port = Port(1, 1, ("org.garp_agent.0",), "character device", "crw-------", (0, 0))
        seen = world.hint_port("forbidden", error="Permission denied", requests=0)
        finding = self.finding(seen, port)
        assert finding.level is Level.FAIL
        assert "crw------- uid 0 gid 0; the agent is uid 0" in finding.found
        assert "udev" in finding.advice

    def test_busy(self) -> None:
        port = Port(1, 1, (), "character device", "crw-------", (0, 0), ("socat (pid 9)",))
        finding = self.finding(world.hint_port("busy", requests=0), port)
        assert finding.level is Level.FAIL
        assert finding.found == "/dev/vport1p1 is held open by socat (pid 9)"

    def test_something_else_under_that_name(self) -> None:
        port = Port(0, 0, (), "file", "-rw-r--r--", (0, 0))
        finding = self.finding(world.hint_port("absent", error="No such device", requests=0), port)
        assert finding.level is Level.FAIL
        assert "(a file, -rw-r--r--)" in finding.found

    def test_open_and_hinted(self) -> None:
        finding = self.finding(world.hint_port())
        assert finding.level is Level.OK
        assert finding.found.endswith("3 requests, last 12 s ago, lease for 80 s more")

    @pytest.mark.parametrize(("uptime", "level"), [(119.0, Level.OK), (121.0, Level.WARN)])
    def test_a_host_that_never_spoke(self, uptime: float, level: Level) -> None:
        seen = world.hint_port(requests=0, seconds_since_last=None)
        assert self.finding(seen, uptime=uptime).level is level

    def test_a_host_that_speaks_something_else(self) -> None:
        assert self.finding(world.hint_port(errors=9)).level is Level.WARN

    def test_off_is_a_choice(self) -> None:
        assert self.finding(world.hint_port("off")).level is Level.OK


class TestSysctls:
    def findings(self, **interfaces: Interface) -> list[Finding]:
        announced = [link(name, address("192.0.2.10", "arp-request")) for name in interfaces]
        return list(checks.sysctls(facts(links=announced, interfaces=interfaces)))

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"ipv4/arp_ignore": 8}, "answers no ARP request"),
            ({"ipv4/drop_gratuitous_arp": 1}, "drop_gratuitous_arp is 1"),
            ({"ipv6/drop_unsolicited_na": 1}, "drop_unsolicited_na is 1"),
        ],
    )
    def test_what_is_in_the_way(self, values: dict[str, int], said: str) -> None:
        (finding,) = self.findings(eth0=Interface(MAC, {}, values))
        assert finding.level is Level.WARN
        assert said in finding.found

    @pytest.mark.parametrize("key", ["ipv4/arp_notify", "ipv6/ndisc_notify", "ipv6/forwarding"])
    def test_what_is_worth_knowing(self, key: str) -> None:
        (finding,) = self.findings(eth0=Interface(MAC, {}, {key: 1}))
        assert finding.level is Level.OK
        assert finding.found != "nothing in the way"

    def test_two_links_in_one_network(self) -> None:
        one = Interface(MAC, {"192.0.2.10": "255.255.255.0"}, {})
        two = Interface(OTHER_MAC, {"192.0.2.11": "255.255.255.0"}, {"ipv4/rp_filter": 1})
        flux, filtered = world.bad(self.findings(eth0=one, eth1=two))
        assert "all are in 192.0.2.0/24, and eth0, eth1 would answer" in flux.found
        assert "strict rp_filter on eth1" in filtered.found

    def test_two_that_keep_to_themselves(self) -> None:
        values = {"ipv4/arp_ignore": 1, "ipv4/rp_filter": 2}
        one = Interface(MAC, {"192.0.2.10": "255.255.255.0"}, values)
        two = Interface(OTHER_MAC, {"192.0.2.11": "255.255.255.0"}, values)
        assert world.bad(self.findings(eth0=one, eth1=two)) == []

    @pytest.mark.parametrize("mask", ["255.255.255.255", "255.255.255.254"])
    def test_networks_of_one_address_are_not_shared(self, mask: str) -> None:
        one = Interface(MAC, {"192.0.2.10": mask}, {})
        assert world.bad(self.findings(eth0=one, eth1=one)) == []
