"""A guest under QEMU: its life, its ports and its cards.

Software emulation throughout, so that any machine can run it.  A guest that does not
answer is a failure which carries its console; whatever happens its process ends and its
folder goes.  The cards are datagram sockets of this process: no frame ever reaches a
network of the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.vm import clock, images
from tests.vm.inside import GuestError, Inside
from tests.vm.lines import LineSocket, Monitor
from tests.vm.pump import PATIENCE, PUMP, TookTooLongError
from tests.vm.wire import Wire

HINT_PORT = "org.garp_agent.0"
CONTROL_PORT = "test.control"
KERNEL_COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 "
    "rootfstype=ramfs"
)
# rdrand: else Python waits for entropy.  No cx16: Linux 6.12 crashes on QEMU 7.2's cmpxchg16b.
CPU = "qemu64,+rdrand,-cx16"
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # whatever becomes of this process
CONSOLE_TAIL = 4000  # characters shown with a failure
PAIR = "pair"  # a card's backend: a cable for another machine, see Machine.far_backend


class Card(NamedTuple):
    """A network card to build in."""

    name: str
    mac: str
    model: str = "virtio-net-pci"
    backend: str = ""  # a -netdev without its id, or PAIR; "" for a wire to the test


class Machine(Inside):
    """One guest, started when made."""

    def __init__(
        self,
        name: str = "guest",
        *,
        cards: Sequence[Card] = (),
        hint_port: bool = True,
        kernel: str = images.DEFAULT_KERNEL,
        extras: bool = False,
        memory: int = 224,
        arguments: Sequence[str] = (),
        inherit: Sequence[int] = (),
        restore_from: Path | None = None,
    ) -> None:
        super().__init__(name)
        self.folder = Path(tempfile.mkdtemp(prefix="garp-vm-"))
        self.hint_path = self.folder / "hint"
        self.wires: dict[str, Wire] = {}
        self._kernel = images.kernel(kernel)
        self._monitor: Monitor | None = None
        self._inserted: set[str] = set()
        self._hosts: list[LineSocket] = []
        self._log = (self.folder / "qemu.log").open("wb")
        command = [
            *self._basic_arguments(kernel, extras, memory),
            *self._port_arguments(hint_port),
            *itertools.chain.from_iterable(map(self._card_arguments, cards)),
            *arguments,
        ]
        if restore_from is not None:
            command += ["-incoming", f"exec:cat {shlex.quote(str(restore_from))}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=inherit,
        )
        LIVE.append(self)

    # -- life ---------------------------------------------------------------------------

    @property
    def qmp(self) -> Monitor:
        """The monitor, connected at first use."""
        if self._monitor is None:
            self._monitor = self.connected(lambda: Monitor(self.folder / "qmp"))
        return self._monitor

    @property
    def control_path(self) -> Path:
        """The socket of the control port."""
        return self.folder / "control"

    @property
    def console(self) -> str:
        """What the guest's console and QEMU said."""
        texts = []
        for name in ("console", "qemu.log"):
            path = self.folder / name
            if path.exists():
                texts.append(path.read_text(errors="replace")[-CONSOLE_TAIL:])
        return "\n".join(filter(None, texts))

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process.poll() is None

    def ready(self) -> Machine:
        """Itself, once the guest runs commands."""
        self.python("result = 1", patience=PATIENCE)
        return self

    def stop(self) -> None:
        """Ends the machine, by its process number if it does not want to."""
        self.hang_up()
        self.let_go()
        if self._monitor is not None:
            self._monitor.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for wire in self.wires.values():
            wire.close()
        self._log.close()
        if self in LIVE:
            LIVE.remove(self)
        if not os.environ.get("GARP_VM_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Machine:
        return self.ready()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def save(self, to: Path) -> None:
        """Stops the guest and writes its whole state, for ``restore_from``."""
        self.qmp("stop")
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=f"exec:cat > {shlex.quote(str(to))}")
        PUMP.wait_for(lambda: self._migration_status() != "active", "the saved state")
        if self._migration_status() != "completed":
            raise GuestError(f"migration: {self._migration_status()}")

    def resume(self) -> Machine:
        """Itself, running, after ``restore_from``."""
        PUMP.wait_for(
            lambda: self.qmp("query-status")["status"] not in ("inmigrate", "prelaunch"),
            "the restored state",
        )
        self.qmp("cont")
        return self

    def _migration_status(self) -> str:
        status: str = self.qmp("query-migrate").get("status", "none")
        return "active" if status in ("none", "setup") else status

    def insert(self, *modules: str) -> None:
        """Kernel modules with what they need; bonding and dummy make no devices of their own."""
        parameters = {"bonding": " max_bonds=0", "dummy": " numdummies=0"}
        wanted = [
            module
            for module in self._kernel.in_order(modules)
            if module not in self._inserted and module not in self._kernel.in_order(AT_BOOT)
        ]
        lines = [f"insmod /modules/{module}.ko{parameters.get(module, '')}" for module in wanted]
        self.shell("\n".join(lines))
        self._inserted.update(wanted)

    # -- hardware -----------------------------------------------------------------------

    def hint(self) -> LineSocket:
        """A host that connects to the hint port; hung up at the test's end, if not before."""
        self._hosts.append(LineSocket(self.hint_path))
        return self._hosts[-1]

    def try_hint(self) -> LineSocket | None:
        """The same, or nothing while QEMU is not there yet."""
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return self.hint()
        return None

    def hang_up(self) -> None:
        """Closes what :meth:`hint` has opened."""
        while self._hosts:
            self._hosts.pop().close()

    def set_link(self, card: str, up: bool) -> None:
        """Plugs a card's cable in or out."""
        self.qmp("set_link", name=card, up=up)

    def plug_port(self, identifier: str = "port0", name: str = HINT_PORT) -> None:
        """A hint port, while the guest runs."""
        path = {"type": "unix", "data": {"path": str(self.hint_path)}}
        backend = {"type": "socket", "data": {"addr": path, "server": True, "wait": False}}
        self.qmp("chardev-add", id=f"{identifier}-socket", backend=backend)
        self.qmp(
            "device_add",
            driver="virtserialport",
            id=identifier,
            chardev=f"{identifier}-socket",
            name=name,
            bus="ports.0",
        )

    def unplug_port(self, identifier: str = "port0") -> None:
        """Takes the hint port away."""
        self._unplug(identifier)
        self.qmp("chardev-remove", id=f"{identifier}-socket")

    def plug_card(self, card: Card, slot: str = "slot0") -> Wire:
        """A network card, while the guest runs; into a free slot."""
        wire = self.wires[card.name] = Wire(self.folder, card.name)
        local = {"type": "unix", "path": str(wire.guest_end)}
        remote = {"type": "unix", "path": str(wire.far_end)}
        self.qmp("netdev_add", type="dgram", id=f"{card.name}-net", local=local, remote=remote)
        self.qmp(
            "device_add",
            driver=card.model,
            id=card.name,
            netdev=f"{card.name}-net",
            mac=card.mac,
            bus=slot,
        )
        return wire

    def unplug_card(self, name: str) -> None:
        """Takes a card away."""
        self._unplug(name)
        self.qmp("netdev_del", id=f"{name}-net")
        self.wires.pop(name).close()

    def _unplug(self, identifier: str) -> None:
        before = len(self.qmp.events("DEVICE_DELETED"))
        self.qmp("device_del", id=identifier)

        def gone() -> bool:
            events = self.qmp.events("DEVICE_DELETED")[before:]
            return any(event.get("device") == identifier for event in events)

        try:
            PUMP.wait_for(gone, f"{identifier} unplugged")
        except TookTooLongError as error:
            raise self.failure(error) from None

    def _basic_arguments(self, kernel: str, extras: bool, memory: int) -> list[str]:
        archives = [*images.boot_archives(kernel), *([images.extras_archive()] if extras else [])]
        initrd = self.folder / "initrd"
        with initrd.open("wb") as whole:
            for archive in archives:
                whole.write(archive.read_bytes())
        return [
            *DIES_WITH_US,
            *("qemu-system-x86_64", "-name", self.name, "-nographic", "-nodefaults"),
            *("-no-user-config", "-no-reboot", "-M", "q35", "-accel", "tcg"),
            *("-cpu", CPU, "-m", str(memory)),
            *("-kernel", str(self._kernel.image), "-initrd", str(initrd)),
            *("-append", kernel_command_line(), "-serial", f"file:{self.folder / 'console'}"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
            *("-device", "pcie-root-port,id=slot0,chassis=1,slot=1"),
        ]

    def _port_arguments(self, hint_port: bool) -> list[str]:
        arguments = [
            *("-device", "virtio-serial-pci,id=ports"),
            *self._socket_port("control", CONTROL_PORT, self.control_path),
        ]
        if hint_port:
            arguments += self._socket_port("port0", HINT_PORT, self.hint_path)
        return arguments

    def _socket_port(self, identifier: str, name: str, path: Path) -> list[str]:
        chardev = f"{identifier}-socket"
        return [
            *("-chardev", f"socket,path={path},server=on,wait=off,id={chardev}"),
            "-device",
            f"virtserialport,chardev={chardev},name={name},bus=ports.0,id={identifier}",
        ]

    def _card_arguments(self, card: Card) -> list[str]:
        backend = card.backend
        if not backend:
            self.wires[card.name] = Wire(self.folder, card.name)
        if backend in ("", PAIR):
            backend = self._cable(card.name, local="guest", remote="far")
        properties = f"{card.model},id={card.name},netdev={card.name}-net,mac={card.mac},romfile="
        return ["-netdev", f"{backend},id={card.name}-net", "-device", properties]

    def far_backend(self, card: str) -> str:
        """The backend by which another machine's card is joined to this PAIR card."""
        return self._cable(card, local="far", remote="guest")

    def _cable(self, card: str, local: str, remote: str) -> str:
        ends = {"local": local, "remote": remote}
        parts = [
            f"{side}.type=unix,{side}.path={self.folder / card}.{end}" for side, end in ends.items()
        ]
        return ",".join(["dgram", *parts])


def kernel_command_line() -> str:
    """What the guest's kernel is told."""
    rate = clock.counter_khz()
    return KERNEL_COMMAND_LINE + (f" tsc_early_khz={rate}" if rate else "")


AT_BOOT = images.BOOT_MODULES
LIVE: list[Machine] = []


def stop_all() -> None:
    """Ends whatever a test left running."""
    for machine in list(LIVE):
        with contextlib.suppress(OSError):
            machine.stop()
