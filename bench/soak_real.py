"""Real hours: the daemon in a namespace, under changes, hints and faults at random.

Run by `bench.soak real`; needs root.  What reaches the other end of its link is looked at all
the while: never an address that was gone, never more than the bucket allows, every address
within its time; and what the agent knows is held against what the kernel says.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from bench.agent import ETH_P_ARP, SO_RCVBUFFORCE, SO_TIMESTAMPNS
from bench.lab import GUEST_ADDRESS, GUEST_MAC, ROOT, TinyLab
from garp_agent.config.settings import Bucket, Settings
from garp_agent.guest.core.schedule import ROUNDING
from garp_agent.runtime import client

IN_FLIGHT = 0.1  # seconds for which a frame may be under way when its address is removed
CLOCKS = 0.02  # seconds by which two frames' time stamps may be closer than their sending
PAUSE = 0.3  # seconds
SLACK = 10.0  # seconds that flaps, pauses and reloads may put an announcement off


class BrokenError(Exception):
    """Something did not hold."""


class Judge:
    """An ordinary token bucket, and a second that may not be too full; in any one clock."""

    def __init__(self, bucket: Bucket, slack: float = 0.0) -> None:
        self._bucket = bucket
        self._slack = slack  # seconds by which frames may seem too early
        self._level = float(bucket.depth)
        self._since = 0.0
        self._recent: deque[float] = deque()

    def saw(self, now: float) -> None:
        """A frame went out; raises BrokenError where it should not have."""
        rate, depth = self._bucket
        self._level = min(depth, self._level + (now - self._since) * rate) - 1
        self._since = now
        if self._level < -(self._slack + 2 * ROUNDING) * rate:
            raise BrokenError(f"{-self._level:.6f} more than the bucket allows at {now:.3f}")
        self._recent.append(now)
        while self._recent[0] < now - 1.0 + self._slack:
            self._recent.popleft()
        if len(self._recent) > self._bucket.in_a_second:
            raise BrokenError(f"{len(self._recent)} frames within a second at {now:.3f}")


class Witness:
    """The other end of the guest's link."""

    def __init__(self, lab: TinyLab, settings: Settings) -> None:
        self._socket = lab.packet_socket("peer", "eth0", ETH_P_ARP)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        self._socket.setblocking(False)
        self._settings = settings
        self._judge = Judge(settings.bucket, CLOCKS)
        self._owned = {GUEST_ADDRESS: time.time()}  # and since when it has waited
        self._gone: dict[str, float] = {}  # and since when
        self.frames = 0
        self.longest = 0.0

    def added(self, address: str) -> None:
        """To be called before it is."""
        self._gone.pop(address, None)
        self._owned[address] = time.time()

    def removed(self, address: str) -> None:
        """To be called after it was."""
        self._owned.pop(address, None)
        self._gone[address] = time.time()

    def look(self) -> None:
        """Judge what has arrived, and what has not."""
        for when, address in self._arrived():
            self.frames += 1
            self._judge.saw(when)
            if address in self._owned:
                self.longest = max(self.longest, when - self._owned[address])
                self._owned[address] = max(when, self._owned[address])
            elif when > self._gone.get(address, 0.0) + IN_FLIGHT:
                raise BrokenError(f"{address} was announced at {when:.3f} and is not there")
        allowed = self._allowed()
        for address, since in self._owned.items():
            if time.time() - since > allowed:
                raise BrokenError(f"{address} was silent for more than {allowed:.0f} s")

    def close(self) -> None:
        self._socket.close()

    def _allowed(self) -> float:
        ticks = ceil(len(self._owned) / self._settings.addresses_per_tick)
        return (ticks + 1) * self._settings.interval * (1 + self._settings.jitter) + SLACK

    def _arrived(self) -> Iterator[tuple[float, str]]:
        source = bytes.fromhex(GUEST_MAC.replace(":", ""))
        while True:
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(2048, 64)
            except BlockingIOError:
                return
            except OSError:  # the link is down for a moment
                continue
            if frame[6:12] == source and frame[28:32] == frame[38:42]:
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                yield seconds + nanoseconds / 1e9, socket.inet_ntoa(frame[28:32])


class Real:
    """The daemon, and what is done to it."""

    def __init__(self, lab: TinyLab, folder: str, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.witness = Witness(lab, Settings())
        self.control = os.path.join(folder, "control.sock")
        port = os.path.join(folder, "port")
        self.host = socket.socket(socket.AF_UNIX)
        self.host.bind(port)
        self.host.listen()
        self.extra: set[int] = set()
        config = Path(folder, "config.yaml")
        config.write_text(f"control_socket: {self.control}\nhint_port: {port}\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
        command = [sys.executable, "-m", "garp_agent", "run", "-c", str(config)]
        self.agent = lab.start("guest", command, env=environment, stderr=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        return client.ask(self.control, "status")

    def change_address(self) -> None:
        number = self.random.randint(100, 140)
        address = f"192.0.2.{number}"
        if number in self.extra:
            self.lab.ip("guest", f"address del {address}/24 dev eth0")
            self.witness.removed(address)
        else:
            self.witness.added(address)
            self.lab.ip("guest", f"address add {address}/24 dev eth0")
        self.extra ^= {number}

    def flap(self) -> None:
        self.lab.ip("peer", "link set eth0 down", "link set eth0 up")

    def recreate(self) -> None:
        self.lab.ip(
            "guest",
            "link add extra0 type veth peer name extra1",
            "link set extra0 up",
            "link set extra1 up",
            "address add 198.51.100.1/24 dev extra0",
            "link del extra0",
        )

    def hint(self) -> None:
        self.host.settimeout(30.0)  # it connects again at a tick
        with self.host.accept()[0] as connection:
            connection.settimeout(5.0)
            connection.sendall(self.random.choice((b"BURST\n", b'{"execute":"info"}\n', b"{]\n")))
            connection.recv(8192)

    def pause(self) -> None:
        os.kill(self.agent.pid, signal.SIGSTOP)
        time.sleep(PAUSE)
        os.kill(self.agent.pid, signal.SIGCONT)

    def reload(self) -> None:
        os.kill(self.agent.pid, signal.SIGHUP)

    def check(self) -> tuple[int, int]:
        """Resident kilobytes and open files; raises BrokenError where the inventory is not true."""
        if self.agent.poll() is not None:
            raise BrokenError(f"the daemon ended with status {self.agent.returncode}")
        shown = json.loads(self.lab.run("guest", ["ip", "-j", "address", "show", "eth0"]).stdout)
        true = {each["local"] for each in shown[0]["addr_info"]}
        for _ in range(100):
            links = [each for each in self.status()["links"] if each["interface"] == "eth0"]
            known = {each["address"] for each in links[0]["addresses"]}
            if known == true:
                break
            time.sleep(0.05)
        else:
            raise BrokenError(f"the agent knows {known}, the kernel {true}")
        statm = Path(f"/proc/{self.agent.pid}/statm").read_text().split()
        return int(statm[1]) * 4, len(os.listdir(f"/proc/{self.agent.pid}/fd"))

    def steps(self, end: float) -> Iterator[None]:
        actions = (
            self.change_address,
            self.change_address,
            self.flap,
            self.recreate,
            self.hint,
            self.pause,
            self.reload,
        )
        while time.monotonic() < end:
            self.random.choice(actions)()
            time.sleep(self.random.uniform(0.0, 0.5))
            self.witness.look()
            yield


def real(minutes: float, seed: int) -> None:
    """So many minutes of it; raises BrokenError at the first thing that does not hold."""
    with TinyLab() as lab, tempfile.TemporaryDirectory() as folder:
        world = Real(lab, folder, seed)
        time.sleep(2.0)
        world.hint()
        first = world.check()
        begun, shown = time.monotonic(), 0.0
        print(f"{GUEST_ADDRESS} and others; at first {first[0]} kB, {first[1]} files", flush=True)
        for number, _ in enumerate(world.steps(begun + 60 * minutes)):
            if number % 20 == 0:
                size, files = world.check()
            if time.monotonic() - shown >= 60:
                shown = time.monotonic()
                print(
                    f"{(shown - begun) / 60:5.1f} min: {number} changes, {world.witness.frames} "
                    f"frames seen, longest silence {world.witness.longest:.1f} s, {size} kB, "
                    f"{files} files",
                    flush=True,
                )
        size, files = world.check()
        world.witness.close()
        print(f"at last {size} kB, {files} files, {world.status()['frames']['sent']} frames sent")
        if size > first[0] * 1.15 + 512 or files > first[1] + 2:
            raise BrokenError("it grew")
