"""What `make` and CI run: nothing is left out unseen, and a fresh clone is enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import HEAVY, HERE, WHY_NOT
from tests.packaging.support import ROOT, need, run

QUICK = "test_the_schema_takes_it"  # one of the heavy tests, one for each snippet


def outcome(**environment: str) -> str:
    """What pytest says of a heavy test."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", QUICK]
    done = subprocess.run(
        [*command, str(HERE / "test_cloud_init.py")],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nowhere", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("wanted", ["", "0"])
@pytest.mark.parametrize("no_skips", ["", "1"])
def test_a_heavy_test_that_is_not_wanted_says_so(wanted: str, no_skips: str) -> None:
    said = outcome(GARP_AGENT_PACKAGES=wanted, GARP_AGENT_NO_SKIPS=no_skips)
    assert re.search(rf"^left out: \d+ tests of packages, which {WHY_NOT}$", said, re.M)
    assert "skipped" not in said
    assert "failed" not in said


def test_a_heavy_test_that_is_wanted_runs() -> None:
    assert WHY_NOT not in outcome(GARP_AGENT_PACKAGES="1", GARP_AGENT_NO_SKIPS="")


def test_the_heavy_ones_are_there() -> None:
    assert {name for name in HEAVY if (HERE / name).exists()} == HEAVY


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone's files, as far as they are looked at."""
    for name in (".ci", "agent", "docs", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def replace(program: Path, script: str) -> None:
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_ci_lets_nothing_be_skipped(clone: Path) -> None:
    replace(clone / "bin" / "make", 'echo "make $* ${GARP_AGENT_NO_SKIPS:-0}"')
    environment = {"PATH": f"{clone}/bin:{os.environ['PATH']}", "GARP_AGENT_NO_SKIPS": ""}
    said = run(clone / ".ci" / "run", env=environment)
    assert said.splitlines() == ["make lint 1", "make test 1"]


def test_man_sets_up_what_it_needs(clone: Path) -> None:
    make = need("make", "make")
    assert "main_venv" in (clone / "tools" / "setup.sh").read_text()
    venv = f'mkdir -p .venv/bin; ln -s {sys.executable} .venv/bin/python; echo "setup $*"'
    replace(clone / "tools" / "setup.sh", venv)
    said = run(make, "--no-print-directory", "man", cwd=clone, env={"MAKEFLAGS": ""})
    assert said.startswith("setup python\n")
    assert (clone / "build" / "man" / "garp-agent.8").read_text().startswith('.TH "GARP-AGENT"')


def test_help_names_every_target() -> None:
    make = need("make", "make")
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    said = run(make, "--no-print-directory", "help", cwd=ROOT, env={"MAKEFLAGS": ""})
    named = re.findall(r"^make ([a-z-]+)  ", said, re.MULTILINE)
    assert sorted(named) == sorted(set(targets) - {"help"})
