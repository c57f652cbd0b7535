"""A Xen host with libvirtd in dom0, whose first process is systemd; the guest is libvirt's."""

from __future__ import annotations

import subprocess

from tests.vm.fabric import GUEST_MAC
from tests.vm.qemu import HINT_PORT
from tests.vm.receiver import wait_for
from tests.vm.xen import CONTROL_MAC, PARAMETERS, XenGuest, XenHost, XenTestbed
from tests.vm.xen_daemons_images import daemons
from tests.vm.xen_images import VIF_SCRIPT

NAME = "web-1"  # of the guest: with the dash that also ends the name in libvirt's path
VIRSH = ("virsh", "-c", "xen:///system")
CARD = """
    <interface type='bridge'>
      <mac address='{}'/>
      <source bridge='{}'/>
      <script path='/{}'/>
    </interface>"""
DOMAIN = f"""
<domain type='xen'>
  <name>{NAME}</name>
  <memory unit='MiB'>200</memory>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>
    <kernel>/guest/vmlinux</kernel>
    <initrd>/guest/initramfs</initrd>
    <cmdline>{PARAMETERS}</cmdline>
  </os>
  <devices>
    {CARD.format(GUEST_MAC, "br0", VIF_SCRIPT)}
    {CARD.format(CONTROL_MAC, "control", VIF_SCRIPT)}
    <console type='pty'><target type='xen' port='0'/></console>
    <channel type='unix'>
      <target type='xen' name='{HINT_PORT}'/>
    </channel>
  </devices>
</domain>
"""


class LibvirtXenTestbed(XenTestbed):
    """A Xen host with the bond and libvirtd in dom0, and a guest that libvirt has started."""

    def start(self, miimon: int) -> None:
        parameters = f"{PARAMETERS} rdinit=/systemd_init"
        host = XenHost(self.fabric.uplinks, more=[daemons()], parameters=parameters)
        self.hypervisor = self.enter_context(host)
        self.start_xen(miimon)
        self._libvirtd = self.hypervisor.spawn("libvirtd")
        wait_for(self._libvirtd_answers, "libvirtd", step=0.2)
        self.hypervisor.write("/guest/domain.xml", DOMAIN)
        self.virsh("define", "/guest/domain.xml")
        self.virsh("start", NAME)
        self.start_relay()
        self.guest = self.enter_context(XenGuest(self.hypervisor, NAME))
        self.configure_guest()

    def virsh(self, *arguments: str) -> str:
        """Return what a command of virsh prints; it must succeed."""
        done = self._virsh(*arguments)
        assert done.returncode == 0, (arguments, done.stderr, self._libvirtd.output)
        return done.stdout

    def _libvirtd_answers(self) -> bool:
        assert self._libvirtd.running, self._libvirtd.output
        return self._virsh("list").returncode == 0

    def _virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hypervisor.run(*VIRSH, *arguments)
