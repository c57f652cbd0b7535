"""Lack of memory in the core: each allocation of a turn fails once, and a dump mends all."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from garp_agent.guest.core import planner
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    BurstRequested,
    Cause,
    ClaimSeen,
    Kind,
    Link,
)
from garp_agent.guest.core.policy import LinkPlan, plan_link
from garp_agent.wire.model import LinkGone
from tests.world import NO_CARRIER, Agent, Frame, address, dump, link

_testcapi = pytest.importorskip("_testcapi")  # a part of CPython's own tests
# Without memory for one allocation, a call can crash CPython 3.12 and 3.13 and raise SystemError in
# CPython 3.8, and a deque of CPython 3.6 and 3.7 counts an item that it has not got.
IS_SOUND = (3, 9) <= sys.version_info < (3, 12)
ETH0, ETH1 = link(2), link(3)
A, B, C = address("10.0.0.1/24"), address("10.0.0.2/24"), address("10.1.0.1/24", 3)
D = address("10.2.0.1/24", 4)
BEFORE, AFTER = (ETH0, A), (ETH0, A, B, ETH1, C)
IFINDEXES = 2, 3, 4
RIVAL = bytes.fromhex("02005e005399")
MOST = 700  # allocations; a turn has fewer


def fails_at(agent: Agent, number: int, *after: Any) -> bool:
    """Let things change, without memory for one allocation; return whether something failed."""
    events = dump(*after)
    _testcapi.set_nomemory(number, number + 1)
    try:
        for event in events:
            agent.engine.handle(event, agent.now)
        while agent.engine.next_frame(agent.now) is not None:
            pass
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()
    return False


def planned(engine: Engine) -> set[tuple[int, bytes]]:
    return {(ifindex, each) for ifindex, plan in engine.plans.items() for each in plan.targets}


@pytest.mark.skipif(not IS_SOUND, reason="this Python itself fails without memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_engine_without_memory_for_any_one_allocation_announces_all_after_the_next_dump() -> None:
    wanted = {(item.ifindex, item.address) for item in (A, B, C)}
    failures = 0
    for number in range(1, MOST):
        agent = Agent(now=1000.0)
        agent.tell(*dump(*BEFORE))
        agent.wait(20.0)
        if not fails_at(agent, number, *AFTER):
            continue
        failures += 1
        agent.engine.is_damaged = True
        agent.tell(BurstRequested(Cause.HINT, (0.0,)))  # a second before the dump
        agent.now += 1.0
        revision = agent.engine.revision
        frames = agent.tell(*dump(*AFTER)) + agent.wait(90.0)
        assert planned(agent.engine) == wanted, number
        assert agent.engine.revision > revision, number  # other addresses are listened for
        late = {(f.announcement.ifindex, f.announcement.address) for f in frames if f.at > 1030.0}
        assert late >= wanted, number
    assert failures > 100


@pytest.mark.skipif(not IS_SOUND, reason="this Python itself fails without memory")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_engine_without_memory_for_any_one_allocation_keeps_nothing_of_links_that_went() -> None:
    """One link is removed, one loses its carrier, and one loses an address."""
    failures = 0
    down = link(4, flags=NO_CARRIER)
    for number in range(1, MOST):
        agent = Agent(now=1000.0)
        agent.tell(*dump(ETH0, A, B, ETH1, C, link(4), D))
        agent.wait(20.0)
        agent.tell(ClaimSeen("eth1", C.address, RIVAL))
        if not fails_at(agent, number, ETH0, A, down, D):
            continue
        failures += 1
        agent.engine.is_damaged = True
        agent.tell(BurstRequested(Cause.HINT, (0.0,)))  # a second before the dump
        agent.now += 1.0
        frames = agent.tell(*dump(ETH0, A, down, D)) + agent.wait(90.0)
        assert {frame.announcement.address for frame in frames} <= {A.address, b""}, number
        due = [agent.engine.schedule.next_refresh(each) is not None for each in IFINDEXES]
        assert due == [True, False, False], number
        assert not agent.engine.conflicts.rivals, number
        counts = [agent.engine.counters.address(each.ifindex, each.address).sent for each in (C, D)]
        assert counts == [0, 0], number
    assert failures > 100


@pytest.mark.parametrize("gone", [AddressGone(A), LinkGone(2)], ids=["address", "link"])
def test_check_of_an_address_that_went_ends_before_the_dump_after_a_lack_of_memory(
    gone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of the address is gone.  There was no memory for that of the next link."""

    def answer(frame: Frame) -> list[ClaimSeen]:
        sent = frame.announcement
        return (
            [ClaimSeen("eth0", A.address, RIVAL, sent.hardware_address)]
            if sent.kind is Kind.ARP_PROBE
            else []
        )

    def plan_of_others(each: Link, *more: Any) -> LinkPlan:
        if each.ifindex == 3:
            raise MemoryError
        return plan_link(each, *more)

    for number in range(60):
        agent = Agent(now=1000.0)
        agent.after_frame = answer
        agent.tell(*dump(link(2, "eth0"), ETH1, A, B, C))
        agent.wait(20.0)
        agent.after_frame = lambda frame: ()
        agent.wait(number * 0.05)
        for event in (gone, AddressSeen(address("10.1.0.2/24", 3))):
            agent.engine.handle(event, agent.now)
        with monkeypatch.context() as patch:
            patch.setattr(planner, "plan_link", plan_of_others)
            with pytest.raises(MemoryError):
                agent.tell()
        agent.engine.is_damaged = True
        agent.now += 0.01
        agent.wait(5.0)
        frames = agent.tell(*dump(link(2, "eth0"), ETH1, C)) + agent.wait(30.0)
        assert {frame.announcement.address for frame in frames} >= {C.address}
