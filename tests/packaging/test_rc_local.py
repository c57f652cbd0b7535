"""garp-start in the background, in each shell: one instance, its agent or loop, what it leaves.

test_shell_loop.py has the loop.  test_booted.py has /etc/rc.local itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab import GUEST_ADDRESS
from tests.netns.agent import LIMIT, until
from tests.packaging.shell_guest import STARTER, Guest, Host, each_shell, parent
from tests.packaging.support import CONTRIB, ROOT, need, run

pytestmark = pytest.mark.netns

CAP_NET_RAW = 1 << 13  # <linux/capability.h>
SHELL = b"#!/bin/sh"


@pytest.mark.parametrize("command", ["loop", "start"])
def test_starter_says_what_is_missing_or_wrong(guest: Guest, command: str) -> None:
    guest.settings["GARP_INTERVAL"] = "5s"
    assert "whole numbers" in guest.starter(command, status=1)
    path = guest.folder / "few"
    path.mkdir()
    for program in ("cat", "dash", "date", "rm", "ls"):
        (path / program).symlink_to(need(program, program))
    text, replaced = re.subn(r"^export PATH=.*$", f"PATH={path}", STARTER.read_text(), flags=re.M)
    assert replaced == 1
    guest.script.write_text(text)
    assert "ip is needed" in guest.starter(command, status=1)
    (path / "ip").symlink_to(need("ip", "iproute2"))
    assert "arping is needed" in guest.starter(command, status=1)
    assert not list(guest.run_folder.iterdir())


@each_shell
def test_starter_does_all_in_each_shell(guest: Guest) -> None:
    assert "not running" in guest.starter("status", status=3)
    with Host(guest) as host:
        assert "started" in guest.starter("start")
        guest.announced()
        until(lambda: "running the loop" in guest.starter("status"), "the loop")
        assert "already running" in guest.starter("start")
        if not guest.shell[0].endswith("yash"):  # its read fails at 0xFF
            assert host.ask(b'\xff{"execute": "info", "id": "7"}\n')["id"] == "7"
            lease = b'{"execute": "lease", "arguments": {"seconds": 90}}\n'
            assert host.ask(lease)["return"]["seconds"] == 0
            assert host.ask(b"half a line\xff{'execute\xffBURST\n")["return"]["frames"] == 0
    assert "started" in guest.starter("restart")
    until(guest.has_one_instance, "one instance")
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    assert "stopped" in guest.starter("stop")
    until(lambda: not guest.processes("garp-start"), "all of it ended")
    assert guest.files() == ["garp-start.lock"]
    assert "not running" in guest.starter("stop")


@pytest.mark.parametrize("script", [STARTER, CONTRIB / "sysv" / "garp-agent"], ids=lambda p: p.name)
@each_shell
def test_script_is_parsed_by_each_shell(script: Path, shell: tuple[str, ...]) -> None:
    assert " error" not in run(*shell, "-n", script)


def test_restart_works_with_a_relative_path(guest: Guest) -> None:
    guest.starter("start")
    command = [*guest.command(guest.script.name, "restart")]
    inside = f"cd {guest.folder} && exec {' '.join(shlex.quote(each) for each in command)}"
    said = guest.lab.run("guest", ["sh", "-c", inside]).stdout
    assert "stopped" in said
    assert "started" in said
    until(guest.has_one_instance, "one instance")


def test_starter_called_many_times_at_once_starts_one(guest: Guest) -> None:
    command = guest.command(guest.script, "start")
    starts = [guest.lab.start("guest", command, stdout=-1) for _ in range(8)]
    said = "".join(start.communicate(timeout=LIMIT)[0] for start in starts)
    assert [said.count(words) for words in ("garp-start: started", "already running")] == [1, 7]
    until(guest.has_one_instance, "one instance")


def test_starter_of_another_name_starts_no_second_one(guest: Guest) -> None:
    other = guest.folder / "garp.start"
    shutil.copy(guest.script, other)
    assert "started" in guest.starter("start", script=other)
    assert "already running" in guest.starter("start")
    assert "stopped" in guest.starter("stop")
    assert "not running" in guest.starter("status", script=other, status=3)


@pytest.mark.parametrize("holder", ["dead", "of another program"])
def test_starter_ignores_the_files_of_a_crashed_one(guest: Guest, holder: str) -> None:
    number = run("sh", "-c", "echo $$").strip() if holder == "dead" else str(os.getpgrp())
    # Where /var/run is no tmpfs, another process may have the number after a reboot.
    for name, content in {"lock": number, "pid": os.getpid(), "child": "agent"}.items():
        (guest.run_folder / f"garp-start.{name}").write_text(f"{content}\n")
    assert "not running" in guest.starter("stop")
    assert "not running" in guest.starter("status", status=3)
    assert "started" in guest.starter("start")
    until(guest.has_one_instance, "one instance")


def test_starter_with_an_old_error_starts_after_a_probe_that_held_the_lock(guest: Guest) -> None:
    (guest.run_folder / "garp-start.error").write_text("an old error\n")
    with (guest.run_folder / "garp-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        probe = guest.lab.start("guest", ["/bin/sleep", "1000"], pass_fds=[lock.fileno()])
    # The probe ends when it has made the first flock fail.
    flock = need("flock", "util-linux")
    first = f'[ "$1" != -n ] || {flock} -n "$2" true || {{ kill -9 {probe.pid}; exit 1; }}'
    guest.program("flock", f'{first}\nexec {flock} "$@"')
    assert "started" in guest.starter("start")
    until(guest.has_one_instance, "one instance")
    assert probe.wait(LIMIT) == -signal.SIGKILL


@pytest.fixture
def _sighup_is_not_ignored() -> Iterator[None]:
    """nohup may have started us, and a shell cannot trap what is ignored at its start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_sighup_is_not_ignored")
@each_shell
def test_signals_leave_no_sleep_of_the_loop_behind(guest: Guest) -> None:
    (guest.path / "sleep").unlink()
    guest.settings["GARP_INTERVAL"] = "1000"
    guest.starter("start", script=STARTER)  # without functions, which are processes in between
    loop = int((guest.run_folder / "garp-start.pid").read_text())

    def rests() -> bool:
        # The loop has one child, the sleep.  Only flock has no parent here.
        parents = {each: parent(each) for each in guest.processes("")}
        orphans = [each for each in parents.values() if each not in parents]
        return (list(parents.values()).count(loop), len(orphans)) == (1, 1)

    guest.announced(count=2)
    for number, count in ((signal.SIGUSR1, 2), (signal.SIGHUP, 1)):
        until(rests, "no more than one sleep")
        guest.wire.clear()
        os.kill(loop, number)
        guest.announced(count=count)
    until(rests, "no more than one sleep")
    guest.starter("stop", script=STARTER)


def test_starter_leaves_no_descriptor_of_its_caller_open(guest: Guest) -> None:
    lock = guest.folder / "lock"
    caller = f"exec 7>{lock}; {' '.join(map(shlex.quote, guest.command(guest.script, 'start')))}"
    assert "started" in guest.lab.run("guest", ["sh", "-c", caller]).stdout
    open_files = []
    for process in guest.processes("garp-start"):
        with contextlib.suppress(OSError):  # a subshell ends soon
            folder = f"/proc/{process}/fd"
            open_files += [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
    assert open_files
    assert str(lock) not in open_files


def test_status_names_the_last_error_of_arping(guest: Guest) -> None:
    guest.program("arping", "echo 'no permission' >&2; exit 2")
    guest.starter("start")
    error = f"last error: arping for {GUEST_ADDRESS} on eth0: no permission"
    until(lambda: error in guest.starter("status"), "the error is known")


@pytest.mark.parametrize("kind", ["loop", "agent"])
def test_nothing_is_left_after_kill_9(guest: Guest, kind: str) -> None:
    if kind == "agent":
        install_agent(guest)
        guest.settings["GARP_OPTIONS"] = f"--control-socket {guest.folder}/socket"
    with Host(guest):
        guest.starter("start")
        guest.announced()
        until(lambda: f"running the {kind}" in guest.starter("status"), "the child is known")
        os.kill(int((guest.run_folder / "garp-start.pid").read_text()), 9)
        until(lambda: not guest.processes("garp"), "all of it ended")
    assert guest.files() == ["garp-start.lock"]
    assert "started" in guest.starter("start")


def test_restart_ends_an_agent_that_is_left_alone(guest: Guest) -> None:
    install_agent(guest)
    guest.settings["GARP_OPTIONS"] = f"--control-socket {guest.folder}/socket"
    guest.starter("start")
    (agent,) = until(lambda: guest.parents("garp_agent run"), "the agent runs")
    for process in guest.processes("garp-start"):
        with contextlib.suppress(ProcessLookupError):  # one can end with the one before
            os.kill(process, 9)
    assert "started" in guest.starter("restart")
    (other,) = until(lambda: guest.parents("garp_agent run"), "another agent runs")
    assert other != agent


def install_agent(guest: Guest) -> None:
    """Put garp-agent of this tree into the PATH of the guest, and start it instead of the loop."""
    agent = f'PYTHONPATH={ROOT / "agent"} exec {sys.executable} -m garp_agent "$@"'
    guest.program("garp-agent", agent)
    del guest.settings["GARP_AGENT"]


def capabilities(process: int, name: str) -> int:
    """Return a set of capabilities, proc(5)."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition(f"\n{name}:")[2].split()[0], 16)


def test_agent_is_started_supervised_and_signalled_where_it_can_run(guest: Guest) -> None:
    install_agent(guest)
    options = f"--interval 60s --control-socket {guest.folder}/socket"
    (guest.folder / "defaults").write_text(f'GARP_OPTIONS="{options}"\n')
    guest.starter("start")
    assert len(guest.announced()[0]) == 60  # arping sends 42
    assert not guest.processes("garp-start loop")
    (agent,) = guest.parents("garp_agent run")
    for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert capabilities(agent, name) & ~CAP_NET_RAW == 0, name
    assert capabilities(agent, "CapEff") == CAP_NET_RAW
    guest.wire.clear()
    assert "running the agent" in guest.starter("status")
    run("kill", "-USR1", (guest.run_folder / "garp-start.pid").read_text().strip())
    guest.announced()
    os.kill(agent, 9)
    until(lambda: guest.parents("garp_agent run") - {agent}, "another agent")
    guest.starter("stop")
    until(lambda: not guest.processes("garp"), "all of it ended")


def test_agent_that_cannot_run_is_replaced_by_the_loop(guest: Guest) -> None:
    guest.program("garp-agent", "echo 'needs Python 3.9' >&2; exit 1")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    guest.announced()
    assert "running the loop" in guest.starter("status")


def test_agent_that_fails_is_started_again_ever_later_with_one_line_each(guest: Guest) -> None:
    guest.program("garp-agent", "[ $1 = --version ] || exit 1")
    guest.program("logger", f"exec cat >>{guest.folder}/log")
    guest.program("sleep", f'case $1 in 0.*) ;; *) echo "$1" >>{guest.folder}/pauses;; esac')
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    pauses = guest.lines_of("pauses", 8)[:8]
    assert pauses == ["1", "2", "4", "8", "16", "32", "60", "60"]
    lines = [f"ended with status 1: starting it again after {pause} s" for pause in pauses]
    assert guest.lines_of("log", 8)[:8] == lines


def test_status_says_that_the_agent_is_not_running_before_its_next_start(guest: Guest) -> None:
    guest.program("garp-agent", "[ $1 = --version ] || exit 1")
    guest.program("sleep", "case $1 in 0.*) exec /bin/sleep $1;; esac; exec /bin/sleep 1000")
    del guest.settings["GARP_AGENT"]
    guest.starter("start")
    error = guest.run_folder / "garp-start.error"
    until(lambda: error.exists() and error.read_text(), "the agent has ended")
    said = guest.starter("status", status=1)
    assert "the agent is not running; last error: ended with status 1" in said
    guest.starter("stop")


def test_logger_that_is_killed_ends_nothing(guest: Guest) -> None:
    guest.program("logger", f"exec cat >>{guest.folder}/log")
    guest.starter("start")
    guest.lines_of("log", 1)
    for process in guest.processes("cat"):
        os.kill(process, 9)
    guest.lab.ip("guest", "address add 192.0.2.77/32 dev eth0")
    guest.announced("192.0.2.77")
    until(lambda: "192.0.2.77" in (guest.folder / "log").read_text(), "it is logged again")


def test_agent_with_a_bad_configuration_is_not_started_again(guest: Guest) -> None:
    install_agent(guest)
    bad, log = guest.folder / "config.yaml", guest.folder / "log"
    bad.write_text("interval: never\n")
    log.touch()
    guest.settings["GARP_OPTIONS"] = f"-c {bad}"
    guest.program("logger", f"exec cat >>{log}")
    # It may have ended before `start` looks.
    guest.lab.run("guest", guest.command(guest.script, "start"), check=False)
    until(lambda: "status 78: not started again" in log.read_text(), "it gave up")
    until(lambda: not guest.processes("garp-start"), "all of it ended")
    assert f"{bad}:1: interval" in log.read_text()
    said = guest.starter("status", status=3)
    assert "not running; last error: ended with status 78" in said


def test_init_script_starts_reports_restarts_and_stops(guest: Guest) -> None:
    script = CONTRIB / "sysv" / "garp-agent"
    guest.settings["GARP_START"] = str(guest.script)
    guest.starter("start", script=script)
    guest.announced()
    for command in ("status", "force-reload", "stop"):
        guest.starter(command, script=script)
    guest.starter("status", status=3, script=script)
    guest.starter("reticulate", status=2, script=script)


def test_scripts_satisfy_shellcheck() -> None:
    files = [*CONTRIB.rglob("*"), *(ROOT / "tools").iterdir()]
    scripts = [path for path in files if path.is_file() and path.read_bytes().startswith(SHELL)]
    scripts = [path for path in scripts if path.parent.name != "pip"]  # Python as well
    assert {"garp-start", "garp-agent-textfile", "setup.sh"} <= {path.name for path in scripts}
    assert run(need("shellcheck", "shellcheck"), "-s", "sh", *scripts) == ""
