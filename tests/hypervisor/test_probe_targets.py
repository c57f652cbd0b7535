"""What the watcher's status says of guests, for the tables of probe and drill."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.hypervisor.probe_targets import names_of_guests, ways_of_guests

STATUS: dict[str, Any] = {
    "guests": [
        {"guest": "web", "ports": ["vnet0", "vnet1"], "state": "answered"},
        {"guest": "old", "ports": ["vnet2"], "state": "no-agent"},
        {"guest": "own", "ports": ["vnet3"], "state": "no-agent", "way": "learning frames"},
        {"guest": "lost", "ports": [], "state": "answered"},
    ]
}


def test_guests_are_known_by_their_ports() -> None:
    names = {"vnet0": "web", "vnet1": "web", "vnet2": "old", "vnet3": "own"}
    assert names_of_guests(STATUS) == names
    assert names_of_guests({}) == {}


@pytest.mark.parametrize(
    ("learning", "way"),
    [
        (None, {}),
        ({"left_out": {"no-path": 1}}, {"vnet9": "learning-frames"}),
        ({"left_out": {"left-out": 1}}, {}),  # by --learn-port, for example: which is not known
    ],
)
def test_guest_that_the_watcher_does_not_know_gets_learning_frames(
    learning: dict[str, Any] | None, way: dict[str, str]
) -> None:
    status = {**STATUS, "learning": learning}
    assert ways_of_guests(status, ["vnet9", "vnet0"]) == ways_of_guests(STATUS) | way


def test_way_of_a_guest_is_what_the_watcher_says_or_what_follows_from_its_state() -> None:
    assert ways_of_guests(STATUS) == {
        "vnet0": "agent",
        "vnet1": "agent",
        "vnet2": "nothing",
        "vnet3": "learning frames",
    }
