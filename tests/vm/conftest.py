"""Guests for the tests: booted once where tests can share them, ended whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm import images, machine
from tests.vm.machine import Card, Machine

HERE = Path(__file__).parent
MAC = "52:54:00:00:00:01"
CARD = Card("net0", MAC)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder, and skips them where no guest can be run."""
    reason = images.missing_tool()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Shows the consoles of the running guests with a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and HERE in item.path.parents:
        for guest in machine.LIVE:
            report.sections.append((f"console of {guest.name}", guest.console))


@pytest.fixture(scope="session", autouse=True)
def _images_and_end() -> Iterator[None]:
    """Skips where no image can be built (no network, say); ends what a test left running."""
    try:
        images.boot_archives()
    except images.ImageError as error:
        pytest.skip(f"no image can be built: {error}")
    yield
    machine.stop_all()


@pytest.fixture(autouse=True)
def _hung_up() -> Iterator[None]:
    """No test leaves a host connected: the next one's would wait behind it."""
    yield
    for guest in machine.LIVE:
        guest.hang_up()


@pytest.fixture
def boot() -> Iterator[Callable[..., Machine]]:
    """Boots guests of a test's own, with :class:`Machine`'s arguments."""
    booted: list[Machine] = []

    def boot_one(**arguments: object) -> Machine:
        guest = Machine(**{"cards": [CARD], **arguments})  # type: ignore[arg-type]
        booted.append(guest)
        return guest

    yield boot_one
    for guest in booted:
        guest.stop()


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    """One guest for all the tests of a module: a card ``net0`` and a hint port."""
    with Machine(cards=[CARD]) as booted:
        yield booted
