"""What all commands have in common: their helps, and how they end at Ctrl-C and wrong usage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from garp_agent.cli import garp_agent, garp_hint
from garp_agent.cli.commands import Commands
from tests.cli.terminal import on_terminal
from tests.hypervisor.watching import ENVIRONMENT, PATIENCE

AGENT = (sys.executable, "-m", "garp_agent")
HINT = (sys.executable, "-m", "garp_agent.hypervisor")
GROUPS: dict[tuple[str, ...], Commands] = {AGENT: garp_agent.cli, HINT: garp_hint.cli}


@pytest.mark.parametrize("program", GROUPS, ids=["garp-agent", "garp-hint"])
def test_help_of_a_program_has_a_whole_sentence_for_each_command(program: tuple[str, ...]) -> None:
    status, shown = on_terminal(*program, "--help")
    assert status == 0
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.partition("\nCommands:\n")[2].splitlines()
    texts = dict(line.split(None, 1) for line in lines)
    assert texts.keys() == GROUPS[program].commands.keys()
    assert [name for name, text in texts.items() if text.endswith("...") or text[-1] != "."] == []


@pytest.mark.parametrize("program", GROUPS, ids=["garp-agent", "garp-hint"])
@pytest.mark.parametrize("command", ["doctor --no-send", "status"])
def test_command_at_ctrl_c_exits_with_130(
    short_path: Path, program: tuple[str, ...], command: str
) -> None:
    """The daemon accepts the connection and never answers."""
    path = str(short_path / "control.sock")
    option = "--control-socket" if program == AGENT else "--status-socket"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(path)
        daemon.listen()
        daemon.settimeout(PATIENCE)
        asked = [*program, *command.split(), option, path]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(asked, env=ENVIRONMENT, **pipes) as process:  # type: ignore[call-overload]
            try:
                with daemon.accept()[0]:
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    assert (process.returncode, out, err) == (130, "", "\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("program", GROUPS, ids=["garp-agent", "garp-hint"])
def test_command_without_permission_exits_with_77(
    short_path: Path, program: tuple[str, ...]
) -> None:
    """The files belong to root alone."""
    tree = short_path / "tree"
    for folder in ("etc", "opt"):
        (tree / folder).mkdir(parents=True)
    (tree / "opt" / program[-1]).touch()
    secret = short_path / "secret"
    secret.mkdir(0o700)
    short_path.chmod(0o755)
    option = "--control-socket" if program == AGENT else "--status-socket"
    other_user = ("setpriv", "--reuid=65534", "--clear-groups")
    for command in (
        ("status", option, f"{secret}/control.sock"),
        ("install", "--program", f"/opt/{program[-1]}", "--root", str(tree)),
    ):
        asked = [*other_user, *program, *command]
        options: Any = {"cwd": "/", "env": ENVIRONMENT, "capture_output": True, "text": True}
        done = subprocess.run(asked, check=False, **options)
        assert (done.returncode, done.stdout) == (77, ""), command
        assert "ermission denied" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "option", ["--interval 5", "--interval 1h", "--hint-port a/b", "--control-socket x"]
)
def test_run_with_a_wrong_option_is_wrong_usage(option: str) -> None:
    asked = [*AGENT, "run", "--dry-run", *option.split()]
    done = subprocess.run(asked, check=False, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"command line: {option.split()[0]}: given ")


def test_run_with_a_wrong_file_and_a_wrong_option_has_a_wrong_configuration(
    tmp_path: Path,
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("interval: 5\n")
    asked = [*AGENT, "run", "--dry-run", "-c", str(file), "--interval", "5"]
    assert subprocess.run(asked, check=False, env=ENVIRONMENT, stderr=-3).returncode == 78
