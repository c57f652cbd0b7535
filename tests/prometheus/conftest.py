"""Tests with Prometheus' own programs; skipped with the reason where they are missing."""

from __future__ import annotations

import shutil

import pytest

PROGRAMS = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
}


@pytest.fixture(scope="session")
def promtool() -> str:
    return need("promtool")


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"needs `{program}` (Debian package {PROGRAMS[program]})")
    return found
