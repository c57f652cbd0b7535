"""A real Xen host with libvirtd, whose dom0 runs systemd: channels, and the unit of the watcher.

One host serves all tests. `make test-xen` runs them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.vm.agent import Agent
from tests.vm.cache import ROOT
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, HintWatcher
from tests.vm.xen import hint_repairs_a_failover
from tests.vm.xen_daemons import CHANNEL, NAME, VIRSH, LibvirtXenTestbed

pytestmark = [pytest.mark.netns, pytest.mark.by_command]
TESTBED = LibvirtXenTestbed
FOLDER = "/var/lib/libvirt/libxl/channel/target"  # libvirt's own
ELSEWHERE = "/run/garp/first.sock"  # a path that only xenstore connects with the guest
ELSEWHERE_CHANNEL = CHANNEL.replace("<target", f"<source mode='bind' path='{ELSEWHERE}'/><target")
PATIENT = ("--timeout", "60")  # a guest on a busy machine may take longer than the default
UNIT = ROOT / "contrib/systemd/garp-hint.service"
PAGE = ROOT / "docs/install/xen.md"
# Mode and group of the channel's terminal; the links of the rule, and what they point to.
TERMINAL = """
import os
seen, links = os.stat("/dev/hvc1"), "/dev/xen-channels"
names = os.listdir(links) if os.path.isdir(links) else []
targets = [os.path.realpath(f"{links}/{name}") for name in names]
result = [f"{seen.st_mode:#o} {seen.st_gid}", *names, *targets]
"""
DROP_IN = "/etc/systemd/system/garp-hint.service.d/override.conf"


def test_hint_through_a_channel_of_libvirt_repairs_a_failover(testbed: LibvirtXenTestbed) -> None:
    with Agent(testbed.guest) as agent:
        assert agent.wait_for_port("open")["hint_port"]["path"] == "/dev/hvc1"
        with HintWatcher(testbed.hypervisor) as watcher:
            (guest,) = watcher.status()["guests"]
            assert (guest["guest"], guest["path"]) == (NAME, f"{FOLDER}/{NAME}-{HINT_PORT}")
            hint_repairs_a_failover(testbed, agent, watcher)


def test_udev_rule_in_the_guest_gives_the_terminal_to_the_group_and_links_its_name(
    testbed: LibvirtXenTestbed,
) -> None:
    assert testbed.guest.python(TERMINAL)[0] == "0o20600 0"
    testbed.guest.shell("systemd-udevd --daemon")
    commands = re.search(r"```sh\n(udevadm .*?)```", PAGE.read_text(), re.DOTALL)
    assert commands is not None
    testbed.guest.shell(commands[1] + "udevadm settle")
    assert testbed.guest.python(TERMINAL) == ["0o20660 900", HINT_PORT, "/dev/hvc1"]


def test_channel_of_libvirt_is_opened_again_after_a_restore(testbed: LibvirtXenTestbed) -> None:
    send = (*GARP_HINT, "send", NAME)
    with Agent(testbed.guest) as agent:
        agent.wait_for_port("open")
        testbed.virsh("save", NAME, "/tmp/saved")
        testbed.virsh("restore", "/tmp/saved")
        wait_for(lambda: testbed.hypervisor.run(*send).returncode == 0, "a hint")
        assert agent.wait_for_port("open")["hint_port"]["requests"] == 1


def test_attach_adds_a_channel_for_the_next_start(testbed: LibvirtXenTestbed) -> None:
    testbed.replace_domain(channel="")
    attach = (*GARP_HINT, "attach", "--connect", VIRSH[-1], NAME)
    done = testbed.hypervisor.run(*attach)
    assert done.returncode == 0, done
    assert f"{NAME}: added to the configuration\n" in done.stdout
    assert "has no channel until it is started anew" in done.stdout
    testbed.restart_domain()
    with Agent(testbed.guest) as agent:
        agent.wait_for_port("open")
        assert testbed.hypervisor.run(*GARP_HINT, "send", NAME, *PATIENT).returncode == 0


def test_state_of_a_card_written_by_hand_announces_the_guest(testbed: LibvirtXenTestbed) -> None:
    (command,) = re.findall("^xenstore-write .*$", PAGE.read_text(), re.M)
    testbed.fail_over()
    number = testbed.virsh("domid", NAME).strip()
    testbed.hypervisor.shell(command.replace("/vif/1/", f"/vif/{number}/"))
    testbed.wait_until_reached()


def test_unit_in_dom0_needs_its_drop_in_for_xenstore(testbed: LibvirtXenTestbed) -> None:
    (drop_in,) = re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.S)
    channels_only = "".join(drop_in.splitlines(keepends=True)[:-2])
    host = testbed.hypervisor
    host.write("/etc/systemd/system/garp-hint.service", UNIT.read_text())
    assert _restart(testbed)["guests"][0]["guest"] == NAME  # by the form of libvirt's path
    testbed.replace_domain(ELSEWHERE_CHANNEL)
    assert _restart(testbed)["guests"] == []
    assert _restart(testbed, channels_only)["guests"][0]["guest"] == NAME
    _restart(testbed, drop_in)
    wait_for(lambda: _status(testbed)["guests"][0]["way"] == "announce-self", "its way")
    testbed.fail_over()
    testbed.wait_until_reached()
    wait_for(lambda: _status(testbed)["history"][-1]["announced_self"] == 1, "the rewriting")
    host.check("systemctl", "stop", "garp-hint")


def _restart(testbed: LibvirtXenTestbed, drop_in: str = "") -> Any:
    """Start the unit anew, with this drop-in; return what the watcher says then."""
    testbed.hypervisor.shell(f"busybox mkdir -p {DROP_IN.rpartition('/')[0]}")
    testbed.hypervisor.write(DROP_IN, drop_in)
    testbed.hypervisor.check("systemctl", "daemon-reload")
    testbed.hypervisor.check("systemctl", "restart", "garp-hint")
    return _status(testbed)


def _status(testbed: LibvirtXenTestbed) -> Any:
    return json.loads(testbed.hypervisor.check(*GARP_HINT, "status", "--json"))
