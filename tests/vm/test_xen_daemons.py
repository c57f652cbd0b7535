"""A real Xen host with libvirtd, whose dom0 runs systemd: channels, and the unit of the watcher.

One host serves all tests. `make test-xen` runs them.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.agent import Agent
from tests.vm.cache import ROOT
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, HintWatcher
from tests.vm.xen_daemons import NAME, LibvirtXenTestbed

pytestmark = [pytest.mark.netns, pytest.mark.by_command]
TESTBED = LibvirtXenTestbed
FOLDER = "/var/lib/libvirt/libxl/channel/target"  # libvirt's own
UNIT = ROOT / "contrib/systemd/garp-hint.service"


def test_hint_through_a_channel_of_libvirt_repairs_a_failover(testbed: LibvirtXenTestbed) -> None:
    with Agent(testbed.guest) as agent:
        assert agent.wait_for_port("open")["hint_port"]["path"] == "/dev/hvc1"
        with HintWatcher(testbed.hypervisor) as watcher:
            (guest,) = watcher.status()["guests"]
            assert (guest["guest"], guest["path"]) == (NAME, f"{FOLDER}/{NAME}-{HINT_PORT}")
            agent.wait_until(lambda status: status["lease"], "the lease")
            before = agent.sent("hint")
            testbed.fail_over()
            testbed.wait_until_reached()
            wait_for(lambda: watcher.status()["history"][-1]["answered"] == 1, "the answer")
            assert agent.sent("hint") > before


def test_unit_in_dom0_finds_a_channel_of_libvirt(testbed: LibvirtXenTestbed) -> None:
    testbed.hypervisor.write("/etc/systemd/system/garp-hint.service", UNIT.read_text())
    testbed.hypervisor.check("systemctl", "daemon-reload")
    testbed.hypervisor.check("systemctl", "start", "garp-hint")
    status = testbed.hypervisor.check(*GARP_HINT, "status", "--json")
    assert json.loads(status)["guests"][0]["guest"] == NAME
