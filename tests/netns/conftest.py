"""Labs for the tests that need real interfaces; skipped with the reason where none can be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import lab
from bench.lab import GUEST_ADDRESS, GUEST_ADDRESS6
from tests.netns.agent import OTHER_MAC, Capture, Site, forget_link_local

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture
def site(tiny_lab: lab.TinyLab, tmp_path: Path) -> Iterator[Site]:
    """guest eth0 -- eth0 peer"""
    with Capture(tiny_lab) as wire:
        yield Site(tiny_lab, wire, tmp_path)


@pytest.fixture
def site6(tiny_lab6: lab.TinyLab, tmp_path: Path) -> Iterator[Site]:
    """guest eth0 -- eth0 peer, with IPv6 but without link-local addresses"""
    forget_link_local(tiny_lab6)
    with Capture(tiny_lab6) as wire:
        yield Site(tiny_lab6, wire, tmp_path)


@pytest.fixture
def site2(site: Site) -> Site:
    """guest eth0, eth1 -- eth0, eth1 peer; guest eth1 has 198.51.100.10"""
    site.lab.wire(("guest", "eth1", "peer", "eth1"))
    site.lab.host("guest", "eth1", OTHER_MAC, "198.51.100.10/24")
    site.lab.host("peer", "eth1", "02:00:5e:00:53:21")
    site.lab.wait_until_up("guest", "peer")
    return site


@pytest.fixture
def bridged(labs: None, tmp_path: Path) -> Iterator[Site]:
    """guest eth0 -- switch -- eth0 peer"""
    with lab.TinyLab(bridged=True) as tiny, Capture(tiny) as wire:
        yield Site(tiny, wire, tmp_path)


@pytest.fixture(params=[GUEST_ADDRESS, GUEST_ADDRESS6], ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)
