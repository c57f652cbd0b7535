"""What a dom0 with libvirtd and systemd has besides the usual: a part of its initramfs.

The programs come from Debian packages, which are unpacked and not installed. systemd has few
units: its targets, the control server of the tests, and what a test adds.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tests.vm import images
from tests.vm.cache import ROOT, built
from tests.vm.debian import Archive, run

RULES = ROOT / "contrib/udev/80-garp-agent.rules"
GROUPS = "root:x:0:\ngarp:x:900:\n"
INIT = Path(__file__).with_name("xen_systemd_init.sh")
LIBRARIES = "lib/x86_64-linux-gnu"
PYTHON_PACKAGES = "usr/lib/python3/dist-packages"
PACKAGES = {  # package: the programs to take from it
    "libvirt-daemon": ("usr/sbin/libvirtd",),
    "libvirt-daemon-driver-xen": (
        f"usr/{LIBRARIES}/libvirt/connection-driver/libvirt_driver_libxl.so",
    ),
    "libvirt-clients": ("usr/bin/virsh",),
    "python3-libvirt": (f"{PYTHON_PACKAGES}/libvirtmod.cpython-311-x86_64-linux-gnu.so",),
    "systemd": ("lib/systemd/systemd", "bin/systemctl"),
}
TARGETS = ("basic", "sysinit", "shutdown", "paths", "slices", "sockets", "timers", "multi-user")
DATA = (  # files and folders
    "usr/share/libvirt/cpu_map",
    f"{PYTHON_PACKAGES}/libvirt.py",
    *(f"lib/systemd/system/{target}.target" for target in TARGETS),
)
CONTROL = """[Unit]
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/python3 -S /opt/garp/guest_control.py
"""
GARP_HINT = """#!/bin/sh
PYTHONPATH=/opt/garp exec python3 -m garp_agent.hypervisor "$@"
"""
# libvirt needs a model for each CPU, and has none for the emulated one as Xen shows it.
CPU_MODEL = """<cpus><model name='qemu32'><decode host='on' guest='on'/>
<feature name='fpu'/><feature name='tsc'/></model></cpus>
"""
FILES = {
    "usr/share/libvirt/cpu_map/x86_qemu32.xml": CPU_MODEL,
    "etc/libvirt/libvirtd.conf": 'auth_unix_rw = "none"\nunix_sock_group = "root"\n',
    "etc/libvirt/libxl.conf": "autoballoon = 0\n",
    "etc/group": GROUPS,
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/systemd/system/control.service": CONTROL,
    "etc/systemd/system/default.target": "[Unit]\nRequires=control.service\nAllowIsolate=yes\n",
    "usr/sbin/garp-hint": GARP_HINT,
}


@functools.cache
def udev() -> Path:
    """Return the folder with the part of the guest's initramfs that has udev and the rule."""
    rules = RULES.read_text()

    def build(to: Path) -> None:
        tree, unpacked = to / "tree", to / "unpacked"
        Archive(images.SUITE).unpack(["udev"], unpacked, with_dependencies=True)
        for library in (unpacked / "usr" / LIBRARIES / "systemd").glob("*.so"):
            library.rename(unpacked / LIBRARIES / library.name)  # where the loader looks
        images.copy_programs(unpacked, ["bin/udevadm"], tree)
        images.link(tree, {"bin/systemd-udevd": "udevadm"})
        for name, text in {"etc/group": GROUPS, f"etc/udev/rules.d/{RULES.name}": rules}.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        images.pack(to)
        shutil.rmtree(unpacked)

    return built("xen-udev", [Path(__file__).read_text(), rules], build)


@functools.cache
def daemons() -> Path:
    """Return the folder with the part of the initramfs that has libvirt and systemd."""
    recipe = [Path(__file__).read_text(), INIT.read_text()]

    def build(to: Path) -> None:
        tree, unpacked = to / "tree", to / "unpacked"
        Archive(images.SUITE).unpack(PACKAGES, unpacked, with_dependencies=True)
        for library in (unpacked / "usr" / LIBRARIES / "systemd").glob("*.so"):
            library.rename(unpacked / LIBRARIES / library.name)  # where the loader looks
        images.copy_programs(unpacked, sum(PACKAGES.values(), ()), tree)
        for name in DATA:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            run("cp", "-a", unpacked / name, tree / name)
        for name, text in FILES.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / "usr/sbin/garp-hint").chmod(0o755)
        shutil.copy(INIT, tree / "systemd_init")
        (tree / "systemd_init").chmod(0o755)
        images.pack(to)
        shutil.rmtree(unpacked)

    return built("xen-daemons", recipe, build)
