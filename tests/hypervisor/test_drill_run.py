"""How a drill leaves its bond.  The bond is made up here; tests/vm drills with a real one."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.hypervisor import drill_run
from garp_agent.hypervisor.core.path_probes import ProbePath
from garp_agent.hypervisor.drill_run import Drill

BOND, ETH0, ETH1 = 3, 1, 2


class Bond:
    """A bond whose active port is eth0; its driver fails after the first switch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.active = ETH0
        self.interruptions = 0  # of the next switches
        monkeypatch.setattr(drill_run, "active_port", lambda _bond: self.active)
        monkeypatch.setattr(drill_run, "activate_port", self._activate)

    def _activate(self, _bond: int, port: int) -> None:
        if self.interruptions:
            self.interruptions -= 1
            raise KeyboardInterrupt
        self.active = port

    def run(self, *_: object) -> None:
        assert self.active == ETH1
        self.interruptions = 1
        raise BrokenPipeError


def test_bond_is_put_back_although_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = Bond(monkeypatch)
    drill = Drill(made, ProbePath(BOND, ETH1, ETH0), [], 1.0)
    with pytest.raises(KeyboardInterrupt):
        list(drill.run(1))
    assert made.active == ETH0
