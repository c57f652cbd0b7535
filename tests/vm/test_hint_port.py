"""The agent at a real virtio-serial port, in every state that a host can bring it into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.agent import Agent
from tests.vm.conftest import ANNOUNCED
from tests.vm.qemu import QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.sockets import LineSocket

AWAY, CONNECTED = "open, host not connected", "open, host connected"
ONE_ROUND = {"execute": "burst", "arguments": {"count": 1}}
INFO = {"execute": "info"}


@pytest.fixture(scope="module")
def agent(guest: QemuMachine) -> Iterator[Agent]:
    """An agent with no refresh near, so that every frame has its cause in the test."""
    with Agent(guest) as started:
        started.wait_until_quiet()
        yield started


@pytest.fixture
def host(guest: QemuMachine, agent: Agent) -> Iterator[LineSocket]:
    """A host that is connected."""
    guest.cables["net0"].clear()
    with guest.hint() as connected:
        agent.wait_for_port(CONNECTED)
        yield connected


def assert_hint_sends_one_frame(guest: QemuMachine, agent: Agent) -> None:
    """A request comes through, and one frame of the agent reaches the cable."""
    guest.cables["net0"].clear()
    with guest.hint() as host:
        assert host.ask(ONE_ROUND)["frames"] == 1
    guest.cables["net0"].wait_for_agent(ANNOUNCED)
    agent.wait_for_port(AWAY)


def send_half_a_request(host: LineSocket, agent: Agent) -> None:
    """Send half a line; wait until the agent has read it."""
    before = agent.effort().wakeups
    host.send(b'{"execute": "burst", "argu')
    wait_for(lambda: agent.effort().wakeups > before, "half a line read", step=0.02)


def test_agent_is_idle_before_during_and_after_a_connection(
    guest: QemuMachine, agent: Agent
) -> None:
    before = agent.wait_for_port(AWAY)["frames"]["sent"]
    agent.assert_idle()
    with guest.hint():
        agent.wait_for_port(CONNECTED)
        agent.assert_idle()
    agent.wait_for_port(AWAY)
    agent.assert_idle()
    assert agent.status()["frames"]["sent"] == before


def test_hint_is_answered_and_causes_one_frame(
    guest: QemuMachine, agent: Agent, host: LineSocket
) -> None:
    before = agent.status()
    assert host.ask(ONE_ROUND)["frames"] == 1
    guest.cables["net0"].wait_for_agent(ANNOUNCED)
    after = agent.status()
    hints = [status["frames"]["by_cause"].get("hint", 0) for status in (before, after)]
    requests = [status["hint_port"]["requests"] for status in (before, after)]
    assert (hints[1], requests[1]) == (hints[0] + 1, requests[0] + 1)
    agent.assert_idle()
    assert guest.cables["net0"].announcements(padded=True) == [ANNOUNCED]
    assert guest.cables["net0"].announcements(padded=False) == []


def test_host_after_one_that_left_in_mid_line_is_heard(
    guest: QemuMachine, agent: Agent, host: LineSocket
) -> None:
    errors = agent.status()["hint_port"]["errors"]
    send_half_a_request(host, agent)
    host.close()
    agent.wait_for_port(AWAY)
    assert_hint_sends_one_frame(guest, agent)
    assert agent.status()["hint_port"]["errors"] == errors


@pytest.mark.parametrize("end", ["close", "half_close"])
def test_hint_before_the_host_closes_counts(
    guest: QemuMachine, agent: Agent, host: LineSocket, end: str
) -> None:
    host.send_json(ONE_ROUND)
    getattr(host, end)()
    guest.cables["net0"].wait_for_agent(ANNOUNCED)
    agent.wait_for_port(AWAY)
    agent.assert_idle()


def test_host_that_never_reads_makes_the_agent_neither_wait_nor_spin(
    guest: QemuMachine, agent: Agent, host: LineSocket
) -> None:
    """Replies are lost once the port is full."""
    host.stop_reading()
    before = agent.status()["hint_port"]["requests"]
    for _ in range(400):
        host.send(b'{"execute": "info"}\n' * 10)
    agent.wait_until(
        lambda status: status["hint_port"]["requests"] == before + 4000, "4000 requests"
    )
    agent.assert_idle()
    host.close()
    agent.wait_for_port(AWAY)
    assert_hint_sends_one_frame(guest, agent)


def test_every_host_is_answered_by_a_busy_guest(guest: QemuMachine, agent: Agent) -> None:
    """A busy guest may read a new host's bytes before it hears of the connect."""
    busy = guest.spawn("sh", "-c", "while :; do :; done")
    for _ in range(30):
        with guest.hint() as host:
            host.ask(INFO)
        agent.wait_for_port(AWAY)
    busy.kill()


def test_agent_wakes_up_once_for_connect_request_and_disconnect(
    guest: QemuMachine, agent: Agent
) -> None:
    rounds = 20
    agent.status()
    before = agent.effort()
    for _ in range(rounds):
        with guest.hint() as host:
            host.ask(INFO)
    after = agent.effort()
    assert after.wakeups - before.wakeups <= 3 * rounds
    agent.wait_for_port(AWAY)
