"""The agent at a real virtio-serial port, in every state that a host can bring it into."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm import guest_lib
from tests.vm.agent import CONTROL_SOCKET, Agent
from tests.vm.conftest import CARD, MAC
from tests.vm.lines import LineSocket
from tests.vm.machine import CONTROL_PORT, HINT_PORT, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Told

ADDRESS = "192.0.2.1"
ANNOUNCED = Told("arp-request", MAC, ADDRESS)
AWAY, CONNECTED = "open, host not connected", "open, host connected"
ONE_ROUND = {"execute": "burst", "arguments": {"count": 1}}


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    """One guest for all, with one IPv4 address."""
    with Machine(cards=[CARD]) as booted:
        booted.shell("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        booted.ip(f"addr add {ADDRESS}/24 dev eth0\nlink set eth0 up")
        booted.python(guest_lib.PORT)
        yield booted


@pytest.fixture(scope="class")
def agent(guest: Machine) -> Iterator[Agent]:
    """An agent whose start is over, so that every later frame has a cause in the test."""
    started = Agent(guest).ready()
    yield started
    started.stop()


@pytest.fixture
def host(guest: Machine, agent: Agent) -> Iterator[LineSocket]:
    """A host that is connected."""
    connected = guest.hint()
    agent.wait_for_port(CONNECTED)
    yield connected
    connected.close()


def ask(host: LineSocket, request: dict[str, Any]) -> dict[str, Any]:
    """What a request is answered."""
    number = len(host.lines()) + 1
    host.send_json(request)
    value: dict[str, Any] = json.loads(host.wait_for_line(number))["return"]
    return value


def frames_sent(agent: Agent) -> int:
    """By the agent's own count."""
    sent: int = agent.status()["frames"]["sent"]
    return sent


def assert_idle(agent: Agent) -> None:
    """With nothing due and nothing happening the agent sleeps, however long one looks.

    What a test did just before may still wake it, but no second second is disturbed.
    """
    for _ in range(5):
        before = agent.effort()
        time.sleep(1)
        if agent.effort() == before:
            return
    raise AssertionError(f"never idle: {agent.effort()} after {before} within a second")


# What doctor makes of the port; of its parts those that need neither scapy nor netifaces.
DOCTOR = """
from garp_agent.diagnosis.doctor import facts, gather, hint_port

asked = gather.ask_agent(path)
pid = asked.status["pid"]
kernel, port = gather.look_at_kernel(), gather.port(asked.status["hint_port"], pid)
process, configuration = gather.process(pid), facts.ConfigurationFacts("")
(finding,) = hint_port.hint_port(
    facts.Facts(asked, asked, [], process, configuration, kernel, {}, port)
)
result = finding.level.value, finding.found
"""


def doctor_says(guest: Machine) -> tuple[str, str]:
    """Level and finding."""
    level, found = guest.python(DOCTOR, path=CONTROL_SOCKET)
    return level, found


class TestHostsThatComeAndGo:
    """One agent, which keeps its port open through all of it."""

    def test_no_host_ever_connected(self, agent: Agent) -> None:
        assert agent.status()["hint_port"]["state"] == AWAY
        assert_idle(agent)

    def test_what_doctor_says(self, guest: Machine, agent: Agent) -> None:
        before = agent.status()["hint_port"]
        device = before["path"]
        level, found = doctor_says(guest)
        assert (level, found) == (
            "ok",
            f"{HINT_PORT} at {device}, {AWAY}; no request yet, the agent is up for a short time",
        )
        host = guest.hint()
        ask(host, ONE_ROUND)
        level, found = doctor_says(guest)
        host.close()
        assert level == "ok"
        said = rf"{HINT_PORT} at {device}, {CONNECTED}; 1 requests, last \d\.\d s ago"
        assert re.fullmatch(said, found)

    def test_a_host_that_connects_costs_no_frames(self, agent: Agent, host: LineSocket) -> None:
        before = frames_sent(agent)
        assert_idle(agent)
        host.close()
        agent.wait_for_port(AWAY)
        assert_idle(agent)
        assert frames_sent(agent) == before

    def test_a_hint_is_sent_on_the_wire_and_answered(
        self, guest: Machine, agent: Agent, host: LineSocket
    ) -> None:
        wire, before = guest.wires["net0"], agent.status()
        since = wire.mark
        assert ask(host, ONE_ROUND)["frames"] == 1
        wire.wait_for(lambda told: told == [ANNOUNCED], "one announcement", since)
        assert all(frame.padded for frame in wire.frames[since:])
        status = agent.status()
        hints = [each["frames"]["by_cause"].get("hint", 0) for each in (before, status)]
        assert hints[1] == hints[0] + 1
        requests = [each["hint_port"]["requests"] for each in (before, status)]
        assert requests[1] == requests[0] + 1
        assert_idle(agent)

    def test_a_bare_burst_from_a_shell(self, guest: Machine, host: LineSocket) -> None:
        wire = guest.wires["net0"]
        since = wire.mark
        host.send(b"BURST\n")
        wire.wait_for(lambda told: told == [ANNOUNCED] * 3, "the rounds of a burst", since)
        assert b"return" in host.wait_for_line()

    def test_a_host_that_comes_back_is_heard(
        self, guest: Machine, agent: Agent, host: LineSocket
    ) -> None:
        before = agent.effort().wakeups
        host.send(b'{"execute": "burst", "argu')
        PUMP.wait_for(lambda: agent.effort().wakeups > before, "half a line read", step=0.02)
        host.close()
        agent.wait_for_port(AWAY)
        again = guest.hint()
        since = guest.wires["net0"].mark
        assert ask(again, ONE_ROUND)["frames"] == 1
        guest.wires["net0"].wait_for(lambda told: told == [ANNOUNCED], "the announcement", since)
        assert agent.status()["hint_port"]["errors"] == 0
        again.close()

    def test_a_hint_just_before_hanging_up_counts(self, guest: Machine, agent: Agent) -> None:
        since = guest.wires["net0"].mark
        host = guest.hint()
        host.send_json(ONE_ROUND)
        host.close()
        guest.wires["net0"].wait_for(lambda told: told == [ANNOUNCED], "the announcement", since)
        agent.wait_for_port(AWAY)
        assert_idle(agent)

    def test_a_host_that_half_closes(self, guest: Machine, agent: Agent, host: LineSocket) -> None:
        since = guest.wires["net0"].mark
        host.send_json(ONE_ROUND)
        host.half_close()
        guest.wires["net0"].wait_for(lambda told: told == [ANNOUNCED], "the announcement", since)
        agent.wait_for_port(AWAY)
        assert_idle(agent)

    def test_a_host_that_never_reads(self, guest: Machine, agent: Agent) -> None:
        """Its replies are lost once the port is full; the agent neither stalls nor spins."""
        deaf = guest.hint()
        PUMP.remove(deaf._socket.fileno())
        answered = agent.wait_for_port(CONNECTED)["hint_port"]["requests"]
        for _ in range(400):
            deaf.send(b'{"execute": "info"}\n' * 10)
        agent.wait_until(
            lambda status: status["hint_port"]["requests"] == answered + 4000, "4000 requests"
        )
        assert_idle(agent)
        deaf.close()
        agent.wait_for_port(AWAY)
        host = guest.hint()
        assert ask(host, ONE_ROUND)["frames"] == 1
        host.close()

    def test_every_host_is_answered_by_a_busy_guest(self, guest: Machine, agent: Agent) -> None:
        """Of a new host a busy guest may read the bytes before it hears of the connect."""
        busy = guest.spawn("sh", "-c", "while :; do :; done")
        for _ in range(30):
            host = guest.hint()
            ask(host, {"execute": "info"})
            host.close()
            agent.wait_for_port(AWAY)
        busy.kill()

    def test_wakeups_are_one_each_for_connect_datum_and_disconnect(
        self, guest: Machine, agent: Agent
    ) -> None:
        agent.status()  # loads what answering takes
        rounds = 20
        before = agent.effort()
        for _ in range(rounds):
            host = guest.hint()
            ask(host, {"execute": "info"})
            host.close()
        after = agent.effort()
        assert after.wakeups - before.wakeups <= 3 * rounds


def assert_no_spin_and_frames(guest: Machine, agent: Agent) -> None:
    """Without its port it waits for the next refresh, and sends that."""
    wire = guest.wires["net0"]
    quiet, mark = agent.effort(), wire.mark
    wire.wait_for(lambda told: ANNOUNCED in told, "a refresh", mark)
    assert agent.effort().ticks - quiet.ticks < 10  # a spin would be a hundred a second


def assert_hinted(guest: Machine, agent: Agent) -> None:
    """A hint comes through, and frames reach the wire."""
    host = guest.hint()
    agent.wait_for_port(CONNECTED)
    mark = guest.wires["net0"].mark
    assert ask(host, ONE_ROUND)["frames"] == 1
    guest.wires["net0"].wait_for(lambda told: ANNOUNCED in told, "the hint's frame", mark)
    host.close()


def test_a_port_that_is_unplugged_and_plugged_in_again(guest: Machine) -> None:
    agent = Agent(guest, interval="1s").ready()
    guest.unplug_port()
    agent.wait_for_port("absent")
    assert_no_spin_and_frames(guest, agent)
    guest.plug_port()
    agent.wait_for_port(AWAY)
    assert_hinted(guest, agent)
    agent.stop()


def test_no_port_at_all(guest: Machine) -> None:
    guest.unplug_port()
    agent = Agent(guest).ready()
    assert agent.status()["hint_port"]["state"] == "absent"
    said = f"there is no virtio-serial port {HINT_PORT}; there are: {CONTROL_PORT}"
    assert doctor_says(guest) == ("warn", said)
    assert_idle(agent)
    agent.stop()
    guest.plug_port()
    PUMP.wait_for(
        lambda: HINT_PORT in guest.shell("cat /sys/class/virtio-ports/*/name"), "the port", step=0.1
    )


def test_a_port_that_somebody_else_holds(guest: Machine) -> None:
    guest.python("port = open_port(name)", name=HINT_PORT)
    agent = Agent(guest, interval="1s").ready()
    assert agent.status()["hint_port"]["state"] == "busy"
    assert_no_spin_and_frames(guest, agent)
    guest.python("os.close(port)")
    agent.wait_for_port(AWAY)
    assert_hinted(guest, agent)
    agent.stop()


def test_doctor_names_who_holds_the_port(guest: Machine) -> None:
    agent = Agent(guest, interval="1s").ready()
    device = agent.status()["hint_port"]["path"]
    agent.stop()
    holder = guest.spawn("sh", "-c", f"exec sleep 600 <>{device}")
    agent = Agent(guest, interval="1s").ready()
    said = f"{device} is held open by sleep (pid {holder.pid})"
    assert doctor_says(guest) == ("fail", said)
    holder.kill()
    agent.wait_for_port(AWAY)
    agent.stop()
