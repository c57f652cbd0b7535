"""Faults in the running daemon's surroundings: it continues, and misses nothing afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from tests.netns.agent import (
    LIMIT,
    NO_BUCKET,
    OTHER_MAC,
    QUIET,
    Agent,
    Capture,
    Site,
    meanwhile,
    until,
)

ADDED = "192.0.2.50"
MANY = [f"10.{n // 250}.{n % 250}.1" for n in range(5000)]
FREQUENT = "interval: 100ms\njitter: 0%\nburst: [0s]\n" + NO_BUCKET
BUSY = "interval: 100ms\njitter: 50%\nburst: [0s, 10ms, 20ms, 30ms, 40ms, 50ms]\n" + NO_BUCKET


def test_links_deleted_renamed_or_moved_during_bursts_are_dropped_and_forgotten(site: Site) -> None:
    chance = random.Random(7)
    rename = ["link set v0 down", "link set v0 name v2"]
    fates = [
        ["link del v0"],
        [*rename, "link set v2 up", "link del v2"],
        [*rename, "link set v1 name v0", "link del v2"],
        ["link del v1", "link add v0 type veth peer name v1", "link del v1"],
        [f"link set v1 netns {site.lab.namespace('peer')}", "link del v0"],
        ["address flush dev v0", "link del v0"],
    ]
    with site.start("-v", config=BUSY) as agent:
        for _ in range(25):
            site.guest(
                "link add v0 type veth peer name v1",
                "link set v1 up",
                "address add 10.1.1.1/24 dev v0",
                "link set v0 up",
            )
            time.sleep(chance.random() * 0.02)  # to be anywhere in the burst
            site.guest(*chance.choice(fates))
        status = agent.status()
        assert [link["interface"] for link in status["links"]] == ["lo", "eth0"]
        assert set(status["frames"]["dropped"]) <= {"ENODEV", "ENXIO", "ENETDOWN", "ENOBUFS"}
        assert agent.burst() == 1


def test_each_of_many_addresses_has_its_turn_while_the_carrier_flaps(site: Site) -> None:
    """Each return begins with probes, and there is no time for all announcements."""
    more = [f"192.0.2.{n}" for n in range(100, 113)]
    site.guest(*(f"address add {each}/24 dev eth0" for each in more))
    claimed: set[str] = set()
    slow = "rate_limit: {frames_per_second: 5, depth: 4}\n"
    with site.start(config=QUIET + slow, wait=False) as agent:
        site.wire.wait_for(GUEST_ADDRESS)
        for number in range(1, 9):
            site.lab.ip("peer", "link set eth0 down")
            agent.wait_for_log("link-withdrawn", number)
            site.wire.clear()
            site.lab.ip("peer", "link set eth0 up")
            until(lambda: len(claims(site.wire)) >= 3, "some are announced")
            claimed |= claims(site.wire)
    assert claimed == {GUEST_ADDRESS, *more}


def claims(wire: Capture) -> set[str]:
    """Return the addresses in announcements that are no probes."""
    sent = (packet[ARP].psrc for packet in wire.announcements() if ARP in packet)
    return {str(each) for each in sent if each != "0.0.0.0"}


def test_address_beside_macvlans_that_refuse_frames_is_announced_at_once(site: Site) -> None:
    for n in range(50):
        site.guest(
            f"link add mv{n} link eth0 type macvlan mode bridge",
            f"address add 10.9.{n}.1/24 dev mv{n}",
            f"link set mv{n} up",
        )
        site.lab.run("guest", f"tc qdisc add dev mv{n} root pfifo limit 0".split())
    site.lab.wait_until_up("guest")
    with site.start(config=QUIET, wait=False) as agent:
        site.wire.wait_for(GUEST_ADDRESS)
        until(
            lambda: agent.status()["frames"]["dropped"].get("ENOBUFS", 0) >= 150,
            "each macvlan has refused frames",
        )
        agent.burst()
        until(lambda: agent.sent_by("operator") >= 1, "eth0 is announced again")
        link = agent.link("eth0")
        assert link is not None
        assert link["held"] == 0  # it did not wait for the bucket
        assert len(agent.log("frame-dropped")) <= 6


def churn(site: Site) -> set[str]:
    """Make 9,900 changes; return the addresses that remain, scattered among them."""
    gone = (each for n, each in enumerate(MANY) if n % 50)
    site.guest(*(f"address add {each}/32 dev eth0" for each in MANY))
    site.guest(*(f"address del {each}/32 dev eth0" for each in gone))
    return set(MANY[::50])


def test_netlink_overrun_misses_nothing_and_announces_nothing_removed_before_it(site: Site) -> None:
    """The events of additions wait in the buffer; those of removals are lost."""
    with site.start(config=QUIET + NO_BUCKET) as agent:
        site.guest(f"address add {ADDED}/24 dev eth0")
        site.wire.wait_for(ADDED)
        with agent.stopped():
            left = churn(site)
            site.guest(f"address del {ADDED}/24 dev eth0")
            site.wire.clear()
            agent.kill(signal.SIGUSR1)
        assert agent.status()["overruns"] >= 1
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")
        shown = site.lab.run("guest", ["ip", "-json", "address", "show", "dev", "eth0"]).stdout
        kernel = {item["local"] for item in json.loads(shown)[0]["addr_info"]}
        assert kernel == left | {GUEST_ADDRESS}
        assert agent.log("netlink-overrun")
        assert agent.sent_by("operator")
        site.wire.wait_for(GUEST_ADDRESS)
        assert site.wire.announcements(ADDED) == []
        # It reads events as before.
        site.guest(f"address add {ADDED}/24 dev eth0")
        site.wire.wait_for(ADDED)
        site.guest(f"address del {ADDED}/24 dev eth0")
        assert ADDED not in agent.announced()


def test_repeated_overruns_miss_nothing(site: Site) -> None:
    with site.start() as agent:

        def freeze() -> None:
            with agent.stopped():
                time.sleep(0.05)  # in which events fill the buffer
            time.sleep(0.05)  # in which the agent reads some

        with meanwhile(freeze):
            left = churn(site)
        until(lambda: agent.announced() == left | {GUEST_ADDRESS}, "nothing is missed")


def test_endless_changes_do_not_keep_it_from_announcing_and_answering(site: Site) -> None:
    changes = [
        (f"address add 10.0.0.{n}/32 dev lo", f"address del 10.0.0.{n}/32 dev lo") * 1000
        for n in range(4)
    ]
    storms = [lambda each=each: site.guest(*each) for each in changes]
    with site.start(config=BUSY) as agent, meanwhile(*storms):
        before = agent.sent_by("refresh")
        site.wire.clear()
        until(lambda: agent.sent_by("refresh") >= before + 5, "it refreshes")
        assert len(site.wire.announcements(GUEST_ADDRESS)) >= 5
        assert agent.burst() >= 1  # refreshes fall due meanwhile


def test_no_kernel_memory_for_a_filter_does_not_stop_announcements(site: Site) -> None:
    with site.start() as agent:
        site.lab.run("guest", ["sh", "-c", "echo 64 >/proc/sys/net/core/optmem_max"])
        site.guest("address add 192.0.2.77/24 dev eth0")
        site.wire.wait_for("192.0.2.77")
        assert agent.burst() == 2


@pytest.mark.parametrize(
    ("config", "seconds", "burst"),
    [(FREQUENT, 0.4, 0), (FREQUENT, 1.3, 1), ("", 30.0, 3)],
    ids=["refreshes are due", "a resume", "a resume with defaults"],
)
def test_process_stopped_past_refreshes_neither_catches_up_nor_announces_what_was_removed(
    site: Site, config: str, seconds: float, burst: int
) -> None:
    """A stop of more than an interval and a second is a resume, which makes one burst."""
    gone = "192.0.2.100"
    site.guest(f"address add {gone}/24 dev eth0")
    with site.start(config=config) as agent:
        site.wire.wait_for(gone)
        before = agent.status()
        with agent.stopped():
            site.guest(f"address del {gone}/24 dev eth0")
            site.wire.clear()
            time.sleep(seconds)
        site.wire.wait_for(GUEST_ADDRESS, count=max(burst, 1))
        until(lambda: agent.sent_by("resume") >= burst, "the burst is sent")
        after = agent.status()
        # On a busy machine, a wait for a CPU can be one more resume.
        assert after["resumes"] > before["resumes"] or not burst
        sent = Counter(after["frames"]["by_cause"])
        assert sent["resume"] <= max(burst, 1) * after["resumes"]
        sent.subtract(before["frames"]["by_cause"])
        ticks = (after["uptime"] - before["uptime"] - seconds) / (0.8 * after["interval"]) + 2
        assert sent["refresh"] <= 2 * ticks
        assert site.wire.announcements(gone) == []
        assert agent.announced() == {GUEST_ADDRESS}


@pytest.mark.parametrize("left", range(-1, 7))
def test_few_descriptors_left_do_not_stop_announcements_and_none_leaks(
    site2: Site, left: int
) -> None:
    agent = site2.start(config=FREQUENT, wait=False)
    with agent, Capture(site2.lab) as wire, Capture(site2.lab, link="eth1") as other:
        agent.wait_for_log("hint-port")  # the last that it opens by itself
        before = agent.open_files()
        used = agent.descriptors()
        limits = (n for n in count(max(used) + 1) if len(set(range(n)) - used) == left)
        # -1: not even the spare descriptor, with which clients are refused
        agent.limit_descriptors(4 if left < 0 else next(limits))
        with contextlib.ExitStack() as asking:
            for _ in range(left + 3):
                client = asking.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(agent.control))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.sendall(b'{"execute": "status"}\n')
                agent.kill(signal.SIGHUP)
            agent.kill(signal.SIGUSR1)
            until(agent.is_asleep, "it sleeps")
            for capture, mac in ((wire, GUEST_MAC), (other, OTHER_MAC)):
                capture.clear()
                capture.wait_for(mac=mac, count=5)
        agent.limit_descriptors(None)
        agent.wait_until_ready()
        assert agent.status()["frames"]["dropped"] == {}
        agent.reload("interval: 250ms\n")
        until(lambda: agent.status()["interval"] == 0.25, "it reloads")
        expected = before - (left < 0)  # the spare descriptor is given up
        until(lambda: agent.open_files() == expected, "nothing stays open")


def test_agent_killed_at_any_point_starts_again(site: Site) -> None:
    chance = random.Random(3)
    for _ in range(10):
        agent = site.start(config=BUSY, wait=False)
        time.sleep(chance.random() * 0.2)  # to be anywhere in its start
        agent.stop(signal.SIGKILL)
    with site.start() as agent:
        assert agent.burst() == 1


def slow_down(agent: Agent) -> None:
    """Prefer this process to the agent's next child, to stop it before it is done."""
    os.setpriority(os.PRIO_PROCESS, agent.pid, 10)  # a child inherits it


def test_agent_killed_during_a_reload_starts_again(site: Site) -> None:
    """The child that reads the configuration keeps nothing open that the next agent needs."""
    agent = site.start()
    slow_down(agent)
    # Near the most that a file may hold, so that reading takes a while.
    agent.reload(QUIET + "interfaces:\n  exclude: [" + "nothing, " * 9000 + "nothing]\n")
    (child,) = until(agent.children, "a child reads")
    until(lambda: len(os.listdir(f"/proc/{child}/fd")) <= 5, "the child has closed the rest")
    os.kill(child, signal.SIGSTOP)
    try:
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        with site.start():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_agent_without_proc_announces_and_reloads(site: Site) -> None:
    prefix = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')
    with site.start(prefix=prefix) as agent:
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")
        site.wire.wait_for(GUEST_ADDRESS)


def test_control_socket_that_cannot_be_made_is_reported_and_announcing_continues(
    site: Site,
) -> None:
    taken = site.directory / "taken"
    taken.write_text("precious")
    with site.start("--control-socket", str(taken), wait=False) as agent:
        line = agent.wait_for_log("control-socket-unavailable", level="warning")
        assert (line["path"], line["error"]) == (str(taken), "EEXIST")
        site.wire.wait_for(GUEST_ADDRESS)
        agent.kill(signal.SIGUSR1)
        site.wire.wait_for(GUEST_ADDRESS, count=2)
    assert taken.read_text() == "precious"


def test_control_socket_stays_until_a_reload_can_make_the_other(site: Site) -> None:
    other = site.directory / "other.sock"
    other.write_text("precious")
    with site.start(wait=False) as agent:
        agent.wait_until_ready()
        old = agent.control
        agent.control = other
        agent.reload(QUIET)
        assert agent.wait_for_log("control-socket-unavailable")["effect"] == (
            f"status and burst are answered at {old}"
        )
        agent.wait_for_log("configuration-loaded")
        agent.control = old
        assert agent.burst() == 1
        other.unlink()
        agent.control = other
        agent.reload(QUIET)
        agent.wait_for_log("configuration-loaded", 2)
        assert agent.burst() == 1
        assert not old.exists()


def test_control_socket_under_another_spelling_of_its_path_stays(site: Site) -> None:
    real, other = site.directory / "real", site.directory / "other"
    other.symlink_to(real)
    with site.start() as agent:
        for number, agent.control in enumerate((real / "c.sock", other / "c.sock"), 1):
            agent.reload(QUIET)
            agent.wait_for_log("configuration-loaded", number)
            assert agent.burst() == 1
        assert "control-socket-unavailable" not in agent.log_text()


def test_paths_that_the_encoding_of_the_file_system_lacks_are_reported(site: Site) -> None:
    ascii_only = ("env", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "LC_ALL=C")
    with site.start(prefix=ascii_only) as agent:
        control = agent.control
        agent.control = site.directory / "w\N{EURO SIGN}.sock"
        agent.reload(QUIET, hint_port="/dev/w\N{EURO SIGN}")
        assert agent.wait_for_log("control-socket-unavailable")["error"] == "EINVAL"
        assert agent.wait_for_log("hint-port", state="failed")["error"] == "EINVAL"
        agent.control = control
        assert agent.burst() == 1


def test_reload_by_an_agent_whose_parent_ignores_its_children(site: Site) -> None:
    """The setting stays over exec, and then the kernel keeps no exit status (wait(2))."""
    with site.start(prefix=("env", "--ignore-signal=CHLD")) as agent:
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")
        agent.reload("interval: 3\n")
        agent.wait_for_log("configuration-refused")
        assert agent.burst() == 1


@pytest.mark.parametrize("descriptors", [5, 6, 7])
def test_start_that_can_succeed_later_has_another_exit_status_than_a_bad_file(
    site: Site, descriptors: int
) -> None:
    """systemd and garp-start start it again, unlike after a refused configuration."""
    with site.start(prefix=("prlimit", f"--nofile={descriptors}"), wait=False) as agent:
        assert agent.process.wait(LIMIT) == 1
        (line,) = agent.log_text().splitlines()
        assert line.endswith("Too many open files")


@pytest.mark.parametrize("what", ["socket", "folder"])
def test_control_socket_that_was_removed_is_made_again_by_a_reload(site: Site, what: str) -> None:
    path = site.directory / "run" / "control.sock"
    with site.start(f"--control-socket={path}", wait=False) as agent:
        agent.control = path
        agent.wait_until_ready()
        if what == "socket":
            path.unlink()
        else:
            shutil.rmtree(path.parent)
        agent.reload(QUIET)
        until(path.exists, "the socket is back")
        assert agent.burst() == 1


def test_second_agent_on_the_same_control_socket_refuses_to_start(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as stale:  # which the first agent replaces
        stale.bind(str(site.directory / "control.sock"))
        stale.listen()
    with site.start() as agent:
        second = site.start(wait=False)
        assert second.process.wait(LIMIT) == 1
        assert second.log_text() == (
            f"garp-agent: {agent.control}: another garp-agent answers there\n"
        )
        # A dry run sends nothing, so it may run beside.
        with site.start("--dry-run", wait=False) as third:
            assert third.wait_for_log("control-socket-unavailable")["error"] == "EADDRINUSE"
            third.wait_for_log("frame-sent")
        assert agent.burst() == 1
    assert not agent.control.exists()


def test_two_agents_that_start_at_once_after_a_crash_become_one(site: Site) -> None:
    for _ in range(10):
        one, other = (site.start(wait=False) for _ in range(2))
        ended = until(lambda: one.process.poll() or other.process.poll(), "one refuses")  # noqa: B023
        assert ended == 1
        agent = one if one.process.poll() is None else other
        agent.wait_until_ready()
        agent.stop(signal.SIGKILL)  # which leaves its socket for the next two


@pytest.mark.parametrize("sends", [b"", b'{"execute": "sta', b'{"execute": "status"}\n' * 20])
def test_hundreds_of_hanging_clients_do_not_keep_it_from_answering(
    site: Site, sends: bytes
) -> None:
    with site.start() as agent, contextlib.ExitStack() as hanging:
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


def test_configuration_replaced_while_it_is_read_is_one_file_or_the_other(site: Site) -> None:
    # A mixture of both is refused: interval must not exceed interval_with_lease.
    texts = [f"interval_with_lease: {n}s\n# {'x' * 50000}\ninterval: {n}s\n" for n in (10, 20)]
    with site.start() as agent:

        def replace() -> None:
            for text in texts:
                agent.write_config(text)

        with meanwhile(replace):
            for turn in range(1, 11):
                agent.kill(signal.SIGHUP)
                agent.wait_for_log("configuration-loaded", turn)
                assert agent.status()["interval"] in (10, 20)
        assert agent.log("configuration-refused") == []


def test_a_hundred_reloads_leak_neither_memory_nor_descriptors(site: Site) -> None:
    with site.start() as agent:
        agent.wait_for_log("hint-port")
        sizes, files = [], set()
        for turn in range(1, 51):
            agent.reload("interval: soon\nnonsense: 1\n")
            agent.wait_for_log("configuration-refused", 2 * turn)
            agent.reload(QUIET)
            agent.wait_for_log("configuration-loaded", turn)
            sizes.append(agent.resident())
            files.add(agent.open_files())
        assert agent.children() == []
        assert len(files) == 1, files
        assert sizes[-1] - sizes[9] <= 64, f"it grew: {sizes} KiB"


def test_reload_requested_during_a_reload_reads_the_newer_file(site: Site) -> None:
    large = QUIET + f"# {'x' * 98}\n" * 9000  # more than all the modules that the child loads

    def has_read(process: int) -> int:
        return int(Path(f"/proc/{process}/io").read_text().partition("rchar: ")[2].split()[0])

    with site.start() as agent:
        slow_down(agent)
        agent.reload(large)
        (child,) = until(agent.children, "a child reads")
        until(lambda: has_read(child) >= len(large), "it has read the file")
        os.kill(child, signal.SIGSTOP)
        agent.reload("interval: 30s\n")
        until(agent.is_asleep, "it has handled the signal")
        os.kill(child, signal.SIGCONT)
        until(lambda: agent.status()["interval"] == 30.0, "the newer file is in force")
        assert len(agent.log("configuration-loaded")) == 2
