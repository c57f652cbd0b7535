"""Private networks for tests, demo and benchmarks: namespaces, veth pairs and bridges.

A lab is removed when its block ends, when its construction fails, when the interpreter exits, and
on SIGINT, SIGTERM and SIGHUP.  `remove_leftovers` removes what a killed process left, found by
name. Every link is made inside a namespace of the lab, so no frame leaves it.

The guest sends nothing by itself: IPv6 is off (router solicitations would repair the switches) and
neighbour entries are permanent on both sides (ARP retries would repair them, too).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
BRIDGE = "br0"
PROBE_PORT = 9
SETTLING_LIMIT = 60.0
# Above the indexes of the links that every namespace has from the start (lo, tunl0, ...).
FIRST_INDEX = 100

# RFC 5737 and RFC 3849 documentation ranges.
GUEST_ADDRESS = "192.0.2.10"
PEER_ADDRESS = "192.0.2.1"
BROADCAST_ADDRESS = "192.0.2.255"
GUEST_ADDRESS6 = "2001:db8::10"
PEER_ADDRESS6 = "2001:db8::1"
GUEST_MAC = "02:00:5e:00:53:10"
PEER_MAC = "02:00:5e:00:53:01"

_NAME = re.compile(r"garp-(\d+)-\d+-[a-z-]+")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LabError(Exception):
    """The lab failed; the text says at what."""


# role, link, role, link: the two ends of a veth pair
Pair = tuple[str, str, str, str]


class Neighbour(NamedTuple):
    """An entry of a kernel's neighbour table."""

    mac: str | None
    states: tuple[str, ...]


class Cut(NamedTuple):
    """When an uplink was cut: between these two times of the monotonic clock."""

    began: float
    done: float


class Wiring(Enum):
    """How the two switches are joined, which decides where the stale entry is."""

    CORE = "core"  # A and B are joined by a core switch, which keeps the guest behind A
    INTER_SWITCH = "inter-switch"  # A and B are joined: B keeps the guest behind A


# -- the kernel -------------------------------------------------------------------------


def _run(command: Sequence[str], lines: Sequence[str] = ()) -> str:
    # In a session of its own, so that Ctrl-C does not end it halfway.
    done = subprocess.run(
        command,
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        check=False,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed: {done.stderr.strip()} [{'; '.join(lines)}]")
    return done.stdout


def _run_ip(arguments: Sequence[str], lines: Sequence[str] = ()) -> str:
    return _run(["ip", *arguments, "-batch", "-"], lines)


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Run the block with the calling thread inside the namespace; its sockets stay there."""
    with open("/proc/thread-self/ns/net") as home, open(NAMESPACES / namespace) as target:
        try:
            _setns(target.fileno())
            yield
        finally:
            _setns(home.fileno())


def _shown(namespace: str, *arguments: str, tool: str = "ip") -> list[dict[str, Any]]:
    """Return the objects that a tool of iproute2 shows; those that it leaves out are empty."""
    shown: list[dict[str, Any]] = json.loads(
        _run([tool, "-n", namespace, "-s", "-json", *arguments]) or "[]"
    )
    return [each for each in shown if each]


def _unsettled(namespace: str) -> list[str]:
    """Return its links that have no carrier yet; a bridge forwards without one."""
    links = _shown(namespace, "link", "show", "up")
    others = [it for it in links if "LOOPBACK" not in it["flags"] and it["ifname"] != BRIDGE]
    return [it["ifname"] for it in others if it["operstate"] != "UP"]


# -- what this process made, and what others left ----------------------------------------

_serials = itertools.count(1)
_open: list[Lab] = []
# Held while namespaces are made, so that `close_all` misses none.
_gate = threading.RLock()
_closing = threading.Event()


def _present() -> list[str]:
    return sorted(path.name for path in NAMESPACES.glob("*") if _NAME.fullmatch(path.name))


def namespaces_of(process: int) -> list[str]:
    """Return the existing lab namespaces that the process has made."""
    return [name for name in _present() if name.split("-")[1] == str(process)]


def leftovers() -> list[str]:
    """Return the lab namespaces whose maker has ended."""
    return [name for name in _present() if not Path("/proc", name.split("-")[1]).exists()]


def remove_leftovers() -> list[str]:
    """Remove the namespaces that killed processes left; return their names."""
    gone = leftovers()
    _remove(gone, gone)
    return gone


def _remove(namespaces: Sequence[str], inhabited: Sequence[str]) -> None:
    for namespace in inhabited:
        with contextlib.suppress(LabError):  # another process was faster
            for process in _run(["ip", "netns", "pids", namespace]).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
    if namespaces:
        with contextlib.suppress(LabError):
            _run_ip(["-force"], [f"netns del {name}" for name in namespaces])
    if remaining := [name for name in namespaces if (NAMESPACES / name).exists()]:
        raise LabError(f"could not remove the namespaces {', '.join(remaining)}")


def close_all() -> None:
    """Remove every lab of this process, and refuse to make another one."""
    _closing.set()
    with _gate:
        for lab in list(_open):
            lab.close()


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    close_all()
    os.kill(os.getpid(), number)


def _watch_for_the_end() -> None:
    # SIGINT raises KeyboardInterrupt, and `atexit` does the rest.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)


atexit.register(close_all)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Deliver ending signals only after the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


@functools.cache
def why_not() -> str | None:
    """Return why no lab can be built on this machine; None if it can."""
    if os.geteuid():
        return "labs need root"
    if not shutil.which("bridge"):
        return "labs need `ip` and `bridge` (Debian package iproute2)"
    try:
        TinyLab(bridged=True).close()
    except (LabError, OSError) as error:
        return f"labs need network namespaces, veth and bridge: {error}"
    return None


def why_no_arping() -> str | None:
    """Say why iputils' arping cannot be used here; None if it can.

    Habets' arping, another Debian package, has the same name and takes other options.
    """
    if not shutil.which("arping"):
        return "needs `arping` (Debian package iputils-arping)"
    done = subprocess.run(["arping", "-V"], capture_output=True, text=True, check=False)
    if "iputils" not in done.stdout + done.stderr:
        return "needs the `arping` of iputils, and here is another (Debian package iputils-arping)"
    return None


# -- labs -------------------------------------------------------------------------------

Self = TypeVar("Self", bound="Lab")


class Lab:
    """Namespaces, the links between them and the processes in them, under one name."""

    roles: Sequence[str] = ()

    def __init__(self, *, ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self.prefix = f"garp-{os.getpid()}-{next(_serials)}"
        self.processes: list[subprocess.Popen[str]] = []
        self._maker = os.getpid()
        self._inhabited: set[str] = set()
        self._indexes = itertools.count(FIRST_INDEX)
        self._lock = threading.RLock()
        _watch_for_the_end()
        try:
            with _gate:
                if _closing.is_set():
                    raise LabError("the labs of this process are being removed")
                _open.append(self)
                self._make_namespaces()
                self.build()
        except BaseException:
            self.close()
            raise

    def build(self) -> None:
        """Make the links.  The namespaces exist."""

    def namespace(self, role: str) -> str:
        """Return the name of the role's namespace, as `ip -n` takes it."""
        return f"{self.prefix}-{role}"

    def namespaces(self) -> list[str]:
        """Return those of its namespaces that exist."""
        return [name for name in _present() if name.startswith(self.prefix + "-")]

    def _make_namespaces(self) -> None:
        _run_ip([], [f"netns add {self.namespace(role)}" for role in self.roles])
        for role in () if self.ipv6 else self.roles:
            with self.entered(role), contextlib.suppress(FileNotFoundError):
                for scope in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")

    def ip(self, role: str, *commands: str) -> None:
        """Run `ip` commands inside the role's namespace, in one process."""
        _run_ip(["-n", self.namespace(role)], commands)

    def wire(self, *pairs: Pair) -> None:
        """Join (role, link, role, link) by veth pairs."""
        # With equal indexes at both ends, the kernel can act on a carrier change a second late
        # (net/core/link_watch.c, linkwatch_urgent_event).
        ends = [
            f"name {link} index {next(self._indexes)} netns {self.namespace(role)}"
            for pair in pairs
            for role, link in (pair[:2], pair[2:])
        ]
        both = zip(ends[::2], ends[1::2])
        _run_ip([], [f"link add {end} type veth peer {other}" for end, other in both])

    def bridge(self, role: str, *ports: str) -> None:
        """Put the role's links into a bridge that forwards at once and does not age entries."""
        self.ip(
            role,
            f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            " ageing_time 10000000",
            f"link set {BRIDGE} up",
            *(f"link set {port} master {BRIDGE}" for port in ports),
        )

    def host(self, role: str, link: str, mac: str, *addresses: str) -> None:
        """Give a role's link its hardware address and addresses, and set it up."""
        self.ip(
            role,
            "link set lo up",
            f"link set {link} address {mac} up",
            *(f"address add {it} dev {link}{' nodad' * (':' in it)}" for it in addresses),
        )

    def wait_until_up(self, *roles: str) -> None:
        """Wait until every link that is up has a carrier that the kernel has acted on.

        Until then a link drops the frames that it should send.  Raises LabError.
        """
        end = time.monotonic() + SETTLING_LIMIT
        for role in roles:
            while waiting := _unsettled(self.namespace(role)):
                if time.monotonic() > end:
                    raise LabError(f"in {role}, {', '.join(waiting)} did not come up")
                time.sleep(0.001)

    # Looking

    def neighbours(self, role: str) -> dict[str, Neighbour]:
        """Return the role's neighbour table, IPv4 and IPv6, by address."""
        return {
            entry["dst"]: Neighbour(entry.get("lladdr"), tuple(entry["state"]))
            for entry in _shown(self.namespace(role), "neigh", "show")
        }

    def fdb(self, role: str) -> dict[str, str]:
        """Return what the role's bridge has learnt: hardware address -> port."""
        entries = _shown(self.namespace(role), "fdb", "show", "br", BRIDGE, tool="bridge")
        return {entry["mac"]: entry["ifname"] for entry in entries if not entry.get("state")}

    def sent_frames(self, role: str, link: str) -> int:
        """Return how many frames a link has sent since it was made."""
        (entry,) = _shown(self.namespace(role), "link", "show", "dev", link)
        return int(entry["stats64"]["tx"]["packets"])

    # Doing

    def entered(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block with the calling thread inside the role's namespace."""
        return entered(self.namespace(role))

    def open_socket(
        self, role: str, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, proto: int = 0
    ) -> socket.socket:
        """Return a socket of this process in the role's namespace; UDP by default."""
        with self.entered(role):
            return socket.socket(family, kind, proto)

    def packet_socket(self, role: str, link: str, ethertype: int = 0x0003) -> socket.socket:
        """Return a raw socket on a link; by default it receives frames of every type."""
        raw = self.open_socket(role, socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind((link, ethertype))
        return raw

    def run(
        self, role: str, command: Sequence[str], *, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the role's namespace: text, output captured, status checked."""
        options = {"text": True, "stdin": subprocess.DEVNULL, **options}
        self._inhabited.add(self.namespace(role))
        command = ["ip", "netns", "exec", self.namespace(role), *command]
        return subprocess.run(
            command, check=check, capture_output=True, start_new_session=True, **options
        )

    def start(self, role: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process in the role's namespace; it ends with the lab at the latest."""
        self._inhabited.add(self.namespace(role))
        return self.spawn(["ip", "netns", "exec", self.namespace(role), *command], **options)

    def start_agent(self, role: str, *options: str, **popen: Any) -> subprocess.Popen[str]:
        """Start `garp-agent run` of this source tree in the role's namespace."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), **popen.pop("env", {})}
        command = [sys.executable, "-m", "garp_agent", "run", *options]
        return self.start(role, command, env=environment, **popen)

    def spawn(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process in the namespace of this one; it ends with the lab at the latest."""
        options = {"text": True, "stdin": subprocess.DEVNULL, **options}
        with self._lock:
            process = subprocess.Popen(command, start_new_session=True, **options)
            self.processes.append(process)
            return process

    def stop(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        """End a started process and its children; return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        status = process.wait(timeout=10)
        with self._lock:
            if process in self.processes:
                self.processes.remove(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        return status

    # Ending

    def close(self) -> None:
        """Remove everything.  May be called again, and from another thread."""
        if os.getpid() != self._maker:
            return
        with undisturbed(), self._lock:
            for process in list(self.processes):
                self.stop(process, signal.SIGKILL)
            there = self.namespaces()
            _remove(there, [name for name in there if name in self._inhabited])
            if self in _open:
                _open.remove(self)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class TinyLab(Lab):
    """guest eth0 -- eth0 peer, or with a bridge (role `switch`, ports guest, peer) between.

    The peer has no neighbour entry for the guest at first.
    """

    def __init__(self, *, bridged: bool = False, ipv6: bool = False) -> None:
        self.roles = ("guest", "peer", "switch") if bridged else ("guest", "peer")
        super().__init__(ipv6=ipv6)

    def build(self) -> None:
        if "switch" in self.roles:
            self.wire(("guest", "eth0", "switch", "guest"), ("peer", "eth0", "switch", "peer"))
            self.ip("switch", "link set guest up", "link set peer up")
            self.bridge("switch", "guest", "peer")
        else:
            self.wire(("guest", "eth0", "peer", "eth0"))
        sixes = (f"{GUEST_ADDRESS6}/64", f"{PEER_ADDRESS6}/64") if self.ipv6 else ()
        self.host("guest", "eth0", GUEST_MAC, f"{GUEST_ADDRESS}/24", *sixes[:1])
        self.host("peer", "eth0", PEER_MAC, f"{PEER_ADDRESS}/24", *sixes[1:])
        self.wait_until_up(*self.roles)


class FailoverLab(Lab):
    """An external host, switches, a hypervisor with two uplinks, a silent guest.

        CORE           external -- core -+- switch-a -- uplink-a -+- hypervisor -- guest
                                         +- switch-b -- uplink-b -+
        INTER_SWITCH   external -- core --- switch-a -- uplink-a -+- hypervisor -- guest
                                              +- switch-b -- uplink-b -+

    One uplink is a port of the hypervisor's bridge, like the active port of an active-backup bond.
    The other has a carrier, but what it receives is dropped.  A cut removes the carrier at both
    ends of the active uplink, so its switch forgets the guest; the stale entry is in another
    switch.
    """

    roles = ("external", "core", "switch-a", "switch-b", "hypervisor", "guest")

    def __init__(self, wiring: Wiring = Wiring.CORE) -> None:
        self.wiring = wiring
        self.active = "a"
        self._cut: str | None = None
        super().__init__()

    def build(self) -> None:
        # Both links together would make a forwarding loop.
        above = "core" if self.wiring is Wiring.CORE else "switch-a"
        pairs = (
            ("external", "eth0", "core", "external"),
            ("core", "switch-a", "switch-a", "core"),
            (above, "switch-b", "switch-b", above),
            ("switch-a", "host", "hypervisor", "uplink-a"),
            ("switch-b", "host", "hypervisor", "uplink-b"),
            ("hypervisor", "guest", "guest", "eth0"),
        )
        self.wire(*pairs)
        ends = [end for one, link, other, peer in pairs for end in ((one, link), (other, peer))]
        for role in ("core", "switch-a", "switch-b", "hypervisor"):
            links = [link for owner, link in ends if owner == role]
            self.ip(role, *(f"link set {link} up" for link in links))
            self.bridge(role, *(link for link in links if link != "uplink-b"))
        for role, mac, address, other_mac, other in (
            ("external", PEER_MAC, PEER_ADDRESS, GUEST_MAC, GUEST_ADDRESS),
            ("guest", GUEST_MAC, GUEST_ADDRESS, PEER_MAC, PEER_ADDRESS),
        ):
            self.host(role, "eth0", mac, f"{address}/24")
            self.ip(role, f"neigh replace {other} lladdr {other_mac} dev eth0 nud permanent")
        self.wait_until_up(*self.roles)
        self.speak()

    def speak(self) -> None:
        """Send one broadcast datagram from the guest, so that every switch learns its port."""
        with self.open_socket("guest") as voice:
            voice.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            voice.sendto(b"here", (BROADCAST_ADDRESS, PROBE_PORT))

    def fail_over(self) -> Cut:
        """Cut the active uplink and make the other one active, as a bond does.

        Raises LabError where an uplink is still cut.
        """
        if self._cut:
            raise LabError(f"uplink-{self._cut} is still cut: restore it first")
        backup = "b" if self.active == "a" else "a"
        began = time.monotonic()
        switch = (f"uplink-{self.active} down", f"uplink-{backup} master {BRIDGE}")
        self.ip("hypervisor", *(f"link set {each}" for each in switch))
        done = time.monotonic()
        self._cut, self.active = self.active, backup
        return Cut(began, done)

    def restore(self) -> None:
        """Bring the cut uplink back as the backup."""
        if self._cut:
            uplink = f"uplink-{self._cut}"
            self.ip("hypervisor", f"link set {uplink} nomaster", f"link set {uplink} up")
            self.wait_until_up("hypervisor", f"switch-{self._cut}")
            self._cut = None

    def believed_port(self) -> str | None:
        """Return the port where the deciding switch has the guest; None for no entry."""
        decides = "core" if self.wiring is Wiring.CORE else f"switch-{self.active}"
        return self.fdb(decides).get(GUEST_MAC)

    def true_port(self) -> str:
        """Return the port of that switch behind which the guest is."""
        return f"switch-{self.active}" if self.wiring is Wiring.CORE else "host"

    def probe_sockets(self) -> tuple[socket.socket, socket.socket]:
        """Return a socket of the external host that sends to one of the guest."""
        receiver = self.open_socket("guest")
        receiver.bind((GUEST_ADDRESS, PROBE_PORT))
        sender = self.open_socket("external")
        sender.connect((GUEST_ADDRESS, PROBE_PORT))
        return sender, receiver
