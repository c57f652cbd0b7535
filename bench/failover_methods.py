"""What `make bench-failover` compares: something that runs in the guest, the hypervisor, or both.

Each is a context manager of a testbed; inside, failovers are measured (bench.failover_vm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from tests.vm.agent import Agent
from tests.vm.fabric import GUEST_ADDRESS, GUEST_MAC
from tests.vm.receiver import wait_for
from tests.vm.testbed import (
    GUEST_AGENT_PORT,
    GUEST_AGENT_RELAY,
    MONITOR,
    BondTestbed,
    HintWatcher,
)

ARPING_LOOP = f"while true; do arping -q -U -c1 -I eth0 {GUEST_ADDRESS}; sleep 5; done"
FIND_PORT = """
node=$(grep -lx {name} /sys/class/virtio-ports/*/name)
node=${{node%/name}}
port=/dev/${{node##*/}}
"""
QEMU_GA = "exec qemu-ga -m virtio-serial -p $port"
# What an operator without this project can do: have qemu-ga run arping at each failover.
FAILOVER_HOOK = f"""
exec 3>$port
ip monitor link | while read -r line; do
    case $line in *"event BONDING FAILOVER"*)
        echo '{{"execute": "guest-exec", "arguments": {{"path": "/usr/bin/arping",
            "arg": ["-U", "-c1", "-I", "eth0", "{GUEST_ADDRESS}"]}}}}' >&3
    esac
done
"""
TALK = """
import threading, time
talking = True
def talk():
    while talking:
        raw.send(frame)
        time.sleep(0.01)
threading.Thread(target=talk).start()
"""
# Further MACs, on ports of their own: at most 64 of one port get a learning frame.
PORTS, MACS_PER_PORT = 16, 63
FURTHER_MACS = PORTS * MACS_PER_PORT
SPEAK = """
import socket
for port in range(ports):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as further:
        further.bind((f"g{port}", 0))
        for number in range(macs_per_port):
            mac = bytes((0x52, 0x54, 1, 0, port, number))
            further.send(bytes([255] * 6) + mac + bytes.fromhex("88b5") + bytes(46))
"""
STATUS_FOLDER = "/tmp/status"
CARD = f"""<domstatus><domain><name>guest</name><devices><interface type='bridge'>
  <mac address='{GUEST_MAC}'/><source bridge='br0'/><target dev='vif1.0'/>
</interface></devices></domain></domstatus>"""


class Method(NamedTuple):
    """Something that runs in the guest or in the hypervisor, or nothing."""

    key: str
    title: str
    cycle: float  # approximate seconds between two of its announcements
    running: Callable[[BondTestbed], AbstractContextManager[object]]
    most: int = 1000  # failovers that are enough


@contextmanager
def arping_loop(testbed: BondTestbed) -> Iterator[None]:
    """What operators put into /etc/rc.local."""
    process = testbed.guest.spawn("sh", "-c", ARPING_LOOP)
    yield
    process.kill()


def announce_self(testbed: BondTestbed) -> HintWatcher:
    """No agent: the hypervisor asks QEMU, and QEMU asks the guest's kernel."""
    options = ("--announce-self", "--monitor", MONITOR)
    return HintWatcher(testbed.hypervisor, *options, timeout="1")


def rewriting(testbed: BondTestbed) -> HintWatcher:
    """No agent: dom0 of a Xen host asks the guest's kernel."""
    return HintWatcher(testbed.hypervisor, "--announce-self", timeout="1")


@contextmanager
def learning_frames(
    testbed: BondTestbed, *options: str, remembered: int = 1
) -> Iterator[HintWatcher]:
    """No agent: the hypervisor sends a RARP with the guest's MAC on the bond."""
    testbed.guest_sends()
    with HintWatcher(testbed.hypervisor, "--learn", *options, timeout="1") as watcher:
        wait_for(lambda: watcher.status()["learning"]["remembered"] >= remembered, "MACs", step=0.2)
        yield watcher


@contextmanager
def among_many(testbed: BondTestbed, *options: str) -> Iterator[None]:
    """The same with 1,008 further MACs; print how long the frames of a failover took."""
    machine = testbed.hypervisor
    machine.insert("veth")
    for number in range(PORTS):
        machine.ip(
            f"link add g{number} up type veth peer name p{number}\nlink set p{number} master br0 up"
        )
    machine.python(SPEAK, ports=PORTS, macs_per_port=MACS_PER_PORT)
    with learning_frames(testbed, *options, remembered=FURTHER_MACS + 1) as watcher:
        yield
        records = [each["learning"] for each in watcher.status()["history"]]
        print("seconds to the last frame:", [each["last_seconds"] for each in records if each])
    machine.ip("".join(f"link delete g{number}\n" for number in range(PORTS)))


@contextmanager
def first_of_many(testbed: BondTestbed) -> Iterator[None]:
    """libvirt names the guest's card, as usual: what is a port's own comes first."""
    machine = testbed.hypervisor
    machine.python("import os; os.makedirs(path, exist_ok=True)", path=STATUS_FOLDER)
    machine.write(f"{STATUS_FOLDER}/guest.xml", CARD)
    with among_many(testbed, "--libvirt-status", STATUS_FOLDER):
        yield


@contextmanager
def guest_exec(testbed: BondTestbed) -> Iterator[None]:
    """No agent of ours: the hypervisor asks qemu-ga to run arping."""
    guest_port = FIND_PORT.format(name=GUEST_AGENT_PORT)
    relay = FIND_PORT.format(name=GUEST_AGENT_RELAY)
    qemu_ga = testbed.guest.spawn("sh", "-c", guest_port + QEMU_GA)
    hook = testbed.hypervisor.spawn("setsid", "/bin/dash", "-c", relay + FAILOVER_HOOK)
    yield
    testbed.hypervisor.shell(f"kill -- -{hook.pid}")
    qemu_ga.kill()


@contextmanager
def agent_with_hints(testbed: BondTestbed, *options: str) -> Iterator[None]:
    """The agent, and `garp-hint watch` in the hypervisor."""
    watcher = HintWatcher(testbed.hypervisor, *options)
    with Agent(testbed.guest, interval="5s") as started, watcher:
        started.wait_until(lambda status: status["lease"], "the lease")
        yield


@contextmanager
def hosts_own(
    testbed: BondTestbed, running: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Ping the hypervisor's bridge instead of the guest."""
    with testbed.ping_hypervisor(), running():
        yield


@contextmanager
def talking(testbed: BondTestbed) -> Iterator[None]:
    """A guest that sends a frame every 10 ms anyway: no method can be faster."""
    testbed.guest.python(TALK)
    yield
    testbed.guest.python("talking = False")


METHODS = (
    Method("nothing", "nothing", 0.5, lambda _: nullcontext(), most=5),
    Method("arping", "arping loop, sleep 5 s", 6.0, arping_loop),
    Method("agent", "garp-agent, every 5 s", 5.0, lambda vm: Agent(vm.guest, interval="5s")),
    Method("announce-self", "no agent, QMP announce-self on failover", 0.5, announce_self),
    Method("learning", "no agent, learning frames (garp-hint watch --learn)", 0.5, learning_frames),
    Method("first", "the same, and 1,008 other MACs behind it", 0.5, first_of_many),
    Method("last", "the same, its frame is the last of the 1,009", 0.5, among_many),
    Method("guest-exec", "no agent, qemu-ga guest-exec arping on failover", 0.5, guest_exec),
    Method("hints", "garp-agent with hints (garp-hint watch)", 0.5, agent_with_hints),
    Method(
        "hints-learning",
        "garp-agent with hints and learning frames",
        0.5,
        lambda vm: agent_with_hints(vm, "--learn"),
    ),
    Method(
        "host-nothing",
        "the host's own address: nothing",
        0.5,
        lambda vm: hosts_own(vm, nullcontext),
        5,
    ),
    Method(
        "host-agent",
        "the host's own address: garp-agent on the host",
        0.5,
        lambda vm: hosts_own(vm, lambda: Agent(vm.hypervisor)),
    ),
    Method(
        "host-learning",
        "the host's own address: learning frames",
        0.5,
        lambda vm: hosts_own(vm, lambda: HintWatcher(vm.hypervisor, "--learn", timeout="1")),
    ),
    Method("talking", "for comparison: a guest that sends every 10 ms", 0.01, talking),
)
OPEN_VSWITCH_METHODS = {  # by how it detects a lost carrier
    "miimon": Method("ovs", "Open vSwitch's own bond, miimon", 0.5, lambda _: nullcontext()),
    "carrier": Method(
        "ovs-carrier", "Open vSwitch's own bond, as installed", 0.5, lambda _: nullcontext()
    ),
}
PLOTTED = (
    "nothing",
    "arping",
    "agent",
    "announce-self",
    "learning",
    "guest-exec",
    "hints",
    "talking",
)
XEN_METHODS = tuple(
    Method("announce-self", "no agent, states of its cards rewritten on failover", 0.5, rewriting)
    if method.key == "announce-self"
    else method
    for method in METHODS
    if method.key in PLOTTED and method.key != "guest-exec"
)
