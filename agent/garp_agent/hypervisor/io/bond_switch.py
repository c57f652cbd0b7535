"""Makes another port of a bond the active one, over rtnetlink(7).  Needs CAP_NET_ADMIN."""

from __future__ import annotations

import os
import socket

from garp_agent.hypervisor.core.bond_control import activate_port_request
from garp_agent.wire import rtnetlink

TIMEOUT = 10.0  # seconds; the kernel replies before send(2) returns
_REPLY = 8192  # bytes; a refusal repeats the request


def activate_port(bond: int, port: int) -> None:
    """Use ``port`` as the active port of ``bond``; both are ifindexes.

    Raises OSError with the kernel's reason: EPERM without CAP_NET_ADMIN, EINVAL for a port
    without carrier.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(TIMEOUT)
        kernel.sendto(activate_port_request(bond, port, 1), (0, 0))
        for message in rtnetlink.decode({}, kernel.recv(_REPLY)):
            if isinstance(message, rtnetlink.RequestFailed):
                raise OSError(message.errno, os.strerror(message.errno))
