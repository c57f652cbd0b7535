"""When doctor may send its questions."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.diagnosis.doctor import facts as fact
from garp_agent.diagnosis.doctor.pace import QuestionPace
from garp_agent.guest.core.rate_limit import SECOND
from tests.diagnosis.world import MAC, link


def pace(
    addresses: int, links: int = 1, nics: Any = (), ipv6: int = 0, **more: Any
) -> QuestionPace:
    """Of links with so many addresses each, and two questions for each IPv4 address."""
    names = [f"eth{n}" for n in range(links)]
    promised = [
        fact.PromisedFrame(name, "arp-request", MAC, f"192.0.2.{host}")
        for name in names
        for host in range(addresses)
    ]
    promised += [
        fact.PromisedFrame(name, "unsolicited-na", MAC, f"2001:db8::{host}")
        for name in names
        for host in range(ipv6)
    ]
    questions = [name for name in names for _ in range(2 * addresses)]
    return QuestionPace(
        promised, questions, fact.ConfigurationFacts("")._replace(**more), dict(nics)
    )


def after(seconds: float, over: bool = True) -> Any:
    return [link("eth0", last_burst={"cause": "start", "seconds_ago": seconds, "over": over})]


@pytest.mark.parametrize(
    ("asked", "before", "rests"),
    [
        (pace(1), [], False),
        (pace(2), after(60.0), False),
        (pace(2), after(1.0), True),
        (pace(2), after(60.0, over=False), True),
        (pace(3), after(60.0), True),
        (pace(3, rounds=1), [link("eth0")], True),
        (pace(2, links=2), [], False),
        (pace(2, links=2, nics={"eth0": 7, "eth1": 7}), [], True),
    ],
)
def test_doctor_rests_after_a_burst_where_a_second_has_no_room_for_its_questions(
    asked: QuestionPace, before: Any, rests: bool
) -> None:
    assert asked.needs_rest(before) is rests


@pytest.mark.parametrize(
    ("addresses", "more", "room"),
    [(1, {}, 12), (14, {}, 6), (2, {}, 10), (1, {"ipv6": 3}, 6), (3, {"ipv6": 2}, 4)],
)
def test_questions_leave_room_for_a_refresh(addresses: int, more: Any, room: int) -> None:
    asked = pace(addresses, **more)
    for _ in range(room):
        assert asked.ready_at("eth0", 50.0) == 50.0
        asked.count("eth0", 50.0)
    assert asked.ready_at("eth0", 50.5) == 50.0 + SECOND
    assert asked.ready_at("eth1", 50.5) == 50.5
    assert asked.ready_at("eth0", 50.0 + SECOND) == 50.0 + SECOND


def test_links_of_one_nic_share_its_room_and_many_leave_a_quarter() -> None:
    asked = pace(4, links=4, nics={f"eth{n}": 7 for n in range(4)})
    for name in ("eth0", "eth1", "eth2"):
        assert asked.ready_at(name, 50.0) == 50.0
        asked.count(name, 50.0)
    assert asked.ready_at("eth3", 50.0) == 50.0 + SECOND
