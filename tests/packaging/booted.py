"""Debian systems booted under QEMU from a disk, with Debian's own kernel, initrd and init.

Ports, cables and commands inside are those of tests/vm: its control server is one more service.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.packaging.rootfs import tarball
from tests.packaging.support import need, run
from tests.vm import images, kernels
from tests.vm.qemu import Card, QemuMachine
from tests.vm.receiver import wait_for

ADDRESS = "192.0.2.10"
MAC = "52:54:00:00:00:01"
BOOT = 300.0  # seconds until a system counts as hung
KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr "
    "tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 quiet"
)
CONTROL = "/usr/bin/python3 -S /opt/test/guest_control.py"
SYSTEMD_CONTROL = f"""[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
ExecStart={CONTROL}
Restart=always
RestartSec=0.5
[Install]
WantedBy=sysinit.target
"""
SYSTEMD_NETWORK = f"""[Match]
Name=eth0
[Network]
Address={ADDRESS}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
SYSV_SERVICES = f"""tc:2345:respawn:{CONTROL}
tl:2345:once:ip link set eth0 up
ta:2345:once:ip address add {ADDRESS}/24 dev eth0
"""


def make_disk(name: str, folder: Path, files: Mapping[str, Path]) -> None:
    """Make disk, kernel and initrd of the system of this recipe, with more files on it."""
    image = tarball(name)
    with tempfile.TemporaryDirectory(prefix="garp-disk-") as scratch:
        top = Path(scratch)
        run("tar", "-xf", image, "-C", top)
        (kernel,) = (top / "boot").glob("vmlinuz-*")
        (initrd,) = (top / "boot").glob("initrd.img-*")
        (folder / "kernel").write_bytes(kernels.without_decompressor(kernel.read_bytes()))
        shutil.copy(initrd, folder / "initrd")
        (top / "etc/hostname").write_text("guest\n")
        (top / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        control = Path(images.__file__).with_name("guest_control.py")
        for inside, source in {**files, "/opt/test/guest_control.py": control}.items():
            place = top / inside.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        if (top / "etc/inittab").exists():
            with (top / "etc/inittab").open("a") as inittab:
                inittab.write(SYSV_SERVICES)
        else:
            (top / "etc/systemd/system/test-control.service").write_text(SYSTEMD_CONTROL)
            (top / "etc/systemd/network/10-eth0.network").write_text(SYSTEMD_NETWORK)
            units = ("test-control.service", "systemd-networkd.service")
            run("systemctl", f"--root={top}", "enable", *units)
        mke2fs = need("mke2fs", "e2fsprogs")
        run(mke2fs, "-q", "-t", "ext4", "-d", top, folder / "disk", "1500M")


class Booted(QemuMachine):
    """A system that runs from its disk; a second one may boot the disk that it leaves."""

    def __init__(
        self, name: str, folder: Path, files: Mapping[str, Path] | None = None, **options: Any
    ) -> None:
        self._made = folder
        if not (folder / "disk").exists():
            make_disk(name, folder, files or {})
        super().__init__(name, cards=[Card("net0", MAC)], memory=512, **options)

    def _boot_arguments(self) -> list[str]:
        return [
            *("-kernel", str(self._made / "kernel"), "-initrd", str(self._made / "initrd")),
            *("-append", KERNEL_COMMAND_LINE),
            *("-drive", f"file={self._made / 'disk'},if=virtio,format=raw,cache=unsafe"),
        ]

    def ready(self) -> Booted:
        """Return this system once it runs commands."""
        self.call("python", BOOT, source="", arguments={})
        return self

    def reboot(self) -> None:
        """Reboot from inside; return when the system is off."""
        self.spawn("sh", "-c", "sleep 1; exec reboot")
        wait_for(lambda: not self.alive, f"{self.name}: shut down", BOOT)
