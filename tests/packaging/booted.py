"""Debian systems booted under QEMU from a disk: Debian's own kernel, initrd and init.

What tests/vm has for guests of its own making (ports, wires, commands inside) works here as
well: its control server is one more service of the system.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.packaging.rootfs import CACHE, RECIPES, tarball
from tests.packaging.support import need
from tests.vm import images
from tests.vm.machine import Card, Machine
from tests.vm.pump import PUMP

ADDRESS = "192.0.2.10"
MAC = "52:54:00:00:00:01"
CARD = Card("net0", MAC)
BOOT = 300.0  # seconds after which a system counts as hung
KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr "
    "tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 quiet"
)
CONTROL = """[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/python3 -S /opt/test/guest_control.py
Restart=always
RestartSec=0.5
"""
NETWORK = f"""[Match]
Name=eth0
[Network]
Address={ADDRESS}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
RC_LOCAL_NETWORK = f"""#!/bin/sh
ip link set eth0 up
ip address add {ADDRESS}/24 dev eth0
"""


def disk(name: str) -> Path:
    """The disk of the system of this recipe, as it is before its first boot."""
    mke2fs = need("mke2fs", "e2fsprogs")
    image = tarball(name)
    recipe = repr((RECIPES[name], CONTROL, NETWORK, RC_LOCAL_NETWORK, "2"))
    control = Path(images.__file__).with_name("guest_control.py").read_text()
    digest = hashlib.sha256(f"{recipe}{control}".encode()).hexdigest()[:12]
    target = CACHE / f"disk-{name}-{digest}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(prefix="garp-disk-") as scratch:
        top, made = Path(scratch) / "root", Path(scratch) / "made"
        top.mkdir()
        made.mkdir()
        subprocess.run(["tar", "-xf", image, "-C", top], check=True)
        (kernel,) = (top / "boot").glob("vmlinuz-*")
        (initrd,) = (top / "boot").glob("initrd.img-*")
        (made / "kernel").write_bytes(images._without_decompressor(kernel.read_bytes()))
        shutil.copy(initrd, made / "initrd")
        _prepare(top, control)
        subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", top, made / "disk", "1500M"], check=True)
        for old in CACHE.glob(f"disk-{name}-*"):
            shutil.rmtree(old)
        shutil.move(made, target)
    return target


def _prepare(top: Path, control: str) -> None:
    """What a system needs to be a guest of the tests."""
    (top / "opt/test").mkdir(parents=True)
    (top / "opt/test/guest_control.py").write_text(control)
    (top / "etc/hostname").write_text("guest\n")
    (top / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    if (top / "etc/inittab").exists():
        with (top / "etc/inittab").open("a") as inittab:
            inittab.write("tc:2345:respawn:/usr/bin/python3 -S /opt/test/guest_control.py\n")
            inittab.write("tn:2345:once:/etc/init.d/test-network\n")
        network = top / "etc/init.d/test-network"
        network.write_text(RC_LOCAL_NETWORK)
        network.chmod(0o755)
        return
    system = top / "etc/systemd/system"
    (system / "test-control.service").write_text(CONTROL)
    for target in ("sysinit.target.wants", "multi-user.target.wants"):
        (system / target).mkdir(exist_ok=True)
    (system / "sysinit.target.wants/test-control.service").symlink_to("../test-control.service")
    (system / "multi-user.target.wants/systemd-networkd.service").symlink_to(
        "/usr/lib/systemd/system/systemd-networkd.service"
    )
    (top / "etc/systemd/network/10-eth0.network").write_text(NETWORK)


class Booted(Machine):
    """A system that runs from a copy of its disk, and may be started again from the same."""

    def __init__(
        self,
        name: str,
        folder: Path,
        payload: Sequence[Path] = (),
        put: Mapping[str, Path] | None = None,
        **options: Any,
    ) -> None:
        self._made = disk(name)
        self._disk = folder / "disk"
        if not self._disk.exists():
            copy: list[str | Path] = [
                "cp",
                "--sparse=always",
                "--reflink=auto",
                self._made / "disk",
                self._disk,
            ]
            subprocess.run(copy, check=True)
        for inside, source in (put or {}).items():
            self._put(source, inside)
        self._payload = folder / "payload"
        if payload:
            (folder / "payload.d").mkdir()
            for each in payload:
                shutil.copy(each, folder / "payload.d")
            filled = ["-d", folder / "payload.d"]
            make = ["mke2fs", "-q", "-t", "ext4", *filled, self._payload, "64M"]
            words = [str(word) for word in make]
            path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
            subprocess.run(words, check=True, env={**os.environ, "PATH": path})
        super().__init__(name, cards=[CARD], memory=512, **options)

    def _put(self, source: Path, inside: str) -> None:
        """Copy a file onto the disk, before the first boot."""
        parents = list(Path(inside).parents)[-2::-1]
        lines = [*(f"mkdir {each}" for each in parents), f"write {source} {inside}"]
        done = subprocess.run(
            [need("debugfs", "e2fsprogs"), "-w", "-f", "-", self._disk],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Allocated inode" in done.stdout.splitlines()[-1], done

    def _basic_arguments(self, kernel: str, extras: bool, memory: int) -> list[str]:
        drives = [f"file={self._disk},if=virtio,format=raw,cache=unsafe"]
        if self._payload.exists():
            drives.append(f"file={self._payload},if=virtio,format=raw,readonly=on")
        return [
            *("qemu-system-x86_64", "-name", self.name, "-nographic", "-nodefaults"),
            *("-no-user-config", "-no-reboot", "-M", "q35", "-accel", "tcg"),
            *("-cpu", "qemu64,+rdrand", "-m", str(memory)),
            *("-kernel", str(self._made / "kernel"), "-initrd", str(self._made / "initrd")),
            *("-append", KERNEL_COMMAND_LINE, "-serial", f"file:{self.folder / 'console'}"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
            *("-device", "pcie-root-port,id=slot0,chassis=1,slot=1"),
            *(word for drive in drives for word in ("-drive", drive)),
        ]

    def ready(self) -> Booted:
        """Itself, once it runs commands."""
        self.python("result = 1", patience=BOOT)
        return self

    def wait_until_off(self) -> None:
        """Return when it has shut down, or was about to start again."""
        PUMP.wait_for(lambda: not self.alive, f"{self.name}: shut down", BOOT)
