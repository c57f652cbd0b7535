"""A real Xen host under QEMU: hypervisor, first domain (dom0) with a bond, and a PV guest.

dom0 is reached like any test machine. The guest is reached over a second card, which is in a
bridge of its own in dom0: a relay there joins it to a virtio port. So the control connection
lives on when xl saves and restores the guest, at which a channel is hung up.

A boot takes 20 s, and minutes on a busy machine. So the state of both, booted and configured, is
kept beside the images and restored in seconds. Then they get the agent as it is now.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.vm import images, xen_images
from tests.vm.agent import Agent
from tests.vm.cache import built
from tests.vm.fabric import GUEST_MAC
from tests.vm.machine import Machine, MachineError
from tests.vm.qemu import CPU as PLAIN_CPU
from tests.vm.qemu import HINT_PORT, Card, QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.testbed import BOND, NO_IPV6, RARP, BondTestbed, HintWatcher
from tests.vm.testbed import GUEST as CONFIGURED

GUEST = "guest"  # its name in Xen
CHANNEL = "/run/garp/first.sock"  # a path that only xenstore connects with the guest
RELAY_PORT = "relay.control"
CPU = f"{PLAIN_CPU},+svm,+npt"  # which a PVH guest needs; QEMU emulates them
PARAMETERS = (
    "console=hvc0 panic=-1 loglevel=4 nokaslr mitigations=off no_timer_check "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on cryptomgr.notests rootfstype=ramfs"
)
XEN_PARAMETERS = (
    "console=com1 com1=115200,8n1 dom0_mem=720M,max:720M noreboot=1 loglvl=warning "
    "spec-ctrl=no xpti=no"
)
MODULES = ("xen_evtchn", "xen_gntdev", "xen_gntalloc", "xen_privcmd", "xenfs", "xen_netback")
START = f"""
busybox mkdir -p {os.path.dirname(CHANNEL)}
[ -e /dev/pts/ptmx ] || (busybox mkdir /dev/pts && mount -t devpts devpts /dev/pts)
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid
xen-init-dom0
xenconsoled --log=guest
"""
CONTROL_BRIDGE = """
link add control up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
addr add 198.51.100.1/24 dev control
"""
HINT_CHANNEL = f"name={HINT_PORT},connection=socket,path={CHANNEL}"
VIF = f"mac={GUEST_MAC},bridge=br0,script=/{xen_images.VIF_SCRIPT}"
CONTROL_MAC = "52:54:00:00:00:02"
CONTROL_VIF = f"mac={CONTROL_MAC},bridge=control,script=/{xen_images.VIF_SCRIPT}"
# xl 4.17 loses the first channel of a list, so that there is another in front.
CHANNELS = ("name=unused,connection=pty", HINT_CHANNEL)
# What the state depends on, beside the images.
STATE_CODE = ("xen_guest_init.sh", "qemu.py", "guest_control.py", "guest_relay.py")
RENEW = """
import base64, io, shutil, tarfile
shutil.rmtree('/opt/garp/garp_agent')
with tarfile.open(fileobj=io.BytesIO(base64.b64decode(code))) as tar: tar.extractall('/opt/garp')
"""
RENEWING = 600.0  # seconds; a PVH guest under emulation takes minutes for 400 kB
# The relay serves one guest, and does not notice its end.
END_RELAY = """
for process in processes.values():
    if "/opt/garp/guest_relay.py" in process.args:
        process.kill()
        process.wait()
"""


def domain(kind: str, channels: Sequence[str]) -> str:
    """Return the configuration of the guest, for xl.  ``kind``: "pv" or "pvh"."""
    return f"""
name="{GUEST}"
type="{kind}"
kernel="/guest/vmlinux"
ramdisk="/guest/initramfs"
memory=200
vcpus=1
on_crash="preserve"
on_reboot="destroy"
extra="{PARAMETERS}"
vif={json.dumps([VIF, CONTROL_VIF])}
channel={json.dumps(list(channels))}
"""


class XenHost(QemuMachine):
    """The emulated machine that Xen runs on; as a machine of the tests, its dom0."""

    def __init__(
        self,
        taps: dict[str, int],
        restore_from: Path | None = None,
        *,
        more: Sequence[Path] = (),
        guest_more: Sequence[Path] = (),
        parameters: str = PARAMETERS,
    ) -> None:
        """``more``: parts of its initramfs, besides the usual; ``guest_more``: of its guests'.

        ``parameters``: of its kernel.
        """
        self._more, self._guest_more, self._parameters = more, guest_more, parameters
        cards = [Card(key, f"52:54:00:00:01:0{key}", backend=f"tap,fd={taps[key]}") for key in "ab"]
        super().__init__(
            "dom0",
            cards=cards,
            hint_port=False,
            memory=1300,
            inherit=tuple(taps.values()),
            arguments=("-cpu", CPU),
            restore_from=restore_from,
        )
        self.relay_path = self.folder / "relay"

    def _boot_arguments(self) -> list[str]:
        initramfs = self.folder / "initramfs"
        xen_images.write_host_initramfs(initramfs, self._more, self._guest_more)
        kernel = xen_images.host_kernel()
        return [
            *("-kernel", str(xen_images.hypervisor()), "-append", XEN_PARAMETERS),
            *("-initrd", f"{kernel} {self._parameters},{initramfs}"),
        ]

    def _port_arguments(self, hint_port: bool) -> list[str]:
        chardev = f"socket,path={self.folder / 'relay'},server=on,wait=off,id=relay"
        device = f"virtserialport,chardev=relay,name={RELAY_PORT},bus=ports.0"
        return [*super()._port_arguments(hint_port), "-chardev", chardev, "-device", device]


class XenGuest(Machine):
    """A guest that a tool has started in dom0."""

    def __init__(self, host: XenHost, name: str = GUEST) -> None:
        super().__init__(name)
        self._host = host
        # At once, because the relay reads a port without a host in a loop.
        self._control = self.connect(self.control_path)

    @property
    def control_path(self) -> Path:
        return self._host.relay_path

    @property
    def console(self) -> str:
        log = f"/var/log/xen/console/guest-{self.name}.log"
        return self._host.read(log) if self._host.alive else ""

    @property
    def alive(self) -> bool:
        return self._host.alive


class XenTestbed(BondTestbed):
    """A Xen host with the bond in dom0, and a guest whose channel is a socket there."""

    hypervisor: XenHost
    kind = "pv"  # of the guest

    def start(self, miimon: int) -> None:
        saved = _saved_state() / "state"
        self.hypervisor = self.enter_context(XenHost(self.fabric.uplinks, saved))
        self.hypervisor.resume()
        self.guest = self.enter_context(XenGuest(self.hypervisor))
        self.hypervisor.write("/sys/class/net/bond0/bonding/miimon", str(miimon))
        for machine in (self.hypervisor, self.guest):
            renew_agent(machine)

    def start_xen(self, miimon: int) -> None:
        """Make the bond and the bridges of dom0; start what Xen's tools need."""
        self.configure_bond(miimon)
        self.hypervisor.ip(CONTROL_BRIDGE)
        self.hypervisor.insert(*MODULES)
        self.hypervisor.shell(START)

    def create_guest(self, configuration: str) -> None:
        """Let xl create the guest, and join it to its control connection."""
        self.hypervisor.write("/guest/domain", configuration)
        self.xl("create", "/guest/domain")
        self.start_relay()

    def start_relay(self) -> None:
        """Join the guest to its control connection."""
        relay = ("python3", "-S", "/opt/garp/guest_relay.py", RELAY_PORT, "198.51.100.2:7")
        self.hypervisor.spawn(*relay)

    def replace_guest(self, channels: Sequence[str] = CHANNELS, *, kind: str = "") -> None:
        """Destroy the guest, and start another one in its place.

        ``kind``: "pv" or "pvh"; "" for that of the guest before.
        """
        self.kind = kind or self.kind
        self.hypervisor.python(END_RELAY)
        self.xl("destroy", GUEST)
        self.create_guest(domain(self.kind, channels))
        self.guest.shell("true", timeout=RENEWING)  # the first command waits for its boot
        self.configure_guest()
        renew_agent(self.guest)

    def xl(self, *arguments: str) -> str:
        """Run the tool xl in dom0; return what it prints."""
        done = self.hypervisor.run("xl", *arguments)
        if done.returncode:
            log = self.hypervisor.run("cat", f"/var/log/xen/qemu-dm-{GUEST}.log").stdout
            raise MachineError(f"{done}\n{log}")
        return done.stdout


def hint_repairs_a_failover(testbed: XenTestbed, agent: Agent, watcher: HintWatcher) -> None:
    """Let the bond fail over; see that the only guest answers the hint and is reached again."""
    agent.wait_until(lambda status: status["lease"], "the lease")
    before = agent.sent("hint")
    testbed.fail_over()
    testbed.wait_until_reached()
    wait_for(lambda: watcher.status()["history"][-1]["answered"] == 1, "the answer")
    assert agent.sent("hint") > before


class _BootedTestbed(XenTestbed):
    def start(self, miimon: int) -> None:
        self.hypervisor = self.enter_context(XenHost(self.fabric.uplinks))
        self.start_xen(miimon)
        self.create_guest(domain(self.kind, CHANNELS))
        self.guest = self.enter_context(XenGuest(self.hypervisor))
        self.configure_guest()


def renew_agent(machine: Machine) -> None:
    """Give a machine the agent as it is now, in place of the one it has booted with."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(images.agent_code() / "tree/opt/garp/garp_agent", "garp_agent")
        code = base64.b64encode(packed.getvalue()).decode()
    machine.call("python", timeout=RENEWING, source=RENEW, arguments={"code": code})


def _saved_state() -> Path:
    """Return the folder with the state; the first call boots."""
    parts = xen_images.host_parts()
    images.agent_code()  # now, because a build within a build would wait for itself
    code = [Path(__file__).with_name(name).read_text() for name in STATE_CODE]

    def build(to: Path) -> None:
        with _BootedTestbed() as booted:
            booted.hypervisor.save(to / "state")

    setup = (BOND, NO_IPV6, RARP, CONFIGURED, START, CONTROL_BRIDGE, *MODULES)
    machine = (CPU, XEN_PARAMETERS, domain(XenTestbed.kind, CHANNELS))
    return built("xen-state", [*(part.name for part in parts), *code, *setup, *machine], build)
