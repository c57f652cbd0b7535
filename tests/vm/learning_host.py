"""A hypervisor for the tests of learning frames on real bonds: links, guests, who is behind what.

Its guests are veths, tun devices, a macvtap and a macvlan of its own.

    eth0 eth1: bond0 in br0 (p0 q0 vnet0 vnet1, and pl, which is locked), br0.60 in br60 (p60),
               bond0.100 in br100 (p100), bond0.200 with macvtap mt0 and macvlan mv0,
               802.1ad 50 and 802.1Q 7 on bond0 in br7 (p7),
               fwbr0 (pf) joined to br0 by a veth, as on Proxmox
    eth2 eth3: bond1 in br1, which filters VLANs (pa pt pi vx1)

The queue of eth1 is pfifo_fast, the others are of the kernel's default: fq_codel on Debian.
"""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.vm.qemu import Card, QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.testbed import GARP_HINT, NO_IPV6

OVER = 30.0  # seconds after which no round of a failover is to come; the last one is due after 7 s
CARDS = [Card(name, f"52:54:00:00:01:0{n}") for n, name in enumerate("abcd")]
HOST, HOST60, HOST100, HOST7, HOST1, HOST_FW = (f"02:00:00:00:02:0{n}" for n in range(6))
MACVLAN_MAC = "52:54:00:00:00:f1"
DEFAULT_QUEUE = "/proc/sys/net/core/default_qdisc"
HOST_ADDRESS = "192.0.2.50"
BRIDGE = "up type bridge forward_delay 0 mcast_snooping 0"
SETUP = f"""
link add bond0 type bond mode active-backup miimon 10
link set eth0 master bond0
link set eth1 master bond0
link set bond0 up
link add bond1 type bond mode active-backup miimon 10
link set eth2 master bond1
link set eth3 master bond1
link set bond1 up
link add br0 address {HOST} {BRIDGE}
link set bond0 master br0
link add link br0 br0.60 up type vlan id 60
link add br60 address {HOST60} {BRIDGE}
link set br0.60 master br60
link add link bond0 bond0.100 up type vlan id 100
link add br100 address {HOST100} {BRIDGE}
link set bond0.100 master br100
link add link bond0 bond0.200 up type vlan id 200
link add link bond0.200 mt0 address 52:54:00:00:00:f0 up type macvtap mode bridge
link add link bond0.200 mv0 address {MACVLAN_MAC} up type macvlan mode bridge
link add link bond0 s50 up type vlan protocol 802.1ad id 50
link add link s50 c7 up type vlan id 7
link add br7 address {HOST7} {BRIDGE}
link set c7 master br7
link add fwbr0 address {HOST_FW} {BRIDGE}
link add fwln0 up type veth peer name fwpr0
link set fwln0 master fwbr0
link set fwpr0 master br0 up
link add br1 address {HOST1} {BRIDGE} vlan_filtering 1
link set bond1 master br1
link add vx1 type vxlan id 1 dev eth0 dstport 4789
link set vx1 master br1 up
addr add {HOST_ADDRESS}/24 dev br0
"""
PORTS = {  # the guest's end and its MAC, by port and bridge
    ("p0", "br0"): ("g0", "52:54:00:00:00:01"),
    ("q0", "br0"): ("h0", "52:54:00:00:00:02"),
    ("p60", "br60"): ("g60", "52:54:00:00:00:60"),
    ("p100", "br100"): ("g100", "52:54:00:00:00:02"),  # the MAC of q0's guest, in VLAN 100
    ("p7", "br7"): ("g7", "52:54:00:00:00:07"),
    ("pf", "fwbr0"): ("gf", "52:54:00:00:00:0f"),
    ("pl", "br0"): ("gl", "52:54:00:00:00:0d"),
    ("pa", "br1"): ("ga", "52:54:00:00:00:0a"),
    ("pt", "br1"): ("gt", "52:54:00:00:00:0b"),
    ("pi", "br1"): ("gi", "52:54:00:00:00:0c"),
}
VLANS = """
vlan add dev pa vid 100 pvid untagged
vlan del dev pa vid 1
vlan add dev pi vid 100 pvid untagged
vlan del dev pi vid 1
vlan add dev pt vid 200
vlan add dev pt vid 300
vlan add dev pt vid 400
vlan add dev bond1 vid 100
vlan add dev bond1 vid 200
vlan add dev bond1 vid 300
link set dev bond1 isolated on
link set dev pi isolated on
link set dev pl locked on
fdb add 52:54:00:00:00:e0 dev pa master extern_learn vlan 100
"""
PROGRAM = """
import errno, fcntl, os, socket, struct, time
def frame(mac, tags=()):
    tagged = b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    head = bytes([255] * 6) + bytes.fromhex(mac.replace(":", "")) + tagged
    return (head + bytes.fromhex("88b5")).ljust(60, bytes(1))
def send(link, *frames):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        for each in frames:
            while True:
                try:
                    raw.send(each)
                    break
                except OSError as error:  # a busy kernel has not taken the frames before it
                    if error.errno != errno.ENOBUFS:
                        raise
                    time.sleep(0.001)
def fill(link, mac, buffer=0):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as raw:
        raw.bind((link, 0))
        if buffer:
            raw.setsockopt(socket.SOL_SOCKET, 32, buffer)  # SO_SNDBUFFORCE
        count = 0
        try:
            while True:
                raw.send(frame(mac))
                count += 1
        except OSError as error:
            return count, error.errno
def tun(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002))
    return descriptor
tuns = {name: tun(name) for name in ("vnet0", "vnet1")}
"""
TUNS = """
link set vnet0 address fe:54:00:00:00:71 master br0 up
link set vnet1 address fe:54:00:00:00:72 master br0 up
"""
OWN = "52:54:00:00:00:71"
MACVTAP_MAC = "52:54:00:00:00:f0"
MACVTAP = (MACVTAP_MAC, (200,))
BEHIND_BOND0 = [
    (HOST, ()),
    (HOST60, (60,)),
    (HOST100, (100,)),
    (HOST7, (50, 7)),
    (HOST_FW, ()),
    (OWN, ()),
    ("52:54:00:00:00:01", ()),
    ("52:54:00:00:00:02", ()),
    ("52:54:00:00:00:02", (100,)),
    ("52:54:00:00:00:0f", ()),
    ("52:54:00:00:00:60", (60,)),
    ("52:54:00:00:00:07", (50, 7)),
    MACVTAP,
]
BEHIND_BOND1 = [
    (HOST1, ()),
    ("52:54:00:00:00:0a", (100,)),
    *(("52:54:00:00:00:0b", tags) for tags in ((), (200,), (300,))),
]


def configure(booted: QemuMachine) -> None:
    """Make links and guests."""
    booted.shell(NO_IPV6)
    booted.insert("bonding", "bridge", "veth", "8021q", "macvtap", "macvlan", "tun", "vxlan")
    default = booted.read(DEFAULT_QUEUE)
    booted.write(DEFAULT_QUEUE, "pfifo_fast")
    booted.ip("link set eth1 up\nlink set eth1 down")  # it gets its queue now, and keeps it
    booted.write(DEFAULT_QUEUE, default)
    booted.ip(SETUP)
    for (port, bridge), (end, mac) in PORTS.items():
        booted.ip(
            f"link add {end} address {mac} up type veth peer name {port}\n"
            f"link set {port} master {bridge} up"
        )
    booted.check("bridge", "-batch", "-", stdin=VLANS)
    booted.python(PROGRAM)
    booted.ip(TUNS)


def hear(machine: QemuMachine) -> None:
    """Let all guests send, except those of vnet1 and mt0; the bonds use eth0 and eth2."""
    for card in "abcd":
        machine.set_link(card, up=True)
    for n in range(4):
        status = f"/sys/class/net/eth{n}/bonding_slave/mii_status"
        wait_for(lambda path=status: machine.read(path) == "up\n", "a card is up", step=0.05)
    use(machine, "bond0", "eth0")
    use(machine, "bond1", "eth2")
    forget(machine)
    machine.python("os.write(tuns['vnet0'], frame(own))", own=OWN)
    for end, mac in PORTS.values():
        machine.python("send(end, frame(mac))", end=end, mac=mac)
    tagged = "send('gt', *(frame(mac, (tag,)) for tag in (200, 300, 400)))"
    machine.python(tagged, mac="52:54:00:00:00:0b")
    machine.python("send('mv0', frame(mac))", mac=MACVLAN_MAC)


def forget(machine: QemuMachine) -> None:
    """Make all bridges forget what they have learnt."""
    for port, _bridge in PORTS:
        machine.write(f"/sys/class/net/{port}/brport/flush", "1")
    for port in ("bond0", "bond1", "vnet0", "vnet1", "fwln0", "fwpr0"):
        machine.write(f"/sys/class/net/{port}/brport/flush", "1")


def use(machine: QemuMachine, bond: str, port: str) -> None:
    machine.write(f"/sys/class/net/{bond}/bonding/active_slave", port)


@contextmanager
def full_queue(machine: QemuMachine) -> Iterator[None]:
    """Let no frame leave through eth1, and fill its queue, so that a frame is refused at once."""
    machine.ip("link set eth1 txqueuelen 8")
    try:
        with machine.cables["b"].blocked():
            # With a usual buffer the socket would be full before the queue.
            filled = "result = fill('eth1', '52:54:00:00:00:ff', 1 << 24)[1]"
            assert machine.python(filled) == errno.ENOBUFS
            yield
    finally:
        machine.ip("link set eth1 txqueuelen 1000")


def learning_frames(machine: QemuMachine, card: str) -> Counter[tuple[str, tuple[int, ...]]]:
    """Return MAC and VLANs of the learning frames that left through a card."""
    found = machine.cables[card].announcements(padded=True)
    return Counter((each.mac, each.vlans) for each in found if each.kind == "rarp")


def sent_by(machine: QemuMachine, card: str, mac: str) -> int:
    """Return how many frames of a MAC left through a card."""
    return sum(frame[6:12].hex(":") == mac for frame in machine.cables[card].frames)


def clear(machine: QemuMachine) -> None:
    for cable in machine.cables.values():
        cable.clear()


def learn(machine: QemuMachine, *options: str) -> dict[str, Any]:
    done = machine.run(*GARP_HINT, "learn", "--json", *options)
    assert done.returncode == 0, done
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def left_out(values: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["port"], each["mac"], each["reason"]) for each in values["left_out"]}


def tables(machine: QemuMachine) -> list[str]:
    return sorted(machine.check("bridge", "fdb").splitlines())


def received_by_guests(machine: QemuMachine) -> list[str]:
    names = [end for end, _mac in PORTS.values()]
    return [machine.read(f"/sys/class/net/{name}/statistics/rx_packets") for name in names]


class LearningWatcher:
    """``garp-hint watch --learn`` in the hypervisor."""

    def __init__(self, machine: QemuMachine) -> None:
        self.machine = machine
        self._process = machine.spawn(*GARP_HINT, "watch", "-v", "--learn")

    def __enter__(self) -> LearningWatcher:
        wait_for(
            lambda: (self.status().get("learning") or {}).get("remembered", 0) >= 11,
            "it has read the tables",
            step=0.2,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.signal(15)
        assert self._process.wait() == 0, self._process.output

    def status(self) -> dict[str, Any]:
        done = self.machine.run(*GARP_HINT, "status", "--json")
        status: dict[str, Any] = {} if done.returncode else json.loads(done.stdout)
        return status

    def record(self, rounds: int, reason: str = "") -> dict[str, Any]:
        """Return the last failover's learning frames, after this many rounds.

        A round that comes late takes the place of those before it: after OVER, no more will come.
        """
        asked_at = time.monotonic()

        def found() -> Any:
            status = self.status()
            entries = [each for each in status["history"] if reason in each["reason"]]
            if not entries or status["learning"]["queued"]:
                return None
            entry = entries[-1]["learning"]
            is_over = entry and entry["rounds"] and time.monotonic() - asked_at > OVER
            return entry if is_over or (entry and entry["rounds"] >= rounds) else None

        entry: dict[str, Any] = wait_for(found, "the rounds", step=0.1)
        return entry
