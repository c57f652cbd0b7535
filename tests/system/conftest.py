"""Labs for those of these tests that need real interfaces; skipped with the reason elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import lab


@pytest.fixture(scope="session")
def labs() -> None:
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
