"""Debian root file systems to install into, made by mmdebstrap and unpacked for each test.

A chroot runs its commands in its own mount, process and network namespaces.  They end with the
command, so nothing stays mounted or running.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.packaging.support import ROOT, SYSTEM_PATH, listing, need, run
from tests.vm import debian

CACHE = Path(os.environ.get("GARP_PACKAGING_CACHE", ROOT / ".cache" / "packaging"))
COMMON = ("python3-click", "python3-yaml", "iproute2", "iputils-arping", "kmod", "udev")
KERNEL = ("linux-image-cloud-amd64", "initramfs-tools")
SYSV = ("sysvinit-core", "initscripts")
LIBVIRT = ("libvirt-daemon-system", "qemu-system-x86", "python3-apt", "python3-libvirt")
# Suite and packages.
RECIPES = {
    "bookworm": ("bookworm", "systemd-sysv", *COMMON),
    "trixie": ("trixie", "systemd-sysv", *COMMON),
    "sysv": ("bookworm", *SYSV, *COMMON),
    "openrc": ("bookworm", "openrc", "sysvinit-core", *COMMON),
    "booted-bookworm": ("bookworm", "systemd-sysv", *COMMON, *KERNEL),
    "booted-trixie": ("trixie", "systemd-sysv", *COMMON, *KERNEL),
    "booted-sysv": ("bookworm", *SYSV, *COMMON, *KERNEL),
    "ssh": ("bookworm", "systemd-sysv", "openssh-server", *COMMON),
    "hypervisor": ("bookworm", "systemd-sysv", "openssh-server", *LIBVIRT, *COMMON),
    "booted-cloud": ("bookworm", "systemd-sysv", "cloud-init", *COMMON, *KERNEL),
}

# The network does not change under the command: eth0 has one address, without duplicate address
# detection, and a carrier.  `exec`: the status is that of the command.
ENTER = """
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mkdir "$1/run/lock"
ip link set lo up
ip link add eth0 type veth peer name far0
ip address add 192.0.2.10/24 dev eth0
for link in eth0 far0; do ip link set $link addrgenmode none up; done
until [ "$(cat "$1/sys/class/net/eth0/operstate")" = up ]; do sleep 0.1; done
top=$1
shift
exec chroot "$top" "$@"
"""


def tarball(name: str) -> Path:
    """Return the root file system of this recipe; build it if it is not in the cache."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    suite, *packages = RECIPES[name]
    digest = hashlib.sha256(repr(RECIPES[name]).encode()).hexdigest()[:12]
    target = CACHE / f"rootfs-{name}-{digest}.tar"
    if not target.exists():
        mmdebstrap = need("mmdebstrap", "mmdebstrap")
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".unfinished.tar")
        options = ("--variant=minbase", f"--include={','.join(packages)}")
        run(mmdebstrap, *options, suite, unfinished, debian.mirror())
        unfinished.rename(target)
    return target


class Chroot:
    """An unpacked root file system, removed when the block ends; starts no service by itself."""

    def __init__(self, name: str) -> None:
        image = tarball(name)
        self.top = Path(tempfile.mkdtemp(prefix="garp-chroot-"))
        try:
            run("tar", "-xf", image, "-C", self.top)
            policy = self.top / "usr/sbin/policy-rc.d"
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Chroot:
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.top)

    def run(self, *command: str, status: int = 0) -> str:
        """Return what a command inside prints; it must end with this status."""
        environment = (f"PATH={SYSTEM_PATH}", "DEBIAN_FRONTEND=noninteractive", "HOME=/root")
        private = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc")
        enter = ("sh", "-ec", ENTER, "enter", str(self.top))
        return run(
            *("env", "-i", "LC_ALL=C.UTF-8", *environment, *private, *enter, *command),
            accept=(status,),
        )

    def shell(self, script: str, status: int = 0) -> str:
        """Do the same for a shell script that ends at its first failing command."""
        return self.run("bash", "-exc", script, status=status)

    def files(self) -> dict[str, str]:
        """Return each path with its mode and content, without the records of dpkg and apt."""
        records = ("var/cache", "var/lib/apt", "var/lib/dpkg", "var/log")
        ignored = ("dev", "proc", "run", "sys", "tmp", *records)
        return {
            path: what for path, what in listing(self.top).items() if not path.startswith(ignored)
        }
