"""The fault this project is about, on a real bond, and what repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm import fabric
from tests.vm.agent import Agent
from tests.vm.hypervisor import MONITOR, Site, Watcher
from tests.vm.pump import PUMP

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A hypervisor and a guest for all the tests here."""
    if reason := fabric.missing():
        pytest.skip(reason)
    made = Site()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _mended(site: Site) -> None:
    """Before each test both uplinks work and the switches know where the guest is."""
    for uplink in "ab":
        site.mend(uplink)
    site.guest_sends()
    site.wait_until_reached()


def test_a_silent_guest_is_lost_until_it_sends(site: Site) -> None:
    site.fail_over()
    pings = [site.ping() for _ in range(5)]
    site.guest_sends()
    assert site.lost(pings) == pings


def test_a_guest_that_sends_anyway_is_not_lost(site: Site) -> None:
    site.fail_over()
    site.guest_sends()
    pings = [site.ping() for _ in range(5)]
    assert site.lost(pings) == []


def test_a_silent_guest_is_lost_on_the_way_back_too(site: Site) -> None:
    first = site.fail_over()
    site.guest_sends()
    site.mend("ab".replace(first, ""))
    site.fail_over()
    pings = [site.ping() for _ in range(5)]
    site.guest_sends()
    assert site.lost(pings) == pings


def test_announce_self_repairs_it(site: Site) -> None:
    site.fail_over()
    site.guest.qmp("announce-self", initial=50, max=100, rounds=1, step=50)
    site.wait_until_reached()


def test_the_agents_refresh_repairs_it(site: Site) -> None:
    agent = Agent(site.guest, interval="500ms").ready()
    site.fail_over()
    site.wait_until_reached()
    agent.stop()


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    """An agent whose refresh is far away: what it sends was asked for."""
    started = Agent(site.guest).ready()
    yield started
    started.stop()


@pytest.fixture
def watcher(site: Site, agent: Agent) -> Iterator[Watcher]:
    """``garp-hint watch``, which has found the guest and given it its promise."""
    started = Watcher(site.hypervisor)
    started.wait_for_guest()
    agent.wait_until(lambda status: status["lease"], "the promise of hints")
    yield started
    started.stop()
    agent.wait_until(lambda status: status["lease"] is None, "the promise taken back")


def hints(status: dict[str, Any]) -> int:
    """How many frames the agent has sent because of hints."""
    frames: int = status["frames"]["by_cause"].get("hint", 0)
    return frames


def wait_for_a_hint(agent: Agent, before: int) -> None:
    """Returns when it has sent more than so many frames because of hints."""
    agent.wait_until(lambda status: hints(status) > before, "a hint")


def test_a_hint_repairs_it(site: Site, agent: Agent, watcher: Watcher) -> None:
    for _ in range(2):  # and on the way back
        before = hints(agent.settled())
        now = site.fail_over()
        site.wait_until_reached()
        wait_for_a_hint(agent, before)
        site.mend("ab".replace(now, ""))
    PUMP.wait_for(
        lambda: [entry["answered"] for entry in watcher.history()] == [1, 1],
        "two answers",
        step=0.1,
    )


def test_a_hint_comes_when_the_first_uplink_is_back(
    site: Site, agent: Agent, watcher: Watcher
) -> None:
    """With both uplinks gone there is nothing to announce on: the hint waits for one."""
    other = "ab".replace(site.active, "")
    site.cut("a")
    site.cut("b")
    site.wait_for_carrier(up=False)
    lost = [site.ping() for _ in range(3)]
    before = hints(agent.settled())
    site.mend(other)  # whose switch has the guest behind the other one
    site.wait_until_reached()
    wait_for_a_hint(agent, before)
    assert site.lost(lost) == lost


def test_a_guest_without_agent_is_announced_by_qemu(site: Site) -> None:
    watcher = Watcher(site.hypervisor, "--announce-self", "--monitor", MONITOR, "--timeout", "0.2")
    watcher.wait_for_guest()
    site.fail_over()
    site.wait_until_reached()
    watcher.stop()


def test_no_promise_waits_for_an_agent_that_comes_later(site: Site) -> None:
    watcher = Watcher(site.hypervisor, "--timeout", "0.2")
    watcher.wait_for_guest()
    PUMP.wait_for(
        lambda: watcher.status()["guests"][0]["state"] == "no-agent", "its silence", step=0.1
    )
    watcher.stop()
    agent = Agent(site.guest).started()
    status = agent.wait_until(lambda status: status["hint_port"]["requests"], "what has waited")
    assert status["lease"] is None
    agent.stop()


def test_list_and_send_reach_the_guest(site: Site, agent: Agent) -> None:
    listed = site.hypervisor.check("python3", "-m", "garp_agent.hypervisor", "list")
    assert "guest" in listed
    assert "answered" in listed
    before = hints(agent.settled())
    site.hypervisor.check("python3", "-m", "garp_agent.hypervisor", "send", "--guest", "guest")
    assert hints(agent.status()) > before  # the frames come before the reply
