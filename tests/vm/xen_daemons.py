"""A Xen host with libvirtd in dom0, whose first process is systemd; the guest is libvirt's."""

from __future__ import annotations

import subprocess

from tests.vm.fabric import GUEST_MAC
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.xen import CONTROL_MAC, END_RELAY, PARAMETERS, XenGuest, XenHost, XenTestbed
from tests.vm.xen_daemons_images import daemons, udev
from tests.vm.xen_images import VIF_SCRIPT

NAME = "web-1"  # of the guest: with the dash that also ends the name in libvirt's path
VIRSH = ("virsh", "-c", "xen:///system")
CARD = """
    <interface type='bridge'>
      <mac address='{}'/>
      <source bridge='{}'/>
      <script path='/{}'/>
    </interface>"""
CHANNEL = f"""
    <channel type='unix'>
      <target type='xen' name='{HINT_PORT}'/>
    </channel>"""


def domain(channel: str = CHANNEL) -> str:
    """Return the configuration of the guest, for libvirt.  ``channel``: its XML."""
    cards = CARD.format(GUEST_MAC, "br0", VIF_SCRIPT)
    cards += CARD.format(CONTROL_MAC, "control", VIF_SCRIPT)
    return f"""
<domain type='xen'>
  <name>{NAME}</name>
  <uuid>37431304-2ea3-4829-a626-0c68efc7f9f7</uuid>
  <memory unit='MiB'>200</memory>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>
    <kernel>/guest/vmlinux</kernel>
    <initrd>/guest/initramfs</initrd>
    <cmdline>{PARAMETERS}</cmdline>
  </os>
  <devices>{cards}
    <console type='pty'><target type='xen' port='0'/></console>{channel}
  </devices>
</domain>
"""


class LibvirtXenTestbed(XenTestbed):
    """A Xen host with the bond and libvirtd in dom0, and a guest that libvirt has started."""

    def start(self, miimon: int) -> None:
        parameters = f"{PARAMETERS} rdinit=/systemd_init"
        host = XenHost(
            self.fabric.uplinks, more=[daemons()], guest_more=[udev()], parameters=parameters
        )
        self.hypervisor = self.enter_context(host)
        self.start_xen(miimon)
        self._libvirtd = self.hypervisor.spawn("libvirtd")
        wait_for(self._libvirtd_answers, "libvirtd", step=0.2)
        self._define(CHANNEL)
        self.virsh("start", NAME)
        self.start_relay()
        self.guest = self.enter_context(XenGuest(self.hypervisor, NAME))
        self.configure_guest()

    def replace_domain(self, channel: str) -> None:
        """Start the guest with another channel.  ``channel``: its XML."""
        self._define(channel)
        self.restart_domain()

    def restart_domain(self) -> None:
        """Destroy the guest, and start it with what is defined now."""
        self.hypervisor.python(END_RELAY)
        self.virsh("destroy", NAME)
        self.virsh("start", NAME)
        self.start_relay()
        self.configure_guest()

    def virsh(self, *arguments: str) -> str:
        """Return what a command of virsh prints; it must succeed."""
        done = self._virsh(*arguments)
        assert done.returncode == 0, (arguments, done.stderr, self._libvirtd.output)
        return done.stdout

    def _define(self, channel: str) -> None:
        self.hypervisor.write("/guest/domain.xml", domain(channel))
        self.virsh("define", "/guest/domain.xml")

    def _libvirtd_answers(self) -> bool:
        assert self._libvirtd.running, self._libvirtd.output
        return self._virsh("list").returncode == 0

    def _virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hypervisor.run(*VIRSH, *arguments)
