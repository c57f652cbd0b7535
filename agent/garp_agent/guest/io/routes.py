"""Asks the kernel by which link it reaches an address (RTM_GETROUTE, rtnetlink(7)).

Opens a socket for each question: only guests that have one address on several links ask.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md

from garp_agent.guest.core.kernel import route_link, route_request
from garp_agent.wire.rtnetlink import DecodeError


def link_towards(destination: bytes, vrf: int) -> int:
    """Return the ifindex of the link that a packet to ``destination`` leaves by; 0: unknown.

    ``vrf``: the ifindex of the VRF whose routes count, or of the link to leave by; 0: any.
    """
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        asking = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            asking.send(route_request(destination, vrf))
            # The kernel has answered when it has taken the request.
            return route_link(asking.recv(1 << 14), vrf)
        finally:
            asking.close()
    except (OSError, DecodeError):
        return 0
