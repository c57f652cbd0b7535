"""A machine with SELinux on, in permissive mode, and Debian's policy.

Its root is a tmpfs, because a ramfs keeps no labels. Of the policy only the module "base" is
loaded; it labels /etc, /usr and the units. Not part of it: a service that runs confined.
"""

from __future__ import annotations

import bz2
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm import debian, images
from tests.vm.cache import built
from tests.vm.qemu import QemuMachine, kernel_command_line

PACKAGES = "selinux-policy-default policycoreutils semodule-utils libsepol2"
POLICY = "usr/share/selinux/default/base.pp.bz2"
CONTEXTS = "etc/selinux/default/contexts/files"
PARAMETERS = "security=selinux selinux=1 enforcing=0 rootfstype=tmpfs"
LOAD = """
import os, subprocess
os.makedirs("/sys/fs/selinux", exist_ok=True)
subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", "/sys/fs/selinux"], check=True)
with open("/policy", "rb") as policy:
    target = os.open("/sys/fs/selinux/load", os.O_WRONLY)
    os.write(target, policy.read())
    os.close(target)
subprocess.run(["restorecon", "-R", "/etc", "/usr"], check=True)
"""


@contextmanager
def machine(folder: Path, program: Path) -> Iterator[QemuMachine]:
    """Boot a machine whose files have the policy's labels; ``program`` is /root/garp-agent.pyz."""
    own = folder / "own"
    (own / "tree/root").mkdir(parents=True)
    shutil.copy(program, own / "tree/root/garp-agent.pyz")
    images.pack(own)
    initramfs = folder / "initramfs"
    images.write_initramfs(initramfs)
    with initramfs.open("ab") as whole:
        for part in (_policy(), own):
            whole.write((part / "cpio").read_bytes())
    # Of two options of one name QEMU takes the last, and so does the kernel.
    boot = ("-initrd", str(initramfs), "-append", f"{kernel_command_line()} {PARAMETERS}")
    with QemuMachine(memory=384, arguments=boot, hint_port=False) as guest:
        guest.python(LOAD)
        yield guest


@functools.cache
def _policy() -> Path:
    """Return a folder with restorecon, the binary policy and its file contexts, as an archive."""

    def build(to: Path) -> None:
        unpacked, tree = to / "unpacked", to / "tree"
        debian.Archive(images.SUITE).unpack(PACKAGES.split(), unpacked, with_dependencies=True)
        images.copy_programs(unpacked, ["sbin/restorecon"], tree)
        shutil.copytree(unpacked / CONTEXTS, tree / CONTEXTS)
        (tree / "etc/selinux/config").write_text("SELINUX=permissive\nSELINUXTYPE=default\n")
        package = to / "base.pp"
        package.write_bytes(bz2.decompress((unpacked / POLICY).read_bytes()))
        folders = ":".join(str(unpacked / each) for each in images.LIBRARY_FOLDERS)

        def run(program: str, *arguments: str | Path) -> None:
            debian.run(unpacked / "usr/bin" / program, *arguments, LD_LIBRARY_PATH=folders)

        run("semodule_expand", package, tree / "policy")
        run("semodule_unpackage", package, os.devnull, tree / CONTEXTS / "file_contexts")
        images.pack(to)

    return built("selinux", [Path(__file__).read_text()], build)
