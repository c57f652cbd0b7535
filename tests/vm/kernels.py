"""Debian's kernels, ready for QEMU: the image as an ELF file, the modules uncompressed."""

from __future__ import annotations

import functools
import json
import lzma
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.vm.cache import built
from tests.vm.debian import Archive

KERNELS = {  # name: suite and metapackage
    "bookworm-cloud": ("bookworm", "linux-image-cloud-amd64"),
    "bookworm": ("bookworm", "linux-image-amd64"),
    "trixie-cloud": ("trixie", "linux-image-cloud-amd64"),
}
DEFAULT_KERNEL = "bookworm-cloud"
BOOT_MODULES = ("virtio_pci", "virtio_net", "virtio_console")
# Modules that a test may load; their dependencies are added.
MODULES = (
    *BOOT_MODULES,
    *("e1000", "8021q", "bonding", "bridge", "veth", "dummy", "macvlan", "ipvlan", "vrf"),
    *("team", "team_mode_activebackup"),
)


class Kernel(NamedTuple):
    """A kernel and its modules."""

    image: Path
    modules: Path
    dependencies: dict[str, list[str]]  # of each module, direct ones only

    def in_order(self, wanted: Iterable[str]) -> list[str]:
        """Return the modules to load, each after its dependencies, without built-in ones."""
        ordered: list[str] = []

        def visit(module: str) -> None:
            for dependency in self.dependencies.get(module, ()):
                visit(dependency)
            if module in self.dependencies and module not in ordered:
                ordered.append(module)

        for module in wanted:
            visit(module)
        return ordered


@functools.cache
def kernel(name: str = DEFAULT_KERNEL) -> Kernel:
    """Return a kernel of KERNELS; build it if needed."""
    suite, metapackage = KERNELS[name]

    def build(to: Path) -> None:
        archive, unpacked = Archive(suite), to / "unpacked"
        package = archive.newest_kernel(metapackage)
        archive.unpack([package], unpacked, with_dependencies=False)
        (image,) = (unpacked / "boot").glob("vmlinuz-*")
        (to / "vmlinux").write_bytes(without_decompressor(image.read_bytes()))
        _collect_modules(unpacked, to)
        shutil.rmtree(unpacked)

    place = built(f"kernel-{name}", [suite, metapackage], build)
    dependencies = json.loads((place / "dependencies.json").read_text())
    return Kernel(place / "vmlinux", place / "modules", dependencies)


def without_decompressor(image: bytes) -> bytes:
    """Return the ELF file in a bzImage, which boots faster; the bzImage where no tool unpacks it.

    Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length. The
    payload's last four bytes are its unpacked length.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    tool = {b"\x02!L\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}.get(payload[:4], "")
    if not tool or shutil.which(tool) is None:
        return image
    done = subprocess.run([tool, "-dcq"], input=payload, capture_output=True, check=False)
    return done.stdout if done.stdout.startswith(b"\x7fELF") else image


def _collect_modules(unpacked: Path, to: Path) -> None:
    """Copy the wanted modules and their dependencies, uncompressed, into one folder."""
    found = {path.name.split(".ko")[0].replace("-", "_"): path for path in unpacked.rglob("*.ko*")}
    dependencies: dict[str, list[str]] = {}
    (to / "modules").mkdir()
    waiting = [module for module in MODULES if module in found]
    while waiting:
        module = waiting.pop()
        if module in dependencies:
            continue
        content = found[module].read_bytes()
        if found[module].suffix == ".xz":
            content = lzma.decompress(content)
        (to / "modules" / f"{module}.ko").write_bytes(content)
        dependencies[module] = [name for name in _dependencies(content) if name in found]
        waiting += dependencies[module]
    (to / "dependencies.json").write_text(json.dumps(dependencies))


def _dependencies(module: bytes) -> list[str]:
    """Read a module's .modinfo section: Debian's packages contain no modules.dep."""
    start = module.index(b"\0depends=") + len(b"\0depends=")
    names = module[start : module.index(b"\0", start)].decode()
    return [name.replace("-", "_") for name in names.split(",") if name]
