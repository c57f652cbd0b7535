"""The images of a Xen host: hypervisor, first domain (dom0) and the guest that it starts.

The initramfs of dom0 consists of that of a test machine, Xen's tools, and, as files, the
kernel and the initramfs of the guest. All of it comes from Debian packages. libxl(5) and
xl.conf(5) say which files the tools expect.
"""

from __future__ import annotations

import functools
import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.vm import images, kernels
from tests.vm.cache import built
from tests.vm.debian import Archive

HERE = Path(__file__).parent
HOST_KERNEL, GUEST_KERNEL = "bookworm", "bookworm-cloud"  # Debian's cloud kernel is no dom0
VERSION = "4.17"
TOOLS = f"usr/lib/xen-{VERSION}/bin"
PACKAGES = {  # package: the programs to take from it
    f"xen-hypervisor-{VERSION}-amd64": (),
    f"xen-utils-{VERSION}": tuple(
        f"{TOOLS}/{name}"
        for name in ("xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper")
    ),
    "xenstore-utils": ("usr/bin/xenstore-read", "usr/bin/xenstore-write", "usr/bin/xenstore-ls"),
    "qemu-system-xen": ("usr/libexec/xen-qemu-system-i386",),  # it serves the channels
}
FOLDERS = "var/lib/xen var/lib/xenstored var/log/xen/console run/xen run/xenstored run/lock"
VIF_SCRIPT = "etc/xen/scripts/vif-tiny"
FILES = {  # what QEMU and xl do not start without
    "usr/share/qemu/keymaps/en-us": "map 0x409\n",
    "etc/xen/xl.conf": 'autoballoon="off"\n',
}


def hypervisor() -> Path:
    """Return the hypervisor as an ELF file."""
    return _host() / "xen.elf"


def host_kernel() -> Path:
    """Return the kernel of dom0 as an ELF file: Xen takes seconds to unpack another."""
    return kernels.kernel(HOST_KERNEL) / "vmlinux"


def host_parts() -> list[Path]:
    """Build what dom0 and guest consist of, save the agent; return the folders."""
    userland = images.userland()  # first, because all others need it
    return [userland, *map(images.modules, (HOST_KERNEL, GUEST_KERNEL)), _host()]


def write_host_initramfs(
    to: Path, more: Sequence[Path] = (), guest_more: Sequence[Path] = ()
) -> None:
    """Write the initramfs of dom0; build its parts if needed.

    ``more``: folders of more parts; ``guest_more``: of the guest's.
    """
    userland, host_modules, guest_modules, xen = host_parts()
    agent = images.agent_code()
    parts = [userland, host_modules, agent, xen, *more]
    guest = [userland, guest_modules, agent, *guest_more]
    inner = b"".join((part / "cpio").read_bytes() for part in guest)
    init = (HERE / "xen_guest_init.sh").read_bytes()
    kernel = (kernels.kernel(GUEST_KERNEL) / "vmlinux").read_bytes()
    files = {"guest/vmlinux": kernel, "guest/initramfs": inner + archive({"init": init})}
    with to.open("wb") as whole:
        for part in parts:
            whole.write((part / "cpio").read_bytes())
        whole.write(archive(files))


def archive(files: dict[str, bytes]) -> bytes:
    """Return an archive of the newc format with these files and their folders.

    Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    folders = {str(folder): None for name in files for folder in list(Path(name).parents)[-2::-1]}
    entries = [(folder, 0o040755, b"") for folder in folders]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    made = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name_bytes = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name_bytes), 0)
        made += b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name_bytes
        made += bytes(-len(made) % 4) + content
        made += bytes(-len(made) % 4)
    return bytes(made)


@functools.cache
def _host() -> Path:
    script = (HERE / "xen_vif.sh").read_text()
    recipe = [Path(__file__).read_text(), script]

    def build(to: Path) -> None:
        tree, unpacked = to / "tree", to / "unpacked"
        Archive(images.SUITE).unpack(PACKAGES, unpacked, with_dependencies=True)
        compressed = (unpacked / f"boot/xen-{VERSION}-amd64.gz").read_bytes()
        (to / "xen.elf").write_bytes(gzip.decompress(compressed))
        images.copy_programs(unpacked, sum(PACKAGES.values(), ()), tree)
        for folder in FOLDERS.split():
            (tree / folder).mkdir(parents=True)
        for name, text in {**FILES, VIF_SCRIPT: script}.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / VIF_SCRIPT).chmod(0o755)
        # With a folder var/run of its own, each `xl create` leaves a dead domain.
        images.link(tree, {"var/run": "../run", "var/lock": "../run/lock"})
        (tree / "usr/sbin").mkdir()
        programs = [path.name for path in (tree / TOOLS).iterdir()]
        images.link(tree, {f"usr/sbin/{name}": f"/{TOOLS}/{name}" for name in programs})
        images.pack(to)
        shutil.rmtree(unpacked)

    return built("xen", recipe, build)
