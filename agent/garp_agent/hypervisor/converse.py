"""Talks to guests without a daemon, for ``garp-hint list`` and ``garp-hint send``."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any

from garp_agent.hypervisor.core.exchange import Call, Exchange, Result
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.io.fanout import Fanout
from garp_agent.runtime.reactor import Reactor
from garp_agent.wire.protocol import encode_request


def ask_guests(
    channels: list[Channel], command: str, arguments: dict[str, Any], timeout: float
) -> list[dict[str, Any]]:
    """Send one command to all channels at once; return a value for each, in the same order.

    ``timeout``: seconds until a guest has answered.
    """
    id = f"garp-hint-{os.urandom(6).hex()}"
    line = encode_request(command, arguments, id)
    calls = [Call(each.path, Exchange({id: line}), number=n) for n, each in enumerate(channels)]
    results = sorted(converse(calls, timeout), key=lambda result: result.call.number)
    return [guest_values(channel, result) for channel, result in zip(channels, results)]


def converse(calls: list[Call], timeout: float) -> list[Result]:
    """Carry out calls, all at once; return their results when the last call has ended."""
    with closing(Fanout(timeout)) as fanout, closing(Reactor()) as reactor:
        results = fanout.start(calls, time.monotonic())
        reactor.watch(fanout, lambda now: results.extend(fanout.read(now)))
        while len(fanout):
            ready = reactor.wait(fanout.deadline())
            now = time.monotonic()
            reactor.call(ready, now)
            results += fanout.advance(now)
    return results


def guest_values(channel: Channel, result: Result) -> dict[str, Any]:
    """Return one guest and its answer as plain values."""
    values: dict[str, Any] = {
        "guest": channel.guest,
        "path": channel.path,
        "state": result.outcome.value,
        "seconds": round(result.seconds, 6),
    }
    if result.errno:
        values["error"] = os.strerror(result.errno)
    for reply in result.call.exchange.replies.values():
        if reply.error_class:
            values["error"] = f"{reply.error_class}: {reply.description}"
        else:
            values["reply"] = reply.value
    return values
