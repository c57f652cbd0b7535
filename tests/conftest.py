"""For all tests: nothing is there that an earlier, killed run left, and where everything can
run, nothing may be skipped.

GARP_AGENT_NO_SKIPS=1 (set by .ci/run) turns every skip into a failure that gives
the skip's reason.  An expected failure (xfail) is no skip.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import lab

# A shell starts what runs in its background deaf to SIGINT, and that is inherited; tests
# interrupt what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

LEFT_OUT = pytest.StashKey[str]()
NO_SKIPS = os.environ.get("GARP_AGENT_NO_SKIPS", "") not in ("", "0")


def pytest_sessionstart() -> None:
    """Once for all workers: what one of them leaves is another's to find."""
    if "PYTEST_XDIST_WORKER" not in os.environ and not lab.why_not():
        lab.remove_leftovers()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the one who writes the summary what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, "")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The end of a worker; all have collected the same, and one that crashed says nothing."""
    if left_out := getattr(node, "workeroutput", {}).get("left out", ""):
        node.config.stash[LEFT_OUT] = left_out


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which tests were left out, and how to run them."""
    if left_out := config.stash.get(LEFT_OUT, ""):
        terminalreporter.write_line(f"left out: {left_out}")


def _refuse_skip(report: Any) -> None:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (GARP_AGENT_NO_SKIPS is set: nothing may be skipped)"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose name leaves room for a socket's 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def labs() -> None:
    """Skip with the reason where no network namespace can be made."""
    reason = lab.why_not()
    if reason:
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
