"""The single file: on each interpreter of this machine, with nothing installed, and lean."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import build_pyz
from bench.lab import GUEST_ADDRESS, TinyLab
from tests.packaging.support import ROOT, run

INTERPRETERS = dict(build_pyz.interpreters())  # in the order of their versions
OLDEST, *_, NEWEST = INTERPRETERS.values()
PYTHON_2 = list(Path.home().glob(".pyenv/versions/2.*/bin/python2.7"))
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


IMPORT_ALL = """
import importlib, sys, zipfile
sys.path[:0] = [sys.argv[1] + "/" + folder for folder in (sys.implementation.cache_tag, "source")]
names = zipfile.ZipFile(sys.argv[1]).namelist()
modules = [name[7:-3].replace("/", ".") for name in names if name.startswith("source/garp_agent/")
           and name.endswith(".py")]
for module in modules:
    importlib.import_module(module)
print(len(modules) > 100)
"""


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS)
def test_each_module_can_be_imported_on_each_python(pyz: Path, python: str) -> None:
    assert run(python, "-IS", "-c", IMPORT_ALL, pyz) == "True\n"


def test_nothing_of_the_current_folder_or_pythonpath_is_imported(pyz: Path, tmp_path: Path) -> None:
    for name in ("sitecustomize", "usercustomize", "json", "re", "select", "garp_agent"):
        (tmp_path / f"{name}.py").write_text(f'raise SystemExit("{name} of the folder")\n')
    for python in OLDEST, NEWEST:
        environment = {"GARP_PYTHON": python, "PYTHONPATH": str(tmp_path)}
        for words in (["--version"], ["run", "--help"]):
            said = run(pyz, *words, env=environment, cwd=tmp_path)
            assert said.startswith((VERSION, "Usage: garp-agent"))


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


# The interpreters that can build, and one whose compiled code shows the order of a constant set.
BUILDERS = [path for tag, path in INTERPRETERS.items() if int(tag.partition("-3")[2]) >= 9]
BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/tools")
import build_pyz
build_pyz.build(Path(sys.argv[2]), [(sys.argv[3], sys.argv[4])])
"""


def test_builds_of_one_tree_are_identical_whoever_builds_where(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for part in ("agent/garp_agent", "contrib", "tools"):
        shutil.copytree(ROOT / part, elsewhere / part)
    build_pyz.build(tmp_path / "any", [])  # the wheels are in the cache now
    for wheels in (ROOT / ".cache").glob("pyz-*[0-9a-f]"):
        shutil.copytree(wheels, elsewhere / ".cache" / wheels.name)
    compiled = next(iter(INTERPRETERS.items()))
    for name, python, tree, umask, zone in (
        ("one", BUILDERS[0], ROOT, "022", "UTC"),
        ("two", BUILDERS[-1], elsewhere, "077", "Asia/Tokyo"),
    ):
        command = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", python, "-c", BUILD]
        environment = {"TZ": zone, "PYTHONHASHSEED": str(len(zone))}
        run(*command, tree, tmp_path / name, *compiled, env=environment, cwd=tmp_path)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "sources", [build_pyz.VENDORED, [build_pyz.OLD_SOURCE]], ids=["two", "one"]
)
def test_file_runs_on_pythons_that_it_is_not_compiled_for(
    tmp_path: Path, sources: Sequence[str]
) -> None:
    build_pyz.build(tmp_path / "garp-agent.pyz", [], list(sources))
    for python in OLDEST, NEWEST:
        said = run(python, "-W", "error", "-I", tmp_path / "garp-agent.pyz", "--version")
        assert said == VERSION


# Stands for an interpreter that differs from this one by what `@` does.
ANOTHER = """#!{python}
import sys
at = sys.argv.index("-c")
code = sys.argv[at + 1]
sys.argv[: at + 2] = ["-c"]
{change}
exec(code)
"""
OLD = 'sys.version_info, sys.version = (3, 5, 3), "3.5.3 (old)"'
WITHOUT = "sys.modules['{module}'] = None"


def another_python(folder: Path, name: str, change: str) -> Path:
    """Write a program that starts this interpreter after a change."""
    path = folder / name
    path.write_text(ANOTHER.format(python=sys.executable, change=change))
    path.chmod(0o755)
    return path


def test_old_or_missing_python_is_refused(pyz: Path, tmp_path: Path) -> None:
    another_python(tmp_path, "python3", OLD)
    another_python(tmp_path, "python3.10", "sys.exit(1)")  # does not work
    newer = another_python(tmp_path, "python3.9", "")
    newer.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert start(pyz, "--version", PATH=f"{tmp_path}:/bin").stdout == VERSION
    newer.unlink()
    done = start(pyz, "run", PATH=str(tmp_path))
    assert done.returncode == 127
    assert done.stderr.startswith("garp-agent: needs Python 3.6 or newer, and this is Python 3.5.3")
    assert done.stderr.count("\n") == 1
    for name in ("python3", "python3.10"):
        (tmp_path / name).unlink()
    said = run("env", "-i", f"PATH={tmp_path}", "/bin/sh", pyz, "run", accept=(127,))
    assert "needs Python 3.6 or newer" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("python", PYTHON_2, ids=str)
def test_python_2_is_refused_in_one_line(pyz: Path, python: Path) -> None:
    for program in Path("/bin/sh"), python:
        nothing_else = {"PATH": "/var/empty", "GARP_PYTHON": str(python)}
        said = run(program, pyz, "run", env=nothing_else, accept=(127,))
        assert said.startswith("garp-agent: needs Python 3.6 or newer, and this is Python 2.7")
        assert said.count("\n") == 1


def test_python_of_the_platform_is_found(pyz: Path, labs: None) -> None:
    """RHEL 8 has /usr/libexec/platform-python where nobody has installed a Python."""
    mounts = f"mount -t tmpfs none /usr/libexec && ln -s {OLDEST} /usr/libexec/platform-python"
    run_there = f'{mounts} && PATH=/nowhere exec "$@"'
    assert run("unshare", "--mount", "sh", "-ec", run_there, "sh", pyz, "--version") == VERSION


def test_python_without_a_module_is_refused_in_one_line(pyz: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("interval: 5s\n")
    hint = tmp_path / "garp-hint"
    hint.symlink_to(pyz)
    run_with_config = ("run", "--dry-run", "--control-socket", "none", "-c", str(config))
    for module, program, command, status in (
        ("json", pyz, ("--version",), 127),
        ("select", pyz, ("run", "--dry-run", "--control-socket", "none"), 127),
        ("datetime", pyz, run_with_config, 78),  # yaml imports it, in a child
        ("json", hint, ("list",), 127),
        ("json", hint, ("watch", "--status-socket", "none"), 1),  # in a child, too
    ):
        python = another_python(tmp_path, "python3", WITHOUT.format(module=module))
        done = start(program, *command, GARP_PYTHON=str(python))
        assert done.returncode == status
        assert module in done.stderr
        assert done.stderr.count("\n") == 1


def test_site_packages_are_there_for_diagnosis_and_not_for_the_daemons(
    pyz: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site_packages,) = tmp_path.glob("venv/lib/python*/site-packages")
    (site_packages / "sitecustomize.py").write_text('print("site-packages looked through")\n')
    (site_packages / "netifaces.py").write_text('raise SystemExit("netifaces found")\n')
    python = str(tmp_path / "venv" / "bin" / "python")
    done = start(pyz, "doctor", "--no-send", GARP_PYTHON=python)
    assert done.stdout.startswith("site-packages looked through\n")
    assert done.stderr == "netifaces found\n"
    hint = tmp_path / "garp-hint"  # the hypervisor's program is the same file by another name
    hint.symlink_to(pyz)
    for program, name, daemon in ((pyz, "garp-agent", "run"), (hint, "garp-hint", "watch")):
        done = start(program, daemon, "--help", GARP_PYTHON=python)
        assert done.stdout.startswith(f"Usage: {name} {daemon}")
