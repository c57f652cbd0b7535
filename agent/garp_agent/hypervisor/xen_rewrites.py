"""Lets Xen guests announce, one in a turn of the watcher: xenstored can take long for each.

Decides nothing about guests (hypervisor.core.announce_self); hypervisor.io.xenstore does the work.
"""

from __future__ import annotations

import errno

from garp_agent.hypervisor.core.exchange import Outcome, Result
from garp_agent.hypervisor.io.xenstore import rewrite_states
from garp_agent.wire.record import deque
from garp_agent.wire.xenbus import DEVICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from garp_agent.hypervisor.core.exchange import Call


class XenRewrites:
    """The calls that wait for their turn."""

    def __init__(self, device: str = DEVICE) -> None:
        self._device = device
        self._waiting: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, calls: Iterable[Call]) -> None:
        """Take in calls; the path of each is the folder of a guest's cards."""
        self._waiting.extend(calls)

    def advance(self) -> list[Result]:
        """Carry out the next call; if xenstored does not answer, give up those that wait."""
        if not self._waiting:
            return []
        call = self._waiting.popleft()
        number = rewrite_states([call.path], self._device)[call.path]
        results = [Result(call, Outcome.FAILED if number else Outcome.ANSWERED, 0.0, number)]
        if number == errno.ETIMEDOUT:
            results += [Result(each, Outcome.FAILED, 0.0, number) for each in self._waiting]
            self._waiting.clear()
        return results
