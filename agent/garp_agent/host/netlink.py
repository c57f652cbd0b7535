"""What the hypervisor hears of from the kernel: links, with what bonds say of their ports.

Decides nothing; ``garp_agent.system.netlink`` keeps the stream whole.
"""

from __future__ import annotations

from garp_agent.core.rtnetlink import RTNLGRP_LINK, dump_links
from garp_agent.host.linkstate import decode
from garp_agent.system.netlink import Subject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.core.model import DumpComplete, DumpStarted
    from garp_agent.host.linkstate import Observation

    Event = Union[Observation, DumpStarted, DumpComplete]

RECONCILE = 300.0  # seconds between dumps, whatever events say
LINKS: Subject[Observation] = Subject((RTNLGRP_LINK,), (dump_links,), decode)
