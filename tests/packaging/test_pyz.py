"""The single file: on every interpreter there is, with nothing installed, and lean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bench import lab as labs
from bench.lab import GUEST_ADDRESS, TinyLab
from tests.packaging.conftest import tool
from tests.packaging.support import ROOT, run

INTERPRETERS = dict(tool("build_pyz").interpreters())
PATIENCE = 30.0


@pytest.fixture(params=sorted(INTERPRETERS))
def python(request: pytest.FixtureRequest) -> str:
    return str(INTERPRETERS[request.param])


def start(pyz: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the file as a user would, with nothing else in the environment."""
    return subprocess.run(
        [pyz, *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_with_nothing_installed(pyz: Path, python: str, tmp_path: Path) -> None:
    done = start(pyz, "--version", GARP_PYTHON=python)
    version = (ROOT / "agent/garp_agent/__init__.py").read_text().split('"')[-2]
    assert (done.stdout, done.stderr) == (f"garp-agent, version {version}\n", "")
    listed = json.loads(start(pyz, "list", "--json", GARP_PYTHON=python).stdout)
    assert "lo" in json.dumps(listed)
    bad = tmp_path / "bad.yaml"
    bad.write_text("interval: never\n")
    done = start(pyz, "check", str(bad), GARP_PYTHON=python)
    assert done.returncode == 78
    assert f"{bad}:1: interval" in done.stderr


def test_it_is_an_archive_for_python_too(pyz: Path, python: str) -> None:
    done = subprocess.run(
        [python, "-IS", pyz, "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("garp-agent, version")


def test_the_same_tree_gives_the_same_bytes(build_pyz: ModuleType, tmp_path: Path) -> None:
    chosen = [(sys.implementation.cache_tag, sys.executable)]
    for name in ("one", "two"):
        build_pyz.build(tmp_path / name, chosen)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_interpreter_it_was_not_compiled_for(build_pyz: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "garp-agent.pyz"
    build_pyz.build(target, [])
    done = start(target, "--version", GARP_PYTHON=sys.executable)
    assert done.stdout.startswith("garp-agent, version")


def test_no_interpreter_at_all(pyz: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", pyz, "run"], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.returncode == 127
    assert b"needs Python 3.9 or newer" in done.stderr


OLD = """#!{python}
import sys
at = sys.argv.index("-c")
code = sys.argv[at + 1]
sys.argv[: at + 2] = ["-c"]
sys.version_info, sys.version = (3, 8, 18), "3.8.18 (old)"
exec(code)
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A PATH whose python3 says that it is 3.8."""
    program = tmp_path / "python3"
    program.write_text(OLD.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


def test_an_old_interpreter_is_refused_in_one_line(pyz: Path, old: Path) -> None:
    done = start(pyz, "run", PATH=str(old))
    assert done.returncode == 1
    assert done.stderr.startswith("garp-agent: needs Python 3.9 or newer")
    assert "3.8.18" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_newer_interpreter_is_found_beside_an_old_one(pyz: Path, old: Path) -> None:
    (old / "python3.10").write_text("#!/bin/sh\nexit 1\n")  # one that does not work
    (old / "python3.10").chmod(0o755)
    newer = old / "python3.9"
    newer.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    newer.chmod(0o755)
    done = start(pyz, "--version", PATH=f"{old}:/bin")
    assert done.stdout.startswith("garp-agent, version")


def test_the_hypervisors_end_by_its_name(pyz: Path, tmp_path: Path) -> None:
    pytest.importorskip("garp_agent.hypervisor.__main__")
    hint = tmp_path / "garp-hint"
    hint.symlink_to(pyz)
    done = start(hint, "--help", GARP_PYTHON=sys.executable)
    assert done.stdout.startswith("Usage: garp-hint")


@pytest.fixture
def with_scapy(tmp_path: Path) -> Path:
    """An interpreter with scapy and netifaces in its site-packages; they say what asks for them."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site_packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text('print("site-packages looked through")\n')
    for name in ("scapy", "netifaces"):
        (site_packages / f"{name}.py").write_text(f'raise SystemExit("{name} found")\n')
    return tmp_path / "venv" / "bin" / "python"


def test_what_diagnoses_finds_scapy_in_site_packages(
    pyz: Path, with_scapy: Path, tmp_path: Path
) -> None:
    capture = tmp_path / "capture"
    capture.touch()
    for command in (["watch", "--read", str(capture)], ["doctor", "--no-send"]):
        done = start(pyz, *command, GARP_PYTHON=str(with_scapy))
        assert done.stdout.startswith("site-packages looked through\n")
        assert done.stderr in ("scapy found\n", "netifaces found\n")


def test_the_daemons_do_not_look_through_site_packages(
    pyz: Path, with_scapy: Path, tmp_path: Path
) -> None:
    hint = tmp_path / "garp-hint"
    hint.symlink_to(pyz)
    for program, command in ((pyz, "run"), (hint, "watch")):
        done = start(program, command, "--help", GARP_PYTHON=str(with_scapy))
        assert done.stdout.startswith("Usage: garp-")


@pytest.mark.netns
def test_the_daemon_imports_compiled_code_from_the_archive_and_nothing_from_outside(
    pyz: Path, tmp_path: Path
) -> None:
    if reason := labs.why_not():
        pytest.skip(reason)
    verbose = tmp_path / "python"
    verbose.write_text(f'#!/bin/sh\nexec {sys.executable} -v "$@" 2>{tmp_path}/log\n')
    verbose.chmod(0o755)
    with TinyLab() as lab, lab.packet_socket("peer", "eth0", 0x0806) as ear:
        ear.settimeout(PATIENCE)
        environment = {**os.environ, "GARP_PYTHON": str(verbose)}
        agent = lab.start("guest", [str(pyz), "run", "--dry-run"], env=environment)
        end = time.monotonic() + PATIENCE
        path = tmp_path / "log"
        path.touch()
        while GUEST_ADDRESS not in (log := path.read_text(errors="replace")):
            assert time.monotonic() < end, log[-2000:]
            time.sleep(0.05)
        lab.stop(agent)
    imported = [line for line in log.splitlines() if line.startswith("import ")]
    ours = [line for line in imported if "'garp_agent." in line]
    assert len(ours) > 10
    assert all(f"/{sys.implementation.cache_tag}" in line for line in ours)
    names = {line.split()[1].strip("'").partition(".")[0] for line in imported}
    assert not names & {"site", "click", "yaml", "re", "typing", "json", "logging"}
    # "zlib" would mean that something of this was compressed.
    assert "zlib" not in names


@pytest.mark.netns
def test_frames_come_out_of_it(pyz: Path, python: str) -> None:
    if reason := labs.why_not():
        pytest.skip(reason)
    with TinyLab() as lab, lab.packet_socket("peer", "eth0", 0x0806) as ear:
        ear.settimeout(PATIENCE)
        environment = {**os.environ, "GARP_PYTHON": python}
        lab.start("guest", [str(pyz), "run", "--control-socket", "none"], env=environment)
        frame = ear.recv(2048)
    assert frame[28:32] == frame[38:42] == bytes(map(int, GUEST_ADDRESS.split(".")))
