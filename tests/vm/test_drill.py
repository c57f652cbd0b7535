"""``garp-hint probe`` and ``garp-hint drill`` on a real bond: the fault is seen without a cable."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.vm.agent import Agent
from tests.vm.fabric import GUEST_MAC
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, INTERFACES, OTHER, HintWatcher, Testbed

pytestmark = pytest.mark.netns


def hint(testbed: Testbed, *arguments: str) -> tuple[int, str, str]:
    done = testbed.hypervisor.run(*GARP_HINT, *arguments)
    return done.returncode, done.stdout, done.stderr


def probe(testbed: Testbed) -> tuple[int, dict[str, str]]:
    """Return the exit status, and the verdict on each MAC."""
    status, out, err = hint(testbed, "probe", "--json")
    assert err == ""
    return status, {each["mac"]: each["verdict"] for each in json.loads(out)["targets"]}


def switch(testbed: Testbed, uplink: str) -> None:
    testbed.hypervisor.ip(f"link set bond0 type bond active_slave {INTERFACES[uplink]}")


def drill(testbed: Testbed, *options: str) -> tuple[int, dict[str, Any]]:
    """Run a drill; the bond is back afterwards."""
    before = testbed.active
    status, out, _err = hint(testbed, "drill", "--yes", "--json", *options)
    assert testbed.active == before
    values: dict[str, Any] = json.loads(out)
    return status, values


def outages_of_guest(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        guest
        for direction in values["directions"]
        for guest in direction["guests"]
        if guest["mac"] == GUEST_MAC
    ]


def test_probe_sees_where_the_network_has_a_silent_guest(testbed: Testbed) -> None:
    bridge = testbed.hypervisor.read("/sys/class/net/br0/address").strip()
    assert probe(testbed)[1][GUEST_MAC] == "delivered"
    switch(testbed, OTHER[testbed.active])
    status, verdicts = probe(testbed)
    assert (status, verdicts[GUEST_MAC]) == (1, "lost")
    testbed.guest_sends()
    status, verdicts = probe(testbed)
    assert verdicts[GUEST_MAC] == "delivered"
    assert set(verdicts) == {GUEST_MAC, bridge}


def test_probe_sees_a_standby_port_that_does_not_forward(testbed: Testbed) -> None:
    testbed.fabric.forward(OTHER[testbed.active], False)
    status, verdicts = probe(testbed)
    assert (status, set(verdicts.values())) == (1, {"lost"})
    status, out, err = hint(testbed, "drill", "--yes")
    assert (status, out) == (1, "")
    assert "no drill: 2 of 2 paths do not work" in err


def test_doctor_sees_the_bond_and_the_paths(testbed: Testbed) -> None:
    def doctor(*options: str) -> dict[str, list[tuple[str, str]]]:
        """Return level and text of the findings, by check."""
        told = json.loads(hint(testbed, "doctor", "--json", *options)[1])
        found: dict[str, list[tuple[str, str]]] = {}
        for each in told["findings"]:
            found.setdefault(each["check"], []).append((each["level"], each["found"]))
        return found

    active = INTERFACES[testbed.active]
    described = f"active-backup, miimon 10, ports eth0, eth1, {active} is active"
    with Agent(testbed.guest), HintWatcher(testbed.hypervisor):
        found = doctor()
        assert found["bond bond0"] == [("ok", described)]
        assert found["paths"] == [("ok", "delivered from the standby port: 2 of 2")]
        assert ("ok", "1 guest answers: guest") in found["guests"]
        assert found["watcher"][0][0] == found["capabilities"][0][0] == "ok"
    testbed.hypervisor.ip("link set bond0 type bond miimon 100 all_slaves_active 1")
    testbed.fabric.forward(OTHER[testbed.active], False)
    found = doctor()
    testbed.hypervisor.ip("link set bond0 type bond miimon 10 all_slaves_active 0")
    assert [level for level, _ in found["bond bond0"]] == ["warn", "fail"]
    assert found["bond bond0"][0][1].startswith("miimon is 100: ")
    assert [level for level, _ in found["paths"]] == ["fail"]
    assert "all 2 MACs lost: the switches are not joined" in found["paths"][0][1]
    assert found["watcher"][0][0] == "fail"


def test_drill_shows_the_guest_that_is_announced_and_puts_the_bond_back(testbed: Testbed) -> None:
    with Agent(testbed.guest), HintWatcher(testbed.hypervisor):
        status, values = drill(testbed, "--limit", "30")
    assert status == 0
    assert [guest["seconds"] is not None for guest in outages_of_guest(values)] == [True, True]
    assert values["passed"]


def test_drill_shows_the_guest_that_is_silent(testbed: Testbed) -> None:
    status, values = drill(testbed, "--html", "/tmp/drill.html")
    first, back = outages_of_guest(values)
    assert (status, first["seconds"]) == (1, None)
    assert first["lost"] > 0
    assert back["seconds"] == 0.0  # the network had not noticed that it had been away
    assert "not healed" in testbed.hypervisor.read("/tmp/drill.html")


def test_drill_that_is_interrupted_puts_the_bond_back(testbed: Testbed) -> None:
    before = testbed.active
    process = testbed.hypervisor.spawn(*GARP_HINT, "drill", "--yes", "--count", "100")
    wait_for(lambda: testbed.active != before, "the switch", step=0.02)
    process.signal(signal.SIGINT)
    assert process.wait() == 1
    assert testbed.active == before
    assert "interrupted" in process.output


def test_watcher_hints_when_the_path_forwards_and_verifies(testbed: Testbed) -> None:
    """The bond returns to a port that has carrier, and whose switch port forwards later."""
    late = OTHER[testbed.active]
    with Agent(testbed.guest) as agent, HintWatcher(testbed.hypervisor, "--verify") as watcher:
        agent.wait_until(lambda status: status["lease"], "the lease")
        testbed.cut(late)
        agent.wait_until_settled()
        testbed.mend(late, forwards=False)
        before = agent.sent("hint")
        switch(testbed, late)
        wait_for(lambda: watcher.status()["history"], "the failover", step=0.1)
        assert agent.sent("hint") == before
        testbed.fabric.forward(late, True)
        entry = wait_for(lambda: over(watcher), "all addresses reached", step=0.1)
    assert entry["verified"]["forwards_seconds"] > 0
    assert entry["verified"]["slowest_seconds"] >= entry["verified"]["forwards_seconds"]
    assert (entry["answered"], entry["rounds"]) == (1, 1)


def over(watcher: HintWatcher) -> dict[str, Any]:
    """Return the last failover when the guest has been reached; empty until then."""
    entry: dict[str, Any] = watcher.status()["history"][-1]
    return {} if entry["repeating"] else entry
