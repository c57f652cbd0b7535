"""Finders that are closed at the end of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from garp_agent.hypervisor.io.channels import Finder


@pytest.fixture
def new_finder() -> Iterator[Callable[..., Finder]]:
    """Make finders, and close them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **named: stack.enter_context(
            contextlib.closing(Finder(*given, **named))
        )
