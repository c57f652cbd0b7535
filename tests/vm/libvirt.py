"""A real libvirtd with an emulated guest, in a root directory and namespaces of its own.

The packages are unpacked, not installed: nothing on the machine changes and no service starts.
libvirtd, its QEMU and ``garp-hint`` run in that root, in mount, network and process namespaces
that end with the first of their processes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm import images, kernels
from tests.vm.machine import Machine
from tests.vm.qemu import CONTROL_PORT, END_WITH_PARENT, HINT_PORT, kernel_command_line
from tests.vm.receiver import HANG_TIMEOUT

LISTENING = "/run/libvirt/libvirt-sock"
CONTROL_SOCKET = "/run/control.sock"

# For root without its privileges: no accounts, no security labels, no namespaces, no cgroups.
QEMU_SETTINGS = """
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
# The first process: it mounts what libvirtd expects, starts it, and reaps its orphans.
INIT = """
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock
ip link set lo up
libvirtd &
wait $!
"""
FILES = {  # in the root directory
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n",
    "etc/group": "root:x:0:\nkvm:x:104:\nlibvirt:x:105:\nlibvirt-qemu:x:64055:\n",
    "etc/libvirt/libvirtd.conf": 'auth_unix_rw = "none"\nunix_sock_group = "root"\n',
    "etc/libvirt/qemu.conf": QEMU_SETTINGS,
}
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>224</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/images/vmlinux</kernel>
    <initrd>/images/initramfs</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model>qemu64</model>
    <feature policy='force' name='rdrand'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='/run/console'/></serial>
    <channel type='unix'>
      <source mode='bind'/>
      <target type='virtio' name='{hint_port}'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='{control_socket}'/>
      <target type='virtio' name='{control_port}'/>
    </channel>
  </devices>
</domain>
"""


class LibvirtMachine(Machine):
    """A guest of libvirtd, and the libvirtd, which starts with the object."""

    def __init__(self) -> None:
        super().__init__("libvirt")
        self._folder = Path(tempfile.mkdtemp(prefix="garp-vm-"))
        self._root = self._folder / "root"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make_root()
            spaces = ("--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child")
            command = [*END_WITH_PARENT, "unshare", *spaces, "--root", str(self._root)]
            with (self._folder / "libvirtd.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, "sh", "-c", INIT], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.wait_until(self._libvirtd_answers, "libvirtd")
        except BaseException:
            self.stop()
            raise

    @property
    def control_path(self) -> Path:
        return self._path(CONTROL_SOCKET)

    @property
    def console(self) -> str:
        paths = (self._path("/run/console"), self._folder / "libvirtd.log")
        return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        super().stop()
        if self._process is not None:
            self._process.kill()  # unshare; with it ends the first process inside, so all of them
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def virsh(self, *arguments: str) -> None:
        """Run a command of virsh, which must succeed."""
        done = self._virsh(*arguments)
        assert done.returncode == 0, (arguments, done.stderr, self.console)

    def define(self, name: str) -> None:
        """Define the guest with two channels, as the documentation describes them."""
        domain = DOMAIN.format(
            name=name,
            command_line=kernel_command_line(),
            hint_port=HINT_PORT,
            control_port=CONTROL_PORT,
            control_socket=CONTROL_SOCKET,
        )
        self._path("/tmp/domain.xml").write_text(domain)
        self.virsh("define", "/tmp/domain.xml")

    @contextmanager
    def started(self, name: str) -> Iterator[None]:
        """Run the guest, whose name may have changed since it was defined."""
        self.virsh("start", name)
        yield
        self.disconnect()
        self.virsh("destroy", name)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Start the guest and let it not run."""
        self.virsh("start", name, "--paused")
        yield
        self.virsh("destroy", name)

    def read(self, path: str) -> str:
        """Return a file inside."""
        return self._path(path).read_text(errors="replace")

    def run_outside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside libvirtd to its end, whatever its status."""
        spaces = ("--mount", "--net", "--pid", "--ipc", "--root", "--wd=/")
        environment = ("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH=/opt/garp")
        return subprocess.run(
            ["nsenter", "--target", str(self._first()), *spaces, *environment, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_TIMEOUT,
        )

    def spawn_outside(self, *command: str) -> None:
        """Start a command beside libvirtd, which ends with it."""
        script = f"{shlex.join(command)} </dev/null >/run/background.log 2>&1 &"
        self.run_outside("sh", "-c", script)

    def _libvirtd_answers(self) -> bool:
        listens = self._first() is not None and self._path(LISTENING).exists()
        return listens and self._virsh("list").returncode == 0

    def _virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run_outside("virsh", "-q", "-c", "qemu:///system", *arguments)

    def _first(self) -> int | None:
        """The number of the first process inside, once it runs."""
        if self._process is None or not self.alive:
            return None
        path = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        return next(map(int, Path(path).read_text().split()), None)

    def _path(self, inside: str) -> Path:
        """A path inside as this process sees it, with what is mounted there."""
        return Path(f"/proc/{self._first()}/root{inside}")

    def _make_root(self) -> None:
        images.copy_libvirt_root(self._root)
        for name in ("proc", "sys", "dev", "run", "tmp", "images", "root", "etc/libvirt"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "var/run").symlink_to("/run")
        for name, major, minor in (("null", 1, 3), ("urandom", 1, 9)):
            os.mknod(self._root / "dev" / name, 0o20666, os.makedev(major, minor))
        for name, text in FILES.items():
            (self._root / name).write_text(text)
        shutil.copy(kernels.kernel() / "vmlinux", self._root / "images")
        images.write_initramfs(self._root / "images/initramfs")
