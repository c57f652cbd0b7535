"""What is done once and not for ever: ``garp-agent announce`` and ``list``.

Decides when there is nothing left to do.
"""

from __future__ import annotations

from math import inf

from garp_agent.config.settings import InterfaceSelection, Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.io.packet import DryRun
from garp_agent.guest.loop import Loop
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_ERROR
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.core.policy import Plan
    from garp_agent.guest.loop import Sender


class Announced(NamedTuple):
    """What came of announcing once."""

    sent: int  # frames
    dropped: int
    plans: list[Plan]  # of every link


def announce(settings: Settings, sender: Sender, log: Log) -> Announced:
    """Announce everything once, as fast as the bucket allows."""
    quiet = settings._replace(burst=(0.0,), interval=3600.0, jitter=0.0)
    engine = Engine(quiet, lambda: 1.0, log.level)

    def after_turn(now: float) -> float:
        if engine.inventory.complete and engine.schedule.is_idle():
            loop.stop()
        return inf

    loop = Loop(engine, Netlink(quiet.reconcile_interval, GUEST), sender, log, after_turn)
    loop.run()
    loop.close()
    dropped = sum(engine.counters.dropped.values())
    return Announced(engine.counters.sent, dropped, list(engine.plans.values()))


def plans(settings: Settings) -> list[Plan]:
    """What policy makes of every link at this moment; opens nothing but netlink."""
    engine = Engine(settings, lambda: 1.0)

    def after_turn(now: float) -> float:
        if engine.inventory.complete:
            loop.stop()
        return inf

    loop = Loop(
        engine, Netlink(settings.reconcile_interval, GUEST), DryRun(), Log(LEVEL_ERROR), after_turn
    )
    loop.run()
    loop.close()
    return [engine.plans[ifindex] for ifindex in sorted(engine.plans)]


def only(settings: Settings, interfaces: tuple[str, ...]) -> Settings:
    """The settings, with just these interfaces selected, whatever the file says of them."""
    return settings._replace(interfaces=InterfaceSelection(include=interfaces))
