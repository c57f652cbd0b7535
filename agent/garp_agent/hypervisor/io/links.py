"""What the hypervisor hears of from the kernel: links, with what bonds say of their ports.

Decides nothing; ``garp_agent.runtime.netlink`` keeps the stream whole.
"""

from __future__ import annotations

from garp_agent.hypervisor.core.linkstate import decode
from garp_agent.runtime.netlink import Subject
from garp_agent.wire.rtnetlink import RTNLGRP_LINK, dump_links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.hypervisor.core.linkstate import Observation
    from garp_agent.wire.model import DumpComplete, DumpStarted

    Event = Union[Observation, DumpStarted, DumpComplete]

RECONCILE = 300.0  # seconds between dumps, whatever events say
LINKS: Subject[Observation] = Subject((RTNLGRP_LINK,), (dump_links,), decode)
