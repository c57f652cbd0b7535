"""Fixtures and rules for all tests.

`GARP_AGENT_NO_SKIPS=1` (set by .ci/run) turns every skip into a failure with the reason of the
skip.  An expected failure (xfail) is not a skip.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from bench import lab

# Shells start background jobs with SIGINT ignored, and children inherit that; tests send SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine may take any time for one example.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

PACKAGING = Path(__file__).with_name("packaging")
VM = Path(__file__).with_name("vm")
NO_SKIPS = os.environ.get("GARP_AGENT_NO_SKIPS", "") not in ("", "0")
WITH_XEN = os.environ.get("GARP_AGENT_XEN", "") not in ("", "0")
WITH_PACKAGES = os.environ.get("GARP_AGENT_PACKAGES", "") not in ("", "0")


def pytest_sessionstart() -> None:
    """Remove the namespaces of earlier runs that were killed; not in each worker."""
    if "PYTEST_XDIST_WORKER" not in os.environ and not lab.why_not():
        lab.remove_leftovers()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say that tests were left out, and how to run them; workers of xdist cannot say it."""
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not WITH_PACKAGES and any(PACKAGING.is_relative_to(path) for path in asked):
        terminalreporter.write_line("left out: the slow tests of packages (make test-packages)")
    if not WITH_XEN and any(VM.is_relative_to(path) for path in asked):
        terminalreporter.write_line("left out: more tests of Xen (make test-xen)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """Turn a skip into a failure if GARP_AGENT_NO_SKIPS is set."""
    report = (yield).get_result()
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (GARP_AGENT_NO_SKIPS is set: nothing may be skipped)"


pytest_make_collect_report = pytest_runtest_makereport


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose name leaves enough of the 107 bytes of a socket's path, unix(7)."""
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def labs() -> None:
    """Skip with the reason where no network namespace can be made."""
    if reason := lab.why_not():
        pytest.skip(reason)


@pytest.fixture
def tiny_lab(labs: None) -> Iterator[lab.TinyLab]:
    """guest eth0 -- eth0 peer"""
    with lab.TinyLab() as tiny:
        yield tiny


@pytest.fixture
def tiny_lab6(labs: None) -> Iterator[lab.TinyLab]:
    """guest eth0 -- eth0 peer, with IPv6"""
    with lab.TinyLab(ipv6=True) as tiny:
        yield tiny
