"""Fixtures for the tests with virtual machines; why they are skipped, if they are."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WITH_XEN
from tests.vm import debian, fabric, images, machine
from tests.vm.frames import Announcement
from tests.vm.qemu import Card, QemuMachine
from tests.vm.testbed import BondTestbed, Testbed

HERE = Path(__file__).parent
MAC, ADDRESS = "52:54:00:00:00:01", "192.0.2.1"
CARD = Card("net0", MAC)
ANNOUNCED = Announcement("arp-request", MAC, ADDRESS)
# IPv6 off, so that the address is the only one.
ONE_ADDRESS = f"""
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip addr add {ADDRESS}/24 dev eth0
ip link set eth0 up
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; skip them where no guest can run.

    Leave out those of `make test-xen` otherwise.
    """
    left_out = [item for item in items if item.get_closest_marker("by_command") and not WITH_XEN]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    reason = images.missing_tool()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the consoles of the running machines with a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and HERE in item.path.parents:
        for running in machine.RUNNING:
            report.sections.append((f"console of {running.name}", running.console))


@pytest.fixture(scope="session", autouse=True)
def _images() -> None:
    """Skip where no image can be built, for example without a network."""
    try:
        images.write_initramfs(Path(os.devnull))
    except debian.ImageError as error:
        pytest.skip(f"no image can be built: {error}")


@pytest.fixture(scope="session")
def guest() -> Iterator[QemuMachine]:
    """One guest for many tests: a hint port, and a card with ADDRESS only."""
    with QemuMachine(cards=[CARD]) as booted:
        booted.shell(ONE_ADDRESS)
        yield booted


@pytest.fixture(scope="module")
def shared_testbed(request: pytest.FixtureRequest) -> Iterator[BondTestbed]:
    """One testbed for the tests of a module: of its class TESTBED if it has one, else Testbed."""
    if reason := fabric.missing():
        pytest.skip(reason)
    with getattr(request.module, "TESTBED", Testbed)() as made:
        yield made


@pytest.fixture
def testbed(shared_testbed: BondTestbed) -> BondTestbed:
    """Hypervisor and guest; both uplinks work, and the switches know where the guest is."""
    for uplink in "ab":
        shared_testbed.mend(uplink)
    shared_testbed.guest_sends()
    shared_testbed.wait_until_reached()
    return shared_testbed
