"""A hypervisor with a real bond, and a guest behind it: two machines, joined.

The hypervisor has an uplink to each switch of a :class:`~tests.vm.fabric.Fabric`, both in
an active-backup bond, and a bridge with the bond and the guest's card in it.  The
guest's hint port appears in the hypervisor as a Unix socket where libvirt would put it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.vm.fabric import OUTSIDE_ADDRESS, OUTSIDE_MAC, Fabric
from tests.vm.machine import PAIR, Card, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Told, mac_text

GUEST_MAC = "52:54:00:00:00:01"
GUEST_ADDRESS = "192.0.2.1"
CHANNEL = "/run/libvirt/qemu/channel/1-guest/org.garp_agent.0"
GARP_HINT = ("python3", "-m", "garp_agent.hypervisor")
MONITOR = "/run/qemu/guest.qmp"
GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
GUEST_AGENT_RELAY = "relay.guest-agent"
RELAYED = {"relay.hint": CHANNEL, "relay.monitor": MONITOR}

QUIET = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"  # else its solicitations heal by chance

RARP = f"""
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
mac = bytes.fromhex("{GUEST_MAC.replace(":", "")}")
frame = bytes([255] * 6) + mac + bytes.fromhex("8035 0001 0800 06 04 0003")
frame += mac + bytes(4) + mac + bytes(4 + 18)
"""
BOND = """
link add bond0 type bond mode active-backup miimon {miimon}
link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
link set {a} master bond0
link set {b} master bond0
link set bond0 master br0
link set {guest} master br0
link set {a} up
link set {b} up
link set {guest} up
link set bond0 up
link set br0 up
"""
SENT = Told("rarp", GUEST_MAC, "")


class Uplink(NamedTuple):
    """One uplink of the bond: the card as QEMU and the hypervisor's kernel name it."""

    card: str
    interface: str


UPLINKS = {"a": Uplink("upa", "eth0"), "b": Uplink("upb", "eth1")}


class Site:
    """Fabric, hypervisor and guest, with the guest learned behind uplink a.

    ``extras`` puts the larger programs into the guest, among them qemu-ga.
    """

    def __init__(self, *, miimon: int = 10, extras: bool = False) -> None:
        self.fabric = Fabric()
        self._latest = 0
        self._folder = tempfile.TemporaryDirectory(prefix="garp-vm-")
        self._guest_agent = f"{self._folder.name}/guest-agent"
        self._extras = extras
        self.guest = self._start_guest()
        self.hypervisor = self._start_hypervisor()
        try:
            self._configure(miimon)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends both machines and the switches."""
        self.hypervisor.stop()
        self.guest.stop()
        self.fabric.close()
        self._folder.cleanup()

    # -- the bond -------------------------------------------------------------------------

    @property
    def active(self) -> str:
        """The uplink that the bond uses: "a" or "b"."""
        name = self.hypervisor.read("/sys/class/net/bond0/bonding/active_slave").strip()
        return next(key for key, uplink in UPLINKS.items() if uplink.interface == name)

    def cut(self, uplink: str) -> None:
        """Cuts an uplink's cable, as both of its ends see it: first the bond's."""
        self.hypervisor.set_link(UPLINKS[uplink].card, up=False)
        self.fabric.plug(uplink, into_switch=False)

    def mend(self, uplink: str) -> None:
        """Joins it again, and waits until the bond counts on it."""
        self.fabric.plug(uplink, into_switch=True)
        self.hypervisor.set_link(UPLINKS[uplink].card, up=True)
        path = f"/sys/class/net/{UPLINKS[uplink].interface}/bonding_slave/mii_status"
        PUMP.wait_for(
            lambda: self.hypervisor.read(path).strip() == "up", f"uplink {uplink}", step=0.02
        )

    def fail_over(self) -> str:
        """Cuts the active uplink; the one in use once the bond has switched."""
        before = self.active
        self.cut(before)
        PUMP.wait_for(lambda: self.active != before, "the failover", step=0.01)
        return self.active

    def wait_for_carrier(self, *, up: bool) -> None:
        """Returns when the bond has, or has not, an uplink that works."""
        wanted = "up" if up else "down"
        PUMP.wait_for(
            lambda: self.hypervisor.read("/sys/class/net/bond0/operstate").strip() == wanted,
            f"the bond {wanted}",
            step=0.02,
        )

    # -- pings ----------------------------------------------------------------------------

    def ping(self) -> int:
        """Sends one echo request from outside; its number."""
        self._latest += 1
        number = self._latest
        self.fabric.ping(bytes.fromhex(GUEST_MAC.replace(":", "")), GUEST_ADDRESS, number)
        return number

    def wait_until_reached(self) -> int:
        """Pings until one is answered, and no answer is on its way; how many it took."""
        first = self.ping()

        def answered() -> bool:
            self.ping()
            return bool(self.fabric.answered().keys() & set(range(first, self._latest + 1)))

        PUMP.wait_for(answered, "an answer from the guest", step=0.05)
        took = self._latest - first
        # One that came later would teach the switches, whatever the test has done by then.
        last = self.ping()
        PUMP.wait_for(lambda: last in self.fabric.answered(), "the last answer")
        return took

    def lost(self, numbers: Sequence[int]) -> list[int]:
        """Those of the pings that were not answered although a later one was.

        All take the same way, so that an answer to a later ping comes last: no time-out
        is needed to know.
        """
        self.wait_until_reached()
        return [number for number in numbers if number not in self.fabric.answered()]

    def guest_sends(self) -> None:
        """The guest sends frames until one has reached the outside host, and all switches."""
        since = len(self.fabric.heard)

        def heard() -> bool:
            self.guest.python("raw.send(frame)")
            return any(frame.told == SENT for frame in self.fabric.heard[since:])

        PUMP.wait_for(heard, "the guest's frame at the outside host", step=0.05)

    # -- machines -------------------------------------------------------------------------

    def _start_guest(self) -> Machine:
        arguments = [
            *("-qmp", f"unix:{self._folder.name}/monitor,server=on,wait=off"),
            *("-chardev", f"socket,id=ga,path={self._guest_agent},server=on,wait=off"),
            *("-device", f"virtserialport,chardev=ga,name={GUEST_AGENT_PORT},bus=ports.0"),
        ]
        card = Card("net0", GUEST_MAC, backend=PAIR)
        return Machine("guest", cards=[card], arguments=arguments, extras=self._extras)

    def _start_hypervisor(self) -> Machine:
        taps = self.fabric.uplinks
        cards = [
            Card("upa", "52:54:00:00:01:0a", backend=f"tap,fd={taps['a']}"),
            Card("upb", "52:54:00:00:01:0b", backend=f"tap,fd={taps['b']}"),
            Card("port", "52:54:00:00:01:0c", backend=self.guest.far_backend("net0")),
        ]
        return Machine(
            "hypervisor",
            cards=cards,
            hint_port=False,
            inherit=tuple(taps.values()),
            arguments=list(self._relay_ports()),
        )

    def _relay_ports(self) -> Iterator[str]:
        """The guest's hint port and a monitor of it, as ports of the hypervisor."""
        sockets = (self.guest.hint_path, f"{self._folder.name}/monitor", self._guest_agent)
        for name, path in zip((*RELAYED, GUEST_AGENT_RELAY), sockets):
            chardev = name.replace(".", "-")
            yield from ("-chardev", f"socket,id={chardev},path={path},reconnect=1")
            yield from ("-device", f"virtserialport,chardev={chardev},name={name},bus=ports.0")

    def _configure(self, miimon: int) -> None:
        hypervisor, guest = self.hypervisor.ready(), self.guest.ready()
        for machine in (hypervisor, guest):
            machine.shell(QUIET)
        hypervisor.insert("bonding", "bridge")
        hypervisor.ip(BOND.format(miimon=miimon, a="eth0", b="eth1", guest="eth2"))
        for name, path in RELAYED.items():
            hypervisor.spawn("python3", "-S", "/opt/garp/guest_relay.py", name, path)
        guest.python(RARP)
        guest.ip(
            f"addr add {GUEST_ADDRESS}/24 dev eth0\nlink set eth0 up\n"
            f"neigh add {OUTSIDE_ADDRESS} lladdr {mac_text(OUTSIDE_MAC)} dev eth0 nud permanent"
        )


class Watcher:
    """``garp-hint watch`` in the hypervisor, started when made."""

    def __init__(self, hypervisor: Machine, *options: str) -> None:
        self._hypervisor = hypervisor
        self._process = hypervisor.spawn(*GARP_HINT, "watch", "-v", "--discover", "0.2", *options)

    def status(self) -> dict[str, Any]:
        """What ``garp-hint status`` says; empty before it can be asked."""
        done = self._hypervisor.run(*GARP_HINT, "status", "--json")
        status: dict[str, Any] = {} if done.status else json.loads(done.stdout)
        return status

    def wait_for_guest(self) -> None:
        """Returns when it has found the guest and follows the bond."""
        PUMP.wait_for(
            lambda: (status := self.status()) and status["guests"] and status["following"],
            "the watcher's start",
            step=0.2,
        )

    def history(self) -> list[dict[str, Any]]:
        """The failovers it has seen."""
        history: list[dict[str, Any]] = self.status()["history"]
        return history

    def stop(self) -> None:
        """Ends it as an operator would."""
        self._process.signal(15)
        assert self._process.wait() == 0, self._process.output
