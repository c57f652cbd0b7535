"""The loop, where a namespace cannot provoke what happens."""

from __future__ import annotations

import pytest

from garp_agent.config.settings import Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import BurstRequested, Cause
from garp_agent.guest.io.packet import DryRun
from garp_agent.guest.loop import Loop
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink


def test_request_without_memory_has_everything_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request makes plans, too: what they missed would never be announced."""

    def no_memory(event: object, now: float) -> None:
        raise MemoryError

    engine = Engine(Settings(), lambda: 0.5)
    netlink = Netlink(300.0, GUEST)
    loop = Loop(engine, netlink, DryRun(), Log())
    try:
        netlink.reconcile(1.0)
        monkeypatch.setattr(engine, "handle", no_memory)
        with pytest.raises(MemoryError):
            loop.act(BurstRequested(Cause.HINT), 2.0)
        assert engine.is_damaged
        assert netlink.deadline() == 3.0  # the next dump
    finally:
        loop.close()
