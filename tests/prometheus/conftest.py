"""Prometheus' own programs; tests are skipped with the reason where they are not installed."""

from __future__ import annotations

import shutil

import pytest


def need(program: str) -> str:
    """Return the path of a program; its Debian package has its name, but promtool's has not."""
    found = shutil.which(program)
    if not found:
        package = program.replace("promtool", "prometheus")
        pytest.skip(f"needs `{program}` (Debian package {package})")
    return found
