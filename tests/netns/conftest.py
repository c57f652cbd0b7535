"""Labs for the tests that need real interfaces; skipped with the reason where none can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture
def bridged_lab(labs: None) -> Iterator[lab.TinyLab]:
    """guest eth0 -- switch -- eth0 peer"""
    with lab.TinyLab(bridged=True) as tiny:
        yield tiny


@pytest.fixture(params=list(lab.Wiring), ids=lambda wiring: wiring.value)
def failover_lab(labs: None, request: pytest.FixtureRequest) -> Iterator[lab.FailoverLab]:
    """The fault, in each of the two places where the stale entry can be."""
    with lab.FailoverLab(request.param) as made:
        yield made


@pytest.fixture(scope="session")
def arping() -> str:
    """iputils' arping, which sends the gratuitous ARP of another machine."""
    if reason := lab.why_no_arping():
        pytest.skip(reason)
    return "arping"
