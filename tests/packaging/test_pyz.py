"""The single file: on each interpreter of this machine, with nothing installed, and lean."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

import build_pyz
from bench.lab import GUEST_ADDRESS, TinyLab
from tests.packaging.support import run

INTERPRETERS = dict(build_pyz.interpreters())
VERSION = f"garp-agent, version {build_pyz.VERSION}\n"
PATIENCE = 30.0  # seconds until a test counts as hung


def start(pyz: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the file with nothing else in the environment."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    return subprocess.run(
        [pyz, *arguments], env=environment, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS)
def test_file_runs_on_each_python_with_nothing_installed(
    pyz: Path, python: str, tmp_path: Path
) -> None:
    done = start(pyz, "--version", GARP_PYTHON=python)
    assert (done.stdout, done.stderr) == (VERSION, "")
    listed = json.loads(start(pyz, "list", "--json", GARP_PYTHON=python).stdout)
    assert "lo" in json.dumps(listed)
    bad = tmp_path / "bad.yaml"
    bad.write_text("interval: never\n")
    done = start(pyz, "check", str(bad), GARP_PYTHON=python)
    assert done.returncode == 78
    assert f"{bad}:1: interval" in done.stderr
    assert run(python, "-IS", pyz, "--version") == VERSION  # as an archive, too


@pytest.mark.netns
@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS)
def test_daemon_announces_on_each_python(pyz: Path, python: str, tiny_lab: TinyLab) -> None:
    environment = {**os.environ, "GARP_PYTHON": python}
    with tiny_lab.packet_socket("peer", "eth0", 0x0806) as peer:
        peer.settimeout(PATIENCE)
        command = [str(pyz), "run", "--control-socket", "none"]
        tiny_lab.start("guest", command, env=environment)
        frame = peer.recv(2048)
        while frame[28:32] == bytes(4):  # the first check
            frame = peer.recv(2048)
    assert frame[28:32] == frame[38:42] == bytes(map(int, GUEST_ADDRESS.split(".")))


@pytest.mark.netns
def test_daemon_imports_compiled_uncompressed_code_of_the_archive_only(
    pyz: Path, tmp_path: Path, tiny_lab: TinyLab
) -> None:
    verbose = tmp_path / "python"
    verbose.write_text(f'#!/bin/sh\nexec {sys.executable} -v "$@"\n')
    verbose.chmod(0o755)
    environment = {**os.environ, "GARP_PYTHON": str(verbose)}
    log = ""
    with tiny_lab.start(
        "guest", [str(pyz), "run", "--dry-run"], env=environment, stderr=subprocess.PIPE
    ) as agent:
        assert agent.stderr
        while GUEST_ADDRESS not in log:
            assert select.select([agent.stderr], [], [], PATIENCE)[0], log[-2000:]
            log += os.read(agent.stderr.fileno(), 1 << 16).decode(errors="replace")
        agent.terminate()
        log += agent.communicate()[1]
    imported = [line for line in log.splitlines() if line.startswith("import ")]
    ours = [line for line in imported if "'garp_agent." in line]
    assert len(ours) > 10
    assert all(f"/{sys.implementation.cache_tag}" in line for line in ours)
    names = {line.split()[1].strip("'").partition(".")[0] for line in imported}
    # Python imports site without -S, and zlib for the first compressed file.
    assert not names & {"site", "zlib"}


def test_builds_of_one_tree_are_identical(tmp_path: Path) -> None:
    chosen = [(sys.implementation.cache_tag, sys.executable)]
    for name in ("one", "two"):
        build_pyz.build(tmp_path / name, chosen)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_file_runs_on_a_python_that_it_is_not_compiled_for(tmp_path: Path) -> None:
    build_pyz.build(tmp_path / "garp-agent.pyz", [])
    assert start(tmp_path / "garp-agent.pyz", "--version").stdout == VERSION


OLD = """#!{python}
import sys
at = sys.argv.index("-c")
code = sys.argv[at + 1]
sys.argv[: at + 2] = ["-c"]
sys.version_info, sys.version = (3, 8, 18), "3.8.18 (old)"
exec(code)
"""


def test_old_or_missing_python_is_refused(pyz: Path, tmp_path: Path) -> None:
    programs = {
        "python3": OLD.format(python=sys.executable),
        "python3.10": "#!/bin/sh\nexit 1\n",  # does not work
        "python3.9": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    assert start(pyz, "--version", PATH=f"{tmp_path}:/bin").stdout == VERSION
    (tmp_path / "python3.9").unlink()
    done = start(pyz, "run", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("garp-agent: needs Python 3.9 or newer; python3 is 3.8.18")
    assert done.stderr.count("\n") == 1
    for name in ("python3", "python3.10"):
        (tmp_path / name).unlink()
    said = run("env", "-i", f"PATH={tmp_path}", "/bin/sh", pyz, "run", accept=(127,))
    assert "needs Python 3.9 or newer" in said


def test_site_packages_are_there_for_diagnosis_and_not_for_the_daemons(
    pyz: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site_packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text('print("site-packages looked through")\n')
    for name in ("scapy", "netifaces"):
        (site_packages / f"{name}.py").write_text(f'raise SystemExit("{name} found")\n')
    python = str(tmp_path / "venv" / "bin" / "python")
    (tmp_path / "capture").touch()
    for command in (["watch", "--read", str(tmp_path / "capture")], ["doctor", "--no-send"]):
        done = start(pyz, *command, GARP_PYTHON=python)
        assert done.stdout.startswith("site-packages looked through\n")
        assert done.stderr in ("scapy found\n", "netifaces found\n")
    hint = tmp_path / "garp-hint"  # the hypervisor's program is the same file by another name
    hint.symlink_to(pyz)
    for program, name, daemon in ((pyz, "garp-agent", "run"), (hint, "garp-hint", "watch")):
        done = start(program, daemon, "--help", GARP_PYTHON=python)
        assert done.stdout.startswith(f"Usage: {name} {daemon}")
