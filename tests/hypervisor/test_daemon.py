"""The daemon as a process of its own, with guests of every manner on real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.runtime import client
from garp_agent.wire.protocol import Burst, Info, Lease
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, PATIENCE, eventually, run, watching

QUICK = ("--discover", "0.1", "--timeout", "1")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def only(directory: Path) -> tuple[str, ...]:
    """Options for the guests below this directory, and none that others run."""
    return (*QUICK, "--port", "org.garp_agent.none", "--channel", f"{directory}/*/{PORT}")


def test_guests_are_met_and_hinted_whatever_the_others_do(short_path: Path) -> None:
    manners = list(Manner)
    with Guests(short_path, manners) as guests, watching(short_path, *only(short_path)) as watcher:
        eventually(lambda: "new" not in watcher.states().values(), "all were met")
        states = [watcher.states()[f"{n}-guest{n}"] for n in range(len(manners))]
        assert states[manners.index(Manner.ANSWERS)] == "answered"
        assert states[manners.index(Manner.MUTE)] == "no-agent"
        assert states[manners.index(Manner.DEAF)] == "busy"
        assert watcher.ask("burst") == {"guests": len(manners)}
        entry = watcher.last()
        assert entry["link"] == entry["reason"] == "operator"
        assert (entry["guests"], entry["answered"]) == (len(manners), 5)
        eventually(lambda: not watcher.last()["awaited"], "repeats have ended")
        [hint] = [each for each in guests.requests(0) if isinstance(each, Burst)]
        assert hint.reason == "operator"
        assert hint.sequence == 1
        assert hint.boot
        guest = watcher.guests()["0-guest0"]
        assert (guest["hints"], guest["answered"], guest["version"]) == (1, 1, "0.1.0")
        assert guest["last_seconds"] < watcher.guests()["1-guest1"]["last_seconds"]


def test_a_contact_that_is_stuck_holds_up_no_hint(short_path: Path) -> None:
    options = ("--timeout", "60", *only(short_path)[4:], "--discover", "0.1")
    with (
        Guests(short_path, [Manner.SELECTIVE]) as guests,
        watching(short_path, *options) as watcher,
    ):
        eventually(lambda: guests.requests(0), "a contact is under way")
        watcher.ask("burst")
        eventually(lambda: watcher.last()["answered"], "the hint was answered")
        assert [type(each) for each in guests.requests(0)][:2] == [Info, Burst]


def test_the_sockets_of_the_ports_name_are_found_by_themselves(short_path: Path) -> None:
    options = (*QUICK, "--port", PORT)
    with Guests(short_path, [Manner.ANSWERS]), watching(short_path, *options) as watcher:
        eventually(lambda: "guest0" in watcher.states(), "it is found")


def test_guests_start_and_stop(short_path: Path) -> None:
    options = (*QUICK, "--port", PORT)
    with watching(short_path, *options) as watcher:
        with Guests(short_path, [Manner.ANSWERS]):
            eventually(lambda: watcher.states().get("guest0") == "answered", "it was met")
        eventually(lambda: "guest0" not in watcher.states(), "it is forgotten")
        log = watcher.stop()[1]
    assert f"guest-found guest=guest0 path={short_path}/0-guest0/{PORT}\n" in log
    assert "guest-gone guest=guest0\n" in log


def test_signals(short_path: Path) -> None:
    options = ("--discover", "3600", *only(short_path)[2:])
    with watching(short_path, *options) as watcher, Guests(short_path, [Manner.ANSWERS]) as guests:
        assert watcher.states() == {}
        watcher.process.send_signal(signal.SIGHUP)
        eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "it was met")
        watcher.process.send_signal(signal.SIGUSR1)
        eventually(lambda: watcher.ask()["history"], "it has hinted")
        assert watcher.last()["answered"] == 1
        assert watcher.stop(signal.SIGINT)[0] == 0
        assert [type(each) for each in guests.requests(0)] == [Info, Burst]
    assert not os.path.exists(watcher.status_socket)


def renewed(requests: Sequence[object]) -> bool:
    return [type(each) for each in requests].count(Lease) >= 3


@pytest.mark.netns
@needs_root
def test_leases_are_given_renewed_and_taken_back(short_path: Path) -> None:
    """A bridge in a namespace of its own is followed, so that there is something to promise."""
    namespace = ("unshare", "-n", "sh", "-c", 'ip link add br0 type bridge && exec "$@"', "-")
    options = (*only(short_path), "--bond", "br0", "--lease", "3")
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        with watching(short_path, *options, prefix=namespace) as watcher:
            eventually(lambda: renewed(guests.requests(0)), "the lease is renewed")
            assert watcher.guests()["0-guest0"]["lease"] > 0
            assert [link["link"] for link in watcher.ask()["following"]] == ["br0"]
            status, log = watcher.stop()
        assert status == 0
        requests = [each._replace(id=None) for each in guests.requests(0)]
    leases = [each for each in requests if isinstance(each, Lease)]
    assert leases == [Lease(None, 3.0)] * (len(leases) - 1) + [Lease(None, 0.0)]
    assert len(leases) >= 4
    assert "following link=br0 kind=bridge" in log


def test_without_a_link_to_follow_nothing_is_promised(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        with watching(short_path, *only(short_path), "--bond", "none0") as watcher:
            eventually(lambda: guests.requests(0), "it was met")
            assert watcher.ask()["lease"] == 0
            log = watcher.stop()[1]
        assert [type(each) for each in guests.requests(0)] == [Info]
    assert "nothing-to-follow wanted=none0\n" in log


def test_pace(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS] * 3) as guests:
        with watching(short_path, *only(short_path), "--pace", "4") as watcher:
            eventually(lambda: [*watcher.states().values()] == ["answered"] * 3, "all were met")
            watcher.ask("burst")
            assert watcher.last()["answered"] == 3
        requests = [each for n in range(3) for each in guests.requests(n)]
    delays = [each.delay for each in requests if isinstance(each, Burst)]
    assert delays == [0.0, 0.25, 0.5]


@needs_root
def test_an_unprivileged_user_can_watch(short_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs `setpriv` (Debian package util-linux)")
    own = short_path / "own"
    own.mkdir()
    # The interpreter may be in root's home: nobody may read that here, but still connect nowhere.
    sets = ("inh-caps", "ambient-caps", "bounding-set")
    reading = [f"--{name}=-all,+dac_read_search" for name in sets]
    nobody = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *reading)
    for directory in (own, short_path):
        os.chmod(directory, 0o755)
    os.chown(own, 65534, 65534)
    with Guests(short_path, [Manner.ANSWERS, Manner.ANSWERS]) as guests:
        os.chmod(guests.paths[0], 0o666)
        os.chmod(guests.paths[1], 0o600)
        with watching(own, *only(short_path), prefix=nobody) as watcher:
            expected = {"0-guest0": "answered", "1-guest1": "forbidden"}
            eventually(lambda: watcher.states() == expected, "one was met, one is forbidden")
            watcher.ask("burst")
            assert watcher.last()["answered"] == 1


def test_the_service_manager_is_told(short_path: Path) -> None:
    path = str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        with watching(
            short_path, *only(short_path), NOTIFY_SOCKET=path, WATCHDOG_USEC="200000"
        ) as watcher:
            said = {manager.recv(100) for _ in range(4)}
            assert {b"READY=1", b"WATCHDOG=1"} <= said
            watcher.stop()
            while b"STOPPING=1" not in said:
                said.add(manager.recv(100))


def test_any_bytes_on_the_status_socket(short_path: Path) -> None:
    with watching(short_path, *only(short_path)) as watcher:
        with socket.socket(socket.AF_UNIX) as client_:
            client_.settimeout(PATIENCE)
            client_.connect(watcher.status_socket)
            lines = [b"\x00\xfe", b"[" * 4000, b"x" * 5000, b'{"execute": "lease"}', b"{}"]
            client_.sendall(b"\n".join(lines) + b'\n\xff{"execute": "sync", "id": 7}\n')
            answers = client_.makefile("rb")
            classes = [json.loads(answers.readline())["error"]["class"] for _ in lines]
            assert classes == [
                "InvalidJSON",
                "InvalidJSON",
                "LineTooLong",
                "CommandNotFound",
                "InvalidRequest",
            ]
            assert answers.readline() == b'\xff{"id": 7, "return": {}}\n'
        assert watcher.ask()["guests"] == []


def test_one_watcher_is_enough(short_path: Path) -> None:
    with watching(short_path, *only(short_path)) as watcher:
        second = run("watch", "--status-socket", watcher.status_socket)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == f"garp-hint: {watcher.status_socket}: another one watches\n"


def test_where_the_status_socket_cannot_be(short_path: Path) -> None:
    (short_path / "file").touch()
    path = short_path / "file" / "status.sock"
    found = run("watch", "--status-socket", str(path))
    assert found.returncode == 1
    assert f"garp-hint: {path}: Not a directory; choose another --status-socket" in found.stderr


def test_it_can_do_without_a_status_socket(short_path: Path) -> None:
    arguments = [*COMMAND, "watch", "--status-socket", "none", *only(short_path)]
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        eventually(lambda: guests.requests(0), "it has met the guest")
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_the_daemon_does_not_load_click(short_path: Path) -> None:
    with watching(short_path, *only(short_path)) as watcher:
        maps = Path(f"/proc/{watcher.process.pid}/maps").read_text()
        assert "_ssl" not in maps
        assert "_hashlib" not in maps
        assert resident(watcher.process.pid) < 20e6


def resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_log_as_json(short_path: Path) -> None:
    with watching(short_path, *only(short_path), "--log-format", "json") as watcher:
        watcher.ask("burst")
        lines = [json.loads(line) for line in watcher.stop()[1].splitlines()]
    assert {"level": "notice", "event": "stopping"} in lines
    [failover] = [line for line in lines if line["event"] == "failover"]
    assert failover["guests"] == 0


def test_asking_where_nobody_watches(short_path: Path) -> None:
    with pytest.raises(client.ClientError):
        client.ask(str(short_path / "none"), "status")
    for command in ("status", "history"):
        found = run(command, "--status-socket", str(short_path / "none"))
        assert found.returncode == 4
        assert "no garp-hint watch answers there" in found.stderr
