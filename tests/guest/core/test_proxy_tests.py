"""proxy_tests: which addresses are asked for, and what answers show."""

from __future__ import annotations

import random

import pytest

from garp_agent.guest.core.proxy_tests import ProxyTests, Verdict, drawn
from tests.world import ip

STATION = (2, b"\2\0\0\0\0\x66")
uniform = random.Random(0).random


def asked(tests: ProxyTests, text: str, now: float) -> list[bytes]:
    address, _, length = text.partition("/")
    tests.start(STATION, ip(address), int(length), now)
    return drawn_and_sent(tests, now)


def drawn_and_sent(tests: ProxyTests, now: float) -> list[bytes]:
    found = tests.draw(STATION, (), uniform)
    for each in found:
        tests.probed(STATION[0], each, now)
    return found


@pytest.mark.parametrize(
    ("text", "bits", "near", "count"),
    [
        ("10.1.2.9/8", 24, "10.", 3),
        ("10.1.2.9/16", 16, "10.1.", 3),
        ("10.1.2.9/24", 8, "10.1.2.", 4),
        ("10.1.2.9/26", 6, "10.1.2.", 4),
        ("10.1.2.9/28", 4, "10.1.2.", 4),
        ("10.1.2.9/30", 8, "10.1.2.", 4),  # of two addresses, a rival can have both
        ("10.1.2.9/32", 8, "10.1.2.", 4),
    ],
)
def test_addresses_of_a_test_are_near_ours_and_one_is_far_if_the_network_is_small(
    text: str, bits: int, near: str, count: int
) -> None:
    found = asked(ProxyTests(), text, 0.0)
    assert len(found) == count
    assert all(".".join(map(str, each)).startswith(near) for each in found[-3:])
    assert found[0][:2] == ip("10.1.2.9")[:2] or count == 3
    assert all(0 < int.from_bytes(each, "big") % (1 << bits) < (1 << bits) - 1 for each in found)


def test_ipv6_address_has_a_far_one_unless_64_bits_are_drawn() -> None:
    assert len(asked(ProxyTests(), "2001:db8::10/64", 0.0)) == 3
    far, *near = asked(ProxyTests(), "2001:db8::10/128", 0.0)
    assert (len(near), far[:8]) == (3, ip("2001:db8::")[:8])
    assert {each[:15] for each in near} == {ip("2001:db8::")[:15]}


def test_drawn_addresses_are_neither_the_given_one_nor_ours_nor_the_ends_of_the_network() -> None:
    address = ip("10.0.0.9")
    ours = [ip(f"10.0.0.{n}") for n in range(1, 250)]
    found = set(drawn(address, 8, 200, ours, uniform))
    assert found == {ip(f"10.0.0.{n}") for n in range(250, 255)}
    for draw in (0.0, 0.035, 0.5, 0.999999):
        (one,) = drawn(address, 8, 1, (), lambda at=draw: at)
        assert one[3] not in (0, 9, 255)


def test_far_address_answered_beside_all_near_ones_makes_a_proxy() -> None:
    tests = ProxyTests()
    far, *near = asked(tests, "10.1.2.9/24", 0.0)
    assert set(tests.addresses(0.5)) == {far, *near}
    verdicts = [tests.answered(STATION, each, 0.5) for each in (far, *near)]
    assert verdicts == [Verdict.NOTHING] * 3 + [Verdict.PROXY]
    assert (tests.is_proxy(STATION, 3600.0), tests.is_proxy(STATION, 3601.0)) == (True, False)
    assert tests.addresses(0.5) == []


@pytest.mark.parametrize(
    ("length", "has", "is_proxy", "answers"),
    [
        (24, 254, True, 24),
        (26, 62, True, 24),
        (26, 40, False, 0),
        (27, 30, True, 24),
        (28, 14, True, 13),  # all but ours
        (28, 13, False, 0),
        (29, 6, False, 0),  # a rival can have them all
    ],
)
def test_station_that_answers_for_its_network_only_is_a_proxy_if_that_is_no_small_one(
    length: int, has: int, is_proxy: bool, answers: int
) -> None:
    tests = ProxyTests()
    its = [ip(f"10.1.2.{n}") for n in range(1, has + 1)]
    asked(tests, f"10.1.2.1/{length}", 0.0)
    count = 0
    while not tests.is_proxy(STATION, 0.0):
        wanted = [each for each in tests.addresses(0.0) if each in its]
        if not wanted:
            break
        count += 1
        if tests.answered(STATION, wanted[0], 0.0) is Verdict.MORE:
            drawn_and_sent(tests, 0.0)
    assert tests.is_proxy(STATION, 0.0) is is_proxy
    assert not is_proxy or count == answers


def test_answers_are_awaited_from_the_moment_when_the_last_probe_was_sent() -> None:
    tests = ProxyTests()
    tests.start(STATION, ip("10.1.2.9"), 16, 0.0)
    *first, last = tests.draw(STATION, (), uniform)
    for each in first:
        tests.probed(2, each, 0.0)
    assert last in tests.addresses(50.0)
    tests.probed(3, last, 50.0)  # on another link
    assert last in tests.addresses(55.0)
    tests.probed(2, last, 60.0)
    assert (last in tests.addresses(61.0), last in tests.addresses(61.1)) == (True, False)


def test_answers_that_are_late_or_of_another_station_or_for_other_addresses_show_nothing() -> None:
    tests = ProxyTests()
    found = asked(tests, "10.1.2.9/16", 0.0)
    assert tests.answered((3, STATION[1]), found[0], 0.5) is Verdict.NOTHING
    assert tests.answered(STATION, ip("10.9.9.9"), 0.5) is Verdict.NOTHING
    assert [tests.answered(STATION, each, 1.1) for each in found] == [Verdict.NOTHING] * 3
    assert tests.addresses(1.1) == []
    assert not tests.is_proxy(STATION, 1.1)


def test_station_that_failed_is_tested_more_rarely_and_needs_more_answers() -> None:
    tests, now, rests, needed = ProxyTests(), 0.0, [], []
    for _ in range(4):
        began = now
        first = asked(tests, "10.1.2.9/24", now)
        answers = 0
        near = first[1:]
        while near:
            for each in near:
                answers += 1
                verdict = tests.answered(STATION, each, now)
            if verdict is Verdict.PROXY:
                break
            near = drawn_and_sent(tests, now)
        needed.append(answers)
        tests.proxies.clear()
        now += 1.0
    assert needed == [24] * 4  # no failure
    for _ in range(6):
        began = now
        asked(tests, "10.1.2.9/24", now)
        while not tests.may_start(STATION, now):
            now += 1.0
        rests.append(now - began)
    assert rests == [2.0, 4.0, 60.0, 600.0, 3600.0, 3600.0]
    assert [test.needed for test in tests._tests.values()] == [96]


def test_test_under_way_is_not_started_again_unless_its_probes_cannot_be_sent() -> None:
    tests = ProxyTests()
    _, *near = asked(tests, "10.1.2.9/24", 0.0)
    for now in (0.9, 1.8, 2.7):
        for each in near:
            tests.answered(STATION, each, now)
        near = drawn_and_sent(tests, now)
        assert not tests.may_start(STATION, now + 0.9)
    assert tests.may_start(STATION, 3.8)
    tests.start(STATION, ip("10.1.2.9"), 24, 10.0)
    tests.draw(STATION, (), uniform)
    assert (tests.may_start(STATION, 69.0), tests.may_start(STATION, 70.0)) == (False, True)
