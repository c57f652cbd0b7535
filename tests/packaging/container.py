"""A Debian that runs its own init, in namespaces of this machine.

It starts within seconds, where a machine under QEMU takes minutes.  It has systemd, its services
and a network of its own, but no kernel, devices or udev: test_booted.py has what needs those.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.packaging.rootfs import tarball
from tests.packaging.support import SYSTEM_PATH, run
from tests.vm.receiver import wait_for

# With a read-only /sys, systemd starts no udev.  Its root must be the root of a mount namespace,
# or it cannot make those of its services.  `unshare` waits for the init and ends it.
BOOT = """
echo $$ >"$2/cgroup.procs"
exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -ec '
    top=$1
    mount --bind "$top" "$top"
    mount -t proc proc "$top/proc"
    mount -t sysfs -o ro sysfs "$top/sys"
    mount -t cgroup2 cgroup2 "$top/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$top/run"
    mount -t tmpfs -o mode=755 tmpfs "$top/dev"
    for each in null zero full random urandom tty; do
        : >"$top/dev/$each"
        mount --bind "/dev/$each" "$top/dev/$each"
    done
    mkdir "$top/dev/pts" "$top/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$top/dev/pts"
    ln -s pts/ptmx "$top/dev/ptmx"
    hostname guest
    ip link set lo up
    ip link add eth0 type veth peer name far0
    ip address add 192.0.2.10/24 dev eth0
    ip link set eth0 up
    ip link set far0 up
    cd "$top"
    mount --move . /
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test chroot . /sbin/init
' sh "$1"
"""
PATIENCE = 300.0  # seconds until a start counts as hung


def unified_cgroups() -> Path:
    """Return where this machine has cgroups of version 2; skip where it has none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    pytest.skip("needs cgroups of version 2")


class Container:
    """A running system; it ends, and its files are removed, when the block ends.

    `files` are more files for it, by their path inside.
    """

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        cgroups, image = unified_cgroups(), tarball(name)
        self.top = Path(tempfile.mkdtemp(prefix="garp-container-"))
        self._group = cgroups / self.top.name
        self._unshare: subprocess.Popen[bytes] | None = None
        try:
            run("tar", "-xf", image, "-C", self.top)
            for inside, source in files.items():
                (self.top / inside.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, self.top / inside.lstrip("/"))
            self._group.mkdir()
            command = ("sh", "-ec", BOOT, "sh", self.top, self._group)
            self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            wait_for(self._has_started, f"{name}: systemd has started", PATIENCE)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._unshare:
            self._unshare.kill()
            self._unshare.wait()
        wait_for(self._is_empty, "the end of its processes", PATIENCE)
        for group in sorted(self._group.glob("**/"), reverse=True):
            group.rmdir()
        shutil.rmtree(self.top)

    def network(self, *command: str | Path) -> tuple[str | Path, ...]:
        """Return the command, to be run here in the network of the system."""
        return ("nsenter", f"--target={self._init()}", "--net", *command)

    def run(self, *command: str, accept: tuple[int, ...] = (0,)) -> str:
        """Return what a command prints inside; its status must be an accepted one."""
        enter = ("nsenter", f"--target={self._init()}", "--all", "--root", "--wd")
        environment = ("env", "-i", f"PATH={SYSTEM_PATH}", "LC_ALL=C.UTF-8")
        return run(*enter, *environment, *command, accept=accept)

    def _init(self) -> str:
        assert self._unshare
        unshare = self._unshare.pid
        return Path(f"/proc/{unshare}/task/{unshare}/children").read_text().strip()

    def _has_started(self) -> bool:
        assert self._unshare
        assert self._unshare.poll() is None, "the init has ended"
        if not self._init() or Path(f"/proc/{self._init()}/comm").read_text() != "systemd\n":
            return False
        state = self.run("systemctl", "is-system-running", accept=(0, 1))
        return state.strip() in ("running", "degraded")

    def _is_empty(self) -> bool:
        events = self._group / "cgroup.events"
        return not events.exists() or "populated 0" in events.read_text()
