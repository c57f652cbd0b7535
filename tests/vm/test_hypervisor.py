"""The fault this project is about, on a real bond, and what repairs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.agent import Agent
from tests.vm.fabric import GUEST_MAC
from tests.vm.frames import Announcement, announcement
from tests.vm.receiver import HANG_TIMEOUT, wait_for
from tests.vm.testbed import MONITOR, OTHER, HintWatcher, Testbed

pytestmark = pytest.mark.netns


@pytest.fixture
def agent(testbed: Testbed) -> Iterator[Agent]:
    """An agent whose frames are caused by hints: its first refresh is QUIET seconds away."""
    with Agent(testbed.guest) as started:
        started.wait_until_quiet()
        yield started


@pytest.fixture
def watcher(testbed: Testbed, agent: Agent) -> Iterator[HintWatcher]:
    """``garp-hint watch``, which has found the guest and given it a lease."""
    with HintWatcher(testbed.hypervisor) as started:
        agent.wait_until(lambda status: status["lease"], "the lease")
        yield started
    agent.wait_until(lambda status: status["lease"] is None, "the lease revoked")


def test_silent_guest_is_lost_after_a_failover_until_it_sends(testbed: Testbed) -> None:
    first = testbed.fail_over()
    pings = [testbed.fabric.ping() for _ in range(5)]
    testbed.guest_sends()
    assert testbed.lost(pings) == pings

    testbed.mend(OTHER[first])
    testbed.fail_over()
    pings = [testbed.fabric.ping() for _ in range(5)]
    testbed.guest_sends()
    assert testbed.lost(pings) == pings


def test_refresh_repairs_a_failover(testbed: Testbed) -> None:
    with Agent(testbed.guest, interval="500ms"):
        testbed.fail_over()
        testbed.wait_until_reached()


def test_hint_repairs_a_failover_and_the_way_back(
    testbed: Testbed, agent: Agent, watcher: HintWatcher
) -> None:
    for answered in ([1], [1, 1]):
        agent.wait_until_settled()
        before = agent.sent("hint")
        active = testbed.fail_over()
        testbed.wait_until_reached()
        wait_for(
            lambda wanted=answered: [e["answered"] for e in watcher.status()["history"]] == wanted,
            "the answer",
        )
        assert agent.sent("hint") > before
        testbed.mend(OTHER[active])


def test_hint_waits_for_the_first_uplink_that_is_back(
    testbed: Testbed, agent: Agent, watcher: HintWatcher
) -> None:
    """While both uplinks are gone there is nothing to announce on."""
    other = OTHER[testbed.active]
    testbed.cut("a")
    testbed.cut("b")
    state = "/sys/class/net/bond0/operstate"
    wait_for(lambda: testbed.hypervisor.read(state) == "down\n", "the bond down", step=0.02)
    pings = [testbed.fabric.ping() for _ in range(3)]
    agent.wait_until_settled()
    before = agent.sent("hint")
    testbed.mend(other)  # to the switch that has the guest behind the other one
    testbed.wait_until_reached()
    wait_for(lambda: agent.sent("hint") > before, "a hint")
    assert testbed.lost(pings) == pings


def test_guest_behind_a_switch_port_that_forwards_late_is_hinted_again(
    testbed: Testbed, agent: Agent, watcher: HintWatcher
) -> None:
    """Its carrier comes first: the hint after the failover is lost in the switch (STP)."""

    def answered() -> list[int]:
        return [entry["answered"] for entry in watcher.status()["history"]]

    late = testbed.active
    testbed.fail_over()
    wait_for(lambda: answered() == [1], "the hint")  # a second failover ends its rounds
    testbed.mend(late, forwards=False)
    testbed.fail_over()
    wait_for(lambda: answered() == [1, 1], "the second hint")
    assert agent.status()["lease"] is None
    before = agent.sent("hint")
    pings = [testbed.fabric.ping() for _ in range(3)]
    testbed.fabric.forward(late, True)
    wait_for(lambda: agent.sent("hint") > before, "a repetition")
    assert testbed.lost(pings) == pings


def test_host_bridge_with_stp_is_hinted_when_its_uplink_forwards(
    testbed: Testbed, agent: Agent, watcher: HintWatcher
) -> None:
    """The uplink listens and learns for 2 s each, which is the least."""
    times = "forward_delay 200 max_age 600"
    testbed.hypervisor.ip(f"link set br0 type bridge stp_state 1 {times}")
    try:
        other = OTHER[testbed.active]
        testbed.cut("a")
        testbed.cut("b")
        wait_for(lambda: testbed.port_state == "disabled", "the port disabled")
        testbed.mend(other)
        reason = "br0 is back on bond0"  # seconds after the bond
        wait_for(
            lambda: [each["reason"] for each in watcher.status()["history"]][-1:] == [reason],
            "the hint",
        )
        assert testbed.port_state == "forwarding"
        testbed.wait_until_reached()
    finally:
        # A topology change shortens the ageing time to twice the forward delay.  Linux does not
        # take that back if STP is switched off meanwhile (__br_set_topology_change in br_stp.c).
        # Until the change is over, addresses age after the forward delay (hold_time in br_fdb.c).
        testbed.hypervisor.ip("link set br0 type bridge stp_state 0 ageing_time 30000")
        change = "/sys/class/net/br0/bridge/topology_change"
        wait_for(lambda: testbed.hypervisor.read(change) == "0\n", "the end of the change")


def test_watcher_after_a_crash_repairs_the_failover_that_it_missed(
    testbed: Testbed, agent: Agent, watcher: HintWatcher
) -> None:
    watcher.crash()
    assert agent.status()["lease"]
    before = agent.sent("hint")
    testbed.fail_over()
    with HintWatcher(testbed.hypervisor, "--lease-after", "3600"):
        wait_for(lambda: agent.sent("hint") > before, "the first contact")
        testbed.wait_until_reached()
        assert agent.status()["lease"] is None


def test_guest_without_agent_is_announced_by_announce_self(testbed: Testbed) -> None:
    options = ("--announce-self", "--monitor", MONITOR)
    with HintWatcher(testbed.hypervisor, *options, timeout="5"):
        testbed.fail_over()
        testbed.wait_until_reached()


def test_guest_without_agent_is_announced_by_learning_frames(testbed: Testbed) -> None:
    with HintWatcher(testbed.hypervisor, "--learn", timeout="0.2") as watcher:
        wait_for(lambda: watcher.status()["learning"]["remembered"], "the guest's MAC", step=0.2)
        testbed.fail_over()
        testbed.wait_until_reached()


def test_learning_frames_are_repeated_until_a_switch_port_forwards(testbed: Testbed) -> None:
    """Its carrier comes first: it drops the frames of the first two rounds."""
    late = testbed.active
    testbed.fail_over()
    testbed.guest_sends()
    with HintWatcher(testbed.hypervisor, "--learn", timeout="0.2") as watcher:
        wait_for(lambda: watcher.status()["learning"]["remembered"], "the guest's MAC", step=0.2)
        testbed.mend(late, forwards=False)
        with testbed.fabric.packet_socket(f"switch-{late}", "uplink") as seen:
            seen.settimeout(HANG_TIMEOUT)
            testbed.fail_over()
            for _round in range(2):
                while announcement(seen.recv(2048)) != Announcement("rarp", GUEST_MAC):
                    pass
        pings = [testbed.fabric.ping() for _ in range(3)]
        testbed.fabric.forward(late, True)
        assert testbed.lost(pings) == pings


def test_hosts_own_address_is_announced_by_learning_frames(testbed: Testbed) -> None:
    with testbed.ping_hypervisor():
        testbed.guest_sends()
        testbed.wait_until_reached()
        with HintWatcher(testbed.hypervisor, "--learn", timeout="0.2"):
            testbed.fail_over()
            testbed.wait_until_reached()


def test_agent_that_comes_later_finds_no_lease_in_the_port(testbed: Testbed) -> None:
    """The port keeps what was sent before the agent opened it; a lease there would be stale."""
    with HintWatcher(testbed.hypervisor, timeout="0.2") as watcher:
        wait_for(
            lambda: watcher.status()["guests"][0]["state"] == "no-agent", "its silence", step=0.1
        )
    with Agent(testbed.guest) as agent:
        status = agent.wait_until(
            lambda status: status["hint_port"]["requests"], "the requests in the port"
        )
        assert status["lease"] is None
