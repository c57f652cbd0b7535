"""What runs once and ends: ``garp-agent announce`` and ``list``.

Decides when everything is done.
"""

from __future__ import annotations

from garp_agent.config.settings import InterfaceSelection, Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import Cause
from garp_agent.guest.io.packet import DryRun
from garp_agent.guest.io.routes import link_towards
from garp_agent.guest.loop import Loop, NextTurn
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.wire.model import LEVEL_ERROR
from garp_agent.wire.record import NamedTuple, inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.guest.core.policy import LinkPlan
    from garp_agent.guest.core.selectors import Unmatched
    from garp_agent.guest.loop import Sender

# Links that share the frames of their parent.
_ON_PARENT = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")


class Announced(NamedTuple):
    """The result of announcing once."""

    sent: int  # frames
    dropped: int  # frames
    plans: list[LinkPlan]  # of every link


def announce(settings: Settings, sender: Sender, log: Log) -> Announced:
    """Announce every address once, as fast as the token bucket allows; close ``sender``."""
    once = settings._replace(burst=(0.0,), interval=3600.0, jitter=0.0)
    engine = Engine(once, lambda: 1.0, log.level, link_towards, Cause.OPERATOR)
    _run(engine, sender, log, engine.schedule.is_idle)
    dropped = sum(engine.counters.dropped.values())
    return Announced(engine.counters.sent, dropped, list(engine.plans.values()))


def plans(settings: Settings) -> list[LinkPlan]:
    """Return what policy plans for every link at this moment; sends nothing."""
    return look(settings)[0]


def look(settings: Settings) -> tuple[list[LinkPlan], list[Unmatched]]:
    """Return the plan of every link, and the selectors that select nothing; send nothing."""
    engine = _looked(settings)
    return [engine.plans[ifindex] for ifindex in sorted(engine.plans)], engine.planner.unmatched()


def nics(settings: Settings) -> dict[str, int]:
    """Return for each link, by its name, the number of the NIC by which it leaves."""
    inventory = _looked(settings).inventory
    return {inventory.links[ifindex].name: nic for ifindex, nic in inventory.nics().items()}


def below(settings: Settings) -> dict[str, list[str]]:
    """Return the names of the links by which a link's frames come: its ports, or its parent."""
    links = _looked(settings).inventory.links
    found: dict[str, list[str]] = {}
    for link in links.values():
        if link.port_kind != "vrf" and link.master_ifindex in links:
            found.setdefault(links[link.master_ifindex].name, []).append(link.name)
        if link.kind in _ON_PARENT and link.parent_ifindex in links:
            found.setdefault(link.name, []).append(links[link.parent_ifindex].name)
    return found


def _looked(settings: Settings) -> Engine:
    """Return an engine that knows what the kernel has at this moment, and has sent nothing."""
    engine = Engine(settings, lambda: 1.0, route=link_towards)
    _run(engine, DryRun(), Log(LEVEL_ERROR), lambda: True)
    return engine


def only(settings: Settings, interfaces: tuple[str, ...]) -> Settings:
    """Return the settings with just these interfaces selected, whatever the file says of them."""
    selection = InterfaceSelection(include=tuple(map(_glob_of, interfaces)))
    return settings._replace(interfaces=selection)


def _glob_of(name: str) -> str:
    """Return the glob that matches just this name: in brackets, a character is itself."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _run(engine: Engine, sender: Sender, log: Log, is_done: Callable[[], bool]) -> None:
    """Run the loop until the first dump is complete and ``is_done`` returns true."""

    def after_turn(now: float) -> NextTurn:
        if engine.inventory.complete and is_done():
            loop.stop()
        return NextTurn(inf, -inf)

    loop = Loop(engine, Netlink(engine.settings.reconcile_interval, GUEST), sender, log, after_turn)
    loop.run()
    loop.close()
