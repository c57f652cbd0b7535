"""A real libvirtd with an emulated guest, in a root directory and namespaces of its own.

The packages are unpacked, not installed: nothing on the machine changes, no service
starts.  libvirtd, its QEMU and ``garp-hint`` run in that root, in mount, network and
process namespaces which end with the first of their processes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.vm import images
from tests.vm.inside import Inside
from tests.vm.machine import CONTROL_PORT, DIES_WITH_US, HINT_PORT, kernel_command_line
from tests.vm.pump import PATIENCE, PUMP

LISTENING = "/run/libvirt/libvirt-sock"
CONTROL_SOCKET = "/run/control/{name}"
NAME = "a-guest-with-a-name-of-more-than-twenty-characters"

# The first process: mounts what libvirtd expects to find, starts it, and reaps what it orphans.
INIT = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/control /run/lock
ip link set lo up
libvirtd &
wait $!
"""

PASSWD = "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n"
GROUP = "root:x:0:\nkvm:x:104:\nlibvirt:x:105:\nlibvirt-qemu:x:64055:\n"

QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
seccomp_sandbox = 0
stdio_handler = "file"
"""

LIBVIRTD_CONF = """
auth_unix_rw = "none"
unix_sock_group = "root"
"""

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>224</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/images/vmlinux</kernel>
    <initrd>/images/initrd</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model>qemu64</model>
    <feature policy='force' name='rdrand'/>
  </cpu>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='/run/console'/></serial>
    <memballoon model='none'/>
    <channel type='unix'>
      <source mode='bind'/>
      <target type='virtio' name='{hint_port}'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='{control}'/>
      <target type='virtio' name='{control_port}'/>
    </channel>
  </devices>
</domain>
"""


def missing() -> str:
    """Why this machine cannot run it; empty if it can."""
    if os.geteuid():
        return "not root"
    for tool in ("unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return ""


class Libvirt:
    """libvirtd, started when made."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="garp-vm-"))
        self.root = self.folder / "root"
        images.copy_libvirt_root(self.root)
        self._configure()
        self._log = (self.folder / "libvirtd.log").open("wb")
        self._process = subprocess.Popen(
            [
                *DIES_WITH_US,
                *("unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"),
                *("--root", str(self.root), "sh", "-c", INIT),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def ready(self) -> Libvirt:
        """Itself, once libvirtd answers."""
        PUMP.wait_for(
            lambda: self._listens() and self.virsh("list") is not None, "libvirtd", step=0.1
        )
        return self

    def _listens(self) -> bool:
        return self.alive and bool(self._children()) and self.path(LISTENING).exists()

    @property
    def alive(self) -> bool:
        """Whether libvirtd still runs."""
        assert self._process.poll() is None, (self.folder / "libvirtd.log").read_text()
        return True

    @property
    def first(self) -> int:
        """The number of the first process inside."""
        return self._children()[0]

    def _children(self) -> list[int]:
        path = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        return [int(number) for number in Path(path).read_text().split()]

    def path(self, inside: str) -> Path:
        """A path inside as this process sees it, with what is mounted there."""
        return Path(f"/proc/{self.first}/root{inside}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, in the same namespaces, to its end."""
        return subprocess.run(
            [*self._inside(), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def spawn(self, *command: str) -> int:
        """A command inside, in the background; its process number in there."""
        script = f"{shlex.join(command)} </dev/null >/run/background.log 2>&1 & echo $!"
        return int(self.run("sh", "-c", script).stdout)

    def kill(self, pid: int) -> None:
        """Ends a process inside."""
        self.run("sh", "-c", f"kill {pid}")

    def virsh(self, *arguments: str) -> str | None:
        """What virsh prints; nothing if it fails."""
        done = self.run("virsh", "-q", "-c", "qemu:///system", *arguments)
        return None if done.returncode else done.stdout

    def check(self, *arguments: str) -> str:
        """What virsh prints; it must succeed."""
        done = self.run("virsh", "-q", "-c", "qemu:///system", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def define(self, name: str) -> None:
        """A guest with the two channels, as the documents have it."""
        self.path("/tmp/domain.xml").write_text(
            DOMAIN.format(
                name=name,
                command_line=kernel_command_line(),
                hint_port=HINT_PORT,
                control_port=CONTROL_PORT,
                control=CONTROL_SOCKET.format(name=name),
            )
        )
        self.check("define", "/tmp/domain.xml")

    def stop(self) -> None:
        """Ends everything inside, and removes it."""
        self._process.kill()  # which ends the first process inside, and so all of them
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _inside(self) -> list[str]:
        spaces = ("--mount", "--net", "--pid", "--ipc", "--root", "--wd=/")
        environment = ("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH=/opt/garp")
        return ["nsenter", "--target", str(self.first), *spaces, *environment]

    def _configure(self) -> None:
        for name in ("proc", "sys", "dev", "run", "tmp", "images", "root"):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "var/run").symlink_to("/run")
        for name, kind, major, minor in (("null", 0o20666, 1, 3), ("urandom", 0o20666, 1, 9)):
            os.mknod(self.root / "dev" / name, kind, os.makedev(major, minor))
        (self.root / "etc/passwd").write_text(PASSWD)
        (self.root / "etc/group").write_text(GROUP)
        (self.root / "etc/libvirt").mkdir(parents=True, exist_ok=True)
        (self.root / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self.root / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        shutil.copy(images.kernel().image, self.root / "images/vmlinux")
        with (self.root / "images/initrd").open("wb") as initrd:
            for archive in images.boot_archives():
                initrd.write(archive.read_bytes())


class LibvirtGuest(Inside):
    """A guest that libvirt runs."""

    def __init__(self, libvirt: Libvirt, name: str, defined_as: str) -> None:
        super().__init__(name)
        self._libvirt = libvirt
        self._socket = CONTROL_SOCKET.format(name=defined_as)

    @property
    def control_path(self) -> Path:
        """The socket of the control port."""
        return self._libvirt.path(self._socket)

    @property
    def console(self) -> str:
        """What the guest's console said, and libvirtd."""
        paths = (self._libvirt.path("/run/console"), self._libvirt.folder / "libvirtd.log")
        return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())

    @property
    def alive(self) -> bool:
        """Whether libvirtd still runs."""
        return self._libvirt.alive
