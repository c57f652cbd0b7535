"""Faults, each injected into the running daemon: it goes on, and nothing is missed afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import LIMIT, QUIET, Agent, Capture, until

ADDED = "192.0.2.50"
OTHER_MAC = "02:00:5e:00:53:20"
NO_BUCKET = "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"
BUSY = "interval: 100ms\njitter: 50%\nburst: [0s, 10ms, 20ms, 30ms, 40ms, 50ms]\n" + NO_BUCKET


@pytest.fixture
def wire(tiny_lab: TinyLab) -> Iterator[Capture]:
    with Capture(tiny_lab) as capture:
        yield capture


def kernel_addresses(where: TinyLab, link: str = "eth0") -> set[str]:
    shown = where.run("guest", ["ip", "-json", "address", "show", "dev", link]).stdout
    return {item["local"] for item in json.loads(shown)[0]["addr_info"]}


# -- interfaces -----------------------------------------------------------------------------


def test_links_that_come_and_go_under_its_hands(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """Deleted, renamed, recreated and moved in the middle of bursts, again and again."""
    chance = random.Random(7)
    where = tiny_lab
    with Agent(where, tmp_path, "-v", config=BUSY) as agent:
        for _ in range(25):
            where.ip(
                "guest",
                "link add v0 type veth peer name v1",
                "link set v1 up",
                "address add 10.1.1.1/24 dev v0",
                "link set v0 up",
            )
            time.sleep(chance.random() * 0.02)  # anywhere in the burst
            where.ip(
                "guest",
                *chance.choice(
                    [
                        ["link del v0"],
                        [
                            "link set v0 down",
                            "link set v0 name v2",
                            "link set v2 up",
                            "link del v2",
                        ],
                        [
                            "link set v0 down",
                            "link set v0 name v2",
                            "link set v1 name v0",
                            "link del v2",
                        ],
                        ["link del v1", "link add v0 type veth peer name v1", "link del v1"],
                        [f"link set v1 netns {where.namespace('peer')}", "link del v0"],
                        ["address flush dev v0", "link del v0"],
                    ]
                ),
            )
        status = agent.status()
        assert [link["interface"] for link in status["links"]] == ["lo", "eth0"]
        assert set(status["frames"]["dropped"]) <= {"ENODEV", "ENXIO", "ENETDOWN", "ENOBUFS"}
        assert agent.burst() == 1


def test_a_carrier_that_flaps_fast(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    config = f"{QUIET}rate_limit:\n  frames_per_second: 2\n  depth: 5\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for _ in range(100):
            tiny_lab.ip("peer", "link set eth0 down", "link set eth0 up")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "it is announced in the end")
        sent = len(wire.announcements())
        assert sent <= 5 + 2 * agent.status()["uptime"] + 1
        # At the latest when the bucket allows it again.
        agent.burst()
        wire.wait_for(GUEST_ADDRESS, count=sent + 1)


# -- netlink --------------------------------------------------------------------------------


def churn(where: TinyLab) -> set[str]:
    """10,000 changes; what is left of them, scattered among them."""
    batch: list[str] = []
    left = set()
    for n in range(5000):
        address = f"10.{n // 250}.{n % 250}.1"
        batch.append(f"address add {address}/32 dev eth0")
        if n % 50:
            batch.append(f"address del {address}/32 dev eth0")
        else:
            left.add(address)
    where.ip("guest", *batch)
    return left


def test_ten_thousand_changes_while_it_runs(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        left = churn(tiny_lab)
        assert kernel_addresses(tiny_lab) == left | {GUEST_ADDRESS}
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")


def test_ten_thousand_changes_that_overrun_it(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """Even the loss of events makes it announce nothing that was removed before."""
    with Agent(tiny_lab, tmp_path, config=QUIET + NO_BUCKET) as agent:
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        with agent.asked_while_stopped() as value:
            left = churn(tiny_lab)
            tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0")
            wire.clear()
        assert agent.status()["overruns"] >= 1
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")
        assert agent.log("netlink-overrun")
        agent.burst()
        wire.wait_for(GUEST_ADDRESS)
        assert wire.announcements(ADDED) == []
        assert value[0]["frames"]

        # And it listens as before.
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0")
        assert ADDED not in agent.announced()


def test_what_came_and_went_in_an_overrun_is_gone(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """The news of their coming waits in the buffer, that of their going is lost."""
    with Agent(tiny_lab, tmp_path) as agent:
        with agent.stopped():
            addresses = [f"10.{n // 250}.{n % 250}.1/32 dev eth0" for n in range(5000)]
            tiny_lab.ip("guest", *(f"address add {each}" for each in addresses))
            tiny_lab.ip("guest", *(f"address del {each}" for each in addresses))
        assert agent.status()["overruns"] == 1
        assert agent.announced() == {GUEST_ADDRESS}


def test_a_storm_of_changes_starves_nobody(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """They come as fast as they can: it announces and answers all the same."""
    over = threading.Event()

    def storm(n: int) -> None:
        change = f"address add 10.0.0.{n}/32 dev lo", f"address del 10.0.0.{n}/32 dev lo"
        while not over.is_set():
            tiny_lab.ip("guest", *change * 1000)

    with Agent(tiny_lab, tmp_path, config=BUSY) as agent:
        stormers = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
        for each in stormers:
            each.start()
        try:
            before = agent.sent_by("refresh")
            wire.clear()
            until(lambda: agent.sent_by("refresh") >= before + 5, "it refreshes")
            assert len(wire.announcements(GUEST_ADDRESS)) >= 5
            assert agent.burst() == 1
        finally:
            over.set()
            for each in stormers:
                each.join()


def test_overrun_again_and_again(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        stop = threading.Event()

        def freeze() -> None:
            while not stop.wait(0.05):
                with agent.stopped():
                    stop.wait(0.05)

        freezer = threading.Thread(target=freeze)
        freezer.start()
        try:
            left = churn(tiny_lab)
        finally:
            stop.set()
            freezer.join()
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")


# -- sending --------------------------------------------------------------------------------


@pytest.fixture
def two_links(tiny_lab: TinyLab) -> TinyLab:
    tiny_lab.wire(("guest", "eth1", "peer", "eth1"))
    tiny_lab.host("guest", "eth1", OTHER_MAC, "198.51.100.10/24")
    tiny_lab.host("peer", "eth1", "02:00:5e:00:53:21")
    tiny_lab.wait_until_up("guest", "peer")
    return tiny_lab


def block(where: TinyLab, limit: int) -> None:
    """What eth0 sends waits for ever, up to so many bytes; the rest is refused."""
    qdisc = f"tc qdisc replace dev eth0 root tbf rate 8bit burst 1600 limit {limit}"
    where.run("guest", qdisc.split())


def test_a_full_transmit_queue(two_links: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(two_links, tmp_path, config=QUIET + NO_BUCKET) as agent:
        block(two_links, 1600)
        until(lambda: agent.burst() < 2, "the queue is full")
        for _ in range(3):
            assert agent.burst() == 1
        assert agent.addresses("eth0")[GUEST_ADDRESS]["dropped"]["ENOBUFS"] >= 3
        assert agent.addresses("eth1")["198.51.100.10"]["dropped"] == {}
        assert len(agent.log("frame-dropped", error="ENOBUFS")) == 1  # not a line for each
        two_links.run("guest", ["tc", "qdisc", "del", "dev", "eth0", "root"])
        wire.clear()
        assert agent.burst() == 2
        wire.wait_for(GUEST_ADDRESS)


def test_a_link_that_keeps_its_frames_silences_no_other(two_links: TinyLab, tmp_path: Path) -> None:
    """A queue so long that the socket's send buffer is used up before it is full."""
    with Agent(two_links, tmp_path, config=QUIET + NO_BUCKET) as agent:
        block(two_links, 1 << 24)
        for _ in range(600):
            agent.burst()
        other = agent.addresses("eth1")["198.51.100.10"]
        assert other["sent"] >= 590
        two_links.run("guest", ["tc", "qdisc", "del", "dev", "eth0", "root"])
        assert agent.burst() == 2


# -- the process ----------------------------------------------------------------------------


def test_stopped_and_continued_it_bursts_once(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    config = "interval: 100ms\ninterval_with_lease: 1s\njitter: 0%\nburst: [0s]\n" + NO_BUCKET
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for turn in (1, 2):
            with agent.stopped():
                began = time.monotonic()
                until(lambda b=began: time.monotonic() > b + 1.3, "thirteen ticks are missed")
            until(lambda n=turn: agent.status()["resumes"] == n, "it notices")
        status = agent.status()
        causes = status["frames"]["by_cause"]
        assert causes["resume"] == 2
        # At most one tick for each interval that it was not stopped for.
        assert causes.get("refresh", 0) <= (status["uptime"] - 2 * 1.3) / 0.1 + 2
        assert len(agent.log("resumed")) == 2


def test_stopped_for_half_a_minute_as_it_is_installed(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """Six refreshes are missed: one burst follows, and only of what is still there."""
    gone = "192.0.2.100"
    tiny_lab.ip("guest", f"address add {gone}/24 dev eth0")
    with Agent(tiny_lab, tmp_path, config="") as agent:
        wire.wait_for(gone)
        before = agent.status()["frames"]["by_cause"].get("refresh", 0)
        with agent.stopped():
            tiny_lab.ip("guest", f"address del {gone}/24 dev eth0")
            wire.clear()
            time.sleep(30.0)
        until(lambda: agent.sent_by("resume") == 3, "three rounds")
        assert agent.status()["resumes"] == 1
        assert agent.sent_by("refresh") - before <= 2  # one before it was stopped, one since
        assert wire.announcements(gone) == []
        assert agent.announced() == {GUEST_ADDRESS}


def test_what_is_removed_while_it_is_stopped_is_not_announced(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """Refreshes fall due meanwhile: what happened is heard before they are made up for."""
    config = "interval: 100ms\njitter: 0%\nburst: [0s]\n" + NO_BUCKET
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for turn in range(3):
            gone = f"192.0.2.{100 + turn}"
            tiny_lab.ip("guest", f"address add {gone}/24 dev eth0")
            wire.wait_for(gone)
            with agent.stopped():
                tiny_lab.ip("guest", f"address del {gone}/24 dev eth0")
                wire.clear()
                began = time.monotonic()
                until(lambda b=began: time.monotonic() > b + 0.4, "ticks are missed")
            wire.wait_for(GUEST_ADDRESS, count=5)
            assert wire.announcements(gone) == []


def test_no_memory_for_a_filter(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.run("guest", ["sh", "-c", "echo 64 >/proc/sys/net/core/optmem_max"])
        tiny_lab.ip("guest", "address add 192.0.2.77/24 dev eth0")
        wire.wait_for("192.0.2.77")
        assert agent.burst() == 2


def test_not_even_a_descriptor_to_refuse_with(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """Nobody can be accepted or hung up on: it waits, rather than try without end."""
    with Agent(tiny_lab, tmp_path, config="interval: 200ms\n") as agent:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (4, HARD_LIMIT))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(agent.control))
            asleep = [until(agent.is_asleep, "it sleeps") for _ in range(100)]
            assert len(asleep) == 100
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))
        agent.wait_until_ready()


def descriptors_left(agent: Agent, count: int) -> None:
    """Let it open so many more, and no further."""
    used = {int(name) for name in os.listdir(f"/proc/{agent.pid}/fd")}
    limit = next(n for n in range(1 << 16) if len(set(range(n)) - used) == count and n > max(used))
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (limit, HARD_LIMIT))


HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize("left", range(7))
def test_out_of_file_descriptors(two_links: TinyLab, tmp_path: Path, left: int) -> None:
    """Whatever can't be opened is not done; the rest goes on, and all of it afterwards."""
    config = "interval: 100ms\nburst: [0s]\n" + NO_BUCKET
    agent = Agent(two_links, tmp_path, config=config, wait=False)
    with agent, Capture(two_links) as wire, Capture(two_links, link="eth1") as other:
        # Nobody asked it anything yet: what it loads on demand is not loaded.
        agent.wait_for_log("hint-port")  # the last that it opens by itself
        before = agent.open_files()
        descriptors_left(agent, left)
        with contextlib.ExitStack() as asking:
            for _ in range(left + 3):
                client = asking.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(agent.control))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.sendall(b'{"execute": "status"}\n')
                agent.kill(signal.SIGHUP)
            agent.kill(signal.SIGUSR1)
            for capture, mac in ((wire, GUEST_MAC), (other, OTHER_MAC)):
                capture.clear()
                capture.wait_for(mac=mac, count=5)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))
        agent.wait_until_ready()
        assert agent.status()["frames"]["dropped"] == {}
        agent.reload("interval: 250ms\n")
        until(lambda: agent.status()["interval"] == 0.25, "it reloads")
        until(lambda: agent.open_files() == before, "nothing stays open")


def test_killed_at_any_point_and_started_again(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    chance = random.Random(3)
    for _ in range(10):
        agent = Agent(tiny_lab, tmp_path, config=BUSY, wait=False)
        time.sleep(chance.random() * 0.2)
        agent.stop(signal.SIGKILL)
    with Agent(tiny_lab, tmp_path) as agent:
        wire.clear()
        assert agent.burst() == 1


def frozen_child(agent: Agent) -> int:
    """The child that reads the configuration, stopped while it does."""
    (child,) = until(lambda: children(agent), "a child reads")
    until(
        lambda: len(os.listdir(f"/proc/{child}/fd")) <= 5, "the child has closed what it need not"
    )
    os.kill(child, signal.SIGSTOP)
    return child


# Near the most that a file may hold: it takes a while to read.
LARGE = QUIET + "interfaces:\n  exclude: [" + "nothing, " * 9000 + "nothing]\n"


def children(agent: Agent) -> list[int]:
    text = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_killed_in_mid_reload_and_started_again(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """The child that reads the configuration keeps nothing open that the next agent needs."""
    agent = Agent(tiny_lab, tmp_path)
    with agent.stopped():
        agent.reload(LARGE)
    child = frozen_child(agent)
    try:
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        with Agent(tiny_lab, tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_client_that_is_hung_up_on_in_mid_reload(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(agent.control))
        agent.status()
        agent.reload(LARGE)
        child = frozen_child(agent)
        try:
            # Crowd the first one out.
            with contextlib.ExitStack() as crowd:
                for _ in range(40):
                    other = crowd.enter_context(socket.socket(socket.AF_UNIX))
                    other.connect(str(agent.control))
                client.settimeout(LIMIT)
                assert client.recv(1) == b""
            # What the child still had open would wake the daemon without end.
            agent.status()
            until(agent.is_asleep, "it sleeps")
            before = agent.voluntary_switches()
            agent.status()
            until(agent.is_asleep, "it sleeps again")
            assert agent.voluntary_switches() - before <= 5
        finally:
            os.kill(child, signal.SIGCONT)
        agent.wait_for_log("configuration-loaded")


def test_without_proc(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    prefix = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    with Agent(tiny_lab, tmp_path, prefix=prefix) as agent:
        wire.wait_for(GUEST_ADDRESS)
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")


# -- the control socket ---------------------------------------------------------------------


def test_a_read_only_directory_for_the_socket(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    mount = f'mount -t tmpfs -o ro none {tmp_path}/run && exec "$0" "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount)
    path = str(tmp_path / "run" / "garp-agent" / "control.sock")
    with Agent(tiny_lab, tmp_path, "--control-socket", path, prefix=prefix, wait=False) as agent:
        wire.wait_for(GUEST_ADDRESS)
        line = agent.wait_for_log("control-socket-unavailable")
        assert (line["path"], line["error"]) == (path, "EROFS")
        wire.clear()
        agent.kill(signal.SIGUSR1)
        wire.wait_for(GUEST_ADDRESS)


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "datagram socket", "broken link"])
def test_the_path_is_taken_by_something_else(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "taken"
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("precious"),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "datagram socket": lambda: other.bind(str(path)),
        "broken link": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    make[kind]()
    before = path.lstat()
    with Agent(tiny_lab, tmp_path, "--control-socket", str(path), wait=False) as agent:
        wire.wait_for(GUEST_ADDRESS)
        assert agent.wait_for_log("control-socket-unavailable")["level"] == "warning"
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    other.close()


def test_the_path_is_taken_by_a_stale_socket(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "control.sock"))
        stale.listen()
    with Agent(tiny_lab, tmp_path) as agent:
        assert agent.log("control-socket-unavailable") == []


def test_the_path_is_taken_by_another_agent(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        second = Agent(tiny_lab, tmp_path, wait=False)
        assert second.process.wait(LIMIT) == 1
        assert second.log_text() == (
            f"garp-agent: {agent.control}: another garp-agent answers there\n"
        )
        # One that sends nothing may look on.
        with Agent(tiny_lab, tmp_path, "--dry-run", wait=False) as third:
            assert third.wait_for_log("control-socket-unavailable")["error"] == "EADDRINUSE"
            third.wait_for_log("frame-sent")
        assert agent.burst() == 1
    assert not agent.control.exists()


def test_the_socket_is_for_root_and_its_group_only(tiny_lab: TinyLab, tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "control.sock"
    with Agent(tiny_lab, tmp_path, "--control-socket", str(path), wait=False) as agent:
        agent.control = path
        agent.wait_until_ready()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for directory in (path.parent, path.parent.parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert not path.exists()


def test_a_socket_that_is_no_longer_its_own_is_left_alone(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.control.unlink()
        agent.control.write_text("somebody else's")
    assert agent.control.read_text() == "somebody else's"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("sends", [b"", b'{"execute": "sta', b'{"execute": "status"}\n' * 20])
def test_a_thousand_hanging_clients(
    tiny_lab: TinyLab, tmp_path: Path, many_descriptors: None, sends: bytes
) -> None:
    with Agent(tiny_lab, tmp_path) as agent, contextlib.ExitStack() as hanging:
        before = agent.open_files()
        for n in range(1000):
            client = hanging.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(agent.control))
            client.settimeout(LIMIT)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(sends)
            if n % 100 == 0:
                assert agent.status()["pid"] == agent.pid
        assert agent.burst() == 1
        assert agent.open_files() <= before + 33


# -- configuration --------------------------------------------------------------------------


def test_replaced_while_it_is_read(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """One file or the other, whole."""
    # A mixture of 10 s and 20 s is refused: the longer interval must not be the shorter.
    texts = [f"interval_with_lease: {n}s\n# {'x' * 50000}\ninterval: {n}s\n" for n in (10, 20)]
    with Agent(tiny_lab, tmp_path) as agent:
        stop = threading.Event()

        def replace() -> None:
            while not stop.is_set():
                for text in texts:
                    new = tmp_path / "being-written"
                    new.write_text(f"control_socket: {agent.control}\nhint_port: none\n{text}")
                    new.rename(agent.config)

        replacer = threading.Thread(target=replace)
        replacer.start()
        try:
            for turn in range(1, 11):
                agent.kill(signal.SIGHUP)
                until(
                    lambda n=turn: len(agent.log("configuration-loaded")) >= n,
                    "it is loaded",
                )
                assert agent.status()["interval"] in (10, 20)
        finally:
            stop.set()
            replacer.join()
        assert agent.log("configuration-refused") == []


def resident(agent: Agent) -> int:
    text = Path(f"/proc/{agent.pid}/status").read_text()
    return int(text.partition("\nVmRSS:")[2].split()[0])


def test_reloaded_a_thousand_times(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.wait_for_log("hint-port")
        sizes, files = [], set()
        for turn in range(1, 501):
            agent.reload("interval: soon\nnonsense: 1\n")
            until(lambda n=2 * turn: len(agent.log("configuration-refused")) == n, "it refuses")
            agent.reload(QUIET)
            until(lambda n=turn: len(agent.log("configuration-loaded")) == n, "it loads")
            sizes.append(resident(agent))
            files.add(agent.open_files())
        assert children(agent) == []
        assert len(files) == 1, files
        assert sizes[-1] - sizes[9] < 1000, f"it grew: {sizes} KiB"


def has_read(process: int) -> int:
    text = Path(f"/proc/{process}/io").read_text()
    return int(text.partition("rchar: ")[2].split()[0])


def test_asked_to_reload_while_it_does(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """The file that was read is no longer the one that counts."""
    large = QUIET + f"# {'x' * 98}\n" * 9000  # more than all the modules that it loads
    with Agent(tiny_lab, tmp_path) as agent:
        agent.reload(large)
        (child,) = until(lambda: children(agent), "a child reads")
        before = has_read(child)
        until(lambda: has_read(child) >= before + len(large), "it has read the file")
        os.kill(child, signal.SIGSTOP)
        agent.reload("interval: 30s\n")
        until(agent.is_asleep, "it has heard")
        os.kill(child, signal.SIGCONT)
        until(lambda: agent.status()["interval"] == 30.0, "the newer file is in force")
        assert len(agent.log("configuration-loaded")) == 2


def test_two_hundred_reloads_at_once(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        for n in range(200):
            agent.reload(f"interval: {n + 1}s\ninterval_with_lease: 270s\n")
        until(lambda: agent.status()["interval"] == 200, "the last one is in force")
        until(lambda: children(agent) == [], "no child is left")
        assert agent.log("configuration-refused") == []
