"""The agent's state as plain values for JSON: what ``status`` and ``list`` show."""

from __future__ import annotations

import errno
import os

from garp_agent import __version__
from garp_agent.guest.core.policy import link_kind
from garp_agent.runtime.log import address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from garp_agent.guest.core.engine import Engine
    from garp_agent.guest.core.policy import LinkPlan
    from garp_agent.guest.core.rival import Rival
    from garp_agent.guest.io.hint_port import HintPort
    from garp_agent.guest.requests import RequestHandler


def links(plans: Iterable[LinkPlan]) -> list[dict[str, object]]:
    """Return every link with its addresses: how each is announced, or why it is skipped."""
    return [
        {
            "interface": plan.link.name,
            "ifindex": plan.link.ifindex,
            "kind": link_kind(plan.link),
            "hardware_address": address_text(plan.link.hardware_address),
            "skipped": plan.skip.value if plan.skip else None,
            "addresses": list(_addresses(plan)),
        }
        for plan in plans
    ]


def _addresses(plan: LinkPlan) -> Iterator[dict[str, object]]:
    for address, target in plan.targets.items():
        yield {
            "address": address_text(address) or None,  # None: RARP for the hardware address alone
            "announced_as": [kind.value for kind in target.kinds],
            "skipped": None,
        }
    for item, reason in plan.skipped:
        yield {
            "address": address_text(item.address),
            "announced_as": [],
            "skipped": reason.value,
        }


def status(engine: Engine, now: float, started: float) -> dict[str, object]:
    """Return the engine's state.

    ``now`` and ``started``: the time, and the time of the daemon's start, in seconds.
    """
    counters, lease = engine.counters, engine.lease.remaining(now)
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime": round(now - started, 3),
        "interval": engine.schedule.interval,
        "lease": None if lease is None else round(lease, 3),
        "frames": {
            "sent": counters.sent,
            "dropped": _by_name(counters.dropped),
            "by_cause": {cause.value: n for cause, n in counters.sent_by_cause.items()},
        },
        "overruns": engine.overruns,
        "conflicts": engine.conflicts.claims,
        "answer_for_everything": [
            {
                "interface": engine.inventory.links[ifindex].name,
                "hardware_address": address_text(hardware_address),
                "seconds_ago": round(now - since, 3),
            }
            for (ifindex, hardware_address), since in engine.conflicts.proxy_tests.proxies.items()
            if ifindex in engine.inventory.links
        ],
        "resumes": engine.resumes,
        "links": [_link_status(engine, plan, now) for plan in list(engine.plans.values())],
    }


def port_status(port: HintPort, handler: RequestHandler | None, now: float) -> dict[str, object]:
    """Return the state of the hint port and what came in there; ``now`` in seconds."""
    last = handler.last_request if handler else None
    return {
        "name": port.name or None,
        "path": port.path or None,
        "state": port.state.value,
        "error": os.strerror(port.error) if port.error else None,
        "requests": handler.requests if handler else 0,
        "errors": handler.errors if handler else 0,
        "seconds_since_last": None if last is None else round(now - last, 3),
    }


def _link_status(engine: Engine, plan: LinkPlan, now: float) -> dict[str, object]:
    ifindex = plan.link.ifindex
    (row,) = links((plan,))
    schedule = engine.schedule
    refresh, burst = schedule.next_refresh(ifindex), schedule.last_burst(ifindex)
    row["next_refresh"] = None if refresh is None else _until(refresh, now)
    row["last_burst"] = (
        {
            "cause": burst[1].value,
            "seconds_ago": round(now - burst[0], 3),
            "over": not (schedule.is_bursting(ifindex) or engine.conflicts.is_checking(ifindex)),
        }
        if burst
        else None
    )
    row["held"] = schedule.held(ifindex)
    addresses = row["addresses"]
    assert isinstance(addresses, list)
    for address, entry in zip(plan.targets, addresses):
        entry.update(_counted(engine, ifindex, address, now))
    return row


def _counted(engine: Engine, ifindex: int, address: bytes, now: float) -> dict[str, object]:
    mine = engine.counters.address(ifindex, address)
    rival = engine.conflicts.rivals.get(ifindex, {}).get(address)
    kinds = engine.choice.kinds(ifindex, engine.plans[ifindex].targets[address])
    return {
        "announced_as": [kind.value for kind in kinds],
        "conflict": _rival(rival, now) if rival and rival.hardware_address else None,
        "sent": mine.sent,
        "dropped": _by_name(mine.dropped),
        "last_cause": mine.last_cause.value if mine.last_cause else None,
        "seconds_since_last": None if mine.last_sent is None else round(now - mine.last_sent, 3),
    }


def _until(moment: float, now: float) -> float:
    """Return the seconds until ``moment``; 0 if it is over, because what is due comes next."""
    return max(0.0, round(moment - now, 3))


def _rival(rival: Rival, now: float) -> dict[str, object]:
    return {
        "claimed_by": address_text(rival.hardware_address),
        "claims": rival.claims,
        "seconds_ago": round(now - rival.last_claim, 3),
        "withheld": rival.withheld,
    }


def _by_name(dropped: dict[int, int]) -> dict[str, int]:
    return {errno.errorcode.get(number, str(number)): n for number, n in dropped.items()}
