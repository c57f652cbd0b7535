"""Debian's kernels, ready for QEMU: the image as an ELF file, the modules uncompressed."""

from __future__ import annotations

import functools
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

from tests.vm.cache import built
from tests.vm.debian import Archive

KERNELS = {  # name: suite and metapackage
    "bookworm-cloud": ("bookworm", "linux-image-cloud-amd64"),
    "bookworm": ("bookworm", "linux-image-amd64"),
    "trixie-cloud": ("trixie", "linux-image-cloud-amd64"),
}
DEFAULT_KERNEL = "bookworm-cloud"
# Modules that are loaded at boot, and those that a test may load; dependencies are added.
MODULES = (
    *("virtio_pci", "virtio_net", "virtio_console"),
    *("e1000", "8021q", "bonding", "bridge", "veth", "dummy", "macvlan", "ipvlan", "vrf"),
    *("tun", "macvtap", "vxlan", "team", "team_mode_activebackup", "openvswitch", "unix_diag"),
    *("xen_evtchn", "xen_gntdev", "xen_gntalloc", "xen_privcmd", "xenfs"),
    *("xen_netback", "xen_netfront"),
)


@functools.cache
def kernel(name: str = DEFAULT_KERNEL) -> Path:
    """Return a folder with a kernel of KERNELS: ``vmlinux`` and ``modules``."""
    suite, metapackage = KERNELS[name]

    def build(to: Path) -> None:
        archive, unpacked = Archive(suite), to / "unpacked"
        package = archive.newest_kernel(metapackage)
        archive.unpack([package], unpacked, with_dependencies=False)
        (image,) = (unpacked / "boot").glob("vmlinuz-*")
        (to / "vmlinux").write_bytes(without_decompressor(image.read_bytes()))
        _collect_modules(unpacked, to / "modules")
        shutil.rmtree(unpacked)

    return built(f"kernel-{name}", [suite, metapackage], build)


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
    """Write for each of MODULES a script that loads it, NAME.load, and all modules for that.

    The script loads dependencies first, nothing twice, and nothing that is built in. No device
    comes into being.
    """
    found = {path.name.split(".ko")[0].replace("-", "_"): path for path in unpacked.rglob("*.ko*")}
    to.mkdir()

    def commands(module: str) -> str:
        if module not in found:
            return ""
        content = found[module].read_bytes()
        if found[module].suffix == ".xz":
            content = lzma.decompress(content)
        (to / f"{module}.ko").write_bytes(content)
        options = {"bonding": "max_bonds=0", "dummy": "numdummies=0"}.get(module, "")
        command = f"[ -e /sys/module/{module} ] || insmod /modules/{module}.ko {options}\n"
        return "".join(map(commands, _dependencies(content))) + command

    for module in MODULES:
        (to / f"{module}.load").write_text(commands(module))


def _dependencies(module: bytes) -> list[str]:
    """Read a module's .modinfo section: Debian's packages contain no modules.dep."""
    start = module.index(b"\0depends=") + len(b"\0depends=")
    names = module[start : module.index(b"\0", start)].decode()
    return [name.replace("-", "_") for name in names.split(",") if name]
