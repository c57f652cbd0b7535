"""Each command of `garp-agent` once from end to end, with its exit status; signals and reloads."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_MAC, PEER_MAC, TinyLab
from tests.netns.agent import COMMAND, ENVIRONMENT, LIMIT, QUIET, Agent, Capture, command, until

UNPRIVILEGED = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
NO_LIMIT = "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"
BAD = "interval: soon\nburst: []\nnonsense: 1\n"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory where every user may write; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory(prefix="garp-agent-") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


# -- run ------------------------------------------------------------------------------------


def test_run_without_configuration_and_options_announces(tiny_lab: TinyLab, wire: Capture) -> None:
    mounts = "mount -t tmpfs none /run && if [ -d /etc/garp-agent ]; "
    mounts += 'then mount -t tmpfs none /etc/garp-agent; fi && exec "$0" "$@"'
    process = tiny_lab.start(
        "guest",
        ["unshare", "--mount", "sh", "-c", mounts, *COMMAND, "run"],
        env=ENVIRONMENT,
        stderr=-1,
    )
    wire.wait_for(GUEST_ADDRESS, count=3)
    inside = ("nsenter", "--mount", f"--target={process.pid}")
    status = json.loads(command(tiny_lab, "status", "--json", prefix=inside).stdout)
    assert (status["pid"], status["configuration"], status["interval"]) == (process.pid, None, 5.0)
    assert command(tiny_lab, "burst", prefix=inside).stdout == "1 frames sent\n"
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGTERM)
    _, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    announced = f"address={GUEST_ADDRESS} hardware_address={GUEST_MAC}"
    assert f"address-announced interface=eth0 {announced}" in log.splitlines()
    assert log.splitlines()[-1].startswith("stopped frames_sent=")


def test_sigusr1_sends_a_burst_and_sigint_ends_the_daemon(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.kill(signal.SIGUSR1)
        until(lambda: agent.sent_by("operator") == 1, "a frame is sent")
        assert agent.wait_for_log("burst", cause="operator")["reason"] == "SIGUSR1"
        assert agent.stop(signal.SIGINT) == 0
        assert agent.log()[-1] == {"level": "info", "event": "stopped", "frames_sent": 2}
        assert not agent.control.exists()
    assert len(wire.announcements(GUEST_ADDRESS)) == 2


@pytest.mark.parametrize("asked", ["run -c", "announce -c", "list -c", "check", "config -c"])
def test_a_bad_configuration_ends_a_command_with_its_errors(
    tiny_lab: TinyLab, tmp_path: Path, asked: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    done = command(tiny_lab, *asked.split(), str(file))
    assert (done.returncode, done.stdout) == (78, "")
    places = [line.split(": ")[:2] for line in done.stderr.splitlines()]
    assert places == [
        [f"{file}:1", "interval"],
        [f"{file}:2", "burst"],
        [f"{file}:3", "nonsense"],
    ]


def test_run_prefers_its_options_to_the_file(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path, "--interval", "7s") as agent:
        assert agent.status()["interval"] == 7.0
        agent.reload("interval: 20s\n")
        agent.wait_for_log("configuration-loaded")
        assert agent.status()["interval"] == 7.0


# -- privileges -----------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["run --control-socket none", "announce"])
def test_a_command_that_sends_needs_the_capability(tiny_lab: TinyLab, asked: str) -> None:
    done = command(tiny_lab, *asked.split(), prefix=UNPRIVILEGED)
    assert (done.returncode, done.stdout) == (77, "")
    assert len(done.stderr.splitlines()) == 1
    assert "CAP_NET_RAW" in done.stderr


def test_a_dry_run_needs_no_capability_and_sends_nothing(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    done = command(tiny_lab, "announce", "--dry-run", prefix=UNPRIVILEGED)
    assert (done.returncode, done.stdout) == (0, "1 frames would be sent, 0 dropped\n")
    with Agent(tiny_lab, tmp_path, "--dry-run", prefix=UNPRIVILEGED) as agent:
        assert agent.burst() == 1
    assert wire.announcements() == []


def test_list_needs_no_capability(tiny_lab: TinyLab) -> None:
    done = command(tiny_lab, "list", prefix=UNPRIVILEGED)
    assert done.returncode == 0
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("eth0")]
    assert row == ["eth0", "veth", GUEST_MAC, GUEST_ADDRESS, "arp-request"]
    (link,) = json.loads(command(tiny_lab, "list", "--json").stdout)[1:]
    assert link["addresses"][0]["address"] == GUEST_ADDRESS


def test_an_unprivileged_user_with_the_capability_runs_it(
    tiny_lab: TinyLab, wire: Capture, public: Path
) -> None:
    caps = ("--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw")
    with Agent(tiny_lab, public, prefix=(*NOBODY, *caps)) as agent:
        wire.wait_for(GUEST_ADDRESS)
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")
        assert agent.log("claims-unheard") == []
        assert agent.control.stat().st_uid == 65534


def test_another_user_may_not_ask_the_daemon(tiny_lab: TinyLab, public: Path) -> None:
    with Agent(tiny_lab, public) as agent:
        done = command(tiny_lab, "status", "--control-socket", str(agent.control), prefix=NOBODY)
        assert (done.returncode, done.stdout) == (1, "")
        assert "permission denied" in done.stderr


# -- announce -------------------------------------------------------------------------------


def test_announce_reports_what_was_sent_and_what_was_not(tiny_lab: TinyLab, wire: Capture) -> None:
    def announce(*interfaces: str) -> tuple[int, str, str]:
        done = command(tiny_lab, "announce", *interfaces)
        return done.returncode, done.stdout, done.stderr

    nothing = "garp-agent: nothing to announce; `garp-agent list` says why\n"
    skipped = "garp-agent: lo: not announced: loopback\n"
    assert announce() == (0, "1 frames sent, 0 dropped\n", "")
    assert announce("eth0") == (0, "1 frames sent, 0 dropped\n", "")
    unknown = "garp-agent: eth7: no such interface; there are: lo, eth0\n"
    assert announce("eth0", "eth7") == (1, "", unknown)
    assert announce("lo") == (1, "", skipped + nothing)
    assert announce("eth0", "lo") == (1, "1 frames sent, 0 dropped\n", skipped)
    assert len(wire.announcements(GUEST_ADDRESS)) == 3

    slow = "tc qdisc add dev eth0 root tbf rate 8bit burst 20 limit 20"
    tiny_lab.run("guest", slow.split())
    status, said, log = announce()
    assert (status, said) == (1, "0 frames sent, 1 dropped\n")
    assert "error=ENOBUFS" in log
    tiny_lab.run("guest", ["tc", "qdisc", "del", "dev", "eth0", "root"])

    tiny_lab.ip("guest", "link set eth0 down")
    assert announce() == (1, "", nothing)
    assert len(wire.announcements()) == 3


def test_announce_ends_after_the_rate_limit_has_let_every_address_pass(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", *(f"address add 192.0.2.{n}/24 dev eth0" for n in range(100, 130)))
    file = tmp_path / "config.yaml"
    file.write_text("rate_limit:\n  frames_per_second: 100\n  depth: 2\n")
    assert command(tiny_lab, "announce", "-c", str(file)).stdout == "31 frames sent, 0 dropped\n"
    assert len({packet.pdst for packet in wire.announcements()}) == 31


# -- check and config -----------------------------------------------------------------------


def test_check_and_config_accept_a_good_file(tiny_lab: TinyLab, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(QUIET)
    done = command(tiny_lab, "check", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: good\n", "")
    shown = command(tiny_lab, "config", "-c", str(file)).stdout
    assert shown.splitlines()[0] == "interval: 270s"
    file.write_text(shown)
    assert command(tiny_lab, "config", "-c", str(file)).stdout == shown


# -- status and burst -----------------------------------------------------------------------


def test_status_and_burst_ask_the_daemon(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        control = ("--control-socket", str(agent.control))
        done = command(tiny_lab, "burst", "--reason", "a\ntest", *control)
        assert (done.returncode, done.stdout) == (0, "1 frames sent\n")
        assert agent.wait_for_log("burst")["reason"] == "a?test"
        done = command(tiny_lab, "status", *control)
        assert done.returncode == 0
        row = done.stdout.splitlines()[-1].split()
        assert row[:5] == ["eth0", GUEST_ADDRESS, "2", "0", "operator"]
        values = json.loads(command(tiny_lab, "status", "--json", *control).stdout)
        assert values["frames"]["by_cause"] == {"start": 1, "operator": 1}
        assert values["configuration"] == str(agent.config)
        metrics = command(tiny_lab, "status", "--prometheus", *control).stdout
        assert 'garp_agent_frames_sent_total{cause="operator"} 1\n' in metrics
    assert len(wire.announcements(GUEST_ADDRESS)) == 2
    for asked in ("status", "burst"):
        done = command(tiny_lab, asked, *control)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"garp-agent: {agent.control}: no garp-agent answers there; is it running?\n"
        )


def test_burst_says_why_no_frame_was_sent(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path, config="rate_limit:\n  frames_per_second: 0.1\n") as agent:

        def burst() -> tuple[int, str, str]:
            done = command(tiny_lab, "burst", "--control-socket", str(agent.control))
            return done.returncode, done.stdout, done.stderr

        until(lambda: burst() != (0, "1 frames sent\n", ""), "the bucket is empty")
        assert burst() == (0, "no frame sent yet: the rate limit delays them\n", "")
        tiny_lab.ip("guest", "link set eth0 down")
        agent.wait_for_log("link-withdrawn")
        status, said, why = burst()
        assert (status, said) == (1, "")
        assert "nothing to announce" in why


# -- reload ---------------------------------------------------------------------------------


def test_a_bad_reload_is_refused_with_all_its_errors(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.reload(BAD)
        until(lambda: len(agent.log("configuration-refused")) == 3, "three errors are logged")
        assert {line["level"] for line in agent.log("configuration-refused")} == {"error"}
        assert agent.status()["interval"] == 270.0
        agent.config.unlink()
        agent.kill(signal.SIGHUP)
        until(lambda: len(agent.log("configuration-refused")) == 4, "the missing file is logged")
        assert agent.burst() == 1
        agent.reload("interval: 30s\n")
        agent.wait_for_log("configuration-loaded")
        assert agent.status()["interval"] == 30.0


def test_a_reload_changes_what_is_announced(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", "address add 10.0.0.1/24 dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        agent.reload(f"{QUIET}addresses:\n  exclude: [10.0.0.0/8]\n")
        until(lambda: agent.announced() == {GUEST_ADDRESS}, "it is excluded")
        wire.clear()
        assert agent.burst() == 1
        assert wire.announcements("10.0.0.1") == []
        agent.reload(f"{QUIET}interfaces:\n  exclude: [eth0]\n")
        until(lambda: agent.announced() == set(), "nothing is left")
        assert agent.burst() == 0
        wire.clear()
        agent.reload(f"{QUIET}arp: both\n")
        packets = wire.wait_for("10.0.0.1", count=2)
        assert [packet.op for packet in packets] == [1, 2]


def test_a_reload_moves_the_control_socket_and_closes_it(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        old, agent.control = agent.control, tmp_path / "elsewhere" / "control.sock"
        agent.reload(QUIET)
        agent.wait_for_log("configuration-loaded")
        assert agent.burst() == 1
        assert not old.exists()
        agent.config.write_text("control_socket: none\nhint_port: none\n")
        agent.kill(signal.SIGHUP)
        until(lambda: not agent.control.exists(), "the socket is gone")
        assert agent.process.poll() is None


def test_sigterm_during_a_reload_ends_the_daemon(tiny_lab: TinyLab, tmp_path: Path) -> None:
    for _ in range(5):
        with Agent(tiny_lab, tmp_path) as agent:
            agent.reload(QUIET)
            assert agent.stop() == 0


# -- the service manager and the log --------------------------------------------------------


def test_the_service_manager_is_notified(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(LIMIT)

        def hear(what: str) -> None:
            while not any(what in line for line in heard):
                heard.extend(manager.recv(4096).decode().splitlines())

        environment = ("env", f"NOTIFY_SOCKET={name}", "WATCHDOG_USEC=400000")
        with Agent(tiny_lab, tmp_path, prefix=environment, wait=False) as agent:
            hear("READY=1")
            # It has announced everything before.
            assert len(wire.announcements(GUEST_ADDRESS)) == 1
            for _ in range(3):
                heard.clear()
                hear("WATCHDOG=1")
            for config, status in ((BAD, "refused"), (QUIET, "reloaded")):
                agent.reload(config)
                hear("RELOADING=1")
                heard.clear()
                hear(f"STATUS=configuration {status}")
                assert "READY=1" in heard
            assert agent.stop() == 0
            hear("STOPPING=1")


def test_the_log_has_a_line_for_each_change_and_with_v_for_each_frame(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    config = "interval: 100ms\n" + NO_LIMIT
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        until(lambda: agent.sent() >= 8, "eight frames are sent")
        events = [line["event"] for line in agent.log()]
        assert sorted(events) == ["address-announced", "hint-port"]
    with Agent(tiny_lab, tmp_path, "-v", config=config) as agent:
        until(lambda: agent.sent() >= 8, "eight frames are sent")
        assert len(agent.log("frame-sent", interface="eth0", kind="arp-request")) >= 7


def test_a_log_reader_that_hangs_does_not_stop_announcements(
    tiny_lab: TinyLab, tmp_path: Path
) -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    agent = Agent(tiny_lab, tmp_path, "-v", config=QUIET + NO_LIMIT, stderr=write_end)
    os.close(write_end)
    for _ in range(200):
        assert agent.burst() == 1
    assert agent.stop() == 0
    os.close(read_end)


def test_an_agent_without_standard_streams_announces(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    """The first sockets get the numbers 0 to 2, and the log must not go there."""
    close = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
    agent = Agent(tiny_lab, tmp_path, "-v", prefix=close)
    assert agent.burst() == 1
    wire.wait_for(GUEST_ADDRESS, count=2)
    assert agent.stop() == 0


# -- wake-ups -------------------------------------------------------------------------------


def test_the_agent_wakes_for_its_refreshes_only(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    config = "interval: 100ms\njitter: 20%\nburst: [0s]\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        until(agent.is_asleep, "it sleeps")
        wire.clear()
        before = agent.voluntary_switches()
        wire.wait_for(GUEST_ADDRESS, count=20)
        woken = agent.voluntary_switches() - before
        # One for each frame.  One frame more may be under way at each end of the count.
        assert woken <= len(wire.announcements()) + 2


@pytest.mark.parametrize("address", ["192.0.2.10/24", ""], ids=["announces", "has no address"])
def test_claims_of_other_addresses_do_not_wake_the_agent(
    tiny_lab: TinyLab, tmp_path: Path, address: str
) -> None:
    if not address:
        tiny_lab.ip("guest", "address flush dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        until(agent.is_asleep, "it sleeps")
        before = agent.voluntary_switches()
        with tiny_lab.packet_socket("peer", "eth0") as other:
            for n in range(20, 220):
                own = f"192.0.2.{n}"
                arp = ARP(hwsrc=PEER_MAC, psrc=own, pdst=own)
                other.send(bytes(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / arp))
        until(agent.is_asleep, "it sleeps")
        assert agent.voluntary_switches() - before == 0
