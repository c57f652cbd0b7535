"""Debian root file systems to install into, made by mmdebstrap and unpacked for each test.

A chroot runs its commands in its own mount, process and network namespaces.  They end with the
command, so nothing stays mounted or running.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.packaging.support import ROOT, SYSTEM_PATH, need, run
from tests.vm import images

CACHE = Path(os.environ.get("GARP_PACKAGING_CACHE", ROOT / ".cache" / "packaging"))
COMMON = ("python3-click", "python3-yaml", "iproute2", "iputils-arping", "kmod", "udev")
KERNEL = ("linux-image-cloud-amd64", "initramfs-tools")
SYSV = ("sysvinit-core", "initscripts")
# Suite and packages.
RECIPES = {
    "bookworm": ("bookworm", "systemd-sysv", *COMMON),
    "trixie": ("trixie", "systemd-sysv", *COMMON),
    "sysv": ("bookworm", *SYSV, *COMMON),
    "openrc": ("bookworm", "openrc", "sysvinit-core", *COMMON),
    "booted-bookworm": ("bookworm", "systemd-sysv", *COMMON, *KERNEL),
    "booted-trixie": ("trixie", "systemd-sysv", *COMMON, *KERNEL),
    "booted-sysv": ("bookworm", *SYSV, *COMMON, *KERNEL),
    "booted-cloud": ("bookworm", "systemd-sysv", "cloud-init", *COMMON, *KERNEL),
}

# `exec`: the status is that of the command.
ENTER = """
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mkdir "$1/run/lock"
ip link set lo up
ip link add eth0 type veth peer name far0
ip address add 192.0.2.10/24 dev eth0
ip link set eth0 up
ip link set far0 up
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
        run(mmdebstrap, *options, suite, unfinished, images.mirror())
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
        done = subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc"),
                *("sh", "-ec", ENTER, "enter", str(self.top), *command),
            ],
            env={
                "PATH": SYSTEM_PATH,
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
                "HOME": "/root",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def shell(self, script: str, status: int = 0) -> str:
        """Do the same for a shell script that ends at its first failing command."""
        return self.run("sh", "-ec", script, status=status)

    def install(self, *packages: Path) -> str:
        """Install .deb files with apt."""
        for package in packages:
            shutil.copy(package, self.top / "tmp")
        names = [f"/tmp/{package.name}" for package in packages]
        return self.run("apt-get", "install", "-y", "--no-install-recommends", *names)

    def files(self) -> dict[str, str]:
        """Return each path with its mode and content, without the records of dpkg and apt."""
        found = {}
        ignored = {"proc", "sys", "run", "dev", "tmp"}
        ignored |= {f"var/{each}" for each in ("lib/dpkg", "lib/apt", "log", "cache")}
        for folder, folders, files in os.walk(self.top):
            inside = Path(folder).relative_to(self.top)
            folders[:] = [each for each in folders if str(inside / each) not in ignored]
            for path in (Path(folder, name) for name in (*folders, *files)):
                what = f"{path.lstat().st_mode:o}"
                if path.is_symlink():
                    what += f" -> {path.readlink()}"
                elif path.is_file():
                    what += hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(self.top))] = what
        return found
