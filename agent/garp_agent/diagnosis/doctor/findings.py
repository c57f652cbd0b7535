"""What a check returns: a finding with its level, what was found and what to do.

Does not look at anything; ``run`` prints findings.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  # not checked


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    level: Level
    found: str
    advice: str = ""  # what to do


def ok(check: str, found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Return a finding that the operator should look at; announcements still go out."""
    return Finding(check, Level.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(check, Level.FAIL, found, advice)


def skip(check: str, why: str) -> Finding:
    """Return the reason why a check was not made."""
    return Finding(check, Level.SKIP, f"not checked: {why}")


def failed(findings: list[Finding]) -> bool:
    """Return whether anything does not work."""
    return any(finding.level is Level.FAIL for finding in findings)


# -- words for findings -----------------------------------------------------------------


def counts(numbers: dict[str, int]) -> str:
    """Return ``3 ENETDOWN, 1 ENOBUFS`` for counts by name."""
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits its size."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
