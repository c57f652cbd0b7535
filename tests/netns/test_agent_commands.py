"""Each command of `garp-agent` once from end to end, with its exit status; signals and reloads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from garp_agent import __version__
from tests.netns.agent import (
    COMMAND,
    ENVIRONMENT,
    LIMIT,
    NEW_MAC,
    NO_BUCKET,
    QUIET,
    WITHOUT_CHECK,
    Agent,
    Site,
    command,
    until,
)

UNPRIVILEGED = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
BAD = "interval: soon\nburst: []\nnonsense: 1\n"
NOTHING = "garp-agent: nothing to announce; `garp-agent list` says why\n"


def result(site: Site, *words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a command; return its exit status, output and errors."""
    done = command(site.lab, *words, prefix=prefix)
    return done.returncode, done.stdout, done.stderr


def user(number: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups")


# -- run ------------------------------------------------------------------------------------


def test_run_without_configuration_and_options_announces(site: Site) -> None:
    mounts = "mount -t tmpfs none /run && if [ -d /etc/garp-agent ]; "
    mounts += 'then mount -t tmpfs none /etc/garp-agent; fi && exec "$0" "$@"'
    words = ["unshare", "--mount", "sh", "-c", mounts, *COMMAND, "run"]
    process = site.lab.start("guest", words, env=ENVIRONMENT, stderr=-1)
    site.wire.wait_for(GUEST_ADDRESS, count=3)
    inside = ("nsenter", "--mount", f"--target={process.pid}")
    status = json.loads(result(site, "status", "--json", prefix=inside)[1])
    assert (status["pid"], status["configuration"], status["interval"]) == (process.pid, None, 5.0)
    assert result(site, "burst", prefix=inside) == (0, "1 frame sent\n", "")
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGTERM)
    _, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    announced = f"address={GUEST_ADDRESS} hardware_address={GUEST_MAC}"
    assert f"address-announced interface=eth0 {announced}" in log.splitlines()
    assert log.splitlines()[-1].startswith("stopped frames_sent=")


def test_sigusr1_sends_a_burst_and_sigint_ends_the_daemon(site: Site) -> None:
    with site.start_without_refresh() as agent:
        agent.kill(signal.SIGUSR1)
        until(lambda: agent.sent_by("operator") == 1, "a frame is sent")
        assert agent.wait_for_log("burst", cause="operator")["reason"] == "SIGUSR1"
        assert agent.stop(signal.SIGINT) == 0
        assert agent.log()[-1] == {"level": "info", "event": "stopped", "frames_sent": 3}
        assert not agent.control.exists()
    assert len(site.wire.announcements(GUEST_ADDRESS)) == 3


@pytest.mark.parametrize("asked", ["run -c", "announce -c", "list -c", "check", "config -c"])
def test_a_bad_configuration_ends_a_command_with_its_errors(site: Site, asked: str) -> None:
    file = site.directory / "bad.yaml"
    file.write_text(BAD)
    status, said, errors = result(site, *asked.split(), str(file))
    assert (status, said) == (78, "")
    assert [line.split(": ")[:2] for line in errors.splitlines()] == [
        [f"{file}:1", "interval"],
        [f"{file}:2", "burst"],
        [f"{file}:3", "nonsense"],
    ]


# -- privileges -----------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["run --control-socket none", "announce"])
def test_a_command_that_sends_needs_the_capability(site: Site, asked: str) -> None:
    status, said, errors = result(site, *asked.split(), prefix=UNPRIVILEGED)
    assert (status, said) == (77, "")
    assert len(errors.splitlines()) == 1
    assert "CAP_NET_RAW" in errors


def test_dry_run_and_list_need_no_capability_and_send_nothing(site: Site) -> None:
    status, said, _ = result(site, "announce", "--dry-run", prefix=UNPRIVILEGED)
    assert (status, said) == (0, "1 frame would be sent, 0 dropped\n")
    with site.start("--dry-run", prefix=UNPRIVILEGED) as agent:
        assert agent.burst() == 1
        assert agent.status()["dry_run"]
        line = agent.wait_for_log("frame-sent", cause="operator", interface="eth0")
        assert (line["address"], line["kind"]) == (GUEST_ADDRESS, "arp-request")
        assert line["dry_run"] == "nothing is sent"
    status, said, _ = result(site, "list", prefix=UNPRIVILEGED)
    row = f"eth0 {GUEST_ADDRESS} arp-request"
    assert (status, said.splitlines()[-1].split()) == (0, row.split())
    assert site.wire.announcements() == []


def test_unprivileged_user_with_the_capability_runs_it_and_others_may_not_ask(site: Site) -> None:
    caps = ("--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw")
    # Those of pytest are not open to other users.
    with tempfile.TemporaryDirectory(prefix="garp-agent-") as directory:
        Path(directory).chmod(0o777)
        site = site._replace(directory=Path(directory))
        with site.start(prefix=(*user(65534), *caps)) as agent:
            site.wire.wait_for(GUEST_ADDRESS)
            agent.reload("interval: 30s\n")
            until(lambda: agent.status()["interval"] == 30.0, "it reloads")
            assert agent.log("claims-unheard") == []
            assert agent.control.stat().st_uid == 65534
            asked = ("status", "--control-socket", str(agent.control))
            status, said, errors = result(site, *asked, prefix=user(65533))
    assert (status, said) == (77, "")
    assert "permission denied" in errors


# -- announce -------------------------------------------------------------------------------


def test_announce_reports_what_was_sent_and_what_was_not(site: Site) -> None:
    sent = "1 frame sent, 0 dropped\n"
    skipped = "garp-agent: lo: not announced: loopback\n"
    unknown = "garp-agent: eth7: no such interface; there are: lo, eth0\n"
    assert result(site, "announce") == (0, sent, "")
    assert result(site, "announce", "eth0") == (0, sent, "")
    assert result(site, "announce", "eth0", "eth7") == (1, "", unknown)
    assert result(site, "announce", "lo") == (1, "", skipped + NOTHING)
    assert result(site, "announce", "eth0", "lo") == (1, sent, skipped)
    assert len(site.wire.announcements(GUEST_ADDRESS)) == 3

    slow = "tc qdisc add dev eth0 root tbf rate 8bit burst 20 limit 20"
    site.lab.run("guest", slow.split())
    status, said, log = result(site, "announce")
    assert (status, said) == (1, "0 frames sent, 1 dropped\n")
    assert "error=ENOBUFS" in log

    site.guest("link set eth0 down")
    assert result(site, "announce") == (1, "", NOTHING)
    assert len(site.wire.announcements()) == 3


def test_announce_ends_after_the_rate_limit_has_let_every_address_pass(site: Site) -> None:
    site.guest(*(f"address add 192.0.2.{n}/24 dev eth0" for n in range(100, 130)))
    file = site.directory / "config.yaml"
    file.write_text("rate_limit:\n  frames_per_second: 100\n  depth: 2\n")
    assert result(site, "announce", "-c", str(file))[1] == "31 frames sent, 0 dropped\n"
    assert len({packet.pdst for packet in site.wire.announcements()}) == 31


# -- check, config, status, burst -----------------------------------------------------------


def test_check_and_config_accept_a_good_file(site: Site) -> None:
    file = site.directory / "good.yaml"
    file.write_text(QUIET)
    assert result(site, "check", str(file)) == (0, f"{file}: good\n", "")
    _, shown, _ = result(site, "config", "-c", str(file))
    assert shown.splitlines()[0] == "interval: 270s"
    file.write_text(shown)
    assert result(site, "config", "-c", str(file)) == (0, shown, "")


def test_status_and_burst_ask_the_daemon(site: Site) -> None:
    with site.start_without_refresh() as agent:
        control = ("--control-socket", str(agent.control))
        assert result(site, "burst", "--reason", "a\ntest", *control)[:2] == (0, "1 frame sent\n")
        assert agent.wait_for_log("burst")["reason"] == "a?test"
        row = result(site, "status", *control)[1].splitlines()[-1].split()
        assert row[:5] == ["eth0", GUEST_ADDRESS, "3", "0", "operator"]
        values = json.loads(result(site, "status", "--json", *control)[1])
        assert values["frames"]["by_cause"] == {"start": 2, "operator": 1}
        assert values["configuration"] == str(agent.config)
        metrics = result(site, "status", "--prometheus", *control)[1]
        assert 'garp_agent_frames_sent_total{cause="operator"} 1\n' in metrics
    assert len(site.wire.announcements(GUEST_ADDRESS)) == 3
    ended = f"garp-agent: {agent.control}: no garp-agent answers there; is it running?\n"
    assert result(site, "status", *control) == result(site, "burst", *control) == (1, "", ended)


def test_burst_says_why_no_frame_was_sent(site: Site) -> None:
    with site.start(config="rate_limit:\n  frames_per_second: 0.1\n") as agent:
        burst = ("burst", "--control-socket", str(agent.control))
        until(lambda: result(site, *burst) != (0, "1 frame sent\n", ""), "the bucket is empty")
        delayed = "no frame sent yet: the rate limit delays them\n"
        assert result(site, *burst) == (0, delayed, "")
        site.guest("link set eth0 down")
        agent.wait_for_log("link-withdrawn")
        assert result(site, *burst) == (1, "", NOTHING)


# -- reload ---------------------------------------------------------------------------------


def test_a_bad_reload_is_refused_with_all_its_errors(site: Site) -> None:
    with site.start() as agent:
        agent.reload(BAD)
        until(lambda: len(agent.log("configuration-refused", level="error")) == 3, "three errors")
        assert agent.status()["interval"] == 270.0
        agent.config.unlink()
        agent.kill(signal.SIGHUP)
        until(lambda: len(agent.log("configuration-refused")) == 4, "the missing file is logged")
        assert agent.burst() == 1
        agent.reload("interval: 30s\nmac_only: false\naddresses: {exclude: [192.0.2.0/24]}\n")
        agent.wait_for_log("configuration-loaded")
        assert (agent.status()["interval"], agent.announced()) == (30.0, set())


def test_reload_keeps_options_and_moves_and_closes_the_control_socket(site: Site) -> None:
    with site.start("--interval", "7s") as agent:
        assert agent.status()["interval"] == 7.0
        old, agent.control = agent.control, site.directory / "elsewhere" / "control.sock"
        agent.reload(QUIET)
        agent.wait_for_log("configuration-loaded")
        assert agent.burst() == 1
        assert agent.status()["interval"] == 7.0
        assert not old.exists()
        agent.config.write_text("control_socket: none\nhint_port: none\n")
        agent.kill(signal.SIGHUP)
        until(lambda: not agent.control.exists(), "the socket is gone")
        assert agent.process.poll() is None


def test_sigterm_during_a_reload_ends_the_daemon(site: Site) -> None:
    for _ in range(5):
        with site.start() as agent:
            agent.reload(QUIET)
            assert agent.stop() == 0


# -- the service manager and the log --------------------------------------------------------


def test_the_service_manager_is_notified(site: Site) -> None:
    name = str(site.directory / "notify")
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(LIMIT)

        def hear(what: str) -> None:
            while not any(what in line for line in heard):
                heard.extend(manager.recv(4096).decode().splitlines())

        environment = ("env", f"NOTIFY_SOCKET={name}", "WATCHDOG_USEC=400000")
        config = QUIET + WITHOUT_CHECK
        with site.start(prefix=environment, wait=False, config=config) as agent:
            hear("READY=1")
            # It has announced everything before.
            assert len(site.wire.announcements(GUEST_ADDRESS)) == 1
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


def test_the_log_has_a_line_for_each_change_and_with_v_for_each_frame(site: Site) -> None:
    config = "interval: 100ms\n" + NO_BUCKET
    with site.start(config=config) as agent:
        until(lambda: agent.sent() >= 8, "eight frames are sent")
        events = [line["event"] for line in agent.log()]
        assert sorted(events) == ["address-announced", "burst", "hint-port", "started"]
    with site.start("-v", config=config) as agent:
        agent.wait_for_log("frame-sent", 7, interface="eth0", kind="arp-request")


def test_status_and_burst_work_with_a_broken_configuration(site: Site) -> None:
    with site.start() as agent:
        agent.write_config("interval: soon\nnonsense: 1\n")
        hint = "garp-agent: the configuration has errors; `garp-agent check` shows them\n"
        file = ("-c", str(agent.config))
        assert result(site, "burst", *file) == (0, "1 frame sent\n", hint)
        status, text, errors = result(site, *file, "status")
        assert (status, errors) == (0, hint)
        assert GUEST_ADDRESS in text


@pytest.mark.parametrize("name", ["w\u00e4n".encode(), b"w\xff", b"[x]", b"e*"])
def test_announce_finds_an_interface_whatever_the_locale_is(site: Site, name: bytes) -> None:
    ascii_only = ("env", "LC_ALL=C", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0")
    for change in (["down"], ["name", os.fsdecode(name)]):
        site.lab.run("guest", ["ip", "link", "set", "eth0", *change])
    site.lab.run("guest", ["ip", "link", "set", os.fsdecode(name), "up"])
    site.wire.clear()
    for prefix in ((), ascii_only):
        done = result(site, "announce", os.fsdecode(name), prefix=prefix)
        assert done == (0, "1 frame sent, 0 dropped\n", "")
    assert len(site.wire.announcements(GUEST_ADDRESS)) == 2


def test_announce_of_a_name_with_a_star_announces_that_interface_only(site2: Site) -> None:
    site2.guest("link set eth0 down", "link set eth0 name e*", "link set e* up")
    site2.wire.clear()
    assert result(site2, "announce", "e*") == (0, "1 frame sent, 0 dropped\n", "")
    assert len(site2.wire.announcements(GUEST_ADDRESS)) == 1


def test_announce_prints_escapes_in_interface_names_safely(site: Site) -> None:
    # A reset of the terminal: click itself leaves out the escapes of colours.
    site.guest("link set eth0 down", "link set eth0 name e\x1bc")
    for name, wrong in (("x", "no such interface"), ("e\x1bc", "not announced: down")):
        status, out, err = result(site, "announce", name)
        assert (status, out) == (1, "")
        assert wrong in err
        assert "\x1b" not in err


def test_check_takes_its_file_as_an_argument_or_as_an_option(site: Site) -> None:
    (site.directory / "a.yaml").write_text("interval: 7s\n")
    file = str(site.directory / "a.yaml")
    for words in (["check", file], ["check", "-c", file], ["-c", file, "check"]):
        assert result(site, *words) == (0, f"{file}: good\n", "")
    assert result(site, "check", file, "--config", "other")[0] == 2
    assert "interval: 7s\n" in result(site, "--config", file, "config")[1]


def test_the_log_says_what_started_what_changed_and_why_a_burst_was_sent(site: Site) -> None:
    port = "org.garp_agent.test.none"
    with site.start("--hint-port", port, config=QUIET + NO_BUCKET) as agent:
        agent.wait_for_log("burst", cause="start", interface="eth0")
        (started,) = agent.log("started")
        assert started == agent.log()[0]
        assert started["version"] == __version__
        assert (started["configuration"], started["interval"]) == (str(agent.config), 270.0)
        absent = agent.wait_for_log("hint-port")
        assert (absent["name"], absent["state"], "error" in absent) == (port, "absent", False)
        assert "optional" in absent["note"]
        site.guest("address add 192.0.2.50/24 dev eth0")
        agent.wait_for_log("address-announced", address="192.0.2.50")
        site.guest("address del 192.0.2.50/24 dev eth0")
        agent.wait_for_log("address-withdrawn", address="192.0.2.50", reason="removed")
        site.guest(f"link set eth0 address {NEW_MAC}")
        changed = agent.wait_for_log("hardware-address-changed", interface="eth0")
        assert (changed["before"], changed["hardware_address"]) == (GUEST_MAC, NEW_MAC)
        agent.wait_for_log("burst", cause="hardware-address-changed")
        site.guest("link set eth0 down")
        agent.wait_for_log("link-withdrawn", interface="eth0")
        site.guest("link set eth0 up")
        agent.wait_for_log("burst", cause="link-up", interface="eth0")
        site.guest(f"address del {GUEST_ADDRESS}/24 dev eth0")
        agent.wait_for_log("address-withdrawn", address=GUEST_ADDRESS)
        assert "No such file" not in result(site, "status", "-c", str(agent.config))[1]


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    return read_end, write_end


def _socket_pair() -> tuple[int, int]:
    """What the journal gives to a unit."""
    ends = socket.socketpair()
    return ends[0].detach(), ends[1].detach()


def _what_is_there(descriptor: int) -> bytes:
    data = b""
    # BlockingIOError: no more; EIO: a terminal that no process has open.
    with contextlib.suppress(OSError):
        while part := os.read(descriptor, 1 << 16):
            data += part
    return data


@pytest.mark.parametrize("streams", [_pipe, _socket_pair, os.openpty])
def test_a_log_reader_that_hangs_does_not_stop_announcements(
    site: Site, streams: Callable[[], tuple[int, int]]
) -> None:
    read_end, write_end = streams()
    flags = fcntl.fcntl(write_end, fcntl.F_GETFL)
    agent = site.start("-v", config=QUIET + NO_BUCKET, stderr=write_end)
    for _ in range(900):  # 200 kB of log lines
        assert agent.burst() == 1
    # Other processes may have the stream open, and do not expect other flags.
    assert fcntl.fcntl(write_end, fcntl.F_GETFL) == flags
    os.close(write_end)
    os.set_blocking(read_end, False)
    text = bytearray()

    def writes_again() -> bool:
        text.extend(_what_is_there(read_end))
        return agent.burst() == 1 and b"log-lines-lost" in text

    until(writes_again, "it writes again")
    assert agent.stop() == 0
    lines = [json.loads(line) for line in (text + _what_is_there(read_end)).splitlines()]
    os.close(read_end)
    assert sum(line["count"] for line in lines if line["event"] == "log-lines-lost") > 100
    assert lines[-1]["event"] == "stopped"


def test_an_agent_without_standard_streams_announces(site: Site) -> None:
    """The first sockets get the numbers 0 to 2, and the log must not go there."""
    agent: Agent = site.start("-v", prefix=("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'))
    assert agent.burst() == 1
    site.wire.wait_for(GUEST_ADDRESS, count=2)
    assert agent.stop() == 0


# -- wake-ups -------------------------------------------------------------------------------


def test_the_agent_wakes_for_its_refreshes_only(site: Site) -> None:
    config = "interval: 100ms\njitter: 20%\nburst: [0s]\nconflict: {policy: warn}\n"  # no probes
    with site.start(config=config) as agent:
        until(agent.is_asleep, "it sleeps")
        site.wire.clear()
        before = agent.voluntary_switches()
        site.wire.wait_for(GUEST_ADDRESS, count=20)
        woken = agent.voluntary_switches() - before
        # One for each frame.  One frame more may be under way at each end of the count.
        assert woken <= len(site.wire.announcements()) + 2
