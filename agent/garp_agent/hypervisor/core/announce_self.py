"""QEMU's own announcement, for guests that have no agent: `announce-self` over QMP.

Decides what is asked of a QEMU monitor.  Pure.  QMP's replies have the form of ours;
its greeting and events have not, and are passed over.  QEMU takes both commands in
order, so they are sent together, without waiting for the greeting.  What announce-self
covers and what it does not is in docs/garp-hint.md.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.exchange import Exchange
from garp_agent.wire.protocol import encode_request

# QEMU insists on all four; the times are QEMU's own after a migration, in milliseconds.
SCHEDULE = {"initial": 50, "max": 550, "rounds": 5, "step": 100}


def announce_self() -> Exchange:
    """The conversation with one monitor."""
    requests = (("qmp_capabilities", None), ("announce-self", SCHEDULE))
    return Exchange(
        {name: encode_request(name, values, name, delimited=False) for name, values in requests}
    )
