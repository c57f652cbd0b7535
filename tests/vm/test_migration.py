"""A guest that moves to another QEMU while a host is talking to its agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.agent import Agent
from tests.vm.conftest import ANNOUNCED, CARD, ONE_ADDRESS
from tests.vm.qemu import QemuMachine
from tests.vm.test_hint_port import AWAY, CONNECTED, ONE_ROUND, send_half_a_request


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Agent]:
    """The state of a guest whose agent holds a lease and has read half a request."""
    state = tmp_path_factory.mktemp("saved") / "state"
    with QemuMachine("source", cards=[CARD]) as source:
        source.shell(ONE_ADDRESS)
        agent = Agent(source)
        agent.wait_until_quiet()
        with source.hint() as host:
            lease = {"execute": "lease", "arguments": {"seconds": 600}}
            assert host.ask(lease)["seconds"] == 600
            send_half_a_request(host, agent)
            source.save(state)
    return state, agent


@pytest.fixture
def destination(saved: tuple[Path, Agent]) -> Iterator[QemuMachine]:
    """The guest in another QEMU, not resumed yet."""
    state, agent = saved
    with QemuMachine("destination", cards=[CARD], restore_from=state) as guest:
        agent.machine = agent.process.machine = guest
        yield guest


def test_move_in_mid_line_ends_the_lease_and_is_announced(
    saved: tuple[Path, Agent], destination: QemuMachine
) -> None:
    _, agent = saved
    destination.resume()
    destination.cables["net0"].wait_for_agent(ANNOUNCED)
    status = agent.wait_for_port(AWAY)
    assert status["lease"] is None  # it was another host's promise
    assert status["frames"]["by_cause"]["notify-peers"] >= 1
    with destination.hint() as host:
        assert host.ask(ONE_ROUND)["frames"] >= 1
    assert agent.status()["hint_port"]["errors"] == 0
    agent.assert_idle()


def test_move_to_a_host_that_sends_at_once_keeps_the_hosts_apart(
    saved: tuple[Path, Agent], destination: QemuMachine
) -> None:
    """The guest may see no boundary between the two hosts; the byte 0xFF is one."""
    _, agent = saved
    with destination.hint() as host:
        host.send(b"\xff")
        host.send_json(ONE_ROUND)
        destination.resume()
        assert host.next_reply()["return"]["frames"] >= 1
        assert agent.wait_for_port(CONNECTED)["hint_port"]["errors"] == 0
