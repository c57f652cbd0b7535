"""The wall clock is none of the agent's business: set by a year either way, nothing happens."""

from __future__ import annotations

import pytest

from tests.vm.agent import Agent
from tests.vm.machine import Machine

YEAR = 365 * 86400


@pytest.mark.parametrize("seconds", [-YEAR, YEAR], ids=["back", "ahead"])
def test_the_wall_clock_is_set_by_a_year(guest: Machine, seconds: int) -> None:
    guest.ip("link set eth0 up\naddr replace 192.0.2.1/24 dev eth0")
    agent = Agent(guest, interval="500ms").started()
    before = agent.status()
    source = "import time; time.clock_settime(0, time.time() + seconds); result = time.time()"
    guest.python(source, seconds=seconds)
    sent = before["frames"]["sent"]
    after = agent.wait_until(lambda s: s["frames"]["sent"] >= sent + 5, "five more refreshes")
    assert after["resumes"] == before["resumes"] == 0
    causes = after["frames"]["by_cause"]
    assert {
        cause for cause in causes if causes[cause] != before["frames"]["by_cause"].get(cause)
    } == {"refresh"}
    # A refresh every 400 to 600 ms, and no more of them for the years that seemed to pass.
    passed = after["uptime"] - before["uptime"]
    assert causes["refresh"] - before["frames"]["by_cause"].get("refresh", 0) <= 4 * (
        passed / 0.4 + 2
    )
    agent.stop()
