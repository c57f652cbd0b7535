"""A machine under QEMU: how it starts and ends, its ports and its network cards.

Software emulation throughout, so that any machine can run it. QEMU ends with the test
process, whatever happens. A card's cable is a pair of datagram sockets: no frame reaches a
network of the machine that runs the tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.vm import images, kernels, tsc
from tests.vm.frames import Cable
from tests.vm.machine import Machine, MachineError
from tests.vm.receiver import wait_for
from tests.vm.sockets import LineSocket, Qmp

HINT_PORT = "org.garp_agent.0"
CONTROL_PORT = "test.control"
KERNEL_COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 "
    "rootfstype=ramfs"
)
# rdrand: Python would wait a second for entropy. No cx16: the cmpxchg16b of QEMU 7.2's
# emulation crashes Linux 6.12.
CPU = "qemu64,+rdrand,-cx16"
END_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
CONSOLE_TAIL = 4000  # characters shown with a failure
PAIR = "pair"  # as a card's backend: a cable to another machine, see QemuMachine.far_backend


class Card(NamedTuple):
    """A network card."""

    name: str
    mac: str
    model: str = "virtio-net-pci"
    backend: str = ""  # a -netdev without its id, or PAIR; empty for a cable to the test


class QemuMachine(Machine):
    """A machine under QEMU, which starts with the object; it boots from an initramfs."""

    def __init__(
        self,
        name: str = "guest",
        *,
        cards: Sequence[Card] = (),
        hint_port: bool = True,
        kernel: str = kernels.DEFAULT_KERNEL,
        extras: bool = False,
        memory: int = 224,
        arguments: Sequence[str] = (),
        inherit: Sequence[int] = (),
        restore_from: Path | None = None,
    ) -> None:
        super().__init__(name)
        self.folder = Path(tempfile.mkdtemp(prefix="garp-vm-"))
        self.hint_path = self.folder / "hint"
        self.cables: dict[str, Cable] = {}
        self._kernel, self._extras = kernel, extras
        self._qmp: Qmp | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            command = [
                *self._common_arguments(memory),
                *self._boot_arguments(),
                *self._port_arguments(hint_port),
                *(word for card in cards for word in self._card_arguments(card)),
                *arguments,
            ]
            if restore_from is not None:
                command += ["-incoming", f"exec:cat {shlex.quote(str(restore_from))}"]
            with (self.folder / "qemu.log").open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherit
                )
        except BaseException:
            self.stop()
            raise

    @property
    def control_path(self) -> Path:
        return self.folder / "control"

    @property
    def console(self) -> str:
        paths = (self.folder / "console", self.folder / "qemu.log")
        texts = [path.read_text(errors="replace") for path in paths if path.exists()]
        return "\n".join(text[-CONSOLE_TAIL:] for text in texts if text)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def qmp(self) -> Qmp:
        """The monitor, connected at first use."""
        if self._qmp is None:
            self.connect(self.folder / "qmp").close()
            self._qmp = Qmp(self.folder / "qmp")
        return self._qmp

    def stop(self) -> None:
        """End QEMU; remove the folder unless GARP_VM_KEEP is set."""
        super().stop()
        if self._qmp is not None:
            self._qmp.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for cable in self.cables.values():
            cable.close()
        if not os.environ.get("GARP_VM_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, to: Path) -> None:
        """Stop the machine and write its whole state, for ``restore_from``."""
        self.qmp("stop")
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=f"exec:cat > {shlex.quote(str(to))}")
        ended = wait_for(
            lambda: {"completed", "failed"} & {self.qmp("query-migrate").get("status")}, "saving"
        )
        if "failed" in ended:
            raise MachineError(f"{self.name}: the state was not saved: {to}")

    def resume(self) -> None:
        """Run the machine once its state is restored."""
        wait_for(
            lambda: self.qmp("query-status")["status"] not in ("inmigrate", "prelaunch"),
            "the restored state",
        )
        self.qmp("cont")

    def hint(self) -> LineSocket:
        """Connect to the hint port, as a host does."""
        return self.connect(self.hint_path)

    def set_link(self, card: str, *, up: bool) -> None:
        """Connect or cut a card's cable, as the machine sees it."""
        self.qmp("set_link", name=card, up=up)

    def plug_port(self, bus: str = "ports.0") -> None:
        """Add the hint port to the running machine."""
        path = {"type": "unix", "data": {"path": str(self.hint_path)}}
        backend = {"type": "socket", "data": {"addr": path, "server": True, "wait": False}}
        self.qmp("chardev-add", id="hint-socket", backend=backend)
        port = {"driver": "virtserialport", "id": "hint", "chardev": "hint-socket"}
        self.qmp("device_add", **port, name=HINT_PORT, bus=bus)

    def unplug_port(self) -> None:
        """Remove the hint port from the running machine."""
        self._unplug("hint")
        self.qmp("chardev-remove", id="hint-socket")

    def plug_card(self, card: Card, slot: str = "slot0") -> Cable:
        """Add a network card to the running machine, in a free slot."""
        cable = self.cables[card.name] = Cable(self.folder, card.name)
        local = {"type": "unix", "path": str(cable.machine_end)}
        remote = {"type": "unix", "path": str(cable.far_end)}
        backend = f"{card.name}-net"
        self.qmp("netdev_add", type="dgram", id=backend, local=local, remote=remote)
        device = {"driver": card.model, "id": card.name, "netdev": backend, "mac": card.mac}
        self.qmp("device_add", **device, bus=slot)
        return cable

    def unplug_card(self, name: str) -> None:
        """Remove a card from the running machine."""
        self._unplug(name)
        self.qmp("netdev_del", id=f"{name}-net")
        self.cables.pop(name).close()

    def far_backend(self, card: str) -> str:
        """Return the backend that joins another machine's card to this machine's PAIR card."""
        return self._cable_backend(card, local="far", remote="near")

    def _unplug(self, identifier: str) -> None:
        before = len(self.qmp.events("DEVICE_DELETED"))
        self.qmp("device_del", id=identifier)

        def gone() -> bool:
            events = self.qmp.events("DEVICE_DELETED")[before:]
            return any(event.get("device") == identifier for event in events)

        self.wait_until(gone, f"{identifier} unplugged")

    def _common_arguments(self, memory: int) -> list[str]:
        return [
            *END_WITH_PARENT,
            *("qemu-system-x86_64", "-name", self.name, "-nographic", "-nodefaults"),
            *("-no-user-config", "-no-reboot", "-M", "q35", "-accel", "tcg"),
            *("-cpu", CPU, "-m", str(memory), "-serial", f"file:{self.folder / 'console'}"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
            *("-device", "pcie-root-port,id=slot0,chassis=1,slot=1"),
        ]

    def _boot_arguments(self) -> list[str]:
        """Where the machine boots from: a kernel and an initramfs of our own."""
        initramfs = self.folder / "initramfs"
        images.write_initramfs(initramfs, self._kernel, extras=self._extras)
        return [
            *("-kernel", str(kernels.kernel(self._kernel) / "vmlinux"), "-initrd", str(initramfs)),
            *("-append", kernel_command_line()),
        ]

    def _port_arguments(self, hint_port: bool) -> list[str]:
        ports = [("control", CONTROL_PORT, self.control_path)]
        if hint_port:
            ports.append(("hint", HINT_PORT, self.hint_path))
        arguments = ["-device", "virtio-serial-pci,id=ports"]
        for key, name, path in ports:
            device = f"virtserialport,chardev={key}-socket,name={name},bus=ports.0,id={key}"
            chardev = f"socket,path={path},server=on,wait=off,id={key}-socket"
            arguments += ["-chardev", chardev, "-device", device]
        return arguments

    def _card_arguments(self, card: Card) -> list[str]:
        backend = card.backend
        if not backend:
            self.cables[card.name] = Cable(self.folder, card.name)
        if backend in ("", PAIR):
            backend = self._cable_backend(card.name, local="near", remote="far")
        device = f"{card.model},id={card.name},netdev={card.name}-net,mac={card.mac},romfile="
        return ["-netdev", f"{backend},id={card.name}-net", "-device", device]

    def _cable_backend(self, card: str, local: str, remote: str) -> str:
        path = self.folder / card
        return (
            f"dgram,local.type=unix,local.path={path}.{local},"
            f"remote.type=unix,remote.path={path}.{remote}"
        )


def kernel_command_line() -> str:
    """Return the kernel's parameters, with the rate of this machine's counter."""
    return f"{KERNEL_COMMAND_LINE} tsc_early_khz={tsc.tsc_khz()}"
