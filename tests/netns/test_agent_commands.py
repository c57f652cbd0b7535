"""The commands and their exit statuses, signals, logs and reloads, on real interfaces."""

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
NO_BUCKET = "rate_limit:\n  frames_per_second: 1000\n  depth: 1000\n"
BAD = "interval: soon\nburst: []\nnonsense: 1\n"


@pytest.fixture
def wire(tiny_lab: TinyLab) -> Iterator[Capture]:
    with Capture(tiny_lab) as capture:
        yield capture


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    return file


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory where everybody may write: pytest's own are their user's alone."""
    with tempfile.TemporaryDirectory(prefix="garp-agent-") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


def bad_lines(file: Path) -> list[str]:
    """How each of the errors in BAD begins."""
    return [f"{file}:1: interval: ", f"{file}:2: burst: ", f"{file}:3: nonsense: "]


# -- run ------------------------------------------------------------------------------------


def test_without_any_configuration_or_option_it_works(tiny_lab: TinyLab, wire: Capture) -> None:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(tiny_lab: TinyLab, tmp_path: Path, number: int) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        assert agent.stop(number) == 0
        assert agent.log()[-1] == {"level": "info", "event": "stopped", "frames_sent": 1}
        assert not agent.control.exists()


def test_sigusr1_asks_for_a_burst(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        for n in range(1, 4):
            agent.kill(signal.SIGUSR1)
            until(lambda n=n: agent.sent_by("operator") == n, "a frame is sent")
        assert agent.wait_for_log("burst", cause="operator")["reason"] == "SIGUSR1"
        assert len(wire.announcements(GUEST_ADDRESS)) == 4


def test_a_bad_file_at_the_start(tiny_lab: TinyLab, tmp_path: Path, bad_file: Path) -> None:
    done = command(tiny_lab, "run", "-c", str(bad_file), "--control-socket", "none")
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(map(str.startswith, lines, bad_lines(bad_file)))


@pytest.mark.parametrize("made", ["missing", "directory", "fifo", "empty"])
def test_a_file_that_is_none(tiny_lab: TinyLab, tmp_path: Path, made: str) -> None:
    file = tmp_path / "config.yaml"
    {
        "missing": lambda: None,
        "directory": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
        "empty": file.touch,
    }[made]()
    for arguments in (["check", str(file)], ["config", "-c", str(file)]):
        done = command(tiny_lab, *arguments)
        assert done.returncode == (0 if made == "empty" else 78)
        assert (str(file) in done.stderr) == (made != "empty")


def test_options_beat_the_file(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path, "--interval", "7s") as agent:
        assert agent.status()["interval"] == 7.0
        agent.reload("interval: 20s\n")
        agent.wait_for_log("configuration-loaded")
        assert agent.status()["interval"] == 7.0
    done = command(tiny_lab, "run", "--interval", "often", "--control-socket", "relative")
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2
    assert "--interval" in done.stderr
    assert "--control-socket" in done.stderr


def test_wrong_usage(tiny_lab: TinyLab) -> None:
    for words in ("run --nonsense", "nonsense", "run --interval", "check a b", "list eth0"):
        done = command(tiny_lab, *words.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert "Error: " in done.stderr


# -- without the capability -----------------------------------------------------------------


@pytest.mark.parametrize("asked", ["run", "announce"])
def test_without_the_capability_to_send(tiny_lab: TinyLab, asked: str) -> None:
    options = ["--control-socket", "none"] if asked == "run" else []
    done = command(tiny_lab, asked, *options, prefix=UNPRIVILEGED)
    assert (done.returncode, done.stdout) == (77, "")
    assert len(done.stderr.splitlines()) == 1
    assert "CAP_NET_RAW" in done.stderr


def test_what_needs_no_capability(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    done = command(tiny_lab, "announce", "--dry-run", prefix=UNPRIVILEGED)
    assert (done.returncode, done.stdout) == (0, "1 frames would be sent, 0 dropped\n")
    assert command(tiny_lab, "list", prefix=UNPRIVILEGED).returncode == 0
    with Agent(tiny_lab, tmp_path, "--dry-run", prefix=UNPRIVILEGED) as agent:
        assert agent.burst() == 1
    assert wire.announcements() == []


def test_nobody_in_particular_may_run_it_with_the_capability(
    tiny_lab: TinyLab, wire: Capture, public: Path
) -> None:
    caps = ("--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *caps)
    with Agent(tiny_lab, public, prefix=nobody) as agent:
        wire.wait_for(GUEST_ADDRESS)
        agent.reload("interval: 30s\n")
        until(lambda: agent.status()["interval"] == 30.0, "it reloads")
        assert agent.log("claims-unheard") == []
        assert agent.control.stat().st_uid == 65534


# -- burst ----------------------------------------------------------------------------------


def test_burst_says_why_no_frame_went_out(tiny_lab: TinyLab, tmp_path: Path) -> None:
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


# -- announce -------------------------------------------------------------------------------


def test_announce_says_what_came_of_it(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    done = command(tiny_lab, "announce")
    assert (done.returncode, done.stdout) == (0, "1 frames sent, 0 dropped\n")
    assert len(wire.announcements(GUEST_ADDRESS)) == 1
    assert command(tiny_lab, "announce", "eth0").returncode == 0
    assert len(wire.announcements(GUEST_ADDRESS)) == 2

    done = command(tiny_lab, "announce", "eth0", "eth7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "garp-agent: eth7: no such interface; there are: lo, eth0\n"

    done = command(tiny_lab, "announce", "lo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing to announce" in done.stderr

    done = command(tiny_lab, "announce", "eth0", "lo")
    assert (done.returncode, done.stdout) == (1, "1 frames sent, 0 dropped\n")
    assert done.stderr == "garp-agent: lo: not announced: loopback\n"
    assert len(wire.announcements(GUEST_ADDRESS)) == 3

    qdisc = "tc qdisc add dev eth0 root tbf rate 8bit burst 20 limit 20"
    tiny_lab.run("guest", qdisc.split())
    done = command(tiny_lab, "announce")
    assert (done.returncode, done.stdout) == (1, "0 frames sent, 1 dropped\n")
    assert "error=ENOBUFS" in done.stderr
    tiny_lab.run("guest", ["tc", "qdisc", "del", "dev", "eth0", "root"])

    tiny_lab.ip("guest", "link set eth0 down")
    assert command(tiny_lab, "announce").returncode == 1
    assert len(wire.announcements()) == 3


def test_announce_is_as_fast_as_the_bucket_allows(
    tiny_lab: TinyLab, wire: Capture, tmp_path: Path
) -> None:
    tiny_lab.ip("guest", *(f"address add 192.0.2.{n}/24 dev eth0" for n in range(100, 130)))
    file = tmp_path / "config.yaml"
    file.write_text("rate_limit:\n  frames_per_second: 100\n  depth: 2\n")
    done = command(tiny_lab, "announce", "-c", str(file))
    assert done.stdout == "31 frames sent, 0 dropped\n"
    assert len({packet.pdst for packet in wire.announcements()}) == 31


# -- check and config -----------------------------------------------------------------------


def test_check_and_config(tiny_lab: TinyLab, tmp_path: Path, bad_file: Path) -> None:
    done = command(tiny_lab, "check", str(bad_file))
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(map(str.startswith, lines, bad_lines(bad_file)))
    assert command(tiny_lab, "config", "-c", str(bad_file)).stderr == done.stderr

    good = tmp_path / "good.yaml"
    good.write_text(QUIET)
    done = command(tiny_lab, "check", str(good))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{good}: good\n", "")
    shown = command(tiny_lab, "config", "-c", str(good)).stdout
    assert shown.splitlines()[0] == "interval: 270s"
    good.write_text(shown)
    assert command(tiny_lab, "config", "-c", str(good)).stdout == shown


# -- status and burst -----------------------------------------------------------------------


def test_status_and_burst(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
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
        assert values["frames"] == {
            "sent": 2,
            "dropped": {},
            "by_cause": {"start": 1, "operator": 1},
        }
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


def test_only_root_and_the_group_may_ask(tiny_lab: TinyLab, public: Path) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    with Agent(tiny_lab, public) as agent:
        done = command(tiny_lab, "status", "--control-socket", str(agent.control), prefix=nobody)
        assert (done.returncode, done.stdout) == (1, "")
        assert "permission denied" in done.stderr


# -- reload ---------------------------------------------------------------------------------


def test_a_bad_reload_is_refused_with_all_its_errors(tiny_lab: TinyLab, tmp_path: Path) -> None:
    with Agent(tiny_lab, tmp_path) as agent:
        agent.reload(BAD)
        until(lambda: len(agent.log("configuration-refused")) == 3, "three errors are logged")
        assert {line["level"] for line in agent.log("configuration-refused")} == {"error"}
        assert agent.status()["interval"] == 270.0
        agent.config.unlink()
        agent.kill(signal.SIGHUP)
        until(lambda: len(agent.log("configuration-refused")) == 4, "it is missed")
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
        assert agent.sent_by("operator") >= 4


def test_a_reload_moves_the_control_socket(tiny_lab: TinyLab, tmp_path: Path) -> None:
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


def test_a_reload_in_mid_flight_does_not_hinder_the_end(tiny_lab: TinyLab, tmp_path: Path) -> None:
    for _ in range(5):
        with Agent(tiny_lab, tmp_path) as agent:
            agent.reload(QUIET)
            assert agent.stop() == 0


# -- the service manager --------------------------------------------------------------------


def test_the_service_manager_is_told(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(LIMIT)

        def hear(what: str) -> None:
            while what not in heard:
                heard.extend(manager.recv(4096).decode().splitlines())
            heard.clear()

        environment = ("env", f"NOTIFY_SOCKET={name}", "WATCHDOG_USEC=400000")
        with Agent(tiny_lab, tmp_path, prefix=environment, wait=False) as agent:
            hear("READY=1")
            # It has announced everything by then.
            assert len(wire.announcements(GUEST_ADDRESS)) == 1
            for _ in range(3):
                hear("WATCHDOG=1")
            for config, status in ((BAD, "refused"), (QUIET, "reloaded")):
                agent.reload(config)
                hear("RELOADING=1")
                while not any(status in line for line in heard):
                    heard.extend(manager.recv(4096).decode().splitlines())
                assert "READY=1" in heard
            assert agent.stop() == 0
            hear("STOPPING=1")


# -- the log --------------------------------------------------------------------------------


def test_a_line_for_a_change_and_none_for_a_frame(tiny_lab: TinyLab, tmp_path: Path) -> None:
    config = "interval: 100ms\n" + NO_BUCKET
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        until(lambda: agent.sent() >= 8, "eight frames are sent")
        events = [line["event"] for line in agent.log()]
        assert sorted(events) == ["address-announced", "hint-port"]
    with Agent(tiny_lab, tmp_path, "-v", config=config) as agent:
        until(lambda: agent.sent() >= 8, "eight frames are sent")
        assert len(agent.log("frame-sent", interface="eth0", kind="arp-request")) >= 7


def test_text_lines_and_their_levels_for_the_journal(tiny_lab: TinyLab, tmp_path: Path) -> None:
    journal = ("env", "JOURNAL_STREAM=1:1")
    with Agent(tiny_lab, tmp_path, "--log-format", "text", prefix=journal) as agent:
        agent.reload(BAD)
        until(lambda: agent.log_text().count("configuration-refused") == 3, "errors are logged")
        assert agent.stop() == 0
    lines = agent.log_text().splitlines()
    announced = f"address={GUEST_ADDRESS} hardware_address={GUEST_MAC}"
    assert f"<6>address-announced interface=eth0 {announced}" in lines
    assert lines[-1] == "<6>stopped frames_sent=1"
    assert '<3>configuration-refused problem="' in agent.log_text()


def small_pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    return read_end, write_end


def test_nobody_reads_the_log_any_more(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    read_end, write_end = small_pipe()
    agent = Agent(tiny_lab, tmp_path, "-v", stderr=write_end)
    os.close(write_end)
    os.close(read_end)
    for _ in range(20):
        assert agent.burst() <= 1
    wire.wait_for(GUEST_ADDRESS, count=10)
    assert agent.stop() == 0


def test_whoever_reads_the_log_hangs(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    read_end, write_end = small_pipe()
    agent = Agent(tiny_lab, tmp_path, "-v", config=QUIET + NO_BUCKET, stderr=write_end)
    os.close(write_end)
    for _ in range(200):
        assert agent.burst() == 1
    assert agent.stop() == 0
    os.close(read_end)


def test_started_without_standard_error(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    close = ("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
    agent = Agent(tiny_lab, tmp_path, "-v", prefix=close)
    assert agent.burst() == 1
    wire.wait_for(GUEST_ADDRESS, count=2)
    assert agent.stop() == 0


# -- wake-ups -------------------------------------------------------------------------------


def test_it_wakes_for_ticks_only(tiny_lab: TinyLab, wire: Capture, tmp_path: Path) -> None:
    config = "interval: 100ms\njitter: 20%\nburst: [0s]\n"
    with Agent(tiny_lab, tmp_path, config=config) as agent:
        until(agent.is_asleep, "it sleeps")
        wire.clear()
        before = agent.voluntary_switches()
        wire.wait_for(GUEST_ADDRESS, count=20)
        woken = agent.voluntary_switches() - before
        # One for each frame; one more may be on its way, and one may have been when we looked.
        assert woken <= len(wire.announcements()) + 2


@pytest.mark.parametrize("address", ["192.0.2.10/24", ""], ids=["quiet", "nothing to announce"])
def test_what_others_say_wakes_nobody(tiny_lab: TinyLab, tmp_path: Path, address: str) -> None:
    """Requests and claims for addresses that are not ours, ordinary neighbour discovery."""
    if not address:
        tiny_lab.ip("guest", "address flush dev eth0")
    with Agent(tiny_lab, tmp_path) as agent:
        until(agent.is_asleep, "it sleeps")
        before = agent.voluntary_switches()
        with tiny_lab.packet_socket("peer", "eth0") as other:
            for n in range(20, 220):
                other.send(claim(PEER_MAC, f"192.0.2.{n}"))
        until(agent.is_asleep, "it sleeps")
        assert agent.voluntary_switches() - before == 0


def claim(mac: str, address: str) -> bytes:
    """An ARP announcement, by somebody else."""
    packet = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=address, pdst=address)
    return bytes(packet)
