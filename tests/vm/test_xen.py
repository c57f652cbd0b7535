"""A real Xen host: hints through a channel of its guest, which xl restores or plugs cards into.

One host serves all tests with a kind of guest. `make test-xen` runs those marked `by_command` too,
and all of them with a PVH guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import WITH_XEN
from tests.vm import fabric
from tests.vm.agent import Agent
from tests.vm.cache import ROOT
from tests.vm.fabric import GUEST_MAC
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, RARP, HintWatcher
from tests.vm.testbed import GUEST as CONFIGURED
from tests.vm.xen import (
    CHANNEL,
    CHANNELS,
    GUEST,
    VIF,
    XenTestbed,
    hint_repairs_a_failover,
)

pytestmark = pytest.mark.netns
KINDS = ("pv", "pvh") if WITH_XEN else ("pv",)
RULES = ROOT / "contrib/udev/80-garp-agent.rules"
# What a watcher leaves in the ring of a guest without agent: with these the ring is nearly full.
STALE = """
import socket
client = socket.socket(socket.AF_UNIX)
client.connect(path)
line = '{"execute": "lease", "arguments": {"seconds": 90}, "id": "old-%d"}\\n'
client.sendall("".join(line % number for number in range(15)).encode())
client.close()
"""


@pytest.fixture(scope="module", params=KINDS)
def shared_testbed(request: pytest.FixtureRequest) -> Iterator[XenTestbed]:
    """One Xen host for each kind of guest."""
    if reason := fabric.missing():
        pytest.skip(reason)
    with XenTestbed() as made:
        if request.param != made.kind:
            made.replace_guest(kind=request.param)
        yield made


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
            hint_repairs_a_failover(testbed, agent, watcher)
        agent.wait_until(lambda status: status["lease"] is None, "the lease revoked")


def test_guest_without_agent_is_announced_by_its_cards(testbed: XenTestbed) -> None:
    with HintWatcher(testbed.hypervisor, "--announce-self", timeout="1") as watcher:
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


@pytest.mark.by_command
def test_card_that_is_plugged_in_again_is_announced_and_gets_hints(testbed: XenTestbed) -> None:
    with Agent(testbed.guest) as agent, HintWatcher(testbed.hypervisor) as watcher:
        testbed.xl("network-detach", GUEST, "0")
        agent.wait_until(lambda status: not _sent(status), "the card gone")
        testbed.xl("network-attach", GUEST, *VIF.split(","))
        testbed.guest.ip(CONFIGURED)
        testbed.guest.python(RARP, interface="eth0", address=GUEST_MAC)
        agent.wait_until(_sent, "its announcements")
        testbed.wait_until_reached()
        agent.wait_until_settled()
        before = agent.sent("hint")
        testbed.fail_over()
        testbed.wait_until_reached()
        wait_for(lambda: watcher.status()["history"][-1]["answered"] == 1, "the answer")
        assert agent.sent("hint") > before


@pytest.mark.by_command
def test_channel_that_xl_has_lost_is_recognised(testbed: XenTestbed) -> None:
    testbed.hypervisor.python("import os; os.makedirs(path)", path=f"/run/garp/{GUEST}")
    path = f"/run/garp/{GUEST}/{HINT_PORT}"  # found by its name: xenstore does not have it
    testbed.replace_guest([f"name={HINT_PORT},connection=socket,path={path}"])
    opened = testbed.guest.run("sh", "-c", ": <>/dev/hvc1")
    assert "No such device" in opened.stderr
    with Agent(testbed.guest) as agent:
        assert agent.status()["hint_port"]["state"] == "absent"
        told = testbed.hypervisor.run(*GARP_HINT, "doctor", "--no-send").stdout
    assert f"xl has lost the channel: {GUEST}: xenstore" in " ".join(told.split())


@pytest.mark.by_command
def test_channel_that_is_a_terminal_in_dom0_is_named_by_doctor(testbed: XenTestbed) -> None:
    testbed.replace_guest([*CHANNELS[:1], f"name={HINT_PORT},connection=pty"])
    told = testbed.hypervisor.run(*GARP_HINT, "doctor", "--no-send").stdout
    assert f"connection=pty is not supported: {GUEST}" in " ".join(told.split())


def _sent(status: dict[str, Any]) -> int:
    """Return how many frames the agent has sent for the addresses of the first card."""
    links = [link for link in status["links"] if link["interface"] == "eth0"]
    return sum(address.get("sent", 0) for link in links for address in link["addresses"])
