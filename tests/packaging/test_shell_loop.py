"""The fall-back loop of garp-start: real arpings on a real veth pair, and its replies to hints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP

from bench import lab as labs
from bench.lab import GUEST_ADDRESS, GUEST_MAC
from garp_agent.wire.protocol import parse_reply
from tests.netns.agent import until
from tests.packaging.shell_guest import STARTER, Guest, Host
from tests.packaging.support import ROOT, need, run

pytestmark = pytest.mark.netns

ROUTERS = b"\x33\x33\0\0\0\2"  # the MAC of ff02::2, all routers


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
        script, found, _ = STARTER.read_text().partition("\ncase ${1:-} in\n")
        assert found
        self.script = guest.folder / "steps"
        awk = f'awk() {{ {guest.path}/awk "$@"; }}\n' if (guest.path / "awk").exists() else ""
        self.script.write_text(f'{script}\n{awk}require_tools\nstep "$1" "$2"\n')

    def next(self, signals: str = "") -> list[str]:
        """Return the addresses that the next step sends."""
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
    # Each of the 10 twice, as new; then all in rounds of at most 4.
    assert sorted(loop.next()) == everything
    assert loop.pause == 1
    assert sorted(loop.next()) == everything
    assert loop.pause >= 4
    rounds = [loop.next() for _ in range(3)]
    assert all(0 < len(each) <= 4 for each in rounds)
    assert sorted(chain(*rounds)) == everything


def test_loop_announces_all_addresses_twice_at_a_signal(guest: Guest) -> None:
    everything = sorted(add_addresses(guest, 12))
    loop = Steps(guest)
    for _ in range(4):
        loop.next()
    assert [sorted(loop.next(signals)) for signals in ("yes", "")] == [everything] * 2
    assert len(loop.next()) == 4


def test_loop_sends_at_most_seven_frames_between_two_pauses(guest: Guest) -> None:
    add_addresses(guest, 100)
    log = guest.folder / "log"
    guest.program("arping", f"case $1 in -q) echo frame >>{log};; esac")
    guest.program("sleep", f"case $1 in 0.*) ;; *) echo pause >>{log};; esac")
    guest.start_loop()
    lines = guest.lines_of("log", 150)
    # A frame may be late, because the loop does not wait for arping.
    for end in range(len(lines)):
        assert lines[:end].count("frame") <= 7 * (lines[:end].count("pause") + 1)


def test_loop_does_not_announce_an_address_that_is_gone_at_its_turn(guest: Guest) -> None:
    last = add_addresses(guest, 20)[-1]
    guest.program("arping", f'case $1 in -q) echo "$*" >>{guest.folder}/log;; esac')
    guest.program("sleep", f"[ $1 != 1 ] || ip address del {last}/32 dev eth0")
    guest.start_loop()
    assert last not in "".join(guest.lines_of("log", 40))


FAILING = {
    "ip": "printf 'no room\\nfor a socket\\n' >&2; exit 1",
    "arping": "echo 'no permission' >&2; exit 2",
    "awk": "echo 'no memory' >&2; exit 2",
}


@pytest.mark.parametrize("failing", [*FAILING, "all, and nothing is there"])
def test_loop_logs_an_error_once_not_in_each_round(guest: Guest, failing: str) -> None:
    log = guest.folder / "log"
    guest.program("logger", f"exec cat >>{log}")
    for name in ("ip", "arping", "awk", "ping", "ping6"):
        guest.program(name, f'exec {need(name, name)} "$@"' if name != "ping6" else "exit 1")
    guest.settings["GARP_PORT"] = "/dev/tty"  # a device that the background part cannot open
    guest.starter("start")
    guest.lines_of("log", 2)
    for name in FAILING:
        if name == failing:
            guest.program(name, FAILING[name])
        elif failing not in FAILING:
            (guest.path / name).unlink()
    done = len(guest.lines_of("pauses", 0))
    before = log.read_text()
    guest.lines_of("pauses", done + 20)
    after = log.read_text().removeprefix(before).splitlines()
    assert len(after) <= 3, after
    guest.lines_of("pauses", done + 40)
    assert log.read_text().removeprefix(before).splitlines() == after
    # A later error may replace the file at the moment.
    until(lambda: "last error: " in guest.starter("status"), "the error is known")


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
    script, _, _ = STARTER.read_text().partition("\ncase ${1:-} in\n")
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


def channel(path: Path, end: int) -> socket.socket:
    """Join a Unix socket, as QEMU has it, with a terminal; one client at a time."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):  # the end of the test closes both
            while True:
                client = listener.accept()[0]
                with client:
                    while True:
                        if end in select.select([client.fileno(), end], [], [])[0]:
                            client.sendall(os.read(end, 4096))
                        elif data := client.recv(4096):
                            os.write(end, data)
                        else:
                            break

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_garp_hint_shows_the_loop_as_what_it_is(guest: Guest) -> None:
    path = guest.folder / "org.garp_agent.0"
    command = [sys.executable, "-m", "garp_agent.hypervisor"]
    options = ["--channel", str(path), "--timeout", "30"]
    environment = {"PYTHONPATH": str(ROOT / "agent")}
    with Host(guest) as host, channel(path, host.end):
        guest.start_loop()
        guest.announced(count=2)
        shown = run(*command, "list", *options, env=environment)
        assert re.search(r"answered +agent +garp-start \(shell\) +192\.0\.2\.", shown), shown
        guest.wire.clear()
        assert "answered in" in run(*command, "send", "--all", *options, env=environment)
        guest.announced(count=2)


def test_loop_jitters_its_pauses(guest: Guest) -> None:
    guest.start_loop()
    _, first, *others = map(float, guest.lines_of("pauses", 14)[:14])  # the first is a try
    assert first == 1  # between the two announcements at the start
    jittered = set(others) - {1.0}  # if the kernel checks an address late
    assert all(4.0 <= pause < 6.0 for pause in jittered)
    assert len(jittered) > 5


def test_loop_announces_an_interface_that_is_named_like_a_pattern(guest: Guest) -> None:
    guest.lab.ip("guest", "link set eth0 down", "link set eth0 name a*", "link set a* up")
    guest.start_loop()
    guest.announced(count=4)


def test_loop_works_with_a_sleep_of_whole_seconds(guest: Guest) -> None:
    guest.program("sleep", "case $1 in *.*) exit 1;; esac; exec /bin/sleep 0.1")
    guest.start_loop()
    guest.announced(count=4)
