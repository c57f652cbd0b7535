"""A hypervisor with a real bond, and a guest behind it, on a fabric.

The hypervisor has an uplink to each switch of a :class:`~tests.vm.fabric.Fabric`. Both are
in an active-backup bond, and the bond is in a bridge with the guest's card. The guest's hint
port appears in the hypervisor as a Unix socket at the path where libvirt would put it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from tests.vm.fabric import GUEST_ADDRESS, GUEST_MAC, OUTSIDE_ADDRESS, OUTSIDE_MAC, Fabric
from tests.vm.machine import Machine
from tests.vm.qemu import PAIR, Card, QemuMachine
from tests.vm.receiver import HangError, wait_for

GARP_HINT = ("python3", "-m", "garp_agent.hypervisor")
MONITOR = "/run/qemu/guest.qmp"
GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
GUEST_AGENT_RELAY = "relay.guest-agent"  # the hypervisor's port to the guest's qemu-ga
RELAYED = {  # the hypervisor's port, and the socket that offers it there
    "relay.hint": "/run/libvirt/qemu/channel/1-guest/org.garp_agent.0",
    "relay.monitor": MONITOR,
}

# The guest's router solicitations would teach the switches by chance.
NO_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
BOND = """
link add bond0 type bond mode active-backup miimon {miimon}
link add br0 up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set eth0 master bond0
link set eth1 master bond0
link set bond0 master br0 up
"""
# The card has the name of a Xen vif, and so it is no uplink of the bridge.
GUEST_PORT = """
link set eth2 name vif1.0
link set vif1.0 master br0 up
"""
GUEST = f"""
addr add {GUEST_ADDRESS}/24 dev eth0
link set eth0 up
neigh add {OUTSIDE_ADDRESS} lladdr {OUTSIDE_MAC} dev eth0 nud permanent
"""
HOST_ADDRESS = "192.0.2.50"
HOST = f"""
addr add {HOST_ADDRESS}/24 dev br0
neigh replace {OUTSIDE_ADDRESS} lladdr {OUTSIDE_MAC} dev br0 nud permanent
"""
INTERFACES = {"a": "eth0", "b": "eth1"}  # of the hypervisor's uplinks, by their cards' names
OTHER = {"a": "b", "b": "a"}  # by uplink: the one beside it
RARP = """
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((interface, 0))
mac = bytes.fromhex(address.replace(":", ""))
frame = bytes([255] * 6) + mac + bytes.fromhex("8035 0001 0800 06 04 0003")
frame += mac + bytes(4) + mac + bytes(4 + 18)
"""


class BondTestbed(ExitStack):
    """A fabric, a hypervisor in QEMU, and a guest, whatever runs it."""

    __test__ = False  # not a class of tests
    hypervisor: QemuMachine
    guest: Machine
    pinged: Machine  # the guest; or the hypervisor, see ping_hypervisor
    in_hypervisor: ClassVar[dict[str, Any]] = {}  # options of its machine, besides the usual

    def __init__(self, *, miimon: int = 10) -> None:
        super().__init__()
        try:
            self.fabric = self.enter_context(Fabric())
            self.start(miimon)
            self.pinged = self.guest
        except BaseException:
            self.close()
            raise

    def start(self, miimon: int) -> None:
        """Set ``hypervisor`` and ``guest``, both configured."""
        raise NotImplementedError

    def configure_guest(self) -> None:
        """Give the guest its address, and what :meth:`guest_sends` needs."""
        self.guest.shell(NO_IPV6)
        self.guest.python(RARP, interface="eth0", address=GUEST_MAC)
        self.guest.ip(GUEST)

    @contextmanager
    def ping_hypervisor(self) -> Iterator[None]:
        """Ping an address of the hypervisor's bridge instead of the guest's."""
        mac = self.hypervisor.read("/sys/class/net/br0/address").strip()
        self.hypervisor.python(RARP, interface="br0", address=mac)
        self.hypervisor.ip(HOST)
        self.fabric.know(HOST_ADDRESS, mac)
        self.fabric.pinged, self.pinged = HOST_ADDRESS, self.hypervisor
        try:
            yield
        finally:
            self.fabric.pinged, self.pinged = GUEST_ADDRESS, self.guest
            self.hypervisor.ip("addr flush dev br0\nneigh flush dev br0 nud permanent")

    def configure_bond(self, miimon: int) -> None:
        """Make the bond and the bridge of the hypervisor."""
        self.hypervisor.shell(NO_IPV6)
        self.hypervisor.insert("bonding", "bridge", "unix_diag")
        self.hypervisor.ip(BOND.format(miimon=miimon))

    def configure_guest_port(self) -> None:
        """Join the guest's card to the bridge."""
        self.hypervisor.ip(GUEST_PORT)

    def is_usable(self, uplink: str) -> bool:
        """Return whether the bond may use an uplink."""
        path = f"/sys/class/net/{INTERFACES[uplink]}/bonding_slave/mii_status"
        return self.hypervisor.read(path) == "up\n"

    @property
    def active(self) -> str:
        """The uplink that the bond uses: "a" or "b"."""
        name = self.hypervisor.read("/sys/class/net/bond0/bonding/active_slave").strip()
        return next(key for key, interface in INTERFACES.items() if interface == name)

    @property
    def port_state(self) -> str:
        """What STP does with the bond in the hypervisor's bridge."""
        state = int(self.hypervisor.read("/sys/class/net/bond0/brport/state"))
        return ("disabled", "listening", "learning", "forwarding", "blocking")[state]

    def cut(self, uplink: str) -> None:
        """Cut an uplink's cable: at the bond, then at the switch."""
        self.hypervisor.set_link(uplink, up=False)
        self.fabric.plug(uplink, into_switch=False)

    def mend(self, uplink: str, *, forwards: bool = True) -> None:
        """Connect an uplink's cable; wait until the bond may use it.

        ``forwards``: False leaves the switch's port listening, until the fabric forwards.
        """
        self.fabric.plug(uplink, into_switch=True)
        self.fabric.forward(uplink, forwards)
        self.hypervisor.set_link(uplink, up=True)
        wait_for(lambda: self.is_usable(uplink), f"uplink {uplink}", step=0.02)

    def fail_over(self) -> str:
        """Cut the active uplink; return the one that the bond has switched to."""
        before = self.active
        self.cut(before)
        wait_for(lambda: self.active != before, "the failover", step=0.01)
        return self.active

    def wait_until_reached(self) -> None:
        """Ping until a ping is answered and no answer is under way."""
        first = self.fabric.ping()

        def answered() -> bool:
            self.fabric.ping()
            return max(self.fabric.answered, default=0) >= first

        wait_for(answered, "an answer from the guest", step=0.05)
        # A later answer would teach the switches, whatever the test has done by then.
        last = self.fabric.ping()
        wait_for(lambda: last in self.fabric.answered, "the last answer")

    def lost(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the pings that were not answered although a later one was.

        Pings stay in order, so that no time limit is needed to call one lost.
        """
        self.wait_until_reached()
        return [number for number in numbers if number not in self.fabric.answered]

    def guest_sends(self) -> None:
        """Make what is pinged send until a frame has reached the outside host, and all switches."""
        self.fabric.heard_rarp = False

        def heard() -> bool:
            self.pinged.python("raw.send(frame)")
            return self.fabric.heard_rarp

        wait_for(heard, "the guest's frame at the outside host", step=0.05)


class Testbed(BondTestbed):
    """Hypervisor and guest both under QEMU. ``extras`` puts qemu-ga into the guest."""

    def __init__(self, *, miimon: int = 10, extras: bool = False) -> None:
        self._extras = extras
        super().__init__(miimon=miimon)

    def start(self, miimon: int) -> None:
        self._folder = self.enter_context(tempfile.TemporaryDirectory(prefix="garp-vm-"))
        self._guest_agent = f"{self._folder}/guest-agent"
        self._qemu_guest = self.enter_context(self._start_guest())
        self.guest = self._qemu_guest
        self.hypervisor = self.enter_context(self._start_hypervisor())
        self.configure_bond(miimon)
        self.configure_guest_port()
        for name, path in RELAYED.items():
            self.hypervisor.spawn("python3", "-S", "/opt/garp/guest_relay.py", name, path)
        self.configure_guest()

    def _start_guest(self) -> QemuMachine:
        arguments = [
            *("-qmp", f"unix:{self._folder}/monitor,server=on,wait=off"),
            *("-chardev", f"socket,id=ga,path={self._guest_agent},server=on,wait=off"),
            *("-device", f"virtserialport,chardev=ga,name={GUEST_AGENT_PORT},bus=ports.0"),
        ]
        card = Card("net0", GUEST_MAC, backend=PAIR)
        return QemuMachine("guest", cards=[card], arguments=arguments, extras=self._extras)

    def _start_hypervisor(self) -> QemuMachine:
        taps = self.fabric.uplinks
        cards = [
            Card("a", "52:54:00:00:01:0a", backend=f"tap,fd={taps['a']}"),
            Card("b", "52:54:00:00:01:0b", backend=f"tap,fd={taps['b']}"),
            Card("port", "52:54:00:00:01:0c", backend=self._qemu_guest.far_backend("net0")),
        ]
        return QemuMachine(
            "hypervisor",
            cards=cards,
            hint_port=False,
            inherit=tuple(taps.values()),
            arguments=list(self._relay_ports()),
            **self.in_hypervisor,
        )

    def _relay_ports(self) -> Iterator[str]:
        """The guest's hint port, monitor and qemu-ga, as ports of the hypervisor."""
        sockets = (self._qemu_guest.hint_path, f"{self._folder}/monitor", self._guest_agent)
        for name, path in zip((*RELAYED, GUEST_AGENT_RELAY), sockets):
            chardev = name.replace(".", "-")
            yield from ("-chardev", f"socket,id={chardev},path={path},reconnect=1")
            yield from ("-device", f"virtserialport,chardev={chardev},name={name},bus=ports.0")


class HintWatcher:
    """``garp-hint watch`` in the hypervisor, which starts with the object.

    ``timeout`` is how long it waits for a guest's reply, in seconds: on a busy machine a guest
    may take longer than the default of 1 s.  It gives leases at once, and long ones for the same
    reason, unless told otherwise.
    """

    def __init__(self, hypervisor: Machine, *options: str, timeout: str = "60") -> None:
        self._hypervisor = hypervisor
        self._has_crashed = False
        watch = ("watch", "-v", "--discover", "1", "--timeout", timeout)
        leases = ("--lease-after", "0", "--lease", "600")
        self._process = hypervisor.spawn(*GARP_HINT, *watch, *leases, *options)

    def __enter__(self) -> HintWatcher:
        """Wait until it has found the guest and follows the bond."""
        try:
            wait_for(
                lambda: (status := self.status()) and status["guests"] and status["following"],
                "the watcher's start",
                step=0.2,
            )
        except HangError as error:
            output = f"{self.status()}\n{self._process.output}"
            self._process.kill()
            raise HangError(f"{error}\n{output}") from None
        return self

    def __exit__(self, *_: object) -> None:
        """End it as an operator would, unless it has crashed."""
        if not self._has_crashed:
            self._process.signal(15)
            assert self._process.wait() == 0, self._process.output

    def crash(self) -> None:
        """Kill it: it revokes no lease."""
        self._process.kill()
        self._has_crashed = True

    def status(self) -> dict[str, Any]:
        """What ``garp-hint status`` says; empty before the watcher answers."""
        done = self._hypervisor.run(*GARP_HINT, "status", "--json")
        status: dict[str, Any] = {} if done.returncode else json.loads(done.stdout)
        return status
