"""The watcher's own bytes in a real engine: who believes in which lease, with older peers too.

Older agents keep a lease across a hint.  Older watchers begin with a lease and never end one.
"""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import BurstRequested
from garp_agent.hypervisor.core.exchange import Call, Outcome, Result
from garp_agent.hypervisor.core.watcher import HintOptions
from garp_agent.wire.lines import LineDecoder
from garp_agent.wire.protocol import encode_request
from tests.guest.test_requests import Guest
from tests.hypervisor.core.talk import A, Talk


class OldGuest(Guest):
    """A guest whose agent does not know that a hint ends the lease."""

    def act(self, event: Any) -> int:
        if isinstance(event, BurstRequested):
            event = event._replace(ends_lease=False)
        return super().act(event)


def hand_over(talk: Talk, guest: Guest, calls: list[Call], now: float) -> None:
    """Let the guest read what the watcher sends, and the watcher read the replies."""
    for call in calls:
        outcome = None
        for line in LineDecoder().feed(call.exchange.outgoing):
            outcome = call.exchange.received(guest.answer(line))
        assert outcome is Outcome.ANSWERED
        talk.watcher.finished(Result(call, outcome, 0.001), now)


@pytest.mark.parametrize("kind", [Guest, OldGuest])
def test_lease_of_one_watcher_ends_with_its_hint_and_with_the_next_watcher(
    kind: type[Guest],
) -> None:
    guest = kind(settings=Settings(jitter=0.0))
    lease = guest.agent.engine.lease
    for boot in ("one", "two", "three"):
        talk = Talk(A, boot=boot)
        hand_over(talk, guest, talk.watcher.advance(0.0), 0.0)
        assert not lease.is_in_force  # also not that of the watcher before
        hand_over(talk, guest, talk.watcher.advance(0.0), 0.0)
        assert lease.is_in_force
        if boot == "two":
            hand_over(talk, guest, talk.failover(4.0), 4.0)
            assert not lease.is_in_force


def test_lease_of_an_older_watcher_ends_with_its_hint_and_can_be_renewed() -> None:
    guest = Guest(settings=Settings(jitter=0.0))
    lease = {"seconds": 90}
    hint = {"reason": "bond0 went over", "boot": "old", "sequence": 1}
    for command, arguments, leased in (
        ("info", {}, False),
        ("lease", lease, True),
        ("burst", hint, False),
        ("lease", lease, True),
    ):
        [line] = LineDecoder().feed(encode_request(command, arguments))
        assert b"error" not in guest.answer(line)
        assert guest.agent.engine.lease.is_in_force is leased


@pytest.mark.parametrize("interval", [3.0, 5.0, 60.0])
def test_guest_of_a_watcher_that_dies_announces_as_soon_as_one_without_a_watcher(
    interval: float,
) -> None:
    """The watcher dies at once after any of its contacts, and the bond fails over then."""
    settings = Settings(interval=interval, interval_with_lease=270.0)
    for contacts in range(1, 12):
        guest = Guest(settings=settings)
        engine, base = guest.agent.engine, guest.agent.now
        talk = Talk(A, options=HintOptions())
        for _ in range(contacts):
            now = max(guest.agent.now - base, talk.watcher.deadline())
            guest.agent.until(base + now)
            hand_over(talk, guest, talk.watcher.advance(now), now)
        assert engine.lease.is_in_force is (contacts > 1)
        frames = guest.agent.wait(settings.longest_interval)
        announced = {frame.announcement.address for frame in frames}
        assert announced >= set(engine.plans[2].targets)
