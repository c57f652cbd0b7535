"""Root file systems with an old systemd, from Ubuntu's archive, booted in namespaces.

The packages are unpacked only; no script of theirs runs.  The systemd is process 1 of its own
process, mount, network and control group namespaces.  It may not change settings of the machine:
`/sys` and `/proc/sys` are read-only.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.netns.agent import until
from tests.packaging.support import SYSTEM_PATH, run
from tests.vm import cache, debian, images

MIRROR = os.environ.get("GARP_UBUNTU_MIRROR", "http://archive.ubuntu.com/ubuntu")
# The SHA-256 of the Release file, which has those of all packages.  Debian has no package of
# Ubuntu's keys.  The suites without -updates do not change any more.
RELEASES = {
    "xenial": "30e9ff343d9ec0b64d28d27010bf472090bb3399b4b6bc5aee077085e920e89b",
    "bionic": "690bd875ab5799394af7406f32f2e698c48e772ac367d520f74ec1095662da4d",
}
PACKAGES = ("systemd", "python3", "dash", "coreutils", "libc-bin")
# `sysinit.target` without what it starts: nothing else is needed, and some of it sets sysctls.
NOTHING = "[Unit]\nDefaultDependencies=no\n"
ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}
# The groups of the services are made below one that the test removes.
BOOT = """
group=$2
top=$1
mount --make-rprivate /
mount --bind "$top" "$top"
mount -t proc proc "$top/proc"
mount --bind -o ro "$top/proc/sys" "$top/proc/sys"
mount -o remount,bind,ro "$top/proc/sys"
mount -t sysfs sysfs "$top/sys"
mount -t tmpfs -o mode=755 tmpfs "$top/sys/fs/cgroup"
mount -o remount,bind,ro "$top/sys"
mkdir "$top/sys/fs/cgroup/systemd" "$top/sys/fs/cgroup/devices"
mount -t cgroup -o none,name=systemd cgroup "$top/sys/fs/cgroup/systemd"
mkdir -p "$top/sys/fs/cgroup/systemd/$group"
echo $$ >"$top/sys/fs/cgroup/systemd/$group/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs "$top/run"
exec unshare --cgroup sh -ec 'umount "$1/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$1/sys/fs/cgroup/systemd"
cd "$1"
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . \\
    /lib/systemd/systemd --unit=basic.target' sh "$top"
"""


class Ubuntu(debian.Archive):
    """One suite of Ubuntu's archive, as it was released."""

    def __init__(self, suite: str) -> None:
        super().__init__(suite)
        source = f"deb [arch=amd64 trusted=yes] {MIRROR} {suite} main\n"
        (self._home / "sources.list").write_text(source)

    def _update_once(self) -> None:
        super()._update_once()
        (release,) = self._home.glob("lists/*Release")
        found = hashlib.sha256(release.read_bytes()).hexdigest()
        assert found == RELEASES[self._suite], f"{release} is not that of the release"


def fill(suite: str, top: Path) -> None:
    """Unpack a system with systemd and Python into an empty folder."""
    if reason := images.missing_tool():
        pytest.skip(reason)
    with cache.locked():
        Ubuntu(suite).unpack(PACKAGES, top, with_dependencies=True)
    for name, text in ACCOUNTS.items():
        (top / "etc" / name).write_text(text)
    for name in ("sysinit.target", "basic.target"):
        (top / "etc/systemd/system" / name).write_text(NOTHING)
    for name in ("dev", "proc", "root", "run", "sys", "tmp", "var/tmp"):
        (top / name).mkdir(exist_ok=True, parents=True)
    for name, device in (("null", (1, 3)), ("urandom", (1, 9)), ("console", (5, 1))):
        os.mknod(top / "dev" / name, 0o666 | 0o020000, os.makedev(*device))
        (top / "dev" / name).chmod(0o666)
    if not (top / "bin/sh").exists():
        (top / "bin/sh").symlink_to("dash")


class OldSystem:
    """A booted system; it ends with the block."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._group = f"garp-test-{os.getpid()}"

    def __enter__(self) -> OldSystem:
        private = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc")
        self._log = (self.top.parent / "boot.log").open("w")
        self._process = subprocess.Popen(
            [*private, "--uts", "sh", "-ec", BOOT, "boot", str(self.top), self._group],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            until(lambda: "basic.target" in self.systemctl("list-units"), "systemd answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()
        # The kernel removes an empty group at once, but processes end a moment later.
        until(self._remove_groups, "the groups are empty")

    def _remove_groups(self) -> bool:
        script = f"""mount -t tmpfs tmpfs /mnt; mkdir /mnt/groups
mount -t cgroup -o none,name=systemd cgroup /mnt/groups
cd /mnt/groups
[ ! -e {self._group} ] || find {self._group} -depth -type d -exec rmdir {{}} \\;
[ -e {self._group} ] || echo gone"""
        return "gone" in run("unshare", "--mount", "sh", "-c", script, accept=(0, 1))

    @property
    def init(self) -> str:
        """The number of its process 1, outside."""
        number = self._process.pid
        return Path(f"/proc/{number}/task/{number}/children").read_text().strip()

    def network(self, *command: str) -> str:
        """Return what a command of this machine prints in the network of the system."""
        return run("nsenter", "-t", self.init, "-n", *command)

    def run(self, *command: str, accept: tuple[int, ...] = (0,)) -> str:
        """Return what a command inside prints."""
        enter = ("nsenter", "-t", self.init, "-m", "-p", "-n", "-i", "-u", "chroot", str(self.top))
        clean = ("env", "-i", f"PATH={SYSTEM_PATH}")
        return run(*clean, *enter, *command, accept=accept)

    def systemctl(self, *words: str) -> str:
        """Return what systemctl prints, also if it fails."""
        return self.run("/bin/systemctl", "--no-pager", *words, accept=tuple(range(256)))
