"""contrib/rc.local and contrib/sysv: real shells and real arpings on a real veth pair.

test_booted.py has /etc/rc.local itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tty
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from bench import lab as labs
from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from garp_agent.wire.protocol import parse_reply
from tests.netns.agent import LIMIT, Capture, until
from tests.packaging.support import CONTRIB, ROOT, SYSTEM_PATH, need, run
from tests.vm import cache, debian, images

pytestmark = pytest.mark.netns

CAP_NET_RAW = 1 << 13  # <linux/capability.h>
ROUTERS = b"\x33\x33\0\0\0\2"  # the MAC of ff02::2, all routers
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

    def has_one_instance(self) -> bool:
        """Return whether one process runs the loop or the agent, not counting its subshells."""
        found = self.processes("garp-start supervise")
        return len([each for each in found if parent(each) not in found]) == 1

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


# -- the fall-back loop --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iputils", "habets", "busybox"])
def test_loop_announces_with_each_arping(
    guest: Guest, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "habets":
        guest.program("arping", f'{request.getfixturevalue("habets")} "$@"')
    elif kind == "busybox":
        guest.program("arping", f'exec {need("busybox", "busybox")} arping "$@"')
    elif reason := labs.why_no_arping():
        pytest.skip(reason)
    loop = guest.start_loop()
    guest.announced(count=3)
    assert {packet[ARP].pdst for packet in guest.wire.announcements()} == {GUEST_ADDRESS}
    assert guest.lab.stop(loop) == 0


# No archive has these versions any more.  What they print about themselves, and a command that
# their manual allows: Habets' -U is newer, and iputils' -U always existed.
OLD_ARPINGS = {
    "arping utility, iputils-s20071127": f"-q -U -c 1 -I eth0 {GUEST_ADDRESS}",
    "ARPing 2.09, by Thomas Habets": f"-q -c 1 -i eth0 -S {GUEST_ADDRESS} {GUEST_ADDRESS}",
}


@pytest.mark.parametrize("version", OLD_ARPINGS)
def test_loop_calls_an_old_arping_as_its_manual_says(guest: Guest, version: str) -> None:
    answer = f"case $1 in -V|--help) echo '{version}'; exit 1;; esac"
    guest.program("arping", f'{answer}; echo "$*" >>{guest.folder}/log')
    guest.start_loop()
    assert set(guest.lines_of("log", 1)) == {OLD_ARPINGS[version]}


def test_loop_follows_links_and_addresses(guest: Guest) -> None:
    guest.lab.ip("guest", "link set eth0 down")
    loop = guest.start_loop()
    guest.lines_of("pauses", 4)  # with nothing to announce
    guest.lab.ip("guest", "link set eth0 up")
    guest.announced()
    guest.lab.ip("guest", "address add 192.0.2.77/32 dev eth0")
    guest.announced("192.0.2.77")
    guest.lab.ip("guest", "address del 192.0.2.77/32 dev eth0")
    guest.lab.ip("guest", "address add 192.0.2.78/32 dev eth0")
    guest.announced("192.0.2.78")
    # An announcement under way may still arrive; none arrives after the change is seen.
    guest.wire.clear()
    guest.announced("192.0.2.78", count=3)
    assert guest.wire.announcements("192.0.2.77") == []
    assert loop.poll() is None


@pytest.mark.parametrize("ip", ["iproute2", "busybox"])
def test_loop_announces_exactly_the_suitable_addresses(guest: Guest, ip: str) -> None:
    if ip == "busybox":
        guest.program("ip", f'exec {need("busybox", "busybox")} ip "$@"')
    guest.lab.ip(
        "guest",
        # In place of a VLAN, which some kernels that run the tests do not have.
        "link add eth0.7 type veth peer name far7",
        "link set eth0.7 up",
        "link set far7 up",
        "address add 198.51.100.7/24 dev eth0.7",
        "address add 198.51.100.1/32 peer 203.0.113.1 dev eth0 label eth0:1",
        "address add 169.254.3.4/16 dev eth0",
        # The port of a bridge, the bridge, a link that is down, one that is excluded.
        "link add br7 type bridge",
        "link add port7 type veth peer name port8",
        "link set port7 master br7 up",
        "link set port8 up",
        "link set br7 up",
        "address add 198.51.100.20/24 dev port7",
        "address add 198.51.100.21/24 dev br7",
        "link add down7 type veth peer name down8",
        "address add 198.51.100.30/24 dev down7",
        "link add docker0 type veth peer name docker1",
        "link set docker0 up",
        "link set docker1 up",
        "address add 198.51.100.40/24 dev docker0",
    )
    guest.settings["GARP_EXCLUDE"] = "docker* virbr*"
    note = f'echo "$*" >>{guest.folder}/log'
    guest.program("arping", f"case $1 in -V) echo iputils;; -q) {note};; esac")
    guest.program("ping", "exit 0")  # for the links that have no IPv4 address
    show = ("ip", "-n", guest.lab.namespace("guest"), "link", "show", "br7")
    until(lambda: "LOWER_UP" in run(*show), "the bridge has a carrier")
    guest.start_loop()
    assert {tuple(line.split()[-2:]) for line in guest.lines_of("log", 12)} == {
        ("br7", "198.51.100.21"),
        ("eth0", GUEST_ADDRESS),
        ("eth0", "198.51.100.1"),
        ("eth0.7", "198.51.100.7"),
    }


def test_loop_announces_a_member_of_a_vrf(guest: Guest) -> None:
    """`ip` only says that there is a VRF: some kernels that run the tests have none."""
    script = """case "$*" in
"-d -o link show up") real "$@" | sed 's/eth0\\(@[^:]*\\): \\(<[^>]*>\\)/eth0\\1: \\2 master vrf7/'
    echo "7: vrf7: <NOARP,MASTER,UP> mtu 65575 vrf table 7 addrgenmode" ;;
*) real "$@" ;;
esac"""
    guest.program("ip", script.replace("real", need("ip", "iproute2")))
    guest.start_loop()
    guest.announced()


def test_loop_pings_from_a_link_without_ipv4(guest: Guest) -> None:
    need("ping", "iputils-ping")
    guest.lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
    guest.start_loop()

    def echo_requests_to_all_routers() -> list[bytes]:
        frames = [frame for frame in guest.wire.read() if frame[12:14] == b"\x86\xdd"]
        return [frame for frame in frames if frame[:6] == ROUTERS and frame[54:55] == b"\x80"]

    frame = until(echo_requests_to_all_routers, "an echo request")[0]
    assert frame[6:12].hex(":") == GUEST_MAC


def add_addresses(guest: Guest, count: int) -> list[str]:
    """Give eth0 more addresses; return all that it has."""
    more = [f"10.0.{number // 100}.{number % 100 + 1}" for number in range(count - 1)]
    guest.lab.ip("guest", *(f"address add {each}/32 dev eth0" for each in more))
    return [GUEST_ADDRESS, *more]


class Steps:
    """The steps of the loop, without their programs and pauses: state in, state and work out."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.state = ""
        self.pause = 0.0
        script, found, _ = STARTER.read_text().partition("\nrecord=/dev/null\n")
        assert found
        self.script = guest.folder / "steps"
        awk = f'awk() {{ {guest.path}/awk "$@"; }}\n' if (guest.path / "awk").exists() else ""
        self.script.write_text(f'{script}\n{awk}require_tools\nstep "$1" "$2"\n')

    def next(self, second: int, signals: int = 0) -> list[str]:
        """Return the addresses that the next step sends in this second of the clock."""
        self.guest.program("date", f"echo {second}")
        command = self.guest.command(self.script, self.state, signals)
        self.state = self.guest.lab.run("guest", command).stdout
        lines = [line.split() for line in self.state.splitlines()]
        (self.pause,) = (float(words[1]) for words in lines if words[0] == "pause")
        return [words[3] for words in lines if words[0] == "send"]


@pytest.mark.parametrize("awk", ["mawk", "busybox"])
def test_loop_announces_many_addresses_in_turns(guest: Guest, awk: str) -> None:
    guest.program("awk", f'exec {need(awk, awk)} {"awk" if awk == "busybox" else ""} "$@"')
    everything = sorted(add_addresses(guest, 10))
    loop = Steps(guest)
    new = [loop.next(second) for second in range(4)]
    # Each of the 10 twice, as new, at most 7 a second; then all in rounds of at most 4.
    assert [len(each) for each in new] == [7, 3, 7, 3]
    assert sorted(new[0] + new[1]) == sorted(new[2] + new[3]) == everything
    rounds = [loop.next(second) for second in range(10, 25, 5)]
    assert all(0 < len(each) <= 4 for each in rounds)
    assert sorted(chain(*rounds)) == everything


@pytest.mark.parametrize("signals", [0, 1])
def test_loop_sends_at_most_seven_frames_in_a_second(guest: Guest, signals: int) -> None:
    everything = add_addresses(guest, 100)
    loop = Steps(guest)
    sent: list[str] = []
    for second in range(16):
        frames = [loop.next(second, signals) for _ in range(3)]
        assert sum(map(len, frames)) == 7
        assert loop.pause == 1
        sent += chain(*frames)
    assert set(sent) == set(everything)  # a signal with each step leaves none out


def test_loop_announces_all_addresses_at_a_signal(guest: Guest) -> None:
    everything = sorted(add_addresses(guest, 12))
    loop = Steps(guest)
    for second in range(10):
        loop.next(second)
    assert sorted(loop.next(11, 1) + loop.next(12)) == everything


def test_signal_ends_the_pause_of_the_loop(guest: Guest) -> None:
    # Of the pauses only the first, between the two announcements of a new address, ends.
    ending = "case $1 in 1.000) exec /bin/sleep 0.1;; 0.*) exit;; esac"
    guest.program("sleep", f"{ending}; echo >>{guest.folder}/pauses; exec /bin/sleep 1000")
    loop = guest.start_loop()
    guest.lines_of("pauses", 1)
    guest.wire.clear()
    os.kill(loop.pid, signal.SIGUSR1)
    guest.announced(count=2)


def burst(adjusted: dict[str, float], *offsets: float) -> dict[str, Any]:
    """Return what the loop answers to a burst."""
    members = {"adjusted": adjusted, "duplicate": False, "frames": 0, "offsets": list(offsets)}
    return {"return": members}


REQUESTS = {
    b"BURST": burst({}, 0, 1),
    b'{"id":7,"execute":"burst"}\r': {"id": 7, **burst({}, 0, 1)},
    b'{"execute": "burst", "arguments": {"count": 9, "delay": 70}, "id": "a\\"b"}': {
        "id": 'a"b',
        **burst({"count": 2}, 60, 61),
    },
    b'{"execute": "burst", "arguments": {"reason": "\\"execute\\": \\"info\\"", "interval": 2}}': (
        burst({"interval": 1}, 0, 1)
    ),
    b'half\xff{"ha\xff{"execute": "sync", "id": true}': {"id": True, "return": {}},
    b'{"execute": "lease", "arguments": {"seconds": 9}}': {
        "return": {"adjusted": {"seconds": 0.0}, "interval": 5.0, "seconds": 0.0}
    },
    b'{"execute": "lease", "arguments": {"seconds": 0}}': {
        "return": {"adjusted": {}, "interval": 5.0, "seconds": 0.0}
    },
    b'{"execute": "reboot", "id": null}': "CommandNotFound",
    b'{"id": 6}': "InvalidRequest",
    b"hello": "InvalidJSON",
    b"{" + b" " * 4096 + b"}": "LineTooLong",
}


@pytest.mark.parametrize("program", ["mawk", "busybox"])
@pytest.mark.parametrize("request_line", REQUESTS, ids=range(len(REQUESTS)))
def test_loop_answers_as_the_protocol_says(
    request_line: bytes, program: str, tmp_path: Path
) -> None:
    script, _, _ = STARTER.read_text().partition("\nrecord=/dev/null\n")
    awk = f"{need(program, program)} {'awk' if program == 'busybox' else ''}"
    call = f'awk() {{ {awk} "$@"; }}\ntrap "" USR1\nGARP_INTERVAL=5\nanswer\n'
    (tmp_path / "script").write_text(f"{script}\n{call}")
    done = subprocess.run(
        ["sh", tmp_path / "script"], input=request_line + b"\n", capture_output=True, check=True
    )
    assert done.stdout.count(b"\n") == 1
    parse_reply(done.stdout.strip(b"\xff\n"))
    reply = json.loads(done.stdout.strip(b"\xff\n"))
    wanted = REQUESTS[request_line]
    assert reply == wanted or reply["error"]["class"] == wanted


def test_loop_jitters_its_pauses(guest: Guest) -> None:
    guest.start_loop()
    probe, first, *others = map(float, guest.lines_of("pauses", 10)[:10])
    assert probe == 0.001  # finds out whether sleep takes fractions
    assert first == 1  # between the two announcements at the start
    assert all(4.0 <= pause < 6.0 for pause in others)
    assert len(set(others)) > 5


def test_loop_announces_an_interface_that_is_named_like_a_pattern(guest: Guest) -> None:
    guest.lab.ip("guest", "link set eth0 down", "link set eth0 name a*", "link set a* up")
    guest.start_loop()
    guest.announced(count=4)


def test_loop_works_with_a_sleep_of_whole_seconds(guest: Guest) -> None:
    guest.program("sleep", "case $1 in *.*) exit 1;; esac; exec /bin/sleep 0.1")
    guest.start_loop()
    guest.announced(count=4)


@pytest.mark.parametrize("command", ["loop", "start"])
def test_starter_says_what_is_missing_or_wrong(guest: Guest, command: str) -> None:
    guest.settings["GARP_INTERVAL"] = "5s"
    assert "whole numbers" in guest.starter(command, status=1)
    path = guest.folder / "few"
    path.mkdir()
    for program in ("cat", "readlink", "dash", "date", "rm", "ls"):
        (path / program).symlink_to(need(program, program))
    text, replaced = re.subn(r"^PATH=\$PATH:.*$", f"PATH={path}", STARTER.read_text(), flags=re.M)
    assert replaced == 1
    guest.script.write_text(text)
    assert "ip(8) is needed" in guest.starter(command, status=1)
    (path / "ip").symlink_to(need("ip", "iproute2"))
    assert "arping is needed" in guest.starter(command, status=1)
    assert not list(guest.run_folder.iterdir())


# -- in the background ---------------------------------------------------------------------


@each_shell
def test_starter_does_all_in_each_shell(guest: Guest) -> None:
    assert "not running" in guest.starter("status", status=3)
    with Host(guest) as host:
        assert "started" in guest.starter("start")
        guest.announced()
        until(lambda: "running the loop" in guest.starter("status"), "the loop")
        assert "already running" in guest.starter("start")
        if not guest.shell[0].endswith("yash"):  # its read fails at 0xFF
            assert host.ask(b'\xff{"execute": "info", "id": "7"}\n')["id"] == "7"
            lease = b'{"execute": "lease", "arguments": {"seconds": 90}}\n'
            assert host.ask(lease)["return"]["seconds"] == 0
            assert host.ask(b"half a line\xff{'execute\xffBURST\n")["return"]["frames"] == 0
    assert "started" in guest.starter("restart")
    until(guest.has_one_instance, "one instance")
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    assert "stopped" in guest.starter("stop")
    until(lambda: not guest.processes("garp-start"), "all of it ended")
    assert list(guest.run_folder.iterdir()) == []
    assert "not running" in guest.starter("stop")


@pytest.mark.parametrize("script", [STARTER, CONTRIB / "sysv" / "garp-agent"], ids=lambda p: p.name)
@each_shell
def test_script_is_parsed_by_each_shell(script: Path, shell: tuple[str, ...]) -> None:
    assert " error" not in run(*shell, "-n", script)


def test_restart_works_with_a_relative_path(guest: Guest) -> None:
    guest.starter("start")
    command = [*guest.command(guest.script.name, "restart")]
    inside = f"cd {guest.folder} && exec {' '.join(shlex.quote(each) for each in command)}"
    said = guest.lab.run("guest", ["sh", "-c", inside]).stdout
    assert "stopped" in said
    assert "started" in said
    until(guest.has_one_instance, "one instance")


def test_starter_called_many_times_at_once_starts_one(guest: Guest) -> None:
    command = guest.command(guest.script, "start")
    starts = [guest.lab.start("guest", command, stdout=-1) for _ in range(8)]
    said = "".join(start.communicate(timeout=LIMIT)[0] for start in starts)
    assert [said.count(words) for words in ("garp-start: started", "already running")] == [1, 7]
    until(guest.has_one_instance, "one instance")


def test_starter_of_another_name_starts_no_second_one(guest: Guest) -> None:
    other = guest.folder / "garp.start"
    shutil.copy(guest.script, other)
    assert "started" in guest.starter("start", script=other)
    assert "already running" in guest.starter("start")
    assert "stopped" in guest.starter("stop")
    assert "not running" in guest.starter("status", script=other, status=3)


@pytest.mark.parametrize("holder", ["dead", "of another program"])
def test_starter_ignores_the_files_of_a_crashed_one(guest: Guest, holder: str) -> None:
    number = run("sh", "-c", "echo $$").strip() if holder == "dead" else str(os.getpid())
    (guest.run_folder / "garp-start.lock").symlink_to(f"{number}:7:7")
    # Where /var/run is no tmpfs, another process may have the number after a reboot.
    (guest.run_folder / "garp-start.pid").write_text(f"{os.getpid()}\n")
    (guest.run_folder / "garp-start.child").write_text(f"agent {os.getpid()}:7\n")
    assert "not running" in guest.starter("status", status=3)
    assert "started" in guest.starter("start")
    until(guest.has_one_instance, "one instance")


def test_starter_leaves_no_descriptor_of_its_caller_open(guest: Guest) -> None:
    lock = guest.folder / "lock"
    caller = f"exec 7>{lock}; {' '.join(map(shlex.quote, guest.command(guest.script, 'start')))}"
    assert "started" in guest.lab.run("guest", ["sh", "-c", caller]).stdout
    open_files = [
        os.readlink(f"/proc/{process}/fd/{number}")
        for process in guest.processes("garp-start")
        for number in os.listdir(f"/proc/{process}/fd")
    ]
    assert open_files
    assert str(lock) not in open_files


def test_status_names_the_last_error_of_arping(guest: Guest) -> None:
    guest.program("arping", "echo 'no permission' >&2; exit 2")
    guest.starter("start")
    error = f"last error: arping for {GUEST_ADDRESS} on eth0: no permission"
    until(lambda: error in guest.starter("status"), "the error is known")


@pytest.mark.parametrize("kind", ["loop", "agent"])
def test_nothing_is_left_after_kill_9(guest: Guest, kind: str) -> None:
    if kind == "agent":
        install_agent(guest)
        guest.settings["GARP_OPTIONS"] = f"--control-socket {guest.folder}/socket"
    with Host(guest):
        guest.starter("start")
        guest.announced()
        until(lambda: f"running the {kind}" in guest.starter("status"), "the child is known")
        os.kill(int((guest.run_folder / "garp-start.pid").read_text()), 9)
        until(lambda: not guest.processes("garp"), "all of it ended")
    assert [file.name for file in guest.run_folder.iterdir()] == []
    assert "started" in guest.starter("start")


def install_agent(guest: Guest) -> None:
    """Put garp-agent of this tree into the PATH of the guest, and start it instead of the loop."""
    agent = f'PYTHONPATH={ROOT / "agent"} exec {sys.executable} -m garp_agent "$@"'
    guest.program("garp-agent", agent)
    del guest.settings["GARP_AGENT"]


def capabilities(process: int, name: str) -> int:
    """Return a set of capabilities, proc(5)."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition(f"\n{name}:")[2].split()[0], 16)


def test_agent_is_started_supervised_and_signalled_where_it_can_run(guest: Guest) -> None:
    install_agent(guest)
    options = f"--interval 60s --control-socket {guest.folder}/socket"
    (guest.folder / "defaults").write_text(f'GARP_OPTIONS="{options}"\n')
    guest.starter("start")
    assert len(guest.announced()[0]) == 60  # arping sends 42
    assert not guest.processes("garp-start loop")
    (agent,) = guest.processes("garp_agent run")
    for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert capabilities(agent, name) & ~CAP_NET_RAW == 0, name
    assert capabilities(agent, "CapEff") == CAP_NET_RAW
    guest.wire.clear()
    assert "running the agent" in guest.starter("status")
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    guest.announced()
    os.kill(agent, 9)
    until(lambda: guest.processes("garp_agent run") - {agent}, "another agent")
    guest.starter("stop")
    until(lambda: not guest.processes("garp"), "all of it ended")


def test_agent_that_cannot_run_is_replaced_by_the_loop(guest: Guest) -> None:
    guest.program("garp-agent", "echo 'needs Python 3.9' >&2; exit 1")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    guest.announced()
    assert "running the loop" in guest.starter("status")


def test_agent_that_fails_is_started_again_ever_later(guest: Guest) -> None:
    guest.program("garp-agent", "[ $1 = --version ] || exit 1")
    guest.program("sleep", f'case $1 in 0.*) ;; *) echo "$1" >>{guest.folder}/pauses;; esac')
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    pauses = guest.lines_of("pauses", 8)[:8]
    assert pauses == ["1", "2", "4", "8", "16", "32", "60", "60"]


def test_status_says_that_the_agent_is_not_running_before_its_next_start(guest: Guest) -> None:
    guest.program("garp-agent", "[ $1 = --version ] || exit 1")
    guest.program("sleep", "case $1 in 0.*) exec /bin/sleep $1;; esac; exec /bin/sleep 1000")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    until((guest.run_folder / "garp-start.error").exists, "the agent has ended")
    said = guest.starter("status", status=1)
    assert "the agent is not running; last error: ended with status 1" in said
    guest.starter("stop")


def test_logger_that_is_killed_ends_nothing(guest: Guest) -> None:
    guest.program("logger", f"exec cat >>{guest.folder}/log")
    guest.starter("start")
    guest.lines_of("log", 1)
    for process in guest.processes("cat"):
        os.kill(process, 9)
    guest.lab.ip("guest", "address add 192.0.2.77/32 dev eth0")
    guest.announced("192.0.2.77")
    until(lambda: "192.0.2.77" in (guest.folder / "log").read_text(), "it is logged again")


def test_agent_with_a_bad_configuration_is_not_started_again(guest: Guest) -> None:
    install_agent(guest)
    bad, log = guest.folder / "config.yaml", guest.folder / "log"
    bad.write_text("interval: never\n")
    log.touch()
    guest.settings["GARP_OPTIONS"] = f"-c {bad}"
    guest.program("logger", f"exec cat >>{log}")
    # It may have ended before `start` looks.
    guest.lab.run("guest", guest.command(guest.script, "start"), check=False)
    until(lambda: "status 78: not started again" in log.read_text(), "it gave up")
    assert f"{bad}:1: interval" in log.read_text()
    said = guest.starter("status", status=3)
    assert "not running; last error: ended with status 78" in said


def test_init_script_starts_reports_restarts_and_stops(guest: Guest) -> None:
    script = CONTRIB / "sysv" / "garp-agent"
    guest.settings["GARP_START"] = str(guest.script)
    guest.starter("start", script=script)
    guest.announced()
    for command in ("status", "force-reload", "stop"):
        guest.starter(command, script=script)
    guest.starter("status", status=3, script=script)
    guest.starter("reticulate", status=2, script=script)


def test_scripts_satisfy_shellcheck() -> None:
    scripts = [*(CONTRIB / "rc.local").iterdir(), *(CONTRIB / "sysv").iterdir()]
    assert run(need("shellcheck", "shellcheck"), "-s", "sh", *scripts) == ""
