"""contrib/rc.local, sysv: started by real shells, announcing with real arpings, on a real veth."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import lab as labs
from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.packaging.support import CONTRIB, ROOT, SYSTEM_PATH, need, run
from tests.vm import images

pytestmark = pytest.mark.netns

STARTER = CONTRIB / "rc.local" / "garp-start"
PATIENCE = 30.0  # seconds; nothing here takes as long, and nothing is asserted about it
SHELLS = {"dash": ("dash",), "bash": ("bash",), "busybox": ("busybox", "sh")}
VIP = "192.0.2.77"


class Arp(NamedTuple):
    """A gratuitous ARP as the peer saw it."""

    source: str
    vlan: int
    address: str


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"this did not come about: {what}"
        time.sleep(0.01)
    return value


def gratuitous(frame: bytes) -> Arp | None:
    """The announcement in a frame, if it is one."""
    vlan = 0
    if frame[12:14] == b"\x81\x00":
        vlan, frame = int.from_bytes(frame[14:16], "big") & 0xFFF, frame[:12] + frame[16:]
    if frame[:6] != b"\xff" * 6 or frame[12:14] != b"\x08\x06" or frame[28:32] != frame[38:42]:
        return None
    assert frame[6:12] == frame[22:28], "sender hardware address and Ethernet source differ"
    return Arp(frame[6:12].hex(":"), vlan, socket.inet_ntoa(frame[28:32]))


class Ear:
    """Everything that arrives at the peer."""

    def __init__(self, lab: TinyLab, link: str = "eth0") -> None:
        self.socket = lab.packet_socket("peer", link)
        self.socket.settimeout(PATIENCE)

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def hear(self, wanted: Callable[[bytes], Any]) -> Any:
        """What ``wanted`` makes of the next frame that it makes something of."""
        while True:
            try:
                frame, (_, _, direction, *_) = self.socket.recvfrom(2048)
            except TimeoutError:
                pytest.fail("no such frame arrived")
            value = None if direction == socket.PACKET_OUTGOING else wanted(frame)
            if value:
                return value

    def hear_arp(self, *addresses: str) -> list[Arp]:
        """Announcements until each of these addresses was announced."""
        heard: list[Arp] = []
        while not set(addresses) <= {each.address for each in heard}:
            heard.append(self.hear(gratuitous))
        return heard


class Guest:
    """The guest's end: a lab, a shell, a PATH of its own and files."""

    def __init__(self, lab: TinyLab, folder: Path, ear: Ear) -> None:
        self.lab = lab
        self.folder = folder
        self.run_folder = folder / "run"
        self.run_folder.mkdir()
        self.path = folder / "bin"
        self.path.mkdir()
        self.shell: tuple[str, ...] = ("dash",)
        self.settings = {"GARP_AGENT": "loop"}
        self.ear = ear
        self.script = folder / "garp-start"
        # Rounds follow each other quickly; how long a pause was meant to be is written down.
        self.program("sleep", f'echo "$1" >>{folder}/pauses; exec /bin/sleep 0.1')

    def program(self, name: str, script: str, function: str = "") -> Path:
        """A program that is found before the system's; or, inside, a function of the shell."""
        path = self.path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        # As a function too: busybox prefers its own programs to those in PATH.
        functions = {each.name: f'{each} "$@"' for each in self.path.glob("[!g]*")}
        functions.update({name: function} if function else {})
        lines = [f"{each}() {{ {body}; }}" for each, body in functions.items()]
        self.script.write_text("\n".join(["#!/bin/sh", *lines, f". {STARTER}", ""]))
        self.script.chmod(0o755)
        return path

    def command(self, *words: object) -> list[str]:
        """A command for the shell, with the environment that it is to see (and `ip` is not)."""
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
        """What `garp-start COMMAND` says; it must end with this status."""
        done = self.lab.run("guest", self.command(script or self.script, command), check=False)
        assert done.returncode == status, f"{done.stdout}{done.stderr}"
        return str(done.stdout + done.stderr)

    def start_loop(self) -> Any:
        """The fall-back loop, in the foreground of a process of ours."""
        return self.lab.start("guest", self.command(self.script, "loop"), stdout=-1)

    def processes(self, words: str) -> list[int]:
        """Those in the guest's namespace whose command line has these words."""
        found = []
        for number in labs_processes(self.lab.namespace("guest")):
            try:
                line = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if words in line:
                found.append(number)
        return found


def labs_processes(namespace: str) -> list[int]:
    """The processes in a network namespace."""
    return [int(word) for word in run("ip", "netns", "pids", namespace).split()]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    if reason := labs.why_not():
        pytest.skip(reason)
    with TinyLab() as lab, Ear(lab) as ear:
        yield Guest(lab, tmp_path, ear)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command = SHELLS[request.param]
    need(command[0], command[0])
    return command


@pytest.fixture(scope="session")
def habets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Habets' arping, which can't be installed beside iputils'."""
    if reason := images.missing_tool():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("habets")
    packages = ["arping", "libnet1", "libpcap0.8", "libdbus-1-3"]
    with images.locked():
        images.Archive("bookworm").unpack(packages, place, with_needs=False)
    return place


def use_arping(guest: Guest, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "iputils":
        assert "iputils" in run(need("arping", "iputils-arping"), "-V")
    elif kind == "habets":
        place = request.getfixturevalue("habets")
        libraries = place / "usr" / "lib" / "x86_64-linux-gnu"
        program = place / "usr" / "sbin" / "arping"
        guest.program("arping", f'LD_LIBRARY_PATH={libraries} exec {program} "$@"')
    else:
        need("busybox", "busybox")
        guest.program("arping", 'exec busybox arping "$@"')


# -- the fall-back loop --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iputils", "habets", "busybox"])
def test_each_arping_announces(
    guest: Guest, shell: tuple[str, ...], kind: str, request: pytest.FixtureRequest
) -> None:
    use_arping(guest, kind, request)
    guest.shell = shell
    loop = guest.start_loop()
    for _ in range(3):
        assert guest.ear.hear(gratuitous) == Arp(GUEST_MAC, 0, GUEST_ADDRESS)
    assert guest.lab.stop(loop) == 0


def test_an_added_address_is_announced_and_a_removed_one_never_again(
    guest: Guest, shell: tuple[str, ...]
) -> None:
    guest.shell = shell
    guest.start_loop()
    guest.ear.hear_arp(GUEST_ADDRESS)
    guest.lab.ip("guest", f"address add {VIP}/32 dev eth0")
    guest.ear.hear_arp(VIP)
    guest.lab.ip("guest", f"address del {VIP}/32 dev eth0")
    # What was under way may still come; once another change has been seen, nothing is.
    guest.lab.ip("guest", "address add 192.0.2.78/32 dev eth0")
    guest.ear.hear_arp("192.0.2.78")
    for _ in range(6):
        assert guest.ear.hear(gratuitous).address != VIP


@pytest.mark.parametrize("ip", ["iproute2", "busybox"])
def test_finds_what_must_be_announced_and_nothing_else(
    guest: Guest, shell: tuple[str, ...], ip: str
) -> None:
    guest.shell = shell
    if ip == "busybox":
        need("busybox", "busybox")
        guest.program("ip", 'exec busybox ip "$@"')
    guest.lab.ip(
        "guest",
        # Stands for a VLAN, which not every kernel that tests run on has.
        "link add eth0.7 type veth peer name far7",
        "link set eth0.7 up",
        "link set far7 up",
        "address add 198.51.100.7/24 dev eth0.7",
        "address add 198.51.100.1/32 peer 203.0.113.1 dev eth0 label eth0:1",
        "address add 169.254.3.4/16 dev eth0",
        # The port of a bridge, the bridge, one that is down, one that is excluded.
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
    arguments = guest.folder / "arguments"
    guest.program("arping", f'case $1 in -V) echo iputils;; -q) echo "$@" >>{arguments};; esac')
    need("ping", "iputils-ping")
    guest.program("ping", "exit 0")  # for port8, which has no address
    eventually(
        "the bridge has a carrier",
        lambda: "LOWER_UP" in run("ip", "-n", guest.lab.namespace("guest"), "link", "show", "br7"),
    )
    guest.start_loop()
    eventually("a second round", lambda: arguments.exists() and _rounds(arguments) >= 3)
    announced = {tuple(line.split()[-2:]) for line in arguments.read_text().splitlines()}
    assert announced == {
        ("br7", "198.51.100.21"),
        ("eth0", GUEST_ADDRESS),
        ("eth0", "198.51.100.1"),
        ("eth0.7", "198.51.100.7"),
    }


def _rounds(arguments: Path) -> int:
    return arguments.read_text().count(f"{GUEST_ADDRESS}\n")


def test_a_vrf_member_is_announced(guest: Guest, shell: tuple[str, ...]) -> None:
    """Its master is no bridge: said by ip, as not every kernel that tests run on has VRFs."""
    guest.shell = shell
    guest.program(
        "ip",
        """
case "$*" in
"-o link show up") real "$@" | sed 's/eth0\\(@[^:]*\\): \\(<[^>]*>\\)/eth0\\1: \\2 master vrf7/' ;;
"-d -o link show dev vrf7") echo "7: vrf7: <NOARP,MASTER,UP> mtu 65575 vrf table 7 addrgenmode" ;;
*) real "$@" ;;
esac""".replace("real", need("ip", "iproute2")),
    )
    guest.start_loop()
    guest.ear.hear_arp(GUEST_ADDRESS)


def test_a_link_without_ipv4_teaches_the_switches_by_a_ping(tmp_path: Path) -> None:
    if reason := labs.why_not():
        pytest.skip(reason)
    need("ping", "iputils-ping")
    with TinyLab(ipv6=True) as lab, Ear(lab) as ear:
        guest = Guest(lab, tmp_path, ear)
        lab.ip("guest", f"address del {GUEST_ADDRESS}/24 dev eth0")
        guest.start_loop()
        echo_request = b"\x80"
        frame = guest.ear.hear(
            lambda frame: (
                frame
                if frame.startswith(bytes.fromhex("333300000002"))
                and frame[12:14] == b"\x86\xdd"
                and frame[54:55] == echo_request
                else None
            )
        )
        assert frame[6:12].hex(":") == GUEST_MAC


def test_nothing_to_announce_for_a_while(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    guest.lab.ip("guest", "link set eth0 down")
    loop = guest.start_loop()
    pauses = guest.folder / "pauses"
    eventually("some rounds", lambda: pauses.exists() and len(pauses.read_text().split()) > 3)
    guest.lab.ip("guest", "link set eth0 up")
    guest.ear.hear_arp(GUEST_ADDRESS)
    assert loop.poll() is None


def test_many_addresses_take_turns(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    more = [f"192.0.2.{number}" for number in range(100, 109)]
    guest.lab.ip("guest", *(f"address add {each}/32 dev eth0" for each in more))
    log = guest.folder / "log"
    log.touch()
    note = f'case $1 in -V) echo iputils;; -q) echo "$round $7" >>{log};; esac'
    guest.program("arping", "exit 1", function=note)
    guest.start_loop()
    eventually("five rounds", lambda: "\n5 " in log.read_text())
    rounds: dict[int, list[str]] = {number: [] for number in range(6)}
    for line in log.read_text().splitlines():
        number, _, address = line.partition(" ")
        rounds[int(number)].append(address)
    everything = sorted([GUEST_ADDRESS, *more])
    # All twice at the start, then a share a round.
    assert all(rounds[0].count(address) >= 2 for address in everything)
    assert all(0 < len(rounds[number]) <= 4 for number in range(1, 5))
    assert sorted(rounds[1] + rounds[2] + rounds[3]) == everything


def test_pauses_are_jittered(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    guest.start_loop()
    pauses = guest.folder / "pauses"
    eventually("ten pauses", lambda: pauses.exists() and len(pauses.read_text().split()) > 10)
    tried, first, *rest = [float(word) for word in pauses.read_text().split()[:10]]
    assert tried == 0.001  # does sleep take fractions?
    assert first == 1  # between the two announcements at the start
    assert all(4.0 <= pause < 6.0 for pause in rest)
    assert len(set(rest)) > 5


def test_a_sleep_that_takes_only_whole_seconds(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    guest.program("sleep", "case $1 in *.*) exit 1;; esac; exec /bin/sleep 0.1")
    guest.start_loop()
    for _ in range(4):
        guest.ear.hear_arp(GUEST_ADDRESS)


# Old versions are in no archive any more.  These stand for them: they take what the manual of
# that version gives, and refuse the rest.
OLD_ARPINGS = {
    "iputils-s20071127": """
case $1 in -V) echo "arping utility, iputils-s20071127"; exit 0;; esac
while getopts fqbDUAVc:w:s:I: option; do
    case $option in \\?) exit 2;; I) link=$OPTARG;; U) unsolicited=1;; esac
done
shift $((OPTIND - 1))
[ -n "$unsolicited" ] && [ -n "$link" ] && echo "$link $1" >>LOG""",
    "habets-2.09": """
case $1 in -V|--help) echo "ARPing 2.09, by Thomas Habets <thomas@habets.se>"; exit 1;; esac
while getopts 0aAbdDeFhpqrRsS:t:T:uvw:W:c:i: option; do
    case $option in \\?) exit 1;; i) link=$OPTARG;; S) source=$OPTARG;; esac
done
shift $((OPTIND - 1))
[ "$source" = "$1" ] && [ -n "$link" ] && echo "$link $1" >>LOG""",
}


@pytest.mark.parametrize("version", OLD_ARPINGS)
def test_old_arpings(guest: Guest, shell: tuple[str, ...], version: str) -> None:
    guest.shell = shell
    heard = guest.folder / "heard"
    guest.program("arping", OLD_ARPINGS[version].replace("LOG", str(heard)))
    guest.start_loop()
    eventually("an announcement", lambda: heard.exists() and heard.read_text())
    assert set(heard.read_text().splitlines()) == {f"eth0 {GUEST_ADDRESS}"}


def test_says_which_tool_is_missing(guest: Guest) -> None:
    path = guest.folder / "few"
    path.mkdir()
    for tool in ("sh", "grep", "dash"):
        found = shutil.which(tool)
        assert found
        (path / tool).symlink_to(found)
    text = STARTER.read_text()
    assert text.count("PATH=$PATH:/") == 1
    alone = guest.folder / "garp-start"
    alone.write_text(re.sub(r"^PATH=\$PATH:.*$", f"PATH={path}", text, flags=re.MULTILINE))
    assert "ip(8) is needed" in guest.starter("loop", status=1, script=alone)
    (path / "ip").symlink_to(need("ip", "iproute2"))
    assert "arping is needed" in guest.starter("loop", status=1, script=alone)


def test_a_wrong_interval_is_refused(guest: Guest) -> None:
    guest.settings["GARP_INTERVAL"] = "5s"
    assert "whole numbers" in guest.starter("loop", status=1)


# -- in the background ---------------------------------------------------------------------


def test_start_status_stop(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    assert "not running" in guest.starter("status", status=3)
    assert "started" in guest.starter("start")
    guest.ear.hear_arp(GUEST_ADDRESS)
    assert "running, process" in guest.starter("status")
    assert "already running" in guest.starter("start")
    assert "started" in guest.starter("restart")
    assert len(guest.processes("garp-start supervise")) == 1
    assert "stopped" in guest.starter("stop")
    eventually("all of it ended", lambda: not guest.processes("garp-start"))
    assert list(guest.run_folder.iterdir()) == []
    assert "not running" in guest.starter("stop")


def test_many_starts_at_once_start_one(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    starts = [
        guest.lab.start("guest", guest.command(guest.script, "start"), stdout=-1) for _ in range(8)
    ]
    said = "".join(start.communicate(timeout=PATIENCE)[0] for start in starts)
    assert [said.count(words) for words in ("garp-start: started", "already running")] == [1, 7]
    assert len(guest.processes("garp-start supervise")) == 1


def test_what_a_crash_leaves_behind_is_no_obstacle(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    dead = run("sh", "-c", "echo $$").strip()
    (guest.run_folder / "garp-start.lock").symlink_to(dead)
    # After a reboot on a /var/run that is no tmpfs, another process may have the number.
    (guest.run_folder / "garp-start.pid").write_text(f"{os.getpid()}\n")
    assert "started" in guest.starter("start")
    assert len(guest.processes("garp-start supervise")) == 1


def test_a_lock_whose_number_another_program_has_got_is_no_obstacle(
    guest: Guest, shell: tuple[str, ...]
) -> None:
    guest.shell = shell
    (guest.run_folder / "garp-start.lock").symlink_to(f"{os.getpid()}")
    assert "started" in guest.starter("start")
    assert "garp-start.lock" not in [each.name for each in guest.run_folder.iterdir()]


def test_a_lock_that_a_start_holds_is_waited_for(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    holder = guest.lab.start("guest", ["sh", "-c", "read -r _", "garp-start", "start"], stdin=-1)
    (guest.run_folder / "garp-start.lock").symlink_to(str(holder.pid))
    said = guest.starter("start", status=1)
    assert f"has been held by process {holder.pid} for 30 s" in said


def test_a_process_that_ends_while_it_is_looked_at(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    pid_file = guest.run_folder / "garp-start.pid"
    # Gone before its command line is opened: here `kill -0` still finds it.
    pid_file.write_text(run("sh", "-c", "echo $$"))
    guest.program("kill", "exit 0")
    assert guest.starter("status", status=3) == "garp-start: not running\n"
    # Gone before it is read.
    pid_file.write_text(f"{os.getpid()}\n")
    guest.program("tr", 'echo "tr: read error: No such process" >&2; exit 1')
    assert guest.starter("status", status=3) == "garp-start: not running\n"


def test_a_loop_that_is_killed_comes_back(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    guest.starter("start")
    first = eventually("a loop", lambda: guest.processes("garp-start loop"))
    os.kill(first[0], 9)
    eventually(
        "another loop",
        lambda: [each for each in guest.processes("garp-start loop") if each not in first],
    )
    guest.ear.hear_arp(GUEST_ADDRESS)


def agent_program(guest: Guest) -> Path:
    """This tree's garp-agent as an installed program."""
    return guest.program(
        "garp-agent", f'PYTHONPATH={ROOT / "agent"} exec {sys.executable} -m garp_agent "$@"'
    )


def test_starts_the_agent_where_it_can_run(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    agent_program(guest)
    (guest.folder / "defaults").write_text(
        f'GARP_OPTIONS="--interval 60s --control-socket {guest.folder}/socket"\n'
    )
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    padded = guest.ear.hear(lambda frame: frame if gratuitous(frame) else None)
    assert len(padded) == 60  # arping sends 42
    assert not guest.processes("garp-start loop")
    (agent,) = guest.processes("garp_agent run")
    # Its signals go through.
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    guest.ear.hear_arp(GUEST_ADDRESS)
    os.kill(agent, 9)
    eventually("another agent", lambda: [each for each in guest.processes("run") if each != agent])
    guest.starter("stop")
    eventually("all of it ended", lambda: not guest.processes("garp"))


def test_an_agent_that_cannot_run_is_replaced_by_the_loop(guest: Guest) -> None:
    guest.program("garp-agent", "echo 'needs Python 3.9' >&2; exit 1")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    guest.ear.hear_arp(GUEST_ADDRESS)
    assert guest.processes("garp-start loop")


def test_a_bad_configuration_is_not_tried_again(guest: Guest) -> None:
    agent_program(guest)
    bad = guest.folder / "config.yaml"
    bad.write_text("interval: never\n")
    guest.settings = {"GARP_OPTIONS": f"-c {bad}"}
    guest.program("logger", f"exec cat >>{guest.folder}/log")
    guest.starter("start", status=0)
    log = guest.folder / "log"
    eventually("it gave up", lambda: log.exists() and "not started again" in log.read_text())
    assert "status 78" in log.read_text()
    assert f"{bad}:1: interval" in log.read_text()
    assert "not running" in guest.starter("status", status=3)


def test_the_rc_local_line(guest: Guest) -> None:
    script = guest.folder / "rc.local"
    text = (CONTRIB / "rc.local" / "rc.local").read_text()
    assert "/usr/local/sbin/garp-start start\n" in text
    script.write_text(text.replace("/usr/local/sbin/garp-start", str(guest.script)))
    guest.starter("", script=script)
    guest.ear.hear_arp(GUEST_ADDRESS)


def test_the_init_script(guest: Guest, shell: tuple[str, ...]) -> None:
    guest.shell = shell
    script = CONTRIB / "sysv" / "garp-agent"
    guest.settings["GARP_START"] = str(guest.script)
    guest.starter("start", script=script)
    guest.ear.hear_arp(GUEST_ADDRESS)
    guest.starter("status", script=script)
    guest.starter("force-reload", script=script)
    guest.starter("stop", script=script)
    guest.starter("status", status=3, script=script)
    guest.starter("reticulate", status=2, script=script)


def test_shellcheck() -> None:
    shellcheck = need("shellcheck", "shellcheck")
    scripts = [*(CONTRIB / "rc.local").iterdir(), *(CONTRIB / "sysv").iterdir()]
    assert run(shellcheck, "-s", "sh", *scripts) == ""
