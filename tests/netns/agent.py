"""The real daemon in a namespace, and what arrives at the other end of its wire.

Nothing here sleeps for a time and then looks: every wait names its condition, and
only a broken agent ever waits for the whole of `LIMIT`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bench import lab
from garp_agent.runtime import client
from garp_agent.wire import protocol

LIMIT = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(lab.ROOT / "agent")}
COMMAND = (sys.executable, "-m", "garp_agent")

# Nothing is announced but for a cause: no refresh falls into a test, and a burst is one round.
QUIET = """\
interval: 270s
interval_with_lease: 270s
jitter: 0%
burst: [0s]
"""

RARP = "rarp"
_SO_RCVBUFFORCE = 33
_OUTGOING = 4

Value = TypeVar("Value")


def until(look: Callable[[], Value], what: str) -> Value:
    """What `look` returns, as soon as it is true."""
    end = time.monotonic() + LIMIT
    while not (value := look()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.002)
    return value


class Agent:
    """`garp-agent run` in a namespace of a lab; its log is read from a file, as JSON."""

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
        self.config.write_text(f"control_socket: {self.control}\nhint_port: none\n{config}")
        self.log_file = directory / f"log-{time.monotonic_ns()}"
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
        """End it, unless the test has; it must have been well all the time."""
        if kind is None and self.process.poll() is None:
            assert self.stop() == 0, self.log_text()
            assert self.log()[-1]["event"] == "stopped"

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        """Return when the daemon has seen everything once and sent what followed from it."""

        def ready() -> bool:
            assert self.process.poll() is None, f"it ended: {self.log_text()}"
            with contextlib.suppress(client.ClientError):
                return bool(self.status()["links"])
            return False

        until(ready, "the agent answers")

    # Looking

    def log_text(self) -> str:
        return self.log_file.read_text()

    def log(self, event: str = "", **fields: object) -> list[dict[str, Any]]:
        """The lines so far that say this."""
        # What follows the last line end is still being written.
        *lines, _ = self.log_text().split("\n")
        read = [json.loads(line) for line in lines]
        wanted = {"event": event, **fields} if event else fields
        return [line for line in read if wanted.items() <= line.items()]

    def wait_for_log(self, event: str, **fields: object) -> dict[str, Any]:
        return until(lambda: self.log(event, **fields), f"log {event} {fields}")[-1]

    def status(self) -> dict[str, Any]:
        return client.ask(str(self.control), "status")

    def link(self, name: str) -> dict[str, Any] | None:
        found = [link for link in self.status()["links"] if link["interface"] == name]
        return found[-1] if found else None

    def addresses(self, name: str = "eth0") -> dict[str, dict[str, Any]]:
        """What status says of each of a link's addresses, by address."""
        link = self.link(name) or {"addresses": []}
        return {address["address"]: address for address in link["addresses"]}

    def announced(self, name: str = "eth0") -> set[str]:
        return {text for text, a in self.addresses(name).items() if a["skipped"] is None}

    def sent(self) -> int:
        return int(self.status()["frames"]["sent"])

    def sent_by(self, cause: str) -> int:
        return int(self.status()["frames"]["by_cause"].get(cause, 0))

    def voluntary_switches(self) -> int:
        """How often it went to sleep, proc(5)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def open_files(self) -> int:
        """How many it holds, once it has closed its ends of what others have."""
        # A hang-up makes it runnable at once: when it sleeps next, it has seen it.
        until(self.is_asleep, "it sleeps")
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def has_open(self, path: Path) -> bool:
        for name in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(name) == str(path.resolve()):
                    return True
        return False

    def is_asleep(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    # Doing

    def burst(self) -> int:
        """The number of frames that went out before the reply."""
        return int(str(client.ask(str(self.control), "burst")["frames"]))

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    @contextlib.contextmanager
    def asked_while_stopped(self, command: str = "burst") -> Iterator[list[dict[str, object]]]:
        """As `stopped`, with a request that is there when the daemon runs again; its value."""
        value: list[dict[str, object]] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
            asker.settimeout(LIMIT)
            with self.stopped():
                asker.connect(str(self.control))
                yield value
                asker.sendall(protocol.encode_request(command))
            with asker.makefile("rb") as replies:
                value.append(protocol.parse_reply(replies.readline()).value)

    def reload(self, config: str) -> None:
        """Replace the file as editors do, and say so; see `wait_for_log`."""
        new = self.config.with_suffix(".new")
        new.write_text(f"control_socket: {self.control}\nhint_port: none\n{config}")
        new.rename(self.config)
        self.kill(signal.SIGHUP)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The daemon does not run during the block."""
        self.kill(signal.SIGSTOP)
        try:
            until(lambda: self.state() == "T", "it stops")
            yield
        finally:
            self.kill(signal.SIGCONT)

    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.kill(number)
        return self.process.wait(LIMIT)


class Capture:
    """Every frame that arrives on a link of the lab, from now on."""

    def __init__(self, where: lab.Lab, role: str = "peer", link: str = "eth0") -> None:
        self.socket = where.packet_socket(role, link)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self.socket.setblocking(False)
        self.frames: list[bytes] = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def read(self) -> list[bytes]:
        """All frames so far."""
        while True:
            try:
                frame, sender = self.socket.recvfrom(1 << 16)
            except BlockingIOError:
                return self.frames
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # said once, when the link goes down
                    raise
                continue
            if sender[2] != _OUTGOING:
                self.frames.append(frame)

    def clear(self) -> None:
        self.read()
        self.frames = []

    def announcements(self, address: str = "", mac: str = lab.GUEST_MAC) -> list[Packet]:
        """The frames from a hardware address that announce an address, or any."""
        own = bytes.fromhex(mac.replace(":", ""))
        packets = [Ether(frame) for frame in self.read() if frame[6:12] == own]
        return [p for p in packets if announced(p) and address in ("", announced(p))]

    def wait_for(self, address: str = "", mac: str = lab.GUEST_MAC, count: int = 1) -> list[Packet]:
        def enough() -> list[Packet]:
            found = self.announcements(address, mac)
            return found if len(found) >= count else []

        return until(enough, f"{count} announcements of {address or 'anything'} by {mac}")


def forget_link_local(where: lab.Lab, *links: str) -> None:
    """Leave a lab with the addresses that it was given: the kernel's own come and go by DAD."""
    for role in ("guest", "peer"):
        for link in links or ("eth0",):
            where.ip(role, f"link set {link} addrgenmode none", f"addr flush dev {link} scope link")


def announced(packet: Packet) -> str:
    """The address that a frame announces or probes for; "" for any other frame."""
    if packet.type == 0x8035:
        return RARP
    if ARP in packet:
        arp = packet[ARP]
        # Linux resolving a neighbour sends requests too, for somebody else's address.
        return str(arp.pdst) if arp.psrc in (arp.pdst, "0.0.0.0") else ""
    if ICMPv6ND_NA in packet and not packet[ICMPv6ND_NA].S:
        return str(packet[ICMPv6ND_NA].tgt) if packet[IPv6].dst == "ff02::1" else ""
    return ""


def command(
    where: lab.Lab, *arguments: str, role: str = "guest", prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `garp-agent ARGUMENTS` to its end."""
    done: subprocess.CompletedProcess[str] = where.run(
        role, [*prefix, *COMMAND, *arguments], env=ENVIRONMENT, check=False, timeout=LIMIT
    )
    return done
