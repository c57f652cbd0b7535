"""The ladder: agent, announce-self, learning frames, nothing and why."""

from __future__ import annotations

import pytest

from garp_agent.hypervisor.core.ways import NO_CHANNEL, way_with_learning, way_without_learning


@pytest.mark.parametrize(
    ("answers", "has_monitor", "way"),
    [
        (True, True, ("agent", "")),
        (True, False, ("agent", "")),
        (False, True, ("announce-self", "")),
        (False, False, ("nothing", "no agent answers, and watch has no --learn")),
    ],
)
def test_agent_that_answers_is_better_than_qemu(
    answers: bool, has_monitor: bool, way: tuple[str, str]
) -> None:
    assert way_without_learning(answers, has_monitor) == way


@pytest.mark.parametrize(
    ("ports", "way"),
    [
        ([], ("nothing", "its port is not known")),
        (["vnet0"], ("learning-frames", "")),
        (["vnet1"], ("nothing", "eth0 is no bond")),
        (["vnet0", "vnet1"], ("learning-frames", "")),
    ],
)
def test_guest_with_a_port_that_gets_a_frame_is_announced_by_it(
    ports: list[str], way: tuple[str, str]
) -> None:
    assert way_with_learning(ports, {"vnet1": "eth0 is no bond"}) == way


def test_guest_without_channel_says_so() -> None:
    why = "it has no channel, and watch has no --learn"
    assert way_without_learning(False, False, NO_CHANNEL) == ("nothing", why)
    assert way_without_learning(False, True, NO_CHANNEL) == ("announce-self", "")
