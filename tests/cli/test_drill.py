"""Whether a drill may begin, and what it tells of the ways.

The bond, what it switches and the network's answers are made up here; tests/vm has a real bond.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result

from garp_agent.cli import drill
from garp_agent.hypervisor.core.drill import Direction, Outage
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.path_probes import ProbePath, ProbePlan, ProbeTarget
from garp_agent.hypervisor.core.probe_series import DELIVERED, LOST, ProbeResult
from garp_agent.hypervisor.probe_targets import Surroundings
from tests.world import mac

BOND, ETH0, ETH1, ETH2 = 9, 2, 3, 4
NAMES = {BOND: "bond0", ETH0: "eth0", ETH1: "eth1", ETH2: "eth2"}
PATHS = (ProbePath(BOND, ETH1, ETH0), ProbePath(BOND, ETH2, ETH0))  # two standby ports
TARGETS = tuple(ProbeTarget(mac("52:54:00:00:00:01"), (), path, "", "vnet0") for path in PATHS)
LEARNS: dict[str, Any] = {"learning": {"left_out": {}}}  # the status of a watcher with --learn


class Around(Surroundings):
    """A host with one bond of three ports."""

    @property
    def names(self) -> dict[int, str]:
        return NAMES


def run_drill(monkeypatch: pytest.MonkeyPatch, lost: Sequence[ProbePath], *options: str) -> Result:
    """Run a drill on a network that loses what is sent on these paths."""

    def probed(_around: Surroundings, targets: Sequence[ProbeTarget]) -> list[ProbeResult]:
        verdicts = (LOST if each.path in lost else DELIVERED for each in targets)
        return [ProbeResult(*each, 3, 0, 0.001, ()) for each in zip(targets, verdicts)]

    def carried_out(
        _around: Surroundings, path: ProbePath, targets: Sequence[ProbeTarget], *_: Any
    ) -> tuple[list[Direction], str]:
        return [Direction(path, 3.0, tuple(Outage(each, 0.02, 2, 0) for each in targets))], ""

    around = Around(LinkTable(), ProbePlan(PATHS, ()), TARGETS)
    monkeypatch.setattr(drill, "look_around", lambda *_: around)
    monkeypatch.setattr(drill, "watcher_status", lambda _path: LEARNS)
    monkeypatch.setattr(drill, "probed", probed)
    monkeypatch.setattr(drill, "_carried_out", carried_out)
    return CliRunner().invoke(drill.drill_command, ["--yes", "--json", *options])


@pytest.mark.parametrize("lost", PATHS)
def test_drill_is_refused_if_one_of_several_standby_ports_loses_frames(
    monkeypatch: pytest.MonkeyPatch, lost: ProbePath
) -> None:
    """A failover could use any standby port, although the drill uses the first one."""
    done = run_drill(monkeypatch, [lost])
    assert done.exit_code == 1
    assert f"bond0: {NAMES[lost.standby]} -> eth0: all 1 MAC lost" in done.output
    assert "garp-hint: no drill: 1 of 2 paths do not work" in done.output


def test_drill_tells_of_a_guest_without_channel_that_it_gets_learning_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run_drill(monkeypatch, [])
    assert done.exit_code == 0
    [direction] = json.loads(done.output)["directions"]
    assert (direction["before"], direction["after"]) == ("eth1", "eth0")
    assert [guest["way"] for guest in direction["guests"]] == ["learning-frames"]


@pytest.mark.parametrize("port", ["eth1", "eth2"])
def test_drill_switches_to_the_standby_port_that_is_named(
    monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    [direction] = json.loads(run_drill(monkeypatch, [], "--to", port).output)["directions"]
    assert direction["before"] == port  # of the probes: they leave the port that is tested


def test_drill_to_a_port_that_is_not_standby_names_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run_drill(monkeypatch, [], "--to", "eth0")
    assert done.exit_code == 2
    assert "--to eth0: no standby port with carrier; there are: eth1, eth2" in done.output
