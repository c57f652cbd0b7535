"""A real Xen host: hints through a channel of its PV guest. One boot serves all tests."""

from __future__ import annotations

import re

import pytest

from tests.vm.agent import Agent
from tests.vm.cache import ROOT
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, HintWatcher
from tests.vm.xen import CHANNEL, GUEST, XenTestbed

pytestmark = pytest.mark.netns
TESTBED = XenTestbed  # of the fixtures
RULES = ROOT / "contrib/udev/80-garp-agent.rules"
# What a watcher leaves in the ring of a guest without agent: with these the ring is full.
STALE = """
import socket
client = socket.socket(socket.AF_UNIX)
client.connect(path)
line = '{"execute": "lease", "arguments": {"seconds": 90}, "id": "old-%d"}\\n'
client.sendall("".join(line % number for number in range(20)).encode())
client.close()
"""


def test_channel_is_found_by_the_udev_rule_in_the_guest(testbed: XenTestbed) -> None:
    rule = next(
        line for line in RULES.read_text().splitlines() if "hvc" in line and "PROGRAM" in line
    )
    command = re.search("PROGRAM==\"/bin/sh -c '(.*?)'\"", rule)
    assert command is not None
    script = command[1].replace('\\"', '"')
    assert testbed.guest.shell(script.replace("%n", "1")) == HINT_PORT
    assert testbed.guest.shell(script.replace("%n", "2")) == "ENOENT\0"


def test_hint_through_a_channel_repairs_a_failover_but_an_old_one_does_nothing(
    testbed: XenTestbed,
) -> None:
    testbed.hypervisor.python(STALE, path=CHANNEL)
    with Agent(testbed.guest) as agent:
        port = agent.wait_for_port("open")["hint_port"]
        assert (port["path"], port["requests"]) == ("/dev/hvc1", 0)
        with HintWatcher(testbed.hypervisor) as watcher:
            assert watcher.status()["guests"][0]["guest"] == GUEST
            agent.wait_until(lambda status: status["lease"], "the lease")
            before = agent.sent("hint")
            testbed.fail_over()
            testbed.wait_until_reached()
            wait_for(lambda: watcher.status()["history"][-1]["answered"] == 1, "the answer")
            assert agent.sent("hint") > before
        agent.wait_until(lambda status: status["lease"] is None, "the lease revoked")


def test_guest_without_agent_is_announced_by_its_cards(testbed: XenTestbed) -> None:
    with HintWatcher(testbed.hypervisor, "--announce-self", timeout="0.2") as watcher:
        wait_for(lambda: watcher.status()["guests"][0]["way"] == "announce-self", "its way")
        testbed.fail_over()
        testbed.wait_until_reached()
        wait_for(lambda: watcher.status()["history"][-1]["announced_self"] == 1, "the rewriting")


@pytest.mark.by_command
def test_channel_is_opened_again_after_each_restore(testbed: XenTestbed) -> None:
    send = (*GARP_HINT, "send", GUEST)
    with Agent(testbed.guest) as agent:
        agent.wait_for_port("open")
        for requests in (1, 2):  # the second restore finds the port open for a short time
            testbed.xl("save", GUEST, "/tmp/saved")
            testbed.xl("restore", "/tmp/saved")
            wait_for(lambda: testbed.hypervisor.run(*send).returncode == 0, "a hint")
            port = agent.wait_for_port("open")["hint_port"]
            assert (port["path"], port["requests"]) == ("/dev/hvc1", requests)
