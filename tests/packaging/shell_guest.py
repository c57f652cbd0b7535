"""A guest in which garp-start runs: a shell, a PATH, files, the wire, the host's end of a port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from garp_agent.wire.protocol import parse_reply
from tests.netns.agent import Capture, until
from tests.packaging.support import CONTRIB, SYSTEM_PATH, need, run
from tests.vm import cache, debian, images

STARTER = CONTRIB / "rc.local" / "garp-start"
# Those of Debian, and old ones of GNU where they are in PATH under such a name.
SHELLS = ["bash", "busybox", "dash", "ksh93", "mksh", "posh", "yash"]
SHELLS += [old for old in ("bash-3.2", "bash-4.1", "bash-4.2") if shutil.which(old)]
each_shell = pytest.mark.parametrize("shell", SHELLS, indirect=True)


def parent(process: int) -> int:
    """Return the parent of a process; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
    return 0


class Guest:
    """The guest's end of a lab with its own shell, PATH and files, and what the peer receives."""

    def __init__(self, lab: TinyLab, folder: Path, shell: tuple[str, ...], wire: Capture):
        self.lab = lab
        self.folder = folder
        self.shell = shell
        self.wire = wire
        self.run_folder = folder / "run"
        self.path = folder / "bin"
        for each in (self.run_folder, self.path):
            each.mkdir()
        self.settings = {"GARP_AGENT": "loop", "GARP_PORT": str(folder / "port")}
        self.script = folder / "garp-start"
        # Record the length of a pause and shorten it.
        self.program("sleep", f'echo "$1" >>{folder}/pauses; exec /bin/sleep 0.1')

    def program(self, name: str, script: str, function: str = "") -> None:
        """Put a program before those of the system, or define a function of the script."""
        path = self.path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        # A function calls each: busybox prefers its own programs to those in PATH.
        functions = {each.name: f'{each} "$@"' for each in self.path.glob("[!g]*")}
        functions.update({name: function} if function else {})
        lines = [f"{each}() {{ {body}; }}" for each, body in functions.items()]
        self.script.write_text("\n".join(["#!/bin/sh", *lines, f". {STARTER}", ""]))
        self.script.chmod(0o755)

    def command(self, *words: object) -> list[str]:
        """Return a command for the shell, with the environment of garp-start."""
        environment = {
            "PATH": f"{self.path}:{SYSTEM_PATH}",
            "GARP_RUN": str(self.run_folder),
            "GARP_SHELL": " ".join(self.shell),
            "GARP_DEFAULTS": str(self.folder / "defaults"),
            **self.settings,
        }
        assignments = [f"{name}={value}" for name, value in environment.items()]
        return ["env", *assignments, *self.shell, *map(str, words)]

    def starter(self, command: str, status: int = 0, script: Path | None = None) -> str:
        """Return what `garp-start COMMAND` prints; it must end with this status."""
        done = self.lab.run("guest", self.command(script or self.script, command), check=False)
        assert done.returncode == status, f"{done.stdout}{done.stderr}"
        return str(done.stdout + done.stderr)

    def start_loop(self) -> Any:
        """Start the fall-back loop in the foreground of a process."""
        return self.lab.start("guest", self.command(self.script, "loop"), stdout=-1)

    def processes(self, words: str) -> set[int]:
        """Return the processes of the guest whose command line contains these words."""
        found = set()
        for number in run("ip", "netns", "pids", self.lab.namespace("guest")).split():
            try:
                line = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if words in line:
                found.add(int(number))
        return found

    def parents(self, words: str) -> set[int]:
        """Return the processes with these words in their command line, without their children.

        The agent reads its configuration in a child, and a shell has subshells.
        """
        found = self.processes(words)
        return {each for each in found if parent(each) not in found}

    def files(self) -> list[str]:
        """Return the names of the files that garp-start has."""
        return sorted(path.name for path in self.run_folder.iterdir())

    def has_one_instance(self) -> bool:
        """Return whether one process runs the loop or the agent, not counting its subshells."""
        return len(self.parents("garp-start supervise")) == 1

    def lines_of(self, name: str, least: int) -> list[str]:
        """Return the lines of a file of the guest once it has as many."""
        path = self.folder / name
        path.touch()
        until(lambda: len(path.read_text().splitlines()) >= least, f"{least} lines of {name}")
        return path.read_text().splitlines()

    def announced(self, address: str = GUEST_ADDRESS, count: int = 1) -> list[bytes]:
        """Return the frames that announce this address, once there are so many."""
        packets = self.wire.wait_for(address, count=count)
        assert {(packet[Ether].src, packet[ARP].hwsrc) for packet in packets} == {(GUEST_MAC,) * 2}
        return list(map(bytes, packets))


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of a shell: dash, or what a test asks for."""
    name = getattr(request, "param", "dash")
    path = need(name, {"ksh93": "ksh93u+m"}.get(name, name))
    return (path, "sh") if name == "busybox" else (path,)


@pytest.fixture
def guest(tiny_lab6: TinyLab, shell: tuple[str, ...], tmp_path: Path) -> Iterator[Guest]:
    with Capture(tiny_lab6) as wire:
        yield Guest(tiny_lab6, tmp_path, shell, wire)


class Host:
    """The host's end of a hint port: a terminal, because a test has no other such device."""

    def __init__(self, guest: Guest) -> None:
        self.end, self.port = os.openpty()
        tty.setraw(self.port)
        (guest.folder / "port").symlink_to(os.ttyname(self.port))
        self.link = guest.folder / "port"

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.unlink()
        os.close(self.end)
        os.close(self.port)

    def ask(self, line: bytes) -> dict[str, Any]:
        """Send a line; return the reply, which has to parse as one of the protocol."""
        os.write(self.end, line)
        received = b""
        while not received.endswith(b"\n"):
            received += os.read(self.end, 4096)
        parse_reply(received.strip(b"\xff\n"))
        return dict(json.loads(received.strip(b"\xff\n")))


@pytest.fixture(scope="session")
def habets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A command for Habets' arping, unpacked: its package conflicts with that of iputils."""
    if reason := images.missing_tool():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("habets")
    packages = ["arping", "libnet1", "libpcap0.8", "libdbus-1-3"]
    with cache.locked():
        debian.Archive("bookworm").unpack(packages, place, with_dependencies=False)
    return f"LD_LIBRARY_PATH={place}/usr/lib/x86_64-linux-gnu exec {place}/usr/sbin/arping"
