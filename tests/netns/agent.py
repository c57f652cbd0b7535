"""The real daemon in a namespace, and what arrives at the other end of its link.

Every wait names its condition and polls it; only a broken agent makes a test wait for `LIMIT`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench import lab
from garp_agent.runtime import client

LIMIT = 60.0  # seconds
FREE_OF_REFRESHES = 20.0  # seconds, for a test that counts frames of any cause
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(lab.ROOT / "agent")}
# every-python.sh sets this, to test the single file.
_FILE = os.environ.get("GARP_AGENT_UNDER_TEST")
COMMAND = (_FILE,) if _FILE else (sys.executable, "-m", "garp_agent")

# Announce only for a cause: refreshes are rare, and a burst has one round.
WITH_RARP = """\
interval: 270s
interval_with_lease: 270s
jitter: 0%
burst: [0s]
"""
QUIET = f"{WITH_RARP}mac_only: false\n"  # only addresses are announced
WITHOUT_CHECK = "conflict: {policy: warn}\n"  # no probe comes before the first announcement
NO_BUCKET = "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"
# A burst that is still under way whenever a test does something: ten rounds.
LONG_BURST = QUIET.replace("[0s]", "[0s, 1s, 2s, 3s, 4s, 5s, 6s, 7s, 8s, 9s]") + NO_BUCKET

RARP = "rarp"
PROBES = {"arp-probe", "dad-probe"}
NEW_MAC = "02:00:5e:00:53:77"  # for a link that changes its hardware address
OTHER_MAC = "02:00:5e:00:53:20"  # for the guest's second link
_SO_RCVBUFFORCE = 33
_OUTGOING = 4

T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    """Call `look` until its value is true, and return the value."""
    end = time.monotonic() + LIMIT
    while not (value := look()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.002)
    return value


@contextlib.contextmanager
def meanwhile(*work: Callable[[], object]) -> Iterator[None]:
    """Call each function again and again during the block, each in a thread of its own."""
    over = threading.Event()

    def repeat(each: Callable[[], object]) -> None:
        while not over.is_set():
            each()

    threads = [threading.Thread(target=repeat, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class Agent:
    """`garp-agent run` in a namespace of a lab; its log is a file of JSON lines."""

    def __init__(
        self,
        where: lab.Lab,
        directory: Path,
        *options: str,
        config: str = QUIET,
        role: str = "guest",
        prefix: tuple[str, ...] = (),
        wait: bool = True,
        stderr: int | None = None,
    ) -> None:
        self.lab = where
        self.control = directory / "control.sock"
        self.config = directory / "config.yaml"
        self.write_config(config)
        self.log_file = directory / f"log-{time.monotonic_ns()}"
        self._log: list[dict[str, Any]] = []  # what was read of it so far
        command = [*prefix, *COMMAND, "run", "--log-format", "json", "-c", str(self.config)]
        with open(self.log_file, "wb") as log:
            self.process = where.start(
                role, [*command, *options], env=ENVIRONMENT, stdout=log, stderr=stderr or log
            )
        if wait:
            self.wait_until_ready()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Stop the agent unless the test has; it must end with status 0."""
        if kind is None and self.process.poll() is None:
            assert self.stop() == 0, self.log_text()
            assert self.log()[-1]["event"] == "stopped"

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        """Return when the agent has completed its first dump and its first checks."""

        def ready() -> bool:
            assert self.process.poll() is None, f"it ended: {self.log_text()}"
            with contextlib.suppress(client.ClientError):
                links = self.status()["links"]
                return bool(links) and not any(
                    is_checked(each) for link in links for each in link["addresses"]
                )
            return False

        def is_checked(address: dict[str, Any]) -> bool:
            kinds = set(address["announced_as"])
            return not is_probe_form and bool(kinds & PROBES) and not address["conflict"]

        is_probe_form = "arp: probe" in self.config.read_text()
        until(ready, "the agent answers")

    def log_text(self) -> str:
        return self.log_file.read_text()

    def log(self, event: str = "", **fields: object) -> list[dict[str, Any]]:
        """Return the lines so far that have this event and these fields."""
        # What follows the last line end is still being written.
        self._log += map(json.loads, self.log_text().split("\n")[len(self._log) : -1])
        wanted = {"event": event, **fields} if event else fields
        return [line for line in self._log if wanted.items() <= line.items()]

    def wait_for_log(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Return the last such line, as soon as there are `count` of them."""
        found = until(
            lambda: (lines := self.log(event, **fields))[count - 1 :] and lines,
            f"log {event} {fields}",
        )
        return found[-1]

    def status(self) -> dict[str, Any]:
        return client.ask(str(self.control), "status")

    def link(self, name: str) -> dict[str, Any] | None:
        found = [link for link in self.status()["links"] if link["interface"] == name]
        return found[-1] if found else None

    def addresses(self, name: str = "eth0") -> dict[str, dict[str, Any]]:
        """Return what status says of each address of a link, by address."""
        link = self.link(name) or {"addresses": []}
        return {address["address"]: address for address in link["addresses"]}

    def announced(self, name: str = "eth0") -> set[str]:
        return {text for text, a in self.addresses(name).items() if a["skipped"] is None}

    def claims(self, address: str, name: str = "eth0") -> bool:
        """Return whether it announces an address with frames that claim it."""
        kinds = self.addresses(name)[address]["announced_as"]
        return bool({"arp-request", "arp-reply", "unsolicited-na"} & set(kinds))

    def sent(self) -> int:
        return int(self.status()["frames"]["sent"])

    def sent_by(self, cause: str) -> int:
        return int(self.status()["frames"]["by_cause"].get(cause, 0))

    def proc(self, field: str) -> str:
        """Return a field of /proc/PID/status, proc(5)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return text.partition(f"\n{field}:")[2].split()[0]

    def is_asleep(self) -> bool:
        return self.proc("State") == "S"

    def voluntary_switches(self) -> int:
        """Return how often it went to sleep."""
        return int(self.proc("voluntary_ctxt_switches"))

    def resident(self) -> int:
        """Return its resident memory in KiB."""
        return int(self.proc("VmRSS"))

    def children(self) -> list[int]:
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def descriptors(self) -> set[int]:
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}

    def open_files(self) -> int:
        """Return the number of its descriptors, once it has closed those of departed clients."""
        # A hang-up makes it runnable at once: when it next sleeps, it has handled that.
        until(self.is_asleep, "it sleeps")
        return len(self.descriptors())

    def burst(self) -> int:
        """Return the number of frames that were sent before the reply."""
        return int(str(client.ask(str(self.control), "burst")["frames"]))

    def send_more(self, count: int) -> None:
        """Return when it has sent so many more frames."""
        before = self.sent()
        until(lambda: self.sent() >= before + count, f"{count} more frames")

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def write_config(self, text: str, hint_port: object = "none") -> None:
        """Replace the configuration file as editors do."""
        new = self.config.with_suffix(".new")
        new.write_text(f"control_socket: {self.control}\nhint_port: {hint_port}\n{text}")
        new.rename(self.config)

    def reload(self, config: str, hint_port: object = "none") -> None:
        """Replace the file and send SIGHUP; does not wait."""
        self.write_config(config, hint_port)
        self.kill(signal.SIGHUP)

    def limit_descriptors(self, limit: int | None) -> None:
        """Set how many descriptors it may have open, getrlimit(2); None removes the limit."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = most if limit is None else limit
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, most))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the daemon with SIGSTOP during the block."""
        self.kill(signal.SIGSTOP)
        try:
            until(lambda: self.proc("State") == "T", "it stops")
            yield
        finally:
            self.kill(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; return its exit status."""
        self.kill(number)
        return self.process.wait(LIMIT)


class Capture:
    """Every frame that arrives on a link of the lab, from now on.

    ``both``: also those that leave by it, in the order of the kernel.
    """

    def __init__(
        self, where: lab.Lab, role: str = "peer", link: str = "eth0", both: bool = False
    ) -> None:
        self._both = both
        self.socket = where.packet_socket(role, link)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self.socket.setblocking(False)
        self.frames: list[bytes] = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def read(self) -> list[bytes]:
        """Return all frames so far."""
        while True:
            try:
                frame, sender = self.socket.recvfrom(1 << 16)
            except BlockingIOError:
                return self.frames
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # reported once, when the link goes down
                    raise
                continue
            if self._both or sender[2] != _OUTGOING:
                self.frames.append(frame)

    def clear(self) -> None:
        self.read()
        self.frames = []

    def announcements(self, address: str = "", mac: str = lab.GUEST_MAC) -> list[Packet]:
        """Return the frames from a hardware address that announce `address`, or any address."""
        own = bytes.fromhex(mac.replace(":", ""))
        packets = [Ether(frame) for frame in self.read() if frame[6:12] == own]
        return [p for p in packets if announced(p) and address in ("", announced(p))]

    def wait_for(self, address: str = "", mac: str = lab.GUEST_MAC, count: int = 1) -> list[Packet]:
        def enough() -> list[Packet]:
            found = self.announcements(address, mac)
            return found if len(found) >= count else []

        return until(enough, f"{count} announcements of {address or 'anything'} by {mac}")


class Site(NamedTuple):
    """A lab, what arrives at its peer, and a folder for the agent's files."""

    lab: lab.TinyLab
    wire: Capture
    directory: Path

    def start(self, *options: str, **arguments: Any) -> Agent:
        """Start an agent in the guest, with the options and arguments of `Agent`."""
        return Agent(self.lab, self.directory, *options, **arguments)

    def start_without_refresh(self, *options: str, **arguments: Any) -> Agent:
        """Start agents until one has sent no refresh and sends none for FREE_OF_REFRESHES seconds.

        The first refresh of a link is at a random moment within the interval.  For tests that
        count frames of any cause.
        """
        while True:
            self.wire.clear()
            agent = self.start(*options, **arguments)
            status = agent.status()
            moments = [link.get("next_refresh") for link in status["links"]]
            is_free = all(at is None or at > FREE_OF_REFRESHES for at in moments)
            if is_free and "refresh" not in status["frames"]["by_cause"]:
                return agent
            assert agent.stop() == 0

    def guest(self, *commands: str) -> None:
        """Run ip(8) commands in the guest."""
        self.lab.ip("guest", *commands)

    def add_link(self, name: str, address: str) -> None:
        """Give the guest a veth link, whose name may hold odd characters, with one address."""
        for words in (
            f"link add dev {name} type veth peer name {address}",
            f"link set {address} up",
            f"address add {address}/24 dev {name}",
            f"link set dev {name} up",
        ):
            self.lab.run("guest", ["ip", *words.split()])

    def sysctl(self, role: str, setting: str) -> None:
        """Set "net.ipv4...=value" in a role's namespace."""
        self.lab.run(role, ["sysctl", "-qw", setting])


def forget_link_local(where: lab.Lab, *links: str) -> None:
    """Leave only the addresses the lab gave: link-local ones come and go by themselves (DAD)."""
    for role in ("guest", "peer"):
        for link in links or ("eth0",):
            where.ip(role, f"link set {link} addrgenmode none", f"addr flush dev {link} scope link")


def announced(packet: Packet) -> str:
    """Return the address that a frame announces or probes for; "" for any other frame."""
    if packet.type == 0x8035:
        return RARP
    if ARP in packet:
        arp = packet[ARP]
        # Linux also sends requests to resolve a neighbour, for an address of that neighbour.
        return str(arp.pdst) if arp.psrc in (arp.pdst, "0.0.0.0") else ""
    if ICMPv6ND_NA in packet and not packet[ICMPv6ND_NA].S:
        return str(packet[ICMPv6ND_NA].tgt) if packet[IPv6].dst == "ff02::1" else ""
    return ""


def set_entry(where: lab.Lab, address: str, mac: str) -> None:
    """Give the peer a neighbour entry that the next announcement replaces."""
    where.ip("peer", f"neigh replace {address} lladdr {mac} dev eth0 nud stale")


def believed(where: lab.Lab, address: str) -> str | None:
    """Return the hardware address that the peer has for an address."""
    entry = where.neighbours("peer").get(address)
    return entry.mac if entry else None


def wait_until_believed(where: lab.Lab, address: str, mac: str = lab.GUEST_MAC) -> None:
    until(lambda: believed(where, address) == mac, f"the peer has {mac} for {address}")


def command(
    where: lab.Lab, *arguments: str, role: str = "guest", prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `garp-agent ARGUMENTS` to its end."""
    words = [*prefix, *COMMAND, *arguments]
    return where.run(role, words, env=ENVIRONMENT, check=False, timeout=LIMIT)


def gratuitous(mac: str, address: str = lab.GUEST_ADDRESS, op: int = 1) -> Ether:
    """Return the gratuitous ARP with which a station claims an address."""
    everybody = "ff:ff:ff:ff:ff:ff"
    arp = ARP(op=op, hwsrc=mac, psrc=address, hwdst=everybody, pdst=address)
    return Ether(src=mac, dst=everybody) / arp


def advertisement(mac: str, source: str, address: str, override: int = 1) -> Ether:
    """Return an unsolicited NA, sent from `source`, for an address."""
    return (
        Ether(dst="33:33:00:00:00:01", src=mac)
        / IPv6(src=source, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=address, R=0, S=0, O=override)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
