"""Learning frames without a daemon, for ``garp-hint learn``: reads everything once, and sends.

Decides nothing (hypervisor.core.learning_plan).  Without a daemon there is no memory: a guest that
its bridge has forgotten is known only if libvirt names it.
"""

from __future__ import annotations

import errno
import time
from typing import NamedTuple

from garp_agent.hypervisor.core.learning_frames import learning_frame
from garp_agent.hypervisor.core.learning_plan import Moment
from garp_agent.hypervisor.core.learning_state import LEARNING_TABLES, LearningState
from garp_agent.hypervisor.core.learning_warnings import learning_warnings
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.hypervisor.guest_path_lookup import dumped
from garp_agent.hypervisor.io.learning_socket import LearningSocket, is_full
from garp_agent.hypervisor.io.libvirt_cards import LibvirtCards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.hypervisor.core.learning_plan import LearningEntry, LearningPlan
    from garp_agent.hypervisor.core.learning_rules import LearningRules

TIMEOUT = 10.0  # seconds for each dump
ATTEMPTS = 100  # of one frame, a millisecond apart, while a queue is full


class LearningLookup(NamedTuple):
    """What would be sent now."""

    plan: LearningPlan
    guests: dict[str, str]  # names of libvirt's guests, by port
    warnings: list[str]


def read_learning_state(now: float) -> tuple[LinkTable, LearningState]:
    """Read links and tables once.  Raises OSError if the kernel cannot be asked."""
    table = LinkTable()
    for event in dumped(LINKS, TIMEOUT):
        table.apply(event)
    state = LearningState(table, Topology(table))
    state.take(dumped(LEARNING_TABLES, TIMEOUT), now)
    return table, state


def look_up_learning(
    rules: LearningRules, bonds: tuple[str, ...], libvirt_status: str
) -> LearningLookup:
    """Read links and tables; return the plan.  ``bonds``: names; empty: all.

    Raises OSError if the kernel cannot be asked.
    """
    now = time.monotonic()
    table, state = read_learning_state(now)
    cards = LibvirtCards(libvirt_status).read()
    chosen = frozenset(link.ifindex for link in table.links.values() if link.name in bonds)
    named = {card.port: card.hardware_address for card in cards}
    moment = Moment(now, bonds=chosen if bonds else None, named=named)
    guests = {card.port: card.guest for card in cards}
    warnings = learning_warnings(table, Topology(table), state.memory)
    return LearningLookup(state.plan(rules, moment), guests, warnings)


def send_learning(entries: tuple[LearningEntry, ...], pace: int) -> dict[int, int]:
    """Send the frames, at most ``pace`` in a millisecond (0: all at once).

    Return how many had which errno (0: sent).  Raises NoRawFramesError.
    """
    results: dict[int, int] = {}
    sender = LearningSocket()
    try:
        for number, entry in enumerate(entries):
            if pace and number and number % pace == 0:
                time.sleep(0.001)
            result = _send(sender, entry)
            results[result] = results.get(result, 0) + 1
    finally:
        sender.close()
    return results


def _send(sender: LearningSocket, entry: LearningEntry) -> int:
    frame = learning_frame(entry.hardware_address, entry.tags)
    for _ in range(ATTEMPTS):
        _sent, result = sender.send(entry.bond_ifindex, entry.bond, (frame,))
        if not is_full(result):
            return result
        time.sleep(0.001)
    return errno.ENOBUFS
