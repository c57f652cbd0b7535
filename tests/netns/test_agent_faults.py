"""Faults in the running daemon's surroundings: it continues, and misses nothing afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC, TinyLab
from tests.netns.agent import LIMIT, NO_BUCKET, OTHER_MAC, QUIET, Agent, Capture, until

ADDED = "192.0.2.50"
FREQUENT = "interval: 100ms\njitter: 0%\nburst: [0s]\n" + NO_BUCKET
BUSY = "interval: 100ms\njitter: 50%\nburst: [0s, 10ms, 20ms, 30ms, 40ms, 50ms]\n" + NO_BUCKET


@contextlib.contextmanager
def meanwhile(*work: Callable[[], object]) -> Iterator[None]:
    """Call each function again and again during the block, each in a thread of its own."""
    over = threading.Event()

    def repeat(each: Callable[[], object]) -> None:
        while not over.is_set():
            each()

    threads = [threading.Thread(target=repeat, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


# -- interfaces -----------------------------------------------------------------------------


def test_links_deleted_renamed_or_moved_during_bursts_are_dropped_and_forgotten(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    chance = random.Random(7)
    rename = ["link set v0 down", "link set v0 name v2"]
    fates = [
        ["link del v0"],
        [*rename, "link set v2 up", "link del v2"],
        [*rename, "link set v1 name v0", "link del v2"],
        ["link del v1", "link add v0 type veth peer name v1", "link del v1"],
        [f"link set v1 netns {tiny_lab.namespace('peer')}", "link del v0"],
        ["address flush dev v0", "link del v0"],
    ]
    with Agent(tiny_lab, tmp_path, "-v", config=BUSY) as agent:
        for _ in range(25):
            tiny_lab.ip(
                "guest",
                "link add v0 type veth peer name v1",
                "link set v1 up",
                "address add 10.1.1.1/24 dev v0",
                "link set v0 up",
            )
            time.sleep(chance.random() * 0.02)  # to be anywhere in the burst
            tiny_lab.ip("guest", *chance.choice(fates))
        status = agent.status()
        assert [link["interface"] for link in status["links"]] == ["lo", "eth0"]
        assert set(status["frames"]["dropped"]) <= {"ENODEV", "ENXIO", "ENETDOWN", "ENOBUFS"}
        assert agent.burst() == 1


def test_carrier_that_flaps_stays_within_the_bucket_and_is_announced_in_the_end(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    config = f"{QUIET}rate_limit:\n  frames_per_second: 2\n  depth: 5\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        for _ in range(100):
            tiny_lab.ip("peer", "link set eth0 down", "link set eth0 up")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "it is announced in the end")
        sent = len(wire.announcements())
        assert sent <= 5 + 2 * agent.status()["uptime"] + 1
        agent.burst()
        wire.wait_for(GUEST_ADDRESS, count=sent + 1)


# -- netlink --------------------------------------------------------------------------------


def churn(where: TinyLab) -> set[str]:
    """Make 10,000 changes; return the addresses that remain, scattered among them."""
    addresses = [f"10.{n // 250}.{n % 250}.1" for n in range(5000)]
    batch: list[str] = []
    for n, address in enumerate(addresses):
        batch.append(f"address add {address}/32 dev eth0")
        if n % 50:
            batch.append(f"address del {address}/32 dev eth0")
    where.ip("guest", *batch)
    return set(addresses[::50])


def test_netlink_overrun_misses_nothing_and_announces_nothing_removed_before_it(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path, config=QUIET + NO_BUCKET) as agent:
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        with agent.asked_while_stopped() as value:
            left = churn(tiny_lab)
            tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0")
            wire.clear()
        assert agent.status()["overruns"] >= 1
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")
        shown = tiny_lab.run("guest", ["ip", "-json", "address", "show", "dev", "eth0"]).stdout
        kernel = {item["local"] for item in json.loads(shown)[0]["addr_info"]}
        assert kernel == left | {GUEST_ADDRESS}
        assert agent.log("netlink-overrun")
        agent.burst()
        wire.wait_for(GUEST_ADDRESS)
        assert wire.announcements(ADDED) == []
        assert value[0]["frames"]

        # It reads events as before.
        tiny_lab.ip("guest", f"address add {ADDED}/24 dev eth0")
        wire.wait_for(ADDED)
        tiny_lab.ip("guest", f"address del {ADDED}/24 dev eth0")
        assert ADDED not in agent.announced()


def test_addresses_added_and_removed_in_an_overrun_are_gone(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    """The events of their addition wait in the buffer; those of their removal are lost."""
    with Agent(tiny_lab, tmp_path) as agent:
        with agent.stopped():
            addresses = [f"10.{n // 250}.{n % 250}.1/32 dev eth0" for n in range(5000)]
            tiny_lab.ip("guest", *(f"address add {each}" for each in addresses))
            tiny_lab.ip("guest", *(f"address del {each}" for each in addresses))
        assert agent.status()["overruns"] == 1
        assert agent.announced() == {GUEST_ADDRESS}


def test_repeated_overruns_miss_nothing(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:

        def freeze() -> None:
            with agent.stopped():
                time.sleep(0.05)  # in which events fill the buffer
            time.sleep(0.05)  # in which the agent reads some

        with meanwhile(freeze):
            left = churn(tiny_lab)
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")


def test_endless_changes_do_not_keep_it_from_announcing_and_answering(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    changes = [
        (f"address add 10.0.0.{n}/32 dev lo", f"address del 10.0.0.{n}/32 dev lo") * 1000
        for n in range(4)
    ]
    storms = [lambda each=each: tiny_lab.ip("guest", *each) for each in changes]
    with Agent(tiny_lab, tmp_path, config=BUSY) as agent, meanwhile(*storms):
        before = agent.sent_by("refresh")
        wire.clear()
        until(lambda: agent.sent_by("refresh") >= before + 5, "it refreshes")
        assert len(wire.announcements(GUEST_ADDRESS)) >= 5
        assert agent.burst() == 1


# -- sending --------------------------------------------------------------------------------


def test_full_transmit_queue_drops_and_counts_frames_of_its_link_only(
    two_links: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(two_links, tmp_path, config=QUIET + NO_BUCKET) as agent:
        # The queue sends one bit in eight seconds, holds 1600 bytes and refuses the rest.
        qdisc = "tc qdisc replace dev eth0 root tbf rate 8bit burst 1600 limit 1600"
        two_links.run("guest", qdisc.split())
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


def test_no_kernel_memory_for_a_filter_does_not_stop_announcements(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        tiny_lab.run("guest", ["sh", "-c", "echo 64 >/proc/sys/net/core/optmem_max"])
        tiny_lab.ip("guest", "address add 192.0.2.77/24 dev eth0")
        wire.wait_for("192.0.2.77")
        assert agent.burst() == 2


# -- the process ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "seconds", "burst"),
    [(FREQUENT, 0.4, 0), (FREQUENT, 1.3, 1), ("", 30.0, 3)],
    ids=["refreshes are due", "a resume", "a resume with defaults"],
)
def test_process_stopped_past_refreshes_neither_catches_up_nor_announces_what_was_removed(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path, config: str, seconds: float, burst: int
) -> None:
    """A stop of more than an interval and a second is a resume, which makes one burst."""
    gone = "192.0.2.100"
    tiny_lab.ip("guest", f"address add {gone}/24 dev eth0")
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        wire.wait_for(gone)
        before = agent.status()
        with agent.stopped():
            tiny_lab.ip("guest", f"address del {gone}/24 dev eth0")
            wire.clear()
            time.sleep(seconds)
        wire.wait_for(GUEST_ADDRESS, count=max(burst, 1))
        until(lambda: agent.sent_by("resume") >= burst, "the burst is sent")
        after = agent.status()
        causes = after["frames"]["by_cause"]
        # On a busy machine, a wait for a CPU can be one more resume.
        assert after["resumes"] > before["resumes"] or not burst
        assert causes.get("resume", 0) <= max(burst, 1) * after["resumes"]
        ticks = (after["uptime"] - before["uptime"] - seconds) / (0.8 * after["interval"]) + 2
        assert (
            causes.get("refresh", 0) - before["frames"]["by_cause"].get("refresh", 0) <= 2 * ticks
        )
        assert wire.announcements(gone) == []
        assert agent.announced() == {GUEST_ADDRESS}


def test_no_descriptor_to_refuse_clients_with_makes_it_wait_and_not_spin(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path, config="interval: 200ms\n") as agent:
        agent.limit_descriptors(4)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(agent.control))  # which makes the agent runnable at once
            until(agent.is_asleep, "it sleeps")
        agent.limit_descriptors(None)
        agent.wait_until_ready()


@pytest.mark.parametrize("left", range(7))
def test_few_descriptors_left_do_not_stop_announcements_and_none_leaks(
    two_links: TinyLab, tmp_path: Path, left: int
) -> None:
    agent = Agent(two_links, tmp_path, config=FREQUENT, wait=False)
    with agent, Capture(two_links) as wire, Capture(two_links, link="eth1") as other:
        # No request came yet: code that it loads on demand is not loaded.
        agent.wait_for_log("hint-port")  # the last that it opens by itself
        before = agent.open_files()
        used = agent.descriptors()
        limits = (n for n in count(max(used) + 1) if len(set(range(n)) - used) == left)
        agent.limit_descriptors(next(limits))
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
        agent.limit_descriptors(None)
        agent.wait_until_ready()
        assert agent.status()["frames"]["dropped"] == {}
        agent.reload("interval: 250ms\n")
        until(lambda: agent.status()["interval"] == 0.25, "it reloads")
        until(lambda: agent.open_files() == before, "nothing stays open")


def test_agent_killed_at_any_point_starts_again(tiny_lab: TinyLab, tmp_path: Path) -> None:
    chance = random.Random(3)
    for _ in range(10):
        agent = Agent(tiny_lab, tmp_path, config=BUSY, wait=False)
        time.sleep(chance.random() * 0.2)  # to be anywhere in its start
        agent.stop(signal.SIGKILL)
    with Agent(tiny_lab, tmp_path) as agent:
        assert agent.burst() == 1


def test_agent_killed_during_a_reload_starts_again(tiny_lab: TinyLab, tmp_path: Path) -> None:
    """The child that reads the configuration keeps nothing open that the next agent needs."""
    agent = Agent(tiny_lab, tmp_path)
    # Near the most that a file may hold, so that reading takes a while.
    agent.reload(QUIET + "interfaces:\n  exclude: [" + "nothing, " * 9000 + "nothing]\n")
    (child,) = until(agent.children, "a child reads")
    until(lambda: len(os.listdir(f"/proc/{child}/fd")) <= 5, "the child has closed the rest")
    os.kill(child, signal.SIGSTOP)
    try:
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        with Agent(tiny_lab, tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_agent_without_proc_announces_and_reloads(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    prefix = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    with Agent(tiny_lab, tmp_path, prefix=prefix) as agent:
        wire.wait_for(GUEST_ADDRESS)
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")


# -- the control socket ---------------------------------------------------------------------


@pytest.mark.parametrize(("error", "kind"), [("EROFS", ""), ("EEXIST", "file"), ("EEXIST", "fifo")])
def test_control_socket_that_cannot_be_made_is_reported_and_announcing_continues(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path, error: str, kind: str
) -> None:
    (tmp_path / "run").mkdir()
    mount = f'mount -t tmpfs -o ro none {tmp_path}/run && exec "$0" "$@"'
    path = tmp_path / "taken" if kind else tmp_path / "run" / "garp-agent" / "control.sock"
    prefix = () if kind else ("unshare", "--mount", "sh", "-c", mount)
    if kind:
        {"file": path.touch, "fifo": lambda: os.mkfifo(path)}[kind]()
        before = path.lstat()
    options = ("--control-socket", str(path))
    with Agent(tiny_lab, tmp_path, *options, prefix=prefix, wait=False) as agent:
        wire.wait_for(GUEST_ADDRESS)
        line = agent.wait_for_log("control-socket-unavailable", level="warning")
        assert (line["path"], line["error"]) == (str(path), error)
        wire.clear()
        agent.kill(signal.SIGUSR1)
        wire.wait_for(GUEST_ADDRESS)
    if kind:
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_second_agent_on_the_same_control_socket_refuses_to_start(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:  # which the first agent replaces
        stale.bind(str(tmp_path / "control.sock"))
        stale.listen()
    with Agent(tiny_lab, tmp_path) as agent:
        second = Agent(tiny_lab, tmp_path, wait=False)
        assert second.process.wait(LIMIT) == 1
        assert second.log_text() == (
            f"garp-agent: {agent.control}: another garp-agent answers there\n"
        )
        # A dry run sends nothing, so it may run beside.
        with Agent(tiny_lab, tmp_path, "--dry-run", wait=False) as third:
            assert third.wait_for_log("control-socket-unavailable")["error"] == "EADDRINUSE"
            third.wait_for_log("frame-sent")
        assert agent.burst() == 1
    assert not agent.control.exists()


@pytest.mark.parametrize("sends", [b"", b'{"execute": "sta', b'{"execute": "status"}\n' * 20])
def test_hundreds_of_hanging_clients_do_not_keep_it_from_answering(
    tiny_lab: TinyLab, tmp_path: Path, sends: bytes
) -> None:
    with Agent(tiny_lab, tmp_path) as agent, contextlib.ExitStack() as hanging:
        before = agent.open_files()
        for n in range(500):
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


def test_configuration_replaced_while_it_is_read_is_one_file_or_the_other(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    # A mixture of both is refused: interval must not exceed interval_with_lease.
    texts = [f"interval_with_lease: {n}s\n# {'x' * 50000}\ninterval: {n}s\n" for n in (10, 20)]
    with Agent(tiny_lab, tmp_path) as agent:

        def replace() -> None:
            for text in texts:
                agent.write_config(tmp_path / "new", text)
                (tmp_path / "new").rename(agent.config)

        with meanwhile(replace):
            for turn in range(1, 11):
                agent.kill(signal.SIGHUP)
                agent.wait_for_log("configuration-loaded", turn)
                assert agent.status()["interval"] in (10, 20)
        assert agent.log("configuration-refused") == []


def test_hundreds_of_reloads_leak_neither_memory_nor_descriptors(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.wait_for_log("hint-port")
        sizes, files = [], set()
        for turn in range(1, 151):
            agent.reload("interval: soon\nnonsense: 1\n")
            agent.wait_for_log("configuration-refused", 2 * turn)
            agent.reload(QUIET)
            agent.wait_for_log("configuration-loaded", turn)
            sizes.append(agent.resident())
            files.add(agent.open_files())
        assert agent.children() == []
        assert len(files) == 1, files
        assert sizes[-1] - sizes[9] < 300, f"it grew: {sizes} KiB"


def test_reload_requested_during_a_reload_reads_the_newer_file(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    large = QUIET + f"# {'x' * 98}\n" * 9000  # more than all the modules that the child loads

    def has_read(process: int) -> int:
        return int(Path(f"/proc/{process}/io").read_text().partition("rchar: ")[2].split()[0])

    with Agent(tiny_lab, tmp_path) as agent:
        agent.reload(large)
        (child,) = until(agent.children, "a child reads")
        before = has_read(child)
        until(lambda: has_read(child) >= before + len(large), "it has read the file")
        os.kill(child, signal.SIGSTOP)
        agent.reload("interval: 30s\n")
        until(agent.is_asleep, "it has handled the signal")
        os.kill(child, signal.SIGCONT)
        until(lambda: agent.status()["interval"] == 30.0, "the newer file is in force")
        assert len(agent.log("configuration-loaded")) == 2


def test_two_hundred_reloads_at_once_end_with_the_last_file(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        for n in range(200):
            agent.reload(f"interval: {n + 1}s\ninterval_with_lease: 270s\n")
        until(lambda: agent.status()["interval"] == 200, "the last one is in force")
        until(lambda: agent.children() == [], "no child is left")
        assert agent.log("configuration-refused") == []
