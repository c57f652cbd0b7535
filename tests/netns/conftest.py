"""Labs for the tests that need real interfaces; skipped with the reason where none can be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab
from tests.netns.agent import OTHER_MAC, Capture, forget_link_local

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture
def wire(tiny_lab: lab.TinyLab) -> Iterator[Capture]:
    """What arrives at the peer of `tiny_lab`."""
    with Capture(tiny_lab) as capture:
        yield capture


@pytest.fixture
def lab6(tiny_lab6: lab.TinyLab) -> lab.TinyLab:
    """guest eth0 -- eth0 peer, with IPv6 but without link-local addresses."""
    forget_link_local(tiny_lab6)
    return tiny_lab6


@pytest.fixture
def wire6(lab6: lab.TinyLab) -> Iterator[Capture]:
    """What arrives at the peer of `lab6`."""
    with Capture(lab6) as capture:
        yield capture


@pytest.fixture
def two_links(tiny_lab: lab.TinyLab) -> lab.TinyLab:
    """guest eth0, eth1 -- eth0, eth1 peer; guest eth1 has 198.51.100.10."""
    tiny_lab.wire(("guest", "eth1", "peer", "eth1"))
    tiny_lab.host("guest", "eth1", OTHER_MAC, "198.51.100.10/24")
    tiny_lab.host("peer", "eth1", "02:00:5e:00:53:21")
    tiny_lab.wait_until_up("guest", "peer")
    return tiny_lab


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
