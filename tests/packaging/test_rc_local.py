"""contrib/rc.local and contrib/sysv: real shells and real arpings on a real veth pair.

test_booted.py has /etc/rc.local itself.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from bench import lab as labs
from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import LIMIT, Capture, until
from tests.packaging.support import CONTRIB, ROOT, SYSTEM_PATH, need, run
from tests.vm import cache, debian, images

pytestmark = pytest.mark.netns

CAP_NET_RAW = 1 << 13  # <linux/capability.h>
ROUTERS = b"\x33\x33\0\0\0\2"  # the MAC of ff02::2, all routers
STARTER = CONTRIB / "rc.local" / "garp-start"
SHELLS = {"dash": ("dash",), "bash": ("bash",), "busybox": ("busybox", "sh")}
one_shell = pytest.mark.parametrize("shell", ["dash"], indirect=True)


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
        self.settings = {"GARP_AGENT": "loop"}
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


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command = SHELLS[request.param]
    need(command[0], command[0])
    return command


@pytest.fixture
def guest(tiny_lab6: TinyLab, shell: tuple[str, ...], tmp_path: Path) -> Iterator[Guest]:
    with Capture(tiny_lab6) as wire:
        yield Guest(tiny_lab6, tmp_path, shell, wire)


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
"-o link show up") real "$@" | sed 's/eth0\\(@[^:]*\\): \\(<[^>]*>\\)/eth0\\1: \\2 master vrf7/' ;;
"-d -o link show dev vrf7") echo "7: vrf7: <NOARP,MASTER,UP> mtu 65575 vrf table 7 addrgenmode" ;;
*) real "$@" ;;
esac"""
    guest.program("ip", script.replace("real", need("ip", "iproute2")))
    guest.start_loop()
    guest.announced()


@one_shell
def test_loop_pings_from_a_link_without_ipv4(guest: Guest) -> None:
    need("ping", "iputils-ping")
    guest.lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
    guest.start_loop()

    def echo_requests_to_all_routers() -> list[bytes]:
        frames = [frame for frame in guest.wire.read() if frame[12:14] == b"\x86\xdd"]
        return [frame for frame in frames if frame[:6] == ROUTERS and frame[54:55] == b"\x80"]

    frame = until(echo_requests_to_all_routers, "an echo request")[0]
    assert frame[6:12].hex(":") == GUEST_MAC


def test_loop_announces_many_addresses_in_turns(guest: Guest) -> None:
    more = [f"192.0.2.{number}" for number in range(100, 109)]
    guest.lab.ip("guest", *(f"address add {each}/32 dev eth0" for each in more))
    note = f'case $1 in -V) echo iputils;; -q) echo "$round $7" >>{guest.folder}/log;; esac'
    guest.program("arping", "exit 1", function=note)
    guest.start_loop()
    rounds: dict[str, list[str]] = {str(number): [] for number in range(10)}
    # Each of the 10 twice, as new; a share of them in round 0; all in rounds 1 to 3; a share.
    for line in guest.lines_of("log", 20 + 4 + 10 + 3):
        number, _, address = line.partition(" ")
        rounds[number].append(address)
    everything = sorted([GUEST_ADDRESS, *more])
    assert all(rounds["0"].count(address) >= 2 for address in everything)
    assert all(0 < len(rounds[number]) <= 4 for number in "1234")
    assert sorted(rounds["1"] + rounds["2"] + rounds["3"]) == everything


def test_loop_jitters_its_pauses(guest: Guest) -> None:
    guest.start_loop()
    probe, first, *others = map(float, guest.lines_of("pauses", 10)[:10])
    assert probe == 0.001  # finds out whether sleep takes fractions
    assert first == 1  # between the two announcements at the start
    assert all(4.0 <= pause < 6.0 for pause in others)
    assert len(set(others)) > 5


def test_loop_works_with_a_sleep_of_whole_seconds(guest: Guest) -> None:
    guest.program("sleep", "case $1 in *.*) exit 1;; esac; exec /bin/sleep 0.1")
    guest.start_loop()
    guest.announced(count=4)


@one_shell
def test_loop_says_what_is_missing_or_wrong(guest: Guest) -> None:
    guest.settings["GARP_INTERVAL"] = "5s"
    assert "whole numbers" in guest.starter("loop", status=1)
    path = guest.folder / "few"
    path.mkdir()
    for program in ("sh", "grep", "dash"):
        (path / program).symlink_to(need(program, program))
    text, replaced = re.subn(r"^PATH=\$PATH:.*$", f"PATH={path}", STARTER.read_text(), flags=re.M)
    assert replaced == 1
    guest.script.write_text(text)
    assert "ip(8) is needed" in guest.starter("loop", status=1)
    (path / "ip").symlink_to(need("ip", "iproute2"))
    assert "arping is needed" in guest.starter("loop", status=1)


# -- in the background ---------------------------------------------------------------------


def test_starter_starts_reports_restarts_and_stops(guest: Guest) -> None:
    assert "not running" in guest.starter("status", status=3)
    assert "started" in guest.starter("start")
    guest.announced()
    assert "running, process" in guest.starter("status")
    assert "already running" in guest.starter("start")
    assert "started" in guest.starter("restart")
    assert len(guest.processes("garp-start supervise")) == 1
    assert "stopped" in guest.starter("stop")
    until(lambda: not guest.processes("garp-start"), "all of it ended")
    assert list(guest.run_folder.iterdir()) == []
    assert "not running" in guest.starter("stop")


def test_starter_called_many_times_at_once_starts_one(guest: Guest) -> None:
    command = guest.command(guest.script, "start")
    starts = [guest.lab.start("guest", command, stdout=-1) for _ in range(8)]
    said = "".join(start.communicate(timeout=LIMIT)[0] for start in starts)
    assert [said.count(words) for words in ("garp-start: started", "already running")] == [1, 7]
    assert len(guest.processes("garp-start supervise")) == 1


@pytest.mark.parametrize("holder", ["dead", "of another program"])
def test_starter_ignores_the_files_of_a_crashed_one(guest: Guest, holder: str) -> None:
    number = run("sh", "-c", "echo $$").strip() if holder == "dead" else str(os.getpid())
    (guest.run_folder / "garp-start.lock").symlink_to(number)
    # Where /var/run is no tmpfs, another process may have the number after a reboot.
    (guest.run_folder / "garp-start.pid").write_text(f"{os.getpid()}\n")
    assert "started" in guest.starter("start")
    assert len(guest.processes("garp-start supervise")) == 1
    assert not (guest.run_folder / "garp-start.lock").is_symlink()


def test_starter_waits_for_the_lock_of_a_running_one(guest: Guest) -> None:
    holder = guest.lab.start("guest", ["sh", "-c", "read -r _", "garp-start", "start"], stdin=-1)
    (guest.run_folder / "garp-start.lock").symlink_to(str(holder.pid))
    said = guest.starter("start", status=1)
    assert f"has been held by process {holder.pid} for 30 s" in said


def test_status_of_a_process_that_ends_meanwhile_is_not_running(guest: Guest) -> None:
    pid_file = guest.run_folder / "garp-start.pid"
    # It ends after `kill -0` and before its command line is opened.
    pid_file.write_text(run("sh", "-c", "echo $$"))
    guest.program("kill", "exit 0")
    assert guest.starter("status", status=3) == "garp-start: not running\n"
    # It ends before its command line is read.
    pid_file.write_text(f"{os.getpid()}\n")
    guest.program("tr", 'echo "tr: read error: No such process" >&2; exit 1')
    assert guest.starter("status", status=3) == "garp-start: not running\n"


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
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    guest.announced()
    os.kill(agent, 9)
    until(lambda: guest.processes("garp_agent run") - {agent}, "another agent")
    guest.starter("stop")
    until(lambda: not guest.processes("garp"), "all of it ended")


@one_shell
def test_agent_that_cannot_run_is_replaced_by_a_supervised_loop(guest: Guest) -> None:
    guest.program("garp-agent", "echo 'needs Python 3.9' >&2; exit 1")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    guest.announced()
    loop_and_subshells = sorted(guest.processes("garp-start loop"))
    run("kill", "-9", *map(str, loop_and_subshells), accept=(0, 1))
    guest.lab.ip("guest", "address add 192.0.2.77/32 dev eth0")
    guest.announced("192.0.2.77")


@one_shell
def test_agent_with_a_bad_configuration_is_not_started_again(guest: Guest) -> None:
    install_agent(guest)
    bad, log = guest.folder / "config.yaml", guest.folder / "log"
    bad.write_text("interval: never\n")
    log.touch()
    guest.settings["GARP_OPTIONS"] = f"-c {bad}"
    guest.program("logger", f"exec cat >>{log}")
    guest.starter("start")
    until(lambda: "status 78: not started again" in log.read_text(), "it gave up")
    assert f"{bad}:1: interval" in log.read_text()
    assert "not running" in guest.starter("status", status=3)


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
