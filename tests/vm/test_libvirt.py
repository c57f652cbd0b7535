"""``garp-hint`` and a guest of a real libvirtd, with the channel as it is documented."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.agent import Agent
from tests.vm.libvirt import LibvirtMachine
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT

NAME = "a-guest-with-a-name-of-more-than-twenty-characters"  # cut by libvirt in the socket's path
NEW_NAME = "renamed"
CONFIGURE = """
. /modules/dummy.load
ip link add net0 type dummy
ip link set net0 arp on up
ip addr add 192.0.2.1/24 dev net0
"""
PATIENT = ("--timeout", "60")  # a guest on a busy machine may take longer than the default
REQUEST_BURST = """
from garp_agent.runtime import client
client.ask("/run/garp-hint/status.sock", "burst")
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[LibvirtMachine]:
    """libvirtd with a guest that is defined and does not run."""
    if os.geteuid():
        pytest.skip("libvirtd needs root")
    with LibvirtMachine() as machine:
        machine.define(NAME)
        yield machine


def listed(guest: LibvirtMachine) -> dict[str, str]:
    """What ``garp-hint list`` says: the state of each guest by its name."""
    done = guest.run_outside(*GARP_HINT, "list", "--json", *PATIENT)
    return {guest["guest"]: guest["state"] for guest in json.loads(done.stdout)}


def answering(guest: LibvirtMachine) -> Any:
    """The watcher's guests that answer; None before the watcher does."""
    done = guest.run_outside(*GARP_HINT, "status", "--json")
    if done.returncode:
        return None
    found = json.loads(done.stdout)["guests"]
    return [guest["guest"] for guest in found if guest["state"] == "answered"]


def test_guest_is_listed_and_hinted_by_its_full_name_while_it_runs(guest: LibvirtMachine) -> None:
    assert listed(guest) == {}
    assert guest.run_outside(*GARP_HINT, "send", "--all").returncode == 3
    with guest.started(NAME):
        guest.shell(CONFIGURE)
        with Agent(guest) as agent:
            assert listed(guest) == {NAME: "answered"}
            done = guest.run_outside(*GARP_HINT, "send", NAME, *PATIENT)
            assert done.returncode == 0, (done.stdout, done.stderr)
            assert agent.sent("hint") >= 1  # the first round comes before the reply
    assert listed(guest) == {}


def history(guest: LibvirtMachine) -> Any:
    """The watcher's failovers; None before it has found the guest's monitor."""
    done = guest.run_outside(*GARP_HINT, "status", "--json")
    if done.returncode or not json.loads(done.stdout)["monitors"]:
        return None
    return json.loads(done.stdout)["history"]


def test_guest_without_an_agent_is_announced_by_qemu_through_libvirt(guest: LibvirtMachine) -> None:
    """libvirt notes who has passed a command to the monitor of a guest."""
    watch = (*GARP_HINT, "watch", "--announce-self", "--connect", "qemu:///system")
    with guest.paused(NAME):
        guest.spawn_outside(*watch, "--discover", "0.2", *PATIENT)
        wait_for(lambda: history(guest) == [], "the guest's monitor")
        assert guest.run_outside("python3", "-c", REQUEST_BURST).returncode == 0
        wait_for(
            lambda: [each["announced_self"] for each in history(guest) or ()] == [1],
            "the announcement",
        )
        log = f"/var/log/libvirt/qemu/{NAME}.log"
        wait_for(lambda: "custom-monitor" in guest.read(log), "the command at libvirt")
        assert "monitor-failed" not in guest.read("/run/background.log")
        pid = json.loads(guest.run_outside(*GARP_HINT, "status", "--json").stdout)["pid"]
        guest.run_outside("sh", "-c", f"kill {pid}")
        wait_for(lambda: history(guest) is None, "the end of the watcher")


def test_watcher_follows_a_renamed_guest_through_save_and_restore(guest: LibvirtMachine) -> None:
    guest.virsh("domrename", NAME, NEW_NAME)
    with guest.started(NEW_NAME):
        guest.shell(CONFIGURE)
        agent = Agent(guest)
        guest.spawn_outside(*GARP_HINT, "watch", "--discover", "0.2", *PATIENT)
        for restored in (False, True):
            if restored:
                guest.virsh("save", NEW_NAME, "/tmp/saved")
                guest.disconnect()
                wait_for(lambda: answering(guest) == [], "the guest gone")
                guest.virsh("restore", "/tmp/saved")
            wait_for(lambda: answering(guest) == [NEW_NAME], "the guest")
            agent.wait_until_settled()
            before = agent.sent("hint")
            assert guest.run_outside("python3", "-c", REQUEST_BURST).returncode == 0
            wait_for(lambda last=before: agent.sent("hint") > last, "a hint")
