"""A guest whose network cards, hint port and clock change while the agent runs."""

from __future__ import annotations

import re
from typing import Any

from tests.vm.agent import Agent
from tests.vm.conftest import ANNOUNCED
from tests.vm.frames import Announcement
from tests.vm.qemu import CONTROL_PORT, HINT_PORT, Card, QemuMachine
from tests.vm.receiver import wait_for
from tests.vm.test_hint_port import AWAY, assert_hint_sends_one_frame

LATE = Card("late", "52:54:00:00:00:09")
OTHER_MAC = "52:54:00:00:00:0a"
LATE_ADDRESS = "198.51.100.1"
YEAR, HOUR = 365 * 86400, 3600
# What doctor knows of the port from sysfs and proc(5).
DOCTOR = """
from garp_agent.diagnosis.doctor import gather
result = gather.port(port, pid)._asdict()
"""
SET_CLOCK = "import time; time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)"


def plug_and_configure(guest: QemuMachine, agent: Agent) -> None:
    """Plug the card in and give it an address; wait until the agent has announced it."""
    cable = guest.plug_card(LATE)
    wait_for(lambda: "eth1" in guest.check("ip", "-br", "link"), "eth1", step=0.1)
    guest.ip(f"link set eth1 up\naddr add {LATE_ADDRESS}/24 dev eth1")
    cable.wait_for_agent(Announcement("arp-request", LATE.mac, LATE_ADDRESS))
    agent.wait_until_settled()


def test_card_that_is_plugged_in_again_is_announced_by_its_new_index(guest: QemuMachine) -> None:
    with Agent(guest) as agent:
        plug_and_configure(guest, agent)
        before = agent.link("eth1")
        guest.unplug_card(LATE.name)
        agent.wait_until(
            lambda status: "eth1" not in [link["interface"] for link in status["links"]],
            "the link gone",
        )

        plug_and_configure(guest, agent)
        assert agent.link("eth1")["ifindex"] != before["ifindex"]

        cable = guest.cables[LATE.name]
        cable.clear()
        guest.ip(f"link set eth1 address {OTHER_MAC}")
        cable.wait_for_agent(Announcement("arp-request", OTHER_MAC, LATE_ADDRESS))
        assert {each.mac for each in cable.announcements(padded=True)} == {OTHER_MAC}
        assert agent.status()["frames"]["dropped"] == {}
    guest.unplug_card(LATE.name)


def assert_refreshes_without_spinning(guest: QemuMachine, agent: Agent) -> None:
    """Without its port the agent waits for the next refresh, and sends that."""
    guest.cables["net0"].clear()
    agent.assert_idle(seconds=0.2)
    guest.cables["net0"].wait_for_agent(ANNOUNCED)


def doctor(guest: QemuMachine, agent: Agent) -> dict[str, Any]:
    """What doctor finds out about the port."""
    port = agent.status()["hint_port"]
    found: dict[str, Any] = guest.python(DOCTOR, port=port, pid=agent.process.pid)
    return found


def test_port_that_is_unplugged_is_used_when_it_is_back(guest: QemuMachine) -> None:
    with Agent(guest, interval="3s") as agent:
        guest.unplug_port()
        agent.wait_for_port("absent")
        assert_refreshes_without_spinning(guest, agent)
        assert doctor(guest, agent)["names"] == [CONTROL_PORT]
        guest.plug_port()
        agent.wait_for_port(AWAY)
        assert_hint_sends_one_frame(guest, agent)


def test_port_that_another_process_holds_is_used_when_it_is_free(guest: QemuMachine) -> None:
    with Agent(guest, interval="1s") as agent:
        device = agent.status()["hint_port"]["path"]
    holder = guest.spawn("sh", "-c", f"exec sleep 600 <>{device}")
    wait_for(lambda: guest.read(f"/proc/{holder.pid}/comm") == "sleep\n", "the holder")
    with Agent(guest, interval="3s") as agent:
        assert agent.status()["hint_port"]["state"] == "busy"
        assert_refreshes_without_spinning(guest, agent)
        found = doctor(guest, agent)
        assert found["holders"] == [f"sleep (pid {holder.pid})"]
        assert sorted(found["names"]) == sorted([CONTROL_PORT, HINT_PORT])
        holder.kill()
        agent.wait_for_port(AWAY)
        assert_hint_sends_one_frame(guest, agent)


def test_clock_that_is_set_by_a_year_changes_nothing(guest: QemuMachine) -> None:
    with Agent(guest, interval="500ms") as agent:
        causes = set(agent.status()["frames"]["by_cause"])
        for seconds in (-YEAR, YEAR):
            before, sent = agent.status()["uptime"], agent.sent("refresh")
            guest.python(SET_CLOCK, seconds=seconds)
            wait_for(lambda last=sent + 5: agent.sent("refresh") >= last, "refreshes", step=0.1)
            # A refresh every 400 to 600 ms, each with a probe, and none for the year that seems to
            # have passed.
            refreshes, after = agent.sent("refresh") - sent, agent.status()["uptime"]
            assert refreshes <= 2 * ((after - before) / 0.4 + 2)
        assert set(agent.status()["frames"]["by_cause"]) <= causes | {"refresh", "resume"}
        # A guest that is stalled for more than a second resumes; it does not skip a year.
        resumes = agent.status()["resumes"]
        resumed = re.findall(r"resumed .*seconds=([\d.]+)", agent.process.output)
        assert len(resumed) >= resumes
        assert all(float(seconds) < HOUR for seconds in resumed)
