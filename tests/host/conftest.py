"""What every test of the hypervisor's end may need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory; pytest's own have names too long for a socket's 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        yield Path(directory)
