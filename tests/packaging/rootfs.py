"""Debian root file systems to install into: built once by mmdebstrap, unpacked for each test.

A chroot lives in namespaces of its own (mounts, processes, network), which end with the
command: nothing stays mounted or running, whatever happens, and no service can be started.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.packaging.support import ROOT, need, need_root
from tests.vm import images

CACHE = Path(os.environ.get("GARP_PACKAGING_CACHE", ROOT / ".cache" / "packaging"))
COMMON = ("python3-click", "python3-yaml", "iproute2", "iputils-arping", "kmod", "udev")
KERNEL = ("linux-image-cloud-amd64", "initramfs-tools")


class Recipe(NamedTuple):
    """What a root file system is made of."""

    suite: str
    packages: tuple[str, ...]


RECIPES = {
    "bookworm": Recipe("bookworm", ("systemd-sysv", *COMMON)),
    "trixie": Recipe("trixie", ("systemd-sysv", *COMMON)),
    "sysv": Recipe("bookworm", ("sysvinit-core", "initscripts", *COMMON)),
    "openrc": Recipe("bookworm", ("openrc", "sysvinit-core", *COMMON)),
    "booted-bookworm": Recipe("bookworm", ("systemd-sysv", *COMMON, *KERNEL)),
    "booted-trixie": Recipe("trixie", ("systemd-sysv", *COMMON, *KERNEL)),
    "booted-sysv": Recipe("bookworm", ("sysvinit-core", "initscripts", *COMMON, *KERNEL)),
    "booted-cloud": Recipe("bookworm", ("systemd-sysv", "cloud-init", *COMMON, *KERNEL)),
}

# In the chroot's own namespaces; `exec` so that its status is ours.
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
    """The root file system, built if it is not there yet."""
    need_root()
    recipe = RECIPES[name]
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    target = CACHE / f"rootfs-{name}-{digest}.tar"
    if not target.exists():
        mmdebstrap = need("mmdebstrap", "mmdebstrap")
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".unfinished.tar")
        include = f"--include={','.join(recipe.packages)}"
        command: list[str | Path] = [
            mmdebstrap,
            "--variant=minbase",
            include,
            recipe.suite,
            unfinished,
            images.mirror(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        unfinished.rename(target)
    return target


class Chroot:
    """A root file system of one's own, to be changed."""

    def __init__(self, name: str) -> None:
        image = tarball(name)
        self.top = Path(tempfile.mkdtemp(prefix="garp-chroot-"))
        try:
            subprocess.run(["tar", "-xf", image, "-C", self.top], check=True)
            policy = self.top / "usr/sbin/policy-rc.d"
            policy.write_text("#!/bin/sh\nexit 101\n")  # no service is started in here
            policy.chmod(0o755)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chroot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.top)

    def run(self, *command: str, status: int = 0) -> str:
        """What a command inside prints; it must end with this status."""
        done = subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc"),
                *("sh", "-ec", ENTER, "enter", str(self.top), *command),
            ],
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
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
        """The same, of a shell script each of whose commands must succeed."""
        return self.run("sh", "-ec", script, status=status)

    def put(self, source: Path, inside: str) -> str:
        """Copy a file in; where it is inside."""
        target = self.top / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        return inside

    def files(self) -> dict[str, str]:
        """Every path with what it is; what package management notes down aside."""
        found = {}
        noted = ("var/lib/dpkg", "var/lib/apt", "var/log", "var/cache")
        passed_over = (*noted, "proc", "sys", "run", "dev", "tmp")
        for folder, folders, files in os.walk(self.top):
            inside = Path(folder).relative_to(self.top)
            folders[:] = [each for each in folders if str(inside / each) not in passed_over]
            for name in [*folders, *files]:
                path = Path(folder, name)
                if path.is_symlink():
                    found[str(inside / name)] = f"-> {path.readlink()}"
                elif path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    found[str(inside / name)] = f"{path.stat().st_mode:o} {digest}"
                else:
                    found[str(inside / name)] = f"{path.lstat().st_mode:o}"
        return found
