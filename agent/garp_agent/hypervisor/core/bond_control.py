"""The request that makes another port of a bond the active one.

The kernel refuses a port without carrier (EINVAL), and a caller without CAP_NET_ADMIN (EPERM).

Sources: <linux/if_link.h>; drivers/net/bonding/bond_netlink.c, bond_changelink();
drivers/net/bonding/bond_options.c, bond_option_active_slave_set().
"""

from __future__ import annotations

from struct import Struct

from garp_agent.wire import rtnetlink

_IFLA_BOND_ACTIVE_SLAVE = 2
_U32 = Struct("=I")


def activate_port_request(bond: int, port: int, sequence: int) -> bytes:
    """Return the request to use ``port`` as the active port of ``bond``; both are ifindexes."""
    data = rtnetlink.attribute(_IFLA_BOND_ACTIVE_SLAVE, _U32.pack(port))
    info = rtnetlink.attribute(rtnetlink.IFLA_INFO_KIND, b"bond")
    info += rtnetlink.attribute(rtnetlink.IFLA_INFO_DATA, data)
    wanted = rtnetlink.attribute(rtnetlink.IFLA_LINKINFO, info)
    return rtnetlink.change_link(sequence, bond, wanted)
