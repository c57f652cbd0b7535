"""The daemon as a process of its own, with guests of every manner on real sockets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.hypervisor.core.guests import FIRST_REASON
from garp_agent.runtime import client
from garp_agent.wire.protocol import Burst, Info, Lease
from tests import faults
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, PATIENCE, eventually, run, watching

WITH_BRIDGE = ("unshare", "-mn", "sh", "-c", 'ip link add br0 type bridge && exec "$@"', "-")
# An entry says that the guests, which name this MAC, are behind the port.
WITH_CARRIER = (
    *WITH_BRIDGE[:-2],
    "ip link add br0 up type bridge && ip link add near up master br0 type veth peer name far && "
    "bridge fdb add 52:54:00:12:34:56 dev near master static && "
    'ip link set far up && exec "$@"',
    "-",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def bursts(guests: Guests, number: int) -> list[Burst]:
    """Return the hints that have reached one guest."""
    return [each for each in guests.requests(number) if isinstance(each, Burst)]


def only(directory: Path, timeout: str = "20", discover: str = "0.1") -> tuple[str, ...]:
    """Options for the guests below this directory, and for no guests of other tests."""
    finding = ("--port", "org.garp_agent.none", "--channel", f"{directory}/*/{PORT}")
    return ("--timeout", timeout, "--discover", discover, *finding)


def test_watcher_finds_hints_and_forgets_guests_whatever_the_others_do(short_path: Path) -> None:
    """A socket in a folder that all users may write to is reported once, and is no guest."""
    public = short_path / "public"
    public.mkdir()
    public.chmod(0o777)
    options = ("--port", PORT, "--timeout", "1", "--discover", "0.1")
    with socket.socket(socket.AF_UNIX) as other, watching(short_path, *options) as watcher:
        other.bind(f"{public}/{PORT}")
        other.listen(1)
        with Guests(short_path, Manner) as guests:
            eventually(lambda: watcher.states().get("guest0") == "answered", "one has answered")
            eventually(lambda: len(watcher.states()) == len(Manner), "all are found")
            eventually(lambda: "new" not in watcher.states().values(), "all were contacted")
            states = [watcher.states()[f"guest{n}"] for n, _ in enumerate(Manner)]
            found = dict(zip(Manner, states))
            assert (found[Manner.NO_AGENT], found[Manner.STOPPED]) == ("no-agent", "busy")
            assert watcher.ask("burst") == {"guests": len(Manner)}
            assert watcher.last()["answered"] == 5
            start, hint, *_ = bursts(guests, 0)
            assert (start.reason, hint.reason) == (FIRST_REASON, "operator")
            assert (hint.sequence > start.sequence, len(hint.boot)) == (True, 12)
            seconds = [watcher.guests()[f"guest{n}"]["last_seconds"] for n in range(2)]
            assert seconds == sorted(seconds)
        eventually(lambda: watcher.states() == {}, "all are forgotten")
        assert not re.search("_ssl|_hashlib", Path(f"/proc/{watcher.process.pid}/maps").read_text())
        pages = int(Path(f"/proc/{watcher.process.pid}/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") < 20e6
        log = watcher.stop()[1]
    assert f"guest-found guest=guest0 path={guests.paths[0]}\n" in log
    assert "guest-gone guest=guest0\n" in log
    refused = f'channel-refused path={public}/{PORT} reason="others may write to its folder'
    assert log.count(refused) == 1


def test_monitor_in_a_folder_that_all_users_may_write_to_is_reported_once(short_path: Path) -> None:
    (short_path / "public").mkdir()
    (short_path / "public").chmod(0o777)
    monitor = f"{short_path}/public/monitor"
    options = (*only(short_path), "--announce-self", "--monitor", monitor)
    with socket.socket(socket.AF_UNIX) as other, watching(short_path, *options) as watcher:
        other.bind(monitor)
        other.listen(1)
        log = ""

        def reported() -> int:
            nonlocal log
            log += watcher.new_log()
            return log.count("channel-refused")

        eventually(reported, "it is reported")
        assert watcher.ask()["monitors"] == 0
        with Guests(short_path, [Manner.ANSWERS]):
            eventually(watcher.states, "another search was made")
        log += watcher.stop()[1]
    refused = f'channel-refused path={monitor} reason="others may write to its folder'
    assert log.count(refused) == 1


def test_hint_cancels_a_contact_without_an_answer(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.HIDES])
    with guests, watching(short_path, *only(short_path, timeout="60")) as watcher:
        eventually(lambda: Info in map(type, guests.requests(0)), "a contact is under way")
        watcher.ask("burst")
        eventually(lambda: watcher.last()["answered"], "the hint was answered")
        assert [type(each) for each in guests.requests(0)][:4] == [Burst, Lease, Info, Burst]


def test_signals_search_hint_at_the_given_pace_and_end(short_path: Path) -> None:
    """It follows no link, and therefore promises nothing."""
    options = (*only(short_path, discover="3600"), "--pace", "4", "--log-format", "json")
    options += ("--bond", "none0")
    three = [Manner.ANSWERS] * 3
    with watching(short_path, *options) as watcher, Guests(short_path, three) as guests:
        assert watcher.states() == {}
        watcher.process.send_signal(signal.SIGHUP)
        eventually(lambda: [*watcher.states().values()] == ["answered"] * 3, "all were contacted")
        watcher.process.send_signal(signal.SIGUSR1)
        eventually(lambda: watcher.ask()["history"], "it has hinted")
        assert watcher.last()["answered"] == 3
        assert watcher.ask()["lease"] == 0
        status, log = watcher.stop(signal.SIGINT)
        assert status == 0
        firsts = [bursts(guests, n)[:2] for n in range(3)]
    contact, operator = ([first[n].delay for first in firsts] for n in range(2))
    assert contact == [0.0, 0.25, 0.5]
    waited = operator[0]  # until the bursts of the first contacts have begun
    assert waited <= 0.75
    assert operator == pytest.approx([waited + delay for delay in contact], abs=0.002)
    assert {first[1].reason for first in firsts} == {"operator"}
    assert not os.path.exists(watcher.status_socket)
    lines = [json.loads(line) for line in log.splitlines()]
    [nothing] = [line for line in lines if line["event"] == "nothing-to-follow"]
    assert (nothing["level"], nothing["wanted"]) == ("warning", "none0")
    assert "lo" in nothing["looked_at"].split(",")
    assert "garp-hint status" in nothing["advice"]
    assert {"level": "notice", "event": "stopping"} in lines
    assert [line["guests"] for line in lines if line["event"] == "failover"] == [3]


@pytest.mark.netns
@needs_root
def test_leases_are_given_renewed_and_revoked_at_the_end(short_path: Path) -> None:
    """It follows a bridge in a namespace of its own: without a link it promises nothing."""
    options = (*only(short_path), "--bond", "br0", "--lease", "3", "--lease-after", "0")
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        with watching(short_path, *options, prefix=WITH_CARRIER) as watcher:
            eventually(lambda: len(guests.requests(0)) >= 5, "the lease is renewed")
            eventually(lambda: watcher.guests()["0-guest0"]["lease"], "status shows the lease")
            assert [link["link"] for link in watcher.ask()["following"]] == ["br0"]
            guest = watcher.guests()["0-guest0"]
            assert (guest["ports"], guest["behind"]) == (["near"], ["br0"])
            status, log = watcher.stop()
        assert status == 0
        hint, end, info, *leases = [each._replace(id=None) for each in guests.requests(0)]
    assert (type(hint), end, info) == (Burst, Lease(None, 0.0), Info())
    assert leases == [Lease(None, 3.0)] * (len(leases) - 1) + [Lease(None, 0.0)]
    assert "following link=br0 kind=bridge" in log


@pytest.mark.netns
@needs_root
def test_lease_ends_without_carrier_and_with_a_hint_that_is_repeated(short_path: Path) -> None:
    """The operator asks for the hint, because not every kernel has a bond to fail over."""
    options = (*only(short_path), "--bond", "br0", "--lease", "3", "--lease-after", "0")
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *options, prefix=WITH_CARRIER) as watcher:
        eventually(lambda: watcher.guests()["0-guest0"]["lease"], "the guest has a lease")
        watcher.ask("burst")
        eventually(lambda: len(bursts(guests, 0)) >= 3, "the hint is repeated")
        _, first, again = bursts(guests, 0)[:3]
        requests = guests.requests(0)
        assert requests[requests.index(first) + 1]._replace(id=None) == Lease(None, 0.0)
        assert watcher.ask()["history"][-1]["rounds"] >= 2
        eventually(lambda: watcher.guests()["0-guest0"]["lease"], "the guest has a lease again")
        ip = ["nsenter", f"--net=/proc/{watcher.process.pid}/ns/net", "ip", "link"]
        subprocess.run([*ip, "set", "far", "down"], check=True)
        eventually(
            lambda: watcher.guests()["0-guest0"]["no_lease"] == "br0 has no carrier",
            "the lease is taken back, and the status says why",
        )
    assert (first.rounds, again.rounds, again.boot) == (None, 1, first.boot)
    assert (first.reason, again.sequence > first.sequence) == ("operator", True)


@pytest.mark.netns
@needs_root
def test_watcher_after_a_killed_one_hints_its_guests_and_ends_their_leases(
    short_path: Path,
) -> None:
    """A failover while none ran was missed, and the guest counts on the lease of the killed one."""
    options = (*only(short_path), "--bond", "br0", "--lease-after", "0")
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        with watching(short_path, *options, prefix=WITH_CARRIER) as watcher:
            eventually(lambda: watcher.guests()["0-guest0"]["lease"], "the guest has a lease")
            watcher.process.kill()
        before = len(guests.requests(0))
        with watching(short_path, *options, prefix=WITH_CARRIER):
            eventually(lambda: len(guests.requests(0)) >= before + 3, "the first contact")
        hint, lease, info = guests.requests(0)[before : before + 3]
        boots = {each.boot for each in bursts(guests, 0)}
    assert isinstance(hint, Burst)
    assert (hint.delay, len(boots)) == (0.0, 2)
    assert [each._replace(id=None) for each in (lease, info)] == [Lease(None, 0.0), Info()]


@needs_root
def test_unprivileged_user_can_watch(short_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if not setpriv:
        pytest.skip("needs `setpriv` (Debian package util-linux)")
    own = short_path / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    os.chmod(short_path, 0o755)
    # The interpreter may be in root's home: reading is allowed there, connecting is not.
    sets = ("inh-caps", "ambient-caps", "bounding-set")
    reading = [f"--{name}=-all,+dac_read_search" for name in sets]
    nobody = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *reading)
    with Guests(short_path, [Manner.ANSWERS, Manner.ANSWERS]) as guests:
        os.chmod(guests.paths[0], 0o666)
        os.chmod(guests.paths[1], 0o600)
        finding = ("--port", PORT, "--timeout", "1", "--discover", "0.1")
        with watching(own, *finding, prefix=nobody) as watcher:
            expected = {"guest0": "answered", "guest1": "forbidden"}
            eventually(lambda: watcher.states() == expected, "both were tried")


def test_status_socket_that_cannot_be_made_is_an_error(short_path: Path) -> None:
    with watching(short_path, *only(short_path)) as watcher:
        path = watcher.status_socket
        found = run("watch", "--status-socket", path)
        assert found == (1, "", f"garp-hint: {path}: another watcher runs\n")
    (short_path / "file").touch()
    path = str(short_path / "file" / "status.sock")
    text = f"garp-hint: {path}: Not a directory; choose another --status-socket, or none\n"
    assert run("watch", "--status-socket", path) == (1, "", text)
    path = f"{short_path}/{100 * 'x'}"
    text = f"garp-hint: {path}: AF_UNIX path too long; choose another --status-socket, or none\n"
    assert run("watch", "--status-socket", path) == (1, "", text)


def test_watcher_without_standard_streams_finds_and_hints_its_guests(short_path: Path) -> None:
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "-")
    guests = Guests(short_path, [Manner.ANSWERS])
    with guests, watching(short_path, *only(short_path), prefix=closed) as watcher:
        eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "the first contact")
        watcher.ask("burst")
        eventually(lambda: len(bursts(guests, 0)) >= 2, "the hint")
        assert watcher.stop() == (0, "")


def test_watcher_without_a_status_socket_tells_the_service_manager(short_path: Path) -> None:
    path = str(short_path / "notify")
    variables = {**ENVIRONMENT, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
    command = [*COMMAND, "watch", "--status-socket", "none", *only(short_path)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=variables) as process:
            said: set[bytes] = set()
            while not said >= {b"READY=1", b"WATCHDOG=1"}:
                said.add(manager.recv(100))
            process.terminate()
            while b"STOPPING=1" not in said:
                said.add(manager.recv(100))
            assert process.wait(PATIENCE) == 0


@pytest.mark.netns
@needs_root
def test_watcher_with_nothing_to_follow_becomes_ready_without_being_asked(short_path: Path) -> None:
    path = str(short_path / "notify")
    variables = {**ENVIRONMENT, "NOTIFY_SOCKET": path}
    command = ["unshare", "-n", *COMMAND, "watch", "--status-socket", "none", *only(short_path)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(PATIENCE)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=variables) as process:
            try:
                assert manager.recv(100) == b"READY=1"
            finally:
                process.terminate()
            assert process.wait(PATIENCE) == 0


# Raise MemoryError once, when the first hints are sent that are no first contact.
FORGETFUL = """
import os
from garp_agent.hypervisor.io.fanout import Fanout

start = Fanout.start

def forgetful(self, calls, now):
    calls = list(calls)
    if any(call.kind == "hint" for call in calls) and not os.path.exists(FLAG):
        open(FLAG, "w").close()
        raise MemoryError
    return start(self, calls, now)

Fanout.start = forgetful
"""


@pytest.mark.parametrize("way", ["a request", "a signal"])
def test_watcher_without_memory_for_hints_sends_them_later(short_path: Path, way: str) -> None:
    flag = short_path / "flag"
    (short_path / "sitecustomize.py").write_text(FORGETFUL.replace("FLAG", repr(str(flag))))
    path = f"PYTHONPATH={short_path}:{ENVIRONMENT['PYTHONPATH']}"
    guests, options = Guests(short_path, [Manner.ANSWERS]), only(short_path)
    with guests, watching(short_path, *options, prefix=("env", path)) as watcher:
        eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "the first contact")
        if way == "a signal":
            watcher.process.send_signal(signal.SIGUSR1)
        else:
            with pytest.raises(client.ClientError, match="not enough memory"):
                watcher.ask("burst")
        eventually(lambda: len(bursts(guests, 0)) >= 2, "the hint")
        assert flag.exists()
        assert watcher.stop()[0] == 0


@pytest.mark.netns
@needs_root
@pytest.mark.parametrize("loss", faults.LOSSES)
@pytest.mark.parametrize("form", ["json", "text"])
def test_watcher_without_library_or_descriptors_continues(
    short_path: Path, loss: str, form: str
) -> None:
    options = (*only(short_path, "1"), "--log-format", form, "--bond", "br0", "-v")
    manners = [Manner.ANSWERS, Manner.REFUSES, Manner.GARBAGE, Manner.HANGS_UP, Manner.NO_AGENT]
    guests = Guests(short_path, manners)
    with guests, watching(short_path, *options, prefix=WITH_BRIDGE) as watcher:
        eventually(lambda: "new" not in watcher.states().values(), "all were contacted")
        for take_away in faults.LOSSES[loss]:
            take_away(watcher.process.pid)
        if loss == "library":  # else it refuses clients
            assert watcher.ask("burst") == {"guests": len(manners)}
            assert watcher.last()["answered"] == 2
        watcher.process.send_signal(signal.SIGHUP)
        watcher.process.send_signal(signal.SIGUSR1)
        ip = ["nsenter", f"--net=/proc/{watcher.process.pid}/ns/net", "ip", "link"]
        subprocess.run([*ip, "del", "br0"], check=True)
        subprocess.run([*ip, "add", 'br"1=', "type", "bridge"], check=True)
        status, log = watcher.stop()
    assert status == 0, log
    assert "no-longer-following" in log
    assert "guest-gone" not in log
    assert "nothing-to-follow" not in log


@pytest.mark.netns
@needs_root
def test_watcher_without_memory_for_kernel_messages_continues_and_reads_them_again(
    short_path: Path,
) -> None:
    options = (*only(short_path), "--bond", "br0")
    pairs = "".join(f"link add v{n} type veth peer name w{n}\n" for n in range(1000))
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        prefix = (*WITH_BRIDGE, *faults.NO_ARENAS)
        with watching(short_path, *options, prefix=prefix) as watcher:
            eventually(lambda: watcher.states() == {"0-guest0": "answered"}, "the first contact")
            pid = watcher.process.pid
            ip = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
            with faults.no_more_memory(pid):
                subprocess.run([*ip, "-batch", "-"], input=pairs, text=True, check=True)
                subprocess.run([*ip, "link", "del", "br0"], check=True)
                eventually(lambda: "out-of-memory action=" in watcher.new_log(), "it says so")
            eventually(lambda: not watcher.ask()["following"], "it knows that the bridge is gone")
            watcher.ask("burst")
            eventually(lambda: len(bursts(guests, 0)) >= 2, "the hint")
            status, log = watcher.stop()
    assert status == 0, log
    assert "no-longer-following link=br0" in log
