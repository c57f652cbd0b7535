"""A guest that moves to another QEMU while a host is talking to its agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.vm.agent import Agent
from tests.vm.conftest import MAC
from tests.vm.machine import Machine
from tests.vm.pump import PUMP
from tests.vm.test_hint_port import ADDRESS, AWAY, CONNECTED, ONE_ROUND, ask, assert_idle
from tests.vm.wire import Frame, Told


def move(source: Machine, boot: Callable[..., Machine], state: Path) -> Machine:
    """The guest in another QEMU, not running yet; the source is gone."""
    source.save(state)
    source.stop()
    return boot(name="destination", restore_from=state)


def start(boot: Callable[..., Machine]) -> tuple[Machine, Agent]:
    """A guest with one address, and the agent in it."""
    guest = boot(name="source").ready()
    guest.shell("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    guest.ip(f"addr add {ADDRESS}/24 dev eth0\nlink set eth0 up")
    return guest, Agent(guest).ready()


def settled(agent: Agent, guest: Machine) -> Agent:
    """The same agent, to be asked in the machine that the guest is in now."""
    agent.process.machine = agent.machine = guest
    return agent


def is_the_agents(frame: Frame) -> bool:
    """Whether the agent sent it, and not the kernel, which does not pad."""
    return frame.told == Told("arp-request", MAC, ADDRESS) and frame.padded


def test_a_move_in_mid_line(boot: Callable[..., Machine], tmp_path: Path) -> None:
    source, agent = start(boot)
    host = source.hint()
    lease = {"execute": "lease", "arguments": {"seconds": 600}}
    assert ask(host, lease)["seconds"] == 600
    before = agent.effort().wakeups
    host.send(b'{"execute": "burst", "argu')
    PUMP.wait_for(lambda: agent.effort().wakeups > before, "half a line read", step=0.02)

    guest = move(source, boot, tmp_path / "state").resume()
    wire = guest.wires["net0"]
    PUMP.wait_for(lambda: any(map(is_the_agents, wire.frames)), "the agent's announcement")
    agent = settled(agent, guest)
    status = agent.wait_for_port(AWAY)
    assert status["lease"] is None  # the promise was another host's
    assert status["frames"]["by_cause"]["notify-peers"] >= 1
    again = guest.hint()
    assert ask(again, ONE_ROUND)["frames"] >= 1
    assert agent.status()["hint_port"]["errors"] == 0
    again.close()
    assert_idle(agent)


def test_a_move_to_a_host_that_talks_at_once(boot: Callable[..., Machine], tmp_path: Path) -> None:
    """The guest may see no boundary between the two hosts: 0xFF is one."""
    source, agent = start(boot)
    before = agent.effort().wakeups
    source.hint().send(b'{"execute": "burst", "argu')
    PUMP.wait_for(lambda: agent.effort().wakeups > before, "half a line read", step=0.02)

    guest = move(source, boot, tmp_path / "state")
    host = PUMP.wait_for(guest.try_hint, "the destination's port", step=0.02)
    assert host
    host.send(b"\xff" + json.dumps(ONE_ROUND).encode() + b"\n")
    guest.resume()
    reply = json.loads(host.wait_for_line())
    assert reply["return"]["frames"] >= 1
    status = settled(agent, guest).wait_for_port(CONNECTED)
    assert status["hint_port"]["errors"] == 0
